//! The default sink: append-only segment files, one chain per process start, checkpoints in a file beside them.
//!
//! A thread does all writing. It takes whatever batches wait, writes them together and flushes once, so that a flush
//! per request is not needed and the async runtime never waits for a disk. The queue is bounded; who comes when it is
//! full waits, and no event is ever dropped from it.

use std::{path::Path, sync::Arc, thread};

use async_trait::async_trait;
use keyfold_core::{
    audit::{Deployment, Event, SigningKey},
    clock::Clock,
    id::WriterId,
};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use self::writer::{Batch, Identity, Writer};
use super::{AuditError, AuditSink, Durable};

mod dead;
mod file;
pub(super) mod folder;
pub(super) mod lines;
pub(super) mod notes;
#[cfg(test)]
mod tests;
mod writer;

/// A segment's size before the next begins.
const ROLL_AT: u64 = 64 << 20;
/// How many requests wait in the queue, and how many of them share a flush.
const QUEUE: usize = 1024;

type Answer = oneshot::Sender<Result<(), AuditError>>;

enum Ask {
    Append(Batch, Answer),
    Checkpoint { generation: u64, close: bool, answer: Answer },
}

/// A writer of the audit folder. Nothing is created before the first event.
///
/// Dropping it without [`AuditSink::close`] leaves the chain unanchored, as a crash would, until another process writes.
#[derive(Debug)]
pub struct Segments {
    asks: mpsc::Sender<Ask>,
    writer: WriterId,
}

impl Segments {
    /// A writer in `dir`, signed for by the deployment's audit key. `random` is the writer's id (16 bytes) and the seed
    /// of its ephemeral key (32), new for every process start and never stored.
    ///
    /// # Errors
    /// The deployment's id or the seed is not usable, or no thread could be started. The folder is not looked at.
    pub fn open(
        dir: &Path,
        deployment: &str,
        signing_seed: &[u8; 32],
        random: [u8; 48],
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuditError> {
        Self::open_rolling_at(ROLL_AT, (dir, deployment), signing_seed, random, clock)
    }

    /// [`Segments::open`], with another size at which segments roll. For a folder and a deployment.
    ///
    /// # Errors
    /// As there.
    pub fn open_rolling_at(
        roll_at: u64,
        (dir, deployment): (&Path, &str),
        signing_seed: &[u8; 32],
        random: [u8; 48],
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuditError> {
        let random = Zeroizing::new(random);
        let (mut id, mut seed) = ([0; 16], Zeroizing::new([0; 32]));
        id.copy_from_slice(&random[..16]);
        seed.copy_from_slice(&random[16..]);
        let writer = WriterId(id);
        let who = Identity {
            folder: folder::Folder::new(dir),
            deployment: Deployment::new(deployment)?,
            root: SigningKey::from_seed(signing_seed)?,
            own: SigningKey::from_seed(&seed)?,
            writer,
            clock,
            roll_at,
        };
        let (asks, queue) = mpsc::channel(QUEUE);
        thread::Builder::new()
            .name("audit".into())
            .spawn(move || serve(Writer::new(who), queue))
            .map_err(|e| AuditError::io("start a thread for", dir, e))?;
        Ok(Self { asks, writer })
    }

    /// This writer's id, as it stands in the names of its files.
    #[must_use]
    pub const fn writer(&self) -> WriterId {
        self.writer
    }

    async fn ask(&self, ask: impl FnOnce(Answer) -> Ask) -> Result<(), AuditError> {
        let (answer, answered) = oneshot::channel();
        let stopped = || AuditError::Stopped { source: None };
        self.asks.send(ask(answer)).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }
}

/// The thread: groups appends until something else is asked for, in the order of asking.
fn serve(mut writer: Writer, mut queue: mpsc::Receiver<Ask>) {
    while let Some(first) = queue.blocking_recv() {
        let (mut batches, mut answers) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        let mut other = None;
        while let Some(ask) = next {
            match ask {
                Ask::Append(batch, answer) => {
                    batches.push(batch);
                    answers.push(answer);
                }
                Ask::Checkpoint { .. } => {
                    other = Some(ask);
                    break;
                }
            }
            next = if batches.len() < QUEUE { queue.try_recv().ok() } else { None };
        }
        if !batches.is_empty() {
            for (answer, result) in answers.into_iter().zip(writer.group(batches)) {
                // Nobody waits where the caller was cancelled; the events are in the log all the same.
                let _ = answer.send(result);
            }
        }
        if let Some(Ask::Checkpoint { generation, close, answer }) = other {
            let _ = answer.send(writer.checkpoint(generation, close));
        }
    }
}

#[async_trait]
impl AuditSink for Segments {
    async fn append(&self, batch: &[Event]) -> Result<Durable, AuditError> {
        let batch = Batch { events: batch.to_vec(), intent: true };
        self.ask(|answer| Ask::Append(batch, answer)).await.map(|()| Durable(()))
    }

    async fn append_outcome(&self, batch: &[Event]) -> Result<(), AuditError> {
        let batch = Batch { events: batch.to_vec(), intent: false };
        self.ask(|answer| Ask::Append(batch, answer)).await
    }

    async fn checkpoint(&self, generation: u64) -> Result<(), AuditError> {
        self.ask(|answer| Ask::Checkpoint { generation, close: false, answer }).await
    }

    async fn close(&self, generation: u64) -> Result<(), AuditError> {
        self.ask(|answer| Ask::Checkpoint { generation, close: true, answer }).await
    }
}
