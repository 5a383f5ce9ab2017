//! The small documents.
//!
//! One counter numbers all changes, and who takes a number holds the counter until the commit: numbers become visible in
//! their order, and who waits for changes misses none. A document's version is the number of its last change, so a version
//! never comes back; a deleted document leaves its number behind for a day; and when such a trace is dropped, the highest
//! number dropped is kept, so that who comes even later gets a notice too many rather than one too few.
//!
//! Each write is one statement. What it expects of the document is checked on the row that it writes, and not on an older
//! version of it.

use std::{sync::atomic::Ordering, time::Duration};

use async_trait::async_trait;
use keyfold_core::clock::UnixTime;

use super::{PostgresStore, unsigned};
use crate::store::{
    ChangeMark, Doc, Expect, Put, StoreError, SystemStore, check_key, check_prefix,
    system::{POLL, wait_for_change},
    system::{check_list, check_put},
};

/// How often, in writes of this process, what has expired is dropped. It was invisible before.
const FORGET_EVERY: u32 = 64;

macro_rules! alive {
    () => {
        "s.value IS NOT NULL AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp())"
    };
}

macro_rules! numbered {
    ($statement:expr) => {
        concat!(
            "WITH n AS (UPDATE keyfold.counters SET value = value + 1 WHERE name = 'system' RETURNING value) ",
            $statement
        )
    };
}

macro_rules! upsert {
    ($condition:expr) => {
        numbered!(concat!(
            "INSERT INTO keyfold.system AS s (key, value, version, expires_at)
             SELECT $1, $2, n.value, clock_timestamp() + $3::int8 * interval '1 millisecond' FROM n
             ON CONFLICT (key) DO UPDATE
                SET value = excluded.value, version = excluded.version, expires_at = excluded.expires_at ",
            $condition,
            " RETURNING version"
        ))
    };
}

/// `$4` is only used where a version is expected.
const PUT_ANY: &str = upsert!("WHERE $4::int8 IS NULL");
const PUT_ABSENT: &str = upsert!(concat!("WHERE $4::int8 IS NULL AND NOT (", alive!(), ")"));
const PUT_VERSION: &str = numbered!(concat!(
    "UPDATE keyfold.system AS s SET value = $2, version = n.value,
         expires_at = clock_timestamp() + $3::int8 * interval '1 millisecond'
     FROM n WHERE s.key = $1 AND s.version = $4 AND ",
    alive!(),
    " RETURNING version"
));
const DELETE: &str = numbered!(concat!(
    "UPDATE keyfold.system AS s SET value = NULL, version = n.value, expires_at = clock_timestamp() + interval '1 day'
     FROM n WHERE s.key = $1 AND ($2::int8 IS NULL OR s.version = $2) AND ",
    alive!()
));

/// The first text after all that start with `prefix`; `None` where there is none.
fn end_of(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            end.push(next);
            return Some(end);
        }
    }
    None
}

#[async_trait]
impl SystemStore for PostgresStore {
    async fn get(&self, key: &str) -> Result<Option<Doc>, StoreError> {
        check_key(key)?;
        let query = sqlx::query_as(concat!(
            "SELECT s.value, s.version FROM keyfold.system AS s WHERE s.key = $1 AND ",
            alive!()
        ))
        .bind(key);
        let row: Option<(Vec<u8>, i64)> = self.server().answer(query.fetch_optional(self.server().pool())).await?;
        Ok(row.map(|(value, version)| Doc { value, version: unsigned(version) }))
    }

