//! Our small documents, and what a server must be like to be trusted with them.

use std::sync::Arc;

use keyfold_core::error::Hint as _;
use keyfold_custody::store::{
    Expect, StoreError, SystemStore,
    conformance::system,
    redis::{Losses, RedisSystem},
};

use crate::{foreign::Raw, servers::redis::Redis};

/// What a system store asks for.
const SAFE: [&str; 6] = ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"];

async fn connect(redis: &Redis, losses: Losses) -> Result<RedisSystem, StoreError> {
    RedisSystem::connect(&redis.address.parse().unwrap(), losses).await
}

#[tokio::test(flavor = "multi_thread")]
async fn system_documents_conform_on_one_server() {
    let Some(redis) = Redis::single(&SAFE) else { return };
    let store: system::Shared = Arc::new(connect(&redis, Losses::Refused).await.unwrap());
    system::run_all(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn system_documents_conform_on_a_cluster() {
    let Some(redis) = Redis::cluster() else { return };
    let store: system::Shared = Arc::new(connect(&redis, Losses::AcceptedInsecurely).await.unwrap());
    system::run_all(&store).await;
}

#[tokio::test]
async fn a_server_that_may_lose_keys_is_refused_with_the_setting_to_change() {
    for (arguments, setting) in [
        (&["--maxmemory-policy", "allkeys-lru", "--appendonly", "yes"][..], "maxmemory-policy noeviction"),
        (&["--maxmemory-policy", "volatile-ttl", "--appendonly", "yes"], "maxmemory-policy noeviction"),
        (&["--appendonly", "no"], "appendonly yes"),
    ] {
        let Some(redis) = Redis::single(arguments) else { return };
        let error = connect(&redis, Losses::Refused).await.err().unwrap();
        assert!(matches!(error, StoreError::Unsuitable { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains(setting), "{error}");
        connect(&redis, Losses::AcceptedInsecurely).await.unwrap();
    }
    let Some(cluster) = Redis::cluster() else { return };
    assert!(matches!(connect(&cluster, Losses::Refused).await, Err(StoreError::Unsuitable { .. })));
}

#[tokio::test]
async fn documents_survive_a_kill_and_a_dead_server_is_an_error() {
    let Some(mut redis) = Redis::single(&SAFE) else { return };
    let store = connect(&redis, Losses::Refused).await.unwrap();
    for n in 0..100 {
        store.put(&format!("k/{n:02}"), b"x", Expect::Absent, None).await.unwrap();
    }
    let mark =
        store.changed("k/", &keyfold_custody::store::ChangeMark::start(), std::time::Duration::ZERO).await.unwrap();
    redis.servers[0].kill();
    for error in [
        store.get("k/00").await.unwrap_err(),
        store.put("k/00", b"y", Expect::Any, None).await.unwrap_err(),
        store.delete("k/00", Expect::Any).await.unwrap_err(),
        store.list("k/", None, 1000).await.unwrap_err(),
        store.now().await.unwrap_err(),
        store.changed("k/", &mark, std::time::Duration::ZERO).await.unwrap_err(),
    ] {
        assert!(error.is_retryable(), "{error:?}");
    }
    redis.servers[0].restart();
    assert_eq!(store.list("k/", None, 1000).await.unwrap().len(), 100);
    assert_eq!(store.changed("k/", &mark, std::time::Duration::ZERO).await.unwrap(), mark);
}

#[tokio::test]
async fn traces_of_what_is_gone_are_dropped_and_a_late_watcher_still_learns_of_it() {
    let Some(redis) = Redis::single(&SAFE) else { return };
    let store = connect(&redis, Losses::Refused).await.unwrap();
    let raw = Raw::to(&redis).await;
    store.put("gone/a", b"x", Expect::Any, None).await.unwrap();
    let mark =
        store.changed("gone/", &keyfold_custody::store::ChangeMark::start(), std::time::Duration::ZERO).await.unwrap();
    assert!(store.delete("gone/a", Expect::Any).await.unwrap());
    // A day passes for the trace.
    raw.run(&[b"ZADD", b"{keyfold}:ends", b"1", b"gone/a"]).await;
    for n in 0..65 {
        store.put("other", &[n], Expect::Any, None).await.unwrap();
    }
    let left: Option<String> = raw.ask(&crate::foreign::command(&[b"ZSCORE", b"{keyfold}:log", b"gone/a"])).await;
    assert_eq!(left, None);
    let next = store.changed("gone/", &mark, std::time::Duration::ZERO).await.unwrap();
    assert_ne!(next, mark);
    assert_eq!(store.changed("gone/", &next, std::time::Duration::ZERO).await.unwrap(), next);
}
