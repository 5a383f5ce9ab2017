//! The checks that every store passes, on both databases.

use keyfold_custody::store::conformance;
use sqlx::{PgPool, SqlitePool};

use crate::{
    foreign::{Owner, Tables},
    servers::postgres::Postgres,
};

async fn postgres(address: &str, column: &str, cell: &str, composite: bool) {
    let owner = Owner::Postgres(PgPool::connect(address).await.unwrap());
    let bench = Tables::make(address, owner, column, cell, composite).await;
    conformance::records::run_on(&bench).await;
}

async fn sqlite(column: &str, composite: bool, journal: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.db");
    let pool = SqlitePool::connect(&format!("sqlite://{}?mode=rwc", file.display())).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA journal_mode = {journal}"))).execute(&pool).await.unwrap();
    let bench =
        Tables::make(&format!("sqlite:{}", file.display()), Owner::Sqlite(pool.clone()), column, "text", composite)
            .await;
    conformance::records::run_on(&bench).await;
    let now: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&pool).await.unwrap();
    assert_eq!(now, journal, "the journal mode is the other program's");
}

#[tokio::test(flavor = "multi_thread")]
async fn text_columns_in_postgresql_conform() {
    let Some(server) = Postgres::start() else { return };
    postgres(&server.address(), "text", "text", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_composite_key_and_a_language_s_order_in_postgresql_conform() {
    let Some(server) = Postgres::start() else { return };
    postgres(&server.address(), "varchar(512) COLLATE \"und-x-icu\"", "varchar", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_over_tls_conforms() {
    let Some(server) = Postgres::with_tls() else { return };
    postgres(&server.checked(), "text", "text", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_columns_in_an_sqlite_file_conform() {
    sqlite("text", false, "delete").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_composite_key_in_an_sqlite_file_with_a_write_ahead_log_conforms() {
    sqlite("varchar(512)", true, "wal").await;
}
