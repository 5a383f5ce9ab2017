//! What an SQLite file has that others do not: values of any type in any column, and another program's locks.

use std::{path::Path, time::Duration};

use keyfold_custody::store::{
    CellValue, Expect, NewRecord, OnExisting, OwnRecords as _, RecordKey, RecordStore as _, StoreError, Swapped,
    SystemStore as _,
    sql::SqliteRows,
    sqlite::{OpenMode, SqliteStore},
};
use sqlx::{Connection as _, Row as _, SqliteConnection};
use tempfile::TempDir;

use crate::foreign::{cells, id, keys_and_oddities, layout, open, scan_all, swap};

/// Another program's file.
struct File {
    folder: TempDir,
    theirs: SqliteConnection,
}

impl File {
    async fn new(statements: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("app.db").display());
        let mut file = Self { folder, theirs: SqliteConnection::connect(&url).await.unwrap() };
        file.run(statements).await;
        file
    }

    async fn run(&mut self, statements: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&mut self.theirs).await.unwrap();
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("app.db")
    }

    fn address(&self) -> String {
        format!("sqlite:{}", self.path().display())
    }

    async fn text(&mut self, query: &str) -> String {
        sqlx::query(sqlx::AssertSqlSafe(query)).fetch_one(&mut self.theirs).await.unwrap().get(0)
    }
}

async fn error(address: &str, layout: keyfold_custody::layout::place::Layout) -> StoreError {
    open(address, layout).await.err().expect("it opened")
}