    async fn put(&self, key: &str, value: &[u8], expect: Expect, ttl: Option<Duration>) -> Result<Put, StoreError> {
        let ttl = check_put(key, value, ttl)?;
        let (statement, version) = match expect {
            Expect::Any => (PUT_ANY, None),
            Expect::Absent => (PUT_ABSENT, None),
            Expect::Version(version) => match i64::try_from(version) {
                Ok(version) => (PUT_VERSION, Some(version)),
                // Never given out.
                Err(_) => return Ok(Put::Conflict),
            },
        };
        let query = sqlx::query_scalar(statement).bind(key).bind(value).bind(ttl).bind(version);
        let stored: Option<i64> = self.server().answer(query.fetch_optional(self.server().pool())).await?;
        let Some(version) = stored else { return Ok(Put::Conflict) };
        self.wrote().await;
        Ok(Put::Stored { version: unsigned(version) })
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<bool, StoreError> {
        check_key(key)?;
        let version = match expect {
            Expect::Any => None,
            Expect::Absent => {
                return Err(StoreError::invalid("a document cannot be deleted on condition that it is absent"));
            }
            Expect::Version(version) => match i64::try_from(version) {
                Ok(version) => Some(version),
                Err(_) => return Ok(false),
            },
        };
        let query = sqlx::query(DELETE).bind(key).bind(version);
        let done = self.server().answer(query.execute(self.server().pool())).await?.rows_affected() == 1;
        if done {
            self.wrote().await;
        }
        Ok(done)
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Doc)>, StoreError> {
        let most = check_list(prefix, after, limit)?;
        let query = sqlx::query_as(concat!(
            "SELECT s.key, s.value, s.version FROM keyfold.system AS s
             WHERE s.key >= $1 AND ($2::text IS NULL OR s.key < $2) AND s.key > $3 AND ",
            alive!(),
            " ORDER BY s.key LIMIT $4"
        ))
        .bind(prefix)
        .bind(end_of(prefix))
        .bind(after.unwrap_or(""))
        .bind(most);
        let rows: Vec<(String, Vec<u8>, i64)> = self.server().answer(query.fetch_all(self.server().pool())).await?;
        Ok(rows.into_iter().map(|(key, value, version)| (key, Doc { value, version: unsigned(version) })).collect())
    }

    async fn now(&self) -> Result<UnixTime, StoreError> {
        let query = sqlx::query_scalar("SELECT floor(extract(epoch FROM clock_timestamp()))::int8");
        let seconds: i64 = self.server().answer(query.fetch_one(self.server().pool())).await?;
        Ok(UnixTime(unsigned(seconds)))
    }

    async fn changed(&self, prefix: &str, since: &ChangeMark, wait: Duration) -> Result<ChangeMark, StoreError> {
        check_prefix(prefix)?;
        wait_for_change(self.server().name(), since, wait, (&self.inner.written, POLL), |seen| self.look(prefix, seen))
            .await
    }
}

impl PostgresStore {
    /// The number of the last change, and whether one after `seen` lies under `prefix`.
    async fn look(&self, prefix: &str, seen: i64) -> Result<(i64, bool), StoreError> {
        let query = sqlx::query_as(
            "SELECT c.value, c.value > $1 AND (
                 EXISTS (SELECT 1 FROM keyfold.counters f WHERE f.name = 'system_forgotten' AND f.value > $1)
                 OR EXISTS (SELECT 1 FROM keyfold.system s
                            WHERE s.version > $1 AND s.key >= $2 AND ($3::text IS NULL OR s.key < $3)))
             FROM keyfold.counters c WHERE c.name = 'system'",
        )
        .bind(seen)
        .bind(prefix)
        .bind(end_of(prefix));
        self.server().answer(query.fetch_one(self.server().pool())).await
    }

    /// Tells who waits in this process, and now and then drops what has expired, keeping the highest number that goes with it.
    async fn wrote(&self) {
        self.inner.written.notify_waiters();
        if !self.inner.puts.fetch_add(1, Ordering::Relaxed).is_multiple_of(FORGET_EVERY) {
            return;
        }
        let query = sqlx::query(
            "WITH gone AS (DELETE FROM keyfold.system WHERE expires_at <= clock_timestamp() RETURNING version)
             UPDATE keyfold.counters SET value = greatest(value, (SELECT coalesce(max(version), 0) FROM gone))
             WHERE name = 'system_forgotten'",
        );
        // The write itself is done; what could not be dropped now is dropped later.
        if let Err(error) = self.server().answer(query.execute(self.server().pool())).await {
            tracing::debug!(%error, "expired documents could not be dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::end_of;

    #[test]
    fn the_end_of_a_prefix_is_the_next_text() {
        for (prefix, end) in [
            ("", None),
            ("a/", Some("a0")),
            ("a\u{10ffff}", Some("b")),
            ("\u{d7ff}", Some("\u{e000}")),
            ("\u{10ffff}\u{10ffff}", None),
        ] {
            assert_eq!(end_of(prefix).as_deref(), end, "{prefix:?}");
        }
    }
}
