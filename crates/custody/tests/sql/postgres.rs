//! What PostgreSQL has that others do not: types, schemas, roles, TLS, and a server that stops.

use std::collections::BTreeSet;

use keyfold_core::error::Hint as _;
use keyfold_custody::store::{RecordKey, StoreError, Swapped};
use sqlx::Row as _;

use crate::{
    foreign::{cells, id, keys_and_oddities, layout, open, scan_all, swap},
    servers::postgres::Postgres,
};

async fn error(address: &str, layout: keyfold_custody::layout::place::Layout) -> StoreError {
    open(address, layout).await.err().expect("it opened")
}

#[tokio::test]
async fn only_the_swapped_columns_change_and_text_and_json_keep_their_bytes() {
    let Some(server) = Postgres::start() else { return };
    server
        .run_sql(
            r#"CREATE TABLE "Us ers" (tenant text, id bigint, token text, api_key varchar(99), settings json, state jsonb,
                    note text, seen timestamptz DEFAULT now(), PRIMARY KEY (id, tenant));
               INSERT INTO "Us ers" VALUES ('it''s', 7, 'old-token', 'old-key', '{ "b":1e3, "a": 2.50,"b": 1 }',
                    '{"b":1e3, "a": 2.50}', 'note', '2020-01-02 03:04:05.678901+00');"#,
        )
        .await;
    let columns = ["token", "api_key", "settings:json", "state:jsonb"];
    let store = open(&server.address(), layout("\"Us ers\"", &["tenant", "id"], &columns)).await.unwrap();
    let page = scan_all(&*store, &id("c"), 10).await;
    let key = r#"["it's",7]"#;
    assert_eq!(page.records[0].key.as_str(), key);
    assert_eq!(
        cells(&page.records[0].cells),
        [
            "api_key=old-key",
            r#"settings={ "b":1e3, "a": 2.50,"b": 1 }"#,
            r#"state={"a": 2.50, "b": 1000}"#,
            "token=old-token"
        ]
    );
    let before: String = row(&server).await;
    let swaps = vec![
        swap(key, "token", "old-token", "new-token"),
        swap(key, "settings", r#"{ "b":1e3, "a": 2.50,"b": 1 }"#, r#"{ "b":1e3, "a": "x","b": 1 }"#),
        swap(key, "state", r#"{"a": 2.50, "b": 1000}"#, r#"{"a": "x", "b": 1000}"#),
        swap(key, "api_key", "another", "new-key"),
    ];
    use Swapped::{Changed, Done};
    assert_eq!(store.swap(&id("c"), swaps).await.unwrap(), [Done, Done, Done, Changed]);
    let after = before
        .replace("old-token", "new-token")
        .replace(r#""b":1e3, "a": 2.50"#, r#""b":1e3, "a": "x""#)
        .replace(r#"{"a": 2.50, "b""#, r#"{"a": "x", "b""#);
    assert_eq!(row(&server).await, after);
}

/// The one row of that table, as text.
async fn row(server: &Postgres) -> String {
    let text = r#"SELECT concat_ws(' | ', tenant, id, token, api_key, settings, state, note, seen) FROM "Us ers""#;
    sqlx::query(text).fetch_one(&mut server.raw().await).await.unwrap().get(0)
}

#[tokio::test]
async fn a_cell_that_is_null_is_missing_and_gone_for_a_swap() {
    let Some(server) = Postgres::start() else { return };
    server.run_sql("CREATE TABLE t (id int PRIMARY KEY, a text, b text); INSERT INTO t VALUES (1, NULL, 'b')").await;
    let store = open(&server.address(), layout("t", &["id"], &["a", "b"])).await.unwrap();
    let record = store.read(&id("c"), &RecordKey::new("1").unwrap()).await.unwrap().unwrap();
    assert_eq!(cells(&record.cells), ["b=b"]);
    let swaps = vec![swap("1", "a", "x", "y"), swap("1", "b", "b", "c"), swap("2", "a", "x", "y")];
    use Swapped::{Done, Gone};
    assert_eq!(store.swap(&id("c"), swaps).await.unwrap(), [Gone, Done, Gone]);
    for bad in ["x", "1.5", "", "99999999999999999999"] {
        let Ok(key) = RecordKey::new(bad) else { continue };
        let error = store.read(&id("c"), &key).await.unwrap_err();
        assert_eq!(error.to_string(), format!("`{bad}` is no key of `t`, which is a value of `id`"));
    }
    assert!(store.read(&id("c"), &RecordKey::new("01").unwrap()).await.unwrap().is_none(), "one record has one key");
}

#[tokio::test]
async fn keys_of_every_type_come_back_as_they_are() {
    let Some(server) = Postgres::start() else { return };
    let keys = [
        ("uuid", "'0188d4c1-9c3a-7000-8000-000000000001'", "0188d4c1-9c3a-7000-8000-000000000001"),
        ("bigint", "-9223372036854775808", "-9223372036854775808"),
        ("smallint", "7", "7"),
        ("numeric", "1.50", "1.50"),
        ("bytea", "'\\x00ff41'", "\\x00ff41"),
        ("timestamptz", "'2026-01-02 03:04:05.678901+02'", "2026-01-02 01:04:05.678901+00"),
        ("date", "'2026-01-02'", "2026-01-02"),
        ("boolean", "true", "true"),
        ("double precision", "0.1", "0.1"),
        ("char(5)", "'ab'", "ab"),
        ("varchar(3)", "'a%4'", "a%4"),
        ("text", "'a%41'", "a%2541"),
        ("inet", "'10.0.0.1'", "10.0.0.1/32"),
        ("interval", "'1 day 2 hours'", "P1DT2H"),
        ("mood", "'so so'", "so so"),
        ("short", "'abc'", "abc"),
    ];
    server.run_sql("CREATE TYPE mood AS ENUM ('so so'); CREATE DOMAIN short AS varchar(3) CHECK (VALUE <> '')").await;
    for (kind, value, spelled) in keys {
        server
            .run_sql(&format!(
                "DROP TABLE IF EXISTS t; CREATE TABLE t (a text, id {kind} PRIMARY KEY, n int DEFAULT 5);
                 ALTER TABLE t ADD UNIQUE (n, id); INSERT INTO t VALUES ('old', {value})"
            ))
            .await;
        let store = open(&server.address(), layout("t", &["id"], &["a"])).await.unwrap();
        let page = scan_all(&*store, &id("c"), 1).await;
        assert_eq!(keys_and_oddities(&page), (vec![spelled], vec![]), "{kind}");
        let cursor = store.scan(&id("c"), &"whole".parse().unwrap(), None, 1).await.unwrap().next;
        let rest = store.scan(&id("c"), &"whole".parse().unwrap(), cursor.as_ref(), 1).await.unwrap();
        assert!(rest.records.is_empty(), "{kind}");
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
    let Some(server) = Postgres::start() else { return };
    server
        .run_sql(
            "CREATE TABLE events (id text PRIMARY KEY, actions bytea, token text);
             INSERT INTO events VALUES ('a', NULL, 'x'), ('b', '\\x80049541', 'x'), ('', NULL, 'x'),
                 ('large', NULL, repeat('x', 17000000)), (repeat('k', 5000), NULL, 'x'), ('c', NULL, 'x')",
        )
        .await;
    let store = open(&server.address(), layout("events", &["id"], &["actions", "token"])).await.unwrap();
    for limit in [1, 2, 100] {
        let mut page = scan_all(&*store, &id("c"), limit).await;
        page.odd.sort_by(|a, b| a.what.cmp(&b.what));
        let (keys, odd) = keys_and_oddities(&page);
        assert_eq!(keys, ["a", "c"], "{limit}");
        assert!(odd[0].contains("1 rows of `events` have keys of more than 2700 bytes"), "{odd:?}");
        assert_eq!(odd[1], ": a record key is empty");
        assert_eq!(odd[2], "b: column `actions` holds bytes, such as a pickled object, and no text");
        assert_eq!(odd[3], "large: column `token` holds 17000000 bytes, at most 16777216 are read");
        assert_eq!(odd.len(), 4, "{odd:?}");
    }
    let error = store.swap(&id("c"), vec![swap("b", "actions", "x", "y")]).await.unwrap_err();
    assert!(matches!(error, StoreError::InvalidArgument { .. }), "{error}");
}

#[tokio::test]
async fn every_mistake_of_a_layout_is_told_at_once_with_the_names_that_exist() {
    let Some(server) = Postgres::start() else { return };
    server
        .run_sql(
            "CREATE TABLE users (id bigint PRIMARY KEY, mail text UNIQUE, token text, age int, state jsonb,
                 twice text GENERATED ALWAYS AS (token || token) STORED);
             CREATE SCHEMA other; CREATE TABLE other.things (id int); CREATE VIEW seen AS SELECT * FROM users;
             CREATE TABLE parent (id int PRIMARY KEY, a text); CREATE TABLE child () INHERITS (parent)",
        )
        .await;
    let said = async |layout| error(&server.address(), layout).await.to_string();
    let start =
        format!("the PostgreSQL database postgres at 127.0.0.1:{} is not laid out as configured: ", server.port);
    let text = said(layout("Users", &["id"], &["token"])).await;
    assert_eq!(
        text,
        format!("{start}collection `c`: there is no table `Users`; there are child, parent, users, other.things")
    );
    let text = said(layout("users", &["nr"], &["tokens", "age", "twice", "state:json", "mail"])).await;
    for says in [
        "table `users` has no column `nr`; it has id, mail, token, age, state, twice",
        "table `users` has no column `tokens`; it has",
        "column `age` is integer; secrets are text, json or jsonb",
        "column `twice` is computed by the database",
        "column `state` is jsonb, which keeps values and no bytes; declare it as \"jsonb\"",
    ] {
        assert!(text.contains(says), "{says}\n{text}");
    }
    let text = said(layout("users", &["token", "id"], &["state:jsonb"])).await;
    assert!(text.ends_with("no primary or unique key of `users` is (token, id); there are: id, mail"), "{text}");
    let text = said(layout("users", &["mail"], &["token"])).await;
    assert!(text.ends_with("key column `mail` may be null, so it does not name every row"), "{text}");
    assert!(said(layout("users", &["id"], &["id"])).await.contains("`id` is part of the key"));
    assert!(said(layout("seen", &["id"], &["token"])).await.contains("is a view"));
    assert!(said(layout("parent", &["id"], &["a"])).await.contains("other tables inherit from `parent`"));
    assert!(error(&server.address(), layout("a.b.c", &["id"], &["x"])).await.to_string().contains("SCHEMA.TABLE"));
}

#[tokio::test]
async fn a_large_table_is_split_into_ranges_that_are_the_table_together() {
    let Some(server) = Postgres::start() else { return };
    server
        .run_sql(
            "CREATE TABLE s (app text, person text, id text, a text, PRIMARY KEY (app, person, id));
             INSERT INTO s SELECT 'app, one', 'user ' || n % 997 || repeat('é', 40), 'id ' || n, 'x' FROM generate_series(1, 60000) n;
             ANALYZE s",
        )
        .await;
    let store = open(&server.address(), layout("s", &["app", "person", "id"], &["a"])).await.unwrap();
    let about = store.estimate(&id("c")).await.unwrap().unwrap();
    assert!((50_000..70_000).contains(&about), "{about}");
    let partitions = store.partitions(&id("c")).await.unwrap();
    assert!((4..=16).contains(&partitions.len()), "{partitions:?}");
    let (mut seen, mut largest) = (BTreeSet::new(), 0);
    for partition in &partitions {
        let (mut after, mut here) = (None, 0);
        loop {
            let page = store.scan(&id("c"), partition, after.as_ref(), 5000).await.unwrap();
            here += page.records.len();
            for record in page.records {
                assert!(seen.insert(record.key), "a record lies in two ranges");
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        largest = largest.max(here);
    }
    assert_eq!(seen.len(), 60_000);
    assert!(largest < 30_000, "one range has {largest} of 60000 records");
    assert_eq!(partitions, store.partitions(&id("c")).await.unwrap(), "asked again, it answers the same");
    let error = store.scan(&id("c"), &"x..y".parse().unwrap(), None, 1).await.unwrap_err();
    assert!(matches!(error, StoreError::InvalidArgument { .. }), "{error}");
}

#[tokio::test]
async fn a_wrong_password_a_missing_database_and_a_missing_right_are_told_apart() {
    let Some(server) = Postgres::start() else { return };
    server
        .run_sql(
            "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'x'), (2, 'y');
             CREATE ROLE reader LOGIN PASSWORD 'r'; GRANT SELECT ON t TO reader;
             CREATE ROLE nobody LOGIN PASSWORD 'n'",
        )
        .await;
    let at = |user: &str, database: &str| format!("postgres://{user}@127.0.0.1:{}/{database}", server.port);
    let one = || layout("t", &["id"], &["a"]);
    let wrong = error(&at("keyfold:hunter2", "postgres"), one()).await;
    assert!(wrong.to_string().contains("password authentication failed for user \"keyfold\""), "{wrong}");
    assert!(!format!("{wrong:?}").contains("hunter2"), "{wrong:?}");
    let missing = error(&server.address().replace("/postgres", "/nothing"), one()).await;
    assert!(missing.to_string().contains("database \"nothing\" does not exist"), "{missing}");
    let store = open(&at("reader:r", "postgres"), one()).await.unwrap();
    assert_eq!(scan_all(&*store, &id("c"), 10).await.records.len(), 2);
    let refused = store.swap(&id("c"), vec![swap("1", "a", "x", "z")]).await.unwrap_err();
    assert!(refused.to_string().ends_with("refused: permission denied for table t"), "{refused}");
    assert_eq!(refused.hint().unwrap(), "check the rights of the account that Keyfold uses");
    let store = open(&at("nobody:n", "postgres"), one()).await.unwrap();
    assert!(store.scan(&id("c"), &"whole".parse().unwrap(), None, 1).await.is_err());
    // A policy would hide rows; that is an error and no short list.
    server
        .run_sql("ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t FOR SELECT TO reader USING (id = 1)")
        .await;
    let store = open(&at("reader:r", "postgres"), one()).await.unwrap();
    let hidden = store.scan(&id("c"), &"whole".parse().unwrap(), None, 10).await.unwrap_err();
    assert!(hidden.to_string().contains("row-level security"), "{hidden}");
}

#[tokio::test]
async fn p45_tls_is_checked_and_its_failure_is_an_error() {
    let Some(server) = Postgres::with_tls() else { return };
    server.run_sql("CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    let one = || layout("t", &["id"], &["a"]);
    open(&server.checked(), one()).await.unwrap();
    let unknown = error(&format!("{}?sslmode=verify-full", server.address()), one()).await;
    assert!(unknown.to_string().contains("TLS failed"), "{unknown}");
    let other_name = error(&server.checked().replace("127.0.0.1", "localhost"), one()).await;
    assert!(other_name.to_string().contains("TLS failed"), "{other_name}");
    let plain = error(&format!("{}?sslmode=disable", server.address()), one()).await;
    assert!(matches!(plain, StoreError::Refused { .. }), "{plain}");
}

#[tokio::test]
async fn p02_a_server_that_stops_is_an_error_and_after_its_start_everything_is_there() {
    let Some(mut server) = Postgres::start() else { return };
    server
        .run_sql(
            "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t SELECT n, 'old' FROM generate_series(1, 900) n",
        )
        .await;
    let store = open(&server.address(), layout("t", &["id"], &["a"])).await.unwrap();
    let all = |old: &str, new: &str| (1..=900).map(|n| swap(&n.to_string(), "a", old, new)).collect::<Vec<_>>();
    assert_eq!(store.swap(&id("c"), all("old", "mid")).await.unwrap(), vec![Swapped::Done; 900]);
    server.crash();
    for error in [
        store.scan(&id("c"), &"whole".parse().unwrap(), None, 10).await.unwrap_err(),
        store.swap(&id("c"), all("mid", "new")).await.unwrap_err(),
        store.read(&id("c"), &RecordKey::new("1").unwrap()).await.unwrap_err(),
        store.estimate(&id("c")).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Unavailable { .. }) && error.is_retryable(), "{error}");
    }
    let refused = error(&server.address(), layout("t", &["id"], &["a"])).await;
    assert!(refused.to_string().ends_with("is unavailable: nobody listens there"), "{refused}");
    server.run();
    assert_eq!(store.swap(&id("c"), all("mid", "new")).await.unwrap(), vec![Swapped::Done; 900]);
    // Sessions that an operator ends: at most the first call on each fails.
    server.run_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'").await;
    let mut failed = 0;
    while let Err(error) = store.swap(&id("c"), all("new", "last")).await {
        assert!(error.is_retryable(), "{error}");
        failed += 1;
        assert!(failed < 10, "{error}");
    }
    let page = scan_all(&*store, &id("c"), 400).await;
    assert!(page.records.len() == 900 && page.records.iter().all(|record| cells(&record.cells) == ["a=last"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_lock_rows_crosswise_all_end_with_every_swap_judged() {
    let Some(server) = Postgres::start() else { return };
    server
        .run_sql(
            "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t SELECT n, '0' FROM generate_series(1, 200) n",
        )
        .await;
    let store = open(&server.address(), layout("t", &["id"], &["a"])).await.unwrap();
    let worker = |backwards: bool| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut won = vec![0u32; 200];
            for round in 0..20 {
                let page = scan_all(&*store, &id("c"), 1000).await;
                let mut swaps: Vec<_> = page
                    .records
                    .iter()
                    .map(|record| {
                        let old = record.cells[0].value.as_str().unwrap();
                        swap(record.key.as_str(), "a", old, &(old.parse::<u32>().unwrap() + 1).to_string())
                    })
                    .collect();
                if backwards == (round % 2 == 0) {
                    swaps.reverse();
                }
                let keys: Vec<usize> = swaps.iter().map(|swap| swap.key.as_str().parse().unwrap()).collect();
                for (key, swapped) in keys.iter().zip(store.swap(&id("c"), swaps).await.unwrap()) {
                    won[key - 1] += u32::from(swapped == Swapped::Done);
                }
            }
            won
        })
    };
    let workers = [worker(false), worker(true), worker(false)];
    let mut won = vec![0; 200];
    for worker in workers {
        for (sum, n) in won.iter_mut().zip(worker.await.unwrap()) {
            *sum += n;
        }
    }
    for record in scan_all(&*store, &id("c"), 1000).await.records {
        let n: usize = record.key.as_str().parse().unwrap();
        assert_eq!(cells(&record.cells), [format!("a={}", won[n - 1])], "each Done is one step, and no other is");
    }
}

#[tokio::test]
async fn a_value_that_is_longer_than_its_column_is_refused_and_nothing_of_the_batch_is_stored() {
    let Some(server) = Postgres::start() else { return };
    server
        .run_sql(
            "CREATE DOMAIN brief AS varchar(10);
             CREATE TABLE t (id int PRIMARY KEY, a varchar(10), b brief); INSERT INTO t VALUES (1, 'x', 'x'), (2, 'x', 'x')",
        )
        .await;
    let store = open(&server.address(), layout("t", &["id"], &["a", "b"])).await.unwrap();
    for column in ["a", "b"] {
        let batch = vec![swap("1", column, "x", "short"), swap("2", column, "x", "longer than ten")];
        let error = store.swap(&id("c"), batch).await.unwrap_err();
        assert!(error.to_string().contains("longer than its column allows"), "{error}");
    }
    let page = scan_all(&*store, &id("c"), 10).await;
    assert!(page.records.iter().all(|record| cells(&record.cells) == ["a=x", "b=x"]));
}
