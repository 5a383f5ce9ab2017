//! The checks that every implementation of the storage traits passes.
//!
//! Each is a function over a trait object, so that a store in another crate can run them too. They panic where the
//! store breaks a promise, as tests do. A store is given to them empty, or with collections that nothing else uses.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken promise is a panic here")]

mod bench;
pub mod own_records;
pub mod records;
pub mod system;

use std::sync::Arc;

pub use self::bench::Bench;
use super::{CellName, CellValue, CollectionId, DOC_CELL, Inserted, NewRecord, OnExisting, OwnRecords, RecordKey};

/// A store that several tasks use at once.
pub type Shared = Arc<dyn OwnRecords>;

/// Keys that some store could mangle: quotes, wildcards, line ends, other scripts and directions, the longest.
#[must_use]
pub fn hostile_keys() -> Vec<RecordKey> {
    let longest = ["x".repeat(512), "é".repeat(256), "🔑".repeat(128)];
    [
        "it's",
        "\"double\"",
        "back\\slash",
        "`tick`",
        "100%",
        "under_score",
        "a%",
        "a_",
        "a*",
        "a?",
        "[a]",
        "{a}",
        "a:b",
        "a/b",
        "../a",
        ".",
        "..",
        " ",
        " a",
        "a ",
        "a\nb",
        "a\r\n",
        "\t",
        "\u{1}",
        "\u{7f}",
        "A",
        "a",
        "é",
        "e\u{301}",
        "🔑",
        "\u{202e}evil",
        "\u{200b}",
        "\u{feff}",
        "\u{10ffff}",
        "\u{ffff}",
        "__x__",
        "'; DROP TABLE records; --",
        "$1",
        "?1",
        ":x",
        "null",
        "0",
        "00",
        "1e3",
        "-",
    ]
    .into_iter()
    .chain(longest.iter().map(String::as_str))
    .map(|text| RecordKey::new(text).unwrap())
    .collect()
}

/// A collection that no other check uses.
#[must_use]
pub fn collection(name: &str) -> CollectionId {
    CollectionId::new(format!("conformance-{name}")).unwrap()
}

pub(crate) fn key(text: &str) -> RecordKey {
    RecordKey::new(text).unwrap()
}

pub(crate) fn doc_cell() -> CellName {
    CellName::new(DOC_CELL).unwrap()
}

pub(crate) fn new(key: &RecordKey, doc: &str) -> NewRecord {
    NewRecord { key: key.clone(), doc: CellValue::text(doc.into()) }
}

pub(crate) fn swap(key: &RecordKey, old: &str, new: &str) -> super::Swap {
    let (old, new) = (CellValue::text(old.into()), CellValue::text(new.into()));
    super::Swap { key: key.clone(), cell: doc_cell(), old, new }
}

/// Stores records that were not there.
pub(crate) async fn seed(store: &dyn OwnRecords, c: &CollectionId, records: &[(&RecordKey, &str)]) {
    let batch: Vec<_> = records.iter().map(|(key, doc)| new(key, doc)).collect();
    let count = batch.len();
    let results = store.insert(c, batch, OnExisting::Fail).await.unwrap();
    assert_eq!(results, vec![Inserted::Created; count]);
}

/// The document stored under a key.
pub(crate) async fn doc(store: &dyn OwnRecords, c: &CollectionId, key: &RecordKey) -> Option<String> {
    let record = store.read(c, key).await.unwrap()?;
    Some(record.cell(&doc_cell()).unwrap().as_str().unwrap().to_owned())
}
