//! What the Redis store costs beside a bare loop on the same server.
//!
//! `cargo bench -p keyfold-custody --bench redis`; `KEYFOLD_BENCH_RECORDS` (200000), `KEYFOLD_BENCH_ROUNDS` (3),
//! `KEYFOLD_TEST_PYTHON` (an interpreter with `cryptography`), `KEYFOLD_BENCH_ONLY` (`store`, `jobs`, or of these `verify`).
//!
//! A machine that others use too is twice as fast at one moment as at another. So the bare loops and what is held against them
//! take turns, each is divided by the bare loop of its own round, and what is said is the middle one of all rounds, with the least and
//! the greatest ratio beside it.
//!
//! The bare loop knows all keys beforehand, in the order in which the server lists them, and sends `HGET`, and then a compare-and-set
//! script, for 500 of them at a time over one connection with the same driver. The store has to find the keys, tell what is odd and
//! hand out pages.
//! Beside the same loops stand whole jobs over values that are really sealed, and the procedure of redis-sre-agent's own: read one,
//! open, seal, write one, in Python. A rotation that finds by the server's count of changes that nobody else wrote ends after one
//! pass; one beside a client that writes anything at all, to whatever key, goes through everything a second time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot run says so")]
#![allow(clippy::print_stdout, reason = "what it is for")]
#![allow(clippy::cast_precision_loss, reason = "rates")]

mod jobs;
#[path = "../../tests/servers/mod.rs"]
mod servers;
mod table;

use std::{collections::HashSet, env};

use futures::future::try_join_all;
use keyfold_custody::{
    layout::place::Layout,
    store::{
        CellName, CellValue, CollectionId, Partition, RecordStore as _, StoreError, Swap, Swapped, redis::RedisStore,
    },
};
use redis::{Client, Pipeline, Script, aio::MultiplexedConnection};
use table::Table;

const BATCH: usize = 500;
const SWAP: &str = "if redis.call('HGET', KEYS[1], 'data') == ARGV[1] then redis.call('HSET', KEYS[1], 'data', ARGV[2]) return 1 end return 0";

