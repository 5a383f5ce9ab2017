//! The root key: what wraps a keyring. Implementations live in `keyfold-providers`.
//!
//! A root key wraps one key for each keyring document, whatever the number of entries in it, and unwraps that one when the
//! document is opened.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    clock::UnixTime,
    error::{Code, Hint},
    secret::Key32,
};

/// Why a root key did not wrap or unwrap. Each variant has its own remedy.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// The root key, or what is needed to reach it, is missing or not in the form it must have.
    #[error("{place}: {why}")]
    Invalid {
        /// Where it was looked for; never the key.
        place: String,
        /// What is wrong.
        why: String,
        /// What to do.
        hint: String,
    },
    /// The wrapped key does not authenticate under this root and this use.
    #[error("{place}: the wrapped key does not authenticate under this root key")]
    Authentication {
        /// Which root key.
        place: String,
    },
    /// There is no key of that name, or no longer.
    #[error("{place}: there is no such key: {why}")]
    Missing {
        /// Which root key.
        place: String,
        /// In the provider's words.
        why: String,
    },
    /// The key is there and switched off, or waits to be deleted.
    #[error("{place}: the key is disabled: {why}")]
    Disabled {
        /// Which root key.
        place: String,
        /// In the provider's words.
        why: String,
    },
    /// Nobody vouches for this process, or it may not use the key.
    #[error("{place}: no permission: {why}")]
    Denied {
        /// Which root key.
        place: String,
        /// In the provider's words.
        why: String,
    },
    /// Too many requests; it was tried again within bounds.
    #[error("{place}: the provider throttles requests")]
    Throttled {
        /// Which root key.
        place: String,
    },
    /// No answer within the bound, each time it was tried.
    #[error("{place}: no answer within {seconds} s")]
    TimedOut {
        /// Which root key.
        place: String,
        /// The bound of one attempt.
        seconds: u64,
    },
    /// The place could not be reached.
    #[error("{place}: {why}")]
    Unavailable {
        /// Which root key.
        place: String,
        /// In words.
        why: String,
        /// Whether trying again may help.
        retry: bool,
    },
    /// A write that was sent, and of which nobody knows whether it arrived.
    #[error("{place}: {why}; it may have been stored")]
    Unclear {
        /// Where to.
        place: String,
        /// Why it is not known.
        why: String,
    },
}

impl RootError {
    /// `key_invalid`, `wrong_key_or_tampered` or `provider_unavailable`.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } | Self::Missing { .. } | Self::Disabled { .. } => Code::KeyInvalid,
            Self::Authentication { .. } => Code::WrongKeyOrTampered,
            Self::Denied { .. }
            | Self::Throttled { .. }
            | Self::TimedOut { .. }
            | Self::Unavailable { .. }
            | Self::Unclear { .. } => Code::ProviderUnavailable,
        }
    }

    /// Whether the same call may succeed a moment later.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Throttled { .. } | Self::TimedOut { .. } | Self::Unavailable { retry: true, .. })
    }

    /// A word for each kind, for reports and tests.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "invalid",
            Self::Authentication { .. } => "authentication",
            Self::Missing { .. } => "missing",
            Self::Disabled { .. } => "disabled",
            Self::Denied { .. } => "denied",
            Self::Throttled { .. } => "throttled",
            Self::TimedOut { .. } => "timed_out",
            Self::Unavailable { .. } => "unavailable",
            Self::Unclear { .. } => "unclear",
        }
    }
}

impl Hint for RootError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Invalid { hint, .. } => hint.clone(),
            Self::Authentication { .. } => {
                "is this the root key that the keyring was made with? put that one back".into()
            }
            Self::Missing { .. } => {
                "check the name; if the key was deleted, open the keyring with another of its roots and take this one off \
                 it (`keyfold keys remove-root`), or use the recovery key (docs/recover.md)"
                    .into()
            }
            Self::Disabled { .. } => {
                "enable the key or cancel its deletion where it is kept; nothing was changed here".into()
            }
            Self::Denied { .. } => {
                "give this process the right to encrypt and decrypt with the key, and look whether its credentials expired"
                    .into()
            }
            Self::Throttled { .. } => "wait a moment and try again; raise the provider's limit if this stays".into(),
            Self::TimedOut { .. } => "check the network and the provider's status, then try again; nothing was changed".into(),
            Self::Unavailable { retry: true, .. } => "try again; nothing was changed".into(),
            Self::Unavailable { retry: false, .. } => "check the place and the permissions; nothing was changed".into(),
            Self::Unclear { .. } => "look there which version is the latest one before you try again".into(),
        })
    }
}

/// What a provider says of itself when it is looked after.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tended {
    /// The time by the provider's clock, where it tells.
    pub time: Option<UnixTime>,
    /// When what lets this process in ends, in seconds from now, where it ends.
    pub expires_in: Option<u64>,
}

/// A key that wraps a few keys. Asked when a process starts and when keys change, never once per secret, so slow and
/// remote is fine. Every call ends within a bound.
#[async_trait]
pub trait RootKey: Send + Sync {
    /// The URI of the key, without credentials, for messages.
    fn uri(&self) -> &str;

    /// Wraps `key`; the result opens only with the same `aad`.
    async fn wrap(&self, key: &Key32, aad: &[u8]) -> Result<Vec<u8>, RootError>;

    /// Unwraps what [`RootKey::wrap`] gave.
    async fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<Key32, RootError>;

    /// Renews what lets this process in, where that ends, and tells the provider's time. Long-lived processes call it now
    /// and then; it uses the key for nothing.
    ///
    /// # Errors
    /// As for the other calls.
    async fn tend(&self) -> Result<Tended, RootError> {
        Ok(Tended::default())
    }
}

/// Opens the other root keys of a keyring, by the URIs that its authenticated document names.
pub trait OpenRoot: Send + Sync {
    /// The root key that a URI names.
    ///
    /// # Errors
    /// Not a URI, or a place this build cannot reach.
    fn open_root(&self, uri: &str) -> Result<Arc<dyn RootKey>, RootError>;
}
