//! A data folder for one test, acted on by real processes and read back without them.

#![allow(clippy::print_stdout, reason = "a seed that is not said cannot be used again")]
#![allow(clippy::cast_possible_truncation, reason = "sizes of tests, and dice")]

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use keyfold_core::{id::KeyId, keyring::Keyring, root::RootKey};
use keyfold_custody::{
    collection::Collection,
    config::Config,
    keys::{Copies, KeyringStore},
    layout::json::{self, Edit, Value, encode_string},
    store::{
        Expect, OwnRecords, Partition, RecordStore, StoredRecord, SystemStore,
        sqlite::{OpenMode, SqliteOptions, SqliteStore},
    },
};
use keyfold_providers::KeyUri;
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;

use super::{Call, keyfold};

/// One collection that accepts everything, so that every job has something to do in it.
const CONFIG: &str = r#"[collections.apps]
fields = ["/url", "/password", "/extra/*"]
accept = ["kf1", { format = "v1", until = 2999-12-31 }, { format = "plaintext", until = 2999-12-31 }]
"#;

/// `full`, times `KEYFOLD_TEST_SCALE` (a tenth unless told), at least one.
pub(crate) fn scaled(full: usize) -> usize {
    ((full as f64 * scale()).ceil() as usize).max(1)
}

/// What the long tests' sizes are multiplied by.
pub(crate) fn scale() -> f64 {
    std::env::var("KEYFOLD_TEST_SCALE").ok().map_or(0.1, |text| text.parse().expect("KEYFOLD_TEST_SCALE is a number"))
}

/// An initialised data folder.
pub(crate) struct Deployment {
    folder: TempDir,
    config: Config,
}

impl Deployment {
    /// `keyfold init`, and a collection `apps`.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let deployment = Self { folder, config: Config::parse(CONFIG).unwrap() };
        fs::write(deployment.path().join("keyfold.toml"), CONFIG).unwrap();
        deployment.call("init").run().text();
        deployment
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The program, working in this folder.
    pub(crate) fn call(&self, arguments: &str) -> Call {
        keyfold(arguments).data_dir(self.path())
    }

