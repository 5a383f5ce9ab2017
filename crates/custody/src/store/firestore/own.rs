//! Records of our own layout in a Firestore. What a batch does, it does in one commit, of at most 500 records and 6 MiB.

use std::{
    collections::{HashMap, HashSet},
    sync::PoisonError,
};

use async_trait::async_trait;
use serde_json::json;

use super::{
    PAGE_BYTES,
    client::{Change, Document, Expected, Query, Write},
    error::{self, code},
    held::{self, Held, New},
    system::{FirestoreSystem, all},
    value::Fields,
};
use crate::store::{
    Cell, CellValue, CollectionId, DOC_CELL, Inserted, KeyPage, NewRecord, OnExisting, OwnRecords, Page, Partition,
    RecordKey, RecordStore, ScanCursor, StoreError, StoredRecord, Swap, Swapped, check_doc, check_limit, distinct,
    not_text,
};

const COLLECTIONS: &str = "keyfold-records";

/// The most records and bytes of one commit.
const MOST: usize = 500;

/// How many collections are listed at once.
const LISTED: usize = 200;

/// Where the parts of a collection begin, in the spelling of keys: at `0`, `A`, `a` and `n`, about.
const EDGES: [&str; 4] = ["", "k41", "k61", "k6e"];

fn parent(collection: &CollectionId) -> String {
    format!("{COLLECTIONS}/{}", held::spell(collection.as_str()))
}

fn path(collection: &CollectionId, key: &str) -> String {
    format!("{}/records/{}", parent(collection), held::spell(key))
}

fn every(collection: &CollectionId) -> Query<'static> {
    Query { parent: parent(collection), collection: "records", descendants: false, from: None, to: None, limit: 0 }
}

/// A document that Firestore can hold.
fn check_size(new: &NewRecord) -> Result<&str, StoreError> {
    let doc = check_doc(&new.key, &new.doc)?;
    if doc.len() > held::MOST {
        let (most, found) = (held::MOST, doc.len());
        return Err(StoreError::invalid(format!(
            "the document of record `{}` has {found} bytes; Firestore stores at most {most} of one record",
            new.key
        )));
    }
    Ok(doc)
}

impl FirestoreSystem {
    /// Puts a collection on the list of those that there are.
    async fn list_collection(&self, collection: &CollectionId) -> Result<(), StoreError> {
        let known = |inner: &super::system::Inner| {
            inner.listed.lock().unwrap_or_else(PoisonError::into_inner).contains(collection)
        };
        if known(&self.inner) {
            return Ok(());
        }
        let path = parent(collection);
        for attempt in 0..held::TRIES {
            let fields = Fields::from([("key".into(), held::text_value(collection.as_str()))]);
            let change = Change { path: path.clone(), fields: Some(fields), expect: Expected::Absent };
            // That it was there already is one reason for a conflict; that somebody was in the way is another.
            if self.client().commit(&[change]).await?.is_some()
                || matches!(self.client().get(&[&path]).await?[..], [Some(_)])
            {
                self.inner.listed.lock().unwrap_or_else(PoisonError::into_inner).insert(collection.clone());
                return Ok(());
            }
            held::pause(attempt).await;
        }
        Err(held::contended(self.client()))
    }

