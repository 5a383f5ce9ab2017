//! `uri` → root key: parsed once at the edge, carried as a type.

use std::{fmt, path::PathBuf, str::FromStr};

use keyfold_core::error::{Code, Hint};

/// Where a root key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyUri {
    /// `file:PATH`
    File(PathBuf),
    /// `env:NAME`
    Environment(String),
}

/// Not the URI of a root key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Another scheme, or none. The text is not repeated: it may be the key itself, given by mistake.
    #[error("not the URI of a root key")]
    Unknown,
    /// Not a name a variable can have.
    #[error("`env:` must be followed by the name of an environment variable")]
    Variable,
    /// `file:` with nothing behind it.
    #[error("`file:` must be followed by a path")]
    Path,
}

impl UriError {
    /// Always [`Code::KeyInvalid`].
    #[must_use]
    pub const fn code(&self) -> Code {
        Code::KeyInvalid
    }
}

impl Hint for UriError {
    fn hint(&self) -> Option<String> {
        Some("write file:PATH or env:NAME; a key itself never belongs on a command line".into())
    }
}

impl FromStr for KeyUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if let Some(path) = text.strip_prefix("file:") {
            return if path.is_empty() { Err(UriError::Path) } else { Ok(Self::File(path.into())) };
        }
        let name = text.strip_prefix("env:").ok_or(UriError::Unknown)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(plain) || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(UriError::Variable);
        }
        Ok(Self::Environment(name.into()))
    }
}

impl fmt::Display for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Environment(name) => write!(f, "env:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_reads_back_and_anything_else_is_refused_without_repeating_it() {
        for text in ["file:/a/b", "file:rel", "env:NAME_1"] {
            assert_eq!(text.parse::<KeyUri>().unwrap().to_string(), text);
        }
        for text in ["", "file:", "env:", "env:1A", "env:A-B", "sekret=", "http://user:hunter2@x"] {
            let error = text.parse::<KeyUri>().unwrap_err();
            assert!(!error.to_string().contains("hunter2") && !error.to_string().contains("sekret"));
        }
    }
}
