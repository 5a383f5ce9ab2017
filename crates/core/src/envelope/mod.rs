//! The three formats a sealed value can have, and the errors they share.
//!
//! Each format module works on one key at a time; [`crate::keyring::Keyring`] decides which.

pub mod fernet;
pub mod kf1;
pub mod lenient;
pub mod redis_sre_v1;

use std::{fmt, str::FromStr};

use crate::{
    clock::UnixTime,
    context::ContextError,
    error::{Code, Hint},
    id::KeyId,
    rng::RandomError,
};

/// A format that this build seals and opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Keyfold's own envelope: key id, context, commitment.
    Kf1,
    /// redis-sre-agent's envelope: neither key id nor context.
    V1,
    /// Fernet, as Auto SRE and Python's `cryptography` use it: neither key id nor context.
    Fernet,
}

impl Format {
    /// All of them, strongest first.
    pub const ALL: [Self; 3] = [Self::Kf1, Self::V1, Self::Fernet];

    /// The name on the command line, in configuration and in events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kf1 => "kf1",
            Self::V1 => "v1",
            Self::Fernet => "fernet",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not the name of a format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a format; the formats are kf1, v1 and fernet")]
pub struct ParseFormatError(String);

impl FromStr for Format {
    type Err = ParseFormatError;

    fn from_str(text: &str) -> Result<Self, ParseFormatError> {
        Self::ALL
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| ParseFormatError(text.chars().take(40).collect()))
    }
}

/// How strictly a reader takes a value's spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reading {
    /// Only what the format's writer could have written.
    #[default]
    Strict,
    /// What the Python originals accept besides: white space, other JSON spacing, unknown members.
    Compat,
}

/// Why a value was not sealed.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// No randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The secret is over the limit.
    #[error("the secret has {found} bytes, at most {limit} can be sealed")]
    TooLarge {
        /// Bytes given.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The v1 format holds text.
    #[error("the secret is not UTF-8, and the v1 format holds text only")]
    NotText,
    /// No key in the keyring may seal in this format.
    #[error("no primary key in the keyring seals {format}")]
    NoPrimary {
        /// The format asked for.
        format: Format,
    },
    /// The library refused; it does not say why.
    #[error("the cryptographic library refused to seal")]
    Library,
}

impl SealError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Random(_) | Self::Library => Code::ProviderUnavailable,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::NotText => Code::Malformed,
            Self::NoPrimary { .. } => Code::UnknownKey,
        }
    }
}

impl Hint for SealError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Random(error) => error.hint(),
            Self::TooLarge { .. } => Some("store large content elsewhere and seal the key that opens it".into()),
            Self::NotText => Some("use --format kf1, which seals any bytes".into()),
            Self::NoPrimary { format: Format::Fernet } => {
                Some("make one with `keyfold keys create --suites fernet` and promote it".into())
            }
            Self::NoPrimary { format } => {
                Some(format!("make one with `keyfold keys create --suites {format}` and promote it"))
            }
            Self::Library => None,
        }
    }
}

