//! The stored keyring: what is put back, changed, taken from elsewhere or restored, through the program.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as such")]

mod common;

use std::fs;

use common::{
    folder::{Data, copy_into, instances},
    signed::resigned,
};

const RECORD: &str = r#"{"id":"r1","admin_password":"hunter2"}"#;

fn with_record() -> Data {
    let data = Data::new(&instances(""));
    data.put("r1", RECORD);
    data
}

/// Every command that opens the keyring refuses it, and changes nothing.
#[track_caller]
fn all_refuse(data: &Data, code: i32, says: &[&str]) {
    let before = data.contents();
    for arguments in
        ["records get instances r1 --reveal", "keys list", "rotate", "keys create", "config apply", "verify"]
    {
        data.call(arguments).run().fails(code, says);
    }
    data.call("seal --format kf1").stdin("x").run().fails(code, says);
    assert_eq!(data.contents(), before);
}

#[test]
fn p18_an_older_document_put_back_into_the_database_is_refused() {
    let data = with_record();
    let older = data.document();
    let (old, _) = data.rotated();
    let newest = data.document();
    data.plant_document(&older);
    all_refuse(&data, 4, &["of generation 2", "has seen generation 5", "keys restore"]);

    // What the message says to do is what helps.
    data.call("keys restore").arg(data.file("keyring.json")).run().text();
    assert_eq!(data.document(), newest);
    assert_eq!(data.field("r1", "/admin_password"), b"hunter2");
    assert_eq!(data.kid("retired"), old);
}

#[test]
fn p18_an_older_document_is_refused_with_its_copies_put_back_too() {
    let data = with_record();
    let before = data.copy();
    data.rotated();
    for name in ["keyring.json", "keyring.seen"] {
        fs::copy(before.file(name), data.file(name)).unwrap();
    }
    data.plant_document(&before.document());
    // The audit log's checkpoints have seen it.
    all_refuse(&data, 4, &["of generation 2", "has seen generation 5"]);
    fs::remove_file(data.file("keyring.json")).unwrap();
    fs::remove_file(data.file("keyring.seen")).unwrap();
    all_refuse(&data, 4, &["of generation 2", "has seen generation 5"]);
}

#[test]
fn p18_a_destroyed_key_does_not_come_back_with_an_older_document_or_backup() {
    let data = with_record();
    let sealed = data.call("seal --format kf1").stdin("old").run().text();
    let (old, _) = data.rotated();
    let backup = data.file("backup");
    data.call("keys backup --quiet").arg(&backup).run().text();
    data.call("keys destroy --yes --min-age 0").arg(&old).run().text();
    let destroyed = data.document();
    data.plant_document(&fs::read(&backup).unwrap());
    all_refuse(&data, 4, &["has seen generation 6"]);
    data.plant_document(&destroyed);
    data.call("keys restore").arg(&backup).run().fails(4, &["of generation 5", "has seen generation 6"]);
    assert_eq!(data.document(), destroyed);
    data.call("open").stdin(&sealed).run().fails(4, &[&format!("key `{old}` was destroyed")]);
    data.call("keys activate").arg(&old).run().fails(4, &["was destroyed and cannot come back"]);
}

#[test]
fn p18_the_accept_policy_is_not_loosened_by_an_older_document() {
    let data = Data::new(&instances("accept = [\"kf1\", \"v1\"]"));
    data.put("r1", RECORD);
    data.call("config apply").run().text();
    let older = data.document();
    data.configure(&instances("accept = [\"kf1\"]"));
    data.call("config apply").run().text();
    data.configure(&instances("accept = [\"kf1\", \"v1\"]"));
    data.call("records list instances").run().fails(3, &["would accept v1 again"]);
    data.plant_document(&older);
    all_refuse(&data, 4, &["has seen generation"]);
}

#[test]
fn a_change_of_any_byte_of_the_document_is_refused() {
    let data = with_record();
    let good = data.document();
    let newline = good.iter().position(|&byte| byte == b'\n').unwrap();
    // Every 23rd, the edges of both lines, and the last one.
    let places =
        (0..good.len()).step_by(23).chain([0, newline - 1, newline, newline + 1, good.len() - 2, good.len() - 1]);
    for at in places {
        let mut bad = good.clone();
        // The other case where there is one: still hex, still base64, still the same word for who does not look closely.
        bad[at] ^= if bad[at].is_ascii_alphabetic() { 0x20 } else { 1 };
        refuses_document(&data, &bad, &format!("byte {at} of {}", good.len()));
    }
    for (what, bad) in [
        ("nothing", Vec::new()),
        ("half", good[..good.len() / 2].to_vec()),
        ("the first line", good[..=newline].to_vec()),
        ("no newline at the end", good[..good.len() - 1].to_vec()),
        ("one more line", [&good[..], b"{}\n"].concat()),
        ("a space at the end", [&good[..], b" "].concat()),
        ("twice", [&good[..], &good[..]].concat()),
    ] {
        refuses_document(&data, &bad, what);
    }
    data.plant_document(&good);
    assert_eq!(data.field("r1", "/admin_password"), b"hunter2");
}

