//! What every [`AuditSink`] must do. An implementation's test makes a [`Bench`] and runs [`suite`].

use futures::future::join_all;
use keyfold_core::{
    audit::{Action, Actor, Event, EventId, Kind, Word},
    clock::UnixTime,
};

use super::AuditSink;

/// A storage under test.
pub trait Bench: Sync {
    /// A new writer on the storage.
    fn sink(&self) -> Box<dyn AuditSink>;

    /// Every event that the storage holds, each writer's in order.
    fn stored(&self) -> Vec<Event>;
}

/// An event like any other, told apart by `n`.
///
/// # Panics
/// Never: the actor is well formed.
#[must_use]
#[allow(clippy::expect_used, reason = "a constant")]
pub fn event(n: u64) -> Event {
    let actor = Actor::new("local:1000").expect("a constant");
    Event::intent(UnixTime(1_800_000_000 + n), EventId(n.to_be_bytes()), actor, Action::Open)
}

/// Runs every check, each on a bench of its own.
///
/// # Panics
/// The sink does not conform.
pub async fn suite<B: Bench>(fresh: impl Fn() -> B) {
    what_is_durable_is_stored_in_order(&fresh()).await;
    concurrent_batches_are_all_stored_once(&fresh()).await;
    outcomes_are_stored_with_the_next_intent(&fresh()).await;
    a_closed_sink_refuses(&fresh()).await;
    two_writers_do_not_disturb_each_other(&fresh()).await;
    nothing_is_signed_where_nothing_happened(&fresh()).await;
    an_event_without_a_stored_form_fails_alone(&fresh()).await;
}

#[allow(clippy::unwrap_used, reason = "the suite fails by panicking, like a test")]
async fn what_is_durable_is_stored_in_order(bench: &impl Bench) {
    let sink = bench.sink();
    let _proof = sink.append(&[event(1), event(2)]).await.unwrap();
    let _proof = sink.append(&[]).await.unwrap();
    let _proof = sink.append(&[event(3)]).await.unwrap();
    assert_eq!(bench.stored(), [event(1), event(2), event(3)]);
    sink.close(1).await.unwrap();
}

#[allow(clippy::unwrap_used, reason = "the suite fails by panicking, like a test")]
async fn concurrent_batches_are_all_stored_once(bench: &impl Bench) {
    let sink = bench.sink();
    let answers = join_all((0..200).map(|n| {
        let sink = &sink;
        async move { sink.append(&[event(n)]).await }
    }));
    assert!(answers.await.iter().all(Result::is_ok));
    sink.close(1).await.unwrap();
    let mut stored = bench.stored();
    stored.sort_by_key(|event| event.time);
    assert_eq!(stored, (0..200).map(event).collect::<Vec<_>>());
}

#[allow(clippy::unwrap_used, reason = "the suite fails by panicking, like a test")]
async fn outcomes_are_stored_with_the_next_intent(bench: &impl Bench) {
    let sink = bench.sink();
    let _proof = sink.append(&[event(1)]).await.unwrap();
    sink.append_outcome(&[event(1).outcome(UnixTime(1_800_000_002), Word::done())]).await.unwrap();
    let _proof = sink.append(&[event(3)]).await.unwrap();
    let kinds: Vec<_> = bench.stored().iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [Kind::Intent, Kind::Outcome, Kind::Intent]);
}

#[allow(clippy::unwrap_used, reason = "the suite fails by panicking, like a test")]
async fn a_closed_sink_refuses(bench: &impl Bench) {
    let sink = bench.sink();
    let _proof = sink.append(&[event(1)]).await.unwrap();
    sink.checkpoint(1).await.unwrap();
    sink.close(1).await.unwrap();
    assert!(sink.append(&[event(2)]).await.is_err());
    assert_eq!(bench.stored(), [event(1)]);
}

#[allow(clippy::unwrap_used, reason = "the suite fails by panicking, like a test")]
async fn two_writers_do_not_disturb_each_other(bench: &impl Bench) {
    let (one, two) = (bench.sink(), bench.sink());
    for n in 0..10 {
        let sink = if n % 2 == 0 { &one } else { &two };
        let _proof = sink.append(&[event(n)]).await.unwrap();
        sink.checkpoint(n).await.unwrap();
    }
    one.close(1).await.unwrap();
    two.close(1).await.unwrap();
    assert_eq!(bench.stored().len(), 10);
}

#[allow(clippy::unwrap_used, reason = "the suite fails by panicking, like a test")]
async fn nothing_is_signed_where_nothing_happened(bench: &impl Bench) {
    let sink = bench.sink();
    sink.checkpoint(1).await.unwrap();
    sink.close(1).await.unwrap();
    assert!(bench.stored().is_empty());
}

#[allow(clippy::unwrap_used, reason = "the suite fails by panicking, like a test")]
async fn an_event_without_a_stored_form_fails_alone(bench: &impl Bench) {
    let sink = bench.sink();
    let mut impossible = event(2);
    impossible.bytes = Some(u64::MAX);
    let (good, bad, also_good) = (event(1), [event(9), impossible], event(3));
    let (good, bad, also_good) = futures::join!(
        sink.append(std::slice::from_ref(&good)),
        sink.append(&bad),
        sink.append(std::slice::from_ref(&also_good))
    );
    assert!(good.is_ok() && bad.is_err() && also_good.is_ok());
    assert_eq!(bench.stored(), [event(1), event(3)]);
}
