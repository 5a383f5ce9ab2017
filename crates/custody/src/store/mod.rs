//! The traits that storage implements, and the stores themselves.
//!
//! - [`RecordStore`]: somebody's data. It is scanned, read, and changed by compare-and-swap on the very value that was
//!   read; foreign records are neither created nor deleted.
//! - [`OwnRecords`]: the same for records of our own layout, which can also be made and removed.
//! - [`SystemStore`]: our small documents, with compare-and-swap, expiry, prefix scan, server time and change notice.
//!
//! What a store cannot answer is a [`StoreError`]; an error is never an empty list. Every implementation passes the
//! checks in [`conformance`].

mod cell;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod error;
#[cfg(feature = "firestore")]
pub mod firestore;
mod name;
pub mod postgres;
pub mod redis;
pub mod sql;
pub mod sqlite;
mod system;

use std::collections::HashMap;

use async_trait::async_trait;

pub use cell::{Cell, CellValue, Inserted, KeyPage, NewRecord, Odd, OnExisting, Page, StoredRecord, Swap, Swapped};
pub use error::{Cause, StoreError};
pub use name::{CellName, CollectionId, NameError, Partition, RecordKey, ScanCursor};
pub(crate) use system::Pages;
pub use system::{ChangeMark, Doc, Expect, MAX_DOC, MAX_SYSTEM_KEY, Put, SystemStore, check_key, check_prefix};

/// The most records one call of [`RecordStore::scan`] is asked for.
pub const MAX_PAGE: usize = 10_000;

/// The longest cell that a store of our own keeps, in bytes (16 MiB).
pub const MAX_CELL: usize = 16 << 20;

/// The longest key of a record in our own layout, in bytes.
pub const MAX_OWN_KEY: usize = 512;

/// The one cell of a record in our own layout.
pub const DOC_CELL: &str = "doc";

/// How often a store was written to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Writes {
    /// What the count began with; two counts that began with something else say nothing about each other.
    pub since: String,
    /// How often since then. Wraps around.
    pub count: u64,
}

/// Somebody's data. It is changed in place and never created or deleted.
#[async_trait]
pub trait RecordStore: Send + Sync {
    /// The store in a few words, for messages: an address without credentials.
    fn describe(&self) -> String;

    /// The parts of a collection that can be scanned side by side. At least one; together they are the collection.
    async fn partitions(&self, collection: &CollectionId) -> Result<Vec<Partition>, StoreError>;

    /// How many parts one process had best go through at once where it is alone: more where they share what the store is asked.
    fn side_by_side(&self) -> usize {
        2
    }

    /// How many records there are, about: for progress bars. `None` where the store cannot say cheaply.
    async fn estimate(&self, collection: &CollectionId) -> Result<Option<u64>, StoreError> {
        let _ = collection;
        Ok(None)
    }

    /// What the meaning of partitions and cursors depends on, such as a cluster's slot map. A pass over the partitions saw
    /// every record only if this was the same before and after it. Empty where nothing can change.
    async fn topology(&self, collection: &CollectionId) -> Result<String, StoreError> {
        let _ = collection;
        Ok(String::new())
    }

    /// How often the store was written to: one more with every call of [`swap`](Self::swap) that was given something and
    /// succeeded, and at least one more with whatever else stored a record of this collection. A job that finds its own writes
    /// here and no others need not look for those of others. `None` where the store cannot say.
    async fn writes(&self, collection: &CollectionId) -> Result<Option<Writes>, StoreError> {
        let _ = collection;
        Ok(None)
    }

    /// The records after `after`, at most `limit`, fewer where they are large.
    ///
    /// A record that is there during the whole scan is visited at least once, whatever other writers do meanwhile.
    /// Records that come or go during the scan may be visited or not.
    async fn scan(
        &self,
        collection: &CollectionId,
        partition: &Partition,
        after: Option<&ScanCursor>,
        limit: usize,
    ) -> Result<Page, StoreError>;

