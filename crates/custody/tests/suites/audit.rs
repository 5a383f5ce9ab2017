//! The audit suite on a log in a store.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use keyfold_core::{
    audit::{Deployment, Event, SigningKey, VerifierKey},
    clock::{Clock, UnixTime},
};
use keyfold_custody::audit_log::{AuditSink, Log, Queued, Stored, conformance};

const SEED: [u8; 32] = [9; 32];

/// A clock for tests.
struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> UnixTime {
        UnixTime(1_800_000_000)
    }
}

/// A log of the deployment `d`.
pub(crate) struct Bench {
    stored: Stored,
    writers: AtomicU8,
}

impl Bench {
    pub(crate) fn on(stored: Stored) -> Self {
        Self { stored, writers: AtomicU8::new(1) }
    }

    pub(crate) fn writer_of(&self, deployment: &str) -> Queued {
        let mut random = [self.writers.fetch_add(1, Ordering::Relaxed); 48];
        random[40] = 7;
        self.stored.open(deployment, &SEED, random, Arc::new(Fixed)).unwrap()
    }

    pub(crate) fn writer(&self) -> Queued {
        self.writer_of("d")
    }

    pub(crate) fn log(&self) -> Log {
        Log::Stored(self.stored.log())
    }

    pub(crate) async fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let log = self.log();
        let read = log.export(async |entry| {
            events.extend(entry.event.clone());
            true
        });
        read.await.unwrap();
        events
    }

    /// The worst that is wrong with it, in a word, and how many events and notes it has.
    pub(crate) async fn verdict(&self) -> (&'static str, u64, u64) {
        let key = VerifierKey::of(&Deployment::new("d").unwrap(), SigningKey::from_seed(&SEED).unwrap().public());
        let report = self.log().verify(&key).await.unwrap();
        (report.verdict().as_str(), report.events, report.notes)
    }
}

impl conformance::Bench for Bench {
    fn sink(&self) -> Box<dyn AuditSink> {
        Box::new(self.writer())
    }

    fn stored(&self) -> Vec<Event> {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(self.events()))
    }
}

/// What the suite does not ask: checkpoints of several writers, and one that closed and is read again.
pub(crate) async fn several_writers_are_anchored_and_told_in_order(bench: &Bench) {
    let (one, two) = (bench.writer(), bench.writer());
    for n in 0..6 {
        let _proof = if n % 2 == 0 { &one } else { &two }.append(&[conformance::event(n)]).await.unwrap();
    }
    assert_eq!(bench.verdict().await.1, 6);
    one.checkpoint(3).await.unwrap();
    two.close(4).await.unwrap();
    one.close(4).await.unwrap();
    let (verdict, events, notes) = bench.verdict().await;
    assert_eq!((verdict, events), ("ok", 6));
    assert!((2..=3).contains(&notes), "{notes}");
    let tail = bench.log().tail(3).await.unwrap();
    let times: Vec<u64> = tail.iter().map(|entry| entry.event.as_ref().unwrap().time.0).collect();
    assert_eq!(times, [1_800_000_003, 1_800_000_004, 1_800_000_005]);
    assert!(bench.log().last_checkpoint().await.unwrap().is_some());

    let error = bench.writer_of("another").append(&[conformance::event(9)]).await.unwrap_err();
    assert!(error.to_string().contains("holds the audit log of the deployment `d`"), "{error}");
}
