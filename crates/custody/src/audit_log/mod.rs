//! Where audit events become durable.
//!
//! An [`AuditSink`] takes events and answers when they are safe; a [`Durable`] is the proof, and only this module makes
//! one. [`Segments`] is the default sink: append-only files in the data folder, one chain per process start. [`AuditLog`]
//! reads such a folder: its tail, everything, or a verdict.
//!
//! Not promised: that an event describes what really happened (the caller does that), or that outcomes survive a power
//! failure before the next intent, checkpoint or close is durable. Intents do.

use async_trait::async_trait;
use keyfold_core::audit::Event;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod error;
mod reader;
mod segments;
mod volatile;

pub use error::AuditError;
pub use reader::{AuditLog, Entry, LastCheckpoint};
pub use segments::Segments;
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
