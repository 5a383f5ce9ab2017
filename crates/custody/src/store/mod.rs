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
mod name;
pub mod sqlite;
mod system;

use async_trait::async_trait;

pub use cell::{Cell, CellValue, Inserted, KeyPage, NewRecord, OnExisting, Page, StoredRecord, Swap, Swapped};
pub use error::{Cause, StoreError};
pub use name::{CellName, CollectionId, NameError, Partition, RecordKey, ScanCursor};
pub use system::{ChangeMark, Doc, Expect, MAX_DOC, MAX_SYSTEM_KEY, Put, SystemStore, check_key, check_prefix};

/// The most records one call of [`RecordStore::scan`] is asked for.
pub const MAX_PAGE: usize = 10_000;

/// The longest cell that a store of our own keeps, in bytes (16 MiB).
pub const MAX_CELL: usize = 16 << 20;

/// The one cell of a record in our own layout.
pub const DOC_CELL: &str = "doc";

/// Somebody's data. It is changed in place and never created or deleted.
#[async_trait]
pub trait RecordStore: Send + Sync {
    /// The store in a few words, for messages: an address without credentials.
    fn describe(&self) -> String;

    /// The parts of a collection that can be scanned side by side. At least one; together they are the collection.
    async fn partitions(&self, collection: &CollectionId) -> Result<Vec<Partition>, StoreError>;

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
