//! What storage can answer instead of data. It is always an error and never an empty list.

use keyfold_core::error::{Code, Hint};

use super::{NameError, RecordKey};

/// The cause, kept for the log. Drivers do not put values of rows into their messages.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a store did not do what it was asked to.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, is locked, or broke off in between.
    #[error("{store} is unavailable: {what}")]
    Unavailable {
        /// The store, as it describes itself.
        store: String,
        /// One line of what happened.
        what: String,
        /// Whether the same call can succeed later without anybody doing anything.
        retry: bool,
        /// What the driver said.
        #[source]
        source: Option<Cause>,
    },

    /// There is nothing at that address. It is not an empty store.
    #[error("{store} does not exist")]
    Missing {
        /// The store, as it describes itself.
        store: String,
        /// Who would make it, and how.
        hint: &'static str,
    },

    /// No space is left. What was stored before is still there; nothing of this call is.
    #[error("{store} is full")]
    Full {
        /// The store, as it describes itself.
        store: String,
        /// What the driver said.
        #[source]
        source: Option<Cause>,
    },

    /// What is stored breaks the store's own rules.
    #[error("{store} is damaged: {what}")]
    Corrupt {
        /// The store, as it describes itself.
        store: String,
        /// One line of what was found.
        what: String,
        /// What the driver said.
        #[source]
        source: Option<Cause>,
    },

    /// Something else lives at that address.
    #[error("{store} is not a Keyfold store: {what}")]
    Foreign {
        /// The store, as it describes itself.
        store: String,
        /// One line of what was found.
        what: String,
    },

    /// It lacks a table, a column or a key that the layout of a collection names.
    #[error("{store} is not laid out as configured: {what}")]
    Layout {
        /// The store, as it describes itself.
        store: String,
        /// All that does not fit.
        what: String,
    },

    /// A newer Keyfold wrote it. An older one does not touch it.
    #[error("{store} has schema version {found}, and this build knows versions up to {known}")]
    SchemaTooNew {
        /// The store, as it describes itself.
        store: String,
        /// The version found.
        found: u64,
        /// The newest version this build knows.
        known: u64,
    },

    /// The store answers and refuses: a missing right, a read-only file, a missing table.
    #[error("{store} refused: {what}")]
    Refused {
        /// The store, as it describes itself.
        store: String,
        /// One line of what was refused.
        what: String,
        /// What the driver said.
        #[source]
        source: Option<Cause>,
    },

    /// The store answers, and is set up so that what is to lie in it would not be safe.
    #[error("{store} is not suitable: {what}")]
    Unsuitable {
        /// The store, as it describes itself.
        store: String,
        /// One line of what was found.
        what: String,
        /// What to change.
        hint: &'static str,
    },

    /// A batch was to be stored only if none of its records is there, and one is. Nothing was written.
    #[error("record `{key}` exists already; nothing was written")]
    Exists {
        /// The first such record.
        key: RecordKey,
    },

    /// The caller asked for something no store does.
    #[error("{what}")]
    InvalidArgument {
        /// One line of what is wrong with it.
        what: String,
    },
}

impl StoreError {
    /// An argument that no store takes.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::InvalidArgument { what: what.into() }
    }

    /// Whether the same call can succeed later without anybody doing anything.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { retry: true, .. })
    }

    /// The stable code, where one fits.
    #[must_use]
    pub const fn code(&self) -> Option<Code> {
        match self {
            Self::Unavailable { .. }
            | Self::Missing { .. }
            | Self::Full { .. }
            | Self::Refused { .. }
            | Self::Unsuitable { .. } => Some(Code::ProviderUnavailable),
            Self::Corrupt { .. } | Self::Foreign { .. } => Some(Code::Malformed),
            Self::SchemaTooNew { .. } => Some(Code::UnsupportedFormat),
            Self::Exists { .. } | Self::Layout { .. } | Self::InvalidArgument { .. } => None,
        }
    }
}

impl From<NameError> for StoreError {
    fn from(error: NameError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl Hint for StoreError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unavailable { retry: true, .. } => "try again; if it lasts, see which process holds the store",
            Self::Unavailable { retry: false, .. } => "check the address, and that the store runs and can be reached",
            Self::Full { .. } => "free some space; what was stored before is untouched",
            Self::Corrupt { .. } => "stop writers, copy the store away, then restore a backup or repair the copy",
            Self::Foreign { .. } => "choose another address; Keyfold changes only stores that it made",
            Self::Layout { .. } => "correct the collection in keyfold.toml, or name another database",
            Self::SchemaTooNew { .. } => "use the newer Keyfold that wrote it",
            Self::Refused { .. } => "check the rights of the account that Keyfold uses",
            Self::Missing { hint, .. } | Self::Unsuitable { hint, .. } => hint,
            Self::Exists { .. } => "choose another key, or say that existing records are to be skipped or replaced",
            Self::InvalidArgument { .. } => return None,
        };
        Some(hint.into())
    }
}
