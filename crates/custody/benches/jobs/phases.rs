//! The phases, each in a process of its own.

use std::{path::Path, sync::Arc, time::Instant};

use keyfold_core::{
    clock::{Clock, UnixTime},
    envelope::Format,
    id::WriterId,
    keyring::{Entry, KeyMaterial, Keyring, Origin, Purpose, State},
    rewrap::How,
    rng::{self, SystemRandom},
    root::RootKey,
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

use crate::{
    BATCH,
    plain::{self, Plain},
    records,
};

const CONFIG: &str = r#"[collections.apps]
fields = ["/connection_url", "/admin_password"]
accept = ["kf1", { format = "plaintext", until = 2999-12-31 }]
"#;

const NOW: UnixTime = UnixTime(1_800_000_000);

/// About 500 bytes, two secrets among them.
fn doc(i: usize) -> String {
    let notes =
        "The cache in front of the orders service; restarted on Mondays, owned by the payments team. ".repeat(2);
    format!(
        r#"{{"id":"app-{i:06}","name":"Orders cache {i}","environment":"production","region":"eu-west-{}","connection_url":"redis://svc-{i}:correct-horse-{i}@cache-{i}.internal.example:6379/0","admin_password":"battery-staple-{i}","tags":["redis","orders","tier-1"],"notes":"{notes}","version":{i}}}"#,
        i % 3
    )
}

fn permit<O: Operation>() -> Permit<O> {
    authorize(&Subject::Local { uid: 1, owner: 1 }).unwrap()
}

/// Runs a phase and gives the seconds that it took, without the process's start and end.
pub(crate) fn run(name: &str, folder: &Path) -> f64 {
    // As the program has it.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match name {
            "init" => init(folder).await,
            "insert" => return plain::write(folder, Plain::Insert).await,
            "update" => return plain::write(folder, Plain::Update).await,
            _ => return with(folder, async |custody| timed(name, custody).await).await,
        }
        0.0
    })
}

async fn timed(name: &str, custody: &Custody) -> f64 {
    let began = Instant::now();
    match name {
        "import" => import(custody, Intake::Seal).await,
        "as-is" => import(custody, Intake::AsIs).await,
        "new-key" => {
            let kid = custody.create_key(&permit(), &[Format::Kf1]).await.unwrap();
            custody.promote_key(&permit(), kid, std::time::Duration::from_secs(5)).await.unwrap();
        }
        "migrate" => job(custody, &Job::new(Kind::Migrate)).await,
        "rotate" => job(custody, &Job::new(Kind::Rotate)).await,
        "reseal" => job(custody, &Job { how: How::Reseal, ..Job::new(Kind::Rotate) }).await,
        "verify" => job(custody, &Job::new(Kind::Verify)).await,
        other => panic!("no phase `{other}`"),
    }
    began.elapsed().as_secs_f64()
}

async fn job(custody: &Custody, job: &Job) {
    let collection = custody.collection("apps").unwrap();
    let ended = custody.run(&permit(), job, collection, &Silent::default()).await.unwrap();
    let Ended::Done(summary) = ended else { panic!("stopped") };
    assert!(summary.is_clean() && summary.records == records() as u64);
    assert!(job.kind == Kind::Verify || summary.changed == records() as u64);
}

/// As `keyfold records import` does it, without the reading.
async fn import(custody: &Custody, intake: Intake) {
    let collection = custody.collection("apps").unwrap();
    let batches = (0..records()).step_by(BATCH).map(|first| {
        let incoming =
            |i| Incoming { key: RecordKey::new(format!("app-{i:06}")).unwrap(), doc: Zeroizing::new(doc(i)) };
        (first..records().min(first + BATCH)).map(incoming).collect::<Vec<_>>()
    });
    let (send, receive) = tokio::sync::mpsc::channel(2);
    let making = std::thread::spawn(move || batches.for_each(|batch| send.blocking_send(batch).unwrap()));
    let import = Import { collection, intake, on_existing: OnExisting::Fail };
    let mut stored = 0;
    custody.import(&permit(), import, receive, |inserted| stored += inserted.len()).await.unwrap();
    making.join().unwrap();
    assert_eq!(stored, records());
}

fn root() -> Arc<dyn RootKey> {
    Arc::new(keyfold_providers::LocalRoot::new("bench:".into(), &Key32::new([7; 32])).unwrap())
}

async fn init(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let store = SqliteStore::open(folder.join("keyfold.db"), OpenMode::Create).await.unwrap();
    let material = KeyMaterial::new(Purpose::Master, Key32::new(rng::array(&SystemRandom).unwrap())).unwrap();
    let kid = material.kid();
    let entry = Entry::new(material, State::Staged, vec![Format::Kf1], NOW, Origin::Document);
    let keyring = Keyring::first("kr-bench", "kf-bench", Key32::new([9; 32])).staged(entry).unwrap();
    let keyrings = KeyringStore::new(Arc::new(store.clone()), root(), Copies::in_folder(folder), Vec::new());
    keyrings.create(&keyring.promoted(kid, NOW).unwrap()).await.unwrap();
    store.close().await;
}

async fn with(folder: &Path, work: impl AsyncFnOnce(&Custody) -> f64) -> f64 {
    let store = Arc::new(SqliteStore::open(folder.join("keyfold.db"), OpenMode::Existing).await.unwrap());
    let system: Arc<dyn SystemStore> = Arc::clone(&store) as _;
    let keyrings = KeyringStore::new(Arc::clone(&system), root(), Copies::in_folder(folder), Vec::new());
    let random: [u8; 48] = rng::array(&SystemRandom).unwrap();
    let mut id = [0; 16];
    id.copy_from_slice(&random[..16]);
    let keys = LiveKeyring::open(keyrings, Arc::clone(&system), WriterId(id), "bench").await.unwrap();
    let clock: Arc<dyn Clock> = Arc::new(NOW);
    let sink = Segments::open(&folder.join("audit"), "kf-bench", &[9; 32], random, Arc::clone(&clock)).unwrap();
    let sink: Arc<dyn AuditSink> = Arc::new(sink);
    let custody = Custody {
        records: Arc::clone(&store) as Arc<dyn OwnRecords>,
        foreign: std::collections::HashMap::new(),
        usage: Usage::new(Arc::clone(&system)),
        system,
        keys,
        auditor: Auditor::new(sink, clock),
        config: Config::parse(CONFIG).unwrap(),
    };
    let follower = tokio::spawn(Arc::clone(&custody.keys).follow());
    let seconds = work(&custody).await;
    follower.abort();
    custody.close().await.unwrap();
    store.close().await;
    seconds
}
