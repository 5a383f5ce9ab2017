//! PostgreSQL's conditions, sorted by who can do something about them.

use std::fmt;

use crate::store::{Cause, StoreError};

/// What the server said. Its details can quote rows, and for some conditions its message can, so those are left out.
#[derive(Debug)]
struct Said {
    code: String,
    message: Option<String>,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SQLSTATE {}", self.code)?;
        self.message.iter().try_for_each(|message| write!(f, ": {message}"))
    }
}

impl std::error::Error for Said {}

/// The server's condition, where it was the server that answered.
pub(in crate::store) fn sql_state(e: &sqlx::Error) -> Option<String> {
    Some(e.as_database_error()?.code()?.into_owned())
}

/// Whether the whole transaction can simply be done again.
pub(in crate::store) fn is_conflict(e: &sqlx::Error) -> bool {
    matches!(sql_state(e).as_deref(), Some("40001" | "40P01"))
}

pub(in crate::store) fn classify(store: &str, e: sqlx::Error) -> StoreError {
    let store = store.to_owned();
    let unavailable = |store: String, what: &str, retry: bool, source: Cause| StoreError::Unavailable {
        store,
        what: what.into(),
        retry,
        source: Some(source),
    };
    let Some(code) = sql_state(&e) else {
        let what = match &e {
            sqlx::Error::PoolTimedOut => "no connection became free, or none could be made, in time",
            sqlx::Error::PoolClosed => "it was closed",
            sqlx::Error::Tls(source) => return unavailable(store, &format!("TLS failed: {source}"), false, e.into()),
            // So rustls says it within a stream.
            sqlx::Error::Io(source) if source.kind() == std::io::ErrorKind::InvalidData => {
                return unavailable(store, &format!("TLS failed: {source}"), false, e.into());
            }
            sqlx::Error::Io(source) if source.kind() == std::io::ErrorKind::ConnectionRefused => {
                return unavailable(store, "nobody listens there", false, e.into());
            }
            sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => "the connection broke off",
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => {
                let what = "a column holds another type than it must".into();
                return StoreError::Corrupt { store, what, source: None };
            }
            sqlx::Error::Configuration(source) => {
                return unavailable(store, &format!("it cannot be asked: {source}"), false, e.into());
            }
            _ => "the driver failed",
        };
        let retry = !matches!(e, sqlx::Error::PoolClosed);
        return unavailable(store, what, retry, e.into());
    };
    let quotes_values = matches!(&code[..2], "22" | "23" | "P0" | "38" | "39" | "44");
    let message = e.as_database_error().map(|e| e.message().to_owned()).filter(|_| !quotes_values);
    let short = message.clone().unwrap_or_default();
    let source: Cause = Box::new(Said { code: code.clone(), message });
    let refused =
        |what: String, source: Cause| StoreError::Refused { store: store.clone(), what, source: Some(source) };
    match code.as_str() {
        "28P01" | "28000" => {
            refused(format!("{short} (a password comes from the address, PGPASSWORD or the password file)"), source)
        }
        "25006" => refused("it is read-only: a standby, or set so".into(), source),
        "22001" => refused("a sealed value is longer than its column allows; widen the column".into(), source),
        "53100" => StoreError::Full { store, source: Some(source) },
        "55P03" => unavailable(store, "another session holds a lock on the rows for too long", true, source),
        "57014" => unavailable(store, "a statement took too long", true, source),
        "40001" | "40P01" => unavailable(store, "another session's transaction stood in the way", true, source),
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" => {
            unavailable(store, "the server is stopping, starting, or ended the session", true, source)
        }
        "XX001" | "XX002" => {
            StoreError::Corrupt { store, what: "PostgreSQL finds its pages malformed".into(), source: Some(source) }
        }
        _ if code.starts_with("08") || code.starts_with("53") => unavailable(store, &short, true, source),
        _ if short.is_empty() => refused(format!("the statement failed (SQLSTATE {code})"), source),
        _ => refused(short, source),
    }
}
