//! Records and system documents in one SQLite file.
//!
//! Several processes work on the file at once: it is in WAL mode, every write takes the write lock when it begins and
//! waits for it, and a commit is on the disk when it returns. Deleted content is overwritten with zeros; what the
//! write-ahead log still holds of it goes with [`SqliteStore::scrub`].
//!
//! Not promised: that a copy-on-write file system, a flash translation layer or a backup forgets old pages.

pub(super) mod error;
mod open;
mod own;
mod records;
mod schema;
mod system;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use sqlx::{Sqlite, SqlitePool, Transaction};
use tokio::sync::Notify;

pub(super) use self::schema::is_ours;
use super::{CellName, DOC_CELL, StoreError};

/// Whether a file that is not there is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Make the file, for its owner only, where there is none.
    Create,
    /// A file that is not there is an error, not an empty store.
    Existing,
}

/// What can be set when a file is opened.
#[derive(Debug, Clone, Copy)]
pub struct SqliteOptions {
    /// How long a call waits for another process's lock.
    pub busy_timeout: Duration,
    /// How many connections read at once.
    pub readers: u32,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { busy_timeout: Duration::from_secs(30), readers: 4 }
    }
}

/// How much old content [`SqliteStore::scrub`] takes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrub {
    /// Empty the write-ahead log.
    Log,
    /// Also write the file anew, without its free pages. It takes as much space again while it runs.
    File,
}

/// Records and system documents in one SQLite file. Clones share its connections.
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    identity: FileIdentity,
    busy_timeout: Duration,
    /// One connection: writers of this process queue up here and not at SQLite's lock.
    writer: SqlitePool,
    readers: SqlitePool,
    doc: CellName,
    written: Notify,
    puts: AtomicU32,
}

/// Which file it was when it was opened. A deleted file stays writable for who has it open, and all of it would be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity(u64, u64);

impl FileIdentity {
    #[cfg(unix)]
    pub(super) fn of(meta: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self(meta.dev(), meta.ino())
    }

    #[cfg(not(unix))]
    pub(super) fn of(_: &std::fs::Metadata) -> Self {
        Self(0, 0)
    }
}

impl SqliteStore {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// A file that is missing, damaged, somebody else's, locked for too long, or of a newer Keyfold.
    pub async fn open(path: impl AsRef<Path>, mode: OpenMode) -> Result<Self, StoreError> {
        Self::open_with(path, mode, SqliteOptions::default()).await
    }

    /// Opens the file at `path`, with other than the usual settings.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub async fn open_with(path: impl AsRef<Path>, mode: OpenMode, options: SqliteOptions) -> Result<Self, StoreError> {
        // Absolute, so that no name is taken for `:memory:` or a `file:` URI, and a later `chdir` changes nothing.
        let path = std::path::absolute(path.as_ref()).map_err(|e| StoreError::invalid(format!("no file path: {e}")))?;
        let opened = open::open(&path, mode, options).await?;
        let inner = Inner {
            path,
            identity: opened.identity,
            busy_timeout: options.busy_timeout,
            writer: opened.writer,
            readers: opened.readers,
            doc: CellName::new(DOC_CELL)?,
            written: Notify::new(),
            puts: AtomicU32::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Takes old content out of the write-ahead log and, on request, out of the free pages of the file.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while another process reads for longer than the busy timeout.
    pub async fn scrub(&self, how: Scrub) -> Result<(), StoreError> {
        self.check_file()?;
        let mut connection = self.inner.writer.acquire().await.map_err(|e| self.error(e))?;
        if how == Scrub::File {
            // The whole file is written anew, which takes more than memory; what statements keep goes back to memory after it.
            sqlx::query("PRAGMA temp_store = FILE").execute(&mut *connection).await.map_err(|e| self.error(e))?;
            let vacuumed = sqlx::query("VACUUM").execute(&mut *connection).await;
            sqlx::query("PRAGMA temp_store = MEMORY").execute(&mut *connection).await.map_err(|e| self.error(e))?;
            vacuumed.map_err(|e| self.error(e))?;
        }
        // The busy handler covers writers; a reader of an old snapshot makes the pragma say "busy" instead.
        let mut waited = Duration::ZERO;
        loop {
            let (busy, _, _): (i64, i64, i64) = sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)")
                .fetch_one(&mut *connection)
                .await
                .map_err(|e| self.error(e))?;
            if busy == 0 {
                return Ok(());
            }
            if waited >= self.inner.busy_timeout {
                return Err(self.unavailable("another process keeps reading, so the log could not be emptied", None));
            }
            let pause = Duration::from_millis(50);
            tokio::time::sleep(pause).await;
            waited += pause;
        }
    }

    /// Closes all connections, the last of which empties the write-ahead log.
    pub async fn close(&self) {
        self.inner.readers.close().await;
        self.inner.writer.close().await;
    }

    /// Begins a write: it waits for the lock now, so that it cannot fail for it half-way.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.check_file()?;
        let writer = &self.inner.writer;
        let begun = match writer.begin_with("BEGIN IMMEDIATE").await {
            // Where the disk is full, SQLite ends a transaction by itself, and the driver goes on believing in it.
            Err(sqlx::Error::InvalidSavePointStatement) => {
                let lost = writer.acquire().await.map_err(|e| self.error(e))?;
                lost.close().await.map_err(|e| self.error(e))?;
                writer.begin_with("BEGIN IMMEDIATE").await
            }
            begun => begun,
        };
        begun.map_err(|e| self.error(e))
    }

    async fn commit(&self, tx: Transaction<'static, Sqlite>) -> Result<(), StoreError> {
        tx.commit().await.map_err(|e| self.error(e))
    }

    fn readers(&self) -> Result<&SqlitePool, StoreError> {
        self.check_file()?;
        Ok(&self.inner.readers)
    }

    /// Whether the path still leads to the file that was opened.
    fn check_file(&self) -> Result<(), StoreError> {
        let gone = |what: &str, e: Option<std::io::Error>| StoreError::Unavailable {
            store: self.name(),
            what: what.into(),
            retry: false,
            source: e.map(Into::into),
        };
        match std::fs::metadata(&self.inner.path) {
            Ok(meta) if FileIdentity::of(&meta) == self.inner.identity => Ok(()),
            Ok(_) => Err(gone("the file was replaced by another one while it was open", None)),
            Err(e) => Err(gone("the file went away while it was open", Some(e))),
        }
    }

    fn name(&self) -> String {
        error::name(&self.inner.path)
    }

    fn error(&self, e: sqlx::Error) -> StoreError {
        error::classify(&self.inner.path, e)
    }

    fn unavailable(&self, what: &str, source: Option<super::Cause>) -> StoreError {
        StoreError::Unavailable { store: self.name(), what: what.into(), retry: true, source }
    }

    fn corrupt(&self, what: impl Into<String>) -> StoreError {
        StoreError::Corrupt { store: self.name(), what: what.into(), source: None }
    }
}

/// SQLite's integers are signed; revisions and counts are not, and never get that far.
fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}
