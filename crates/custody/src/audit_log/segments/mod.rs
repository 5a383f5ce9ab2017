//! The default sink: append-only segment files, one chain per process start, checkpoints in a file beside them.
//!
//! A thread does all writing. It takes whatever batches wait, writes them together and flushes once, so that a flush
//! per request is not needed and the async runtime never waits for a disk. The queue is bounded; who comes when it is
//! full waits, and no event is ever dropped from it.

use std::{path::Path, sync::Arc, thread};

use keyfold_core::{
    audit::{Deployment, SigningKey},
    clock::Clock,
};
use tokio::sync::mpsc;

use self::writer::{Identity, Writer};
use super::{
    AuditError, process_start,
    queued::{Ask, Group, Queued},
};

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

/// The audit folder as a place to write to.
#[derive(Debug)]
pub struct Segments;

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
    ) -> Result<Queued, AuditError> {
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
    ) -> Result<Queued, AuditError> {
        let (writer, own) = process_start(random)?;
        let who = Identity {
            folder: folder::Folder::new(dir),
            deployment: Deployment::new(deployment)?,
            root: SigningKey::from_seed(signing_seed)?,
            own,
            writer,
            clock,
            roll_at,
        };
        let (asks, queue) = Queued::new(writer);
        thread::Builder::new()
            .name("audit".into())
            .spawn(move || serve(Writer::new(who), queue))
            .map_err(|e| AuditError::io("start a thread for", dir, e))?;
        Ok(asks)
    }
}

/// The thread.
fn serve(mut writer: Writer, mut queue: mpsc::UnboundedReceiver<Ask>) {
    while let Some(first) = queue.blocking_recv() {
        let mut group = Group::of(first, &mut queue);
        if !group.batches.is_empty() {
            let results = writer.group(std::mem::take(&mut group.batches));
            group.answer(results);
        }
        if let Some((generation, close, answer)) = group.checkpoint {
            let _ = answer.send(writer.checkpoint(generation, close));
        }
    }
}
