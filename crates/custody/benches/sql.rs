//! What swaps of rows cost beside the same rows written plainly.
//!
//! `cargo bench -p keyfold-custody --bench sql --features conformance`; `KEYFOLD_BENCH_RECORDS` (50000).
//!
//! Per database: one table with a composite key and two columns of about the size of sealed values. The yardstick is a batch of
//! unconditional `UPDATE … FROM` with the same driver, rows to a statement and transaction size; the swaps also compare the
//! old values and say which rows they changed. Both write every row of the table, in turns.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot run says so")]
#![allow(clippy::print_stdout, clippy::cast_precision_loss, reason = "what it is for")]

#[path = "../tests/servers/mod.rs"]
mod servers;

use std::{collections::HashMap, fmt::Write as _, sync::Arc, time::Instant};

use keyfold_custody::{
    layout::place::{ColumnKind, Layout},
    store::{
        CellName, CellValue, CollectionId, RecordKey, RecordStore, Swap, Swapped,
        sql::{self, SqlAddress},
    },
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};

/// Records in a transaction, as the command line has them.
const BATCH: usize = 500;
/// Rows to a statement in SQLite.
const CHUNK: usize = 32;
const ROUNDS: usize = 3;
const MAKE: &str =
    "CREATE TABLE t (tenant text NOT NULL, id bigint NOT NULL, a text, b text, note text, PRIMARY KEY (tenant, id))";

fn records() -> usize {
    std::env::var("KEYFOLD_BENCH_RECORDS")
        .map_or(50_000, |text| text.parse().expect("KEYFOLD_BENCH_RECORDS is a number"))
}

fn value(n: usize, round: usize) -> String {
    format!("kf1.{n:08}.{round:03}.{}", "x".repeat(240))
}