/// Why a value did not open. No variant holds plaintext, key material or ciphertext.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The value is not sealed.
    #[error("the value is not encrypted")]
    NotEncrypted,
    /// The value claims a format and breaks its rules.
    #[error("malformed {format}: {what} at byte {offset}")]
    Malformed {
        /// The format it claims.
        format: Format,
        /// Where, counted in the text or bytes given.
        offset: usize,
        /// Which rule.
        what: &'static str,
    },
    /// Looks like a sealed value that was cut, quoted or re-cased on its way.
    #[error("malformed: the value looks like an envelope with {what}")]
    Disguised {
        /// What surrounds it.
        what: &'static str,
    },
    /// Another system's ciphertext, or a version of ours from the future.
    #[error("unsupported format: {0}")]
    UnsupportedFormat(&'static str),
    /// A suite or flag byte this build does not know, or that the key may not serve.
    #[error("suite {0} is not served")]
    UnsupportedSuite(String),
    /// The envelope names a key that this keyring does not hold. Nothing was tried.
    #[error("key `{kid}` is not in the keyring")]
    UnknownKey {
        /// As written in the envelope.
        kid: KeyId,
    },
    /// The key is retired.
    #[error("key `{kid}` is retired")]
    KeyRetired {
        /// Which.
        kid: KeyId,
    },
    /// Only a tombstone is left of the key.
    #[error("key `{kid}` was destroyed at {at}")]
    KeyDestroyed {
        /// Which.
        kid: KeyId,
        /// When.
        at: UnixTime,
    },
    /// A format without key ids: every key was tried.
    #[error("Decryption failed: wrong key or changed {format} value; keys tried: {}", list(.tried))]
    WrongKeyOrTampered {
        /// The format.
        format: Format,
        /// Every key that was tried.
        tried: Vec<KeyId>,
    },
    /// The key is held and the envelope does not authenticate. Whether context, key or bytes are wrong is not said.
    #[error("Decryption failed: the envelope does not authenticate under key `{kid}` and this context")]
    ContextMismatchOrTampered {
        /// The key named by the envelope.
        kid: KeyId,
    },
    /// Older than the caller allows, or from the future.
    #[error("the token's time is {timestamp}, outside what is allowed at {now}")]
    Expired {
        /// When it was made.
        timestamp: UnixTime,
        /// When it was looked at.
        now: UnixTime,
    },
    /// The accept policy does not allow the format found.
    #[error("format {found} is not accepted here; accepted: {accepted}")]
    FormatNotAccepted {
        /// What was found.
        found: &'static str,
        /// The policy, in words.
        accepted: String,
    },
    /// Over the size limit.
    #[error("the envelope is over the size limit")]
    TooLarge,
    /// The context that it should be bound to cannot be made.
    #[error(transparent)]
    Context(#[from] ContextError),
}

fn list(kids: &[KeyId]) -> String {
    if kids.is_empty() {
        return "none".into();
    }
    kids.iter().map(|kid| format!("`{kid}`")).collect::<Vec<_>>().join(", ")
}

impl OpenError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::NotEncrypted => Code::NotEncrypted,
            Self::Malformed { .. } | Self::Disguised { .. } => Code::Malformed,
            Self::UnsupportedFormat(_) => Code::UnsupportedFormat,
            Self::UnsupportedSuite(_) => Code::UnsupportedSuite,
            Self::UnknownKey { .. } => Code::UnknownKey,
            Self::KeyRetired { .. } => Code::KeyRetired,
            Self::KeyDestroyed { .. } => Code::KeyDestroyed,
            Self::WrongKeyOrTampered { .. } => Code::WrongKeyOrTampered,
            Self::ContextMismatchOrTampered { .. } => Code::ContextMismatchOrTampered,
            Self::Expired { .. } => Code::Expired,
            Self::FormatNotAccepted { .. } => Code::FormatNotAccepted,
            Self::TooLarge => Code::TooLarge,
            Self::Context(error) => error.code(),
        }
    }
}

impl Hint for OpenError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotEncrypted => "seal it with `keyfold seal`, or find out who stored it in plaintext".into(),
            Self::Malformed { .. } => {
                "the value was cut or changed after it was sealed; restore it from a copy, it is not returned as it is"
                    .into()
            }
            Self::Disguised { .. } => {
                "strip what surrounds the envelope and store exactly what `keyfold seal` printed".into()
            }
            Self::UnsupportedFormat(_) => "open it with the system that wrote it".into(),
            Self::UnsupportedSuite(_) => "a newer Keyfold may have written it; see `keyfold inspect`".into(),
            Self::UnknownKey { .. } => {
                "restore the keyring that holds it with `keyfold keys restore`, or set the environment variable of the \
                 key that sealed it"
                    .into()
            }
            Self::KeyRetired { kid } => format!("put it back into use with `keyfold keys activate {kid}`"),
            Self::KeyDestroyed { .. } => "restore a copy of the record that was sealed under a later key".into(),
            Self::WrongKeyOrTampered { format: Format::Fernet, .. } => {
                "put the key that sealed it into SRE_AGENT_ENCRYPTION_KEY_PREVIOUS".into()
            }
            Self::WrongKeyOrTampered { .. } => {
                "put the key that sealed it into REDIS_SRE_MASTER_KEY_PREVIOUS; compare ids with `keyfold keys list`"
                    .into()
            }
            Self::ContextMismatchOrTampered { .. } => {
                "was it copied from another record or field? give the same --context it was sealed with".into()
            }
            Self::Expired { .. } => "sign in again, or check the clocks".into(),
            Self::FormatNotAccepted { found, .. } => {
                format!("accept `{found}` for a stated time in keyfold.toml, then run `keyfold migrate`")
            }
            Self::TooLarge => "envelopes hold at most 1 MiB".into(),
            Self::Context(error) => return error.hint(),
        })
    }
}
