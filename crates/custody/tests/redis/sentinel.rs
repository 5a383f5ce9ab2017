//! A server that a sentinel names, before and after it made another one the master.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keyfold_custody::store::{
    Expect, StoreError, SystemStore as _, conformance,
    redis::{Losses, RedisOwn, RedisSystem},
};

use crate::{
    foreign::{Foreign, Kind, Raw},
    servers::redis::Redis,
};

const DURABLE: [&str; 2] = ["--appendonly", "yes"];

#[tokio::test(flavor = "multi_thread")]
async fn records_and_documents_conform_behind_a_sentinel() {
    let Some(redis) = Redis::behind_sentinel(&DURABLE) else { return };
    conformance::records::run_on(&(Foreign::on(&redis, Kind::HashJson).await as Arc<dyn conformance::Bench>)).await;
    let address = redis.address.parse().unwrap();
    let system: conformance::system::Shared = Arc::new(RedisSystem::connect(&address, Losses::Refused).await.unwrap());
    conformance::system::run_all(&system).await;
    let own: conformance::Shared = Arc::new(RedisOwn::connect(&address, Losses::Refused).await.unwrap());
    conformance::own_records::run_all(&own).await;
}

async fn in_the_end<T>(mut act: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    let began = Instant::now();
    loop {
        match act().await {
            Ok(done) => return done,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(60), "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_goes_on_with_the_replica_that_the_sentinel_made_the_master() {
    let Some(mut redis) = Redis::behind_sentinel(&DURABLE) else { return };
    let store = RedisSystem::connect(&redis.address.parse().unwrap(), Losses::Refused).await.unwrap();
    for n in 0..20 {
        store.put(&format!("k/{n:02}"), &[n], Expect::Absent, None).await.unwrap();
    }
    // WAIT asks for what its own connection wrote last, and for what was written before that.
    let raw = Raw::to(&redis).await;
    let _: String = raw.ask(&crate::foreign::command(&[b"SET", b"last", b"1"])).await;
    let held: usize = raw.ask(&crate::foreign::command(&[b"WAIT", b"1", b"10000"])).await;
    assert_eq!(held, 1, "the replica has everything");
    redis.servers[0].kill();
    // No call gives an empty answer meanwhile.
    let listed = in_the_end(async || store.list("k/", None, 100).await).await;
    assert_eq!(listed.len(), 20);
    in_the_end(async || store.put("k/new", b"x", Expect::Any, None).await).await;
    assert_eq!(store.list("k/", None, 100).await.unwrap().len(), 21);
}
