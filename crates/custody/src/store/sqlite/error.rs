//! SQLite's result codes, sorted by who can do something about them.

use std::path::Path;

use crate::store::StoreError;

/// How messages name the file.
pub(in crate::store) fn name(path: &Path) -> String {
    format!("the SQLite file {}", path.display())
}

/// SQLite wants more room at once than a file system has that is as good as full.
const ROOM: u64 = 64 << 10;

// Primary result codes: https://www.sqlite.org/rescode.html
const PERM: i64 = 3;
const BUSY: i64 = 5;
const LOCKED: i64 = 6;
const READONLY: i64 = 8;
const IOERR: i64 = 10;
const CORRUPT: i64 = 11;
const FULL: i64 = 13;
const CANTOPEN: i64 = 14;
const AUTH: i64 = 23;
const NOTADB: i64 = 26;

/// The primary result code, where SQLite itself answered.
pub(super) fn primary_code(e: &sqlx::Error) -> Option<i64> {
    let code: i64 = e.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

pub(in crate::store) fn is_busy(e: &sqlx::Error) -> bool {
    matches!(primary_code(e), Some(BUSY | LOCKED))
}

fn has_no_room(path: &Path) -> bool {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    rustix::fs::statvfs(folder).is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) < ROOM)
}

pub(in crate::store) fn classify(path: &Path, e: sqlx::Error) -> StoreError {
    let store = name(path);
    let unavailable = |what: &str, retry, e: sqlx::Error| StoreError::Unavailable {
        store: name(path),
        what: what.into(),
        retry,
        source: Some(e.into()),
    };
    match primary_code(&e) {
        Some(BUSY | LOCKED) => unavailable("another process holds its lock", true, e),
        // What lies beside the file and cannot grow is told as a disk that failed.
        Some(IOERR | CANTOPEN) if has_no_room(path) => StoreError::Full { store, source: Some(e.into()) },
        Some(FULL) => StoreError::Full { store, source: Some(e.into()) },
        Some(CORRUPT) => {
            StoreError::Corrupt { store, what: "SQLite finds its pages malformed".into(), source: Some(e.into()) }
        }
        Some(NOTADB) => StoreError::Foreign { store, what: "it is not an SQLite database".into() },
        Some(READONLY) => {
            StoreError::Refused { store, what: "the file may not be written".into(), source: Some(e.into()) }
        }
        Some(PERM | AUTH) => StoreError::Refused { store, what: "access is denied".into(), source: Some(e.into()) },
        Some(CANTOPEN) => unavailable("the file cannot be opened", false, e),
        Some(IOERR) => unavailable("reading or writing the disk failed", false, e),
        Some(_) => {
            StoreError::Refused { store, what: "SQLite does not run the statement".into(), source: Some(e.into()) }
        }
        None => match &e {
            sqlx::Error::PoolTimedOut => unavailable("its connections were busy for too long", true, e),
            sqlx::Error::PoolClosed => unavailable("it was closed", false, e),
            sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => unavailable("the connection broke off", true, e),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                StoreError::Corrupt { store, what: "a column holds another type than it must".into(), source: None }
            }
            _ => unavailable("the driver failed", false, e),
        },
    }
}
