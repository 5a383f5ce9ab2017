//! The service when things go wrong: no audit log, no process, hostile clients; and what must be nowhere, whatever goes wrong.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

mod common;

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{
    authority::Authority,
    deployment::scaled,
    served::{Served, answer, keyfold_in},
};
use serde_json::{Value, json};

const CONFIG: &str = "[collections.instances]\nfields = [\"/connection_url\"]\n";

fn segment(served: &Served) -> std::path::PathBuf {
    let open = |path: &std::path::Path| path.extension().is_some_and(|e| e == "open");
    let found =
        fs::read_dir(served.data().join("audit")).unwrap().map(|entry| entry.unwrap().path()).find(|path| open(path));
    found.unwrap()
}

#[test]
fn p40_without_its_audit_log_nothing_is_sealed_opened_or_written() {
    let served = Served::new(CONFIG);
    let sealed = served.post("/v1/seal", json!({ "plaintext": "hunter2" })).is(200);
    let record = "/v1/collections/instances/records/a";
    served.put(record, json!({ "connection_url": "x" })).is(201);
    // The file that is being written is gone: what is written to it would be seen by nobody.
    let path = segment(&served);
    let aside = served.data().join("aside");
    fs::rename(&path, &aside).unwrap();
    let served = &served;
    let refused = move |answer: common::served::Answer| {
        let problem = answer.fails(503, "audit_unavailable");
        assert!(!problem.to_string().contains("/audit/"), "{problem}");
    };
    refused(served.post("/v1/seal", json!({ "plaintext": "x" })));
    refused(served.post("/v1/open", json!({ "envelope": sealed["envelope"] })));
    refused(served.post("/v1/open", json!({ "items": [{ "envelope": sealed["envelope"] }] })));
    refused(served.post(&format!("{record}:open"), json!({})));
    refused(served.put(record, json!({ "connection_url": "y" })));
    refused(served.as_(&served.token, "DELETE", record, None));
    refused(served.post("/v1/tokens", json!({ "actor": "agent:x" })));
    refused(served.post("/v1/keyrings/current/keys", json!({})));
    let ready = served.get("/readyz");
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert_eq!(served.get(record).headers["etag"], "\"1\"", "nothing was written meanwhile");
    assert_eq!(served.get("/healthz").status, 200);
}

#[test]
fn p28_p42_p43_no_secret_is_in_what_is_answered_logged_measured_or_stored() {
    let config = format!("{CONFIG}[server]\n");
    let served = Served::new(&config);
    let needles = ["hunter2", "swordfish", "correct-horse"];
    let agent = served.token_of("agent:x");
    let mut seen = String::new();
    let mut note = |answer: common::served::Answer| {
        seen += &format!("{:?}\n{}\n", answer.headers, answer.text());
    };
    let sealed = served.post("/v1/seal", json!({ "plaintext": "hunter2" })).is(200);
    served.put("/v1/collections/instances/records/a", json!({ "connection_url": "swordfish" })).is(201);
    served.post("/v1/open", json!({ "envelope": sealed["envelope"] })).is(200);
    served.post("/v1/collections/instances/records/a:open", json!({})).is(200);
    note(served.get("/v1/collections/instances/records/a"));
    note(served.post("/v1/open", json!({ "envelope": sealed["envelope"], "context": { "hunter2": "correct-horse" } })));
    note(served.post("/v1/open", json!({ "envelope": "hunter2" })));
    note(served.post("/v1/inspect", json!({ "envelope": "hunter2" })));
    note(served.post("/v1/seal", json!({ "plaintext": "hunter2", "swordfish": 1 })));
    note(served.post("/v1/seal", json!({ "plaintext": "hunter2", "format": "swordfish" })));
    note(served.post("/v1/seal", json!({ "plaintext_base64": "hunter2!" })));
    note(served.put("/v1/collections/instances/records/b", json!({ "connection_url": { "a": "hunter2" } })));
    note(served.put("/v1/collections/instances/records/b", json!(["hunter2"])));
    note(served.as_(&agent, "POST", "/v1/seal", Some(json!({ "plaintext": "hunter2" }))));
    note(served.as_("kfo_hunter2swordfish", "GET", "/v1/tokens", None));
    note(served.get("/v1/tokens"));
    note(served.get("/v1/audit?limit=1000"));
    note(served.get("/metrics"));
    note(served.get("/v1/grants?hunter2=swordfish"));
    note(served.get("/v1/jobs?limit=hunter2"));
    note(served.get("/v1/hunter2").status.ge(&0).then(|| served.get("/healthz")).unwrap());
    // Without the log every call ends in a 5xx: they say nothing either.
    fs::rename(segment(&served), served.data().join("aside")).unwrap();
    note(served.post("/v1/seal", json!({ "plaintext": "hunter2" })));
    note(served.put("/v1/collections/instances/records/c", json!({ "connection_url": "swordfish" })));
    let (token, log) = (served.token.clone(), served.stderr());
    assert!(log.contains("\"/v1/seal\"") || log.contains("/v1/seal"), "requests are logged with -v: {log}");
    let folder = served.kill();
    let mut stored = Vec::new();
    for path in common::folder::files(&folder.path().join("data")) {
        if path.file_name().is_some_and(|name| name != "operator.token") {
            stored.extend(fs::read(path).unwrap());
        }
    }
    for needle in needles.iter().copied().chain([&token[4..], &agent[4..]]) {
        assert!(!seen.contains(needle), "{needle} was answered: {seen}");
        assert!(!log.contains(needle), "{needle} was logged: {log}");
        assert!(memchr::memmem::find(&stored, needle.as_bytes()).is_none(), "{needle} is stored");
    }
}

