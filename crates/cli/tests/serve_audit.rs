//! The service and its audit log: full, read-only, gone, slow; tampered with; copied elsewhere; kept in bounds.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]
#![allow(clippy::print_stderr, reason = "what was not run is said by name")]

mod common;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read},
    net::{TcpListener, UdpSocket},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{
    fake::Fake,
    folder::copy_into,
    keyfold,
    served::{Answer, Served, folder, keyfold_in},
};
use serde_json::{Value, json};
use tempfile::TempDir;

const CONFIG: &str = "[collections.instances]\nfields = [\"/connection_url\"]\n";
const RECORD: &str = "/v1/collections/instances/records/a";

/// A small file system, gone with its value; `None` where this user may not mount.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf, size: &str) -> Option<Self> {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&at).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(at));
        }
        eprintln!("not run: a disk of its own needs the right to mount");
        None
    }

    fn read_only(&self) {
        assert!(Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).status().unwrap().success());
    }

    fn writable(&self) {
        assert!(Command::new("mount").args(["-o", "remount,rw"]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A deployment that has been served once, its log on a disk of its own.
fn on_a_disk(size: &str) -> Option<(Arc<TempDir>, Disk)> {
    let place = Served::new(CONFIG).stop();
    let audit = place.path().join("data/audit");
    let aside = place.path().join("audit.aside");
    fs::rename(&audit, &aside).unwrap();
    fs::create_dir(&audit).unwrap();
    let disk = Disk::mount(audit.clone(), size)?;
    copy_into(&aside, &audit);
    Some((place, disk))
}

/// Every kind of call that shows a secret or changes something.
fn all(served: &Served, envelope: &Value) -> Vec<Answer> {
    vec![
        served.post("/v1/seal", json!({ "plaintext": "x" })),
        served.post("/v1/open", json!({ "envelope": envelope })),
        served.post("/v1/rewrap", json!({ "items": [{ "envelope": envelope }] })),
        served.post(&format!("{RECORD}:open"), json!({})),
        served.put(RECORD, json!({ "connection_url": "y" })),
        served.as_(&served.token, "DELETE", RECORD, None),
        served.post("/v1/tokens", json!({ "actor": "agent:x" })),
        served.put("/v1/grants", json!({ "grants": [] })),
        served.post("/v1/keyrings/current/keys", json!({})),
        served.get("/v1/audit"),
    ]
}

fn nothing_goes(served: &Served, envelope: &Value) {
    for answer in all(served, envelope) {
        let problem = answer.fails(503, "audit_unavailable");
        assert!(!problem.to_string().contains("/audit/"), "{problem}");
    }
    assert_eq!(served.get("/readyz").status, 503);
    assert_eq!(served.get("/healthz").status, 200);
}

fn everything_goes(served: &Served) {
    wait(|| served.get("/readyz").status == 200);
    let sealed = served.post("/v1/seal", json!({ "plaintext": "x" })).is(200);
    served.post("/v1/open", json!({ "envelope": sealed["envelope"] })).is(200);
    assert_eq!(served.get(RECORD).headers["etag"], "\"1\"", "nothing was written meanwhile");
    assert_eq!(served.get("/v1/audit/verify").is(200)["verdict"], "ok");
}

#[track_caller]
fn wait(until: impl Fn() -> bool) {
    for _ in 0..300 {
        if until() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("fifteen seconds, and nothing changed");
}

/// Something to lose: a sealed value, and a record.
fn begun(served: &Served) -> Value {
    served.put(RECORD, json!({ "connection_url": "x" }));
    served.post("/v1/seal", json!({ "plaintext": "hunter2" })).is(200)["envelope"].clone()
}

/// What somebody does to a file of the log.
type Edit = fn(&Path);

#[test]
fn p40_on_a_full_disk_every_call_fails_and_with_space_the_same_process_goes_on() {
    let Some((place, disk)) = on_a_disk("1m") else { return };
    let served = Served::start(place, &[]);
    let envelope = begun(&served);
    let filler = disk.0.join("filler");
    let (mut size, mut content) = (1 << 20, Vec::new());
    while size > 0 {
        content.resize(content.len() + size, 0);
        if fs::write(&filler, &content).is_err() {
            content.truncate(content.len() - size);
            size /= 2;
        }
    }
    // What is left of the page that is being written takes a few events more, the shortest ones last.
    for _ in 0..200 {
        if served.get("/v1/audit?limit=1").status == 503 {
            break;
        }
    }
    nothing_goes(&served, &envelope);
    fs::remove_file(&filler).unwrap();
    everything_goes(&served);
    let log = served.stderr();
    assert!(log.contains("audit log cannot write"), "{log}");
    drop(served);
}

#[test]
fn p40_on_a_read_only_disk_every_call_fails_until_it_can_be_written() {
    let Some((place, disk)) = on_a_disk("8m") else { return };
    let envelope = {
        let served = Served::start(place.clone(), &[]);
        let envelope = begun(&served);
        served.stop();
        envelope
    };
    disk.read_only();
    let served = Served::start(place, &[]);
    nothing_goes(&served, &envelope);
    disk.writable();
    everything_goes(&served);
    drop(served);
}

#[test]
fn p40_with_the_whole_log_gone_every_call_fails() {
    let served = Served::new(CONFIG);
    let envelope = begun(&served);
    fs::rename(served.data().join("audit"), served.data().join("away")).unwrap();
    nothing_goes(&served, &envelope);
    // Put back, it takes another process: this one cannot know what happened to its file meanwhile.
    fs::rename(served.data().join("away"), served.data().join("audit")).unwrap();
    let served = Served::start(served.kill(), &[]);
    everything_goes(&served);
}

/// Holds what every checkpoint takes, as a disk that does not answer holds the thread that writes.
fn stuck(served: &Served) -> fs::File {
    let lock = fs::File::open(served.data().join("audit/notes.lock")).unwrap();
    lock.lock().unwrap();
    lock
}

#[test]
fn p40_a_slow_log_is_waited_for_and_no_call_passes_before_it_answers() {
    let served = Served::new(&format!("{CONFIG}[server]\ncheckpoint = \"1s\"\n"));
    begun(&served);
    let lock = stuck(&served);
    std::thread::sleep(Duration::from_millis(1500));
    let before = events(&served.data()).len();
    let waiting = std::thread::scope(|scope| {
        let call = scope.spawn(|| served.post("/v1/seal", json!({ "plaintext": "x" })));
        std::thread::sleep(Duration::from_millis(1000));
        assert!(!call.is_finished(), "it was answered before its intent was written");
        assert_eq!(events(&served.data()).len(), before);
        drop(lock);
        call.join().unwrap()
    });
    waiting.is(200);
    everything_goes(&served);
}

#[test]
fn p40_a_log_that_is_slower_than_calls_may_wait_fails_them() {
    let served = Served::new(&format!("{CONFIG}[audit]\nwait = \"1s\"\n[server]\ncheckpoint = \"1s\"\n"));
    let envelope = begun(&served);
    let lock = stuck(&served);
    std::thread::sleep(Duration::from_millis(1500));
    served.post("/v1/open", json!({ "envelope": envelope })).fails(503, "audit_unavailable");
    served.put(RECORD, json!({ "connection_url": "y" })).fails(503, "audit_unavailable");
    drop(lock);
    everything_goes(&served);
}

/// The stored events of a folder's log.
fn events(data: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for path in common::folder::files(&data.join("audit")) {
        if path.extension().is_some_and(|e| e == "open" || e == "jsonl") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            found.extend(text.lines().filter(|line| line.contains("\"seq\":")).map(str::to_owned));
        }
    }
    found
}

#[test]
fn p41_the_service_and_the_command_line_name_what_was_done_to_the_log() {
    let served = Served::new(CONFIG);
    begun(&served);
    served.get("/v1/audit/verify").is(200);
    let key = keyfold("audit key").data_dir(&served.data()).run().text();
    let place = served.stop();
    let edits: [(&str, &str, Edit); 4] = [
        ("changed", "changed at event", |path| {
            let text = fs::read_to_string(path).unwrap().replacen("\"seal\"", "\"open\"", 1);
            fs::write(path, text).unwrap();
        }),
        ("changed", "changed at event", |path| {
            let text = fs::read_to_string(path).unwrap();
            let mut lines: Vec<_> = text.lines().collect();
            lines.swap(2, 3);
            fs::write(path, lines.join("\n") + "\n").unwrap();
        }),
        ("removed", "was cut", |path| {
            let text = fs::read_to_string(path).unwrap();
            let end = text.trim_end().rfind('\n').unwrap();
            fs::write(path, &text[..=end]).unwrap();
        }),
        ("removed", "was removed", |path| fs::remove_file(path).unwrap()),
    ];
    for (verdict, says, edit) in edits {
        let copy = folder("");
        copy_into(&place.path().join("data"), &copy.path().join("data"));
        let holds = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains("\"action\":\"seal\""));
        let closed = common::folder::files(&copy.path().join("data/audit/closed"));
        edit(&closed.into_iter().find(holds).unwrap());
        let offline = keyfold("audit verify --json --key").arg(&key).data_dir(&copy.path().join("data")).run();
        assert_eq!(offline.code, 4);
        let report: Value = serde_json::from_slice(&offline.stdout).unwrap();
        assert_eq!(report["verdict"], verdict, "{report}");
        assert!(report["findings"][0]["message"].as_str().unwrap().contains(says), "{report}");
        let served = Served::start(copy, &[]);
        let report = served.get("/v1/audit/verify").is(200);
        assert_eq!(report["verdict"], verdict, "{report}");
    }
}

/// Everything a receiver got, as one text.
type Heard = Arc<Mutex<String>>;

fn hear_tcp(listener: TcpListener) -> Heard {
    let heard = Heard::default();
    let to = Arc::clone(&heard);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            loop {
                let mut length = Vec::new();
                if reader.read_until(b' ', &mut length).unwrap_or(0) == 0 {
                    break;
                }
                let length = String::from_utf8(length).unwrap().trim().parse().unwrap();
                let mut message = vec![0; length];
                reader.read_exact(&mut message).unwrap();
                let mut heard = to.lock().unwrap();
                *heard += &String::from_utf8(message).unwrap();
                heard.push('\n');
            }
        }
    });
    heard
}

