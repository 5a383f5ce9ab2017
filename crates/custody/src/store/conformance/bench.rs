//! A store under test, with somebody who makes and removes records as the program does that owns them.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Shared, doc_cell, key, seed};
use crate::store::{CellName, CellValue, CollectionId, RecordKey, RecordStore, Swap, Swapped};

/// What the checks of [`RecordStore`] need beside the store itself.
#[async_trait]
pub trait Bench: Send + Sync {
    /// The store under test. It knows the collections that [`super::records::collections`] lists.
    fn store(&self) -> &dyn RecordStore;

    /// The cell that is read and swapped.
    fn cell(&self) -> CellName;

    /// The key of a record that is called `name`, which may be any text without NUL of at most 512 bytes.
    fn key(&self, collection: &CollectionId, name: &str) -> RecordKey;

    /// Stores a record that was not there.
    async fn put(&self, collection: &CollectionId, key: &RecordKey, value: &str);

    /// Removes a record.
    async fn remove(&self, collection: &CollectionId, key: &RecordKey);

    /// Whether the store counts a record's changes.
    fn counts_changes(&self) -> bool {
        false
    }

    /// The longest value that a record may hold, in bytes.
    fn largest(&self) -> usize {
        1 << 20
    }

    /// Whether a record may have a cell of any name.
    fn takes_any_cell(&self) -> bool {
        false
    }
}

/// Records of our own layout, which their own store makes.
pub(super) struct Own(pub(super) Shared);

#[async_trait]
impl Bench for Own {
    fn store(&self) -> &dyn RecordStore {
        &*self.0
    }

    fn cell(&self) -> CellName {
        doc_cell()
    }

    fn key(&self, _: &CollectionId, name: &str) -> RecordKey {
        key(name)
    }

    async fn put(&self, collection: &CollectionId, key: &RecordKey, value: &str) {
        seed(&*self.0, collection, &[(key, value)]).await;
    }

    async fn remove(&self, collection: &CollectionId, key: &RecordKey) {
        assert!(self.0.remove(collection, key, None).await.unwrap());
    }

    fn counts_changes(&self) -> bool {
        true
    }
}

/// One collection of a bench, in the few words that the checks are made of.
#[derive(Clone)]
pub(super) struct On {
    pub(super) bench: Arc<dyn Bench>,
    pub(super) c: CollectionId,
}

impl On {
    pub(super) fn new(bench: &Arc<dyn Bench>, name: &str) -> Self {
        Self { bench: Arc::clone(bench), c: super::collection(name) }
    }

    pub(super) fn store(&self) -> &dyn RecordStore {
        self.bench.store()
    }

    pub(super) fn key(&self, name: &str) -> RecordKey {
        self.bench.key(&self.c, name)
    }

    pub(super) async fn seed(&self, records: &[(&RecordKey, &str)]) {
        for (key, value) in records {
            self.bench.put(&self.c, key, value).await;
        }
    }

    pub(super) async fn remove(&self, key: &RecordKey) {
        self.bench.remove(&self.c, key).await;
    }

    /// What the cell of a record holds.
    pub(super) async fn held(&self, key: &RecordKey) -> Option<String> {
        let record = self.store().read(&self.c, key).await.unwrap()?;
        assert_eq!(record.key, *key);
        Some(record.cell(&self.bench.cell()).unwrap().as_str().unwrap().to_owned())
    }

    pub(super) fn swap_of(&self, key: &RecordKey, old: &str, new: &str) -> Swap {
        let (old, new) = (CellValue::text(old.into()), CellValue::text(new.into()));
        Swap { key: key.clone(), cell: self.bench.cell(), old, new }
    }

    pub(super) async fn swap_all(&self, batch: Vec<Swap>) -> Vec<Swapped> {
        self.store().swap(&self.c, batch).await.unwrap()
    }

    pub(super) async fn swap(&self, key: &RecordKey, old: &str, new: &str) -> Swapped {
        self.swap_all(vec![self.swap_of(key, old, new)]).await[0]
    }
}
