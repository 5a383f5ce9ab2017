//! The context of a sealed value: the place it belongs to, bound into a `kf1` envelope.

use std::collections::BTreeMap;

use crate::{
    error::{Code, Hint},
    mac,
};

/// A map from names to bytes that says where a secret belongs. Values are bytes and are not normalized.
///
/// Canonical encoding: `u16 count ‖ sorted (u16 klen ‖ k ‖ u32 vlen ‖ v)`, big-endian; see `docs/formats.md`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context(BTreeMap<Vec<u8>, Vec<u8>>);

/// Why a context could not be made.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// A key is the empty string.
    #[error("a context key is empty")]
    EmptyKey,
    /// The same key was given twice.
    #[error("context key `{0}` is given twice")]
    RepeatedKey(String),
    /// A key is over 65,535 bytes, a value over 4 GiB, or there are over 65,535 entries.
    #[error("the context is over its limits")]
    TooLarge,
    /// Written without `=`.
    #[error("`{0}` is not of the form key=value")]
    NoEquals(String),
}

impl ContextError {
    /// [`Code::TooLarge`] or [`Code::Malformed`].
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::TooLarge => Code::TooLarge,
            _ => Code::Malformed,
        }
    }
}

impl Hint for ContextError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::EmptyKey | Self::NoEquals(_) => "write every entry as --context key=value".into(),
            Self::RepeatedKey(key) => format!("keep one value for `{key}`"),
            Self::TooLarge => "shorten keys to 65,535 bytes or less".into(),
        })
    }
}

/// SHA-256 over the canonical encoding of a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextDigest(pub(crate) [u8; 32]);

impl ContextDigest {
    /// The raw digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl ContextDigest {
    /// The digest of the context with these entries, given in the order of their keys' bytes: the same as
    /// [`Context::digest`], without making the map.
    ///
    /// # Errors
    /// Those of [`Context::with`]; keys out of order are told as repeated.
    pub fn of_sorted(entries: &[(&str, &[u8])]) -> Result<Self, ContextError> {
        let mut before = "";
        for &(key, _) in entries {
            if key.is_empty() {
                return Err(ContextError::EmptyKey);
            }
            if key <= before {
                return Err(ContextError::RepeatedKey(key.to_owned()));
            }
            before = key;
        }
        let entries = entries.iter().map(|&(key, value)| (key.as_bytes(), value));
        Ok(Self(mac::sha256(&[&encoded(LABEL, entries)?])))
    }
}

/// Where a value lies, for whoever has to know: to open a value, only `kf1` asks.
pub trait Located {
    /// The digest of the context.
    ///
    /// # Errors
    /// A context that cannot be made.
    fn digest(&self) -> Result<ContextDigest, ContextError>;
}

impl Located for ContextDigest {
    fn digest(&self) -> Result<ContextDigest, ContextError> {
        Ok(*self)
    }
}

