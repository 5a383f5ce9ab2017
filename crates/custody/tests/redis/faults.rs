//! Servers that end, connections that break, slots that move, writers that come between.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use keyfold_custody::store::{
    CellName, CellValue, CollectionId, Partition, RecordKey, RecordStore, ScanCursor, StoreError, Swap, Swapped,
    redis::RedisStore,
};

use crate::{
    foreign::{DONE, Kind, Raw, command, connect, id, scan_all, swap_for},
    servers::redis::Redis,
};

/// What survives the end of its server.
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

async fn seeded(redis: &Redis, names: impl Iterator<Item = String>) -> (RedisStore, Raw) {
    let raw = Raw::to(redis).await;
    for name in names {
        raw.run(&[b"HSET", format!("app:{name}").as_bytes(), b"data", b"old", b"name", name.as_bytes()]).await;
    }
    (connect(redis, [(id("app"), Kind::HashJson.layout("app:*"))].into()).await.unwrap(), raw)
}

fn old_for_new(name: &str) -> Swap {
    let cell = CellName::new("data").unwrap();
    let (old, new) = (CellValue::text("old".into()), CellValue::text("new".into()));
    Swap { key: RecordKey::new(format!("app:{name}")).unwrap(), cell, old, new }
}

/// Every call, as errors only: none of them may give an empty answer instead.
async fn all_errors(store: &RedisStore, partition: &Partition) -> Vec<StoreError> {
    let c = id("app");
    vec![
        store.scan(&c, partition, None, 10).await.unwrap_err(),
        store.read(&c, &RecordKey::new("app:1").unwrap()).await.unwrap_err(),
        store.swap(&c, vec![old_for_new("1")]).await.unwrap_err(),
        store.topology(&c).await.unwrap_err(),
        store.estimate(&c).await.unwrap_err(),
    ]
}

#[tokio::test]
async fn p02_a_server_that_is_gone_is_an_error_and_not_an_empty_collection() {
    let Some(mut redis) = Redis::single(&DURABLE) else { return };
    let (store, _) = seeded(&redis, (0..30).map(|n| n.to_string())).await;
    let partition = store.partitions(&id("app")).await.unwrap().remove(0);
    let before = store.topology(&id("app")).await.unwrap();
    redis.servers[0].kill();
    for error in all_errors(&store, &partition).await {
        assert!(matches!(&error, StoreError::Unavailable { retry: true, .. }), "{error:?}");
    }
    redis.servers[0].restart();
    assert_eq!(scan_all(&store, &id("app"), 10).await.records.len(), 30);
    assert_ne!(store.topology(&id("app")).await.unwrap(), before, "what cursors mean has changed");
    assert_eq!(store.swap(&id("app"), vec![old_for_new("1")]).await.unwrap(), [DONE]);
}

#[tokio::test]
async fn p02_a_master_that_is_gone_is_an_error_and_not_a_third_of_the_records_less() {
    let Some(mut redis) = Redis::cluster() else { return };
    let (store, _) = seeded(&redis, (0..30).map(|n| n.to_string())).await;
    let partitions = store.partitions(&id("app")).await.unwrap();
    assert_eq!(partitions.len(), 3);
    redis.servers[1].kill();
    let mut failed = 0;
    for partition in partitions {
        failed += usize::from(store.scan(&id("app"), &partition, None, 10).await.is_err());
    }
    assert_eq!(failed, 1);
    assert!(store.topology(&id("app")).await.is_err());
    assert!(store.estimate(&id("app")).await.is_err());
    let all = (0..30).map(|n| old_for_new(&n.to_string())).collect();
    assert!(store.swap(&id("app"), all).await.is_err());
}

