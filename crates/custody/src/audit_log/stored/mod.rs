//! The audit log in a store that several machines share: PostgreSQL, Redis Streams, Firestore.
//!
//! It holds what the segment files hold: the lines of each writer, the signed genesis first, and the notes. Lines and notes are
//! numbered, and a number is given once: who comes second, or again after a connection broke off, finds out by reading. A
//! writer that has not been heard of for a while is dead, and the next process anchors its chain. After retention line 1 is the cut, and
//! the lines that it stands for are gone.

mod reader;
mod retention;
#[cfg(test)]
mod tests;
mod writer;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use keyfold_core::{
    audit::{Deployment, SigningKey, Tip},
    clock::Clock,
    id::WriterId,
};
use tokio::sync::mpsc;

pub use self::reader::StoredLog;
use self::writer::{Identity, Writer};
use super::{
    AuditError, process_start,
    queued::{Ask, Group, Queued},
};
use crate::store::StoreError;

/// After how long without a word a writer counts as dead, by the store's clock.
pub(crate) const SILENCE: Duration = Duration::from_secs(300);
/// How often a writer without events gives a word.
const BEAT: Duration = Duration::from_secs(60);
/// The most lines read at once.
const PAGE: usize = 1000;
/// The most dead writers anchored by one note.
pub(crate) const AT_ONCE: usize = 256;

/// Lines to be stored, all or none.
pub(crate) struct Append<'a> {
    pub(crate) writer: WriterId,
    /// The number of the first one.
    pub(crate) first: u64,
    pub(crate) lines: &'a [Vec<u8>],
    /// Where the chain stands after them.
    pub(crate) tip: Tip,
}

/// A writer that the store knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) writer: WriterId,
    /// When it last wrote, in the store's own measure.
    pub(crate) written: i64,
}

/// Where numbered lines and notes lie.
#[async_trait]
pub(crate) trait Lines: Send + Sync {
    /// The store, for messages.
    fn name(&self) -> String;

    /// Makes lines durable; `false`, and nothing stored, where the writer does not have exactly the lines before them.
    async fn append(&self, append: &Append<'_>) -> Result<bool, StoreError>;

    /// Lines of a writer from a number on that an append began at; more than `limit` only to end with a whole append.
    async fn lines(&self, writer: WriterId, from: u64, limit: usize) -> Result<Vec<Vec<u8>>, StoreError>;

    /// The last lines of a writer, in order, at least `count` of them where there are so many.
    async fn last(&self, writer: WriterId, count: usize) -> Result<Vec<Vec<u8>>, StoreError>;

    /// All writers.
    async fn writers(&self) -> Result<Vec<Known>, StoreError>;

    /// Says that a writer lives.
    async fn beat(&self, writer: WriterId) -> Result<(), StoreError>;

    /// Where the chains stand whose writers are dead and not closed; at most [`AT_ONCE`].
    async fn dead(&self) -> Result<Vec<Tip>, StoreError>;

    /// Strikes writers off the list of those that may still write, where the chain, whose genesis is a line too, still stands there.
    async fn close(&self, tips: &[Tip]) -> Result<(), StoreError>;

    /// Puts a line in the place of line 1, if that is still `was`; `false` where it is another.
    async fn cut(&self, writer: WriterId, was: &[u8], cut: &[u8]) -> Result<bool, StoreError>;

    /// Takes out the lines from 2 to `last`, which a cut in the place of line 1 stands for.
    async fn forget(&self, writer: WriterId, last: u64) -> Result<(), StoreError>;

    /// Notes from a number on, each with its number; the first one has number 1. Where one was taken away, its number is missing.
    async fn notes(&self, from: u64, limit: usize) -> Result<Vec<(u64, String)>, StoreError>;

    /// The last note and its number.
    async fn last_note(&self) -> Result<Option<(u64, String)>, StoreError>;

    /// Adds the note of that number; `false` where it is not the next one after the last note.
    async fn add_note(&self, number: u64, note: &str) -> Result<bool, StoreError>;
}

/// A place in a store for an audit log. Clones share its connections.
#[derive(Clone)]
pub struct Stored(pub(crate) Arc<dyn Lines>);

impl Stored {
    /// A writer there, signed for by the deployment's audit key. `random` is the writer's id (16 bytes) and the seed of its
    /// ephemeral key (32), new for every process start and never stored.
    ///
    /// # Errors
    /// The deployment's id or the seed is not usable. The store is not asked yet.
    pub fn open(
        &self,
        deployment: &str,
        signing_seed: &[u8; 32],
        random: [u8; 48],
        clock: Arc<dyn Clock>,
    ) -> Result<Queued, AuditError> {
        let (writer, own) = process_start(random)?;
        let who = Identity {
            store: Arc::clone(&self.0),
            deployment: Deployment::new(deployment)?,
            root: SigningKey::from_seed(signing_seed)?,
            own,
            writer,
            clock,
        };
        let (asks, queue) = Queued::new(writer);
        tokio::spawn(serve(Writer::new(who), queue));
        Ok(asks)
    }

    /// The log there, for reading.
    #[must_use]
    pub fn log(&self) -> StoredLog {
        StoredLog::new(Arc::clone(&self.0))
    }
}

async fn serve(mut writer: Writer, mut queue: mpsc::UnboundedReceiver<Ask>) {
    // What is written is a word of life too.
    let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + BEAT, BEAT);
    loop {
        let first = tokio::select! {
            first = queue.recv() => match first {
                Some(first) => first,
                None => return,
            },
            _ = beat.tick() => {
                writer.beat().await;
                continue;
            }
        };
        let mut group = Group::of(first, &mut queue);
        if !group.batches.is_empty() {
            let results = writer.group(std::mem::take(&mut group.batches)).await;
            group.answer(results);
        }
        if let Some((generation, close, answer)) = group.checkpoint {
            let _ = answer.send(writer.checkpoint(generation, close).await);
        }
    }
}