#[track_caller]
fn refuses_document(data: &Data, bad: &[u8], what: &str) {
    data.plant_document(bad);
    let ended = data.call("records get instances r1 --reveal").run();
    assert_eq!((ended.code, ended.stdout.len()), (4, 0), "{what} was taken: {}", ended.stderr);
    assert!(ended.stderr.contains("keys restore") || ended.stderr.contains("root key"), "{what}: {}", ended.stderr);
}

#[test]
fn two_entries_with_one_kid_are_refused_even_where_somebody_signed_them() {
    let data = with_record();
    let good = data.document();
    let twice = resigned(&data, &good, |body| {
        let entries = body["entries"].as_array_mut().unwrap();
        entries.push(entries[0].clone());
    });
    data.plant_document(&twice);
    all_refuse(&data, 4, &[&*format!("key `{}`", kid_of(&good))]);
    // So that the refusals above are not about the signature: signed anew and unchanged, it is taken.
    let same = resigned(&data, &good, |_| {});
    data.plant_document(&same);
    assert_eq!(data.field("r1", "/admin_password"), b"hunter2");
}

#[test]
fn an_entry_that_holds_another_key_than_it_says_is_refused() {
    let data = with_record();
    let other = data.copy();
    let kid = other.call("keys create --json").run().json()["kid"].as_str().unwrap().to_owned();
    let renamed = resigned(&other, &other.document(), |body| {
        let wrapped = body["entries"][1]["wrapped"].clone();
        body["entries"][0]["wrapped"] = wrapped;
    });
    data.plant_document(&renamed);
    data.call("keys list").run().fails(4, &[]);
    // A tombstone beside a living entry of the same kid: the tombstone wins.
    let buried = resigned(&other, &other.document(), |body| {
        body["tombstones"] = serde_json::json!([{ "kid": kid, "destroyed": 1_767_225_600 }]);
    });
    other.plant_document(&buried);
    let listed = other.call("keys list --json").run().json();
    assert!(listed["keys"].as_array().unwrap().iter().all(|key| key["kid"] != kid), "{listed}");
    other.call("keys promote").arg(&kid).run().fails(4, &["was destroyed"]);
}

fn kid_of(document: &[u8]) -> String {
    let line = document.split(|&byte| byte == b'\n').next().unwrap();
    serde_json::from_slice::<serde_json::Value>(line).unwrap()["entries"][0]["kid"].as_str().unwrap().to_owned()
}

