//! What a scan finds and what a swap leaves as it is.

use std::{collections::HashMap, sync::Arc, time::Duration};

use keyfold_core::error::Hint as _;
use keyfold_custody::store::{
    CellValue, RecordStore as _, StoreError, Swap, Swapped, Writes,
    conformance::{self, Bench},
    redis::{RedisAddress, RedisStore},
};

use crate::{
    foreign::{DONE, Foreign, Kind, Raw, command, connect, id, scan_all, swap_for},
    servers::redis::Redis,
};

async fn conforms(redis: &Redis, kind: Kind) {
    let bench: Arc<dyn Bench> = Foreign::on(redis, kind).await;
    conformance::records::run_on(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_with_json_conform_on_one_server() {
    let Some(redis) = Redis::single(&[]) else { return };
    conforms(&redis, Kind::HashJson).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strings_conform_on_one_server() {
    let Some(redis) = Redis::single(&[]) else { return };
    conforms(&redis, Kind::JsonString).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hash_fields_conform_on_one_server() {
    let Some(redis) = Redis::single(&[]) else { return };
    conforms(&redis, Kind::HashField).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_conform_over_tls_with_a_user_of_few_rights() {
    let Some(redis) = Redis::secured() else { return };
    conforms(&redis, Kind::HashJson).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_with_json_conform_on_a_cluster() {
    let Some(redis) = Redis::cluster() else { return };
    conforms(&redis, Kind::HashJson).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strings_conform_on_a_cluster() {
    let Some(redis) = Redis::cluster() else { return };
    conforms(&redis, Kind::JsonString).await;
}

#[tokio::test]
async fn a_swap_changes_one_field_or_the_value_and_nothing_else() {
    let Some(redis) = Redis::single(&[]) else { return };
    let raw = Raw::to(&redis).await;
    raw.run(&[b"HSET", b"h:1", b"name", b"n", b"data", b"{\"a\": 1e3}", b"raw", b"\xff\0"]).await;
    raw.run(&[b"PEXPIREAT", b"h:1", b"4000000000123"]).await;
    raw.run(&[b"SET", b"s:1", b"[ ]", b"PXAT", b"4000000000456"]).await;
    let layouts = [(id("h"), Kind::HashJson.layout("h:*")), (id("s"), Kind::JsonString.layout("s:*"))];
    let store = connect(&redis, layouts.into()).await.unwrap();
    for (c, held) in [("h", "{\"a\": 1e3}"), ("s", "[ ]")] {
        let record = scan_all(&store, &id(c), 10).await.records.remove(0);
        assert_eq!(record.cells[0].value.as_str(), Some(held));
        assert_eq!(store.swap(&id(c), vec![swap_for(record, "new")]).await.unwrap(), [DONE]);
    }
    let fields: HashMap<String, Vec<u8>> = raw.ask(&command(&[b"HGETALL", b"h:1"])).await;
    let expected = [("name", &b"n"[..]), ("data", b"new"), ("raw", b"\xff\0")];
    assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_vec())).into());
    assert_eq!(raw.ask::<String>(&command(&[b"GET", b"s:1"])).await, "new");
    assert_eq!(raw.ask::<i64>(&command(&[b"PEXPIRETIME", b"h:1"])).await, 4_000_000_000_123);
    assert_eq!(raw.ask::<i64>(&command(&[b"PEXPIRETIME", b"s:1"])).await, 4_000_000_000_456);
}

#[tokio::test]
async fn what_cannot_be_a_record_is_named_and_left_alone() {
    let Some(redis) = Redis::single(&[]) else { return };
    let raw = Raw::to(&redis).await;
    let long = [b"app:", "x".repeat(8190).as_bytes()].concat();
    raw.run(&[b"HSET", b"app:good", b"data", b"{}"]).await;
    raw.run(&[b"HSET", b"app:none", b"name", b"n"]).await;
    raw.run(&[b"RPUSH", b"app:list", b"secret-1"]).await;
    raw.run(&[b"SET", b"app:string", b"secret-2"]).await;
    raw.run(&[b"HSET", b"app:bytes", b"data", b"secret-3\xff"]).await;
    raw.run(&[b"HSET", &long, b"data", b"{}"]).await;
    raw.run(&[b"HSET", b"app:\xff\0%41", b"data", b"[1]"]).await;
    raw.run(&[b"HSET", b"other:1", b"data", b"{}"]).await;
    let store = connect(&redis, [(id("app"), Kind::HashJson.layout("app:*"))].into()).await.unwrap();
    let mut page = scan_all(&store, &id("app"), 10).await;
    page.records.sort_by(|a, b| a.key.cmp(&b.key));
    let keys: Vec<_> = page.records.iter().map(|record| (record.key.as_str(), record.cells.len())).collect();
    assert_eq!(keys, [("app:%FF%00%2541", 1), ("app:good", 1), ("app:none", 0)]);
    page.odd.sort_by(|a, b| a.record.cmp(&b.record));
    let odd: Vec<_> = page.odd.iter().map(|odd| format!("{}: {}", odd.record, odd.what)).collect();
    assert_eq!(odd.len(), 4, "{odd:?}");
    assert_eq!(odd[0], "app:bytes: `data` is not UTF-8 text");
    assert!(odd[1].starts_with("app:list: it is a list"), "{}", odd[1]);
    assert!(odd[2].starts_with("app:string: it is a string"), "{}", odd[2]);
    assert!(odd[3].contains("(8194 bytes): its key cannot be a record's"), "{}", odd[3]);
    assert!(!odd.concat().contains("secret-"));

    let spelled = page.records.swap_remove(0);
    let name = spelled.key.clone();
    assert_eq!(store.swap(&id("app"), vec![swap_for(spelled, "[2]")]).await.unwrap(), [DONE]);
    assert_eq!(store.read(&id("app"), &name).await.unwrap().unwrap().cells[0].value.as_str(), Some("[2]"));
    assert_eq!(raw.ask::<String>(&command(&[b"HGET", b"app:\xff\0%41", b"data"])).await, "[2]");
}

#[tokio::test]
async fn a_record_that_changed_its_type_is_gone_for_a_swap() {
    let Some(redis) = Redis::single(&[]) else { return };
    let raw = Raw::to(&redis).await;
    raw.run(&[b"HSET", b"app:1", b"data", b"{}"]).await;
    let store = connect(&redis, [(id("app"), Kind::HashJson.layout("app:*"))].into()).await.unwrap();
    let read = scan_all(&store, &id("app"), 10).await.records.remove(0);
    raw.run(&[b"SET", b"app:1", b"{}"]).await;
    assert_eq!(store.swap(&id("app"), vec![swap_for(read, "x")]).await.unwrap(), [Swapped::Gone]);
    assert_eq!(raw.ask::<String>(&command(&[b"GET", b"app:1"])).await, "{}");
}

#[tokio::test]
async fn an_estimate_is_near_where_there_is_one() {
    let Some(redis) = Redis::single(&[]) else { return };
    let raw = Raw::to(&redis).await;
    for n in 0..3000 {
        let key = if n % 3 == 0 { format!("app:{n}") } else { format!("other:{n}") };
        raw.run(&[b"HSET", key.as_bytes(), b"data", b"{}"]).await;
    }
    let layouts = [(id("app"), Kind::HashJson.layout("app:*")), (id("none"), Kind::HashJson.layout("none:*"))];
    let store = connect(&redis, layouts.into()).await.unwrap();
    let about = store.estimate(&id("app")).await.unwrap().unwrap();
    assert!((800..1200).contains(&about), "{about}");
    assert_eq!(store.estimate(&id("none")).await.unwrap(), None);
}

#[tokio::test]
async fn a_password_is_nowhere_in_what_is_said() {
    let Some(redis) = Redis::secured() else { return };
    let failed = async |address: &str| {
        let address: RedisAddress = address.parse().unwrap();
        RedisStore::connect(&address, HashMap::new()).await.err().unwrap()
    };
    let wrong = failed(&redis.secured_as("keyfold", "hunter2")).await;
    assert!(wrong.to_string().contains("does not accept the user or the password"), "{wrong}");
    let plain = failed(&format!("redis://u:hunter2@127.0.0.1:{}", redis.servers[0].port)).await;
    let untrusted = failed(&format!("rediss://u:hunter2@127.0.0.1:{}", redis.servers[0].port)).await;
    assert!(untrusted.to_string().contains("TLS"), "{untrusted}");
    for error in [&wrong, &plain, &untrusted] {
        let mut said = format!("{error} {error:?} {:?}", error.hint());
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            said.push_str(&format!("{inner} {inner:?}"));
            source = inner.source();
        }
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[tokio::test]
async fn what_a_user_may_not_do_is_refused_with_the_right_that_is_missing() {
    let Some(redis) = Redis::secured() else { return };
    let store = connect(&redis, [(id("b"), Kind::HashField.layout("b:*"))].into()).await.unwrap();
    Raw::to(&redis).await.run(&[b"HSET", b"b:1", b"data", b"x"]).await;
    let key = keyfold_custody::store::RecordKey::new("b:1").unwrap();
    let error = store.read(&id("b"), &key).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("hgetall"), "{error}");
    let cell = keyfold_custody::store::CellName::new("data").unwrap();
    let (old, new) = (CellValue::text("x".into()), CellValue::text("y".into()));
    let error = store.swap(&id("b"), vec![Swap { key, cell, old, new }]).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn a_node_of_a_cluster_is_not_taken_for_all_of_it() {
    let Some(redis) = Redis::cluster() else { return };
    let address = format!("redis://127.0.0.1:{}", redis.servers[0].port).parse().unwrap();
    let error = RedisStore::connect(&address, HashMap::new()).await.err().unwrap();
    assert!(error.hint().unwrap().contains("redis+cluster://"), "{error}");
    let Some(single) = Redis::single(&[]) else { return };
    let address = format!("redis+cluster://127.0.0.1:{}", single.servers[0].port).parse().unwrap();
    let error = RedisStore::connect(&address, HashMap::new()).await.err().unwrap();
    assert!(error.to_string().contains("cluster support disabled"), "{error}");
}

#[tokio::test]
async fn a_field_that_ends_by_itself_ends_when_it_would_have_after_a_swap() {
    let Some(redis) = Redis::newer() else { return };
    let raw = Raw::to(&redis).await;
    raw.run(&[b"HSET", b"app:1", b"data", b"old", b"name", b"n"]).await;
    raw.run(&[b"HPEXPIREAT", b"app:1", b"4000000000000", b"FIELDS", b"1", b"data"]).await;
    raw.run(&[b"HSET", b"app:2", b"data", b"old"]).await;
    let store = connect(&redis, [(id("app"), Kind::HashJson.layout("app:*"))].into()).await.unwrap();
    let records = scan_all(&store, &id("app"), 10).await.records;
    let swaps = records.into_iter().map(|record| swap_for(record, "new")).collect();
    assert_eq!(store.swap(&id("app"), swaps).await.unwrap(), [DONE, DONE]);
    for (key, ends) in [("app:1", 4_000_000_000_000_i64), ("app:2", -1)] {
        let asked = command(&[b"HPEXPIRETIME", key.as_bytes(), b"FIELDS", b"1", b"data"]);
        assert_eq!(raw.ask::<Vec<i64>>(&asked).await, [ends]);
        assert_eq!(raw.ask::<String>(&command(&[b"HGET", key.as_bytes(), b"data"])).await, "new");
    }
}

#[tokio::test]
async fn a_user_that_may_not_ask_or_say_when_a_field_ends_changes_nothing() {
    let Some(redis) = Redis::newer() else { return };
    let raw = Raw::to(&redis).await;
    raw.run(&[b"HSET", b"app:1", b"data", b"old"]).await;
    raw.run(&[b"HPEXPIREAT", b"app:1", b"4000000000000", b"FIELDS", b"1", b"data"]).await;
    for missing in ["-hpexpiretime", "-hpexpireat"] {
        raw.run(&[b"ACL", b"SETUSER", b"k", b"reset", b"on", b">p", b"~*", b"+@all", missing.as_bytes()]).await;
        let address = redis.address.replace("redis://", "redis://k:p@").parse().unwrap();
        let layouts = [(id("app"), Kind::HashJson.layout("app:*"))].into();
        let store = RedisStore::connect(&address, layouts).await.unwrap();
        let record = scan_all(&store, &id("app"), 10).await.records.remove(0);
        assert!(store.swap(&id("app"), vec![swap_for(record, "new")]).await.is_err(), "{missing}");
        assert_eq!(raw.ask::<String>(&command(&[b"HGET", b"app:1", b"data"])).await, "old");
        let asked = command(&[b"HPEXPIRETIME", b"app:1", b"FIELDS", b"1", b"data"]);
        assert_eq!(raw.ask::<Vec<i64>>(&asked).await, [4_000_000_000_000]);
    }
}

/// What a store says of the server's count, once the second in which that was started or saved is over.
async fn counted(store: &RedisStore) -> Writes {
    loop {
        if let Some(writes) = store.writes(&id("app")).await.unwrap() {
            return writes;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn p14_what_others_write_is_told_from_a_stores_own_swaps_until_the_server_saves() {
    for redis in [Redis::single(&[]), Redis::newer()].into_iter().flatten() {
        told_apart(&redis).await;
    }
}

async fn told_apart(redis: &Redis) {
    let raw = Raw::to(redis).await;
    for n in 0..40 {
        raw.run(&[b"HSET", format!("app:{n}").as_bytes(), b"data", b"{}"]).await;
    }
    let store = connect(redis, [(id("app"), Kind::HashJson.layout("app:*"))].into()).await.unwrap();
    let before = counted(&store).await;
    let swaps = async |new: &str| {
        let read = scan_all(&store, &id("app"), 100).await.records;
        read.into_iter().map(|record| swap_for(record, new)).collect::<Vec<_>>()
    };
    let late = swaps("late").await.split_off(37);
    assert_eq!(store.swap(&id("app"), swaps("new").await).await.unwrap(), [DONE; 40]);
    assert_eq!(counted(&store).await.count, before.count + 1, "a call is one, whatever it changes");
    assert_eq!(store.swap(&id("app"), late).await.unwrap(), [Swapped::Changed; 3]);
    let own = counted(&store).await;
    assert_eq!((own.count, &own.since), (before.count + 2, &before.since));
    raw.run(&[b"HSET", b"app:7", b"data", b"theirs"]).await;
    assert_eq!(counted(&store).await.count, own.count + 1);
    raw.run(&[b"SAVE"]).await;
    assert_ne!(counted(&store).await.since, own.since);
}
