//! The seven rights, and sets of them.

use std::{fmt, str::FromStr};

/// Something that can be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Right {
    /// Put secrets in.
    Seal = 1,
    /// See plaintext.
    Open = 2,
    /// Let a credential be used without seeing it.
    Use = 4,
    /// See what is there, redacted.
    List = 8,
    /// Move secrets to other keys and formats.
    Rotate = 16,
    /// Change keys, policies and tokens.
    Manage = 32,
    /// Read the audit log.
    Audit = 64,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Seal, Self::Open, Self::Use, Self::List, Self::Rotate, Self::Manage, Self::Audit];

    /// The word in grants and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seal => "seal",
            Self::Open => "open",
            Self::Use => "use",
            Self::List => "list",
            Self::Rotate => "rotate",
            Self::Manage => "manage",
            Self::Audit => "audit",
        }
    }

    /// Whether it is about the deployment as a whole, and never about a part of it.
    #[must_use]
    pub const fn is_whole(self) -> bool {
        matches!(self, Self::Manage | Self::Audit)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not a right. What was given is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be one of seal, open, use, list, rotate, manage, audit")]
pub struct NotARight;

impl FromStr for Right {
    type Err = NotARight;

    fn from_str(text: &str) -> Result<Self, NotARight> {
        Self::ALL.into_iter().find(|right| right.as_str() == text).ok_or(NotARight)
    }
}

/// Some rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RightSet(u8);

impl RightSet {
    /// Every right.
    pub const ALL: Self = Self(127);

    /// Whether the right is among them.
    #[must_use]
    pub const fn has(self, right: Right) -> bool {
        self.0 & right as u8 != 0
    }

    /// The rights in it.
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.has(*right))
    }
}

impl FromIterator<Right> for RightSet {
    fn from_iter<T: IntoIterator<Item = Right>>(rights: T) -> Self {
        Self(rights.into_iter().fold(0, |set, right| set | right as u8))
    }
}
