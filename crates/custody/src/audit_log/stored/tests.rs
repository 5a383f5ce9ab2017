use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use keyfold_core::{
    audit::{Event, VerifierKey, Word},
    clock::UnixTime,
};

use super::*;
use crate::audit_log::{AuditSink as _, Log, Pruned, Pruner, conformance::event};

const SEED: [u8; 32] = [9; 32];

/// What becomes of one append.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Stored,
    /// Stored, and the answer is lost.
    Unanswered,
    /// Not stored, and the answer is lost.
    Lost,
}

/// A store in memory.
#[derive(Default)]
struct Memory {
    lines: Mutex<BTreeMap<WriterId, Vec<Vec<u8>>>>,
    notes: Mutex<Vec<String>>,
    /// Whether retention is interrupted before it took anything out.
    forgets_nothing: Mutex<bool>,
    /// Of the appends to come; all others are stored.
    fates: Mutex<VecDeque<Fate>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Lines for Memory {
    fn name(&self) -> String {
        "memory".into()
    }

    async fn append(&self, append: &Append<'_>) -> Result<bool, StoreError> {
        let fate = locked(&self.fates).pop_front().unwrap_or(Fate::Stored);
        let mut all = locked(&self.lines);
        let lines = all.entry(append.writer).or_default();
        if lines.len() as u64 != append.first {
            return Ok(false);
        }
        if fate != Fate::Lost {
            lines.extend_from_slice(append.lines);
        }
        let what = "the connection broke off".into();
        match fate {
            Fate::Stored => Ok(true),
            _ => Err(StoreError::Unavailable { store: self.name(), what, retry: true, source: None }),
        }
    }

    async fn lines(&self, writer: WriterId, from: u64, limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let from = usize::try_from(from).unwrap();
        let lines = locked(&self.lines).get(&writer).cloned().unwrap_or_default();
        Ok(lines.into_iter().skip(from).filter(|line| !line.is_empty()).take(limit).collect())
    }

    async fn last(&self, _: WriterId, _: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        Ok(Vec::new())
    }

    async fn writers(&self) -> Result<Vec<Known>, StoreError> {
        Ok(locked(&self.lines).keys().map(|&writer| Known { writer, written: 0 }).collect())
    }

    async fn beat(&self, _: WriterId) -> Result<(), StoreError> {
        Ok(())
    }

    async fn dead(&self) -> Result<Vec<Tip>, StoreError> {
        Ok(Vec::new())
    }

    async fn close(&self, _: &[Tip]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn cut(&self, writer: WriterId, was: &[u8], cut: &[u8]) -> Result<bool, StoreError> {
        let mut all = locked(&self.lines);
        let first = all.get_mut(&writer).and_then(|lines| lines.get_mut(1)).filter(|line| *line == was);
        Ok(first.map(|first| *first = cut.to_vec()).is_some())
    }

    async fn forget(&self, writer: WriterId, last: u64) -> Result<(), StoreError> {
        if !*locked(&self.forgets_nothing) {
            let mut all = locked(&self.lines);
            let lines = all.get_mut(&writer).into_iter().flatten();
            lines.take(usize::try_from(last).unwrap() + 1).skip(2).for_each(Vec::clear);
        }
        Ok(())
    }

    async fn notes(&self, from: u64, limit: usize) -> Result<Vec<(u64, String)>, StoreError> {
        let notes = locked(&self.notes).clone();
        let from = notes.into_iter().zip(1..).map(|(note, n)| (n, note)).filter(|(n, _)| *n >= from);
        Ok(from.take(limit).collect())
    }

    async fn last_note(&self) -> Result<Option<(u64, String)>, StoreError> {
        let notes = locked(&self.notes);
        Ok(notes.last().map(|note| (notes.len() as u64, note.clone())))
    }

    async fn add_note(&self, number: u64, note: &str) -> Result<bool, StoreError> {
        let mut notes = locked(&self.notes);
        let next = number == notes.len() as u64 + 1;
        if next {
            notes.push(note.into());
        }
        Ok(next)
    }
}

impl Memory {
    fn sink(self: &Arc<Self>) -> Queued {
        let clock = Arc::new(UnixTime(1_800_000_000));
        Stored(Arc::clone(self) as _).open("d", &SEED, [7; 48], clock).unwrap()
    }

    fn next(&self, fates: &[Fate]) {
        locked(&self.fates).extend(fates);
    }

    async fn events(self: &Arc<Self>) -> Vec<Event> {
        let mut events = Vec::new();
        let log = Log::Stored(StoredLog::new(Arc::clone(self) as _));
        log.export(async |entry| {
            events.extend(entry.event.clone());
            true
        })
        .await
        .unwrap();
        events
    }

    fn keys() -> (SigningKey, VerifierKey) {
        let key = SigningKey::from_seed(&SEED).unwrap();
        let of = VerifierKey::of(&Deployment::new("d").unwrap(), key.public());
        (key, of)
    }

    async fn prune(self: &Arc<Self>, before: u64) -> Result<Pruned, AuditError> {
        let (key, of) = Self::keys();
        let times = (UnixTime(1_800_000_000 + before), UnixTime(1_800_001_000));
        Pruner { key: &key, of: &of }.prune_stored(&StoredLog::new(Arc::clone(self) as _), times).await
    }

    async fn verdict(self: &Arc<Self>) -> &'static str {
        StoredLog::new(Arc::clone(self) as _).verify(&Self::keys().1).await.unwrap().verdict().as_str()
    }
}

fn outcome(n: u64) -> Event {
    event(n).outcome(UnixTime(1_800_000_500 + n), Word::done())
}

#[tokio::test]
async fn an_outcome_whose_append_got_no_answer_is_stored_once() {
    use Fate::{Lost, Stored, Unanswered};
    for fates in [
        &[Unanswered][..],
        &[Lost],
        &[Unanswered, Unanswered],
        // What is owed gets no answer either.
        &[Lost, Unanswered],
        &[Lost, Unanswered, Lost],
        &[Lost, Lost, Unanswered, Stored, Unanswered],
    ] {
        let store = Arc::new(Memory::default());
        let sink = store.sink();
        let _proof = sink.append(&[event(0)]).await.unwrap();
        store.next(fates);
        let mut expected = vec![event(0)];
        for n in 0..2 {
            let _ = sink.append_outcome(&[outcome(n)]).await;
            expected.push(outcome(n));
        }
        sink.checkpoint(1).await.ok();
        for _ in 0..fates.len() {
            sink.checkpoint(1).await.ok();
        }
        sink.close(1).await.unwrap();
        assert_eq!(store.events().await, expected, "{fates:?}");
        assert_eq!(store.verdict().await, "ok");
    }
}

#[tokio::test]
async fn of_what_takes_several_appends_only_the_failed_ones_are_owed() {
    let store = Arc::new(Memory::default());
    let sink = store.sink();
    let _proof = sink.append(&[event(0)]).await.unwrap();
    let many: Vec<Event> = (1..40_000).map(outcome).collect();
    for fates in [&[Fate::Stored, Fate::Unanswered][..], &[Fate::Stored, Fate::Lost]] {
        locked(&store.fates).clear();
        let before = store.events().await.len();
        store.next(fates);
        assert!(sink.append_outcome(&many).await.is_err());
        let at_once = store.events().await.len() - before;
        assert!(at_once > 0 && (at_once == many.len()) == (fates[1] == Fate::Unanswered), "{at_once} for {fates:?}");
        sink.checkpoint(1).await.unwrap();
        assert!(store.events().await[before..] == many[..], "{fates:?}");
    }
    sink.close(1).await.unwrap();
    assert_eq!(store.verdict().await, "ok");
}

#[tokio::test]
async fn an_owed_outcome_without_a_stored_form_keeps_no_other_back() {
    let store = Arc::new(Memory::default());
    let sink = store.sink();
    let mut impossible = outcome(2);
    impossible.bytes = Some(u64::MAX);
    // The genesis is not stored, so nothing is looked at yet.
    store.next(&[Fate::Lost]);
    assert!(sink.append_outcome(&[outcome(1), impossible, outcome(3)]).await.is_err());
    let _proof = sink.append(&[event(4)]).await.unwrap();
    assert_eq!(store.events().await, [outcome(1), outcome(3), event(4)]);
}

#[tokio::test]
async fn p41_a_store_that_lost_what_it_acknowledged_stops_the_writer_and_the_checkpoint_tells() {
    let store = Arc::new(Memory::default());
    let sink = store.sink();
    let _proof = sink.append(&[event(1)]).await.unwrap();
    let _proof = sink.append(&[event(2)]).await.unwrap();
    locked(&store.lines).values_mut().for_each(|lines| drop(lines.pop()));
    assert_eq!(store.verdict().await, "unanchored");
    assert!(sink.append(&[event(3)]).await.is_err());
    assert!(sink.checkpoint(1).await.is_err());
    assert!(matches!(sink.append(&[event(3)]).await, Err(AuditError::Stopped { .. })));
    assert_eq!(store.verdict().await, "removed");
}

/// Ten events in one chain, a checkpoint after each.
async fn ten() -> (Arc<Memory>, Queued) {
    let store = Arc::new(Memory::default());
    let sink = store.sink();
    for n in 0..10 {
        let _proof = sink.append(&[event(n)]).await.unwrap();
        sink.checkpoint(1).await.unwrap();
    }
    (store, sink)
}

#[tokio::test]
async fn retention_that_was_interrupted_leaves_a_log_that_verifies_and_is_ended_by_the_next_run() {
    let (store, sink) = ten().await;
    *locked(&store.forgets_nothing) = true;
    assert_eq!(store.prune(4).await.unwrap(), Pruned { events: 4, chains: 1 });
    let left = || locked(&store.lines).values().flatten().filter(|line| !line.is_empty()).count();
    assert_eq!(left(), 11);
    assert_eq!((store.verdict().await, store.events().await.len()), ("ok", 6));
    *locked(&store.forgets_nothing) = false;
    assert_eq!(store.prune(4).await.unwrap(), Pruned::default());
    assert_eq!(left(), 8);
    let _proof = sink.append(&[event(10)]).await.unwrap();
    sink.close(1).await.unwrap();
    assert_eq!((store.verdict().await, store.events().await.len()), ("ok", 7));
}

#[tokio::test]
async fn of_two_that_prune_at_once_the_second_takes_nothing_out_that_the_first_stands_for() {
    let (store, _sink) = ten().await;
    let (key, of) = Memory::keys();
    let log = StoredLog::new(Arc::clone(&store) as _);
    let (_, slow) = log.judge(&of, UnixTime(1_800_000_003)).await.unwrap();
    assert_eq!(slow[0].end.size, 3);
    store.prune(6).await.unwrap();
    let cut = keyfold_core::audit::Cut { tip: slow[0].end, time: UnixTime(1) }.sign(&key, &of);
    assert!(!store.cut(slow[0].writer, &slow[0].first, &cut).await.unwrap());
    assert_eq!((store.verdict().await, store.events().await.len()), ("ok", 4));
}

#[tokio::test]
async fn p41_a_log_that_was_tampered_with_is_not_pruned_and_what_is_missing_after_the_cut_is_named() {
    let (store, _sink) = ten().await;
    store.prune(4).await.unwrap();
    locked(&store.lines).values_mut().for_each(|lines| lines[7].clear());
    assert_eq!(store.verdict().await, "changed");
    assert!(matches!(store.prune(9).await, Err(AuditError::Tampered { .. })));
    // A cut that nobody signed stands for nothing.
    let (store, _sink) = ten().await;
    let (_, of) = Memory::keys();
    let (_, old) = StoredLog::new(Arc::clone(&store) as _).judge(&of, UnixTime(1_800_000_005)).await.unwrap();
    let stranger = SigningKey::from_seed(&[8; 32]).unwrap();
    let forged = keyfold_core::audit::Cut { tip: old[0].end, time: UnixTime(1) }.sign(&stranger, &of);
    assert!(store.cut(old[0].writer, &old[0].first, &forged).await.unwrap());
    assert!(["changed", "bad_signature", "removed"].contains(&store.verdict().await));
}