fn hear(receive: impl Fn(&mut [u8]) -> std::io::Result<usize> + Send + 'static) -> Heard {
    let heard = Heard::default();
    let to = Arc::clone(&heard);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 70_000];
        while let Ok(length) = receive(&mut buffer) {
            let mut heard = to.lock().unwrap();
            *heard += std::str::from_utf8(&buffer[..length]).unwrap();
            heard.push('\n');
        }
    });
    heard
}

#[test]
fn copies_get_every_event_and_catch_up_when_they_were_away() {
    let place = tempfile::tempdir().unwrap();
    let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let unix = UnixDatagram::bind(place.path().join("log")).unwrap();
    let copy = place.path().join("copy");
    fs::create_dir(&copy).unwrap();
    // The collector is away at first; its port is kept for it.
    let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let copies = [
        format!("file:{}", copy.display()),
        format!("syslog+tcp://{}", tcp.local_addr().unwrap()),
        format!("syslog+udp://{}", udp.local_addr().unwrap()),
        format!("syslog+unix:{}", place.path().join("log").display()),
        format!("otlp+http://{away}"),
    ];
    let heard = [hear_tcp(tcp), hear(move |buffer| udp.recv(buffer)), hear(move |buffer| unix.recv(buffer))];
    let served = Served::new(&format!("{CONFIG}[audit]\ncopies = {copies:?}\n"));
    begun(&served);
    for _ in 0..50 {
        served.post("/v1/seal", json!({ "plaintext": "hunter2" })).is(200);
    }
    served.as_(&served.token_of("agent:x"), "POST", "/v1/open", Some(json!({}))).fails(403, "forbidden");
    wait(|| served.get("/metrics").text().contains("keyfold_audit_copy_failures_total{copy=\"otlp-"));
    let collector = Fake::on(TcpListener::bind(away).unwrap(), |_| "{}".into());
    let key = keyfold("audit key").data_dir(&served.data()).run().text();
    // Stopped, and started again: the copies go on where they were.
    let served = Served::start(served.stop(), &[]);
    served.post("/v1/seal", json!({ "plaintext": "hunter2" })).is(200);
    let all: BTreeSet<String> = events(&served.data()).into_iter().collect();
    assert!(all.len() > 100);
    let logs = || -> Vec<String> {
        let sent = collector.sent().into_iter();
        let bodies =
            sent.filter(|sent| sent.path == "/v1/logs").map(|sent| serde_json::from_slice::<Value>(&sent.body));
        let mut lines = Vec::new();
        for body in bodies {
            let body = body.unwrap();
            for record in body["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap() {
                assert!(record["timeUnixNano"].is_string());
                lines.push(record["body"]["stringValue"].as_str().unwrap().to_owned());
            }
        }
        lines
    };
    for heard in &heard {
        wait(|| all.iter().all(|event| heard.lock().unwrap().contains(event)));
        let text = heard.lock().unwrap().clone();
        assert!(text.lines().all(|line| line.starts_with("<110>1 ") || line.starts_with("<109>1 ")), "{text}");
        assert!(text.contains(" refused [keyfold@32473 writer="), "{text}");
        assert!(text.contains("{\"checkpoint\":\"keyfold/"), "{text}");
        assert!(!text.contains("hunter2"));
    }
    wait(|| logs().iter().filter(|line| all.contains(*line)).count() >= all.len());
    // The folder's copy can be judged by itself, by whoever has the printed key and nothing else.
    wait(|| all.iter().all(|event| events(&copy).contains(event)));
    served.stop();
    let judged = keyfold("audit verify --json --key").arg(&key).data_dir(&copy).run();
    let report: Value = serde_json::from_slice(&judged.stdout).unwrap();
    assert!(["ok", "unanchored"].contains(&report["verdict"].as_str().unwrap()), "{report}");
    assert_eq!(judged.code, 0);
}

