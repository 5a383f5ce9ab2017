//! Scanning, reading and swapping records of our own.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _, postgres::PgRow};

use super::{PostgresStore, error::is_conflict, unsigned};
use crate::store::{
    Cell, CellValue, CollectionId, DOC_CELL, MAX_CELL, OwnRecords as _, Page, Partition, RecordKey, RecordStore,
    ScanCursor, StoreError, StoredRecord, Swap, Swapped, check_limit,
};

/// A page ends early once its documents take this much memory.
const PAGE_BYTES: usize = 8 << 20;

/// How often a batch is done again after a deadlock.
pub(super) const TRIES: u32 = 5;

#[async_trait]
impl RecordStore for PostgresStore {
    fn describe(&self) -> String {
        self.server().name().into()
    }

    async fn partitions(&self, _: &CollectionId) -> Result<Vec<Partition>, StoreError> {
        Ok(vec![Partition::whole()])
    }

    async fn estimate(&self, collection: &CollectionId) -> Result<Option<u64>, StoreError> {
        self.count(collection).await.map(Some)
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
        let most = check_limit(limit)?;
        // The server cuts the page, so that what does not fit is never sent.
        let text = format!(
            "SELECT id, revision, doc, total FROM (
                 SELECT *, count(*) OVER () AS total, row_number() OVER () AS at,
                        sum(octet_length(doc)) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
                 FROM (SELECT id, revision, doc FROM keyfold.records WHERE collection = $1 AND id > $2 ORDER BY id LIMIT $3) AS page
             ) AS sized WHERE coalesce(before, 0) < {PAGE_BYTES} ORDER BY at"
        );
        let query = sqlx::query(AssertSqlSafe(text))
            .bind(collection.as_str())
            .bind(after.map_or("", ScanCursor::as_str))
            .bind(most);
        let rows = self.server().answer(query.fetch_all(self.server().pool())).await?;
        let total: i64 = match rows.first() {
            Some(row) => row.try_get("total").map_err(|e| self.server().error(e))?,
            None => 0,
        };
        let records = rows.iter().map(|row| self.record(row)).collect::<Result<Vec<_>, _>>()?;
        let cut = i64::try_from(records.len()).is_ok_and(|found| found < total);
        let next = match records.last() {
            Some(last) if cut || total >= most => Some(ScanCursor::new(last.key.as_str())?),
            _ => None,
        };
        Ok(Page { records, odd: Vec::new(), next })
    }

    async fn read(&self, collection: &CollectionId, key: &RecordKey) -> Result<Option<StoredRecord>, StoreError> {
        let query = sqlx::query("SELECT id, revision, doc FROM keyfold.records WHERE collection = $1 AND id = $2")
            .bind(collection.as_str())
            .bind(key.as_str());
        let row = self.server().answer(query.fetch_optional(self.server().pool())).await?;
        row.map(|row| self.record(&row)).transpose()
    }

    async fn swap(&self, collection: &CollectionId, batch: Vec<Swap>) -> Result<Vec<Swapped>, StoreError> {
        let swaps = batch.iter().map(Texts::of).collect::<Result<Vec<_>, _>>()?;
        if swaps.is_empty() {
            return Ok(Vec::new());
        }
        let mut tries = 1;
        loop {
            let mut connection = self.server().acquire().await?;
            match self.server().patient(swap_all(&mut connection, collection, &swaps)).await {
                Err(e) if is_conflict(&e) && tries < TRIES => tries += 1,
                done => return done.map_err(|e| self.server().error(e)),
            }
        }
    }
}

/// A swap whose values were checked.
struct Texts<'a> {
    key: &'a str,
    old: &'a str,
    new: &'a str,
}

impl<'a> Texts<'a> {
    fn of(swap: &'a Swap) -> Result<Self, StoreError> {
        if swap.cell.as_str() != DOC_CELL {
            return Err(StoreError::invalid(format!(
                "a record here has one cell, `{DOC_CELL}`, and no `{}`",
                swap.cell
            )));
        }
        let old = check_doc(&swap.key, &swap.old)?;
        Ok(Self { key: swap.key.as_str(), old, new: check_doc(&swap.key, &swap.new)? })
    }
}

