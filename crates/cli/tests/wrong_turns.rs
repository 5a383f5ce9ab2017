//! With the wrong key, with a broken store, interrupted: an error that says so, and not one byte changed.

#![allow(clippy::unwrap_used, reason = "a step that fails ends the test")]

mod common;

use std::{fs, os::unix::fs::PermissionsExt};

use common::{
    Call, Ended,
    deployment::{Deployment, doc, key, scale, signal},
};

const READS: [&str; 6] = [
    "records get apps app-00001 --reveal",
    "records export apps",
    "records list apps",
    "verify",
    "keys census",
    "doctor",
];

const WRITES: [&str; 8] = [
    "rotate",
    "rotate --reseal",
    "migrate",
    "migrate --to v1",
    "records import apps --on-existing replace",
    "records put apps app-00001 --replace",
    "records rm apps app-00001",
    "keys create",
];

fn filled(records: usize) -> Deployment {
    let deployment = Deployment::new();
    deployment.import(&(0..records).map(|i| doc(i, 0)).collect::<Vec<_>>(), "");
    deployment
}

fn run(call: Call) -> Ended {
    call.stdin(doc(1, 9)).run()
}

/// What a writer could have changed: every record with its revision, and the keyring's document.
fn everything(deployment: &Deployment) -> (std::collections::BTreeMap<String, (u64, String)>, Vec<u8>) {
    (deployment.stored(), fs::read(deployment.path().join("keyring.json")).unwrap())
}

#[test]
fn p01_a_process_with_another_root_key_reads_nothing_and_changes_nothing() {
    let deployment = filled(40);
    let before = everything(&deployment);
    let (right, other) = (deployment.path().join("root.key"), deployment.path().join("other.key"));
    fs::write(&other, keyfold_key()).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
    for arguments in READS.into_iter().chain(WRITES) {
        let failed = run(deployment.call(arguments).env("KEYFOLD_ROOT_KEY", format!("file:{}", other.display())));
        let failed = failed.fails(4, &["error: ", "hint: "]);
        assert!(failed.stderr.contains("root key"), "{arguments}: {}", failed.stderr);
        let failed = run(deployment.call(arguments).env("KEYFOLD_ROOT_KEY", "file:/no/such/key"));
        assert!(matches!(failed.code, 4 | 5) && failed.stdout.is_empty(), "{arguments}: {failed:?}");
    }
    assert!(right.exists());
    assert!(everything(&deployment) == before);
    deployment.call("verify").run().text();
}

#[test]
fn p01_a_store_without_its_keyring_is_not_taken_for_a_new_one() {
    let deployment = filled(40);
    let before = deployment.stored();
    deployment.sql("CREATE TABLE kept AS SELECT * FROM system; DELETE FROM system");
    for arguments in READS.into_iter().chain(WRITES).chain(["init"]) {
        let failed = run(deployment.call(arguments));
        failed.fails(4, &["keyring", "keyfold keys restore"]);
    }
    deployment.sql("INSERT OR REPLACE INTO system SELECT * FROM kept; DROP TABLE kept");
    assert!(deployment.stored() == before);
    deployment.call("verify").run().text();
}

#[test]
fn p01_records_under_a_key_that_is_not_there_are_named_left_alone_and_never_deleted() {
    // Two deployments, and the records of one in the store of the other: under a key that nobody here holds.
    let (ours, theirs) = (filled(40), filled(20));
    let exported = theirs.call("records export apps").run().text();
    let foreign: String = exported.lines().map(|line| line.replace("app-", "foreign-") + "\n").collect();
    ours.call("records import apps --exported").stdin(foreign).run().text();
    let kid = theirs.keys("primary").remove(0);
    let before = ours.stored();

    ours.new_key();
    for arguments in ["verify", "rotate", "rotate --reseal", "migrate", "migrate --to v1", "migrate --to kf1"] {
        let left = ours.call(arguments).run();
        assert_eq!(left.code, 1, "{arguments}: {}", left.stderr);
        let said = String::from_utf8(left.stdout).unwrap();
        assert!(said.contains("left as they are: 60"), "{said}");
        assert!(said.contains("apps/foreign-00019#/extra/token") && said.contains(&kid), "{said}");
    }
    ours.call("records get apps foreign-00001 --reveal").run().fails(4, &["apps/foreign-00001#/url", &kid]);
    ours.call("keys retire --wait 0").arg(&kid).run().fails(4, &[&kid]);
    let after = ours.stored();
    assert_eq!(after.len(), 60);
    let foreign = |(key, _): &(&String, &(u64, String))| key.starts_with("foreign-");
    assert!(before.iter().filter(foreign).eq(after.iter().filter(foreign)));
    ours.call("records import apps --on-existing replace").stdin(doc(1, 9)).run().text();
    assert_eq!(ours.stored().len(), 60, "a write touches its own record only");
}

