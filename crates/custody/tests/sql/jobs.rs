//! Jobs on another program's tables.

use std::sync::Arc;

use keyfold_core::{envelope::Format, rewrap::How};
use keyfold_custody::{
    config::Config,
    jobs::{Ended, Job, Kind, Silent, Summary},
    preset::Preset,
    store::{RecordStore, sql},
};
use sqlx::{Connection as _, Row as _, SqliteConnection};

use crate::{
    common::{self, Process, permit},
    foreign::{cells, scan_all},
    servers::postgres::Postgres,
};

/// The example of the guide, without the schema that SQLite does not have.
fn example(schema: &str) -> Config {
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configure.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let block = guide.split("```toml\n").find(|block| block.contains("sql-columns")).unwrap();
    let block = block.split("```").next().unwrap();
    assert!(block.lines().count() <= 10, "ten lines are enough");
    Config::parse(&block.replace("public.", schema)).unwrap()
}

async fn run(process: &Process, job: Job) -> Summary {
    let collection = process.custody.collection("users").unwrap();
    match process.custody.run(&permit(), &job, collection, &Silent::default()).await.unwrap() {
        Ended::Done(summary) => summary,
        Ended::Stopped(_) => panic!("nobody stopped it"),
    }
}

/// Migrates and rotates the users, and gives the store to look at.
async fn migrate_and_rotate(address: &str, config: Config) -> Arc<dyn RecordStore> {
    let folder = common::folder();
    common::init(folder.path()).await;
    let mut process = Process::after_the_others(folder.path()).await;
    let users = config.collection("users").unwrap();
    let (c, layout) = (users.id.clone(), users.layout.clone());
    let store = sql::connect(&address.parse().unwrap(), [(c.clone(), layout)].into()).await.unwrap();
    process.custody.foreign.insert(c.clone(), Arc::clone(&store));
    process.custody.config = config;

    let dry = run(&process, Job { dry_run: true, ..Job::new(Kind::Migrate) }).await;
    let plain = scan_all(&*store, &c, 100).await;
    assert!(cells(&plain.records[0].cells)[0].starts_with("api_token=token "), "a dry run changes nothing");
    let migrated = run(&process, Job { batch: 7, ..Job::new(Kind::Migrate) }).await;
    assert!(migrated.is_clean() && dry.is_clean());
    assert_eq!((migrated.changed, dry.changed), (50, 50));
    let sealed = scan_all(&*store, &c, 100).await;
    let rotated = run(&process, Job { how: How::Reseal, batch: 7, ..Job::new(Kind::Rotate) }).await;
    assert_eq!(rotated.changed, 50);
    let resealed = scan_all(&*store, &c, 100).await;
    for (before, after) in sealed.records.iter().zip(&resealed.records) {
        for (before, after) in before.cells.iter().zip(&after.cells) {
            let both = [before, after].map(|cell| cell.value.as_str().unwrap());
            assert!(both[0] != both[1] && both.iter().all(|text| text.contains("kf1") && !text.contains("hunter")));
        }
    }
    let verified = run(&process, Job::new(Kind::Verify)).await;
    assert!(verified.is_clean() && verified.records == 50, "{verified:?}");
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_users_in_the_guide_migrates_and_rotates_in_postgresql() {
    let Some(server) = Postgres::start() else { return };
    server
        .run_sql(
            r#"CREATE TABLE users (tenant text, id bigint, api_token text, settings jsonb, name text, changed timestamptz DEFAULT now(),
                   PRIMARY KEY (tenant, id));
               INSERT INTO users SELECT 'it''s ' || n % 3, n, 'token ' || n,
                   jsonb_build_object('smtp', jsonb_build_object('password', 'hunter' || n, 'port', 25), 'rate', 2.50), 'n' || n
               FROM generate_series(1, 50) n"#,
        )
        .await;
    let rest = "SELECT string_agg(concat_ws(' ', tenant, id, settings #- '{smtp,password}', name, changed, xmin = xmax), ',' ORDER BY tenant, id) FROM users";
    let mut theirs = server.raw().await;
    let before: String = sqlx::query(rest).fetch_one(&mut theirs).await.unwrap().get(0);
    migrate_and_rotate(&server.address(), example("public.")).await;
    let after: String = sqlx::query(rest).fetch_one(&mut theirs).await.unwrap().get(0);
    assert_eq!(after, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_users_in_the_guide_migrates_and_rotates_in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.db");
    let mut theirs = SqliteConnection::connect(&format!("sqlite://{}?mode=rwc", file.display())).await.unwrap();
    sqlx::raw_sql(
        r#"CREATE TABLE users (tenant TEXT, id INTEGER, api_token TEXT, settings TEXT, name TEXT, changed REAL DEFAULT 1.5,
               PRIMARY KEY (tenant, id));
           WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)
           INSERT INTO users SELECT 'it''s ' || i % 3, i, 'token ' || i,
               '{ "rate":2.50, "smtp": {"port":1e3, "password":"hunter' || i || '"} ,"rate":1}', 'n' || i, i * 1.5 FROM n"#,
    )
    .execute(&mut theirs)
    .await
    .unwrap();
    migrate_and_rotate(&format!("sqlite:{}", file.display()), example("")).await;
    let rows: Vec<(String, i64, String, f64)> =
        sqlx::query_as("SELECT name, id, settings, changed FROM users ORDER BY id")
            .fetch_all(&mut theirs)
            .await
            .unwrap();
    assert_eq!(rows.len(), 50);
    for (n, (name, id, settings, changed)) in (1..).zip(rows) {
        assert_eq!((name, id, changed), (format!("n{n}"), n, n as f64 * 1.5));
        let start = r#"{ "rate":2.50, "smtp": {"port":1e3, "password":"kf1."#;
        assert!(settings.starts_with(start) && settings.ends_with(r#""} ,"rate":1}"#), "{settings}");
    }
}

/// The tables as the agent framework makes them; `{json}` and `{time}` are the database's types.
const FRAMEWORK: &str = r#"
    CREATE TABLE sessions (app_name VARCHAR(128) NOT NULL, user_id VARCHAR(128) NOT NULL, id VARCHAR(128) NOT NULL,
        state {json} NOT NULL, create_time {time} NOT NULL, update_time {time} NOT NULL, event_sequence INTEGER NOT NULL,
        PRIMARY KEY (app_name, user_id, id));
    CREATE TABLE events (id VARCHAR(128) NOT NULL, app_name VARCHAR(128) NOT NULL, user_id VARCHAR(128) NOT NULL,
        session_id VARCHAR(128) NOT NULL, invocation_id VARCHAR(256) NOT NULL, timestamp {time} NOT NULL, event_data {json},
        PRIMARY KEY (id, app_name, user_id, session_id),
        FOREIGN KEY (app_name, user_id, session_id) REFERENCES sessions (app_name, user_id, id) ON DELETE CASCADE);
    INSERT INTO sessions VALUES ('sre', 'ann@example.com', 's1',
        '{"_user_access_token": "ya29.ann", "_user_project_id": "p", "note": "caf\u00e9", "rate": 2.50}',
        '2026-11-01 10:00:00.123456', '2026-11-02 10:00:00.654321', 3);
    INSERT INTO sessions VALUES ('sre', 'bob@example.com', 's2', '{}', '2026-11-01 10:00:00', '2026-11-02 10:00:00', 0);
    INSERT INTO events VALUES ('e1', 'sre', 'ann@example.com', 's1', 'i1', '2026-11-01 10:00:00.1',
        '{"actions": {"state_delta": {"_user_access_token": "ya29.ann", "step": 1}, "artifact_delta": {}}, "author": "user"}');
    INSERT INTO events VALUES ('e2', 'sre', 'ann@example.com', 's1', 'i1', '2026-11-01 10:00:01', '{"actions": {"state_delta": {}}}');
    INSERT INTO events VALUES ('e3', 'sre', 'ann@example.com', 's1', 'i1', '2026-11-01 10:00:02', NULL);
"#;

/// All that is in the tables, as text.
const WHOLE: &str =
    "SELECT coalesce(state, '') || create_time || update_time || event_sequence FROM sessions WHERE id = 's1'
                     UNION ALL SELECT event_data || timestamp FROM events WHERE id = 'e1' ORDER BY 1";

/// Seals the tokens, moves them to a new key, and gives the texts of [`WHOLE`] before, in between and after.
async fn seal_and_rotate_tokens(address: &str, whole: impl AsyncFn() -> Vec<String>) -> [Vec<String>; 3] {
    let folder = common::folder();
    common::init(folder.path()).await;
    let mut process = Process::after_the_others(folder.path()).await;
    let today = keyfold_custody::preset::Wishes { today: jiff::civil::date(2027, 1, 15), extension_secrets: false };
    let of = |kind| Preset::AutoSre.collections(kind, today);
    let layouts = of(Kind::Verify).into_iter().map(|collection| (collection.id, collection.layout));
    let store = sql::connect(&address.parse().unwrap(), layouts.collect()).await.unwrap();
    for collection in of(Kind::Verify) {
        process.custody.foreign.insert(collection.id, Arc::clone(&store));
    }
    let all = async |kind| {
        let (mut changed, mut records) = (0, 0);
        for collection in of(kind) {
            let ended = process.custody.run(&permit(), &Job::new(kind), &collection, &Silent::default()).await.unwrap();
            let Ended::Done(summary) = ended else { panic!("nobody stopped it") };
            assert!(summary.is_clean(), "{:?}", summary.quarantined);
            changed += summary.changed;
            records += summary.records;
        }
        (changed, records)
    };
    let plain = whole().await;
    // The first key of its kind is primary at once.
    process.custody.create_key(&permit(), &[Format::Fernet]).await.unwrap();
    assert_eq!(all(Kind::Migrate).await.0, 2);
    let sealed = whole().await;
    let kid = process.custody.create_key(&permit(), &[Format::Fernet]).await.unwrap();
    process.custody.promote_key(&permit(), kid, common::SOON).await.unwrap();
    assert_eq!(all(Kind::Rotate).await.0, 2);
    let rotated = whole().await;
    assert_eq!(all(Kind::Verify).await, (0, 5));
    [plain, sealed, rotated]
}

fn check_tokens([plain, sealed, rotated]: &[Vec<String>; 3]) {
    let token = |text: &str| {
        let from = text.find("gAAAA").unwrap();
        text[from..].split('"').next().unwrap().to_owned()
    };
    for ((plain, sealed), rotated) in plain.iter().zip(sealed).zip(rotated) {
        let (before, after) = (token(sealed), token(rotated));
        assert_eq!(before[..12], after[..12], "p16: version and time of a token stay");
        assert_ne!(before, after);
        assert_eq!(sealed.replace(&before, "ya29.ann"), *plain, "nothing else changes");
        assert_eq!(rotated.replace(&after, "ya29.ann"), *plain, "nothing else changes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p16_tokens_of_the_agent_framework_move_to_a_new_key_with_their_times_in_postgresql() {
    let Some(server) = Postgres::start() else { return };
    server.run_sql(&FRAMEWORK.replace("{json}", "JSONB").replace("{time}", "TIMESTAMP")).await;
    let pool = sqlx::PgPool::connect(&server.address()).await.unwrap();
    let text = WHOLE.replace("coalesce(state, '')", "state::text").replace("event_data ||", "event_data::text ||");
    let texts = seal_and_rotate_tokens(&server.address(), async || {
        sqlx::query_scalar(sqlx::AssertSqlSafe(text.as_str())).fetch_all(&pool).await.unwrap()
    })
    .await;
    check_tokens(&texts);
}

#[tokio::test(flavor = "multi_thread")]
async fn p16_tokens_of_the_agent_framework_move_to_a_new_key_with_their_times_in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.db");
    let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}?mode=rwc", file.display())).await.unwrap();
    let make = FRAMEWORK.replace("{json}", "TEXT").replace("{time}", "DATETIME");
    sqlx::raw_sql(sqlx::AssertSqlSafe(make)).execute(&pool).await.unwrap();
    let texts = seal_and_rotate_tokens(&format!("sqlite:{}", file.display()), async || {
        sqlx::query_scalar(WHOLE).fetch_all(&pool).await.unwrap()
    })
    .await;
    check_tokens(&texts);
}

#[tokio::test(flavor = "multi_thread")]
async fn p03_a_server_restarted_during_a_job_costs_a_rerun_and_no_row() {
    disturbed(|server| {
        server.crash();
        server.run();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p03_connections_that_are_cut_during_a_job_cost_a_rerun_and_no_row() {
    disturbed(|server| {
        let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()";
        tokio::runtime::Handle::current().block_on(server.run_sql(others));
    })
    .await;
}

/// A job that something happens to, a little later each time, until it is faster; then everything is as it should be.
async fn disturbed(fault: fn(&mut Postgres)) {
    let Some(mut server) = Postgres::start() else { return };
    server
        .run_sql(
            "CREATE TABLE users (tenant text, id bigint, api_token text, settings jsonb, PRIMARY KEY (tenant, id));
             INSERT INTO users SELECT 't' || n % 3, n, 'token ' || n, '{\"smtp\": {\"password\": \"hunter2\"}}'
             FROM generate_series(1, 1000) n",
        )
        .await;
    let folder = common::folder();
    common::init(folder.path()).await;
    let mut process = Process::after_the_others(folder.path()).await;
    process.custody.config = example("public.");
    let users = process.custody.collection("users").unwrap();
    let (c, layout) = (users.id.clone(), users.layout.clone());
    let store = sql::connect(&server.address().parse().unwrap(), [(c.clone(), layout)].into()).await.unwrap();
    process.custody.foreign.insert(c, store);
    let job = Job { batch: 20, rate: std::num::NonZeroU32::new(1600), ..Job::new(Kind::Migrate) };
    let (mut broken, mut records) = (0, 0);
    for round in 0..60_u64 {
        let restart = tokio::task::spawn_blocking(move || {
            std::thread::sleep(std::time::Duration::from_millis(30 + 60 * round));
            fault(&mut server);
            server
        });
        let collection = process.custody.collection("users").unwrap();
        let ended = process.custody.run(&permit(), &job, collection, &Silent::default()).await;
        server = restart.await.unwrap();
        match ended {
            Ok(Ended::Done(summary)) => {
                records = summary.records;
                break;
            }
            Ok(Ended::Stopped(_)) => panic!("nobody stopped it"),
            Err(error) => {
                assert!(error.to_string().contains("is unavailable"), "{error}");
                broken += 1;
            }
        }
    }
    assert_eq!(records, 1000, "after {broken} faults");
    assert!(broken > 0, "the job was faster than the fault");
    // Where the last fault came after the job, its connections are of the server before.
    let mut verified = None;
    for _ in 0..5 {
        let collection = process.custody.collection("users").unwrap();
        match process.custody.run(&permit(), &Job::new(Kind::Verify), collection, &Silent::default()).await {
            Ok(Ended::Done(summary)) => verified = Some(summary),
            Ok(Ended::Stopped(_)) => panic!("nobody stopped it"),
            Err(error) => assert!(error.to_string().contains("is unavailable"), "{error}"),
        }
        if verified.is_some() {
            break;
        }
    }
    let verified = verified.unwrap();
    assert!(verified.is_clean() && verified.values == 2000, "{verified:?}");
    let rows =
        sqlx::query("SELECT api_token, settings::text FROM users").fetch_all(&mut server.raw().await).await.unwrap();
    assert_eq!(rows.len(), 1000);
    for row in rows {
        let both: [String; 2] = [row.get(0), row.get(1)];
        assert!(both.iter().all(|text| text.contains("kf1") && !text.contains("hunter2")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_see_other_parts_of_a_table_share_the_same_ones() {
    let Some(server) = Postgres::start() else { return };
    server
        .run_sql(
            "CREATE TABLE users (tenant text, id bigint, api_token text, settings jsonb, PRIMARY KEY (tenant, id));
             INSERT INTO users SELECT 't' || n % 3, n, 'token ' || n, NULL FROM generate_series(1, 30000) n; ANALYZE users",
        )
        .await;
    let folder = common::folder();
    common::init(folder.path()).await;
    let mut process = Process::after_the_others(folder.path()).await;
    process.custody.config = example("public.");
    let users = process.custody.collection("users").unwrap();
    let (c, layout) = (users.id.clone(), users.layout.clone());
    let store = sql::connect(&server.address().parse().unwrap(), [(c.clone(), layout)].into()).await.unwrap();
    process.custody.foreign.insert(c.clone(), Arc::clone(&store));
    // A job that is broken off at once, and one that goes on after the table was sampled anew: the parts stay, and so do its cursors.
    let stopped = Silent::default();
    stopped.0.store(true, std::sync::atomic::Ordering::Relaxed);
    let job = Job::new(Kind::Migrate);
    let collection = process.custody.collection("users").unwrap();
    let ended = process.custody.run(&permit(), &job, collection, &stopped).await.unwrap();
    assert!(matches!(ended, Ended::Stopped(_)));
    let noted = async || {
        let docs = process.custody.system.list(&format!("job/{}@", c.as_str()), None, 1000).await.unwrap();
        let (_, run) = docs.iter().find(|(key, _)| key.matches('/').count() == 1).unwrap();
        serde_json::from_slice::<serde_json::Value>(&run.value).unwrap()["partitions"].clone()
    };
    let first = noted().await;
    assert!(first.as_array().unwrap().len() > 1, "{first}");
    server.run_sql("DELETE FROM users WHERE id % 4 <> 0 OR tenant = 't0'; ANALYZE users").await;
    let fresh = store.partitions(&c).await.unwrap();
    assert_ne!(serde_json::to_value(&fresh).unwrap(), first, "the table is parted otherwise now");
    let migrated = run(&process, job).await;
    assert!(migrated.is_clean() && migrated.records == migrated.changed, "{migrated:?}");
    assert_eq!(noted().await, first);
}
