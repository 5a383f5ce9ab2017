//! Rows in another program's SQLite file.
//!
//! The file's journal mode stays as it is. Writers wait for each other's locks; a write takes the lock when it begins, so
//! that it cannot fail for it half-way. What is overwritten is zeroed.

mod inspect;
mod scan;
mod swap;
mod value;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Sqlite, SqlitePool,
    pool::PoolConnection,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous},
};

use self::inspect::Table;
use super::table;
use crate::{
    layout::place::Layout,
    store::{
        CollectionId, Page, Partition, RecordKey, RecordStore, ScanCursor, StoreError, StoredRecord, Swap, Swapped,
        sqlite::{FileIdentity, error},
    },
};

/// How long a call waits for another process's lock.
const BUSY: Duration = Duration::from_secs(30);

/// How many connections read at once.
const READERS: u32 = 4;

/// Tables of an SQLite file as records. Clones share the connections.
#[derive(Clone)]
pub struct SqliteRows {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    identity: FileIdentity,
    /// One connection: writers of this process queue up here and not at SQLite's lock.
    writer: SqlitePool,
    readers: SqlitePool,
    tables: HashMap<CollectionId, Table>,
}

impl SqliteRows {
    /// Opens the file, and checks every layout against it.
    ///
    /// # Errors
    /// A file that is missing, damaged or our own, or a table, a column or a key that is not what a layout says.
    pub async fn open(path: impl AsRef<Path>, layouts: HashMap<CollectionId, Layout>) -> Result<Self, StoreError> {
        Self::open_with(path, layouts, BUSY).await
    }

    /// As [`SqliteRows::open`], waiting for another process's lock for `busy` at most.
    ///
    /// # Errors
    /// As [`SqliteRows::open`].
    pub async fn open_with(
        path: impl AsRef<Path>,
        layouts: HashMap<CollectionId, Layout>,
        busy: Duration,
    ) -> Result<Self, StoreError> {
        let declared = table::Declared::all(layouts)?;
        let path = std::path::absolute(path.as_ref()).map_err(|e| StoreError::invalid(format!("no file path: {e}")))?;
        let identity = identify(&path)?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(false)
            .busy_timeout(busy)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(false)
            .pragma("secure_delete", "ON")
            // What a statement overwrites is kept until it is done; in a file elsewhere it would outlive the plaintext it replaced.
            .pragma("temp_store", "MEMORY")
            .disable_statement_logging();
        let patience = busy.saturating_mul(2).max(Duration::from_secs(1));
        let pool = |most: u32| SqlitePoolOptions::new().max_connections(most).acquire_timeout(patience);
        let writer = pool(1).connect_lazy_with(options.clone());
        let readers = pool(READERS).connect_lazy_with(options.pragma("query_only", "ON"));
        let tables = inspect::all(&path, &readers, declared).await?;
        Ok(Self { inner: Arc::new(Inner { path, identity, writer, readers, tables }) })
    }

    fn table(&self, collection: &CollectionId) -> Result<&Table, StoreError> {
        self.inner.tables.get(collection).ok_or_else(|| table::unknown(collection))
    }

    /// The connections that read, if the path still leads to the file that was opened.
    fn readers(&self) -> Result<&SqlitePool, StoreError> {
        self.check_file()?;
        Ok(&self.inner.readers)
    }

    /// The connection that writes.
    async fn writer(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.check_file()?;
        self.inner.writer.acquire().await.map_err(|e| self.error(e))
    }

    /// A deleted file stays readable and writable for who has it open, and what is written to it is lost.
    fn check_file(&self) -> Result<(), StoreError> {
        match identify(&self.inner.path) {
            Ok(identity) if identity == self.inner.identity => Ok(()),
            Ok(_) => Err(StoreError::Unavailable {
                store: error::name(&self.inner.path),
                what: "the file was replaced by another one while it was open".into(),
                retry: false,
                source: None,
            }),
            Err(e) => Err(e),
        }
    }

    fn error(&self, e: sqlx::Error) -> StoreError {
        error::classify(&self.inner.path, e)
    }
}

/// Which file it is.
fn identify(path: &Path) -> Result<FileIdentity, StoreError> {
    let store = error::name(path);
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => Ok(FileIdentity::of(&meta)),
        Ok(_) => Err(StoreError::Foreign { store, what: "it is not a regular file".into() }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(StoreError::Missing { store, hint: "check the path; Keyfold makes no other program's database" })
        }
        Err(e) => {
            let what = "the file cannot be looked at".into();
            Err(StoreError::Unavailable { store, what, retry: false, source: Some(e.into()) })
        }
    }
}

#[async_trait]
impl RecordStore for SqliteRows {
    fn describe(&self) -> String {
        error::name(&self.inner.path)
    }

    async fn partitions(&self, collection: &CollectionId) -> Result<Vec<Partition>, StoreError> {
        // One writer at a time is all that SQLite has; scanning in parts would only make them wait for each other.
        self.table(collection).map(|_| vec![Partition::whole()])
    }

    async fn estimate(&self, collection: &CollectionId) -> Result<Option<u64>, StoreError> {
        let text = format!("SELECT count(*) FROM {}", self.table(collection)?.from);
        let count: i64 = sqlx::query_scalar(sql(&text)).fetch_one(self.readers()?).await.map_err(|e| self.error(e))?;
        Ok(u64::try_from(count).ok())
    }

    async fn scan(
        &self,
        collection: &CollectionId,
        partition: &Partition,
        after: Option<&ScanCursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        if *partition != Partition::whole() {
            return Err(StoreError::invalid(format!("{} has no partition `{partition}`", self.describe())));
        }
        scan::scan(self, self.table(collection)?, after, limit).await
    }

    async fn read(&self, collection: &CollectionId, key: &RecordKey) -> Result<Option<StoredRecord>, StoreError> {
        scan::read(self, self.table(collection)?, key).await
    }

    async fn swap(&self, collection: &CollectionId, batch: Vec<Swap>) -> Result<Vec<Swapped>, StoreError> {
        swap::swap(self, self.table(collection)?, &batch).await
    }
}

/// A statement made of quoted names and of nothing that anybody typed.
fn sql(text: &str) -> AssertSqlSafe<&str> {
    AssertSqlSafe(text)
}
