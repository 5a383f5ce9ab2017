//! The audit log in PostgreSQL.

use keyfold_custody::{
    audit_log::{AuditSink as _, conformance},
    store::{postgres::PostgresStore, sqlite::OpenMode},
};

use crate::{
    servers::postgres::Postgres,
    suite::{Bench, old_events_go_and_what_is_left_verifies, several_writers_are_anchored_and_told_in_order},
};

const EMPTY: &str = "TRUNCATE keyfold.audit_writers, keyfold.audit_lines, keyfold.audit_notes";

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_conforms_in_postgresql() {
    let Some(server) = Postgres::start() else { return };
    let place = PostgresStore::open(&server.address().parse().unwrap(), OpenMode::Create).await.unwrap().audit();
    conformance::suite(|| {
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(server.run_sql(EMPTY)));
        Bench::on(place.clone())
    })
    .await;
    server.run_sql(EMPTY).await;
    several_writers_are_anchored_and_told_in_order(&Bench::on(place.clone())).await;
    server.run_sql(EMPTY).await;
    old_events_go_and_what_is_left_verifies(&Bench::on(place)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p41_in_postgresql_a_dead_chain_is_anchored_and_what_is_taken_out_or_changed_is_named() {
    let Some(server) = Postgres::start() else { return };
    let place = PostgresStore::open(&server.address().parse().unwrap(), OpenMode::Create).await.unwrap().audit();
    let bench = Bench::on(place);
    let dead = bench.writer();
    let _proof = dead.append(&[conformance::event(1), conformance::event(2)]).await.unwrap();
    drop(dead);
    server.run_sql("UPDATE keyfold.audit_writers SET ends = clock_timestamp()").await;
    let next = bench.writer();
    let _proof = next.append(&[conformance::event(3)]).await.unwrap();
    next.close(1).await.unwrap();
    assert_eq!(bench.verdict().await, ("ok", 3, 2));
    server.run_sql("UPDATE keyfold.audit_lines SET line = replace(convert_from(line, 'UTF8'), 'open', 'seal')::bytea WHERE number = 1").await;
    assert_ne!(bench.verdict().await.0, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn p41_in_postgresql_a_checkpoint_that_was_taken_away_is_named_and_keeps_no_other_back() {
    let Some(server) = Postgres::start() else { return };
    let place = PostgresStore::open(&server.address().parse().unwrap(), OpenMode::Create).await.unwrap().audit();
    let bench = Bench::on(place);
    let sink = bench.writer();
    for n in 0..4 {
        let _proof = sink.append(&[conformance::event(n)]).await.unwrap();
        sink.checkpoint(1).await.unwrap();
        if n == 2 {
            server.run_sql("DELETE FROM keyfold.audit_notes WHERE number = 2").await;
        }
    }
    assert_eq!(bench.verdict().await, ("note_chain_broken", 4, 3));
    sink.close(1).await.unwrap();
}
