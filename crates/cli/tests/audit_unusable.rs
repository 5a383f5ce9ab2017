//! P40: where an intent cannot be made durable nothing leaves and nothing changes, whichever way the log is unusable.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as such")]
#![allow(clippy::print_stderr, reason = "what was not run is said by name")]

mod common;

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use common::{
    Call, MASTER, MASTER_VARIABLE,
    folder::{Data, instances},
    keyed,
};

const SECRET: &str = "hunter2-correct-horse";

/// A folder in which there is something to do for every job, and its staged key.
fn busy() -> (Data, String) {
    let data = Data::new(&instances("accept = [\"kf1\", { format = \"plaintext\", until = 2999-01-01 }]"));
    data.put("sealed", &format!("{{\"admin_password\":\"{SECRET}\"}}"));
    let plain = format!("{{\"id\":\"plain\",\"admin_password\":\"{SECRET}\"}}");
    data.call("records import instances --as-is").stdin(plain).run().text();
    let first = data.call("keys create --json").run().json()["kid"].as_str().unwrap().to_owned();
    data.call("keys promote --quiet").arg(first).run().text();
    let staged = data.call("keys create --json").run().json()["kid"].as_str().unwrap().to_owned();
    (data, staged)
}

/// Runs every command that shows a secret or changes something; each must end in 5 with nothing shown and nothing changed.
fn all_refused(data: &Data, staged: &str, how: &str, mut run: impl FnMut(Call) -> Call) {
    let before = data.contents();
    let from_environment = keyed("seal --format v1").stdin(SECRET).run().text();
    let doc = format!("{{\"id\":\"new\",\"admin_password\":\"{SECRET}\"}}");
    let backup = data.file("keyring.json");
    let calls: Vec<(&str, Call)> = vec![
        ("open", data.call("open").env(MASTER_VARIABLE, MASTER).stdin(&from_environment)),
        ("seal", data.call("seal --format kf1").stdin(SECRET)),
        ("get --reveal", data.call("records get instances sealed --reveal")),
        ("get --field", data.call("records get instances sealed --field /admin_password")),
        ("put", data.call("records put instances new").stdin(&doc)),
        ("put --replace", data.call("records put instances sealed --replace").stdin(&doc)),
        ("rm", data.call("records rm instances sealed")),
        ("import", data.call("records import instances").stdin(&doc)),
        ("export", data.call("records export instances")),
        ("migrate", data.call("migrate")),
        ("rotate", data.call("rotate")),
        ("rotate --reseal", data.call("rotate --reseal")),
        ("verify", data.call("verify")),
        ("keys create", data.call("keys create")),
        ("keys promote", data.call("keys promote").arg(staged)),
        ("keys retire", data.call("keys retire").arg(staged)),
        ("keys backup", data.call("keys backup")),
        ("keys restore", data.call("keys restore").arg(backup)),
        ("config apply", data.call("config apply")),
    ];
    for (name, call) in calls {
        let ended = run(call).run();
        assert_eq!(ended.code, 5, "{name} with {how}: {}", ended.stderr);
        assert!(ended.stdout.is_empty(), "{name} with {how} printed {:?}", String::from_utf8_lossy(&ended.stdout));
        assert!(!ended.stderr.contains(SECRET), "{name} with {how}");
        assert_eq!(data.contents(), before, "{name} with {how} changed something");
    }
}

fn move_away(data: &Data) {
    fs::rename(data.file("audit"), data.file("audit.away")).unwrap();
}

/// After the log is back, everything works and the log is in order.
fn recovers(data: &Data) {
    assert_eq!(data.field("sealed", "/admin_password"), SECRET.as_bytes());
    data.call("migrate").run().text();
    assert!(data.call("audit verify").run().text().starts_with("ok"));
}

#[test]
fn p40_with_a_file_where_the_audit_folder_was_nothing_leaves_and_nothing_changes() {
    let (data, staged) = busy();
    move_away(&data);
    fs::write(data.file("audit"), "").unwrap();
    all_refused(&data, &staged, "a file", |call| call);
    fs::remove_file(data.file("audit")).unwrap();
    fs::rename(data.file("audit.away"), data.file("audit")).unwrap();
    recovers(&data);
}

#[test]
fn p40_with_a_link_that_leads_nowhere_nothing_leaves_and_nothing_changes() {
    let (data, staged) = busy();
    move_away(&data);
    symlink("/nonexistent/audit", data.file("audit")).unwrap();
    all_refused(&data, &staged, "a dead link", |call| call);
}

#[test]
fn p40_with_notes_that_cannot_be_read_nothing_leaves_and_nothing_changes() {
    let (data, staged) = busy();
    fs::rename(data.file("audit/notes"), data.file("notes.away")).unwrap();
    fs::create_dir(data.file("audit/notes")).unwrap();
    all_refused(&data, &staged, "a folder in the place of the notes", |call| call);
}

#[test]
fn p40_where_files_cannot_grow_nothing_leaves_and_nothing_changes() {
    let (data, staged) = busy();
    // The signal is ignored, so that a write over the limit fails as it does on a full disk.
    all_refused(&data, &staged, "a file size limit", |call| {
        call.through("bash", &["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""])
    });
    recovers(&data);
}

/// A small file system, gone with its value.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    /// `None` where this user may not mount.
    fn mount(at: &'a Path, size: &str) -> Option<Self> {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn p40_on_a_full_disk_nothing_leaves_and_nothing_changes_and_with_space_it_goes_on() {
    let (data, staged) = busy();
    move_away(&data);
    let place = data.file("audit");
    fs::create_dir(&place).unwrap();
    let Some(_disk) = Disk::mount(&place, "1m") else {
        eprintln!("not run: a disk of its own needs the right to mount");
        return;
    };
    common::folder::copy_into(&data.file("audit.away"), &place);
    let filler = place.join("filler");
    let mut size = 1 << 20;
    let mut content = Vec::new();
    // Until not one byte more fits.
    while size > 0 {
        content.resize(content.len() + size, 0);
        if fs::write(&filler, &content).is_err() {
            content.truncate(content.len() - size);
            size /= 2;
        }
    }
    assert!(fs::write(place.join("more"), [0; 4096]).is_err(), "the disk is not full");
    fs::remove_file(place.join("more")).unwrap();
    // The program's reason is on stderr: not the database is full, the log is.
    data.call("records get instances sealed --reveal").run().fails(5, &["audit log", "disk is full"]);
    all_refused(&data, &staged, "a full disk", |call| call);
    fs::remove_file(&filler).unwrap();
    recovers(&data);
}
