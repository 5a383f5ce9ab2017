//! Where audit events become durable.
//!
//! An [`AuditSink`] takes events and answers when they are safe; a [`Durable`] is the proof, and only this module makes
//! one. [`Segments`] is the default sink: append-only files in the data folder, one chain per process start; [`Stored`] writes
//! the same chains to a store that several machines share. [`Log`] reads either: its tail, everything, or a verdict. [`follow`] is
//! for copies of the files elsewhere, [`Pruner`] for their retention.
//!
//! Not promised: that an event describes what really happened (the caller does that), or that outcomes survive a power
//! failure before the next intent, checkpoint or close is durable. Intents do.

use async_trait::async_trait;
use keyfold_core::{
    audit::{Event, SigningKey},
    id::WriterId,
};
use zeroize::Zeroizing;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod error;
pub mod follow;
mod log;
mod queued;
mod reader;
mod retention;
mod segments;
pub(crate) mod stored;
mod volatile;

pub use error::AuditError;
pub use log::Log;
pub use queued::Queued;
pub use reader::{AuditLog, Entry, LastCheckpoint};
pub use retention::{Pruned, Pruner};
pub use segments::Segments;
pub use stored::{Stored, StoredLog};
pub use volatile::InsecureMemory;

/// Proof that events are on stable storage. What must not happen unaudited takes one.
#[derive(Debug)]
#[must_use = "without the proof nothing may leave"]
pub struct Durable(());

/// Somewhere events go to stay.
#[async_trait]
pub trait AuditSink: Send + Sync {
    /// Makes a batch durable. Concurrent batches share one flush. Dropping the future does not take the events back.
    ///
    /// # Errors
    /// The batch is not known to be durable; what it announces must not be done.
    async fn append(&self, batch: &[Event]) -> Result<Durable, AuditError>;

    /// [`AuditSink::append`] for who needs the events no longer.
    ///
    /// # Errors
    /// As there.
    async fn append_owned(&self, batch: Vec<Event>) -> Result<Durable, AuditError> {
        self.append(&batch).await
    }

    /// [`AuditSink::append_outcome`] for who does not wait. What could not be written is kept, and intents are refused until it
    /// could be, as there; only this caller is not told.
    ///
    /// # Errors
    /// The sink takes nothing any more.
    async fn submit_outcome(&self, batch: Vec<Event>) -> Result<(), AuditError> {
        self.append_outcome(&batch).await
    }

    /// Takes events that tell how something went. They become durable with the next intent, checkpoint or close.
    ///
    /// # Errors
    /// They could not be written. They are kept, and intents are refused until they could be.
    async fn append_outcome(&self, batch: &[Event]) -> Result<(), AuditError>;

    /// Signs how far the log has come, with the keyring generation known now. Does nothing before the first event.
    ///
    /// # Errors
    /// The checkpoint is not known to be durable.
    async fn checkpoint(&self, generation: u64) -> Result<(), AuditError>;

    /// Signs a last checkpoint and ends this writer; later events are refused.
    ///
    /// # Errors
    /// The log could not be closed. Its events stand, unanchored until another process anchors them.
    async fn close(&self, generation: u64) -> Result<(), AuditError>;
}

/// What is new for every process start: the writer's id (16 bytes of `random`) and its ephemeral key (of the other 32).
fn process_start(random: [u8; 48]) -> Result<(WriterId, SigningKey), AuditError> {
    let random = Zeroizing::new(random);
    let (mut id, mut seed) = ([0; 16], Zeroizing::new([0; 32]));
    id.copy_from_slice(&random[..16]);
    seed.copy_from_slice(&random[16..]);
    Ok((WriterId(id), SigningKey::from_seed(&seed)?))
}
