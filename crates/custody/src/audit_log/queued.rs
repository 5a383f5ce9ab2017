//! The queue in front of a log's writer: whatever batches wait are written together, and no event is ever dropped from it.

use std::sync::Arc;

use async_trait::async_trait;
use keyfold_core::{audit::Event, id::WriterId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{AuditError, AuditSink, Durable};

/// How many requests wait in the queue, and how many share a flush. Outcomes always have room: each follows an intent that had
/// its turn, and one that was dropped because its caller waited no longer would be told of by nothing.
const QUEUE: usize = 1024;

pub(super) type Answer = oneshot::Sender<Result<(), AuditError>>;

/// Events that came in together, and whether somebody waits for them to be durable.
pub(super) struct Batch {
    pub(super) events: Vec<Event>,
    pub(super) intent: bool,
}

/// A place in the queue, free again when the request is taken out of it.
pub(super) type Room = Option<OwnedSemaphorePermit>;

pub(super) enum Ask {
    Append(Batch, Answer, Room),
    Checkpoint { generation: u64, close: bool, answer: Answer },
}

/// Requests that are served together: appends, then perhaps one of another kind.
pub(super) struct Group {
    pub(super) batches: Vec<Batch>,
    answers: Vec<Answer>,
    pub(super) checkpoint: Option<(u64, bool, Answer)>,
}

impl Group {
    /// A request and what waits behind it, in the order of asking.
    pub(super) fn of(first: Ask, queue: &mut mpsc::UnboundedReceiver<Ask>) -> Self {
        let mut group = Self { batches: Vec::new(), answers: Vec::new(), checkpoint: None };
        let mut next = Some(first);
        while let Some(ask) = next {
            match ask {
                Ask::Append(batch, answer, room) => {
                    drop(room);
                    group.batches.push(batch);
                    group.answers.push(answer);
                }
                Ask::Checkpoint { generation, close, answer } => {
                    group.checkpoint = Some((generation, close, answer));
                    break;
                }
            }
            next = if group.batches.len() < QUEUE { queue.try_recv().ok() } else { None };
        }
        group
    }

    /// Tells each who asked.
    pub(super) fn answer(&mut self, results: Vec<Result<(), AuditError>>) {
        for (answer, result) in self.answers.drain(..).zip(results) {
            // Nobody waits where the caller was cancelled; the events are in the log all the same.
            let _ = answer.send(result);
        }
    }
}

/// A writer of an audit log, on a thread or a task of its own. Nothing is created before the first event.
///
/// Dropping it without [`AuditSink::close`] leaves the chain unanchored, as a crash would, until another process writes.
#[derive(Debug)]
pub struct Queued {
    asks: mpsc::UnboundedSender<Ask>,
    rooms: Arc<Semaphore>,
    writer: WriterId,
}

impl Queued {
    /// The one who asks, and the end of the queue for who serves.
    pub(super) fn new(writer: WriterId) -> (Self, mpsc::UnboundedReceiver<Ask>) {
        let (asks, queue) = mpsc::unbounded_channel();
        (Self { asks, rooms: Arc::new(Semaphore::new(QUEUE)), writer }, queue)
    }

    /// This writer's id, as it stands in the log.
    #[must_use]
    pub const fn writer(&self) -> WriterId {
        self.writer
    }

    async fn ask(&self, ask: impl FnOnce(Answer) -> Ask) -> Result<(), AuditError> {
        let (answer, answered) = oneshot::channel();
        let stopped = || AuditError::Stopped { source: None };
        self.asks.send(ask(answer)).map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

#[async_trait]
impl AuditSink for Queued {
    async fn append(&self, batch: &[Event]) -> Result<Durable, AuditError> {
        self.append_owned(batch.to_vec()).await
    }

    async fn append_owned(&self, events: Vec<Event>) -> Result<Durable, AuditError> {
        let batch = Batch { events, intent: true };
        let room = Arc::clone(&self.rooms).acquire_owned().await.ok();
        self.ask(|answer| Ask::Append(batch, answer, room)).await.map(|()| Durable(()))
    }

    async fn submit_outcome(&self, events: Vec<Event>) -> Result<(), AuditError> {
        let (answer, _nobody) = oneshot::channel();
        let ask = Ask::Append(Batch { events, intent: false }, answer, None);
        self.asks.send(ask).map_err(|_| AuditError::Stopped { source: None })
    }

    async fn append_outcome(&self, batch: &[Event]) -> Result<(), AuditError> {
        let batch = Batch { events: batch.to_vec(), intent: false };
        self.ask(|answer| Ask::Append(batch, answer, None)).await
    }

    async fn checkpoint(&self, generation: u64) -> Result<(), AuditError> {
        self.ask(|answer| Ask::Checkpoint { generation, close: false, answer }).await
    }

    async fn close(&self, generation: u64) -> Result<(), AuditError> {
        self.ask(|answer| Ask::Checkpoint { generation, close: true, answer }).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::future::{FutureExt as _, join_all};
    use keyfold_core::{audit::Word, clock::UnixTime};

    use super::*;
    use crate::audit_log::conformance::event;

    #[tokio::test]
    async fn an_outcome_whose_caller_waits_no_longer_is_in_the_queue_even_where_that_is_full() {
        let (asks, mut queue) = Queued::new(WriterId([1; 16]));
        let (batch, outcome) = ([event(1)], [event(1).outcome(UnixTime(1_800_000_002), Word::done())]);
        let all = join_all((0..=QUEUE).map(|_| asks.append(&batch)));
        let mut intents = Box::pin(tokio::task::unconstrained(all));
        assert!((&mut intents).now_or_never().is_none());
        let late = tokio::time::timeout(Duration::ZERO, asks.append_outcome(&outcome)).await;
        assert!(late.is_err());
        let later = tokio::time::timeout(Duration::ZERO, asks.submit_outcome(outcome.to_vec())).await;
        assert!(later.is_ok());
        let mut taken = Vec::new();
        while let Ok(Ask::Append(batch, ..)) = queue.try_recv() {
            taken.push(batch.intent);
        }
        assert_eq!(taken.iter().filter(|intent| **intent).count(), QUEUE);
        assert_eq!(taken.iter().filter(|intent| !**intent).count(), 2);
    }
}
