//! Making, removing and counting records of our own.

use std::{collections::HashSet, sync::LazyLock};

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Sqlite, Transaction};

use super::{
    SqliteStore,
    records::{CHUNK, placeholders},
    unsigned,
};
use crate::store::{
    CollectionId, Inserted, KeyPage, NewRecord, OnExisting, OwnRecords, RecordKey, ScanCursor, StoreError, check_doc,
    check_limit,
};

static EXISTING_CHUNK: LazyLock<String> = LazyLock::new(|| existing_statement(CHUNK));
static WRITE_CHUNK: LazyLock<String> = LazyLock::new(|| write_statement(CHUNK));

/// `?1` is the collection, `?2` stays unused, then the keys.
fn existing_statement(rows: usize) -> String {
    format!("SELECT id FROM records WHERE collection = ?1 AND ?2 IS NULL AND id IN (VALUES {})", placeholders(rows, 1))
}

/// `?1` is the collection, `?2` the revision, then key and document of each row.
fn write_statement(rows: usize) -> String {
    // `WHERE true` keeps SQLite from reading `ON CONFLICT` as a join's condition.
    format!(
        "INSERT INTO records (collection, revision, id, doc)
         SELECT ?1, ?2, column1, column2 FROM (VALUES {}) WHERE true
         ON CONFLICT DO UPDATE SET doc = excluded.doc, revision = excluded.revision",
        placeholders(rows, 2)
    )
}

fn statement(cached: &'static LazyLock<String>, make: fn(usize) -> String, rows: usize) -> AssertSqlSafe<String> {
    AssertSqlSafe(if rows == CHUNK { cached.to_string() } else { make(rows) })
}

#[async_trait]
impl OwnRecords for SqliteStore {
    async fn insert(
        &self,
        collection: &CollectionId,
        batch: Vec<NewRecord>,
        on_existing: OnExisting,
    ) -> Result<Vec<Inserted>, StoreError> {
        let rows = batch
            .iter()
            .map(|new| Ok((&new.key, check_doc(&new.key, &new.doc)?)))
            .collect::<Result<Vec<_>, StoreError>>()?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.begin().await?;
        let mut there = self.existing(&mut tx, collection, &rows).await?;
        let mut results = Vec::with_capacity(rows.len());
        let mut writes = Vec::with_capacity(rows.len());
        for (key, doc) in rows {
            let new = there.insert(key.as_str().into());
            match (new, on_existing) {
                (true, _) => results.push(Inserted::Created),
                (false, OnExisting::Replace) => results.push(Inserted::Replaced),
                (false, OnExisting::Skip) => {
                    results.push(Inserted::Exists);
                    continue;
                }
                (false, OnExisting::Fail) => return Err(StoreError::Exists { key: key.clone() }),
            }
            writes.push((key, doc));
        }
        self.write(&mut tx, collection, &writes).await?;
        self.commit(tx).await?;
        Ok(results)
    }

    async fn remove(
        &self,
        collection: &CollectionId,
        key: &RecordKey,
        expect: Option<u64>,
    ) -> Result<bool, StoreError> {
        // A revision beyond SQLite's integers was never given out.
        let Ok(expect) = expect.map(i64::try_from).transpose() else { return Ok(false) };
        let mut tx = self.begin().await?;
        let done =
            sqlx::query("DELETE FROM records WHERE collection = ?1 AND id = ?2 AND (?3 IS NULL OR revision = ?3)")
                .bind(collection.as_str())
                .bind(key.as_str())
                .bind(expect)
                .execute(&mut *tx)
                .await
                .map_err(|e| self.error(e))?;
        self.commit(tx).await?;
        Ok(done.rows_affected() == 1)
    }

    async fn count(&self, collection: &CollectionId) -> Result<u64, StoreError> {
        sqlx::query_scalar("SELECT count(*) FROM records WHERE collection = ?1")
            .bind(collection.as_str())
            .fetch_one(self.readers()?)
            .await
            .map(unsigned)
            .map_err(|e| self.error(e))
    }

    async fn keys(
        &self,
        collection: &CollectionId,
        after: Option<&ScanCursor>,
        limit: usize,
    ) -> Result<KeyPage, StoreError> {
        let most = check_limit(limit)?;
        let ids: Vec<String> =
            sqlx::query_scalar("SELECT id FROM records WHERE collection = ?1 AND id > ?2 ORDER BY id LIMIT ?3")
                .bind(collection.as_str())
                .bind(after.map_or("", ScanCursor::as_str))
                .bind(most)
                .fetch_all(self.readers()?)
                .await
                .map_err(|e| self.error(e))?;
        let next = match ids.last() {
            Some(last) if ids.len() == limit => Some(ScanCursor::new(last)?),
            _ => None,
        };
        let keys = ids
            .iter()
            .map(|id| RecordKey::new(id).map_err(|e| self.corrupt(format!("it holds a record that it cannot: {e}"))))
            .collect::<Result<_, _>>()?;
        Ok(KeyPage { keys, next })
    }

    async fn collections(&self) -> Result<Vec<CollectionId>, StoreError> {
        // Jumps from one collection to the next instead of reading every record.
        let ids: Vec<String> = sqlx::query_scalar(
            "WITH RECURSIVE found (id) AS (
                 SELECT min(collection) FROM records
                 UNION ALL
                 SELECT (SELECT min(collection) FROM records WHERE collection > found.id) FROM found
                 WHERE found.id IS NOT NULL
             )
             SELECT id FROM found WHERE id IS NOT NULL",
        )
        .fetch_all(self.readers()?)
        .await
        .map_err(|e| self.error(e))?;
        ids.iter()
            .map(|id| {
                CollectionId::new(id).map_err(|e| self.corrupt(format!("it holds a collection that it cannot: {e}")))
            })
            .collect()
    }
}

impl SqliteStore {
    async fn existing(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        collection: &CollectionId,
        rows: &[(&RecordKey, &str)],
    ) -> Result<HashSet<Box<str>>, StoreError> {
        let mut found = HashSet::with_capacity(rows.len());
        for chunk in rows.chunks(CHUNK) {
            let mut query = sqlx::query_scalar(statement(&EXISTING_CHUNK, existing_statement, chunk.len()))
                .bind(collection.as_str())
                .bind(None::<i64>);
            for (key, _) in chunk {
                query = query.bind(key.as_str());
            }
            let ids: Vec<String> = query.fetch_all(&mut **tx).await.map_err(|e| self.error(e))?;
            found.extend(ids.into_iter().map(String::into_boxed_str));
        }
        Ok(found)
    }

    async fn write(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        collection: &CollectionId,
        rows: &[(&RecordKey, &str)],
    ) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let revision = self.next_revision(tx).await?;
        for chunk in rows.chunks(CHUNK) {
            let mut query = sqlx::query(statement(&WRITE_CHUNK, write_statement, chunk.len()))
                .bind(collection.as_str())
                .bind(revision);
            for (key, doc) in chunk {
                query = query.bind(key.as_str()).bind(*doc);
            }
            query.execute(&mut **tx).await.map_err(|e| self.error(e))?;
        }
        Ok(())
    }
}
