//! Why the audit log could not take an event.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use keyfold_core::{
    audit::{EventError, KeyError, TextError},
    error::{Code, Hint},
};

use crate::store::StoreError;

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

    /// The store of the log failed.
    #[error("the audit log: {source}")]
    Store {
        /// What it said.
        source: Arc<StoreError>,
    },

    /// What the store holds of this writer's chain is not what it wrote.
    #[error("the audit log in {store} was changed below its writer")]
    Altered {
        /// The store.
        store: String,
    },

    /// Others added checkpoints all the time.
    #[error("other processes add checkpoints to the audit log in {store} all the time")]
    Crowded {
        /// The store.
        store: String,
    },

    /// The store holds the log of another deployment.
    #[error("{store} holds the audit log of the deployment `{found}`")]
    Elsewhere {
        /// The store.
        store: String,
        /// The deployment that its last checkpoint names.
        found: String,
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

    /// The event was not durable in time. It may become so later; what it announces was not done.
    #[error("the audit log did not take an event within {} s", waited.as_secs())]
    Slow {
        /// How long it was waited for.
        waited: Duration,
    },

    /// A log that somebody tampered with is left as it is.
    #[error("the audit log does not verify, and nothing was taken out of it: {found}")]
    Tampered {
        /// The worst that was found.
        found: String,
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

impl From<StoreError> for AuditError {
    fn from(error: StoreError) -> Self {
        Self::Store { source: Arc::new(error) }
    }
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
            Self::Store { source } => return source.hint(),
            Self::Crowded { .. } => "try again; raise `server.checkpoint` where many services run".into(),
            Self::Altered { .. } => "`keyfold audit verify` says what is wrong; then restart this process".into(),
            Self::Elsewhere { .. } => {
                "name another database for `[audit] sink`: one holds the log of one deployment".into()
            }
            Self::Gone { .. } => "put the file back for `keyfold audit verify`, and restart this process".into(),
            Self::Busy { .. } => "see which process holds it (`lsof`); a stopped one keeps its lock".into(),
            Self::Slow { .. } => {
                "look at the disk that holds the log; `audit.wait` in keyfold.toml is how long a call waits".into()
            }
            Self::Tampered { .. } => "see `keyfold audit verify`; keep the folder as it is".into(),
            Self::Stopped { .. } => "restart this process once the storage is healthy; it begins a new chain".into(),
            Self::Closed => "the process is shutting down".into(),
            Self::Event(_) => return None,
            Self::Key(_) | Self::Deployment(_) => "check the deployment document in the data folder".into(),
        })
    }
}
