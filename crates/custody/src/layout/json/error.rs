//! What is wrong with a document, or with an edit of one. Nothing of its contents but names of members is said.

use keyfold_core::error::Hint;

/// The largest document that is read, in bytes (16 MiB).
pub const MAX_DOCUMENT: usize = 16 << 20;

/// How deep arrays and objects may be nested.
pub const MAX_DEPTH: u32 = 128;

/// How many declared fields of one document are looked at.
pub const MAX_FIELDS: usize = 100_000;

/// How much memory their pointers may take, in bytes (64 MiB): each repeats the names of all members above it.
pub const MAX_POINTERS: usize = 64 << 20;

/// Why a document cannot be read or edited.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It breaks RFC 8259.
    #[error("not JSON at byte {at}: {what}")]
    Syntax {
        /// Where.
        at: usize,
        /// What was expected, or is not allowed.
        what: &'static str,
    },
    /// An escape that is half of a surrogate pair. It stands for no character, and readers differ on what they make of it.
    #[error("not text at byte {at}: half of a surrogate pair")]
    LoneSurrogate {
        /// Where the escape starts.
        at: usize,
    },
    /// Nested deeper than is read.
    #[error("nested deeper than {MAX_DEPTH} levels at byte {at}")]
    TooDeep {
        /// Where the level begins that is one too many.
        at: usize,
    },
    /// Larger than is read.
    #[error("a document of {found} bytes, at most {MAX_DOCUMENT} are read")]
    TooLarge {
        /// Its size in bytes.
        found: usize,
    },
    /// More declared fields, or longer names above them, than there is memory for.
    #[error("more secret fields than are read from one document, or names too long above them, at byte {at}")]
    TooManyFields {
        /// Where the first one too many is.
        at: usize,
    },
    /// A member that a declared path goes through, twice in one object. Readers differ on which one counts.
    #[error("the member `{pointer}` occurs twice, again at byte {at}")]
    Duplicate {
        /// Where it is, with real indices.
        pointer: String,
        /// Where its second name starts.
        at: usize,
    },
    /// Edits that overlap, or do not lie in the text.
    #[error("an edit of bytes {start} to {end} does not fit the text or another edit")]
    BadEdit {
        /// Where it starts.
        start: usize,
        /// Where it ends.
        end: usize,
    },
}

impl Hint for JsonError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Duplicate { .. } => Some("write the member once; until then the record is left as it is".into()),
            Self::TooManyFields { .. } => {
                Some(format!("a document has at most {MAX_FIELDS}; make several records of it"))
            }
            Self::LoneSurrogate { .. } => Some("the program that wrote it cut a character in two".into()),
            _ => None,
        }
    }
}