#[tokio::test]
async fn only_the_swapped_columns_change_and_no_byte_of_the_rest() {
    let mut file = File::new(
        r#"CREATE TABLE "Us ers" (tenant TEXT, id INTEGER, token TEXT COLLATE NOCASE, settings JSON, note BLOB, seen REAL,
               PRIMARY KEY (id, tenant));
           INSERT INTO "Us ers" VALUES ('it''s', 7, 'Old', '{ "b":1e3, "a": 2.50,"b": 1 }', x'00ff', 1767323045.678901);"#,
    )
    .await;
    let key = r#"["it's",7]"#;
    let store = open(&file.address(), layout("Us ers", &["tenant", "id"], &["token", "settings:json"])).await.unwrap();
    let page = scan_all(&*store, &id("c"), 10).await;
    assert_eq!(page.records[0].key.as_str(), key);
    assert_eq!(cells(&page.records[0].cells), [r#"settings={ "b":1e3, "a": 2.50,"b": 1 }"#, "token=Old"]);
    let whole = r#"SELECT group_concat(quote(tenant) || quote(id) || quote(token) || quote(settings) || quote(note) || quote(seen)) FROM "Us ers""#;
    let before = file.text(whole).await;
    let swaps = vec![
        swap(key, "token", "old", "other case"),
        swap(key, "settings", r#"{ "b":1e3, "a": 2.50,"b": 1 }"#, r#"{ "b":1e3, "a": "x","b": 1 }"#),
    ];
    assert_eq!(store.swap(&id("c"), swaps).await.unwrap(), [Swapped::Changed, Swapped::Done]);
    let swaps = vec![
        swap(key, "token", "Old", "new"),
        swap(key, "settings", r#"{ "b":1e3, "a": "x","b": 1 }"#, r#"{ "b":1e3, "a": "y","b": 1 }"#),
    ];
    assert_eq!(store.swap(&id("c"), swaps).await.unwrap(), [Swapped::Done; 2]);
    assert_eq!(file.text(whole).await, before.replace("'Old'", "'new'").replace("2.50", "\"y\""));
}

#[tokio::test]
async fn keys_of_every_type_come_back_as_they_are() {
    for (kind, value, spelled) in [
        ("INTEGER", "-9223372036854775808", "-9223372036854775808"),
        ("BIGINT", "7", "7"),
        ("TEXT", "7", "7"),
        ("VARCHAR(36)", "'0188d4c1'", "0188d4c1"),
        ("UUID", "'0188d4c1-9c3a'", "0188d4c1-9c3a"),
        ("DATETIME", "'2026-01-02 03:04:05'", "2026-01-02 03:04:05"),
        ("", "7", "7"),
        ("", "'seven'", "seven"),
        ("BLOB", "x'00ff41'", "\\x00ff41"),
        ("TEXT", "CAST(x'61ff00' AS TEXT)", "a%FF%00"),
        ("TEXT COLLATE NOCASE", "'Ab'", "Ab"),
    ] {
        let file = File::new(&format!(
            "CREATE TABLE t (a TEXT, id {kind} PRIMARY KEY NOT NULL); INSERT INTO t VALUES ('old', {value})"
        ))
        .await;
        let store = open(&file.address(), layout("t", &["id"], &["a"])).await.unwrap();
        let page = scan_all(&*store, &id("c"), 1).await;
        assert_eq!(keys_and_oddities(&page), (vec![spelled], vec![]), "{kind}");
        assert_eq!(
            store.swap(&id("c"), vec![swap(spelled, "a", "old", "new")]).await.unwrap(),
            [Swapped::Done],
            "{kind}"
        );
        let record = store.read(&id("c"), &page.records[0].key).await.unwrap().unwrap();
        assert_eq!(cells(&record.cells), ["a=new"], "{kind}");
    }
}

#[tokio::test]
async fn what_is_no_text_or_has_no_key_that_can_be_spelled_is_odd_and_stays() {
    let mut file = File::new(
        "CREATE TABLE t (id TEXT PRIMARY KEY, a TEXT);
         INSERT INTO t VALUES ('a', 'x'), ('b', x'80049541'), ('c', NULL), ('', 'x'), (NULL, 'x'), (NULL, 'x'), (x'01', 'x'),
             (printf('%.9000c', 'k'), 'x'), (printf('%.20000c', 'l'), 'x'), ('d', CAST(x'ff' AS TEXT)),
             ('e', CAST(printf('%.17000000c', 'x') AS TEXT)), ('z', 'x');
         CREATE TABLE n (id INTEGER PRIMARY KEY, a); INSERT INTO n VALUES (1, 5), (2, 2.5), (3, 'x'), (4, NULL)",
    )
    .await;
    let store = open(&file.address(), layout("t", &["id"], &["a"])).await.unwrap();
    let before = file.text("SELECT group_concat(hex(id) || hex(a)) FROM t").await;
    for limit in [1, 3, 100] {
        let page = scan_all(&*store, &id("c"), limit).await;
        let (keys, odd) = keys_and_oddities(&page);
        assert_eq!(keys, ["a", "c", "z"], "{limit}");
        let says = [
            "null: 2 rows of `t` have no key",
            ": a record key is empty",
            "b: column `a` holds bytes, such as a pickled object, and no text",
            "d: column `a` holds text that is not UTF-8",
            "e: column `a` holds 17000000 bytes, at most 16777216 are read",
            "a record key has 9000 bytes, at most 8192 are allowed",
            "a record key has 20000 bytes, at most 8192 are allowed",
            "1 bytes: a value of the key is bytes, unlike its column's type",
        ];
        assert_eq!(odd.len(), says.len(), "{limit}: {odd:?}");
        for (odd, says) in odd.iter().zip(says) {
            assert!(odd.ends_with(says), "{odd} — {says}");
        }
    }
    for key in ["b", "d"] {
        let swapped = store.swap(&id("c"), vec![swap(key, "a", "x", "y")]).await.unwrap();
        assert_eq!(swapped, [Swapped::Changed]);
    }
    assert_eq!(store.swap(&id("c"), vec![swap("c", "a", "x", "y")]).await.unwrap(), [Swapped::Gone]);
    assert_eq!(file.text("SELECT group_concat(hex(id) || hex(a)) FROM t").await, before);

    let store = open(&file.address(), layout("n", &["id"], &["a"])).await.unwrap();
    let (page, said) = (scan_all(&*store, &id("c"), 2).await, "column `a` holds a number and no text");
    assert_eq!(keys_and_oddities(&page), (vec!["3", "4"], vec![format!("1: {said}"), format!("2: {said}")]));
    for bad in ["x", "01", "1.0"] {
        let error = store.read(&id("c"), &RecordKey::new(bad).unwrap()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("`{bad}` is no key of `n`, which is a value of `id`"));
    }
}

#[tokio::test]
async fn events_that_were_pickled_are_reported_one_by_one_and_left_alone() {
    let mut file = File::new(
        "CREATE TABLE events (id VARCHAR(128) PRIMARY KEY, actions BLOB, content TEXT);
         INSERT INTO events VALUES ('a', x'80049541', '{}'), ('b', NULL, '{}'), ('c', x'8004', '{}')",
    )
    .await;
    let keyfold_custody::layout::place::Layout::SqlColumns { table, key, columns, .. } =
        layout("events", &["id"], &["event_data:jsonb"])
    else {
        panic!()
    };
    let legacy = Some("actions".into());
    let layout = keyfold_custody::layout::place::Layout::SqlColumns { table, key, columns, legacy };
    let store = open(&file.address(), layout.clone()).await.unwrap();
    let (page, what) =
        (scan_all(&*store, &id("c"), 2).await, "column `actions` holds bytes, such as a pickled object, and no text");
    assert_eq!(keys_and_oddities(&page), (vec!["b"], vec![format!("a: {what}"), format!("c: {what}")]));
    assert!(page.records[0].cells.is_empty());
    file.run("ALTER TABLE events ADD COLUMN event_data TEXT; UPDATE events SET event_data = 'x' WHERE id = 'a'").await;
    let store = open(&file.address(), layout).await.unwrap();
    let page = scan_all(&*store, &id("c"), 2).await;
    assert_eq!((page.records.len(), page.odd.len()), (3, 0), "the new column is what counts");
}

#[tokio::test]
async fn every_mistake_of_a_layout_is_told_at_once_with_the_names_that_exist() {
    let mut file = File::new(
        "CREATE TABLE users (id TEXT PRIMARY KEY, mail TEXT, token TEXT, twice TEXT AS (token || token));
         CREATE UNIQUE INDEX some ON users (mail) WHERE mail <> ''; CREATE TABLE plain (a, b)",
    )
    .await;
    let start = format!("the SQLite file {} is not laid out as configured: collection `c`: ", file.path().display());
    let text = error(&file.address(), layout("user", &["id"], &["token"])).await.to_string();
    assert_eq!(text, format!("{start}there is no table `user`; there are plain, users"));
    let text = error(&file.address(), layout("users", &["nr"], &["tokens", "twice"])).await.to_string();
    for says in [
        "table `users` has no column `nr`; it has id, mail, token, twice",
        "table `users` has no column `tokens`",
        "column `twice` is computed by the database",
    ] {
        assert!(text.contains(says), "{says}\n{text}");
    }
    let text = error(&file.address(), layout("users", &["mail"], &["token"])).await.to_string();
    assert_eq!(text, format!("{start}no primary or unique key of `users` is (mail); there are: id"));
    let text = error(&file.address(), layout("plain", &["a"], &["b"])).await.to_string();
    assert!(text.ends_with("there are: none"), "{text}");
    let missing = error(&format!("{}.not", file.address()), layout("users", &["id"], &["token"])).await;
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    assert!(!file.folder.path().join("app.db.not").exists());
    file.run("SELECT 1").await;
    let ours = file.folder.path().join("keyfold.db");
    SqliteStore::open(&ours, OpenMode::Create).await.unwrap().close().await;
    let text = error(&format!("sqlite:{}", ours.display()), layout("records", &["id"], &["doc"])).await.to_string();
    assert!(text.contains("it is a data folder's own file"), "{text}");
}

#[tokio::test]
async fn a_lock_of_the_other_program_is_waited_for_and_then_an_error_for_now() {
    let mut file = File::new("CREATE TABLE t (id TEXT PRIMARY KEY, a TEXT); INSERT INTO t VALUES ('a', 'x')").await;
    let layouts = std::collections::HashMap::from([(id("c"), layout("t", &["id"], &["a"]))]);
    let store = SqliteRows::open_with(file.path(), layouts, Duration::from_millis(200)).await.unwrap();
    file.run("BEGIN EXCLUSIVE").await;
    let locked = store.swap(&id("c"), vec![swap("a", "a", "x", "y")]).await.unwrap_err();
    assert!(locked.is_retryable() && locked.to_string().ends_with("another process holds its lock"), "{locked}");
    let locked = store.scan(&id("c"), &"whole".parse().unwrap(), None, 10).await.unwrap_err();
    assert!(locked.is_retryable(), "{locked}");
    file.run("ROLLBACK").await;
    assert_eq!(store.swap(&id("c"), vec![swap("a", "a", "x", "y")]).await.unwrap(), [Swapped::Done]);
}

#[tokio::test]
async fn p02_a_file_that_was_deleted_or_replaced_is_an_error_and_never_an_empty_list() {
    for replace in [true, false] {
        let file = File::new("CREATE TABLE t (id TEXT PRIMARY KEY, a TEXT); INSERT INTO t VALUES ('a', 'x')").await;
        let store = open(&file.address(), layout("t", &["id"], &["a"])).await.unwrap();
        assert_eq!(scan_all(&*store, &id("c"), 10).await.records.len(), 1);
        std::fs::rename(file.path(), file.folder.path().join("moved")).unwrap();
        if replace {
            std::fs::write(file.path(), "").unwrap();
        }
        assert!(store.scan(&id("c"), &"whole".parse().unwrap(), None, 10).await.is_err());
        assert!(store.read(&id("c"), &RecordKey::new("a").unwrap()).await.is_err());
        assert!(store.swap(&id("c"), vec![swap("a", "a", "x", "y")]).await.is_err());
        assert!(store.estimate(&id("c")).await.is_err());
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_everything_stays_as_it_was() {
    let Some(disk) = SmallDisk::mount() else { return };
    let path = disk.0.path().join("app.db");
    let mut theirs = SqliteConnection::connect(&format!("sqlite://{}?mode=rwc", path.display())).await.unwrap();
    sqlx::raw_sql(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT);
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
         INSERT INTO t SELECT i, printf('%.500c', 'x') FROM n",
    )
    .execute(&mut theirs)
    .await
    .unwrap();
    let store = open(&format!("sqlite:{}", path.display()), layout("t", &["id"], &["a"])).await.unwrap();
    let (old, new) = ("x".repeat(500), "y".repeat(5000));
    let grow = (1..=400).map(|n| swap(&n.to_string(), "a", &old, &new)).collect();
    let full = store.swap(&id("c"), grow).await.unwrap_err();
    assert!(matches!(full, StoreError::Full { .. }), "{full}");
    let page = scan_all(&*store, &id("c"), 100).await;
    assert!(page.records.len() == 400 && page.records.iter().all(|r| cells(&r.cells) == [format!("a={old}")]));
    assert_eq!(store.swap(&id("c"), vec![swap("1", "a", &old, "z")]).await.unwrap(), [Swapped::Done]);
    let sound: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut theirs).await.unwrap();
    assert_eq!(sound, "ok");
}

#[tokio::test]
async fn our_own_store_works_on_after_the_disk_was_full() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = SqliteStore::open(disk.0.path().join("keyfold.db"), OpenMode::Create).await.unwrap();
    let old = "x".repeat(500);
    let new = |n: u32| NewRecord { key: RecordKey::new(n.to_string()).unwrap(), doc: CellValue::text(old.clone()) };
    store.insert(&id("c"), (1..=400).map(new).collect(), OnExisting::Fail).await.unwrap();
    let large = "y".repeat(5000);
    for _ in 0..3 {
        let grow = (1..=400).map(|n| swap(&n.to_string(), "doc", &old, &large)).collect();
        let full = store.swap(&id("c"), grow).await.unwrap_err();
        assert!(matches!(full, StoreError::Full { .. }), "{full}");
        assert_eq!(
            store.put("document", &vec![0; 2 << 20], Expect::Any, None).await.unwrap_err().to_string(),
            full.to_string()
        );
    }
    assert_eq!(store.swap(&id("c"), vec![swap("1", "doc", &old, "z")]).await.unwrap(), [Swapped::Done]);
    store.put("document", b"small", Expect::Any, None).await.unwrap();
    assert_eq!(scan_all(&store, &id("c"), 100).await.records.len(), 400);
}

/// A file system of one mebibyte. It takes root's rights, and is not run without them.
struct SmallDisk(TempDir);

impl SmallDisk {
    #[allow(clippy::print_stderr, reason = "what is not run says so")]
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = command("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs"], folder.path());
        if !mounted {
            let required = std::env::var_os("KEYFOLD_TEST_REQUIRE").is_some_and(|value| value == "all");
            assert!(!required, "a small file system cannot be mounted, and KEYFOLD_TEST_REQUIRE=all");
            eprintln!("not run: a full disk, since a small file system cannot be mounted by this user");
            return None;
        }
        Some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        command("umount", &["-l"], self.0.path());
    }
}

fn command(program: &str, arguments: &[&str], path: &Path) -> bool {
    let run =
        std::process::Command::new(program).args(arguments).arg(path).stderr(std::process::Stdio::null()).status();
    run.is_ok_and(|status| status.success())
}
