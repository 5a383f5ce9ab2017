//! What a use case can answer instead of doing what it was asked, sorted by who can mend it.

use keyfold_core::{
    context::ContextError,
    envelope::{OpenError, SealError},
    error::{Code, Hint},
    keyring::{document::DocumentError, edit::EditError},
    rewrap::MoveError,
    rng::RandomError,
    root::RootError,
};

use crate::{access::Refusal, audit_log::AuditError, layout::json::JsonError, store::StoreError};

/// Why a use case did not happen. Each variant keeps the layer's own error as its text and cause.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    /// The actor may not.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit log. Nothing left and nothing was written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The keyring document.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A change of the keyring.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The root key.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A value did not open.
    #[error("{place}: {source}")]
    Open {
        /// Collection, record and field.
        place: String,
        /// Why.
        source: OpenError,
    },
    /// A value was not sealed.
    #[error("{place}: {source}")]
    Seal {
        /// Collection, record and field.
        place: String,
        /// Why.
        source: SealError,
    },
    /// A value was not moved.
    #[error("{place}: {source}")]
    Move {
        /// Collection, record and field.
        place: String,
        /// Why.
        source: MoveError,
    },
    /// A document is not the JSON it must be.
    #[error("{place}: {source}")]
    Json {
        /// Collection and record.
        place: String,
        /// Why.
        source: JsonError,
    },
    /// A context over its limits.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// Randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// Something that is refused by its own rules; the text says which.
    #[error("{what}")]
    Invalid {
        /// One line.
        what: String,
        /// What to do.
        hint: String,
        /// The stable code, where one fits.
        code: Option<Code>,
    },
    /// Another process must act, or be struck off, first.
    #[error("{what}")]
    Waiting {
        /// One line that names the processes or records.
        what: String,
        /// What to do.
        hint: String,
    },
    /// Nothing of that name.
    #[error("{what}")]
    NotFound {
        /// One line.
        what: String,
        /// What to do.
        hint: String,
    },
    /// Somebody else wrote first.
    #[error("{what}")]
    Conflict {
        /// One line.
        what: String,
    },
    /// A file of the data folder.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A write was begun, and then something failed: it may have happened, or has.
    #[error("{error}")]
    InDoubt {
        /// What failed.
        error: Box<Self>,
        /// Whether it is known that the write happened.
        happened: bool,
    },
}

impl CustodyError {
    /// Something its own rules refuse.
    pub fn invalid(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), hint: hint.into(), code: None }
    }

    /// This error, of a write that was begun. What a store or a disk refused did not happen; where they broke off, nobody knows.
    pub(crate) fn of_a_write(self) -> Self {
        match self {
            Self::Store(StoreError::Unavailable { .. }) | Self::Io { .. } => {
                Self::InDoubt { error: Box::new(self), happened: false }
            }
            other => other,
        }
    }

    /// This error, which came after a write that happened. Nobody must take it for a reason to do it again.
    #[must_use]
    pub fn afterwards(self) -> Self {
        Self::InDoubt { error: Box::new(self), happened: true }
    }

    /// The stable code, where one fits.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Store(error) => error.code(),
            Self::Audit(error) => Some(error.code()),
            Self::Document(error) => Some(error.code()),
            Self::Edit(error) => Some(error.code()),
            Self::Root(error) => Some(error.code()),
            Self::Open { source, .. } => Some(source.code()),
            Self::Seal { source, .. } => Some(source.code()),
            Self::Move { source, .. } => Some(source.code()),
            Self::Json { .. } => Some(Code::Malformed),
            Self::Context(error) => Some(error.code()),
            Self::Random(error) => Some(error.code()),
            Self::Invalid { code, .. } => *code,
            Self::Io { .. } => Some(Code::ProviderUnavailable),
            Self::InDoubt { error, .. } => error.code(),
            Self::Refused(_) | Self::Waiting { .. } | Self::NotFound { .. } | Self::Conflict { .. } => None,
        }
    }
}

impl Hint for CustodyError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Audit(error) => error.hint(),
            Self::Document(error) => error.hint(),
            Self::Edit(error) => error.hint(),
            Self::Root(error) => error.hint(),
            Self::Open { source: OpenError::NotEncrypted, .. } => {
                Some("accept plaintext in this collection until a day, then run `keyfold migrate`".into())
            }
            Self::Open { source: OpenError::ContextMismatchOrTampered { .. }, .. } => {
                Some("was it copied from another record or field? put the secret itself into this one".into())
            }
            Self::Open { source, .. } => source.hint(),
            Self::Seal { source, .. } => source.hint(),
            Self::Move { source, .. } => source.hint(),
            Self::Json { source, .. } => source.hint(),
            Self::Context(error) => error.hint(),
            Self::Random(error) => error.hint(),
            Self::Invalid { hint, .. } | Self::Waiting { hint, .. } | Self::NotFound { hint, .. } => Some(hint.clone()),
            Self::Conflict { .. } => Some("somebody else wrote first; read it again and decide anew".into()),
            Self::Io { .. } => Some("check the data folder's owner, its rights and the space left".into()),
            Self::InDoubt { error, happened } => {
                let first =
                    if *happened { "it was done all the same; do not do it again" } else { "look whether it was done" };
                Some(error.hint().map_or_else(|| first.into(), |hint| format!("{first}; {hint}")))
            }
        }
    }
}
