//! The jobs never lose: killed at random moments while another process writes, every record opens, before, between and
//! after; a rerun finishes; nobody's write is undone.

#![allow(clippy::unwrap_used, reason = "a step that fails ends the test")]
#![allow(clippy::print_stdout, reason = "how many were hit belongs to the result")]

mod common;

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use common::deployment::{Deployment, Dice, doc, key, scale, scaled};

/// What a round prepares, then what is started and killed in it.
const ROUNDS: [(Before, &str); 5] = [
    (Before::NewKey, "rotate"),
    (Before::NewKey, "rotate --reseal"),
    (Before::Plaintext, "migrate"),
    (Before::NewKey, "migrate --to v1"),
    (Before::Nothing, "migrate --to kf1"),
];

#[derive(Clone, Copy)]
enum Before {
    Nothing,
    NewKey,
    Plaintext,
}

struct Scene {
    deployment: Deployment,
    /// What must open, by key. Who holds the lock is the only writer of records besides the jobs.
    expected: Mutex<BTreeMap<String, String>>,
    stop: AtomicBool,
    records: usize,
}

#[test]
fn killed_300_times_at_random_moments_beside_a_writer_no_job_loses_anything() {
    let records = if scale() < 1.0 { 1200 } else { 3000 };
    let expected: BTreeMap<_, _> = (0..records).map(|i| (key(i), doc(i, 0))).collect();
    let deployment = Deployment::new();
    deployment.import(expected.values(), "");
    let scene = Scene { deployment, expected: Mutex::new(expected), stop: AtomicBool::new(false), records };
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| scene.write());
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scene.kill(scaled(300))));
        scene.stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        if let Err(panic) = killed {
            std::panic::resume_unwind(panic);
        }
    });
    scene.finish();
    let verdict = scene.deployment.audit_verdict();
    assert_eq!(verdict, "ok", "everything dead is anchored by those who came after");
}

impl Scene {
    /// Another process, again and again, that changes some records.
    fn write(&self) {
        let mut dice = Dice::new();
        for version in 1.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let mut expected = self.expected.lock().unwrap();
            let chosen: BTreeMap<_, _> =
                (0..20).map(|_| dice.below(self.records)).map(|i| (key(i), doc(i, version))).collect();
            self.deployment.import(chosen.values(), "");
            expected.extend(chosen);
            drop(expected);
            std::thread::sleep(Duration::from_millis(60));
        }
    }

    fn kill(&self, times: usize) {
        let mut dice = Dice::new();
        let mut lasts = [Duration::from_millis(800); ROUNDS.len()];
        let (mut killed, mut ended) = (0, 0);
        while killed < times {
            let round = (killed + ended) % ROUNDS.len();
            let (before, job) = ROUNDS[round];
            self.prepare(before);
            let began = Instant::now();
            let (mut child, _home) = self.deployment.call(job).start();
            std::thread::sleep(dice.moment(lasts[round]));
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            if output.status.signal() == Some(9) {
                killed += 1;
            } else {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(matches!(output.status.code(), Some(0 | 1)), "{job}: {said}");
                ended += 1;
                lasts[round] = began.elapsed();
            }
            self.check(&mut dice);
            if (killed + ended).is_multiple_of(25) {
                self.finish();
            }
        }
        println!("{killed} killed, {ended} were done before");
        assert!(ended < times * 3, "the moments lie where there is something to interrupt");
    }

    fn prepare(&self, before: Before) {
        match before {
            Before::Nothing => {}
            Before::NewKey => drop(self.deployment.new_key()),
            Before::Plaintext => self.deployment.import(self.expected.lock().unwrap().values(), "--as-is"),
        }
    }

    /// Everything opens, and is what its last writer stored.
    fn check(&self, dice: &mut Dice) {
        let expected = self.expected.lock().unwrap();
        self.deployment.call("verify").run().text();
        let i = dice.below(self.records);
        let shown = self.deployment.call("records get apps --reveal").arg(key(i)).run().text();
        assert_eq!(shown, expected[&key(i)]);
        assert!(self.deployment.contents() == *expected, "a record is not what was last written");
    }

    /// A rerun finishes: everything under one key, which the old ones are no longer needed for.
    fn finish(&self) {
        // While the writer rests, so that none of its batches is still on its way under the former key.
        let expected = self.expected.lock().unwrap();
        self.deployment.call("migrate").run().text();
        let kid = self.deployment.new_key();
        drop(expected);
        self.deployment.call("rotate").run().text();
        let census = self.deployment.census();
        assert_eq!(census.into_keys().collect::<Vec<_>>(), [kid]);
        for old in self.deployment.keys("active") {
            self.deployment.call("keys retire").arg(&old).run().text();
            self.deployment.call("keys destroy --min-age 0 --yes").arg(&old).run().text();
        }
        let expected = self.expected.lock().unwrap();
        assert!(self.deployment.contents() == *expected, "a record is not what was last written");
    }
}
