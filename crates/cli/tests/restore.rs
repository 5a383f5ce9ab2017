//! A keyring put back from a backup, and one that is not passed over.

#![allow(clippy::unwrap_used, reason = "a folder that cannot be set up has nothing to report")]

mod common;

use std::{fs, os::unix::fs::symlink, path::Path};

use common::{keyed, keyfold};
use tempfile::TempDir;

fn deployment() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    keyfold("init").data_dir(folder.path()).run().text();
    folder
}

fn generation(folder: &Path) -> u64 {
    keyfold("keys list --json").data_dir(folder).run().json()["generation"].as_u64().unwrap()
}

#[test]
fn p40_without_an_audit_log_no_keyring_is_restored() {
    let (here, there) = (deployment(), tempfile::tempdir().unwrap());
    let backup = here.path().join("backup");
    keyfold("keys backup").arg(&backup).data_dir(here.path()).run().text();
    fs::copy(here.path().join("root.key"), there.path().join("root.key")).unwrap();
    fs::write(there.path().join("audit"), "a file where the log should be").unwrap();
    keyfold("keys restore").arg(&backup).data_dir(there.path()).run().fails(5, &["the audit log cannot"]);
    keyfold("keys list").data_dir(there.path()).run().fails(4, &["the store has no keyring"]);

    fs::remove_file(there.path().join("audit")).unwrap();
    keyfold("keys restore").arg(&backup).data_dir(there.path()).run().text();
    assert_eq!(generation(there.path()), generation(here.path()));
    let tail = keyfold("audit tail --json").data_dir(there.path()).run().text();
    let told: Vec<&str> = tail.lines().filter(|line| line.contains("\"action\":\"key_restore\"")).collect();
    assert_eq!(told.len(), 2, "{tail}");
    assert!(told[0].contains("\"kind\":\"intent\"") && told[1].contains("\"result\":\"done\""), "{tail}");
    assert!(keyfold("audit verify").data_dir(there.path()).run().text().starts_with("ok:"));
}

#[test]
fn p18_a_backup_of_a_copy_that_went_on_by_itself_does_not_take_a_key_away() {
    let (here, there) = (deployment(), tempfile::tempdir().unwrap());
    let backup = there.path().join("backup");
    for file in ["root.key", "keyring.json"] {
        fs::copy(here.path().join(file), there.path().join(file)).unwrap();
    }
    keyfold("keys restore").arg(there.path().join("keyring.json")).data_dir(there.path()).run().text();
    keyfold("keys create").data_dir(there.path()).run().text();
    keyfold("keys backup").arg(&backup).data_dir(there.path()).run().text();
    let kid = keyfold("keys create --json").data_dir(here.path()).run().json()["kid"].as_str().unwrap().to_owned();
    let refused = format!("does not hold key `{kid}`, which would be lost");
    keyfold("keys restore").arg(&backup).data_dir(here.path()).run().fails(4, &[&refused, "went on by itself"]);
    assert!(keyfold("keys list").data_dir(here.path()).run().text().contains(&kid));
}

#[test]
fn p37_a_folder_that_cannot_be_looked_at_is_not_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let round = folder.path().join("round");
    symlink(&round, &round).unwrap();
    keyed("seal --format kf1").data_dir(&round).stdin("s3cret").run().fails(5, &["cannot be looked at", "--data-dir"]);
}

#[test]
fn p18_a_checkpoint_refuses_an_older_keyring_where_what_the_folder_had_seen_went_with_it() {
    let folder = deployment();
    let path = folder.path();
    let backup = path.join("backup");
    keyfold("keys backup").arg(&backup).data_dir(path).run().text();
    keyfold("keys create").data_dir(path).run().text();
    for file in ["keyring.json", "keyring.seen", "keyfold.db", "keyfold.db-wal", "keyfold.db-shm"] {
        drop(fs::remove_file(path.join(file)));
    }
    let restore = || keyfold("keys restore").arg(&backup).data_dir(path).run();
    restore().fails(4, &["of generation 2; this node has seen generation 3", "move", "audit"]);
    // The same where somebody put the files back by hand.
    let audit = (path.join("audit"), path.join("moved"));
    fs::rename(&audit.0, &audit.1).unwrap();
    restore().text();
    fs::remove_dir_all(&audit.0).unwrap();
    fs::rename(&audit.1, &audit.0).unwrap();
    keyfold("keys list").data_dir(path).run().fails(4, &["this node has seen generation 3"]);
}
