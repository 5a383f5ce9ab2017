//! Error codes and hints: the two things every error of this project carries beside its text.

use std::fmt;

/// A stable name for what went wrong. Programs match on it; it never changes its meaning.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The value is not sealed at all.
    NotEncrypted,
    /// The value claims a format and breaks its rules.
    Malformed,
    /// A format or version this build does not know.
    UnsupportedFormat,
    /// A suite byte this build does not know, or that the key may not serve.
    UnsupportedSuite,
    /// The key that the envelope names is not in the keyring.
    UnknownKey,
    /// The key was retired: refused, but recoverable.
    KeyRetired,
    /// The key was destroyed; only its tombstone is left.
    KeyDestroyed,
    /// A format without key ids did not open under any key held.
    WrongKeyOrTampered,
    /// The key is held and the tag fails: another context, or a changed envelope.
    ContextMismatchOrTampered,
    /// The value is older than the caller allows.
    Expired,
    /// The format is outside the accept policy.
    FormatNotAccepted,
    /// A key is missing or not in the form it must have.
    KeyInvalid,
    /// A key has sealed as often as its format allows.
    KeyUsageExhausted,
    /// A value is over a stated limit.
    TooLarge,
    /// A root key, store or random source could not be reached.
    ProviderUnavailable,
    /// The audit log could not take an event, so the operation was not done.
    AuditUnavailable,
    /// A stored document does not authenticate or is older than one already seen.
    DocumentRefused,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::NotEncrypted,
        Self::Malformed,
        Self::UnsupportedFormat,
        Self::UnsupportedSuite,
        Self::UnknownKey,
        Self::KeyRetired,
        Self::KeyDestroyed,
        Self::WrongKeyOrTampered,
        Self::ContextMismatchOrTampered,
        Self::Expired,
        Self::FormatNotAccepted,
        Self::KeyInvalid,
        Self::KeyUsageExhausted,
        Self::TooLarge,
        Self::ProviderUnavailable,
        Self::AuditUnavailable,
        Self::DocumentRefused,
    ];

    /// The code as it appears in JSON and in problem types.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotEncrypted => "not_encrypted",
            Self::Malformed => "malformed",
            Self::UnsupportedFormat => "unsupported_format",
            Self::UnsupportedSuite => "unsupported_suite",
            Self::UnknownKey => "unknown_key",
            Self::KeyRetired => "key_retired",
            Self::KeyDestroyed => "key_destroyed",
            Self::WrongKeyOrTampered => "wrong_key_or_tampered",
            Self::ContextMismatchOrTampered => "context_mismatch_or_tampered",
            Self::Expired => "expired",
            Self::FormatNotAccepted => "format_not_accepted",
            Self::KeyInvalid => "key_invalid",
            Self::KeyUsageExhausted => "key_usage_exhausted",
            Self::TooLarge => "too_large",
            Self::ProviderUnavailable => "provider_unavailable",
            Self::AuditUnavailable => "audit_unavailable",
            Self::DocumentRefused => "document_refused",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the person who meets an error can do about it.
pub trait Hint {
    /// One sentence, lower case, without a full stop; `None` where nothing helps.
    fn hint(&self) -> Option<String>;
}