    /// The documents of these keys, as they are now.
    async fn held(&self, collection: &CollectionId, keys: &[&str]) -> Result<Vec<Option<Held>>, StoreError> {
        let paths: Vec<String> = keys.iter().map(|key| path(collection, key)).collect();
        let found = self.client().get(&paths.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        found.into_iter().map(|found| found.map(|document| Held::of(self.client(), document)).transpose()).collect()
    }

    /// The same without their bytes: whether they are there, and what a write on top of them must know.
    async fn heads(&self, collection: &CollectionId, keys: &[&str]) -> Result<Vec<Option<Held>>, StoreError> {
        let paths: Vec<String> = keys.iter().map(|key| path(collection, key)).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let (found, _) = self.client().get_only(&paths, held::HEAD).await?;
        found.into_iter().map(|found| found.map(|document| Held::of(self.client(), document)).transpose()).collect()
    }

    /// Stores some in one commit; which of them were there. `None` where one is there and must not be, with its key.
    async fn insert_at_once(
        &self,
        collection: &CollectionId,
        docs: &[(&RecordKey, &str)],
        on_existing: OnExisting,
    ) -> Result<Vec<bool>, StoreError> {
        let keys: Vec<&str> = docs.iter().map(|(key, _)| key.as_str()).collect();
        for attempt in 0..held::TRIES {
            let found = self.heads(collection, &keys).await?;
            let mut changes = Vec::new();
            for ((key, doc), found) in docs.iter().zip(&found) {
                match (found, on_existing) {
                    (Some(_), OnExisting::Skip) => continue,
                    (Some(_), OnExisting::Fail) => return Err(StoreError::Exists { key: (*key).clone() }),
                    _ => {}
                }
                let new = New { key: key.as_str(), bytes: Some(doc.as_bytes()), ends: None };
                changes.extend(held::put(&path(collection, key.as_str()), found.as_ref(), &new)?);
            }
            if changes.is_empty() || self.client().commit(&changes).await?.is_some() {
                return Ok(found.iter().map(Option::is_some).collect());
            }
            held::pause(attempt).await;
        }
        Err(held::contended(self.client()))
    }

    /// A record out of what was found under its path; `None` where it is gone meanwhile.
    async fn record(&self, collection: &CollectionId, mut held: Held) -> Result<Option<StoredRecord>, StoreError> {
        let key = RecordKey::new(held.key.as_str())?;
        for attempt in 0..held::TRIES {
            if let Some(bytes) = held.bytes(self.client(), &path(collection, key.as_str())).await? {
                let value = String::from_utf8(bytes).map_or_else(|e| CellValue::bytes(e.into_bytes()), CellValue::text);
                let cells = vec![Cell { name: self.inner.doc.clone(), value }];
                return Ok(Some(StoredRecord { key, cells, revision: held.version }));
            }
            held::pause(attempt).await;
            match self.held(collection, &[key.as_str()]).await?.pop().flatten() {
                Some(again) => held = again,
                None => return Ok(None),
            }
        }
        Err(held::contended(self.client()))
    }

    /// Swaps of different records: those that fit one document each in one call, the others one by one.
    async fn swap_at_once(&self, collection: &CollectionId, wave: &[Swap]) -> Result<Vec<Swapped>, StoreError> {
        let keys: Vec<&str> = wave.iter().map(|swap| swap.key.as_str()).collect();
        let found = self.held(collection, &keys).await?;
        let mut results = vec![Swapped::Gone; wave.len()];
        let (mut writes, mut written, mut alone) = (Vec::new(), Vec::new(), Vec::new());
        for ((at, swap), found) in wave.iter().enumerate().zip(found) {
            let Some(found) = found else { continue };
            let Some(old) = found.whole().filter(|_| swap.new.len() <= held::WHOLE) else {
                alone.push(at);
                continue;
            };
            if old != swap.old.as_bytes() {
                results[at] = Swapped::Changed;
                continue;
            }
            let new = New { key: swap.key.as_str(), bytes: Some(swap.new.as_bytes()), ends: None };
            let path = path(collection, swap.key.as_str());
            let fields = held::put(&path, Some(&found), &new)?.swap_remove(0).fields.unwrap_or_default();
            let mask = fields.keys().cloned().collect();
            writes.push(Write { path, mask, fields, updated: found.updated });
            written.push(at);
        }
        let answers = if writes.is_empty() { Vec::new() } else { self.client().write(&writes).await? };
        for (at, answer) in written.into_iter().zip(answers) {
            match answer.code {
                code::OK => results[at] = Swapped::Done,
                code::NOT_FOUND => {}
                code::FAILED_PRECONDITION | code::ABORTED => alone.push(at),
                _ => return Err(error::of_write(&self.client().name, &answer)),
            }
        }
        for at in alone {
            let found = self.held(collection, &[wave[at].key.as_str()]).await?.pop().flatten();
            results[at] = self.swap_one(collection, &wave[at], found).await?;
        }
        Ok(results)
    }

    async fn swap_one(
        &self,
        collection: &CollectionId,
        swap: &Swap,
        found: Option<Held>,
    ) -> Result<Swapped, StoreError> {
        let path = path(collection, swap.key.as_str());
        let new = swap.new.as_str().ok_or_else(|| not_text(&swap.key))?;
        let mut found = found;
        for attempt in 0..held::TRIES {
            let Some(mut held) = found else { return Ok(Swapped::Gone) };
            if let Some(bytes) = held.bytes(self.client(), &path).await? {
                if bytes != swap.old.as_bytes() {
                    return Ok(Swapped::Changed);
                }
                if new.len() > held::MOST {
                    return Ok(Swapped::Refused);
                }
                let new = New { key: swap.key.as_str(), bytes: Some(new.as_bytes()), ends: None };
                if self.client().commit(&held::put(&path, Some(&held), &new)?).await?.is_some() {
                    return Ok(Swapped::Done);
                }
            }
            held::pause(attempt).await;
            found = self.held(collection, &[swap.key.as_str()]).await?.pop().flatten();
        }
        // It holds what was read, and is being written all the time. The caller comes again.
        Ok(Swapped::Changed)
    }
}

#[async_trait]
impl RecordStore for FirestoreSystem {
    fn describe(&self) -> String {
        self.client().name.clone()
    }

