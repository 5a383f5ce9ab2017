//! Records and documents of our own, in PostgreSQL.

use std::sync::Arc;

use keyfold_custody::store::{
    ChangeMark, CollectionId, Expect, OwnRecords as _, StoreError, SystemStore, conformance,
    postgres::{PostgresAddress, PostgresStore},
    sqlite::OpenMode,
};

use crate::servers::postgres::Postgres;

async fn open(server: &Postgres, mode: OpenMode) -> Result<PostgresStore, StoreError> {
    PostgresStore::open(&server.address().parse::<PostgresAddress>().unwrap(), mode).await
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_our_own_conform() {
    let Some(server) = Postgres::start() else { return };
    let store: conformance::Shared = Arc::new(open(&server, OpenMode::Create).await.unwrap());
    conformance::records::run_all(&store).await;
    conformance::own_records::run_all(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn system_documents_conform() {
    let Some(server) = Postgres::start() else { return };
    let store: conformance::system::Shared = Arc::new(open(&server, OpenMode::Create).await.unwrap());
    conformance::system::run_all(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_nodes_that_start_at_once_make_one_schema_and_see_each_other_s_changes() {
    let Some(server) = Postgres::start() else { return };
    assert!(matches!(open(&server, OpenMode::Existing).await, Err(StoreError::Unsuitable { .. })));
    let opens = (0..6).map(|_| open(&server, OpenMode::Create));
    let nodes: Vec<_> = futures::future::join_all(opens).await.into_iter().map(Result::unwrap).collect();
    let mut mark = nodes[0].changed("a/", &ChangeMark::start(), std::time::Duration::ZERO).await.unwrap();
    for (n, node) in nodes.iter().enumerate().skip(1) {
        let waiter = tokio::spawn({
            let (node, mark) = (nodes[0].clone(), mark.clone());
            async move { node.changed("a/", &mark, std::time::Duration::from_secs(20)).await.unwrap() }
        });
        node.put(&format!("a/{n}"), b"x", Expect::Absent, None).await.unwrap();
        let next = waiter.await.unwrap();
        assert_ne!(next, mark);
        mark = next;
    }
    // Every number is taken once, whoever takes it, and no notice is missed.
    let work = nodes.iter().enumerate().map(|(n, node)| async move {
        for i in 0..50 {
            node.put(&format!("b/{n}/{i}"), b"x", Expect::Absent, None).await.unwrap();
        }
    });
    futures::future::join_all(work).await;
    let mut versions: Vec<_> =
        nodes[0].list("b/", None, 1000).await.unwrap().into_iter().map(|(_, doc)| doc.version).collect();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 300);
}

#[tokio::test]
async fn a_newer_schema_and_somebody_else_s_are_refused() {
    let Some(server) = Postgres::start() else { return };
    server.run_sql("CREATE SCHEMA keyfold; CREATE TABLE keyfold.records (id text)").await;
    for mode in [OpenMode::Create, OpenMode::Existing] {
        let refused = open(&server, mode).await.err().unwrap();
        assert!(refused.to_string().ends_with("its schema `keyfold` is another program's"), "{refused}");
    }
    server.run_sql("DROP SCHEMA keyfold CASCADE").await;
    open(&server, OpenMode::Create).await.unwrap();
    // What a newer Keyfold added is left alone, until it says that this one no longer fits.
    server
        .run_sql(
            "ALTER TABLE keyfold.system ADD COLUMN owner text NOT NULL DEFAULT ''; CREATE TABLE keyfold.later (a int);
             UPDATE keyfold.schema_version SET version = 1000",
        )
        .await;
    let store = open(&server, OpenMode::Existing).await.unwrap();
    store.put("expanded", b"x", Expect::Absent, None).await.unwrap();
    assert_eq!(store.get("expanded").await.unwrap().unwrap().value, b"x");
    server.run_sql("UPDATE keyfold.schema_version SET oldest = 1000").await;
    assert!(matches!(open(&server, OpenMode::Create).await, Err(StoreError::SchemaTooNew { found: 1000, .. })));
}

#[tokio::test]
async fn p02_a_server_that_stops_is_an_error_for_every_call() {
    let Some(mut server) = Postgres::start() else { return };
    let store = open(&server, OpenMode::Create).await.unwrap();
    store.put("a", b"x", Expect::Any, None).await.unwrap();
    server.crash();
    let c = CollectionId::new("c").unwrap();
    for error in [
        store.get("a").await.unwrap_err(),
        store.list("", None, 10).await.unwrap_err(),
        store.put("a", b"y", Expect::Any, None).await.unwrap_err(),
        store.count(&c).await.unwrap_err(),
        store.collections().await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    }
    server.run();
    let found = store.get("a").await.unwrap().unwrap().value;
    assert_eq!(found, b"x");
}
