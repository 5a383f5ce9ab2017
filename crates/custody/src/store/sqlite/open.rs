//! Opening a file: made for its owner only, never taken from another program, safe when several processes start at once.

use std::{io::ErrorKind, path::Path, time::Duration};

use sqlx::{
    ConnectOptions, Connection, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous},
};

use super::{FileIdentity, OpenMode, SqliteOptions, error, schema};
use crate::store::StoreError;

pub(super) struct Opened {
    pub(super) identity: FileIdentity,
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
}

pub(super) async fn open(path: &Path, mode: OpenMode, options: SqliteOptions) -> Result<Opened, StoreError> {
    let identity = find_or_make(path, mode)?;
    let connect = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(options.busy_timeout)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .pragma("secure_delete", "ON")
        // What a statement overwrites is kept until it is done; in a file elsewhere it would outlive the plaintext it replaced.
        .pragma("temp_store", "MEMORY")
        // A page of a scan goes through in one go, instead of the two threads waking each other every fifty rows.
        .row_buffer_size(1024)
        .disable_statement_logging();
    let mut first = SqliteConnection::connect_with(&connect).await.map_err(|e| error::classify(path, e))?;
    let prepared = prepare(path, &mut first, mode, options.busy_timeout).await;
    // Closed whatever came of it; what `prepare` says is what matters.
    let closed = first.close().await;
    prepared?;
    closed.map_err(|e| error::classify(path, e))?;

    // A writer may wait for its turn behind others of this process, each of which waits for the lock.
    let patience = options.busy_timeout.saturating_mul(2).max(Duration::from_secs(1));
    let pool = |most: u32| SqlitePoolOptions::new().max_connections(most.max(1)).acquire_timeout(patience);
    Ok(Opened {
        identity,
        writer: pool(1).connect_lazy_with(connect.clone()),
        readers: pool(options.readers).connect_lazy_with(connect.pragma("query_only", "ON")),
    })
}

/// The file's identity; it is made where the mode says so, never with more rights than its owner's.
fn find_or_make(path: &Path, mode: OpenMode) -> Result<FileIdentity, StoreError> {
    let store = error::name(path);
    if mode == OpenMode::Create {
        let mut make = std::fs::OpenOptions::new();
        make.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut make, 0o600);
        match make.open(path) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => {
                let what = "the file cannot be made".into();
                return Err(StoreError::Unavailable { store, what, retry: false, source: Some(e.into()) });
            }
        }
    }
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() => Ok(FileIdentity::of(&meta)),
        Ok(meta) if meta.is_dir() => Err(StoreError::Foreign { store, what: "it is a directory".into() }),
        Ok(_) => Err(StoreError::Foreign { store, what: "it is not a regular file".into() }),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Err(StoreError::Missing { store, hint: "check the path; `keyfold init` makes a new store" })
        }
        Err(e) => {
            let what = "the file cannot be looked at".into();
            Err(StoreError::Unavailable { store, what, retry: false, source: Some(e.into()) })
        }
    }
}

async fn prepare(
    path: &Path,
    connection: &mut SqliteConnection,
    mode: OpenMode,
    patience: Duration,
) -> Result<(), StoreError> {
    schema::check(path, connection, mode).await?;
    use_wal(connection, patience).await.map_err(|e| error::classify(path, e))?;
    schema::migrate(path, connection).await
}

/// Switches to WAL, which the file then remembers. SQLite does not wait for this lock where waiting could be a deadlock,
/// so two processes that open a fresh file at once have to ask again.
async fn use_wal(connection: &mut SqliteConnection, patience: Duration) -> Result<(), sqlx::Error> {
    let mut waited = Duration::ZERO;
    loop {
        match sqlx::query("PRAGMA journal_mode = WAL").execute(&mut *connection).await {
            Err(e) if error::is_busy(&e) && waited < patience => {
                let pause = Duration::from_millis(20);
                tokio::time::sleep(pause).await;
                waited += pause;
            }
            other => return other.map(|_| ()),
        }
    }
}
