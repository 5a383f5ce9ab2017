//! The small documents.
//!
//! One counter numbers all changes. A document's version is the number of its last change, so a version never comes
//! back; a deleted document leaves its number behind for a day, so that who waits for changes learns of it; and when
//! such a trace is dropped, the highest number dropped is kept, so that who comes even later gets a notice too many
//! rather than one too few.

use std::{sync::atomic::Ordering, time::Duration};

use async_trait::async_trait;
use keyfold_core::clock::UnixTime;
use sqlx::{Sqlite, Transaction};

use super::{SqliteStore, unsigned};
use crate::store::{
    ChangeMark, Doc, Expect, Put, StoreError, SystemStore, check_key, check_prefix,
    system::{POLL, wait_for_change},
    system::{check_list, check_put},
};

/// How often, in writes of this process, what has expired is dropped. It was invisible before.
const FORGET_EVERY: u32 = 64;

/// The server's time in milliseconds.
macro_rules! now {
    () => {
        "CAST(unixepoch('subsec') * 1000 AS INTEGER)"
    };
}

macro_rules! alive {
    () => {
        concat!("value IS NOT NULL AND (expires_at IS NULL OR expires_at > ", now!(), ")")
    };
}

/// Where the keys that start with `prefix` end. No UTF-8 text contains the byte FF, so it sorts after all of them.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    end.push(0xff);
    end
}

#[async_trait]
impl SystemStore for SqliteStore {
    async fn get(&self, key: &str) -> Result<Option<Doc>, StoreError> {
        check_key(key)?;
        let row: Option<(Vec<u8>, i64)> =
            sqlx::query_as(concat!("SELECT value, version FROM system WHERE key = ?1 AND ", alive!()))
                .bind(key)
                .fetch_optional(self.readers()?)
                .await
                .map_err(|e| self.error(e))?;
        Ok(row.map(|(value, version)| Doc { value, version: unsigned(version) }))
    }