    async fn partitions(&self, _: &CollectionId) -> Result<Vec<Partition>, StoreError> {
        (0..EDGES.len()).map(|n| Ok(Partition::new(format!("keys-{n}"))?)).collect()
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
        check_limit(limit)?;
        let number = partition.as_str().strip_prefix("keys-").and_then(|number| number.parse::<usize>().ok());
        let part = number
            .filter(|n| *n < EDGES.len())
            .ok_or_else(|| StoreError::invalid(format!("{} has no partition `{partition}`", self.describe())))?;
        let edge = |id: &&str| format!("{}/records/{id}", parent(collection));
        let mut query = every(collection);
        query.from = EDGES.get(part).filter(|id| !id.is_empty()).map(edge).map(|path| (path, true));
        query.to = EDGES.get(part + 1).map(edge);
        if let Some(cursor) = after {
            query.from = Some((edge(&cursor.as_str()), false));
        }
        let mut page = Page { records: Vec::new(), odd: Vec::new(), next: None };
        let mut bytes = 0;
        loop {
            query.limit = (limit - page.records.len()).min(if bytes == 0 { 300 } else { 30 });
            let documents = self.client().list(&mut query).await?;
            let last = documents.len() < query.limit;
            let mut documents = documents.into_iter();
            while bytes < PAGE_BYTES
                && let Some(document) = documents.next()
            {
                query.from = Some((self.client().path(&document)?.to_owned(), false));
                let record = self.record(collection, Held::of(self.client(), document)?).await?;
                let Some(record) = record else { continue };
                bytes += record.key.as_str().len() + record.cells.iter().map(|cell| cell.value.len()).sum::<usize>();
                page.records.push(record);
            }
            if last && documents.len() == 0 {
                return Ok(page);
            }
            if page.records.len() >= limit || bytes >= PAGE_BYTES {
                let last = query.from.and_then(|(path, _)| Some(path.rsplit_once('/')?.1.to_owned()));
                page.next = last.map(ScanCursor::new).transpose()?;
                return Ok(page);
            }
        }
    }

    async fn read(&self, collection: &CollectionId, key: &RecordKey) -> Result<Option<StoredRecord>, StoreError> {
        match self.held(collection, &[key.as_str()]).await?.pop().flatten() {
            Some(held) => self.record(collection, held).await,
            None => Ok(None),
        }
    }