    /// One record; `None` only where the store says that there is none.
    async fn read(&self, collection: &CollectionId, key: &RecordKey) -> Result<Option<StoredRecord>, StoreError>;

    /// Swaps values: in one transaction where the store can, each judged by itself, in order, with a result for each.
    ///
    /// After an error, none is stored where the store has transactions; elsewhere some may be, and reading tells.
    async fn swap(&self, collection: &CollectionId, batch: Vec<Swap>) -> Result<Vec<Swapped>, StoreError>;
}

/// Records of our own layout: one cell, [`DOC_CELL`], that holds JSON text.
#[async_trait]
pub trait OwnRecords: RecordStore {
    /// Stores new records in one transaction, in order, with a result for each.
    ///
    /// With [`OnExisting::Fail`] nothing at all is written if one of them exists or is named twice.
    async fn insert(
        &self,
        collection: &CollectionId,
        batch: Vec<NewRecord>,
        on_existing: OnExisting,
    ) -> Result<Vec<Inserted>, StoreError>;

    /// Removes a record, and only if it still has revision `expect` where one is given; says whether it did.
    async fn remove(&self, collection: &CollectionId, key: &RecordKey, expect: Option<u64>)
    -> Result<bool, StoreError>;

    /// How many records there are now.
    async fn count(&self, collection: &CollectionId) -> Result<u64, StoreError>;

    /// The keys after `after`, at most `limit`, without reading the records.
    async fn keys(
        &self,
        collection: &CollectionId,
        after: Option<&ScanCursor>,
        limit: usize,
    ) -> Result<KeyPage, StoreError>;

    /// The collections that hold at least one record, in order.
    async fn collections(&self) -> Result<Vec<CollectionId>, StoreError>;
}

/// Checks what a caller asks a page to be.
///
/// # Errors
/// Zero, and more than [`MAX_PAGE`].
pub fn check_limit(limit: usize) -> Result<i64, StoreError> {
    match i64::try_from(limit) {
        Ok(n) if (1..=MAX_PAGE).contains(&limit) => Ok(n),
        _ => Err(StoreError::invalid(format!("a page of {limit} records was asked for, 1 to {MAX_PAGE} are allowed"))),
    }
}

/// What may be stored as a document of our own.
pub(crate) fn check_doc<'a>(key: &RecordKey, doc: &'a CellValue) -> Result<&'a str, StoreError> {
    if doc.len() > MAX_CELL {
        let found = doc.len();
        return Err(StoreError::invalid(format!(
            "the document of record `{key}` has {found} bytes, at most {MAX_CELL} are allowed"
        )));
    }
    doc.as_str().ok_or_else(|| not_text(key))
}

/// Of a key that a batch names twice, the document that stays; each document as `check` gives it. In the order of first naming.
///
/// # Errors
/// Those of `check`; a key that is there already where that is an error.
pub(crate) fn distinct<'a>(
    batch: &'a [NewRecord],
    on_existing: OnExisting,
    check: impl Fn(&'a NewRecord) -> Result<&'a str, StoreError>,
) -> Result<Vec<(&'a RecordKey, &'a str)>, StoreError> {
    let (mut docs, mut places) = (Vec::with_capacity(batch.len()), HashMap::with_capacity(batch.len()));
    for new in batch {
        let doc = check(new)?;
        match (places.get(&new.key), on_existing) {
            (None, _) => {
                places.insert(&new.key, docs.len());
                docs.push((&new.key, doc));
            }
            (Some(&place), OnExisting::Replace) => docs[place] = (&new.key, doc),
            (Some(_), OnExisting::Skip) => {}
            (Some(_), OnExisting::Fail) => return Err(StoreError::Exists { key: new.key.clone() }),
        }
    }
    Ok(docs)
}

/// A document that is not text.
pub(crate) fn not_text(key: &RecordKey) -> StoreError {
    StoreError::invalid(format!("the document of record `{key}` is not UTF-8 text"))
}