#[tokio::test]
async fn p01_swapping_some_records_deletes_and_changes_no_other() {
    let Some(redis) = Redis::single(&[]) else { return };
    let (store, raw) = seeded(&redis, (0..50).map(|n| n.to_string())).await;
    raw.run(&[b"RPUSH", b"app:odd", b"x"]).await;
    raw.run(&[b"SET", b"beside", b"x"]).await;
    let dump = async |name: String| raw.ask::<Vec<u8>>(&command(&[b"DUMP", name.as_bytes()])).await;
    let mut before = BTreeMap::new();
    for name in (0..50).map(|n| format!("app:{n}")).chain(["app:odd".into(), "beside".into()]) {
        before.insert(name.clone(), dump(name).await);
    }
    // As one does that can open only the first ten.
    let page = scan_all(&store, &id("app"), 7).await;
    let mine = |name: &str| matches!(name.strip_prefix("app:").map(str::parse), Some(Ok(0..10u32)));
    let swaps: Vec<_> = page.records.into_iter().filter(|r| mine(r.key.as_str())).map(|r| swap_for(r, "new")).collect();
    assert_eq!(store.swap(&id("app"), swaps).await.unwrap(), [DONE; 10]);
    assert_eq!(raw.ask::<usize>(&command(&[b"DBSIZE"])).await, before.len());
    for (name, was) in before {
        assert_eq!(dump(name.clone()).await == was, !mine(&name), "{name}");
    }
}

#[tokio::test]
async fn p14_a_foreign_writer_between_scan_and_swap_wins() {
    let Some(redis) = Redis::single(&[]) else { return };
    let (store, raw) = seeded(&redis, ["1", "2", "3"].map(String::from).into_iter()).await;
    raw.run(&[b"HSET", b"app:2", b"data", b"theirs", b"name", b"x"]).await;
    raw.run(&[b"DEL", b"app:3"]).await;
    let swaps = ["1", "2", "3"].map(old_for_new).into();
    assert_eq!(store.swap(&id("app"), swaps).await.unwrap(), [DONE, Swapped::Changed, Swapped::Gone]);
    assert_eq!(raw.ask::<String>(&command(&[b"HGET", b"app:2", b"data"])).await, "theirs");
    assert_eq!(raw.ask::<usize>(&command(&[b"EXISTS", b"app:3"])).await, 0);
}

#[tokio::test]
async fn a_cursor_of_a_server_that_was_restarted_starts_over() {
    let Some(mut redis) = Redis::single(&DURABLE) else { return };
    // So many that the server's own scan is not over after two pages: what it has brought needs no cursor any more.
    let (store, _) = seeded(&redis, (0..3000).map(|n| n.to_string())).await;
    let partition = store.partitions(&id("app")).await.unwrap().remove(0);
    let all: BTreeSet<_> = keys_of(&store, &partition, None).await;
    let first = store.scan(&id("app"), &partition, None, 40).await.unwrap();
    let second = store.scan(&id("app"), &partition, first.next.as_ref(), 40).await.unwrap();
    redis.servers[0].restart();
    assert_eq!(keys_of(&store, &partition, second.next.clone()).await, all);
    // The same for a process that knows nothing of the pages before.
    let other = connect(&redis, [(id("app"), Kind::HashJson.layout("app:*"))].into()).await.unwrap();
    assert_eq!(keys_of(&other, &partition, second.next).await, all);
}

#[tokio::test]
async fn a_cursor_leads_another_process_to_everything_that_was_not_visited() {
    let Some(redis) = Redis::single(&[]) else { return };
    let (store, _) = seeded(&redis, (0..500).map(|n| n.to_string())).await;
    for partition in store.partitions(&id("app")).await.unwrap() {
        let all = keys_of(&store, &partition, None).await;
        let (mut visited, mut after) = (BTreeSet::new(), None);
        for _ in 0..3 {
            let page = store.scan(&id("app"), &partition, after.as_ref(), 13).await.unwrap();
            visited.extend(page.records.into_iter().map(|record| record.key));
            after = page.next;
        }
        let other = connect(&redis, [(id("app"), Kind::HashJson.layout("app:*"))].into()).await.unwrap();
        visited.extend(keys_of(&other, &partition, after).await);
        assert_eq!(visited, all);
    }
}

