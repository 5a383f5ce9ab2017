//! A data folder of a test: made by the program, looked at and tampered with past it.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    path::{Path, PathBuf},
};

use keyfold_custody::{
    keys::KEYRING_KEY,
    store::{
        CellName, CellValue, CollectionId, DOC_CELL, Expect, NewRecord, OnExisting, OwnRecords, Partition, RecordKey,
        RecordStore, SystemStore,
        sqlite::{OpenMode, SqliteStore},
    },
};
use serde_json::Value;
use tempfile::TempDir;

use super::{Call, keyfold};

/// One collection, two fields and a map.
pub(crate) const INSTANCES: &str = "[collections.instances]\n\
    fields = [\"/connection_url\", \"/admin_password\", \"/extension_secrets/*\"]\n";

/// [`INSTANCES`], with these rules too; its table is the last one, so that more lines can follow.
pub(crate) fn instances(more: &str) -> String {
    format!("{INSTANCES}{more}\n")
}

/// A data folder, gone with its value.
pub(crate) struct Data {
    dir: TempDir,
}

/// Everything that a command which changes nothing leaves as it is: the records by collection and key, and the keyring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) records: BTreeMap<(String, String), (u64, String)>,
    pub(crate) keyring: Option<Vec<u8>>,
}

impl Data {
    /// Runs `keyfold init`, and writes this configuration.
    pub(crate) fn new(config: &str) -> Self {
        let data = Self::empty();
        data.call("init --quiet").run().text();
        data.configure(config);
        data
    }

    /// A folder with nothing in it.
    pub(crate) fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A copy of all files.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::empty();
        copy_into(self.path(), copy.path());
        copy
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Replaces `keyfold.toml`.
    pub(crate) fn configure(&self, config: &str) {
        fs::write(self.file("keyfold.toml"), config).unwrap();
    }

    /// `keyfold` with these arguments in this folder.
    pub(crate) fn call(&self, arguments: &str) -> Call {
        keyfold(arguments).data_dir(self.path())
    }

    /// Stores a document as `instances/KEY`.
    pub(crate) fn put(&self, key: &str, doc: &str) {
        self.call("records put instances").arg(key).stdin(doc).run().text();
    }

    /// The plaintext of one field of `instances/KEY`.
    pub(crate) fn field(&self, key: &str, pointer: &str) -> Vec<u8> {
        let ended = self.call("records get instances").arg(key).arg("--field").arg(pointer).run();
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        ended.stdout
    }

    /// The kid of the only key in a state.
    pub(crate) fn kid(&self, state: &str) -> String {
        let list = self.call("keys list --json").run().json();
        let keys = list["keys"].as_array().unwrap().iter().filter(|key| key["state"] == state);
        let kids: Vec<_> = keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect();
        assert_eq!(kids.len(), 1, "{list}");
        kids[0].clone()
    }

    /// Stages a key, promotes it, moves everything to it, and retires the old one; gives the kids of both.
    pub(crate) fn rotated(&self) -> (String, String) {
        let old = self.kid("primary");
        let new = self.call("keys create --json").run().json()["kid"].as_str().unwrap().to_owned();
        self.call("keys promote --quiet").arg(&new).run().text();
        self.call("rotate --quiet").run().text();
        self.call("keys retire --quiet").arg(&old).run().text();
        (old, new)
    }

    /// All events, in the order of `audit export`.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = self.call("audit export").run().text();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The database, past the program.
    pub(crate) fn store<T, F: Future<Output = T>>(&self, work: impl FnOnce(SqliteStore) -> F) -> T {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let store = SqliteStore::open(self.file("keyfold.db"), OpenMode::Existing).await.unwrap();
            work(store).await
        })
    }

    /// The document as it is stored.
    pub(crate) fn doc(&self, collection: &str, key: &str) -> String {
        self.contents().records[&(collection.to_owned(), key.to_owned())].1.clone()
    }

    /// Writes a document as it is, with no key and no event.
    pub(crate) fn plant(&self, collection: &str, key: &str, doc: &str) {
        let record = NewRecord { key: RecordKey::new(key).unwrap(), doc: CellValue::text(doc.to_owned()) };
        let collection = CollectionId::new(collection).unwrap();
        self.store(async |store| {
            store.insert(&collection, vec![record], OnExisting::Replace).await.unwrap();
            store.close().await;
        });
    }

    /// The keyring document as it is stored.
    pub(crate) fn document(&self) -> Vec<u8> {
        self.contents().keyring.unwrap()
    }

    /// Writes a keyring document as it is.
    pub(crate) fn plant_document(&self, document: &[u8]) {
        self.store(async |store| {
            store.put(KEYRING_KEY, document, Expect::Any, None).await.unwrap();
            store.close().await;
        });
    }

    /// What must not change.
    pub(crate) fn contents(&self) -> Contents {
        let cell = CellName::new(DOC_CELL).unwrap();
        self.store(async |store| {
            let mut records = BTreeMap::new();
            for collection in store.collections().await.unwrap() {
                let page = store.scan(&collection, &Partition::whole(), None, 10_000).await.unwrap();
                for record in page.records {
                    let doc = record.cell(&cell).unwrap().as_str().unwrap().to_owned();
                    let place = (collection.as_str().to_owned(), record.key.as_str().to_owned());
                    records.insert(place, (record.revision, doc));
                }
            }
            let keyring = store.get(KEYRING_KEY).await.unwrap().map(|doc| doc.value);
            store.close().await;
            Contents { records, keyring }
        })
    }
}

/// Copies what is in a folder into another one.
pub(crate) fn copy_into(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_into(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}