/// What nothing signed, by the log's own verdict and counted by hand: the lines of the open segments after the last checkpoint that
/// names their writer.
fn unanchored_are_counted(data: &std::path::Path, key: &str, acknowledged: usize) {
    let notes = fs::read_to_string(data.join("audit/notes")).unwrap();
    let (mut expected, mut events) = (0, 0);
    for path in common::folder::files(&data.join("audit")) {
        if path.extension().is_none_or(|e| e != "open") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        let writer = name.split('-').next().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let whole = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
        let written = whole.lines().filter(|line| line.contains("\"seq\":")).count();
        // The origin, the format, then the size.
        let signed = notes
            .rmatch_indices(&format!("/{writer}\nkeyfold-chain-v1\n"))
            .next()
            .map_or(0, |(at, found)| notes[at + found.len()..].lines().next().unwrap().parse().unwrap());
        events += written;
        expected += written - signed;
    }
    assert!(events >= acknowledged, "{acknowledged} writes were acknowledged and {events} events are there");
    let ended = common::keyfold("audit verify --json --key").arg(key).data_dir(data).run();
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let mut counted = 0;
    for finding in findings {
        match finding["verdict"].as_str().unwrap() {
            "unanchored" => {
                let message = finding["message"].as_str().unwrap();
                counted += message.split(' ').next().unwrap().parse::<usize>().unwrap();
            }
            "torn_tail" => {}
            other => panic!("{other}: {report}"),
        }
    }
    assert_eq!((counted, ended.code), (expected, 0), "{report}");
}

#[test]
fn killed_under_load_no_acknowledged_write_is_lost_and_the_audit_log_verifies() {
    let mut folder = Served::new(CONFIG).stop();
    let rounds = scaled(100);
    let written = Arc::new(AtomicU64::new(0));
    let mut acknowledged: Vec<u64> = Vec::new();
    let key = common::keyfold("audit key").data_dir(&folder.path().join("data")).run().text();
    for round in 0..rounds {
        // Signed in the middle of some rounds, so that there is a tail after a checkpoint and not only whole chains.
        let served = Served::start(folder, &[]);
        let (done, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(std::sync::Mutex::new(Vec::new())));
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let (client, url, token) = (served.client().clone(), served.url.clone(), served.token.clone());
                let (written, done, acked) = (Arc::clone(&written), Arc::clone(&done), Arc::clone(&acked));
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    while !done.load(Ordering::Relaxed) {
                        let n = written.fetch_add(1, Ordering::Relaxed);
                        let path = format!("{url}/v1/collections/instances/records/r{n}");
                        let put =
                            client.put(path).bearer_auth(&token).json(&json!({ "connection_url": format!("s{n}") }));
                        match runtime.block_on(answer(put)) {
                            Ok(answer) if answer.status == 201 => acked.lock().unwrap().push(n),
                            _ => break,
                        }
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(75));
        if round % 2 == 0 {
            served.get("/v1/audit/verify").is(200);
        }
        std::thread::sleep(Duration::from_millis(75));
        folder = served.kill();
        done.store(true, Ordering::Relaxed);
        for task in tasks {
            task.join().unwrap();
        }
        let acked = std::mem::take(&mut *acked.lock().unwrap());
        unanchored_are_counted(&folder.path().join("data"), &key, acked.len());
        acknowledged.extend(acked);
    }
    assert!(acknowledged.len() > rounds, "hardly anything was written: {}", acknowledged.len());
    let report = keyfold_in(folder.path(), "audit verify --json").json();
    assert!(["ok", "unanchored"].contains(&report["verdict"].as_str().unwrap()), "{report}");
    let served = Served::start(folder, &[]);
    for n in acknowledged {
        let opened = served.post(&format!("/v1/collections/instances/records/r{n}:open"), json!({})).is(200);
        assert_eq!(opened["fields"][0]["plaintext"], format!("s{n}"));
    }
    assert_eq!(served.get("/v1/audit/verify").is(200)["verdict"], "ok");
}

