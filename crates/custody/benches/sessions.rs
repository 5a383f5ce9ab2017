//! What it costs to come from a handle to a credential, and what a hundred thousand sessions weigh.
//!
//! `cargo bench -p keyfold-custody --bench sessions`; `KEYFOLD_BENCH_SESSIONS` (100000).
//!
//! Another process makes the sessions, by the same code, and writes them to the store in one transaction: a flush for each would take
//! ten minutes, and what making them leaves behind would hide what holding them weighs. This process opens the store and knows
//! nothing but the handles.
//!
//! Warm: the sealed copy is in memory; each call looks it up, opens it, decides and appends an intent to an audit log that is not
//! flushed. Processor time is that of the process, as the system counts it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot run says so")]
#![allow(clippy::print_stdout, clippy::cast_precision_loss, reason = "what it is for")]

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use keyfold_core::{
    audit::{Event, event::Link},
    clock::UnixTime,
    envelope::Format,
    keyring::{Entry, KeyMaterial, Keyring, Origin, Purpose, State},
    secret::{Key32, Secret},
};
use keyfold_custody::{
    access::{Subject, authorize},
    audit_log::{AuditError, AuditSink, Durable, InsecureMemory},
    auditor::Auditor,
    broker::{Broker, Destination, Exchange, Routes, ServiceAccount, Wanted},
    sessions::{
        Granted, IssuerError, Issuers, Keys, Narrowing, NewSession, Person, PersonId, Presented, Rules, Sessions,
        Verified,
    },
    store::{
        ChangeMark, Doc, Expect, Put, StoreError, SystemStore,
        sqlite::{OpenMode, SqliteStore},
    },
    vouched::Voucher,
};
use sqlx::{Connection, SqliteConnection};

const NOW: UnixTime = UnixTime(1_800_000_000);
const CALLS: usize = 200_000;
/// Names the folder in which this process makes sessions, for the one that measures.
const MAKE: &str = "KEYFOLD_BENCH_MAKE";

/// Believes everything: what is measured here lies behind it.
struct InsecureIssuer;

#[async_trait]
impl Issuers for InsecureIssuer {
    async fn verify(&self, presented: &Presented) -> Result<Verified, IssuerError> {
        let text = std::str::from_utf8(presented.access_token.expose()).unwrap();
        let sub = text.split('.').nth(1).unwrap().to_owned();
        let email = Some(format!("{sub}@example.com"));
        let person = Person { iss: "https://accounts.google.com".into(), sub, email };
        Ok(Verified { issuer: "google".into(), person, expires: UnixTime(NOW.0 + 3600) })
    }

    fn refreshes(&self, _: &str) -> bool {
        false
    }

    async fn refresh(&self, _: &str, _: &Secret) -> Result<Granted, IssuerError> {
        unreachable!("nothing is refreshed")
    }

    async fn exchange(&self, _: &str, _: &Secret, _: &Exchange) -> Result<Granted, IssuerError> {
        unreachable!("nothing is exchanged")
    }

    async fn service_account(&self, _: &ServiceAccount, _: &Destination) -> Result<Granted, IssuerError> {
        unreachable!("nobody takes a user's place")
    }

    fn forget(&self, _: PersonId) {}
}

/// Encodes every event, as a real log does, and keeps none. Its proofs come from a log in memory that is given nothing.
#[derive(Default)]
struct Unflushed(InsecureMemory);

#[async_trait]
impl AuditSink for Unflushed {
    async fn append(&self, batch: &[Event]) -> Result<Durable, AuditError> {
        for event in batch {
            std::hint::black_box(event.encode(Link([0; 8]), 0).unwrap());
        }
        self.0.append(&[]).await
    }

    async fn append_outcome(&self, batch: &[Event]) -> Result<(), AuditError> {
        self.append(batch).await.map(drop)
    }

    async fn checkpoint(&self, _: u64) -> Result<(), AuditError> {
        Ok(())
    }

    async fn close(&self, _: u64) -> Result<(), AuditError> {
        Ok(())
    }
}

/// What the process has used, in microseconds: user and system, in ticks of a hundredth of a second.
fn processor() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 10_000.0
}

/// What the process holds, in MiB.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

fn keyring() -> Arc<Keyring> {
    let material = KeyMaterial::new(Purpose::Master, Key32::new([1; 32])).unwrap();
    let kid = material.kid();
    let entry = Entry::new(material, State::Staged, vec![Format::Kf1], NOW, Origin::Document);
    let keyring = Keyring::first("kr", "d", Key32::new([9; 32]));
    Arc::new(keyring.staged(entry).unwrap().promoted(kid, NOW).unwrap())
}

/// Takes what making sessions stores, with the time it stays in milliseconds. Nothing is read back from it.
#[derive(Default)]
struct Collected(Mutex<Vec<(String, Vec<u8>, Duration)>>);

#[async_trait]
impl SystemStore for Collected {
    async fn get(&self, _: &str) -> Result<Option<Doc>, StoreError> {
        Ok(None)
    }

    async fn put(&self, key: &str, value: &[u8], _: Expect, ttl: Option<Duration>) -> Result<Put, StoreError> {
        self.0.lock().unwrap().push((key.to_owned(), value.to_vec(), ttl.unwrap()));
        Ok(Put::Stored { version: 1 })
    }

    async fn delete(&self, _: &str, _: Expect) -> Result<bool, StoreError> {
        unreachable!("nothing ends")
    }

    async fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<(String, Doc)>, StoreError> {
        Ok(Vec::new())
    }

    async fn now(&self) -> Result<UnixTime, StoreError> {
        Ok(NOW)
    }

