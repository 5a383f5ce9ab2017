//! Records of our own layout.

use std::sync::Arc;

use keyfold_custody::store::{
    conformance,
    redis::{Losses, RedisOwn},
};

use crate::servers::redis::Redis;

async fn conforms(redis: &Redis, losses: Losses) {
    let store: conformance::Shared =
        Arc::new(RedisOwn::connect(&redis.address.parse().unwrap(), losses).await.unwrap());
    conformance::records::run_all(&store).await;
    conformance::own_records::run_all(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_records_conform_on_one_server() {
    let Some(redis) = Redis::single(&["--appendonly", "yes"]) else { return };
    conforms(&redis, Losses::Refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_records_conform_on_a_cluster() {
    let Some(redis) = Redis::cluster() else { return };
    assert!(RedisOwn::connect(&redis.address.parse().unwrap(), Losses::Refused).await.is_err());
    conforms(&redis, Losses::AcceptedInsecurely).await;
}