#[test]
fn retention_takes_out_what_is_old_and_copied_and_leaves_a_log_that_verifies() {
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("copy");
    // Not there yet: what is not copied is not taken out.
    let config = format!("{CONFIG}[audit]\nkeep = \"1s\"\ncopies = [\"file:{}\"]\n", copy.display());
    let served = Served::new(&config);
    let envelope = begun(&served);
    let key = keyfold("audit key").data_dir(&served.data()).run().text();
    let served = Served::start(served.stop(), &[]);
    std::thread::sleep(Duration::from_millis(2500));
    let mut before: BTreeSet<String> = events(&served.data()).into_iter().collect();
    assert!(before.iter().any(|line| line.contains("\"seal\"")));
    fs::create_dir(&copy).unwrap();
    wait(|| !events(&served.data()).iter().any(|line| line.contains("\"seal\"")));
    before.extend(events(&served.data()));
    // Its outcome is the newest event, and signed a moment later.
    wait(|| served.get("/v1/audit/verify").is(200)["verdict"] != "unanchored");
    let report = served.get("/v1/audit/verify").is(200);
    assert_eq!(report["verdict"], "ok", "{report}");
    assert!(report["pruned"].as_u64().unwrap() > 4, "{report}");
    assert!(events(&served.data()).iter().any(|line| line.contains("\"audit_prune\"")), "it is an event itself");
    served.post("/v1/open", json!({ "envelope": envelope })).is(200);
    let place = served.stop();
    let report = keyfold("audit verify --json --key").arg(&key).data_dir(&place.path().join("data")).run().json();
    assert_eq!(report["verdict"], "ok", "{report}");
    let copied: BTreeSet<String> = events(&copy).into_iter().collect();
    let missing: Vec<_> =
        before.iter().filter(|event| event.contains("\"seal\"") && !copied.contains(*event)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // By hand it is the same, for a folder that nobody serves.
    std::thread::sleep(Duration::from_secs(2));
    let said = keyfold_in(place.path(), "audit prune --older-than 1s").text();
    assert!(said.contains("events of"), "{said}");
    assert_eq!(keyfold_in(place.path(), "audit verify --json").json()["verdict"], "ok");
}