/// The canonical encoding of entries in the order of their keys, behind `label`.
fn encoded<'a>(
    label: &[u8],
    entries: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + Clone,
) -> Result<Vec<u8>, ContextError> {
    let size = entries.clone().fold(label.len() + 2, |sum, (k, v)| sum + 6 + k.len() + v.len());
    let mut out = Vec::with_capacity(size);
    out.extend_from_slice(label);
    out.extend_from_slice(&u16::try_from(entries.len()).map_err(|_| ContextError::TooLarge)?.to_be_bytes());
    for (key, value) in entries {
        out.extend_from_slice(&u16::try_from(key.len()).map_err(|_| ContextError::TooLarge)?.to_be_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(&u32::try_from(value.len()).map_err(|_| ContextError::TooLarge)?.to_be_bytes());
        out.extend_from_slice(value);
    }
    Ok(out)
}

const LABEL: &[u8] = b"kf1 context\0";

impl Context {
    /// The context without entries, which is a context like any other.
    #[must_use]
    pub const fn empty() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds one entry.
    ///
    /// # Errors
    /// Empty and repeated keys, and entries over the limits of the encoding.
    pub fn with(mut self, key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) -> Result<Self, ContextError> {
        self.insert(key.as_ref(), value.into())?;
        Ok(self)
    }

    fn insert(&mut self, key: &[u8], value: Vec<u8>) -> Result<(), ContextError> {
        if key.is_empty() {
            return Err(ContextError::EmptyKey);
        }
        if key.len() > usize::from(u16::MAX)
            || u32::try_from(value.len()).is_err()
            || self.0.len() >= usize::from(u16::MAX)
        {
            return Err(ContextError::TooLarge);
        }
        if self.0.contains_key(key) {
            return Err(ContextError::RepeatedKey(String::from_utf8_lossy(key).into_owned()));
        }
        self.0.insert(key.to_vec(), value);
        Ok(())
    }

    /// Reads entries written as `key=value`; the value may hold further `=` signs.
    ///
    /// # Errors
    /// An entry without `=`, and those of [`Context::with`].
    pub fn parse_entries<S: AsRef<str>>(entries: &[S]) -> Result<Self, ContextError> {
        let mut context = Self::empty();
        for entry in entries {
            let entry = entry.as_ref();
            let (key, value) =
                entry.split_once('=').ok_or_else(|| ContextError::NoEquals(entry.chars().take(80).collect()))?;
            context.insert(key.as_bytes(), value.as_bytes().to_vec())?;
        }
        Ok(context)
    }

    /// The names of the entries, in order.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.0.keys().map(Vec::as_slice)
    }

    /// The canonical encoding that the digest covers.
    #[must_use]
    #[expect(clippy::expect_used, reason = "`insert` bounded what the encoding bounds")]
    pub fn encode(&self) -> Vec<u8> {
        let entries = self.0.iter().map(|(k, v)| (k.as_slice(), v.as_slice()));
        encoded(&[], entries).expect("`insert` bounds the number of entries, keys and values")
    }

    /// The digest that an envelope binds.
    #[must_use]
    pub fn digest(&self) -> ContextDigest {
        ContextDigest(mac::sha256(&[LABEL, &self.encode()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_sorted_by_bytes_whatever_their_order() {
        let one = Context::parse_entries(&["b=2", "a=1", "é=x"]).unwrap();
        let two = Context::parse_entries(&["é=x", "a=1", "b=2"]).unwrap();
        assert_eq!(one.digest(), two.digest());
    }

    #[test]
    fn the_digest_without_a_map_is_the_one_with_it() {
        for (entries, context) in [
            (&[][..], Context::empty()),
            (&[("a", &b"1"[..]), ("b", b""), ("e\u{e9}", b"\0")][..], {
                let context = Context::empty().with("b", "").unwrap();
                context.with("e\u{e9}", [0]).unwrap().with("a", "1").unwrap()
            }),
        ] {
            assert_eq!(ContextDigest::of_sorted(entries).unwrap(), context.digest());
        }
        assert_eq!(ContextDigest::of_sorted(&[("", b"x")]), Err(ContextError::EmptyKey));
        for entries in [[("a", &b"x"[..]), ("a", b"y")], [("b", b"x"), ("a", b"y")]] {
            assert_eq!(ContextDigest::of_sorted(&entries), Err(ContextError::RepeatedKey("a".into())));
        }
        assert_eq!(ContextDigest::of_sorted(&[(&"k".repeat(65_536), b"")]), Err(ContextError::TooLarge));
    }

    #[test]
    fn moving_a_byte_from_key_to_value_changes_the_digest() {
        let one = Context::parse_entries(&["ab=c"]).unwrap();
        let two = Context::parse_entries(&["a=bc"]).unwrap();
        assert_ne!(one.digest(), two.digest());
    }

    #[test]
    fn empty_and_repeated_keys_are_refused() {
        assert_eq!(Context::parse_entries(&["=x"]), Err(ContextError::EmptyKey));
        assert_eq!(Context::parse_entries(&["a=x", "a=x"]), Err(ContextError::RepeatedKey("a".into())));
        assert_eq!(Context::parse_entries(&["a"]), Err(ContextError::NoEquals("a".into())));
        assert_eq!(Context::empty().with([7; 65_536], "x"), Err(ContextError::TooLarge));
    }
}
