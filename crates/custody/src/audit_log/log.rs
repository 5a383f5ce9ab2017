//! An audit log to be read, wherever it lies.

use std::path::{Path, PathBuf};

use keyfold_core::audit::{Report, VerifierKey};

use super::{AuditError, AuditLog, Entry, LastCheckpoint, StoredLog};

/// A log to be read: a folder of segment files, or one in a store. Cheap to clone.
///
/// What reads a folder blocks while it reads; a service does it on a thread for that.
#[derive(Clone)]
pub enum Log {
    /// Segment files.
    Folder(PathBuf),
    /// Lines in a store.
    Stored(StoredLog),
}

impl Log {
    /// Where the segment files are, where it is in such.
    #[must_use]
    pub fn segments(&self) -> Option<&Path> {
        match self {
            Self::Folder(path) => Some(path),
            Self::Stored(_) => None,
        }
    }

    fn folder(path: &Path) -> AuditLog {
        AuditLog::at(path)
    }

    /// Reads everything and holds it against the deployment's key.
    ///
    /// # Errors
    /// Something could not be read. What could be read and is wrong is in the report.
    pub async fn verify(&self, key: &VerifierKey) -> Result<Report, AuditError> {
        match self {
            Self::Folder(path) => Self::folder(path).verify(key),
            Self::Stored(log) => log.verify(key).await,
        }
    }

    /// The last checkpoint, not verified yet; `None` where there is none, or none that can be read.
    ///
    /// # Errors
    /// Something could not be read.
    pub async fn last_checkpoint(&self) -> Result<Option<LastCheckpoint>, AuditError> {
        match self {
            Self::Folder(path) => Self::folder(path).last_checkpoint(),
            Self::Stored(log) => log.last_checkpoint().await,
        }
    }

    /// The last `count` events over all chains, oldest first.
    ///
    /// # Errors
    /// Something could not be read.
    pub async fn tail(&self, count: usize) -> Result<Vec<Entry>, AuditError> {
        match self {
            Self::Folder(path) => Self::folder(path).tail(count),
            Self::Stored(log) => log.tail(count).await,
        }
    }

    /// Gives every event, chain by chain, until `each` says no.
    ///
    /// # Errors
    /// Something could not be read.
    pub async fn export(&self, each: impl AsyncFnMut(&Entry) -> bool) -> Result<(), AuditError> {
        match self {
            Self::Folder(path) => Self::folder(path).export(each).await,
            Self::Stored(log) => log.export(each).await,
        }
    }
}
