//! The short texts an event may hold: each has a rule, a bound, and no room for a secret of any size.

use std::{borrow::Cow, fmt, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};

use crate::{envelope::Format, error::Code, id::to_hex};

/// The longest [`Name`], in bytes. Longer ones are abridged, so that no record is too long-winded to be audited.
pub const MAX_NAME: usize = 1024;
/// The longest [`Actor`], in bytes.
pub const MAX_ACTOR: usize = 256;
/// The longest [`Word`], in bytes.
pub const MAX_WORD: usize = 64;
/// The longest [`Deployment`], in bytes.
pub const MAX_DEPLOYMENT: usize = 128;

/// A text broke the rule of its type. The text itself is not repeated: somebody may have put a secret there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes that are not {rule}")]
pub struct TextError {
    rule: &'static str,
    len: usize,
}

// Names and actors are shared, since every value of a batch names the same one; words are mostly constants.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident($held:ty), $says:literal, $rule:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name($held);

        impl $name {
            /// Checks the rule of the type.
            ///
            /// # Errors
            /// The text breaks the rule.
            pub fn new(text: impl Into<String>) -> Result<Self, TextError> {
                let text = text.into();
                let rule: fn(&str) -> bool = $rule;
                if rule(&text) { Ok(Self(text.into())) } else { Err(TextError { rule: $says, len: text.len() }) }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = TextError;

            fn try_from(text: String) -> Result<Self, TextError> {
                Self::new(text)
            }
        }
    };
}

text!(
    /// Who acted: a kind, a colon and an id, such as `local:1000` or `agent:triage`.
    Actor(Arc<str>),
    "an actor (`kind:id`, printable ASCII, at most 256)",
    |text| {
        text.len() <= MAX_ACTOR
            && text.split_once(':').is_some_and(|(kind, id)| {
                !kind.is_empty()
                    && kind.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
                    && !id.is_empty()
                    && id.bytes().all(|b| b.is_ascii_graphic())
            })
    }
);
text!(
    /// A collection, record, field or job: 1 to 1024 bytes without control characters.
    Name(Arc<str>),
    "a name (1 to 1024, no control characters)",
    |text| !text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control)
);
text!(
    /// A word of a closed vocabulary, such as a format or an error code: `[a-z0-9_]`, at most 64.
    Word(Cow<'static, str>),
    "a word (`a-z`, `0-9`, `_`, at most 64)",
    |text| {
        !text.is_empty()
            && text.len() <= MAX_WORD
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    }
);
text!(
    /// The deployment's id, as it stands in origins and key names: letters, digits, `.`, `_` and `-`, at most 128.
    Deployment(Arc<str>),
    "a deployment id (letters, digits, `.`, `_`, `-`, at most 128)",
    |text| {
        !text.is_empty()
            && text.len() <= MAX_DEPLOYMENT
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    }
);

impl Name {
    /// A name for any text. What breaks the rule has its control characters replaced, is cut, and ends in the SHA-256
    /// of the original, so that two long record ids stay two.
    #[must_use]
    pub fn abridge(text: &str) -> Self {
        if let Ok(name) = Self::new(text) {
            return name;
        }
        let sum = to_hex(digest(&SHA256, text.as_bytes()).as_ref());
        let mut short: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let mut end = short.len().min(MAX_NAME - 80);
        while !short.is_char_boundary(end) {
            end -= 1;
        }
        short.truncate(end);
        Self(format!("{short}…sha256:{sum}").into())
    }
}

impl Word {
    /// The result of what went well.
    #[must_use]
    pub fn done() -> Self {
        Self("done".into())
    }
}

impl From<Code> for Word {
    fn from(code: Code) -> Self {
        Self(code.as_str().into())
    }
}

impl From<Format> for Word {
    fn from(format: Format) -> Self {
        Self(format.as_str().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_needs_a_kind_and_an_id() {
        assert!(Actor::new("local:1000").is_ok());
        for bad in ["", "local", "local:", ":1000", "local:a b", "local:a\n", "LOCAL:1"] {
            assert!(Actor::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_long_name_is_abridged_and_stays_distinct() {
        let (one, two) = (format!("{}1", "ä".repeat(2000)), format!("{}2", "ä".repeat(2000)));
        let (one, two) = (Name::abridge(&one), Name::abridge(&two));
        assert!(one != two && one.as_str().len() <= MAX_NAME);
        assert!(Name::new(one.as_str()).is_ok());
        assert!(Name::new(Name::abridge("a\nb").as_str()).is_ok());
        assert_eq!(Name::abridge("plain").as_str(), "plain");
    }

    #[test]
    fn an_error_does_not_repeat_the_text() {
        let said = Word::new("hunter2 hunter2").unwrap_err().to_string();
        assert!(!said.contains("hunter2"), "{said}");
    }
}