#[test]
fn p02_a_store_that_is_broken_is_an_error_and_never_an_empty_list() {
    type Break = fn(&std::path::Path);
    let breaks: [(&str, Break); 5] = [
        ("a directory", |database| fs::create_dir(database).unwrap()),
        ("an empty database", |database| fs::write(database, "").unwrap()),
        ("not an SQLite database", |database| fs::write(database, "x".repeat(8192)).unwrap()),
        ("damaged", |database| {
            let kept = fs::read(database.with_extension("kept")).unwrap();
            fs::write(database, &kept[..kept.len() / 2]).unwrap();
        }),
        ("", |_| {}),
    ];
    for (says, break_it) in breaks {
        let deployment = filled(400);
        let database = deployment.path().join("keyfold.db");
        fs::rename(&database, database.with_extension("kept")).unwrap();
        break_it(&database);
        for arguments in READS.into_iter().chain(WRITES) {
            let failed = run(deployment.call(arguments));
            assert!(matches!(failed.code, 4 | 5), "{says}: {arguments}: {failed:?}");
            let failed_code = failed.code;
            let failed = failed.fails(failed_code, &["error: ", says, "hint: "]);
            assert!(failed.stderr.contains("keyfold.db"), "{arguments}: {}", failed.stderr);
        }
        let _ = fs::remove_file(&database);
        let _ = fs::remove_dir(&database);
        for log in ["keyfold.db-wal", "keyfold.db-shm"] {
            let _ = fs::remove_file(deployment.path().join(log));
        }
        fs::rename(database.with_extension("kept"), &database).unwrap();
        deployment.call("verify").run().text();
        assert_eq!(deployment.contents().len(), 400);
    }
}

#[test]
fn p02_a_database_that_another_program_keeps_locked_is_waited_for_and_then_named() {
    if scale() < 1.0 {
        return; // It takes the half minute that a command is ready to wait.
    }
    let deployment = filled(40);
    let before = deployment.stored();
    let lock = deployment.lock();
    std::thread::scope(|scope| {
        for arguments in READS.into_iter().chain(WRITES) {
            let call = deployment.call(arguments);
            scope.spawn(move || run(call).fails(5, &["keyfold.db is unavailable: another process holds its lock"]));
        }
    });
    drop(lock);
    assert!(deployment.stored() == before);
}

#[test]
fn ctrl_c_stops_a_rotation_between_two_batches_and_a_rerun_goes_on() {
    let records = 4000;
    let deployment = filled(records);
    let old = deployment.keys("primary").remove(0);
    let new = deployment.new_key();
    let (mut child, _home) = deployment.call("rotate --json --rate 500").start();
    drop(child.stdin.take());
    common::wait_until_it_listens_to_ctrl_c(child.id());
    while !deployment.census().contains_key(&new) {}
    signal("INT", child.id());
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(said.contains("run `keyfold rotate` again to go on from there"), "{said}");
    let summary: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    let first = summary["changed"].as_u64().unwrap();
    assert!(first > 0 && first < records as u64, "{summary}");
    let census = deployment.census();
    assert_eq!((census[&new], census[&old]), (first * 3, (records as u64 - first) * 3));

    let rest = deployment.call("rotate --json").run().json();
    assert_eq!(rest["changed"].as_u64().unwrap(), records as u64 - first);
    assert_eq!(deployment.census().into_keys().collect::<Vec<_>>(), [new]);
    assert_eq!(deployment.contents(), (0..records).map(|i| (key(i), doc(i, 0))).collect());
    assert_eq!(deployment.audit_verdict(), "ok");
}

fn keyfold_key() -> String {
    common::keyfold("keygen").run().text() + "\n"
}