    async fn swap(&self, collection: &CollectionId, batch: Vec<Swap>) -> Result<Vec<Swapped>, StoreError> {
        for swap in &batch {
            if swap.cell != self.inner.doc {
                return Err(StoreError::invalid(format!("a record has no cell `{}`, only `{DOC_CELL}`", swap.cell)));
            }
            check_doc(&swap.key, &swap.new)?;
        }
        let mut results = Vec::with_capacity(batch.len());
        let mut rest = &batch[..];
        while !rest.is_empty() {
            // Those of one record come one after another.
            let (mut keys, mut bytes, mut count) = (HashSet::new(), 0, 0);
            for swap in rest.iter().take(MOST) {
                bytes += swap.old.len() + swap.new.len();
                if !keys.insert(&swap.key) || (bytes > held::MOST && count > 0) {
                    break;
                }
                count += 1;
            }
            let (wave, later) = rest.split_at(count);
            results.extend(self.swap_at_once(collection, wave).await?);
            rest = later;
        }
        Ok(results)
    }
}

#[async_trait]
impl OwnRecords for FirestoreSystem {
    async fn insert(
        &self,
        collection: &CollectionId,
        batch: Vec<NewRecord>,
        on_existing: OnExisting,
    ) -> Result<Vec<Inserted>, StoreError> {
        let docs = distinct(&batch, on_existing, check_size)?;
        if docs.is_empty() {
            return Ok(Vec::new());
        }
        self.list_collection(collection).await?;
        let mut there = HashMap::with_capacity(docs.len());
        let mut rest = &docs[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |(_, doc): &&(&RecordKey, &str)| {
                bytes += doc.len();
                bytes <= held::MOST
            };
            let (now, later) = rest.split_at(rest.iter().take(MOST).take_while(fits).count().max(1));
            if on_existing == OnExisting::Fail && !later.is_empty() {
                return Err(StoreError::invalid(format!(
                    "{} records are more than Firestore stores in one step, which is {MOST}, or {} bytes",
                    docs.len(),
                    held::MOST
                )));
            }
            let found = self.insert_at_once(collection, now, on_existing).await?;
            there.extend(now.iter().map(|(key, _)| *key).zip(found));
            rest = later;
        }
        // The second time that a batch names a key, it is there.
        let mut results = Vec::with_capacity(batch.len());
        for new in &batch {
            results.push(match (there.insert(&new.key, true), on_existing) {
                (Some(false), _) => Inserted::Created,
                (_, OnExisting::Replace) => Inserted::Replaced,
                _ => Inserted::Exists,
            });
        }
        Ok(results)
    }

    async fn remove(
        &self,
        collection: &CollectionId,
        key: &RecordKey,
        expect: Option<u64>,
    ) -> Result<bool, StoreError> {
        let path = path(collection, key.as_str());
        for attempt in 0..held::TRIES {
            let found = self.heads(collection, &[key.as_str()]).await?.pop().flatten();
            let Some(held) = found.filter(|held| expect.is_none_or(|revision| held.version == revision)) else {
                return Ok(false);
            };
            let mut changes = held.forget_parts(&path);
            changes.push(Change { path: path.clone(), fields: None, expect: Expected::At(held.updated) });
            if self.client().commit(&changes).await?.is_some() {
                return Ok(true);
            }
            held::pause(attempt).await;
        }
        Err(held::contended(self.client()))
    }

    async fn count(&self, collection: &CollectionId) -> Result<u64, StoreError> {
        self.client().count(&every(collection)).await
    }

    async fn keys(
        &self,
        collection: &CollectionId,
        after: Option<&ScanCursor>,
        limit: usize,
    ) -> Result<KeyPage, StoreError> {
        check_limit(limit)?;
        let mut query = every(collection);
        query.from = after.map(|cursor| (format!("{}/records/{}", parent(collection), cursor.as_str()), false));
        query.limit = limit;
        let names = json!({ "select": { "fields": [{ "fieldPath": "key" }] } });
        let documents = self.client().list_at(&mut query, names).await?.0;
        let last = documents.len() < limit;
        let mut keys = Vec::with_capacity(documents.len());
        for document in documents {
            keys.push(RecordKey::new(Held::of(self.client(), document)?.key)?);
        }
        let next = keys.last().filter(|_| !last).map(|key| ScanCursor::new(held::spell(key.as_str()))).transpose()?;
        Ok(KeyPage { keys, next })
    }

    async fn collections(&self) -> Result<Vec<CollectionId>, StoreError> {
        let mut query = all(COLLECTIONS, "");
        let mut there = Vec::new();
        loop {
            query.limit = LISTED;
            let documents = self.client().list(&mut query).await?;
            let last = documents.len() < query.limit;
            for document in documents {
                query.from = Some((self.client().path(&document)?.to_owned(), false));
                let id = CollectionId::new(Held::of(self.client(), document)?.key)?;
                let mut first = every(&id);
                first.limit = 1;
                let first: Vec<Document> = self.client().list(&mut first).await?;
                if !first.is_empty() {
                    there.push(id);
                }
            }
            if last {
                there.sort();
                return Ok(there);
            }
        }
    }
}
