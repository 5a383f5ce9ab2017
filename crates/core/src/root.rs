//! The root key: what wraps a keyring. Implementations live in `keyfold-providers`.

use async_trait::async_trait;

use crate::{
    error::{Code, Hint},
    secret::Key32,
};

/// Why a root key did not wrap or unwrap.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The root key is missing or not in the form it must have.
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
}

impl RootError {
    /// `key_invalid`, `wrong_key_or_tampered` or `provider_unavailable`.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Invalid { .. } => Code::KeyInvalid,
            Self::Authentication { .. } => Code::WrongKeyOrTampered,
            Self::Unavailable { .. } => Code::ProviderUnavailable,
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
            Self::Unavailable { retry: true, .. } => "try again; nothing was changed".into(),
            Self::Unavailable { retry: false, .. } => "check the place and the permissions; nothing was changed".into(),
        })
    }
}

/// A key that wraps a few keys. Asked when a process starts and when keys change, never once per secret, so slow and
/// remote is fine.
#[async_trait]
pub trait RootKey: Send + Sync {
    /// The URI of the key, without credentials, for messages.
    fn uri(&self) -> &str;

    /// Wraps `key`; the result opens only with the same `aad`.
    async fn wrap(&self, key: &Key32, aad: &[u8]) -> Result<Vec<u8>, RootError>;

    /// Unwraps what [`RootKey::wrap`] gave.
    async fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<Key32, RootError>;
}
