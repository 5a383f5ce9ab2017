//! Scanning, reading and swapping records.
//!
//! The driver runs each statement on a thread of its own, so a round trip costs about as much as the work of one row.
//! Swaps go out many rows to a statement therefore; only a batch in which some row did not match is done again row by
//! row, in a new transaction, to tell which and why.

use std::{fmt::Write as _, sync::LazyLock};

use async_trait::async_trait;
use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Row as _, Sqlite, Transaction, sqlite::SqliteRow};

use super::{SqliteStore, unsigned};
use crate::store::{
    Cell, CellValue, CollectionId, DOC_CELL, OwnRecords as _, Page, Partition, RecordKey, RecordStore, ScanCursor,
    StoreError, StoredRecord, Swap, Swapped, Writes, check_doc, check_limit, not_text,
};

/// Rows to a statement. More gain nothing: the cost of binding and of SQLite's own list of them grows.
pub(super) const CHUNK: usize = 32;

/// A page ends early once its documents take this much memory.
const PAGE_BYTES: usize = 8 << 20;

static SWAP_CHUNK: LazyLock<String> = LazyLock::new(|| swap_statement(CHUNK));

/// `?1` is the collection, `?2` the revision, then key, old and new of each row.
fn swap_statement(rows: usize) -> String {
    format!(
        "UPDATE records SET doc = v.column3, revision = ?2 FROM (VALUES {}) AS v
         WHERE collection = ?1 AND id = v.column1 AND doc = v.column2",
        placeholders(rows, 3)
    )
}

/// `(?3, ?4), (?5, ?6)` and so on.
pub(super) fn placeholders(rows: usize, columns: usize) -> String {
    let mut out = String::new();
    for row in 0..rows {
        out.push_str(if row == 0 { "(" } else { ", (" });
        for column in 0..columns {
            let _ = write!(out, "{}?{}", if column == 0 { "" } else { ", " }, 3 + row * columns + column);
        }
        out.push(')');
    }
    out
}

#[async_trait]
impl RecordStore for SqliteStore {
    fn describe(&self) -> String {
        self.name()
    }

    async fn partitions(&self, _: &CollectionId) -> Result<Vec<Partition>, StoreError> {
        // One writer at a time is all that SQLite has; scanning in parts would only make them wait for each other.
        Ok(vec![Partition::whole()])
    }

    async fn estimate(&self, collection: &CollectionId) -> Result<Option<u64>, StoreError> {
        self.count(collection).await.map(Some)
    }

    async fn writes(&self, _: &CollectionId) -> Result<Option<Writes>, StoreError> {
        let count: i64 = sqlx::query_scalar("SELECT value FROM counters WHERE name = 'records'")
            .fetch_one(self.readers()?)
            .await
            .map_err(|e| self.error(e))?;
        Ok(Some(Writes { since: String::new(), count: unsigned(count) }))
    }

    async fn scan(
        &self,
        collection: &CollectionId,
        partition: &Partition,
        after: Option<&ScanCursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        if *partition != Partition::whole() {
            return Err(StoreError::invalid(format!("{} has no partition `{partition}`", self.name())));
        }
        let most = check_limit(limit)?;
        let mut rows =
            sqlx::query("SELECT id, revision, doc FROM records WHERE collection = ?1 AND id > ?2 ORDER BY id LIMIT ?3")
                .bind(collection.as_str())
                .bind(after.map_or("", ScanCursor::as_str))
                .bind(most)
                .fetch(self.readers()?);
        let mut records = Vec::new();
        let mut bytes = 0;
        while bytes < PAGE_BYTES {
            let Some(row) = rows.try_next().await.map_err(|e| self.error(e))? else { break };
            let record = self.record(&row)?;
            bytes += record.cells.iter().map(|cell| cell.value.len()).sum::<usize>();
            records.push(record);
        }
        let full = records.len() == limit || bytes >= PAGE_BYTES;
        let next = match records.last() {
            Some(last) if full => Some(ScanCursor::new(last.key.as_str())?),
            _ => None,
        };
        Ok(Page { records, odd: Vec::new(), next })
    }

    async fn read(&self, collection: &CollectionId, key: &RecordKey) -> Result<Option<StoredRecord>, StoreError> {
        let row = sqlx::query("SELECT id, revision, doc FROM records WHERE collection = ?1 AND id = ?2")
            .bind(collection.as_str())
            .bind(key.as_str())
            .fetch_optional(self.readers()?)
            .await
            .map_err(|e| self.error(e))?;
        row.map(|row| self.record(&row)).transpose()
    }

