//! Making, removing and counting records of our own.

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::Connection as _;

use super::{
    PostgresStore,
    error::is_conflict,
    records::{TRIES, check_doc},
    unsigned,
};
use crate::store::{
    CollectionId, Inserted, KeyPage, NewRecord, OnExisting, OwnRecords, RecordKey, ScanCursor, StoreError, check_limit,
    distinct,
};

/// Gives the keys that it stored, and whether there was none before.
macro_rules! insert {
    ($on_conflict:literal) => {
        concat!(
            "INSERT INTO keyfold.records AS r (collection, id, doc, revision)
             SELECT $1, v.id, v.doc, nextval('keyfold.revisions') FROM unnest($2::text[], $3::text[]) AS v (id, doc)
             ON CONFLICT (collection, id) DO ",
            $on_conflict,
            " RETURNING id, r.xmax = 0"
        )
    };
}

const INSERT_NEW: &str = insert!("NOTHING");
const INSERT_OVER: &str = insert!("UPDATE SET doc = excluded.doc, revision = nextval('keyfold.revisions')");

#[async_trait]
impl OwnRecords for PostgresStore {
    async fn insert(
        &self,
        collection: &CollectionId,
        batch: Vec<NewRecord>,
        on_existing: OnExisting,
    ) -> Result<Vec<Inserted>, StoreError> {
        let docs = distinct(&batch, on_existing, |new| check_doc(&new.key, &new.doc))?;
        let mut docs: Vec<(&str, &str)> = docs.into_iter().map(|(key, doc)| (key.as_str(), doc)).collect();
        if docs.is_empty() {
            return Ok(Vec::new());
        }
        // So that two batches lock their rows in one order.
        docs.sort_unstable_by_key(|(key, _)| *key);
        let Some(mut created) = self.write(collection, &docs, on_existing).await? else {
            let there = self.existing(collection, &docs).await?;
            let first = batch.iter().find(|new| there.contains(new.key.as_str())).or(batch.first());
            return first.map_or(Ok(Vec::new()), |new| Err(StoreError::Exists { key: new.key.clone() }));
        };
        let result = |new: &NewRecord| match (created.remove(new.key.as_str()), on_existing) {
            (true, _) => Inserted::Created,
            (false, OnExisting::Replace) => Inserted::Replaced,
            (false, _) => Inserted::Exists,
        };
        Ok(batch.iter().map(result).collect())
    }

    async fn remove(
        &self,
        collection: &CollectionId,
        key: &RecordKey,
        expect: Option<u64>,
    ) -> Result<bool, StoreError> {
        // A revision beyond the server's integers was never given out.
        let Ok(expect) = expect.map(i64::try_from).transpose() else { return Ok(false) };
        let query = sqlx::query(
            "DELETE FROM keyfold.records WHERE collection = $1 AND id = $2 AND ($3::int8 IS NULL OR revision = $3)",
        )
        .bind(collection.as_str())
        .bind(key.as_str())
        .bind(expect);
        Ok(self.server().answer(query.execute(self.server().pool())).await?.rows_affected() == 1)
    }

    async fn count(&self, collection: &CollectionId) -> Result<u64, StoreError> {
        let query =
            sqlx::query_scalar("SELECT count(*) FROM keyfold.records WHERE collection = $1").bind(collection.as_str());
        self.server().answer(query.fetch_one(self.server().pool())).await.map(unsigned)
    }

    async fn keys(
        &self,
        collection: &CollectionId,
        after: Option<&ScanCursor>,
        limit: usize,
    ) -> Result<KeyPage, StoreError> {
        let most = check_limit(limit)?;
        let query =
            sqlx::query_scalar("SELECT id FROM keyfold.records WHERE collection = $1 AND id > $2 ORDER BY id LIMIT $3")
                .bind(collection.as_str())
                .bind(after.map_or("", ScanCursor::as_str))
                .bind(most);
        let ids: Vec<String> = self.server().answer(query.fetch_all(self.server().pool())).await?;
        let next = match ids.last() {
            Some(last) if ids.len() == limit => Some(ScanCursor::new(last)?),
            _ => None,
        };
        let key = |id: &String| {
            RecordKey::new(id).map_err(|e| self.server().corrupt(format!("it holds a record that it cannot: {e}")))
        };
        Ok(KeyPage { keys: ids.iter().map(key).collect::<Result<_, _>>()?, next })
    }

    async fn collections(&self) -> Result<Vec<CollectionId>, StoreError> {
        // Jumps from one collection to the next instead of reading every record.
        let query = sqlx::query_scalar(
            "WITH RECURSIVE found (id) AS (
                 (SELECT collection FROM keyfold.records ORDER BY collection LIMIT 1)
                 UNION ALL
                 SELECT (SELECT collection FROM keyfold.records WHERE collection > found.id ORDER BY collection LIMIT 1)
                 FROM found WHERE found.id IS NOT NULL)
             SELECT id FROM found WHERE id IS NOT NULL",
        );
        let ids: Vec<String> = self.server().answer(query.fetch_all(self.server().pool())).await?;
        let id = |id: &String| {
            CollectionId::new(id)
                .map_err(|e| self.server().corrupt(format!("it holds a collection that it cannot: {e}")))
        };
        ids.iter().map(id).collect()
    }
}

impl PostgresStore {
    /// The keys that were not there before; `None` where that had to be all of them, was not, and nothing is written.
    async fn write(
        &self,
        collection: &CollectionId,
        docs: &[(&str, &str)],
        on_existing: OnExisting,
    ) -> Result<Option<HashSet<String>>, StoreError> {
        let (keys, texts): (Vec<&str>, Vec<&str>) = docs.iter().copied().unzip();
        let mut tries = 1;
        loop {
            let mut connection = self.server().acquire().await?;
            let done = self.server().patient(async {
                let mut tx = connection.begin().await?;
                let statement = if on_existing == OnExisting::Replace { INSERT_OVER } else { INSERT_NEW };
                let rows: Vec<(String, bool)> = sqlx::query_as(statement)
                    .bind(collection.as_str())
                    .bind(&keys)
                    .bind(&texts)
                    .fetch_all(&mut *tx)
                    .await?;
                if on_existing == OnExisting::Fail && rows.len() < keys.len() {
                    tx.rollback().await?;
                    return Ok(None);
                }
                tx.commit().await?;
                Ok(Some(rows.into_iter().filter(|(_, new)| *new).map(|(id, _)| id).collect()))
            });
            match done.await {
                Err(e) if is_conflict(&e) && tries < TRIES => tries += 1,
                done => return done.map_err(|e| self.server().error(e)),
            }
        }
    }

    /// Which of these are there.
    async fn existing(&self, collection: &CollectionId, docs: &[(&str, &str)]) -> Result<HashSet<String>, StoreError> {
        let keys: Vec<&str> = docs.iter().map(|(key, _)| *key).collect();
        let query = sqlx::query_scalar("SELECT id FROM keyfold.records WHERE collection = $1 AND id = ANY ($2)")
            .bind(collection.as_str())
            .bind(&keys);
        let ids: Vec<String> = self.server().answer(query.fetch_all(self.server().pool())).await?;
        Ok(ids.into_iter().collect())
    }
}
