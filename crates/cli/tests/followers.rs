//! Keys change while other processes live: nobody seals under a key that others cannot open, and none is refused while
//! somebody may still seal under it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a step that fails ends the test")]

mod common;

use std::{
    io::Write,
    process::{Child, ChildStdin},
    time::{Duration, Instant},
};

use common::deployment::{Deployment, Dice, doc, key, scaled, signal};
use tempfile::TempDir;

/// An import that waits for more on its pipe: a process that lives for as long as the test wants.
struct Importer {
    child: Child,
    pipe: Option<ChildStdin>,
    id: String,
    _home: TempDir,
}

impl Importer {
    fn start(deployment: &Deployment) -> Self {
        let (mut child, home) = deployment.call("records import apps").start();
        let pipe = child.stdin.take();
        let listed = deployment.wait_for_process("records import");
        assert_eq!(listed["place"]["pid"], child.id());
        Self { child, pipe, id: listed["id"].as_str().unwrap().to_owned(), _home: home }
    }

    fn pause(&self) {
        signal("STOP", self.child.id());
        // Stopped is stopped only once the kernel says so; until then it may follow one more change.
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        while !stat().contains(") T ") {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn go_on(&self) {
        signal("CONT", self.child.id());
    }

    /// Strikes it off the list. Only when it has been silent for long enough is it let go.
    fn forget(&self, deployment: &Deployment) {
        let forget = || deployment.call("keys forget-process").arg(&self.id).run();
        forget().fails(3, &["still reports", "silent for 15 s"]);
        let until = Instant::now() + Duration::from_secs(60);
        while forget().code != 0 {
            assert!(Instant::now() < until, "it is never let go");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn feed(&mut self, docs: std::ops::Range<usize>) {
        for i in docs {
            writeln!(self.pipe.as_mut().unwrap(), "{}", doc(i, 0)).unwrap();
        }
    }

    /// Closes the pipe and expects a good end.
    fn finish(self) {
        drop(self.pipe);
        let ended = self.child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() && said.is_empty(), "{said}");
    }
}

#[test]
fn p12_a_staged_key_is_not_promoted_while_a_live_process_cannot_open_with_it_and_the_process_is_named() {
    let deployment = Deployment::new();
    let mut importer = Importer::start(&deployment);
    importer.pause();
    let staged = deployment.staged();
    let pid = format!("`records import`, process {} on", importer.child.id());
    let refused = deployment.call("keys promote --wait 1").arg(&staged).run();
    refused.fails(3, &["waiting for processes to open the staged key", &importer.id, &pid, "then try again"]);
    assert_eq!(deployment.keys("staged"), [&*staged]);

    importer.go_on();
    deployment.call("keys promote --wait 20").arg(&staged).run().text();
    // It may seal under the former key until it looks again; from its own report on it does not.
    deployment.wait_until_all_follow();
    importer.feed(0..700);
    importer.finish();
    assert_eq!(deployment.census().into_iter().collect::<Vec<_>>(), [(staged, 2100)]);
    assert!(deployment.contents() == (0..700).map(|i| (key(i), doc(i, 0))).collect());
}

#[test]
fn p12_a_key_is_not_retired_while_a_paused_process_may_still_seal_under_it() {
    let deployment = Deployment::new();
    let old = deployment.keys("primary").remove(0);
    let mut importer = Importer::start(&deployment);
    let new = deployment.staged();
    deployment.wait_until_all_follow();
    importer.feed(0..500);
    while deployment.census().is_empty() {
        std::thread::sleep(Duration::from_millis(50));
    }
    importer.pause();
    deployment.call("keys promote").arg(&new).run().text();
    assert_eq!(deployment.call("rotate --json").run().json()["changed"], 500);
    let retire = |wait: &str| deployment.call(&format!("keys retire --wait {wait}")).arg(&old).run();
    retire("1").fails(3, &["waiting for processes to stop sealing under the key", &importer.id]);

    importer.go_on();
    importer.feed(500..1200);
    retire("20").text();
    importer.finish();
    assert_eq!(deployment.census().into_iter().collect::<Vec<_>>(), [(new, 3600)]);
    assert!(deployment.contents() == (0..1200).map(|i| (key(i), doc(i, 0))).collect());
}

#[test]
fn p12_a_batch_that_was_sealed_before_a_pause_and_stored_after_it_stays_readable() {
    let deployment = Deployment::new();
    let mut dice = Dice::new();
    for round in 0..scaled(20) {
        let old = deployment.keys("primary").remove(0);
        let mut importer = Importer::start(&deployment);
        let first = round * 1200;
        // More than the pipe holds goes in on the other side, while this side stops the process at some moment of it.
        let mut pipe = importer.pipe.take().unwrap();
        let feeder = std::thread::spawn(move || {
            // It may end before it has read all; the pipe stays open, so that it does not end before it is stopped.
            let whole = (first..first + 1200).all(|i| writeln!(pipe, "{}", doc(i, 0)).is_ok());
            (whole, pipe)
        });
        std::thread::sleep(dice.moment(Duration::from_millis(300)));
        importer.pause();
        // Paused with the write lock in its hands it stops everybody, and there is nothing to see.
        while !deployment.can_be_written() {
            importer.go_on();
            std::thread::sleep(dice.moment(Duration::from_millis(10)));
            importer.pause();
        }
        let staged = deployment.staged();
        deployment.call("keys promote --wait 0").arg(&staged).run().fails(3, &[&importer.id]);
        importer.forget(&deployment);
        deployment.call("keys promote --wait 5").arg(&staged).run().text();
        deployment.call("rotate").run().text();
        deployment.call("keys retire --wait 5").arg(&old).run().text();
        importer.go_on();
        let (whole, pipe) = feeder.join().unwrap();
        drop((pipe, importer.pipe));
        let ended = importer.child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        // What it had sealed under the retired key is not stored; what it had not sealed yet goes on under the new one.
        let refused = format!("key `{old}` was taken out of use while this process stood still; nothing was stored");
        assert!((whole && ended.status.success()) || said.contains(&refused), "{said}");
        // Stopped between its last look and its write, and forgotten by hand, it may have stored under the retired key: such a
        // value is refused, and comes back with the key.
        if deployment.call("verify").run().code != 0 {
            deployment.call("keys activate").arg(&old).run().text();
            deployment.call("verify").run().text();
            deployment.call("rotate").run().text();
            deployment.call("keys retire --wait 5").arg(&old).run().text();
        }
        assert!(deployment.census().into_keys().all(|kid| kid == staged), "left under a retired key");
        // The rest comes again.
        let docs: Vec<_> = (first..first + 1200).map(|i| doc(i, 0)).collect();
        deployment.import(&docs, "");
        assert_eq!(deployment.contents().len(), first + 1200);
    }
}

#[test]
fn p12_a_process_that_was_forgotten_comes_back_on_the_list_and_seals_under_the_new_key() {
    let deployment = Deployment::new();
    let mut importer = Importer::start(&deployment);
    importer.pause();
    let staged = deployment.staged();
    deployment.call("keys promote --wait 0").arg(&staged).run().fails(3, &[&importer.id]);
    importer.forget(&deployment);
    deployment.call("keys forget-process").arg(&importer.id).run().fails(1, &["no process", "keyfold keys list"]);
    deployment.call("keys promote --wait 0").arg(&staged).run().text();
    importer.go_on();
    assert_eq!(deployment.wait_for_process("records import")["id"], *importer.id);
    importer.feed(0..10);
    importer.finish();
    assert_eq!(deployment.census().into_keys().collect::<Vec<_>>(), [staged]);
}

#[test]
fn p12_a_process_that_was_killed_is_waited_for_by_nobody() {
    let deployment = Deployment::new();
    let old = deployment.keys("primary").remove(0);
    let mut importer = Importer::start(&deployment);
    importer.pause();
    let staged = deployment.staged();
    importer.child.kill().unwrap();
    importer.child.wait().unwrap();
    let began = Instant::now();
    deployment.call("keys promote --wait 20").arg(&staged).run().text();
    deployment.call("keys retire --wait 20").arg(&old).run().text();
    assert!(began.elapsed() < Duration::from_secs(10), "nobody was waited for");
    assert!(deployment.processes().is_empty());
}

#[test]
fn p13_a_key_is_in_the_store_and_in_the_folders_copy_before_anything_is_sealed_under_it() {
    let deployment = Deployment::new();
    let mut dice = Dice::new();
    let docs: Vec<_> = (0..20).map(|i| doc(i, 0)).collect();
    for round in 0..scaled(300) {
        // Killed at a moment of the creation, or of the promotion, or of the first sealing.
        let staged = deployment.keys("staged").pop();
        let (call, input) = match (round % 3, staged) {
            (1, Some(kid)) => (deployment.call("keys promote").arg(kid), String::new()),
            (2, _) => (deployment.call("records import apps --on-existing replace"), docs.join("\n")),
            _ => (deployment.call("keys create"), String::new()),
        };
        let (mut child, _home) = call.start();
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(input.as_bytes()).unwrap();
        drop(pipe);
        std::thread::sleep(dice.moment(Duration::from_millis(120)));
        child.kill().unwrap();
        child.wait().unwrap();
        // Looked at before any other process may mend it.
        let copied: Vec<String> = deployment.keys_of_the_copy().iter().map(ToString::to_string).collect();
        for (_, text) in deployment.stored().values() {
            let found = json_kids(text);
            assert!(found.iter().all(|kid| copied.contains(kid)), "{found:?} not all in the copy: {copied:?}");
        }
        let census = deployment.census();
        assert!(census.keys().all(|kid| copied.contains(kid)));
        deployment.call("verify").run().text();
    }
}

/// The key ids of the envelopes in a document.
fn json_kids(text: &str) -> Vec<String> {
    let doc: serde_json::Value = serde_json::from_str(text).unwrap();
    let envelopes = [&doc["url"], &doc["password"], &doc["extra"]["token"]];
    let kids = envelopes.iter().map(|text| keyfold_core::inspect::inspect(text.as_str().unwrap()).kid);
    kids.map(|kid| kid.expect("sealed").to_string()).collect()
}
