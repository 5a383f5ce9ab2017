//! The yardstick: the same rows, written by nobody in particular.

use std::{fmt::Write as _, path::Path, time::Instant};

use sqlx::{
    AssertSqlSafe, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::BATCH;

/// Rows to a statement, as the store has them. One to a statement would be an easier mark.
const ROWS: usize = 32;

/// How rows are written.
#[derive(Clone, Copy)]
pub(crate) enum Plain {
    Insert,
    Update,
}

/// Writes every document of `wanted.db` into `keyfold.db`.
pub(crate) async fn write(folder: &Path, how: Plain) -> f64 {
    let options = |name: &str| {
        SqliteConnectOptions::new()
            .filename(folder.join(name))
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("secure_delete", "ON")
    };
    let mut wanted = SqliteConnection::connect_with(&options("wanted.db")).await.unwrap();
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT id, doc FROM records WHERE collection = 'apps' ORDER BY id")
            .fetch_all(&mut wanted)
            .await
            .unwrap();
    let mut store = SqliteConnection::connect_with(&options("keyfold.db")).await.unwrap();
    let began = Instant::now();
    for batch in rows.chunks(BATCH) {
        let mut tx = store.begin_with("BEGIN IMMEDIATE").await.unwrap();
        for rows in batch.chunks(ROWS) {
            let mut query = sqlx::query(AssertSqlSafe(statement(how, rows.len())));
            for (id, doc) in rows {
                query = query.bind(id).bind(doc);
            }
            assert_eq!(query.execute(&mut *tx).await.unwrap().rows_affected(), rows.len() as u64);
        }
        tx.commit().await.unwrap();
    }
    let seconds = began.elapsed().as_secs_f64();
    store.close().await.unwrap();
    seconds
}

fn statement(how: Plain, rows: usize) -> String {
    let mut values = String::new();
    for row in 0..rows {
        write!(values, "{}(?{}, ?{})", if row == 0 { "" } else { ", " }, row * 2 + 1, row * 2 + 2).unwrap();
    }
    match how {
        Plain::Insert => format!(
            "INSERT INTO records (collection, revision, id, doc)
             SELECT 'apps', 1, column1, column2 FROM (VALUES {values})"
        ),
        Plain::Update => format!(
            "UPDATE records SET doc = v.column2, revision = 2 FROM (VALUES {values}) AS v
             WHERE collection = 'apps' AND id = v.column1"
        ),
    }
}
