//! The audit log, judged by `audit verify`: every verdict from a copy of a real folder that somebody tampered with.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as such")]
#![allow(clippy::print_stderr, reason = "what was not run is said by name")]

mod common;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use common::{
    Ended,
    folder::{Data, INSTANCES, copy_into},
    keyfold,
};
use serde_json::Value;

/// A folder with a few chains, every one of them closed and anchored.
fn with_history() -> Data {
    let data = Data::new(INSTANCES);
    data.put("r1", r#"{"admin_password":"one"}"#);
    data.put("r2", r#"{"admin_password":"two"}"#);
    assert_eq!(data.field("r1", "/admin_password"), b"one");
    data
}

fn verifier_key(data: &Data) -> String {
    data.call("audit key").run().text()
}

/// The verdict with the keyring, after it was checked that the one with the printed key and without a keyring is the same.
fn verdict(data: &Data, key: &str) -> (i32, Value) {
    let judged = |ended: Ended| {
        let report: Value = serde_json::from_slice(&ended.stdout).unwrap_or_else(|_| panic!("{}", ended.stderr));
        (ended.code, report)
    };
    let with_keyring = judged(data.call("audit verify --json").run());
    let elsewhere = tempfile::tempdir().unwrap();
    fs::create_dir(elsewhere.path().join("audit")).unwrap();
    copy_into(&data.file("audit"), &elsewhere.path().join("audit"));
    let with_key = keyfold("audit verify --json --key").arg(key).data_dir(elsewhere.path()).run();
    assert_eq!(with_keyring, judged(with_key));
    let text = data.call("audit verify").run();
    assert_eq!(text.code, with_keyring.0);
    let first = with_keyring.1["findings"][0]["message"].as_str().unwrap_or("ok");
    assert!(String::from_utf8_lossy(&text.stdout).starts_with(first), "{first}");
    with_keyring
}

/// The finished segments that hold an event of this action.
fn segments_with(data: &Data, action: &str) -> Vec<PathBuf> {
    let holds = |path: &PathBuf| fs::read_to_string(path).unwrap().contains(&format!("\"action\":\"{action}\""));
    let mut found: Vec<_> =
        fs::read_dir(data.file("audit/closed")).unwrap().map(|entry| entry.unwrap().path()).filter(holds).collect();
    found.sort();
    found
}

fn writer(segment: &Path) -> String {
    segment.file_name().unwrap().to_str().unwrap().split('-').next().unwrap().to_owned()
}

fn edit_lines(segment: &Path, edit: impl FnOnce(&mut Vec<String>)) {
    let text = fs::read_to_string(segment).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    edit(&mut lines);
    fs::write(segment, lines.join("\n") + "\n").unwrap();
}

#[track_caller]
fn finds(data: &Data, key: &str, code: i32, what: &str, says: &[&str]) {
    let (found, report) = verdict(data, key);
    assert_eq!((found, report["verdict"].as_str().unwrap()), (code, what), "{report}");
    for says in says {
        let message = report["findings"][0]["message"].as_str().unwrap_or_default();
        assert!(message.contains(says), "{says:?} not in {message:?}");
    }
    if code != 0 {
        assert!(report["findings"][0]["hint"].is_string(), "{report}");
    }
}

#[test]
fn a_log_that_nobody_touched_is_ok_with_the_keyring_and_with_the_printed_key() {
    let data = with_history();
    let key = verifier_key(&data);
    finds(&data, &key, 0, "ok", &[]);
    let text = data.call("audit verify").run().text();
    assert!(text.contains("8 events in 4 chains"), "{text}");
}

#[test]
fn p41_an_event_that_was_changed_is_named_with_its_chain() {
    let data = with_history();
    let key = verifier_key(&data);
    let segment = &segments_with(&data, "record_get")[0];
    edit_lines(segment, |lines| lines[1] = lines[1].replace("\"r1\"", "\"r9\""));
    finds(&data, &key, 4, "changed", &["event", &writer(segment)]);
}

#[test]
fn p41_events_that_were_reordered_removed_or_added_are_a_change() {
    let data = with_history();
    let key = verifier_key(&data);
    for (what, edit) in [
        ("reordered", (|lines| lines.swap(1, 2)) as fn(&mut Vec<String>)),
        ("removed from the middle", |lines| drop(lines.remove(1))),
        ("repeated", |lines| lines.insert(1, lines[1].clone())),
    ] {
        let copy = data.copy();
        let segment = &segments_with(&copy, "record_put")[0];
        edit_lines(segment, edit);
        let (code, report) = verdict(&copy, &key);
        assert_eq!(code, 4, "{what}: {report}");
        assert!(matches!(report["verdict"].as_str().unwrap(), "changed" | "removed"), "{what}: {report}");
        assert!(report["findings"][0]["message"].as_str().unwrap().contains(&writer(segment)), "{what}: {report}");
    }
}

#[test]
fn p41_a_tail_that_was_cut_off_is_missed() {
    let data = with_history();
    let key = verifier_key(&data);
    let segment = &segments_with(&data, "record_put")[0];
    edit_lines(segment, |lines| drop(lines.pop()));
    finds(&data, &key, 4, "removed", &[&writer(segment)]);
}

#[test]
fn p41_a_whole_chain_cannot_vanish() {
    let data = with_history();
    let key = verifier_key(&data);
    let segment = &segments_with(&data, "record_put")[0];
    fs::remove_file(segment).unwrap();
    finds(&data, &key, 4, "removed", &[&writer(segment)]);
}

#[test]
fn p41_notes_that_were_changed_or_cut_out_are_named() {
    let data = with_history();
    let key = verifier_key(&data);
    let notes = data.file("audit/notes");
    let text = fs::read_to_string(&notes).unwrap();

    let copy = data.copy();
    // The last digit of the first note's time: the text is a note still, and its signature is not one of it.
    let time = text.split_inclusive('\n').take(5).map(str::len).sum::<usize>();
    let mut bytes = text.clone().into_bytes();
    assert!(bytes[time - 2].is_ascii_digit() && bytes[time - 1] == b'\n', "{text}");
    bytes[time - 2] ^= 1;
    fs::write(copy.file("audit/notes"), &bytes).unwrap();
    let (code, report) = verdict(&copy, &key);
    assert_eq!(code, 4, "{report}");

    let copy = data.copy();
    let first = text.find("\n\n— ").map(|at| at + text[at + 2..].find("\n\n").unwrap() + 4).unwrap();
    fs::write(copy.file("audit/notes"), &text[first..]).unwrap();
    let (code, report) = verdict(&copy, &key);
    assert_eq!(code, 4, "{report}");
    assert!(report.to_string().contains("note_chain_broken"), "{report}");
}

#[test]
fn another_deployments_key_does_not_vouch_for_a_log() {
    let (data, other) = (with_history(), with_history());
    let ended = data.call("audit verify --json --key").arg(verifier_key(&other)).run();
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    data.call("audit verify --key nonsense").run().fails(2, &["not a verifier key", "keyfold audit key"]);
}

/// Kills an import after its first batch, with SIGKILL, while it waits for more.
fn killed_import(data: &Data) {
    let (mut child, _home) = data.call("records import instances").start();
    let mut stdin = child.stdin.take().unwrap();
    for n in 0..600 {
        writeln!(stdin, "{{\"id\":\"k{n}\",\"admin_password\":\"p{n}\"}}").unwrap();
    }
    stdin.flush().unwrap();
    let started = Instant::now();
    while open_segment(data)
        .is_none_or(|path| fs::read_to_string(path).unwrap_or_default().matches("record_import").count() < 2)
    {
        assert!(started.elapsed() < Duration::from_secs(60), "the first batch was never stored");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

fn open_segment(data: &Data) -> Option<PathBuf> {
    let mut paths = fs::read_dir(data.file("audit")).unwrap().map(|entry| entry.unwrap().path());
    paths.find(|path| path.extension().is_some_and(|extension| extension == "open"))
}

#[test]
fn p41_events_that_nothing_signed_are_never_called_ok_until_another_process_anchors_them() {
    let data = with_history();
    let key = verifier_key(&data);
    killed_import(&data);
    let killed = open_segment(&data).unwrap();
    finds(&data, &key, 0, "unanchored", &["2 events", &writer(&killed)]);

    // A crash can also leave half a line.
    let torn = data.copy();
    let path = open_segment(&torn).unwrap();
    let text = fs::read(&path).unwrap();
    fs::write(&path, &text[..text.len() - 7]).unwrap();
    let (code, report) = verdict(&torn, &key);
    assert_eq!(code, 0, "{report}");
    assert!(report.to_string().contains("torn_tail"), "{report}");

    // The next process that writes signs for what it found, and says ok from then on.
    data.put("later", "{}");
    finds(&data, &key, 0, "ok", &[]);
    torn.put("later", "{}");
    let (code, report) = verdict(&torn, &key);
    assert_eq!(code, 0, "{report}");
    assert!(report["verdict"] == "ok" || report["verdict"] == "torn_tail", "{report}");

    // From then on the killed chain cannot be changed either.
    let segment = &segments_with(&data, "record_import")[0];
    edit_lines(segment, |lines| lines[1] = lines[1].replace("\"k0\"", "\"k1\""));
    finds(&data, &key, 4, "changed", &[&writer(segment)]);
}

#[test]
fn p41_two_histories_of_one_writer_are_a_fork() {
    let data = with_history();
    let key = verifier_key(&data);
    killed_import(&data);
    // The folder is cloned, the dead chain's last event told another way there, and both are signed for by later processes.
    let other = data.copy();
    edit_lines(&open_segment(&other).unwrap(), |lines| {
        let last = lines.last_mut().unwrap();
        *last = last.replace("\"done\"", "\"failed\"");
    });
    data.put("here", "{}");
    other.put("there", "{}");
    // Then the two are made one again.
    let common = fs::read_to_string(data.file("audit/notes")).unwrap();
    let theirs = fs::read_to_string(other.file("audit/notes")).unwrap();
    let same = common.bytes().zip(theirs.bytes()).take_while(|(a, b)| a == b).count();
    let from = theirs[..same].rfind("\n\n— ").map_or(0, |at| at + 2 + theirs[at + 2..].find("\n\n").unwrap() + 2);
    fs::write(data.file("audit/notes"), common + &theirs[from..]).unwrap();
    for segment in segments_with(&other, "record_put") {
        let to = data.file("audit/closed").join(segment.file_name().unwrap());
        if !to.exists() {
            fs::copy(segment, to).unwrap();
        }
    }
    let (code, report) = verdict(&data, &key);
    assert_eq!(code, 4, "{report}");
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.iter().any(|finding| finding["verdict"] == "fork"), "{report}");
}

#[test]
fn what_was_refused_is_in_the_log_too() {
    let data = with_history();
    let sealed = data.call("seal --format kf1 --context record=a").stdin("x").run().text();
    data.call("open --context record=b").stdin(&sealed).run().fails(4, &["context"]);
    let moved = data.doc("instances", "r1");
    data.plant("instances", "r3", &moved);
    data.call("records get instances r3 --reveal").run().fails(4, &["instances/r3#/admin_password"]);
    let events = data.events();
    let results: Vec<_> = events
        .iter()
        .filter(|event| event["result"] == "context_mismatch_or_tampered")
        .map(|event| event["action"].as_str().unwrap())
        .collect();
    assert_eq!(results.len(), 2, "{events:?}");
    assert!(results.contains(&"open") && results.contains(&"record_get"), "{results:?}");
}

#[test]
fn a_tail_names_actor_action_and_place_and_an_export_gives_the_stored_lines() {
    let data = with_history();
    assert_eq!(data.call("audit tail -n 2").run().text().lines().count(), 2);
    let tail = data.call("audit tail").run().text();
    assert_eq!(tail.lines().count(), 8);
    assert!(tail.contains("local:") && tail.contains("record_get  instances/r1#/admin_password"), "{tail}");
    let exported = data.call("audit export").run().text();
    let stored: String = common::folder::files(&data.file("audit/closed"))
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    assert_eq!(exported.lines().count(), 8);
    assert!(exported.lines().all(|line| stored.contains(&format!("{line}\n"))));
    for intent in data.events().iter().filter(|event| event["result"].is_null()) {
        let outcomes = data.events().into_iter().filter(|event| event["id"] == intent["id"]).count();
        assert_eq!(outcomes, 2, "an intent without its outcome: {intent}");
    }
}

#[test]
fn whoever_is_not_the_owner_is_refused_everything_and_the_log_says_so() {
    let data = with_history();
    let sealed = data.call("seal --format kf1").stdin("x").run().text();
    let root = fs::read_to_string(data.file("root.key")).unwrap();
    let exposed = std::process::Command::new("chmod").args(["-R", "a+rwX"]).arg(data.path()).status().unwrap();
    fs::set_permissions(data.file("root.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let stranger = ["--reuid=54321", "--regid=54321", "--clear-groups"];
    let mut able = std::process::Command::new("setpriv");
    able.args(stranger).arg(env!("CARGO_BIN_EXE_keyfold")).arg("--version");
    if !exposed.success() || !able.output().is_ok_and(|output| output.status.success()) {
        eprintln!("not run: acting as another user needs root");
        return;
    }
    for arguments in [
        "open",
        "seal --format kf1",
        "records get instances r1 --reveal",
        "records get instances r1",
        "records list",
        "records put instances new",
        "rotate",
        "keys create",
        "keys backup",
        "audit tail",
        "config apply",
    ] {
        // Somebody got hold of the root key and of write access to the files, and still has no right here.
        let call = data.call(arguments).env("KEYFOLD_ROOT_KEY", "env:STOLEN").env("STOLEN", &root);
        let stdin = if arguments == "open" { sealed.as_str() } else { "{}" };
        let ended = call.stdin(stdin).through("setpriv", &stranger).run().fails(3, &["local:54321 may not"]);
        assert!(ended.stderr.contains("user id 0"), "{}", ended.stderr);
    }
    let events = data.events();
    let refused: Vec<_> = events.iter().filter(|event| event["result"] == "forbidden").collect();
    assert_eq!(refused.len(), 11, "{events:?}");
    assert!(refused.iter().all(|event| event["action"] == "refused" && event["actor"] == "local:54321"), "{refused:?}");
}
