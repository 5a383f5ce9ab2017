use std::{path::PathBuf, sync::Arc};

use keyfold_core::error::Hint as _;
use sqlx::{Connection as _, SqliteConnection};
use tempfile::TempDir;

use super::*;
use crate::store::{
    CollectionId, Expect, Inserted, OnExisting, OwnRecords, Partition, RecordStore, Swapped, SystemStore,
    conformance::{self, collection, doc, key, new, seed, swap},
};

async fn fresh() -> (TempDir, PathBuf, SqliteStore) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keyfold.db");
    let store = SqliteStore::open(&path, OpenMode::Create).await.unwrap();
    (dir, path, store)
}

async fn raw(path: &std::path::Path) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite://{}?mode=rwc", path.display())).await.unwrap()
}

async fn open_error(path: &std::path::Path, mode: OpenMode) -> StoreError {
    SqliteStore::open(path, mode).await.err().expect("it opened")
}

/// Every call that reads or writes, as errors only: none of them may give an empty answer instead.
async fn all_errors(store: &SqliteStore) -> Vec<StoreError> {
    let (c, k) = (collection("a"), key("a"));
    vec![
        store.scan(&c, &Partition::whole(), None, 10).await.unwrap_err(),
        store.read(&c, &k).await.unwrap_err(),
        store.swap(&c, vec![swap(&k, "x", "y")]).await.unwrap_err(),
        store.insert(&c, vec![new(&k, "x")], OnExisting::Skip).await.unwrap_err(),
        store.remove(&c, &k, None).await.unwrap_err(),
        store.count(&c).await.unwrap_err(),
        store.keys(&c, None, 10).await.unwrap_err(),
        store.collections().await.unwrap_err(),
        store.get("a").await.unwrap_err(),
        store.put("a", b"x", Expect::Any, None).await.unwrap_err(),
        store.delete("a", Expect::Any).await.unwrap_err(),
        store.list("", None, 10).await.unwrap_err(),
        store.now().await.unwrap_err(),
        store.changed("", &crate::store::ChangeMark::start(), Duration::ZERO).await.unwrap_err(),
        store.scrub(Scrub::Log).await.unwrap_err(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn records_conform() {
    let (_dir, _, store) = fresh().await;
    let store: conformance::Shared = Arc::new(store);
    conformance::records::run_all(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_records_conform() {
    let (_dir, _, store) = fresh().await;
    let store: conformance::Shared = Arc::new(store);
    conformance::own_records::run_all(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn system_documents_conform() {
    let (_dir, _, store) = fresh().await;
    let store: conformance::system::Shared = Arc::new(store);
    conformance::system::run_all(&store).await;
}

#[tokio::test]
async fn what_was_stored_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("it's 100%41?mode=memory#x é.db");
    let store = SqliteStore::open(&path, OpenMode::Create).await.unwrap();
    let (c, k) = (collection("a"), key("a"));
    seed(&store, &c, &[(&k, "x")]).await;
    store.put("k", b"v", Expect::Any, None).await.unwrap();
    store.close().await;
    let store = SqliteStore::open(&path, OpenMode::Existing).await.unwrap();
    assert_eq!(doc(&store, &c, &k).await.unwrap(), "x");
    assert_eq!(store.get("k").await.unwrap().unwrap().value, b"v");
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_and_its_companions_are_the_owners_only() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, _, store) = fresh().await;
    seed(&store, &collection("a"), &[(&key("a"), "x")]).await;
    let mut seen = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        seen += 1;
    }
    assert_eq!(seen, 3, "the file, its log and the log's index");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_an_error_and_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.db");
    let error = open_error(&path, OpenMode::Existing).await;
    assert_eq!(error.to_string(), format!("the SQLite file {} does not exist", path.display()));
    assert_eq!(error.hint().unwrap(), "check the path; `keyfold init` makes a new store");
    assert!(!path.exists());
    let nowhere = open_error(&dir.path().join("no/such/dir.db"), OpenMode::Create).await;
    assert!(nowhere.to_string().ends_with("the file cannot be made"), "{nowhere}");
}

#[tokio::test]
async fn what_is_not_ours_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text");
    std::fs::write(&text, "not a database, and longer than a page header has to be. ".repeat(100)).unwrap();
    let theirs = dir.path().join("theirs.db");
    let mut connection = raw(&theirs).await;
    sqlx::raw_sql("CREATE TABLE sessions (id TEXT)").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    for mode in [OpenMode::Create, OpenMode::Existing] {
        let before = std::fs::read(&theirs).unwrap();
        let said = open_error(&text, mode).await.to_string();
        assert!(said.ends_with("is not a Keyfold store: it is not an SQLite database"), "{said}");
        let said = open_error(&theirs, mode).await.to_string();
        assert!(said.ends_with("is not a Keyfold store: it is another program's database"), "{said}");
        let said = open_error(dir.path(), mode).await.to_string();
        assert!(said.ends_with("is not a Keyfold store: it is a directory"), "{said}");
        assert!(std::fs::read(&theirs).unwrap() == before);
    }
    let said = open_error(&empty, OpenMode::Existing).await.to_string();
    assert!(said.ends_with("is not a Keyfold store: it is an empty database"), "{said}");
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let (_dir, path, store) = fresh().await;
    store.close().await;
    let mut connection = raw(&path).await;
    sqlx::raw_sql("UPDATE schema_version SET version = 1000, oldest = 1000").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    for mode in [OpenMode::Create, OpenMode::Existing] {
        match open_error(&path, mode).await {
            StoreError::SchemaTooNew { found: 1000, .. } => {}
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn p02_a_file_that_was_deleted_or_replaced_is_an_error_and_never_an_empty_list() {
    for replace in [None, Some(true), Some(false)] {
        let (dir, path, store) = fresh().await;
        seed(&store, &collection("a"), &[(&key("a"), "x")]).await;
        std::fs::rename(&path, dir.path().join("moved.db")).unwrap();
        match replace {
            Some(true) => std::fs::create_dir(&path).unwrap(),
            Some(false) => std::fs::write(&path, "").unwrap(),
            None => {}
        }
        for error in all_errors(&store).await {
            assert!(matches!(error, StoreError::Unavailable { retry: false, .. }), "{error}");
        }
    }
}

#[tokio::test]
async fn p02_a_damaged_file_is_an_error_and_never_an_empty_list() {
    let (_dir, path, store) = fresh().await;
    let c = collection("a");
    let keys: Vec<_> = (0..300).map(|n| key(&format!("k{n:04}"))).collect();
    let large = "x".repeat(300);
    seed(&store, &c, &keys.iter().map(|k| (k, large.as_str())).collect::<Vec<_>>()).await;
    store.scrub(Scrub::Log).await.unwrap();
    store.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    // The header and the schema stay, so that it opens.
    bytes[5 * 4096..].fill(0xaa);
    std::fs::write(&path, bytes).unwrap();
    let store = SqliteStore::open(&path, OpenMode::Existing).await.unwrap();
    let error = store.scan(&c, &Partition::whole(), None, 1000).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(store.count(&c).await.is_err());
}

#[tokio::test]
async fn a_locked_file_is_unavailable_for_now() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keyfold.db");
    let options = SqliteOptions { busy_timeout: Duration::from_millis(100), readers: 2 };
    let store = SqliteStore::open_with(&path, OpenMode::Create, options).await.unwrap();
    let (c, k) = (collection("a"), key("a"));
    seed(&store, &c, &[(&k, "x")]).await;
    let mut other = raw(&path).await;
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let error = store.swap(&c, vec![swap(&k, "x", "y")]).await.unwrap_err();
    assert!(error.is_retryable());
    assert!(error.to_string().ends_with("is unavailable: another process holds its lock"), "{error}");
    assert_eq!(doc(&store, &c, &k).await.unwrap(), "x", "readers do not wait for writers");
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    assert_eq!(store.swap(&c, vec![swap(&k, "x", "y")]).await.unwrap(), [Swapped::Done]);
}

#[tokio::test]
async fn a_full_disk_is_said_and_nothing_of_the_batch_is_stored() {
    let (_dir, _, store) = fresh().await;
    let (c, k) = (collection("a"), key("first"));
    seed(&store, &c, &[(&k, "x")]).await;
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(&store.inner.writer).await.unwrap();
    let limit = format!("PRAGMA max_page_count = {}", pages + 10);
    sqlx::raw_sql(sqlx::AssertSqlSafe(limit)).execute(&store.inner.writer).await.unwrap();
    let large = "x".repeat(1000);
    let batch = (0..200).map(|n| new(&key(&format!("k{n}")), &large)).collect();
    let error = store.insert(&c, batch, OnExisting::Skip).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    let too_large = "y".repeat(100_000);
    let error = store.swap(&c, vec![swap(&k, "x", &too_large)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert_eq!(store.count(&c).await.unwrap(), 1);
    assert_eq!(store.swap(&c, vec![swap(&k, "x", "y")]).await.unwrap(), [Swapped::Done]);
}

#[tokio::test]
async fn nothing_of_an_old_value_stays_in_the_file_or_its_log_after_a_scrub() {
    let (dir, _, store) = fresh().await;
    let c = collection("a");
    let keys: Vec<_> = (0..100).map(|n| key(&format!("k{n:03}"))).collect();
    let plain = |n: usize| format!("hunter2-{n}-{}", "hunter2".repeat(n * 20));
    let olds: Vec<_> = (0..100).map(plain).collect();
    seed(&store, &c, &keys.iter().zip(&olds).map(|(k, d)| (k, d.as_str())).collect::<Vec<_>>()).await;
    let holds = || {
        let files = std::fs::read_dir(dir.path()).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        files.into_iter().any(|bytes| memchr::memmem::find(&bytes, b"hunter2").is_some())
    };
    assert!(holds());
    let swaps = keys.iter().zip(&olds).map(|(k, d)| swap(k, d, "sealed")).collect();
    assert_eq!(store.swap(&c, swaps).await.unwrap(), vec![Swapped::Done; 100]);
    store.scrub(Scrub::Log).await.unwrap();
    assert!(!holds());
    store.scrub(Scrub::File).await.unwrap();
    assert_eq!(doc(&store, &c, &keys[7]).await.unwrap(), "sealed");
}

#[tokio::test]
async fn a_dropped_call_leaves_no_transaction_behind() {
    let (_dir, _, store) = fresh().await;
    let (c, k) = (collection("a"), key("a"));
    seed(&store, &c, &[(&k, "0")]).await;
    for micros in 0..60 {
        let swaps = vec![swap(&k, "0", "1"), swap(&k, "1", "0")];
        let _ = tokio::time::timeout(Duration::from_micros(micros * 20), store.swap(&c, swaps)).await;
    }
    assert_eq!(doc(&store, &c, &k).await.unwrap(), "0", "both swaps or none");
    assert_eq!(store.swap(&c, vec![swap(&k, "0", "1")]).await.unwrap(), [Swapped::Done]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_open_a_fresh_file_at_once_all_succeed() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyfold.db");
        let opens = (0..6).map(|_| tokio::spawn(SqliteStore::open(path.clone(), OpenMode::Create)));
        for open in futures::future::join_all(opens).await {
            open.unwrap().unwrap();
        }
    }
}

/// What each process, or each pool, of the next two tests does: inserts of its own, and swaps that all fight for.
async fn work(path: PathBuf, name: String) {
    let store = SqliteStore::open(&path, OpenMode::Create).await.unwrap();
    let (c, counter) = (collection("work"), key("counter"));
    store.insert(&c, vec![new(&counter, "0")], OnExisting::Skip).await.unwrap();
    for n in 0..40 {
        let batch = (0..5).map(|i| new(&key(&format!("{name}-{n}-{i}")), "x")).collect();
        assert_eq!(store.insert(&c, batch, OnExisting::Fail).await.unwrap(), [Inserted::Created; 5]);
        loop {
            let now = doc(&store, &c, &counter).await.unwrap();
            let next = (now.parse::<u32>().unwrap() + 1).to_string();
            if store.swap(&c, vec![swap(&counter, &now, &next)]).await.unwrap() == [Swapped::Done] {
                break;
            }
        }
        store.put(&format!("{name}/{n}"), b"x", Expect::Absent, None).await.unwrap();
    }
    store.close().await;
}

async fn check_work(path: PathBuf, workers: u32) {
    let store = SqliteStore::open(&path, OpenMode::Existing).await.unwrap();
    let c: CollectionId = collection("work");
    assert_eq!(doc(&store, &c, &key("counter")).await.unwrap(), (workers * 40).to_string());
    assert_eq!(store.count(&c).await.unwrap(), u64::from(workers) * 200 + 1);
    assert_eq!(store.list("", None, 1000).await.unwrap().len(), workers as usize * 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_pools_work_on_one_file_without_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keyfold.db");
    let workers = (0..3).map(|n| tokio::spawn(work(path.clone(), format!("w{n}"))));
    for worker in futures::future::join_all(workers).await {
        worker.unwrap();
    }
    check_work(path, 3).await;
}

const WORKER: &str = "KEYFOLD_TEST_STORE_WORKER";

/// Not a test by itself: [`several_processes_work_on_one_file_without_errors`] starts it.
#[tokio::test]
async fn worker_process() {
    let Ok(task) = std::env::var(WORKER) else { return };
    let (name, path) = task.split_once('=').unwrap();
    work(path.into(), name.into()).await;
}

#[tokio::test]
async fn several_processes_work_on_one_file_without_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keyfold.db");
    let start = |n| {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::sqlite::tests::worker_process"])
            .env(WORKER, format!("w{n}={}", path.display()))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    for mut child in [start(0), start(1), start(2)] {
        assert!(child.wait().unwrap().success());
    }
    check_work(path, 3).await;
}

/// `cargo test --release -p keyfold-custody -- --ignored --nocapture speed`
#[tokio::test]
#[ignore = "a measurement"]
async fn speed_of_swaps_beside_plain_updates() {
    const RECORDS: usize = 100_000;
    const BATCH: usize = 500;
    let (_dir, _, store) = fresh().await;
    let c = collection("speed");
    let keys: Vec<_> = (0..RECORDS).map(|n| key(&format!("sre_instances:{n:08}"))).collect();
    let doc =
        |n: usize, round: usize| format!("{{\"id\":\"{n:08}\",\"round\":{round},\"url\":\"{}\"}}", "x".repeat(440));
    let rate = |what: &str, started: std::time::Instant| {
        println!("{what}: {:.0} records/s", RECORDS as f64 / started.elapsed().as_secs_f64());
    };
    let numbered: Vec<_> = keys.iter().enumerate().collect();
    let started = std::time::Instant::now();
    for chunk in numbered.chunks(BATCH) {
        let batch = chunk.iter().map(|(n, k)| new(k, &doc(*n, 0))).collect();
        store.insert(&c, batch, OnExisting::Fail).await.unwrap();
    }
    rate("insert", started);
    for round in [1, 3, 5] {
        let started = std::time::Instant::now();
        for chunk in numbered.chunks(BATCH) {
            let mut tx = store.begin().await.unwrap();
            for (n, k) in chunk {
                sqlx::query("UPDATE records SET doc = ?3 WHERE collection = ?1 AND id = ?2")
                    .bind(c.as_str())
                    .bind(k.as_str())
                    .bind(doc(*n, round))
                    .execute(&mut *tx)
                    .await
                    .unwrap();
            }
            tx.commit().await.unwrap();
        }
        rate("plain updates", started);
        let started = std::time::Instant::now();
        for chunk in numbered.chunks(BATCH) {
            let batch = chunk.iter().map(|(n, k)| swap(k, &doc(*n, round), &doc(*n, round + 1))).collect();
            assert!(store.swap(&c, batch).await.unwrap().iter().all(|s| *s == Swapped::Done));
        }
        rate("swap", started);
    }
    let started = std::time::Instant::now();
    let (mut after, mut seen) = (None, 0);
    loop {
        let page = store.scan(&c, &Partition::whole(), after.as_ref(), BATCH).await.unwrap();
        seen += page.records.len();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, RECORDS);
    rate("scan", started);
}

/// Whether a temporary file that this process has open holds `text`. SQLite takes the names of its own away at once.
#[cfg(target_os = "linux")]
fn in_a_temporary_file(text: &str) -> bool {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().map(|fd| fd.unwrap().path());
    let temporary = fds.filter(|fd| std::fs::read_link(fd).is_ok_and(|link| link.to_string_lossy().contains("etilqs")));
    temporary
        .filter_map(|fd| std::fs::read(fd).ok())
        .any(|bytes| memchr::memmem::find(&bytes, text.as_bytes()).is_some())
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn what_a_swap_overwrites_is_not_written_to_a_temporary_file() {
    let (_dir, _, store) = fresh().await;
    let c = collection("a");
    let keys: Vec<_> = (0..32).map(|n| key(&format!("k{n:02}"))).collect();
    let old = "plaintext ".repeat(2000);
    store.insert(&c, keys.iter().map(|key| new(key, &old)).collect(), OnExisting::Fail).await.unwrap();
    let swaps: Vec<_> = keys.iter().map(|key| swap(key, &old, "sealed")).collect();
    let texts: Vec<_> = swaps.iter().map(|swap| super::records::Texts::of(swap).unwrap()).collect();
    let mut tx = store.begin().await.unwrap();
    assert!(store.swap_all(&mut tx, &c, &texts).await.unwrap());
    assert!(!in_a_temporary_file("plaintext plaintext "));
    tx.rollback().await.unwrap();
}
