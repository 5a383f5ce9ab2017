//! A deployment whose stores and audit log can be cut off at any write, as a kill cuts a process off.

#![allow(dead_code, reason = "no test file uses all of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a harness that cannot start has nothing to report")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use keyfold_core::{
    clock::{Clock, UnixTime},
    envelope::Format,
    id::WriterId,
    keyring::{Entry, KeyMaterial, Keyring, Origin, Purpose, State},
    rng::{self, SystemRandom},
    root::RootKey,
    secret::Key32,
};
use keyfold_custody::{
    access::{Operation, Permit, Subject, authorize},
    audit_log::{AuditSink, InsecureMemory},
    auditor::Auditor,
    collection::Collection,
    config::Config,
    custody::Custody,
    jobs::{Ended, Job, Kind, Silent, Summary},
    keys::{Copies, KeyringStore, LiveKeyring, Usage},
    records::{Incoming, Intake, prepare_batch},
    store::{
        Expect, OnExisting, OwnRecords, RecordKey, SystemStore,
        sqlite::{OpenMode, SqliteStore},
    },
};
use tempfile::TempDir;
use zeroize::Zeroizing;

pub(crate) mod fuse;

use fuse::{Fuse, FusedAudit, FusedStore};

const CONFIG: &str = r#"[collections.apps]
fields = ["/url", "/password"]
accept = ["kf1", { format = "v1", until = 2999-12-31 }, { format = "plaintext", until = 2999-12-31 }]
"#;

/// All of it happens at this moment.
pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000);

/// Who does it: the owner of the folder.
pub(crate) fn permit<O: Operation>() -> Permit<O> {
    authorize(&Subject::Local { uid: 1, owner: 1 }).unwrap()
}

/// A folder, kept in memory where the machine has a place for that: these tests flush to the disk thousands of times.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn root() -> Arc<dyn RootKey> {
    Arc::new(keyfold_providers::LocalRoot::new("test:".into(), &Key32::new([7; 32])).unwrap())
}

/// Makes a deployment in `folder`, with its first key.
pub(crate) async fn init(folder: &Path) {
    let store = SqliteStore::open(folder.join("keyfold.db"), OpenMode::Create).await.unwrap();
    let system: Arc<dyn SystemStore> = Arc::new(store.clone());
    let material = KeyMaterial::new(Purpose::Master, Key32::new(rng::array(&SystemRandom).unwrap())).unwrap();
    let kid = material.kid();
    let entry = Entry::new(material, State::Staged, vec![Format::Kf1, Format::V1], NOW, Origin::Document);
    let keyring = Keyring::first("kr-test", "kf-test", Key32::new([9; 32])).staged(entry).unwrap();
    let keyrings = KeyringStore::new(system, root(), Copies::in_folder(folder), Vec::new());
    keyrings.create(&keyring.promoted(kid, NOW).unwrap()).await.unwrap();
    store.close().await;
}

/// One process's hold on the deployment.
pub(crate) struct Process {
    pub(crate) custody: Custody,
    pub(crate) store: SqliteStore,
    pub(crate) fused: Arc<FusedStore>,
    pub(crate) log: Arc<InsecureMemory>,
}

/// How many processes were started; each begins long after the one before, so that no lease is waited for.
static STARTED: AtomicU64 = AtomicU64::new(1);

