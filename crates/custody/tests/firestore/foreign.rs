//! The program whose documents they are, for the checks that every store passes.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use keyfold_custody::{
    layout::place::Layout,
    store::{
        CellName, CellValue, CollectionId, DOC_CELL, Page, Partition, RecordKey, RecordStore, ScanCursor, StoreError,
        StoredRecord, Swap, Swapped,
        conformance::{Bench, records},
        firestore::FirestoreStore,
    },
};
use serde_json::json;

use crate::servers::firestore::{Firestore, Owner};

pub(crate) fn id(name: &str) -> CollectionId {
    CollectionId::new(name).unwrap()
}

pub(crate) async fn connect(emulator: &Firestore, paths: &[(&str, &str)]) -> Result<FirestoreStore, StoreError> {
    let layouts = paths.iter().map(|(c, path)| (id(c), Layout::FirestoreDocument { path: (*path).into() }));
    FirestoreStore::connect(&emulator.address().parse().unwrap(), layouts.collect()).await
}

/// Everything that a scan gives, part by part.
pub(crate) async fn scan_all(store: &dyn RecordStore, c: &CollectionId, limit: usize) -> Page {
    let mut all = Page { records: Vec::new(), odd: Vec::new(), next: None };
    for partition in store.partitions(c).await.unwrap() {
        let mut after = None;
        loop {
            let page = store.scan(c, &partition, after.as_ref(), limit).await.unwrap();
            all.records.extend(page.records);
            all.odd.extend(page.odd);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    all
}

/// The checks swap any text, and a document is JSON: each value of theirs is one field of a document with two.
struct OneField(FirestoreStore);

/// The document, as the store reads it, that holds this text.
fn around(value: &CellValue) -> CellValue {
    let text = value.as_str().map(|text| format!(r#"{{"count":5,"secret":{}}}"#, json!(text)));
    text.map_or_else(|| CellValue::bytes(value.as_bytes().to_vec()), CellValue::text)
}

fn inside(mut record: StoredRecord) -> StoredRecord {
    for cell in &mut record.cells {
        let mut document: serde_json::Value = serde_json::from_str(cell.value.as_str().unwrap()).unwrap();
        let serde_json::Value::String(text) = document["secret"].take() else { panic!("another document") };
        let value = CellValue::text(text);
        assert!(around(&value) == cell.value, "the document reads in one way only");
        cell.value = value;
    }
    record
}

#[async_trait]
impl RecordStore for OneField {
    fn describe(&self) -> String {
        self.0.describe()
    }

    async fn partitions(&self, c: &CollectionId) -> Result<Vec<Partition>, StoreError> {
        self.0.partitions(c).await
    }

    async fn scan(
        &self,
        c: &CollectionId,
        partition: &Partition,
        after: Option<&ScanCursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let page = self.0.scan(c, partition, after, limit).await?;
        Ok(Page { records: page.records.into_iter().map(inside).collect(), ..page })
    }

    async fn read(&self, c: &CollectionId, key: &RecordKey) -> Result<Option<StoredRecord>, StoreError> {
        Ok(self.0.read(c, key).await?.map(inside))
    }

    async fn swap(&self, c: &CollectionId, batch: Vec<Swap>) -> Result<Vec<Swapped>, StoreError> {
        let batch = batch.into_iter().map(|swap| Swap { old: around(&swap.old), new: around(&swap.new), ..swap });
        self.0.swap(c, batch.collect()).await
    }
}

/// A collection for each check, or one below each of several documents.
pub(crate) struct Foreign {
    store: OneField,
    owner: Owner,
    nested: bool,
}

impl Foreign {
    pub(crate) async fn on(emulator: &Firestore, nested: bool) -> Arc<dyn Bench> {
        let layouts: HashMap<_, _> = records::collections()
            .into_iter()
            .map(|c| {
                let path = if nested { format!("tenants/*/{c}").into() } else { c.as_str().into() };
                (c, Layout::FirestoreDocument { path })
            })
            .collect();
        let store = FirestoreStore::connect(&emulator.address().parse().unwrap(), layouts).await.unwrap();
        Arc::new(Self { store: OneField(store), owner: emulator.owner(), nested })
    }

    fn path(&self, c: &CollectionId, key: &RecordKey) -> String {
        if !self.nested {
            return format!("{c}/{key}");
        }
        let (tenant, id) = key.as_str().split_once('/').unwrap();
        format!("tenants/{tenant}/{c}/{id}")
    }
}

#[async_trait]
impl Bench for Foreign {
    fn store(&self) -> &dyn RecordStore {
        &self.store
    }

    fn cell(&self) -> CellName {
        CellName::new(DOC_CELL).unwrap()
    }

    fn key(&self, _: &CollectionId, name: &str) -> RecordKey {
        // Firestore takes neither `/` in ids nor `.`, `..` and `__x__` as ids.
        let id = match name {
            "." | ".." => format!("dot{name}"),
            _ if name.starts_with("__") => format!("x{name}"),
            _ => name.replace('/', "\u{2215}"),
        };
        let tenant = ["north", "south"][name.len() % 2];
        RecordKey::new(if self.nested { format!("{tenant}/{id}") } else { id }).unwrap()
    }

    async fn put(&self, c: &CollectionId, key: &RecordKey, value: &str) {
        let fields = json!({"secret": {"stringValue": value}, "count": {"integerValue": "5"}});
        self.owner.put(&self.path(c, key), &fields).await;
    }

    async fn remove(&self, c: &CollectionId, key: &RecordKey) {
        self.owner.delete(&self.path(c, key)).await;
    }

    fn largest(&self) -> usize {
        // A document has at most 1 MiB, with its name and the names of its fields.
        (1 << 20) - 4096
    }
}
