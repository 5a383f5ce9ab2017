//! What a keyring costs to open, and how often its root key is asked.
//!
//! `cargo bench -p keyfold-custody --bench keyring`; `KEYFOLD_BENCH_RECORDS` (10000), `KEYFOLD_BENCH_DIR` (a folder on the disk
//! to be measured; the system's temporary one).
//!
//! The root key is a file's, behind one that counts: a process that starts asks it once, whatever the number of keys and of
//! secrets; what seals and opens does not ask it at all. Where it is asked more often, the benchmark fails.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot run says so")]
#![allow(clippy::print_stdout, reason = "what it is for")]

use std::{
    env,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use keyfold_core::{
    accept::Accept,
    clock::{Clock, UnixTime},
    context::Context,
    envelope::{Format, Reading},
    id::WriterId,
    keyring::{Entry, KeyMaterial, Keyring, Origin, Purpose, Reader, State},
    rng::{self, Fresh, SystemRandom},
    root::{RootError, RootKey},
    secret::Key32,
};
use keyfold_custody::{
    access::{Operation, Permit, Subject, authorize},
    audit_log::{AuditSink, Segments},
    auditor::Auditor,
    config::Config,
    custody::Custody,
    import::Import,
    jobs::{Ended, Job, Kind, Silent},
    keys::{Copies, KeyringStore, LiveKeyring, Usage},
    records::{Incoming, Intake},
    store::{
        OnExisting, OwnRecords, RecordKey, SystemStore,
        sqlite::{OpenMode, SqliteStore},
    },
};
use zeroize::Zeroizing;

const NOW: UnixTime = UnixTime(1_800_000_000);
/// How often a keyring is opened; the middle one counts.
const TIMES: usize = 101;
const TARGET: Duration = Duration::from_millis(5);

struct Counted {
    inner: keyfold_providers::LocalRoot,
    calls: Arc<AtomicUsize>,
}

#[async_trait]
impl RootKey for Counted {
    fn uri(&self) -> &str {
        self.inner.uri()
    }

    async fn wrap(&self, key: &Key32, aad: &[u8]) -> Result<Vec<u8>, RootError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.inner.wrap(key, aad).await
    }

    async fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<Key32, RootError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.inner.unwrap(wrapped, aad).await
    }
}

fn main() {
    let records = env::var("KEYFOLD_BENCH_RECORDS").map_or(10_000, |text| text.parse().expect("a number"));
    let base = env::var_os("KEYFOLD_BENCH_DIR").map_or_else(env::temp_dir, PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!(
        "{:>6} {:>9} {:>22} {:>22} {:>8} {:>26}",
        "keys", "secrets", "keyring opened in, ms", "with its database, ms", "calls", "calls by 20,000 seals,"
    );
    println!(
        "{:>6} {:>9} {:>22} {:>22} {:>8} {:>26}",
        "", "", "(median)", "(median)", "a start", "opens and a whole job"
    );
    let mut slow = false;
    for (keys, records) in [(1, 10), (1, records), (20, records)] {
        let folder = tempfile::tempdir_in(&base).unwrap();
        slow |= runtime.block_on(measured(folder.path(), keys, records)) > TARGET;
    }
    println!("under {} ms promised for a local root{}", TARGET.as_millis(), if slow { ": MISSED" } else { "" });
}

async fn measured(folder: &Path, keys: u8, records: usize) -> Duration {
    init(folder, keys).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = || calls.swap(0, Ordering::Relaxed);
    let (mut opened, mut started) = (Vec::new(), Vec::new());
    let mut asked = 0;
    for time in 0..=TIMES {
        let began = Instant::now();
        let store = Arc::new(SqliteStore::open(folder.join("keyfold.db"), OpenMode::Existing).await.unwrap());
        let at = Instant::now();
        let keyring = open(folder, &store, &calls).await;
        let ended = Instant::now();
        asked = count();
        assert_eq!(asked, 1, "a start asks the root key once");
        if time == 0 {
            // The first one fills what the others find.
            fill(folder, &store, &keyring, records).await;
            assert_eq!(count(), 0, "writing records asks the root key");
        } else {
            opened.push(ended - at);
            started.push(ended - began);
        }
        if time == TIMES {
            hot(folder, &store, &keyring, records).await;
        }
        keyring.close().await.unwrap();
        store.close().await;
    }
    let hot = count();
    assert_eq!(hot, 0, "the hot path asks the root key");
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (opened, started) = (median(&mut opened), median(&mut started));
    let shown = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1000.0);
    println!("{keys:>6} {:>9} {:>22} {:>22} {asked:>8} {hot:>26}", records * 2, shown(opened), shown(started));
    opened
}