impl Process {
    /// Starts one that `fuse` can kill. Fails as a process does that is killed while it starts.
    pub(crate) async fn start(folder: &Path, fuse: &Fuse) -> Option<Self> {
        let store = SqliteStore::open(folder.join("keyfold.db"), OpenMode::Existing).await.unwrap();
        let later = STARTED.fetch_add(1, Ordering::Relaxed) * 3600;
        let fused = Arc::new(FusedStore::new(store.clone(), fuse.clone(), later));
        let system: Arc<dyn SystemStore> = Arc::clone(&fused) as _;
        let keyrings = KeyringStore::new(Arc::clone(&system), root(), Copies::in_folder(folder), Vec::new());
        let id = WriterId(rng::array(&SystemRandom).unwrap());
        let keys = match LiveKeyring::open(keyrings, Arc::clone(&system), id, "test").await {
            Ok(keys) => keys,
            Err(error) => {
                assert!(fuse.is_blown(), "{error}");
                store.close().await;
                return None;
            }
        };
        let log = Arc::new(InsecureMemory::default());
        let sink: Arc<dyn AuditSink> = Arc::new(FusedAudit::new(Arc::clone(&log), fuse.clone()));
        let clock: Arc<dyn Clock> = Arc::new(NOW);
        let custody = Custody {
            records: Arc::clone(&fused) as Arc<dyn OwnRecords>,
            foreign: std::collections::HashMap::new(),
            usage: Usage::new(Arc::clone(&system)),
            system,
            keys,
            auditor: Auditor::new(sink, clock),
            config: Config::parse(CONFIG).unwrap(),
        };
        Some(Self { custody, store, fused, log })
    }

    /// Starts one that nobody kills, after those before it are seen to have ended.
    pub(crate) async fn after_the_others(folder: &Path) -> Self {
        let store = SqliteStore::open(folder.join("keyfold.db"), OpenMode::Existing).await.unwrap();
        for (key, _) in store.list("process/", None, 1000).await.unwrap() {
            store.delete(&key, Expect::Any).await.unwrap();
        }
        store.close().await;
        Self::start(folder, &Fuse::never()).await.unwrap()
    }

    pub(crate) fn collection(&self) -> &Collection {
        self.custody.collection("apps").unwrap()
    }

    /// Stores documents; with [`Intake::AsIs`] in plaintext.
    pub(crate) async fn import(&self, docs: &BTreeMap<RecordKey, String>, intake: Intake) {
        let incoming = incoming(docs);
        let keyring = self.custody.keys.sealing().await.unwrap();
        let batch = prepare_batch(keyring, self.collection(), incoming, intake, NOW).unwrap();
        self.custody.store_batch(&permit(), self.collection(), batch, OnExisting::Replace).await.unwrap();
    }

    pub(crate) async fn run(&self, job: &Job) -> Option<Summary> {
        match self.custody.run(&permit(), job, self.collection(), &Silent::default()).await {
            Ok(Ended::Done(summary) | Ended::Stopped(summary)) => Some(summary),
            Err(error) => {
                assert!(self.fused.fuse().is_blown(), "{error}");
                None
            }
        }
    }

    /// Opens everything, and compares it with what was put.
    pub(crate) async fn opens(&self, expected: &BTreeMap<RecordKey, String>) {
        let summary = self.run(&Job::new(Kind::Verify)).await.unwrap();
        assert!(summary.is_clean(), "{:?}", summary.quarantined);
        assert_eq!(summary.records, expected.len() as u64);
        for (key, doc) in expected {
            let revealed = self.custody.reveal(&permit(), self.collection(), key).await.unwrap();
            assert_eq!(&*revealed, doc);
        }
    }

    /// Lets go of the files. The list of processes keeps it, as it does after a kill.
    pub(crate) async fn drop(self) {
        self.store.close().await;
    }
}

/// For [`prepare_batch`].
pub(crate) fn incoming(docs: &BTreeMap<RecordKey, String>) -> Vec<Incoming> {
    docs.iter().map(|(key, doc)| Incoming { key: key.clone(), doc: Zeroizing::new(doc.clone()) }).collect()
}

/// Documents with two secrets each.
pub(crate) fn docs(count: usize, version: u32) -> BTreeMap<RecordKey, String> {
    let doc = |i| format!(r#"{{"url":"redis://u:p{i}v{version}@h:6379","password":"pw {i} {version}","n":{i}}}"#);
    (0..count).map(|i| (RecordKey::new(format!("app-{i:04}")).unwrap(), doc(i))).collect()
}

/// Copies the files of a deployment that nobody has open.
pub(crate) fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Long enough for anything that is going to happen.
pub(crate) const SOON: Duration = Duration::from_secs(5);
