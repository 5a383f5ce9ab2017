//! Whole jobs, as the command line runs them: scan, open, seal, verify, swap, audit, cursors.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use keyfold_core::{
    clock::{Clock, UnixTime},
    envelope::{Format, redis_sre_v1},
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
    jobs::{Ended, Job, Kind, Silent},
    keys::{Copies, KeyringStore, LiveKeyring, Usage},
    preset::{Preset, Wishes},
    store::{
        OwnRecords, SystemStore,
        redis::RedisStore,
        sqlite::{OpenMode, SqliteStore},
    },
};
use redis::{Pipeline, aio::MultiplexedConnection};

use crate::{BATCH, bare_read, bare_swap, rounds, table::Table};

const NOW: UnixTime = UnixTime(1_800_000_000);

fn permit<O: Operation>() -> Permit<O> {
    authorize(&Subject::Local { uid: 1, owner: 1 }).unwrap()
}

fn material(byte: u8) -> KeyMaterial {
    KeyMaterial::new(Purpose::Master, Key32::new([byte; 32])).unwrap()
}

fn raw(byte: u8, state: State) -> Entry {
    Entry::new(material(byte), state, vec![Format::Kf1, Format::V1], UnixTime(0), Origin::Environment("BENCH".into()))
}

/// The jobs beside the bare loops over the same values, which are stored in the order in which they were `made`; `only` verifying
/// them, where it says so.
pub(crate) async fn run(
    address: &str,
    connection: &MultiplexedConnection,
    (made, keys): (&[String], &[String]),
    only: &str,
) {
    seal(connection, made).await;
    let folder = tempfile::tempdir().unwrap();
    init(folder.path()).await;
    // The most so far is forgotten: what counts are the jobs, and what the bare loops hold is said beside it.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let before = memory("VmRSS:");
    let mut table = Table::of(keys.len());
    let ended = async |[new, old]: [u8; 2], job: Job| ended(folder.path(), address, [new, old], job).await;
    let rewrap = || Job::new(Kind::Rotate);
    let reseal = || Job { how: How::Reseal, ..rewrap() };
    let mut key = 1;
    for _ in 0..rounds() {
        // Reading is soon over, so that a moment weighs more.
        for _ in 0..3 {
            let bare = table.timed("bare HGET, sealed values", None, bare_read(connection, keys)).await;
            table.timed("verify", Some(bare), ended([key, key], Job::new(Kind::Verify))).await;
        }
        if only == "verify" {
            continue;
        }
        let bare = table.timed("bare HGET and compare-and-set", None, bare_swap(connection, keys, str::to_owned)).await;
        table.timed("rotate, rewrapping", Some(bare), ended([key + 1, key], rewrap())).await;
        table.timed("rotate, resealing", Some(bare), ended([key + 2, key + 1], reseal())).await;
        let writing = tokio::spawn(write_elsewhere(connection.clone()));
        table.timed("rotate, rewrapping, others write", Some(bare), ended([key + 3, key + 2], rewrap())).await;
        writing.abort();
        key += 3;
    }
    table.print();
    println!("memory: {} MiB at most, of them {} MiB before the jobs", memory("VmHWM:"), before);
    python(address, keys, key).await;
}

