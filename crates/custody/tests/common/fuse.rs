//! Stores and a log that stop at the n-th write, whatever it is, and answer nothing from then on.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use keyfold_core::{audit::Event, clock::UnixTime};
use keyfold_custody::{
    audit_log::{AuditError, AuditSink, Durable, InsecureMemory},
    store::{
        ChangeMark, CollectionId, Doc, Expect, Inserted, KeyPage, NewRecord, OnExisting, OwnRecords, Page, Partition,
        Put, RecordKey, RecordStore, ScanCursor, StoreError, StoredRecord, Swap, Swapped, SystemStore, Writes,
        sqlite::SqliteStore,
    },
};

/// When a process is killed.
#[derive(Debug, Clone)]
pub(crate) struct Fuse(Arc<Burning>);

#[derive(Debug)]
struct Burning {
    at: u64,
    reached: bool,
    writes: AtomicU64,
    blown: AtomicBool,
}

impl Fuse {
    /// At the `n`th write from 1: before it reaches the disk, or once it `reached` it and before anybody learns of that.
    pub(crate) fn at(n: u64, reached: bool) -> Self {
        Self(Arc::new(Burning { at: n, reached, writes: AtomicU64::new(0), blown: AtomicBool::new(false) }))
    }

    /// Never.
    pub(crate) fn never() -> Self {
        Self::at(u64::MAX, false)
    }

    pub(crate) fn is_blown(&self) -> bool {
        self.0.blown.load(Ordering::SeqCst)
    }

    pub(crate) fn writes(&self) -> u64 {
        self.0.writes.load(Ordering::SeqCst)
    }

    fn read<E: Killed>(&self) -> Result<(), E> {
        if self.is_blown() { Err(E::killed()) } else { Ok(()) }
    }

    async fn write<T, E: Killed>(&self, write: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        self.read::<E>()?;
        if self.0.writes.fetch_add(1, Ordering::SeqCst) + 1 < self.0.at {
            return write.await;
        }
        if !self.0.blown.swap(true, Ordering::SeqCst) && self.0.reached {
            drop(write.await);
        }
        Err(E::killed())
    }
}

trait Killed {
    fn killed() -> Self;
}

impl Killed for StoreError {
    fn killed() -> Self {
        Self::invalid("killed")
    }
}

impl Killed for AuditError {
    fn killed() -> Self {
        Self::Closed
    }
}

/// A store behind a fuse, whose clock is late.
pub(crate) struct FusedStore {
    inner: SqliteStore,
    fuse: Fuse,
    later: u64,
    /// What another process does between this one's read and its write, once.
    pub(crate) meanwhile: Mutex<Option<BoxFuture<'static, ()>>>,
    /// How often it has yet to say that its parts lie elsewhere than before.
    pub(crate) moves: AtomicU64,
    /// How often it was scanned from the beginning.
    pub(crate) scans: AtomicU64,
}

impl FusedStore {
    pub(crate) fn new(inner: SqliteStore, fuse: Fuse, later: u64) -> Self {
        Self { inner, fuse, later, meanwhile: Mutex::new(None), moves: AtomicU64::new(0), scans: AtomicU64::new(0) }
    }

    pub(crate) const fn fuse(&self) -> &Fuse {
        &self.fuse
    }
}

#[async_trait]
impl RecordStore for FusedStore {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn partitions(&self, collection: &CollectionId) -> Result<Vec<Partition>, StoreError> {
        self.fuse.read::<StoreError>()?;
        self.inner.partitions(collection).await
    }