async fn keys_of(store: &RedisStore, partition: &Partition, mut after: Option<ScanCursor>) -> BTreeSet<RecordKey> {
    let mut keys = BTreeSet::new();
    loop {
        let page = store.scan(&id("app"), partition, after.as_ref(), 40).await.unwrap();
        keys.extend(page.records.into_iter().map(|record| record.key));
        after = page.next;
        if after.is_none() {
            return keys;
        }
    }
}

/// Passes as a job does them: until one begins and ends with the same topology and finds nothing to do. After an error that
/// says so, a page is tried again.
async fn job(store: &RedisStore, c: &CollectionId) -> usize {
    let mut passes = 0;
    loop {
        passes += 1;
        assert!(passes < 500, "the passes come to no end");
        let before = persisting(async || store.topology(c).await).await;
        let mut idle = true;
        for partition in persisting(async || store.partitions(c).await).await {
            let mut after = None;
            loop {
                let (next, swapped) = persisting(async || page(store, c, &partition, after.as_ref()).await).await;
                idle &= swapped == 0;
                after = next;
                if after.is_none() {
                    break;
                }
            }
        }
        if idle && persisting(async || store.topology(c).await).await == before {
            return passes;
        }
    }
}

async fn page(
    store: &RedisStore,
    c: &CollectionId,
    partition: &Partition,
    after: Option<&ScanCursor>,
) -> Result<(Option<ScanCursor>, usize), StoreError> {
    let page = store.scan(c, partition, after, 20).await?;
    let old = page.records.into_iter().filter(|r| r.cells.iter().any(|cell| cell.value.as_str() == Some("old")));
    let swaps: Vec<_> = old.map(|record| swap_for(record, "new")).collect();
    Ok((page.next, store.swap(c, swaps).await?.len()))
}