    async fn changed(&self, _: &str, _: &ChangeMark, _: Duration) -> Result<ChangeMark, StoreError> {
        unreachable!("nobody follows")
    }
}

fn sessions(store: Arc<dyn SystemStore>) -> Arc<Sessions> {
    let keyring = keyring();
    let voucher = Arc::new(Voucher::of(&keyring).unwrap());
    let sink: Arc<dyn AuditSink> = Arc::new(Unflushed::default());
    let auditor = Auditor::new(sink, Arc::new(NOW));
    let rules = ("d".into(), Rules::default());
    Arc::new(Sessions::new(store, Keys::Transient(keyring), (voucher, auditor), Arc::new(InsecureIssuer), rules))
}

/// Makes sessions in `folder`: the store, and the handles by line.
async fn make(folder: &Path, wanted: usize) {
    let collected = Arc::new(Collected::default());
    let sessions = sessions(Arc::clone(&collected) as Arc<dyn SystemStore>);
    let seal = authorize(&Subject::Local { uid: 0, owner: 0 }).unwrap();
    let mut handles = String::new();
    for n in 0..wanted {
        // About as long as Google's.
        let token = Secret::from(format!("ya29.{n:021}.{}", "x".repeat(190)));
        let presented = Presented { issuer: None, access_token: token, id_token: None, nonce: None };
        let handle = Some(Narrowing { destinations: Some(vec!["logs".into()]), ..Narrowing::default() });
        let new = NewSession { presented, refresh_token: None, project: None, state: None, cookie: false, handle };
        let made = sessions.create(&seal, new).await.unwrap();
        handles.push_str(std::str::from_utf8(made.handle.unwrap().0.expose()).unwrap());
        handles.push('\n');
    }
    fs::write(folder.join("handles"), handles).unwrap();

    let file = folder.join("db");
    drop(SqliteStore::open(file.clone(), OpenMode::Create).await.unwrap());
    let mut db = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    let docs = std::mem::take(&mut *collected.0.lock().unwrap());
    let number = |n: usize| i64::try_from(n).unwrap();
    for (n, (key, value, ttl)) in docs.iter().enumerate() {
        sqlx::query(
            "INSERT INTO system (key, value, version, expires_at)
             VALUES (?1, ?2, ?3, CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?4)",
        )
        .bind(key)
        .bind(value)
        .bind(number(n + 1))
        .bind(i64::try_from(ttl.as_millis()).unwrap())
        .execute(&mut *tx)
        .await
        .unwrap();
    }
    let counted = sqlx::query("UPDATE counters SET value = ?1 WHERE name = 'system'").bind(number(docs.len()));
    assert_eq!(counted.execute(&mut *tx).await.unwrap().rows_affected(), 1);
    tx.commit().await.unwrap();
    db.close().await.unwrap();
}

/// Looks for revocations often enough for sessions to be taken, however slow the machine is.
async fn follow(sessions: &Sessions, looked: &mut Instant) {
    if looked.elapsed() > Duration::from_secs(1) {
        sessions.look().await.unwrap();
        *looked = Instant::now();
    }
}

async fn measure(folder: &Path, wanted: usize) {
    let store = SqliteStore::open(folder.join("db"), OpenMode::Existing).await.unwrap();
    let sessions = sessions(Arc::new(store));
    let routes = "[destinations.logs]\nhost = \"logs.example\"".parse().unwrap();
    let broker = Broker::new(Arc::clone(&sessions), Routes::parse(&routes).unwrap(), None);
    let permit = authorize(&Subject::Local { uid: 0, owner: 0 }).unwrap();
    let logs = Wanted { destination: broker.routes().named("logs").unwrap(), method: "GET", path: None };
    let handles: Vec<String> = fs::read_to_string(folder.join("handles")).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(handles.len(), wanted);

    sessions.look().await.unwrap();
    let mut looked = Instant::now();
    let (before, began) = (resident(), Instant::now());
    for (n, handle) in handles.iter().enumerate() {
        broker.credential_for(&permit, Some(handle), &logs).await.unwrap();
        if n % 100 == 0 {
            follow(&sessions, &mut looked).await;
        }
    }
    let (weight, read) = (resident() - before, began.elapsed().as_secs_f64());
    println!("{wanted} live sessions: {weight:.0} MiB beside what the process held before; read in {read:.1} s");

    for round in 0..3 {
        let (began, used) = (Instant::now(), processor());
        for n in 0..CALLS {
            let handle = &handles[(n * 7919) % handles.len()];
            std::hint::black_box(broker.credential_for(&permit, Some(handle), &logs).await.unwrap());
            if n % 1000 == 0 {
                follow(&sessions, &mut looked).await;
            }
        }
        let micros = (processor() - used) / CALLS as f64;
        let wall = began.elapsed().as_secs_f64() * 1e6 / CALLS as f64;
        println!("round {round}: {micros:.2} µs of processor time a call, {wall:.2} µs by the clock");
    }
}

fn main() {
    let wanted = std::env::var("KEYFOLD_BENCH_SESSIONS").map_or(100_000, |text| text.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if let Some(folder) = std::env::var_os(MAKE) {
        return runtime.block_on(make(Path::new(&folder), wanted));
    }
    let (folder, began) = (tempfile::tempdir().unwrap(), Instant::now());
    let made = Command::new(std::env::current_exe().unwrap()).env(MAKE, folder.path()).status().unwrap();
    assert!(made.success());
    println!("{wanted} sessions made in {:.1} s", began.elapsed().as_secs_f64());
    runtime.block_on(measure(folder.path(), wanted));
}