#[test]
fn a_backup_and_an_export_open_everything_on_another_machine_with_the_root_key() {
    let data = with_record();
    data.put("r 2/ü", r#"{"connection_url":"redis://ü:p@h","extension_secrets":{"a/b":"x","c":"y"}}"#);
    let loose = data.call("seal --format kf1 --context a=b").stdin("loose").run().text();
    data.rotated();
    let (backup, export) = (data.file("backup"), data.call("records export instances").run().text());
    data.call("keys backup").arg(&backup).run().text();

    let other = Data::empty();
    fs::copy(data.file("root.key"), other.file("root.key")).unwrap();
    other.configure(&instances(""));
    other.call("keys restore").arg(&backup).run().text();
    other.call("records import instances --exported").stdin(&export).run().text();
    for key in ["r1", "r 2/ü"] {
        let doc = |data: &Data| data.call("records get instances --reveal").arg(key).run().text();
        assert_eq!(doc(&other), doc(&data), "{key}");
    }
    other.call("verify").run().text();
    other.call("rotate").run().text();
    assert!(other.call("audit verify").run().text().starts_with("ok"));
    assert!(other.events().iter().any(|event| event["action"] == "key_restore"));
    // A value of the old key that is retired, here as there; put back, it opens.
    data.call("open --context a=b").stdin(&loose).run().fails(4, &["retired"]);
    other.call("open --context a=b").stdin(&loose).run().fails(4, &["retired"]);
    other.call("keys activate").arg(other.kid("retired")).run().text();
    assert_eq!(other.call("open --context a=b").stdin(&loose).run().text(), "loose");
}

#[test]
fn a_backup_that_is_not_this_deployments_or_not_whole_or_not_under_this_root_is_refused_and_changes_nothing() {
    let data = with_record();
    let older = data.file("older");
    data.call("keys backup").arg(&older).run().text();
    data.rotated();
    let newest = data.file("newest");
    data.call("keys backup").arg(&newest).run().text();
    data.call("keys backup").arg(&newest).run().fails(5, &["never written over another one"]);

    // Another deployment under the same root key.
    let other = Data::empty();
    fs::copy(data.file("root.key"), other.file("root.key")).unwrap();
    other.call("init").run().text();
    for _ in 0..6 {
        other.call("keys create").run().text();
    }
    let foreign = data.file("foreign");
    other.call("keys backup").arg(&foreign).run().text();
    // A deployment under another root key.
    let stranger = Data::new(&instances(""));
    let under_another_root = data.file("under-another-root");
    stranger.call("keys backup").arg(&under_another_root).run().text();
    let damaged = data.file("damaged");
    let mut bytes = fs::read(&newest).unwrap();
    bytes[40] ^= 1;
    fs::write(&damaged, &bytes).unwrap();
    let empty = data.file("empty");
    fs::write(&empty, "").unwrap();

    let before = data.contents();
    let (copy, seen) = (fs::read(data.file("keyring.json")).unwrap(), fs::read(data.file("keyring.seen")).unwrap());
    for (file, code, says) in [
        (&older, 4, "has seen generation"),
        (&foreign, 4, "the backup is of keyring"),
        (&under_another_root, 4, "root key"),
        (&damaged, 4, "keyring"),
        (&empty, 4, "malformed"),
        (&data.file("missing"), 5, "missing"),
    ] {
        data.call("keys restore").arg(file).run().fails(code, &[says]);
        assert_eq!(data.contents(), before, "{}", file.display());
        assert_eq!(fs::read(data.file("keyring.json")).unwrap(), copy);
        assert_eq!(fs::read(data.file("keyring.seen")).unwrap(), seen);
    }
    assert_eq!(data.field("r1", "/admin_password"), b"hunter2");

    // Nor does a refused restore leave half a deployment where there was none.
    let fresh = Data::empty();
    fs::copy(data.file("root.key"), fresh.file("root.key")).unwrap();
    fresh.call("keys restore").arg(&damaged).run().fails(4, &[]);
    fresh.call("keys restore").arg(&under_another_root).run().fails(4, &[]);
    let left: Vec<_> = fs::read_dir(fresh.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["root.key"]);
    // Where the document is damaged, the folder's copy still says whose folder it is.
    data.plant_document(b"damaged");
    data.call("keys restore").arg(&foreign).run().fails(4, &["the backup is of keyring"]);
    data.call("keys restore").arg(&newest).run().text();
    assert_eq!(data.field("r1", "/admin_password"), b"hunter2");
}

#[test]
fn p40_a_restore_whose_intent_cannot_be_written_restores_nothing() {
    let data = with_record();
    let fresh = Data::empty();
    fs::copy(data.file("root.key"), fresh.file("root.key")).unwrap();
    fs::write(fresh.file("audit"), "in the way").unwrap();
    fresh.call("keys restore").arg(data.file("keyring.json")).run().fails(5, &["audit log"]);
    assert_eq!(fresh.contents().keyring, None);
    fs::remove_file(fresh.file("audit")).unwrap();
    fresh.call("keys restore").arg(data.file("keyring.json")).run().text();
    fresh.call("keys list").run().text();
}

#[test]
fn without_its_root_key_a_deployment_is_not_made_anew_and_says_what_is_missing() {
    let data = with_record();
    let away = data.file("root.away");
    fs::rename(data.file("root.key"), &away).unwrap();
    all_refuse(&data, 4, &["root.key", "no such file"]);
    data.call("init").run().fails(4, &["root key of this deployment is missing", "put it back"]);
    assert!(!data.file("root.key").exists());
    // Another deployment's root key does not do either.
    fs::copy(Data::new("").file("root.key"), data.file("root.key")).unwrap();
    all_refuse(&data, 4, &["root key"]);
    fs::copy(&away, data.file("root.key")).unwrap();
    let before = data.contents();
    data.call("init").run().text();
    assert_eq!(data.contents(), before, "init run again changes nothing");

    // An emptied database: the copies say that there was a deployment.
    let emptied = Data::empty();
    copy_into(data.path(), emptied.path());
    for name in ["keyfold.db", "keyfold.db-wal", "keyfold.db-shm"] {
        let _ = fs::remove_file(emptied.file(name));
    }
    emptied.call("init").run().fails(4, &["keyfold.db has none", "keys restore"]);
    emptied.call("keys restore").arg(emptied.file("keyring.json")).run().text();
    emptied.call("records list instances").run().text();
}