async fn persisting<T>(mut act: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    for _ in 0..1000 {
        match act().await {
            Ok(done) => return done,
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    }
    panic!("it never succeeded");
}

async fn everything_is_new(raw: &Raw, names: impl Iterator<Item = String>) {
    for name in names {
        let key = format!("app:{name}");
        let held: Vec<Option<String>> = raw.ask(&command(&[b"HMGET", key.as_bytes(), b"data", b"name"])).await;
        assert_eq!(held, [Some("new".into()), Some(name)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_lose_nothing() {
    let Some(redis) = Redis::single(&[]) else { return };
    let names = || (0..2000).map(|n| n.to_string());
    let (store, raw) = seeded(&redis, names()).await;
    let over = Arc::new(AtomicBool::new(false));
    let cutter = {
        let (raw, over) = (raw.clone(), Arc::clone(&over));
        tokio::spawn(async move {
            let mut cut = 0;
            while !over.load(Ordering::Relaxed) {
                cut += raw.ask::<usize>(&command(&[b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"yes"])).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            cut
        })
    };
    job(&store, &id("app")).await;
    over.store(true, Ordering::Relaxed);
    assert!(cutter.await.unwrap() > 0);
    everything_is_new(&raw, names()).await;
}

#[tokio::test]
async fn a_server_that_forgot_the_scripts_is_told_them_again() {
    let Some(redis) = Redis::single(&[]) else { return };
    let (store, raw) = seeded(&redis, (0..10).map(|n| n.to_string())).await;
    for n in 0..10 {
        raw.run(&[b"SCRIPT", b"FLUSH"]).await;
        assert_eq!(store.swap(&id("app"), vec![old_for_new(&n.to_string())]).await.unwrap(), [DONE]);
    }
    everything_is_new(&raw, (0..10).map(|n| n.to_string())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_during_a_job_loses_nothing() {
    let Some(redis) = Redis::cluster() else { return };
    let names = || (0..900).map(|n| if n % 3 == 0 { format!("{{moved}}{n}") } else { n.to_string() });
    let (store, raw) = seeded(&redis, names()).await;
    let mut mover = Mover::new(&redis, b"{moved}").await;
    mover.begin().await;
    let torn = store.topology(&id("app")).await.unwrap();
    assert_ne!(store.topology(&id("app")).await.unwrap(), torn, "a pass beside a moving slot must not count");
    let moving = tokio::spawn(async move {
        while mover.some().await {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        mover.end().await;
    });
    let passes = job(&store, &id("app")).await;
    moving.await.unwrap();
    assert!(passes > 1);
    everything_is_new(&raw, names()).await;
    assert_eq!(store.topology(&id("app")).await.unwrap(), store.topology(&id("app")).await.unwrap());
}

/// Moves the slot of a key from the master that has it to another one, as `redis-cli --cluster reshard` does.
pub(crate) struct Mover {
    slot: String,
    from: (redis::aio::MultiplexedConnection, String),
    to: (redis::aio::MultiplexedConnection, String, u16),
    others: Vec<redis::aio::MultiplexedConnection>,
}

impl Mover {
    pub(crate) async fn new(redis: &Redis, key: &[u8]) -> Self {
        let mut nodes = Vec::new();
        for server in &redis.servers {
            let client = redis::Client::open(format!("redis://127.0.0.1:{}", server.port)).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let id: String = command(&[b"CLUSTER", b"MYID"]).query_async(&mut connection).await.unwrap();
            let owns: redis::RedisResult<redis::Value> = command(&[b"TYPE", key]).query_async(&mut connection).await;
            nodes.push((connection, id, server.port, owns.is_ok()));
        }
        let slot: u16 = command(&[b"CLUSTER", b"KEYSLOT", key]).query_async(&mut nodes[0].0).await.unwrap();
        nodes.sort_by_key(|(.., owns)| !owns);
        let (from, to) = (nodes.remove(0), nodes.remove(0));
        let others = nodes.into_iter().map(|(connection, ..)| connection).collect();
        Self { slot: slot.to_string(), from: (from.0, from.1), to: (to.0, to.1, to.2), others }
    }

    pub(crate) async fn begin(&mut self) {
        let (slot, from, to) = (self.slot.as_bytes(), self.from.1.as_bytes(), self.to.1.as_bytes());
        let importing = command(&[b"CLUSTER", b"SETSLOT", slot, b"IMPORTING", from]);
        let () = importing.query_async(&mut self.to.0).await.unwrap();
        let migrating = command(&[b"CLUSTER", b"SETSLOT", slot, b"MIGRATING", to]);
        let () = migrating.query_async(&mut self.from.0).await.unwrap();
    }

    /// Moves a few keys; whether there were any.
    pub(crate) async fn some(&mut self) -> bool {
        let few = command(&[b"CLUSTER", b"GETKEYSINSLOT", self.slot.as_bytes(), b"3"]);
        let keys: Vec<Vec<u8>> = few.query_async(&mut self.from.0).await.unwrap();
        if keys.is_empty() {
            return false;
        }
        let port = self.to.2.to_string();
        let mut migrate = command(&[b"MIGRATE", b"127.0.0.1", port.as_bytes(), b"", b"0", b"5000", b"KEYS"]);
        keys.iter().for_each(|key| {
            migrate.arg(key);
        });
        let () = migrate.query_async(&mut self.from.0).await.unwrap();
        true
    }

    pub(crate) async fn end(mut self) {
        let done = command(&[b"CLUSTER", b"SETSLOT", self.slot.as_bytes(), b"NODE", self.to.1.as_bytes()]);
        for connection in [&mut self.to.0, &mut self.from.0].into_iter().chain(&mut self.others) {
            let () = done.query_async(connection).await.unwrap();
        }
    }
}