    async fn topology(&self, _: &CollectionId) -> Result<String, StoreError> {
        let next = |left: u64| Some(left.saturating_sub(1));
        Ok(self.moves.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).unwrap().to_string())
    }

    async fn writes(&self, collection: &CollectionId) -> Result<Option<Writes>, StoreError> {
        self.fuse.read::<StoreError>()?;
        self.inner.writes(collection).await
    }

    async fn scan(
        &self,
        collection: &CollectionId,
        partition: &Partition,
        after: Option<&ScanCursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.fuse.read::<StoreError>()?;
        self.scans.fetch_add(u64::from(after.is_none()), Ordering::SeqCst);
        self.inner.scan(collection, partition, after, limit).await
    }

    async fn read(&self, collection: &CollectionId, key: &RecordKey) -> Result<Option<StoredRecord>, StoreError> {
        self.fuse.read::<StoreError>()?;
        self.inner.read(collection, key).await
    }

    async fn swap(&self, collection: &CollectionId, batch: Vec<Swap>) -> Result<Vec<Swapped>, StoreError> {
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile.await;
        }
        self.fuse.write(self.inner.swap(collection, batch)).await
    }
}

#[async_trait]
impl OwnRecords for FusedStore {
    async fn insert(
        &self,
        collection: &CollectionId,
        batch: Vec<NewRecord>,
        on_existing: OnExisting,
    ) -> Result<Vec<Inserted>, StoreError> {
        self.fuse.write(self.inner.insert(collection, batch, on_existing)).await
    }

    async fn remove(&self, _: &CollectionId, key: &RecordKey, _: Option<u64>) -> Result<bool, StoreError> {
        panic!("record `{key}` was to be deleted")
    }

    async fn count(&self, collection: &CollectionId) -> Result<u64, StoreError> {
        self.fuse.read::<StoreError>()?;
        self.inner.count(collection).await
    }

    async fn keys(
        &self,
        collection: &CollectionId,
        after: Option<&ScanCursor>,
        limit: usize,
    ) -> Result<KeyPage, StoreError> {
        self.fuse.read::<StoreError>()?;
        self.inner.keys(collection, after, limit).await
    }

    async fn collections(&self) -> Result<Vec<CollectionId>, StoreError> {
        self.fuse.read::<StoreError>()?;
        self.inner.collections().await
    }
}

#[async_trait]
impl SystemStore for FusedStore {
    async fn get(&self, key: &str) -> Result<Option<Doc>, StoreError> {
        self.fuse.read::<StoreError>()?;
        self.inner.get(key).await
    }

    async fn put(&self, key: &str, value: &[u8], expect: Expect, ttl: Option<Duration>) -> Result<Put, StoreError> {
        self.fuse.write(self.inner.put(key, value, expect, ttl)).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<bool, StoreError> {
        self.fuse.write(self.inner.delete(key, expect)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Doc)>, StoreError> {
        self.fuse.read::<StoreError>()?;
        self.inner.list(prefix, after, limit).await
    }

    async fn now(&self) -> Result<UnixTime, StoreError> {
        self.fuse.read::<StoreError>()?;
        Ok(UnixTime(self.inner.now().await?.0 + self.later))
    }

    async fn changed(&self, prefix: &str, since: &ChangeMark, wait: Duration) -> Result<ChangeMark, StoreError> {
        self.fuse.read::<StoreError>()?;
        self.inner.changed(prefix, since, wait).await
    }
}

/// A log behind a fuse.
pub(crate) struct FusedAudit {
    inner: Arc<InsecureMemory>,
    fuse: Fuse,
}

impl FusedAudit {
    pub(crate) fn new(inner: Arc<InsecureMemory>, fuse: Fuse) -> Self {
        Self { inner, fuse }
    }
}

#[async_trait]
impl AuditSink for FusedAudit {
    async fn append(&self, batch: &[Event]) -> Result<Durable, AuditError> {
        self.fuse.write(self.inner.append(batch)).await
    }

    async fn append_outcome(&self, batch: &[Event]) -> Result<(), AuditError> {
        self.fuse.write(self.inner.append_outcome(batch)).await
    }

    async fn checkpoint(&self, generation: u64) -> Result<(), AuditError> {
        self.fuse.write(self.inner.checkpoint(generation)).await
    }

    async fn close(&self, generation: u64) -> Result<(), AuditError> {
        self.fuse.write(self.inner.close(generation)).await
    }
}
