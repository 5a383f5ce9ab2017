//! Records as storage sees them: named cells with values that may still be plaintext.

use std::fmt;

use keyfold_core::secret::Wiped;
use zeroize::Zeroizing;

use super::{CellName, Partition, RecordKey, ScanCursor};

/// What a cell holds. It may be plaintext: it is wiped on drop and has no `Clone`, and nothing prints it.
///
/// Text and bytes are different values where a store tells them apart, so a swap sends back the kind that was read.
#[derive(PartialEq, Eq)]
pub enum CellValue {
    /// Text, as the store keeps it.
    Text(Wiped<String>),
    /// Bytes that are not, or need not be, UTF-8.
    Bytes(Wiped<Vec<u8>>),
}

impl CellValue {
    /// Text, taken over without a copy.
    #[must_use]
    pub fn text(text: String) -> Self {
        Self::Text(Wiped::new(text))
    }

    /// Bytes, taken over without a copy.
    #[must_use]
    pub fn bytes(bytes: Vec<u8>) -> Self {
        Self::Bytes(Wiped::new(bytes))
    }

    /// The value as bytes, whichever kind it is.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    /// The value as text; `None` where it is not UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
        }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether there is not a single byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Zeroizing<String>> for CellValue {
    /// Text, taken over without a copy.
    fn from(mut text: Zeroizing<String>) -> Self {
        Self::text(std::mem::take(&mut text))
    }
}

impl fmt::Debug for CellValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CellValue").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// A cell of a record, as it was read.
#[derive(Debug)]
pub struct Cell {
    /// Which part of the record.
    pub name: CellName,
    /// What it holds.
    pub value: CellValue,
}

/// A record, as it was read. A cell that is missing or null in the store is not among `cells`.
#[derive(Debug)]
pub struct StoredRecord {
    /// Its name inside the collection.
    pub key: RecordKey,
    /// What was asked for and is there.
    pub cells: Vec<Cell>,
    /// Grows with each change where the store counts changes; 0 where it does not.
    pub revision: u64,
}

impl StoredRecord {
    /// The cell of that name, if it is there.
    #[must_use]
    pub fn cell(&self, name: &CellName) -> Option<&CellValue> {
        self.cells.iter().find(|cell| cell.name == *name).map(|cell| &cell.value)
    }
}

/// A part of a scan.
#[derive(Debug)]
pub struct Page {
    /// Possibly none, even where the scan goes on.
    pub records: Vec<StoredRecord>,
    /// What is there and cannot be a record: named, counted, and left as it is.
    pub odd: Vec<Odd>,
    /// Where to go on; `None` after the last page.
    pub next: Option<ScanCursor>,
}

/// Something in the place of a record that cannot be read as one: another type than the layout says, a key beyond the limit, a
/// value that is not text. It is left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Odd {
    /// Its key as far as it can be said, abridged.
    pub record: String,
    /// What is wrong, in one line, without anything of a value.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// A part of a listing of keys.
#[derive(Debug)]
pub struct KeyPage {
    /// Keys, in the store's order.
    pub keys: Vec<RecordKey>,
    /// Where to go on; `None` after the last page.
    pub next: Option<ScanCursor>,
}

/// One compare-and-swap, on the very value that was read.
#[derive(Debug)]
pub struct Swap {
    /// Which record.
    pub key: RecordKey,
    /// Which cell of it.
    pub cell: CellName,
    /// What the cell must still hold.
    pub old: CellValue,
    /// What it is to hold.
    pub new: CellValue,
}

/// How one swap ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swapped {
    /// The new value is stored.
    Done,
    /// The cell held something else, and still does: the other writer won.
    Changed,
    /// The record, or the cell, is not there any more.
    Gone,
    /// The store takes no such value for this record, for example none so long. Nothing of it was stored.
    Refused,
}

/// A record of our own to be stored.
#[derive(Debug)]
pub struct NewRecord {
    /// Its name inside the collection.
    pub key: RecordKey,
    /// JSON text. The store keeps it byte for byte and does not look inside.
    pub doc: CellValue,
}

/// What to do with records that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExisting {
    /// Leave them as they are.
    Skip,
    /// Write over them.
    Replace,
    /// Write nothing of the whole batch and say which one it was.
    Fail,
}

/// How one insert ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// There was no such record; now there is.
    Created,
    /// There was one, and it now holds the new document.
    Replaced,
    /// There was one, and it was left as it is.
    Exists,
}

impl Partition {
    /// The one partition of a store that does not split collections.
    #[must_use]
    pub fn whole() -> Self {
        #[allow(clippy::expect_used, reason = "the text is a constant")]
        Self::new("whole").expect("a valid name")
    }
}