    async fn swap(&self, collection: &CollectionId, batch: Vec<Swap>) -> Result<Vec<Swapped>, StoreError> {
        let swaps = batch.iter().map(Texts::of).collect::<Result<Vec<_>, _>>()?;
        if swaps.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.begin().await?;
        if self.swap_all(&mut tx, collection, &swaps).await? {
            self.commit(tx).await?;
            return Ok(vec![Swapped::Done; swaps.len()]);
        }
        tx.rollback().await.map_err(|e| self.error(e))?;

        let mut tx = self.begin().await?;
        let results = self.swap_each(&mut tx, collection, &swaps).await?;
        self.commit(tx).await?;
        Ok(results)
    }
}

/// A swap whose values were checked.
pub(super) struct Texts<'a> {
    key: &'a str,
    old: &'a str,
    new: &'a str,
}

impl<'a> Texts<'a> {
    pub(super) fn of(swap: &'a Swap) -> Result<Self, StoreError> {
        if swap.cell.as_str() != DOC_CELL {
            return Err(StoreError::invalid(format!(
                "a record here has one cell, `{DOC_CELL}`, and no `{}`",
                swap.cell
            )));
        }
        let old = swap.old.as_str().ok_or_else(|| not_text(&swap.key))?;
        Ok(Self { key: swap.key.as_str(), old, new: check_doc(&swap.key, &swap.new)? })
    }
}

impl SqliteStore {
    fn record(&self, row: &SqliteRow) -> Result<StoredRecord, StoreError> {
        let (id, revision): (&str, i64) =
            (row.try_get(0).map_err(|e| self.error(e))?, row.try_get(1).map_err(|e| self.error(e))?);
        let doc: String = row.try_get(2).map_err(|e| self.error(e))?;
        let value = CellValue::text(doc);
        let key = RecordKey::new(id).map_err(|e| self.corrupt(format!("it holds a record that it cannot: {e}")))?;
        Ok(StoredRecord {
            key,
            cells: vec![Cell { name: self.inner.doc.clone(), value }],
            revision: unsigned(revision),
        })
    }

    /// The revision of everything that this transaction writes. It grows with each one and never comes back, so that a
    /// record made anew under an old key is not taken for the old one.
    pub(super) async fn next_revision(&self, tx: &mut Transaction<'_, Sqlite>) -> Result<i64, StoreError> {
        sqlx::query_scalar("UPDATE counters SET value = value + 1 WHERE name = 'records' RETURNING value")
            .fetch_one(&mut **tx)
            .await
            .map_err(|e| self.error(e))
    }

    /// All of them, many to a statement; `false` as soon as one did not match.
    pub(super) async fn swap_all(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        collection: &CollectionId,
        swaps: &[Texts<'_>],
    ) -> Result<bool, StoreError> {
        let revision = self.next_revision(tx).await?;
        for chunk in swaps.chunks(CHUNK) {
            let mut query = if chunk.len() == CHUNK {
                sqlx::query(AssertSqlSafe(SWAP_CHUNK.as_str()))
            } else {
                sqlx::query(AssertSqlSafe(swap_statement(chunk.len())))
            };
            query = query.bind(collection.as_str()).bind(revision);
            for swap in chunk {
                query = query.bind(swap.key).bind(swap.old).bind(swap.new);
            }
            let done = query.execute(&mut **tx).await.map_err(|e| self.error(e))?.rows_affected();
            if done != chunk.len() as u64 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One after the other, so that each can be judged, and can see what an earlier one of the batch stored.
    async fn swap_each(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        collection: &CollectionId,
        swaps: &[Texts<'_>],
    ) -> Result<Vec<Swapped>, StoreError> {
        let revision = self.next_revision(tx).await?;
        let mut results = Vec::with_capacity(swaps.len());
        for swap in swaps {
            let done = sqlx::query(
                "UPDATE records SET doc = ?5, revision = ?2 WHERE collection = ?1 AND id = ?3 AND doc = ?4",
            )
            .bind(collection.as_str())
            .bind(revision)
            .bind(swap.key)
            .bind(swap.old)
            .bind(swap.new)
            .execute(&mut **tx)
            .await
            .map_err(|e| self.error(e))?;
            if done.rows_affected() == 1 {
                results.push(Swapped::Done);
                continue;
            }
            let there: bool =
                sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM records WHERE collection = ?1 AND id = ?2)")
                    .bind(collection.as_str())
                    .bind(swap.key)
                    .fetch_one(&mut **tx)
                    .await
                    .map_err(|e| self.error(e))?;
            results.push(if there { Swapped::Changed } else { Swapped::Gone });
        }
        Ok(results)
    }
}