fn tenant(n: usize) -> String {
    // In the order of the key, as a scan gives them.
    format!("tenant {}", n * 10 / records())
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!("{} rows, two cells each, {BATCH} rows to a transaction; rows per second", records());
    runtime.block_on(async {
        if let Some(server) = servers::postgres::Postgres::start() {
            let mut theirs = server.raw().await;
            sqlx::raw_sql(MAKE).execute(&mut theirs).await.unwrap();
            for first in (0..records()).step_by(BATCH) {
                plain_postgres(&mut theirs, first, 0, true).await;
            }
            sqlx::raw_sql("VACUUM ANALYZE t").execute(&mut theirs).await.unwrap();
            let store = open(&server.address()).await;
            for round in 0..ROUNDS {
                let began = Instant::now();
                for first in (0..records()).step_by(BATCH) {
                    plain_postgres(&mut theirs, first, 2 * round + 1, false).await;
                }
                let plain = began.elapsed().as_secs_f64();
                shown("PostgreSQL", plain, swaps(&store, 2 * round + 1).await);
                sqlx::raw_sql("VACUUM t").execute(&mut theirs).await.unwrap();
            }
            scan("PostgreSQL", &store).await;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.db");
        let url = format!("sqlite://{}?mode=rwc", file.display());
        let mut theirs = SqliteConnection::connect(&url).await.unwrap();
        sqlx::raw_sql("PRAGMA journal_mode = wal; PRAGMA secure_delete = ON").execute(&mut theirs).await.unwrap();
        sqlx::raw_sql(MAKE).execute(&mut theirs).await.unwrap();
        for first in (0..records()).step_by(BATCH) {
            plain_sqlite(&mut theirs, first, 0, true).await;
        }
        let store = open(&format!("sqlite:{}", file.display())).await;
        for round in 0..ROUNDS {
            let began = Instant::now();
            for first in (0..records()).step_by(BATCH) {
                plain_sqlite(&mut theirs, first, 2 * round + 1, false).await;
            }
            let plain = began.elapsed().as_secs_f64();
            shown("SQLite", plain, swaps(&store, 2 * round + 1).await);
        }
        scan("SQLite", &store).await;
    });
}

fn shown(database: &str, plain: f64, swaps: f64) {
    let rate = |seconds: f64| records() as f64 / seconds;
    println!("{database:<12} plain {:>8.0}   swap {:>8.0}   ratio {:.2}", rate(plain), rate(swaps), plain / swaps);
}

fn collection() -> CollectionId {
    CollectionId::new("c").unwrap()
}

async fn open(address: &str) -> Arc<dyn RecordStore> {
    let address: SqlAddress = address.parse().unwrap();
    let columns = [("a".into(), ColumnKind::Text), ("b".into(), ColumnKind::Text)].into();
    let key = vec!["tenant".into(), "id".into()];
    let layout = Layout::SqlColumns { table: "t".into(), key, columns, legacy: None };
    sql::connect(&address, HashMap::from([(collection(), layout)])).await.unwrap()
}

/// Swaps every row from one round's values to the next's; gives the seconds.
async fn swaps(store: &Arc<dyn RecordStore>, from: usize) -> f64 {
    let mut seconds = 0.0;
    for first in (0..records()).step_by(BATCH) {
        let mut batch = Vec::with_capacity(2 * BATCH);
        for n in first..records().min(first + BATCH) {
            let key = RecordKey::new(serde_json::json!([tenant(n), n]).to_string()).unwrap();
            for cell in ["a", "b"] {
                let cell = CellName::new(cell).unwrap();
                let (old, new) = (CellValue::text(value(n, from)), CellValue::text(value(n, from + 1)));
                batch.push(Swap { key: key.clone(), cell, old, new });
            }
        }
        let began = Instant::now();
        let done = store.swap(&collection(), batch).await.unwrap();
        seconds += began.elapsed().as_secs_f64();
        assert!(done.iter().all(|swapped| *swapped == Swapped::Done));
    }
    seconds
}

async fn scan(database: &str, store: &Arc<dyn RecordStore>) {
    let began = Instant::now();
    let mut seen = 0;
    for partition in store.partitions(&collection()).await.unwrap() {
        let mut after = None;
        loop {
            let page = store.scan(&collection(), &partition, after.as_ref(), BATCH).await.unwrap();
            seen += page.records.len();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    assert_eq!(seen, records());
    println!("{database:<12} scan  {:>8.0}", seen as f64 / began.elapsed().as_secs_f64());
}

async fn plain_postgres(theirs: &mut PgConnection, first: usize, round: usize, insert: bool) {
    let rows: Vec<usize> = (first..records().min(first + BATCH)).collect();
    let text = if insert {
        "INSERT INTO t SELECT v.tenant, v.id, v.a, v.a, 'note' FROM unnest($1::text[], $2::int8[], $3::text[]) AS v (tenant, id, a)"
    } else {
        "UPDATE t SET a = v.a, b = v.a FROM unnest($1::text[], $2::int8[], $3::text[]) AS v (tenant, id, a)
         WHERE t.tenant = v.tenant AND t.id = v.id"
    };
    let ids: Vec<i64> = rows.iter().map(|n| i64::try_from(*n).unwrap()).collect();
    sqlx::query(text)
        .bind(rows.iter().map(|n| tenant(*n)).collect::<Vec<_>>())
        .bind(ids)
        .bind(rows.iter().map(|n| value(*n, round)).collect::<Vec<_>>())
        .execute(theirs)
        .await
        .unwrap();
}

async fn plain_sqlite(theirs: &mut SqliteConnection, first: usize, round: usize, insert: bool) {
    let rows: Vec<usize> = (first..records().min(first + BATCH)).collect();
    let mut tx = theirs.begin_with("BEGIN IMMEDIATE").await.unwrap();
    for chunk in rows.chunks(CHUNK) {
        let mut values = String::new();
        for n in 0..chunk.len() {
            let _ =
                write!(values, "{}(?{}, ?{}, ?{})", if n == 0 { "" } else { ", " }, 3 * n + 1, 3 * n + 2, 3 * n + 3);
        }
        let text = if insert {
            format!("INSERT INTO t SELECT column1, column2, column3, column3, 'note' FROM (VALUES {values})")
        } else {
            format!(
                "UPDATE t SET a = v.column3, b = v.column3 FROM (VALUES {values}) AS v
                 WHERE t.tenant = v.column1 AND t.id = v.column2"
            )
        };
        let mut query = sqlx::query(AssertSqlSafe(text));
        for n in chunk {
            query = query.bind(tenant(*n)).bind(i64::try_from(*n).unwrap()).bind(value(*n, round));
        }
        query.execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
}