/// What may be stored as a document.
pub(super) fn check_doc<'a>(key: &RecordKey, doc: &'a CellValue) -> Result<&'a str, StoreError> {
    if doc.len() > MAX_CELL {
        let found = doc.len();
        return Err(StoreError::invalid(format!(
            "the document of record `{key}` has {found} bytes, at most {MAX_CELL} are allowed"
        )));
    }
    doc.as_str()
        .filter(|text| !text.contains('\0'))
        .ok_or_else(|| StoreError::invalid(format!("the document of record `{key}` is not UTF-8 text without NUL")))
}

/// Where a key is swapped twice, the second swap goes out in a second statement, and so on.
async fn swap_all(
    connection: &mut PgConnection,
    collection: &CollectionId,
    swaps: &[Texts<'_>],
) -> Result<Vec<Swapped>, sqlx::Error> {
    let mut layers: Vec<Vec<usize>> = Vec::new();
    let mut times: HashMap<&str, usize> = HashMap::with_capacity(swaps.len());
    for (n, swap) in swaps.iter().enumerate() {
        let layer = times.entry(swap.key).or_default();
        if layers.len() == *layer {
            layers.push(Vec::new());
        }
        layers[*layer].push(n);
        *layer += 1;
    }
    let mut results = vec![Swapped::Gone; swaps.len()];
    if let [only] = layers.as_slice() {
        // One statement is one transaction, in one round trip.
        swap_layer(connection, collection, swaps, (only, &mut results)).await?;
        return Ok(results);
    }
    let mut tx = connection.begin().await?;
    for layer in &layers {
        swap_layer(&mut tx, collection, swaps, (layer, &mut results)).await?;
    }
    tx.commit().await?;
    Ok(results)
}

async fn swap_layer(
    connection: &mut PgConnection,
    collection: &CollectionId,
    swaps: &[Texts<'_>],
    (layer, results): (&[usize], &mut [Swapped]),
) -> Result<(), sqlx::Error> {
    let keys = |of: &[usize]| of.iter().map(|n| swaps[*n].key).collect::<Vec<_>>();
    let (old, new): (Vec<_>, Vec<_>) = layer.iter().map(|n| (swaps[*n].old, swaps[*n].new)).unzip();
    let done: Vec<i64> = sqlx::query_scalar(
        "UPDATE keyfold.records AS r SET doc = v.new, revision = nextval('keyfold.revisions')
         FROM unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS v (id, old, new, at)
         WHERE r.collection = $1 AND r.id = v.id AND r.doc = v.old RETURNING v.at",
    )
    .bind(collection.as_str())
    .bind(keys(layer))
    .bind(old)
    .bind(new)
    .fetch_all(&mut *connection)
    .await?;
    let place = |at: i64| usize::try_from(at - 1).unwrap_or(usize::MAX);
    for at in done {
        results[layer[place(at)]] = Swapped::Done;
    }
    let missed: Vec<usize> = layer.iter().copied().filter(|n| results[*n] != Swapped::Done).collect();
    if missed.is_empty() {
        return Ok(());
    }
    let there: Vec<i64> = sqlx::query_scalar(
        "SELECT v.at FROM unnest($2::text[]) WITH ORDINALITY AS v (id, at)
         JOIN keyfold.records AS r ON r.collection = $1 AND r.id = v.id",
    )
    .bind(collection.as_str())
    .bind(keys(&missed))
    .fetch_all(connection)
    .await?;
    for at in there {
        results[missed[place(at)]] = Swapped::Changed;
    }
    Ok(())
}

impl PostgresStore {
    fn record(&self, row: &PgRow) -> Result<StoredRecord, StoreError> {
        let failed = |e| self.server().error(e);
        let id: &str = row.try_get(0).map_err(failed)?;
        let revision: i64 = row.try_get(1).map_err(failed)?;
        let value = CellValue::text(row.try_get(2).map_err(failed)?);
        let key =
            RecordKey::new(id).map_err(|e| self.server().corrupt(format!("it holds a record that it cannot: {e}")))?;
        let cells = vec![Cell { name: self.inner.doc.clone(), value }];
        Ok(StoredRecord { key, cells, revision: unsigned(revision) })
    }
}