    /// Stores documents, sealed; those that are there are written over.
    pub(crate) fn import<'a>(&self, docs: impl IntoIterator<Item = &'a String>, options: &str) {
        let lines = docs.into_iter().fold(String::new(), |lines, doc| lines + doc + "\n");
        self.call(&format!("records import apps --on-existing replace {options}")).stdin(lines).run().text();
    }

    /// A new key, staged.
    pub(crate) fn staged(&self) -> String {
        self.call("keys create --json").run().json()["kid"].as_str().unwrap().to_owned()
    }

    /// A new key, sealing.
    pub(crate) fn new_key(&self) -> String {
        let kid = self.staged();
        self.call("keys promote").arg(&kid).run().text();
        kid
    }

    /// The key ids of everything that is stored, as the census tells them.
    pub(crate) fn census(&self) -> BTreeMap<String, u64> {
        let census = self.call("keys census --json").run().json();
        assert_eq!(census["unreadable"], 0, "{census}");
        let mut found = BTreeMap::new();
        for line in census["values"].as_array().unwrap() {
            *found.entry(line["kid"].as_str().unwrap().to_owned()).or_insert(0) += line["values"].as_u64().unwrap();
        }
        found
    }

    /// The ids of all keys in a state.
    pub(crate) fn keys(&self, state: &str) -> Vec<String> {
        let listed = self.call("keys list --json").run().json();
        let keys = listed["keys"].as_array().unwrap().iter().filter(|key| key["state"] == state);
        keys.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    /// The live processes other than the one that asks.
    pub(crate) fn processes(&self) -> Vec<serde_json::Value> {
        let listed = self.call("keys list --json").run().json();
        let processes = listed["processes"].as_array().unwrap().iter();
        processes.filter(|process| process["command"] != "keys").cloned().collect()
    }

    /// Waits until a process of that command is on the list, and gives its entry.
    pub(crate) fn wait_for_process(&self, command: &str) -> serde_json::Value {
        for _ in 0..200 {
            if let Some(process) = self.processes().into_iter().find(|process| process["command"] == command) {
                return process;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("no process `{command}` came up");
    }

    /// Waits until every process opens and seals under the newest keyring.
    pub(crate) fn wait_until_all_follow(&self) {
        for _ in 0..200 {
            let listed = self.call("keys list --json").run().json();
            let processes = listed["processes"].as_array().unwrap();
            let newest = |process: &serde_json::Value| {
                process["opens"] == listed["generation"] && process["seals"] == listed["generation"]
            };
            if processes.iter().all(newest) {
                return;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("some process does not follow");
    }

    /// The audit log's verdict, which must not be one of tampering.
    pub(crate) fn audit_verdict(&self) -> String {
        let report = self.call("audit verify --json").run().json();
        let verdict = report["verdict"].as_str().unwrap().to_owned();
        assert!(matches!(&*verdict, "ok" | "unanchored" | "torn_tail"), "{report}");
        verdict
    }

    /// Every document in plaintext, by key, opened by the library and not by the program under test.
    pub(crate) fn contents(&self) -> BTreeMap<String, String> {
        self.read(async |store, keyring| {
            let collection = self.config.collection("apps").unwrap();
            let records = scan(&store, collection).await;
            records.iter().map(|record| (record.key.to_string(), opened(&keyring, collection, record))).collect()
        })
    }

    /// Every record as it is stored, with its revision.
    pub(crate) fn stored(&self) -> BTreeMap<String, (u64, String)> {
        self.read(async |store, _| {
            let records = scan(&store, self.config.collection("apps").unwrap()).await;
            let text = |record: &StoredRecord| record.cells[0].value.as_str().unwrap().to_owned();
            records.iter().map(|record| (record.key.to_string(), (record.revision, text(record)))).collect()
        })
    }

    /// Changes the database as nobody should.
    pub(crate) fn sql(&self, text: &'static str) {
        let runtime = runtime();
        let mut connection = self.connect(&runtime);
        runtime.block_on(sqlx::raw_sql(text).execute(&mut connection)).unwrap();
        runtime.block_on(connection.close()).unwrap();
    }

    /// Holds the database's write lock until dropped.
    pub(crate) fn lock(&self) -> impl Drop + use<> {
        struct Held(tokio::runtime::Runtime, Option<SqliteConnection>);
        impl Drop for Held {
            fn drop(&mut self) {
                self.0.block_on(self.1.take().unwrap().close()).unwrap();
            }
        }
        let runtime = runtime();
        let mut connection = self.connect(&runtime);
        runtime.block_on(sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut connection)).unwrap();
        Held(runtime, Some(connection))
    }

    fn connect(&self, runtime: &tokio::runtime::Runtime) -> SqliteConnection {
        let address = format!("sqlite://{}", self.path().join("keyfold.db").display());
        runtime.block_on(SqliteConnection::connect(&address)).unwrap()
    }

    /// Whether nobody holds the database's write lock.
    pub(crate) fn can_be_written(&self) -> bool {
        let options = SqliteOptions { busy_timeout: Duration::from_millis(20), ..SqliteOptions::default() };
        runtime().block_on(async {
            let path = self.path().join("keyfold.db");
            let Ok(store) = SqliteStore::open_with(path, OpenMode::Existing, options).await else { return false };
            let written = store.put("test/probe", b"", Expect::Any, None).await.is_ok();
            store.close().await;
            written
        })
    }

    /// The keys that the folder's own copy of the keyring opens.
    pub(crate) fn keys_of_the_copy(&self) -> Vec<KeyId> {
        let document = fs::read(self.path().join("keyring.json")).unwrap();
        let root = self.root();
        let keyring = runtime()
            .block_on(async { keyfold_core::keyring::document::open(&*root, &document, 0).await })
            .expect("the copy opens");
        keyring.entries().iter().map(keyfold_core::keyring::Entry::kid).collect()
    }

    fn root(&self) -> Arc<dyn RootKey> {
        Arc::new(keyfold_providers::open(&KeyUri::File(self.path().join("root.key"))).unwrap())
    }

    fn read<T>(&self, look: impl AsyncFnOnce(SqliteStore, Keyring) -> T) -> T {
        runtime().block_on(async {
            let store = SqliteStore::open(self.path().join("keyfold.db"), OpenMode::Existing).await.unwrap();
            let system: Arc<dyn SystemStore> = Arc::new(store.clone());
            let keyrings = KeyringStore::new(system, self.root(), Copies::in_folder(self.path()), Vec::new());
            let seen = look(store.clone(), keyrings.load().await.unwrap().keyring).await;
            store.close().await;
            seen
        })
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn scan(store: &SqliteStore, collection: &Collection) -> Vec<StoredRecord> {
    let total = store.count(&collection.id).await.unwrap();
    let (mut records, mut after) = (Vec::new(), None);
    loop {
        let page = store.scan(&collection.id, &Partition::whole(), after.as_ref(), 1000).await.unwrap();
        records.extend(page.records);
        after = page.next;
        if after.is_none() {
            assert_eq!(records.len() as u64, total);
            return records;
        }
    }
}

fn opened(keyring: &Keyring, collection: &Collection, record: &StoredRecord) -> String {
    let doc = record.cells[0].value.as_str().unwrap();
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let reader =
        keyfold_core::keyring::Reader { accept: &collection.accept, today, reading: collection.reading, max_age: None };
    let mut edits = Vec::new();
    for found in json::find(doc, &collection.fields).unwrap() {
        let Value::Text(text) = &found.value else { panic!("{}#{}: not a string", record.key, found.exact()) };
        let context = collection.digest(keyring.deployment(), &record.key, &found.pointer).unwrap();
        let opened = keyring.open(text, &context, &reader);
        let opened = opened.unwrap_or_else(|error| panic!("{}#{}: {error}", record.key, found.exact()));
        let secret = std::str::from_utf8(opened.secret.expose()).unwrap();
        edits.push(Edit { span: found.span, token: encode_string(secret) });
    }
    json::splice(doc, edits).unwrap().to_string()
}

/// Document number `i` as its `version`th writer left it; three secrets.
pub(crate) fn doc(i: usize, version: u64) -> String {
    format!(
        r#"{{"id":"app-{i:05}","name":"Application {i}","url":"redis://u:p{i}-{version}@h{i}:6379/0","password":"pw-{i}-{version}","extra":{{"token":"t{version}-\"{i}\""}},"version":{version}}}"#
    )
}

/// The key of [`doc`].
pub(crate) fn key(i: usize) -> String {
    format!("app-{i:05}")
}

/// Sends a signal to one process.
pub(crate) fn signal(name: &str, process: u32) {
    let sent = std::process::Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Random enough to choose moments and records by, and the same again from the same seed (SplitMix64).
pub(crate) struct Dice(u64);

impl Dice {
    /// From `KEYFOLD_TEST_SEED`, or from the clock; says which.
    pub(crate) fn new() -> Self {
        let seed = std::env::var("KEYFOLD_TEST_SEED").ok().map(|text| text.parse().expect("a number"));
        let seed = seed.unwrap_or_else(|| jiff::Timestamp::now().as_nanosecond() as u64);
        println!("KEYFOLD_TEST_SEED={seed}");
        Self(seed)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    /// A moment before `end`.
    pub(crate) fn moment(&mut self, end: Duration) -> Duration {
        Duration::from_micros(self.below((end.as_micros() as usize).max(1)) as u64)
    }
}
