//! Why the audit log could not take an event.

use std::{io, path::PathBuf, sync::Arc};

use keyfold_core::{
    audit::{EventError, KeyError, TextError},
    error::{Code, Hint},
};

/// Why an event is not durable. Cloned to everyone whose batch shared the flush.
#[non_exhaustive]
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuditError {
    /// A file or folder of the log failed.
    #[error("the audit log cannot {what} `{}`", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },

    /// The file being written is no longer in the folder.
    #[error("the audit file `{}` was removed or replaced while it was written", path.display())]
    Gone {
        /// Where it was.
        path: PathBuf,
    },

    /// Another process holds the notes for too long.
    #[error("another process holds `{}`", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
    },

    /// An earlier failure left this writer in a state from which it cannot go on.
    #[error("the audit log stopped after an earlier failure")]
    Stopped {
        /// That failure.
        source: Option<Arc<AuditError>>,
    },

    /// The log was closed.
    #[error("the audit log is closed")]
    Closed,

    /// An event has no stored form.
    #[error("an event cannot be written")]
    Event(#[from] EventError),

    /// The signing key was refused.
    #[error("the audit key cannot sign")]
    Key(#[from] KeyError),

    /// The deployment's id cannot name a log.
    #[error("the deployment's id cannot name an audit log")]
    Deployment(#[from] TextError),
}

impl AuditError {
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { what, path: path.into(), source: Arc::new(source) }
    }

    /// The stable code: whatever the reason, the operation was not done.
    #[must_use]
    pub const fn code(&self) -> Code {
        Code::AuditUnavailable
    }
}

impl Hint for AuditError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "the disk is full: free space; nothing is done unaudited meanwhile".into()
            }
            Self::Io { path, .. } => format!("check that `{}` exists, is writable and has space", path.display()),
            Self::Gone { .. } => "put the file back for `keyfold audit verify`, and restart this process".into(),
            Self::Busy { .. } => "see which process holds it (`lsof`); a stopped one keeps its lock".into(),
            Self::Stopped { .. } => "restart this process once the storage is healthy; it begins a new chain".into(),
            Self::Closed => "the process is shutting down".into(),
            Self::Event(_) => return None,
            Self::Key(_) | Self::Deployment(_) => "check the deployment document in the data folder".into(),
        })
    }
}