/// A folder with its root key in a file, and this many keys.
async fn init(folder: &Path, keys: u8) {
    let root = keyfold_providers::create_file(&folder.join("root.key")).unwrap();
    let store = SqliteStore::open(folder.join("keyfold.db"), OpenMode::Create).await.unwrap();
    let mut keyring = Keyring::first("kr-bench", "kf-bench", Key32::new([9; 32]));
    for _ in 0..keys {
        let material = KeyMaterial::new(Purpose::Master, Key32::new(rng::array(&SystemRandom).unwrap())).unwrap();
        let kid = material.kid();
        let entry = Entry::new(material, State::Staged, vec![Format::Kf1], NOW, Origin::Document);
        keyring = keyring.staged(entry).unwrap().promoted(kid, NOW).unwrap();
    }
    let keyrings = KeyringStore::new(Arc::new(store.clone()), Arc::new(root), Copies::in_folder(folder), Vec::new());
    keyrings.create(&keyring).await.unwrap();
    store.close().await;
}

/// As a process that starts does it: the root key's file read, the document opened, the process on the list.
async fn open(folder: &Path, store: &Arc<SqliteStore>, calls: &Arc<AtomicUsize>) -> Arc<LiveKeyring> {
    let inner = keyfold_providers::open_file(&folder.join("root.key")).unwrap();
    let root = Arc::new(Counted { inner, calls: Arc::clone(calls) });
    let system: Arc<dyn SystemStore> = Arc::clone(store) as _;
    let keyrings = KeyringStore::new(Arc::clone(&system), root, Copies::in_folder(folder), Vec::new());
    let id = WriterId(rng::array(&SystemRandom).unwrap());
    LiveKeyring::open(keyrings, system, id, "bench").await.unwrap()
}

fn permit<O: Operation>() -> Permit<O> {
    authorize(&Subject::Local { uid: 1, owner: 1 }).unwrap()
}

fn custody(folder: &Path, store: &Arc<SqliteStore>, keys: &Arc<LiveKeyring>) -> Custody {
    let clock: Arc<dyn Clock> = Arc::new(NOW);
    let random = rng::array(&SystemRandom).unwrap();
    let sink = Segments::open(&folder.join("audit"), "kf-bench", &[9; 32], random, Arc::clone(&clock)).unwrap();
    let sink: Arc<dyn AuditSink> = Arc::new(sink);
    let system: Arc<dyn SystemStore> = Arc::clone(store) as _;
    Custody {
        records: Arc::clone(store) as Arc<dyn OwnRecords>,
        foreign: std::collections::HashMap::new(),
        usage: Usage::new(Arc::clone(&system)),
        system,
        keys: Arc::clone(keys),
        auditor: Auditor::new(sink, clock),
        config: Config::parse("[collections.apps]\nfields = [\"/url\", \"/password\"]\n").unwrap(),
    }
}

async fn fill(folder: &Path, store: &Arc<SqliteStore>, keys: &Arc<LiveKeyring>, records: usize) {
    let custody = custody(folder, store, keys);
    let collection = custody.collection("apps").unwrap();
    let (send, receive) = tokio::sync::mpsc::channel(2);
    let making = std::thread::spawn(move || {
        let incoming = |i: usize| Incoming {
            key: RecordKey::new(format!("app-{i:06}")).unwrap(),
            doc: Zeroizing::new(format!(r#"{{"url":"redis://svc:horse-{i}@cache:6379/0","password":"battery-{i}"}}"#)),
        };
        for first in (0..records).step_by(500) {
            send.blocking_send((first..records.min(first + 500)).map(incoming).collect::<Vec<_>>()).unwrap();
        }
    });
    let import = Import { collection, intake: Intake::Seal, on_existing: OnExisting::Fail };
    custody.import(&permit(), import, receive, |_| {}).await.unwrap();
    making.join().unwrap();
    custody.auditor.sink().close(keys.opening().generation()).await.unwrap();
}

/// Seals and opens by itself, and goes through everything that is stored.
async fn hot(folder: &Path, store: &Arc<SqliteStore>, keys: &Arc<LiveKeyring>, records: usize) {
    let (context, accept) = (Context::empty().digest(), Accept::any_sealed());
    let reader = Reader { accept: &accept, today: NOW.date(), reading: Reading::Strict, max_age: None };
    for _ in 0..20_000 {
        let sealing = keys.sealing().await.unwrap();
        let fresh = Fresh { random: &SystemRandom, now: NOW };
        let sealed = sealing.seal(Format::Kf1, &context, b"hunter2", fresh).unwrap();
        keys.opening().open(&sealed.text, &context, &reader).unwrap();
    }
    let custody = custody(folder, store, keys);
    let collection = custody.collection("apps").unwrap();
    let ended = custody.run(&permit(), &Job::new(Kind::Verify), collection, &Silent::default()).await.unwrap();
    let Ended::Done(summary) = ended else { panic!("stopped") };
    assert!(summary.is_clean() && summary.records == records as u64);
    custody.auditor.sink().close(keys.opening().generation()).await.unwrap();
}
