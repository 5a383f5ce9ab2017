//! The names storage works with: checked once at the edge and carried as types from there on.

use std::{fmt, str::FromStr, sync::Arc};

/// Why a text is not a name that storage accepts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The empty string names nothing.
    #[error("{what} is empty")]
    Empty {
        /// Which kind of name.
        what: &'static str,
    },
    /// Longer than every store could keep.
    #[error("{what} has {found} bytes, at most {most} are allowed")]
    TooLong {
        /// Which kind of name.
        what: &'static str,
        /// Its length in bytes.
        found: usize,
        /// The limit in bytes.
        most: usize,
    },
    /// A byte that some store could not keep as it is.
    #[error("{what} may not contain the byte 0x{byte:02x} (at offset {at})")]
    Byte {
        /// Which kind of name.
        what: &'static str,
        /// The first such byte.
        byte: u8,
        /// Its offset.
        at: usize,
    },
}

fn check(what: &'static str, most: usize, text: &str, allowed: fn(u8) -> bool) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > most {
        return Err(NameError::TooLong { what, found: text.len(), most });
    }
    match text.bytes().position(|b| !allowed(b)) {
        Some(at) => Err(NameError::Byte { what, byte: text.as_bytes()[at], at }),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $what:literal, $most:expr, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($inner);

        impl $name {
            /// Checks `text` once; what holds it afterwards need not.
            ///
            /// # Errors
            /// Says which rule the text breaks.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                check($what, $most, text.as_ref(), $allowed)?;
                Ok(Self(text.as_ref().into()))
            }

            /// The name as it was given.
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

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// What names a record inside its collection: 1 to 8,192 bytes of UTF-8 without NUL; in our own layout at most
    /// [`MAX_OWN_KEY`](super::MAX_OWN_KEY).
    ///
    /// Foreign keys that are not UTF-8, or made of several columns, are spelled by their layout before they get here.
    RecordKey,
    Box<str>,
    "a record key",
    8192,
    |b| b != 0
);
impl RecordKey {
    /// A key of our own layout: at most [`MAX_OWN_KEY`](super::MAX_OWN_KEY) bytes, which every store can keep.
    ///
    /// # Errors
    /// As [`RecordKey::new`].
    pub fn own(text: impl AsRef<str>) -> Result<Self, NameError> {
        let (found, most) = (text.as_ref().len(), super::MAX_OWN_KEY);
        if found > most {
            return Err(NameError::TooLong { what: "a record key", found, most });
        }
        Self::new(text)
    }
}

name!(
    /// A collection's immutable id, not its display name: it is part of every sealing context.
    CollectionId,
    Arc<str>,
    "a collection id",
    128,
    |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')
);
name!(
    /// One part of a stored record that can be swapped by itself: a column, a hash field, a whole document.
    CellName,
    Arc<str>,
    "a cell name",
    512,
    |b| b != 0
);
name!(
    /// A part of a collection that one worker scans under one lease. Stores make them; the text only has to come back.
    Partition,
    Arc<str>,
    "a partition",
    256,
    |b| b.is_ascii_graphic()
);
name!(
    /// Where a scan stopped. Opaque; it can be kept and used by another process against the same store.
    ScanCursor,
    Box<str>,
    "a scan cursor",
    16_384,
    |b| b != 0
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_key_takes_any_text_but_nul_up_to_8192_bytes() {
        for good in ["a", "it's \"quoted\"", "100% _ \\", "new\nline", "\u{202e}rtl", "🔑", &"é".repeat(4096)] {
            assert_eq!(RecordKey::new(good).unwrap().as_str(), good);
        }
        assert_eq!(RecordKey::new("").unwrap_err().to_string(), "a record key is empty");
        assert_eq!(
            RecordKey::new("x".repeat(8193)).unwrap_err().to_string(),
            "a record key has 8193 bytes, at most 8192 are allowed"
        );
        assert_eq!(
            RecordKey::new("a\0b").unwrap_err().to_string(),
            "a record key may not contain the byte 0x00 (at offset 1)"
        );
    }

    #[test]
    fn a_collection_id_is_plain_ascii() {
        assert!(CollectionId::new("prod-eu.instances_2").is_ok());
        for bad in ["", "a b", "a/b", "ä", "a:b", &"x".repeat(129)] {
            assert!(CollectionId::new(bad).is_err(), "{bad:?}");
        }
    }
}