fn number(name: &str, usual: usize) -> usize {
    env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// More would run out of keys, which are bytes.
fn rounds() -> usize {
    number("KEYFOLD_BENCH_ROUNDS", 3).clamp(1, 50)
}

/// As large as a record of redis-sre-agent with two sealed secrets.
fn data(n: usize, version: char) -> String {
    let secret = |name: &str| format!(r#""{name}": "{}""#, version.to_string().repeat(320));
    format!(
        r#"{{"id": "redis-{n}", "name": "redis {n}", {}, {}, "environment": "production", "usage": "cache", "status": "unknown", "created_at": "2026-01-01T00:00:00+00:00", "version": null}}"#,
        secret("connection_url"),
        secret("admin_password")
    )
}

#[tokio::main]
async fn main() {
    let Some(redis) = servers::redis::Redis::single(&[]) else { return };
    let client = Client::open(redis.address.as_str()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    let made: Vec<String> =
        (0..number("KEYFOLD_BENCH_RECORDS", 200_000)).map(|n| format!("sre_instances:{n:08}")).collect();
    seed(&connection, &made).await;
    let keys = listed(&connection, made.len()).await;
    println!("{} records of {} bytes, {BATCH} at a time, {} rounds", keys.len(), data(0, 'a').len(), rounds());

    let only = env::var("KEYFOLD_BENCH_ONLY").unwrap_or_default();
    if only.is_empty() || only == "store" {
        store_rounds(&redis.address, &connection, &keys).await;
    }
    if only != "store" {
        jobs::run(&redis.address, &connection, (&made, &keys), &only).await;
    }
}

async fn store_rounds(address: &str, connection: &MultiplexedConnection, keys: &[String]) {
    let mut table = Table::of(keys.len());
    for _ in 0..rounds() {
        let bare = table.timed("bare HGET", None, bare_read(connection, keys)).await;
        table.timed("scan, part by part", Some(bare), scan(address, false)).await;
        table.timed("scan, parts side by side", Some(bare), scan(address, true)).await;
        let renew = |held: &str| renewed(held, 'b');
        let bare = table.timed("bare HGET and compare-and-set", None, bare_swap(connection, keys, renew)).await;
        table.timed("scan and swap, part by part", Some(bare), swap(address, false, 'c')).await;
        table.timed("scan and swap, parts side by side", Some(bare), swap(address, true, 'd')).await;
    }
    table.print();
}

async fn seed(connection: &MultiplexedConnection, keys: &[String]) {
    for (at, chunk) in keys.chunks(BATCH).enumerate() {
        let mut pipeline = Pipeline::new();
        for (n, key) in chunk.iter().enumerate() {
            pipeline
                .cmd("HSET")
                .arg(key)
                .arg("name")
                .arg("redis")
                .arg("status")
                .arg("unknown")
                .arg("data")
                .arg(data(at * BATCH + n, 'a'))
                .ignore();
        }
        let () = pipeline.query_async(&mut connection.clone()).await.unwrap();
    }
}

/// All keys as `SCAN` finds them: what lies side by side in memory lies far apart here, for the bare loops as for the store.
async fn listed(connection: &MultiplexedConnection, count: usize) -> Vec<String> {
    let (mut keys, mut seen, mut cursor) = (Vec::with_capacity(count), HashSet::new(), 0_u64);
    loop {
        let mut scan = redis::cmd("SCAN");
        let page: (u64, Vec<String>) =
            scan.arg(cursor).arg("COUNT").arg(BATCH).query_async(&mut connection.clone()).await.unwrap();
        keys.extend(page.1.into_iter().filter(|key| seen.insert(key.clone())));
        cursor = page.0;
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(keys.len(), count);
    keys
}

async fn read(connection: &mut MultiplexedConnection, chunk: &[String]) -> Vec<String> {
    let mut pipeline = Pipeline::new();
    for key in chunk {
        pipeline.cmd("HGET").arg(key).arg("data");
    }
    pipeline.query_async(connection).await.unwrap()
}

async fn bare_read(connection: &MultiplexedConnection, keys: &[String]) -> usize {
    let (mut connection, mut seen) = (connection.clone(), 0);
    for chunk in keys.chunks(BATCH) {
        seen += read(&mut connection, chunk).await.len();
    }
    seen
}

async fn bare_swap(connection: &MultiplexedConnection, keys: &[String], renewed: impl Fn(&str) -> String) -> usize {
    let script = Script::new(SWAP);
    let (mut connection, mut swapped) = (connection.clone(), 0);
    let _: String = redis::cmd("SCRIPT").arg("LOAD").arg(SWAP).query_async(&mut connection).await.unwrap();
    for chunk in keys.chunks(BATCH) {
        let held = read(&mut connection, chunk).await;
        let mut pipeline = Pipeline::new();
        for (key, held) in chunk.iter().zip(held) {
            let new = renewed(&held);
            pipeline.cmd("EVALSHA").arg(script.get_hash()).arg(1).arg(key).arg(held).arg(new);
        }
        let done: Vec<usize> = pipeline.query_async(&mut connection).await.unwrap();
        swapped += done.into_iter().sum::<usize>();
    }
    swapped
}

/// The same document with other secrets, without much work.
fn renewed(held: &str, version: char) -> String {
    let mut new = held.to_owned();
    for name in ["connection_url\": \"", "admin_password\": \""] {
        let at = held.find(name).unwrap() + name.len();
        new.replace_range(at..at + 320, &version.to_string().repeat(320));
    }
    new
}

async fn store(address: &str) -> (RedisStore, CollectionId) {
    let id = CollectionId::new("instances").unwrap();
    let layout = Layout::RedisHashJson { keys: "sre_instances:*".into(), field: CellName::new("data").unwrap() };
    (RedisStore::connect(&address.parse().unwrap(), [(id.clone(), layout)].into()).await.unwrap(), id)
}

/// Goes through all parts; `version` is what secrets become.
async fn pass(address: &str, side_by_side: bool, version: Option<char>) -> usize {
    let (store, c) = store(address).await;
    let parts = store.partitions(&c).await.unwrap();
    let works = parts.into_iter().map(|partition| {
        let (store, c) = (store.clone(), c.clone());
        async move { part(&store, &c, &partition, version).await }
    });
    if side_by_side {
        let tasks = works.map(tokio::spawn);
        return try_join_all(tasks).await.unwrap().into_iter().map(Result::unwrap).sum();
    }
    let mut done = 0;
    for work in works {
        done += work.await.unwrap();
    }
    done
}

async fn part(
    store: &RedisStore,
    c: &CollectionId,
    partition: &Partition,
    version: Option<char>,
) -> Result<usize, StoreError> {
    let (mut done, mut after) = (0, None);
    loop {
        let page = store.scan(c, partition, after.as_ref(), BATCH).await?;
        match version {
            None => done += page.records.len(),
            Some(version) => {
                let swaps = page.records.into_iter().map(|mut record| {
                    let cell = record.cells.remove(0);
                    let new = CellValue::text(renewed(cell.value.as_str().unwrap(), version));
                    Swap { key: record.key, cell: cell.name, old: cell.value, new }
                });
                let swapped = store.swap(c, swaps.collect()).await?;
                done += swapped.into_iter().filter(|swapped| *swapped == Swapped::Done).count();
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(done);
        }
    }
}

async fn scan(address: &str, side_by_side: bool) -> usize {
    pass(address, side_by_side, None).await
}

async fn swap(address: &str, side_by_side: bool, version: char) -> usize {
    pass(address, side_by_side, Some(version)).await
}