#[test]
fn tls_serves_reads_new_certificates_and_knows_actors_by_theirs() {
    let authority = Authority::new();
    let here = || vec![rcgen::SanType::IpAddress("127.0.0.1".parse().unwrap())];
    let folder =
        common::served::folder(&format!("{CONFIG}[server.tls]\ncert = \"CERT\"\nkey = \"KEY\"\nclients = \"CA\"\n"));
    let file = |name: &str| folder.path().join(name);
    let (cert, key) = authority.sign(here());
    fs::write(file("cert.pem"), &cert).unwrap();
    fs::write(file("key.pem"), &key).unwrap();
    fs::write(file("ca.pem"), authority.0.pem()).unwrap();
    let config = fs::read_to_string(file("data/keyfold.toml")).unwrap();
    let config =
        config.replace("CERT", file("cert.pem").to_str().unwrap()).replace("KEY", file("key.pem").to_str().unwrap());
    fs::write(file("data/keyfold.toml"), config.replace("\"CA\"", &format!("{:?}", file("ca.pem")))).unwrap();
    let served = Served::start(Arc::clone(&folder), &[]);
    assert!(served.url.starts_with("https://"));
    let root = reqwest::Certificate::from_pem(authority.0.pem().as_bytes()).unwrap();
    let client = |identity: Option<(String, String)>| {
        let builder = reqwest::Client::builder().tls_certs_only([root.clone()]).timeout(Duration::from_secs(20));
        match identity {
            Some((cert, key)) => {
                builder.identity(reqwest::Identity::from_pem(format!("{cert}{key}").as_bytes()).unwrap())
            }
            None => builder,
        }
        .build()
        .unwrap()
    };
    let url = format!("{}/v1/collections", served.url);
    let call = |client: &reqwest::Client| served.block_on(answer(client.get(&url)));
    let anonymous = client(None);
    call(&anonymous).unwrap().fails(401, "unauthenticated");
    let by_token = served.block_on(answer(anonymous.get(&url).bearer_auth(&served.token))).unwrap();
    by_token.is(200);
    let uri = |text: &str| vec![rcgen::SanType::URI(text.try_into().unwrap())];
    let agent = client(Some(authority.sign(uri("keyfold:agent:triage"))));
    call(&agent).unwrap().is(200);
    let open = agent.post(format!("{}/v1/open", served.url)).json(&json!({ "envelope": "x" }));
    served.block_on(answer(open)).unwrap().fails(403, "forbidden");
    let nobody = client(Some(authority.sign(uri("https://example.com"))));
    call(&nobody).unwrap().fails(401, "unauthenticated");
    let stranger = client(Some(Authority::new().sign(uri("keyfold:operator:evil"))));
    assert!(call(&stranger).is_err(), "somebody else signed for it");

    // A new certificate is taken up; one that cannot be used is not, and the old one stays.
    fs::write(file("cert.pem"), "not a certificate").unwrap();
    std::thread::sleep(Duration::from_secs(6));
    call(&client(None)).unwrap().fails(401, "unauthenticated");
    let other = Authority::new();
    let (cert, key) = other.sign(here());
    fs::write(file("cert.pem"), &cert).unwrap();
    fs::write(file("key.pem"), &key).unwrap();
    let taken = (0..40).any(|_| {
        std::thread::sleep(Duration::from_millis(500));
        call(&client(None)).is_err()
    });
    assert!(taken, "the new certificate was never served");
}

#[test]
fn a_unix_socket_is_for_its_owner_and_serves_the_same() {
    let folder = common::served::folder(CONFIG);
    let path = folder.path().join("k.sock");
    let served = Served::start(folder, &["--unix", path.to_str().unwrap()]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let request = format!(
        "GET /v1/collections HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\r\n",
        served.token
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Killed, it leaves the socket behind; the next one takes its place.
    let served = Served::start(served.kill(), &["--unix", path.to_str().unwrap()]);
    let _: Value = served.get("/v1/collections").is(200);
}

#[test]
fn a_copy_of_the_folder_is_a_backup_that_serves_everything_again() {
    let served = Served::new(CONFIG);
    let record = "/v1/collections/instances/records/a";
    served.put(record, json!({ "connection_url": "hunter2" })).is(201);
    let agent = served.token_of("agent:x");
    let sealed = served.post("/v1/seal", json!({ "plaintext": "x" })).is(200);
    let grant = json!({ "to": ["agent:x"], "may": ["open"], "values": true });
    assert_eq!(served.put("/v1/grants", json!({ "grants": [grant] })).status, 204);
    // In peace, and as a snapshot of a disk after a power failure: the process is gone in the middle of everything.
    for stop in [Served::stop as fn(Served) -> Arc<tempfile::TempDir>, Served::kill] {
        let folder = stop(Served::start(served.folder(), &[]));
        let copy = common::served::folder("");
        common::folder::copy_into(&folder.path().join("data"), &copy.path().join("data"));
        let again = Served::start(copy, &[]);
        assert_eq!(again.post(&format!("{record}:open"), json!({})).is(200)["fields"][0]["plaintext"], "hunter2");
        again.as_(&agent, "POST", "/v1/open", Some(json!({ "envelope": sealed["envelope"] }))).is(200);
        assert_eq!(again.get("/v1/audit/verify").is(200)["verdict"], "ok");
        let ended = keyfold_in(again.folder().path(), "verify");
        assert_eq!(ended.code, 0, "{}", ended.stderr);
    }
}
