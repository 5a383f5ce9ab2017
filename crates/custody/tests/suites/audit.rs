//! The audit suite on a log in a store.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use keyfold_core::{
    audit::{Deployment, Event, SigningKey, VerifierKey},
    clock::{Clock, UnixTime},
};
use keyfold_custody::audit_log::{AuditSink, Log, Pruned, Pruner, Queued, Stored, conformance};

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

    fn keys() -> (SigningKey, VerifierKey) {
        let key = SigningKey::from_seed(&SEED).unwrap();
        let of = VerifierKey::of(&Deployment::new("d").unwrap(), key.public());
        (key, of)
    }

    /// Takes out the events before the one of that number.
    pub(crate) async fn prune(&self, before: u64) -> Pruned {
        let (key, of) = Self::keys();
        let times = (UnixTime(1_800_000_000 + before), UnixTime(1_800_001_000));
        Pruner { key: &key, of: &of }.prune_stored(&self.stored.log(), times).await.unwrap()
    }

    /// The worst that is wrong with it, in a word, and how many events and notes it has.
    pub(crate) async fn verdict(&self) -> (&'static str, u64, u64) {
        let report = self.log().verify(&Self::keys().1).await.unwrap();
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

/// Retention, while the writer goes on.
pub(crate) async fn old_events_go_and_what_is_left_verifies(bench: &Bench) {
    let times = async || bench.events().await.iter().map(|event| event.time.0 - 1_800_000_000).collect::<Vec<_>>();
    let (one, two) = (bench.writer(), bench.writer());
    for n in 0..6 {
        let _proof = one.append(&[conformance::event(n)]).await.unwrap();
        if n == 2 {
            one.checkpoint(1).await.unwrap();
        }
    }
    let _proof = two.append(&[conformance::event(90), conformance::event(91)]).await.unwrap();
    two.close(1).await.unwrap();
    let log = bench.stored.log();
    assert!(!log.is_due(UnixTime(1_800_000_000)).await.unwrap());
    assert!(log.is_due(UnixTime(1_800_000_001)).await.unwrap());
    // The fourth is old too, but nothing that is signed says where it ends.
    assert_eq!(bench.prune(4).await, Pruned { events: 3, chains: 1 });
    assert_eq!(times().await, [3, 4, 5, 90, 91]);
    assert_eq!(bench.verdict().await.0, "unanchored");
    assert_eq!(bench.prune(4).await, Pruned::default());
    assert_eq!(bench.log().tail(4).await.unwrap().len(), 4);

    let _proof = one.append(&(6..2500).map(conformance::event).collect::<Vec<_>>()).await.unwrap();
    one.checkpoint(2).await.unwrap();
    assert_eq!(bench.verdict().await, ("ok", 2499, 3));
    let _proof = one.append(&[conformance::event(3000)]).await.unwrap();
    one.close(2).await.unwrap();
    assert_eq!(bench.prune(2999).await, Pruned { events: 2499, chains: 2 });
    assert_eq!(times().await, [3000]);
    assert_eq!(bench.verdict().await.0, "ok");
    assert_eq!(bench.prune(9999).await, Pruned { events: 1, chains: 1 });
    assert_eq!((times().await, bench.verdict().await.0), (vec![], "ok"));
    assert_eq!(bench.prune(9999).await, Pruned::default());
    // Who comes now begins after all of them.
    let next = bench.writer();
    let _proof = next.append(&[conformance::event(9000)]).await.unwrap();
    next.close(3).await.unwrap();
    assert_eq!((times().await, bench.verdict().await.0), (vec![9000], "ok"));
}