/// A client that has nothing to do with the records.
async fn write_elsewhere(mut connection: MultiplexedConnection) {
    loop {
        let () = redis::cmd("INCR").arg("elsewhere").query_async(&mut connection).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Two secrets of each record, really sealed under one data key each, as redis-sre-agent does it.
async fn seal(connection: &MultiplexedConnection, keys: &[String]) {
    let key = material(1);
    let KeyMaterial::Master(master) = &key else { panic!("a master key") };
    for (at, chunk) in keys.chunks(BATCH).enumerate() {
        let mut pipeline = Pipeline::new();
        for (n, key) in chunk.iter().enumerate() {
            let n = at * BATCH + n;
            let sealed = |secret: String| redis_sre_v1::seal(master, &SystemRandom, secret.as_bytes()).unwrap();
            let data = format!(
                r#"{{"id": "redis-{n}", "name": "redis {n}", "connection_url": "{}", "admin_password": "{}", "environment": "production", "usage": "cache", "status": "unknown", "created_at": "2026-01-01T00:00:00+00:00", "version": null}}"#,
                sealed(format!("redis://app:correct-horse-{n}@cache-{n}.internal.example:6379/0")),
                sealed(format!("battery-staple-{n}")),
            );
            pipeline.cmd("HSET").arg(key).arg("data").arg(data).ignore();
        }
        let () = pipeline.query_async(&mut connection.clone()).await.unwrap();
    }
}

fn root() -> Arc<dyn RootKey> {
    Arc::new(keyfold_providers::LocalRoot::new("bench:".into(), &Key32::new([7; 32])).unwrap())
}

async fn init(folder: &Path) {
    let store = SqliteStore::open(folder.join("keyfold.db"), OpenMode::Create).await.unwrap();
    let material = KeyMaterial::new(Purpose::Master, Key32::new(rng::array(&SystemRandom).unwrap())).unwrap();
    let kid = material.kid();
    let entry = Entry::new(material, State::Staged, vec![Format::Kf1], NOW, Origin::Document);
    let keyring = Keyring::first("kr-bench", "kf-bench", Key32::new([9; 32])).staged(entry).unwrap();
    let keyrings = KeyringStore::new(Arc::new(store.clone()), root(), Copies::in_folder(folder), Vec::new());
    keyrings.create(&keyring.promoted(kid, NOW).unwrap()).await.unwrap();
    store.close().await;
}

/// Runs a job under the first key, with the second one beside it; gives the records that it saw.
async fn ended(folder: &Path, address: &str, [new, old]: [u8; 2], job: Job) -> usize {
    let store = Arc::new(SqliteStore::open(folder.join("keyfold.db"), OpenMode::Existing).await.unwrap());
    let system: Arc<dyn SystemStore> = Arc::clone(&store) as _;
    let mut environment = vec![raw(new, State::Primary)];
    if new != old {
        environment.push(raw(old, State::Active));
    }
    let keyrings = KeyringStore::new(Arc::clone(&system), root(), Copies::in_folder(folder), environment);
    let random: [u8; 48] = rng::array(&SystemRandom).unwrap();
    let mut id = [0; 16];
    id.copy_from_slice(&random[..16]);
    let keys = LiveKeyring::open(keyrings, Arc::clone(&system), WriterId(id), "bench").await.unwrap();
    let clock: Arc<dyn Clock> = Arc::new(NOW);
    let sink = Segments::open(&folder.join("audit"), "kf-bench", &[9; 32], random, Arc::clone(&clock)).unwrap();
    let sink: Arc<dyn AuditSink> = Arc::new(sink);
    let wishes = Wishes { today: NOW.date(), extension_secrets: false };
    let collections = Preset::parse("redis-sre-agent").unwrap().collections(job.kind, wishes);
    let instances = collections.into_iter().find(|collection| collection.name == "instances").unwrap();
    let layouts = [(instances.id.clone(), instances.layout.clone())].into();
    let redis = RedisStore::connect(&address.parse().unwrap(), layouts).await.unwrap();
    let custody = Custody {
        records: Arc::clone(&store) as Arc<dyn OwnRecords>,
        foreign: [(instances.id.clone(), Arc::new(redis) as _)].into(),
        usage: Usage::new(Arc::clone(&system)),
        system,
        keys,
        auditor: Auditor::new(sink, clock),
        config: Config::default(),
    };
    let follower = tokio::spawn(Arc::clone(&custody.keys).follow());
    let done = custody.run(&permit(), &job, &instances, &Silent::default()).await.unwrap();
    follower.abort();
    custody.close().await.unwrap();
    store.close().await;
    let Ended::Done(summary) = done else { panic!("nobody stopped it") };
    assert!(summary.is_clean(), "{:?}", summary.quarantined.first());
    assert!(job.kind == Kind::Verify || summary.changed == summary.records, "{summary:?}");
    usize::try_from(summary.records).unwrap()
}

/// The sequential procedure on some of the records, and its rate.
async fn python(address: &str, keys: &[String], key: u8) {
    let interpreter = std::env::var_os("KEYFOLD_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let some = keys.len().min(2000);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/redis/sequential.py");
    let port = address.rsplit(':').next().unwrap().to_owned();
    let key = base64_of(key);
    let child = Command::new(interpreter).args([script, &port, &some.to_string(), &key]).output().unwrap();
    if !child.status.success() {
        println!(
            "not run: the sequential procedure needs Python's `cryptography`: {}",
            String::from_utf8_lossy(&child.stderr)
        );
        return;
    }
    println!("{}", String::from_utf8_lossy(&child.stdout).trim());
}

fn base64_of(byte: u8) -> String {
    base64_simd::STANDARD.encode_to_string([byte; 32])
}

/// A line about this process's memory, in MiB.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