    async fn put(&self, key: &str, value: &[u8], expect: Expect, ttl: Option<Duration>) -> Result<Put, StoreError> {
        let ttl = check_put(key, value, ttl)?;
        let mut tx = self.begin().await?;
        if !self.holds(&mut tx, key, expect).await? {
            return Ok(Put::Conflict);
        }
        let version = self.next_version(&mut tx).await?;
        sqlx::query(concat!(
            "INSERT INTO system (key, value, version, expires_at) VALUES (?1, ?2, ?3, ",
            now!(),
            " + ?4) ON CONFLICT DO UPDATE
              SET value = excluded.value, version = excluded.version, expires_at = excluded.expires_at"
        ))
        .bind(key)
        .bind(value)
        .bind(version)
        .bind(ttl)
        .execute(&mut *tx)
        .await
        .map_err(|e| self.error(e))?;
        self.forget(&mut tx).await?;
        self.commit(tx).await?;
        self.inner.written.notify_waiters();
        Ok(Put::Stored { version: unsigned(version) })
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<bool, StoreError> {
        check_key(key)?;
        if expect == Expect::Absent {
            return Err(StoreError::invalid("a document cannot be deleted on condition that it is absent"));
        }
        let mut tx = self.begin().await?;
        let there = match expect {
            // Any: only what is there can be deleted.
            Expect::Any => !self.holds(&mut tx, key, Expect::Absent).await?,
            other => self.holds(&mut tx, key, other).await?,
        };
        if !there {
            return Ok(false);
        }
        let version = self.next_version(&mut tx).await?;
        sqlx::query(concat!(
            "UPDATE system SET value = NULL, version = ?2, expires_at = ",
            now!(),
            " + 86400000 WHERE key = ?1"
        ))
        .bind(key)
        .bind(version)
        .execute(&mut *tx)
        .await
        .map_err(|e| self.error(e))?;
        self.forget(&mut tx).await?;
        self.commit(tx).await?;
        self.inner.written.notify_waiters();
        Ok(true)
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Doc)>, StoreError> {
        let most = check_list(prefix, after, limit)?;
        let rows: Vec<(String, Vec<u8>, i64)> = sqlx::query_as(concat!(
            "SELECT key, value, version FROM system
             WHERE key >= ?1 AND key < CAST(?2 AS TEXT) AND key > ?3 AND ",
            alive!(),
            " ORDER BY key LIMIT ?4"
        ))
        .bind(prefix)
        .bind(end_of(prefix))
        .bind(after.unwrap_or(""))
        .bind(most)
        .fetch_all(self.readers()?)
        .await
        .map_err(|e| self.error(e))?;
        Ok(rows.into_iter().map(|(key, value, version)| (key, Doc { value, version: unsigned(version) })).collect())
    }

    async fn now(&self) -> Result<UnixTime, StoreError> {
        sqlx::query_scalar("SELECT unixepoch()")
            .fetch_one(self.readers()?)
            .await
            .map(|seconds| UnixTime(unsigned(seconds)))
            .map_err(|e| self.error(e))
    }

    async fn changed(&self, prefix: &str, since: &ChangeMark, wait: Duration) -> Result<ChangeMark, StoreError> {
        check_prefix(prefix)?;
        wait_for_change(&self.name(), since, wait, (&self.inner.written, POLL), |seen| self.look(prefix, seen)).await
    }
}

impl SqliteStore {
    /// The number of the last change, and whether one after `seen` lies under `prefix`.
    async fn look(&self, prefix: &str, seen: i64) -> Result<(i64, bool), StoreError> {
        sqlx::query_as(
            "SELECT c.value, c.value > ?1 AND (
                 EXISTS (SELECT 1 FROM counters f WHERE f.name = 'system_forgotten' AND f.value > ?1)
                 OR EXISTS (SELECT 1 FROM system s WHERE s.version > ?1 AND s.key >= ?2 AND s.key < CAST(?3 AS TEXT)))
             FROM counters c WHERE c.name = 'system'",
        )
        .bind(seen)
        .bind(prefix)
        .bind(end_of(prefix))
        .fetch_one(self.readers()?)
        .await
        .map_err(|e| self.error(e))
    }

    async fn holds(&self, tx: &mut Transaction<'_, Sqlite>, key: &str, expect: Expect) -> Result<bool, StoreError> {
        if expect == Expect::Any {
            return Ok(true);
        }
        let found: Option<i64> =
            sqlx::query_scalar(concat!("SELECT version FROM system WHERE key = ?1 AND ", alive!()))
                .bind(key)
                .fetch_optional(&mut **tx)
                .await
                .map_err(|e| self.error(e))?;
        Ok(match expect {
            Expect::Version(version) => found.is_some_and(|found| unsigned(found) == version),
            _ => found.is_none(),
        })
    }

    async fn next_version(&self, tx: &mut Transaction<'_, Sqlite>) -> Result<i64, StoreError> {
        sqlx::query_scalar("UPDATE counters SET value = value + 1 WHERE name = 'system' RETURNING value")
            .fetch_one(&mut **tx)
            .await
            .map_err(|e| self.error(e))
    }

    /// Now and then drops what has expired, and keeps the highest number that goes with it.
    async fn forget(&self, tx: &mut Transaction<'_, Sqlite>) -> Result<(), StoreError> {
        if !self.inner.puts.fetch_add(1, Ordering::Relaxed).is_multiple_of(FORGET_EVERY) {
            return Ok(());
        }
        sqlx::raw_sql(concat!(
            "UPDATE counters SET value = max(value,
                 (SELECT coalesce(max(version), 0) FROM system WHERE expires_at <= ",
            now!(),
            "))
             WHERE name = 'system_forgotten';
             DELETE FROM system WHERE expires_at <= ",
            now!(),
            ";"
        ))
        .execute(&mut **tx)
        .await
        .map(|_| ())
        .map_err(|e| self.error(e))
    }
}
