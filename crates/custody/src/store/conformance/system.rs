//! [`SystemStore`]: compare-and-swap, expiry, prefix scan, server time, change notice.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::store::{ChangeMark, Expect, MAX_DOC, Put, StoreError, SystemStore};

/// A store that several tasks use at once.
pub type Shared = Arc<dyn SystemStore>;

/// All of the checks.
pub async fn run_all(store: &Shared) {
    what_is_put_is_what_is_got(store).await;
    a_put_happens_only_if_what_it_expects_holds(store).await;
    a_version_does_not_come_back_after_a_delete(store).await;
    a_delete_happens_only_if_what_it_expects_holds(store).await;
    of_racing_puts_exactly_one_wins_each_version(store).await;
    an_expired_document_is_not_there(store).await;
    a_prefix_is_text_and_not_a_pattern(store).await;
    a_list_goes_on_after_a_key(store).await;
    the_servers_time_runs(store).await;
    a_change_under_the_prefix_ends_the_wait(store).await;
    a_change_elsewhere_does_not_end_the_wait(store).await;
    a_change_between_two_waits_is_not_missed(store).await;
    what_no_store_does_is_an_invalid_argument(store).await;
}

async fn put(store: &Shared, key: &str, value: &[u8]) -> u64 {
    put_if(store, key, value, Expect::Any).await.expect("nothing was expected")
}

async fn put_if(store: &Shared, key: &str, value: &[u8], expect: Expect) -> Option<u64> {
    match store.put(key, value, expect, None).await.unwrap() {
        Put::Stored { version } => Some(version),
        Put::Conflict => None,
    }
}

async fn keys(store: &Shared, prefix: &str) -> Vec<String> {
    store.list(prefix, None, 1000).await.unwrap().into_iter().map(|(key, _)| key).collect()
}

/// Bytes of any kind, and none, and a mebibyte.
pub async fn what_is_put_is_what_is_got(store: &Shared) {
    assert!(store.get("got/none").await.unwrap().is_none());
    let large = vec![0xa5; 1 << 20];
    for (n, value) in [&b""[..], b"\0", b"{}", &[0xff, 0, 0xfe], &large].into_iter().enumerate() {
        let key = format!("got/{n}");
        let version = put(store, &key, value).await;
        let doc = store.get(&key).await.unwrap().unwrap();
        assert!(doc.value == value && doc.version == version, "value {n}");
    }
}

/// Any, Absent and Version.
pub async fn a_put_happens_only_if_what_it_expects_holds(store: &Shared) {
    let key = "expect/a";
    assert_eq!(put_if(store, key, b"0", Expect::Version(1)).await, None);
    let one = put_if(store, key, b"1", Expect::Absent).await.unwrap();
    assert_eq!(put_if(store, key, b"x", Expect::Absent).await, None);
    let two = put_if(store, key, b"2", Expect::Version(one)).await.unwrap();
    assert!(two > one);
    assert_eq!(put_if(store, key, b"x", Expect::Version(one)).await, None);
    assert_eq!(store.get(key).await.unwrap().unwrap().value, b"2");
    assert!(put_if(store, key, b"3", Expect::Any).await.unwrap() > two);
}

/// Who holds the version of a deleted document cannot write over its successor.
pub async fn a_version_does_not_come_back_after_a_delete(store: &Shared) {
    let key = "again/a";
    let old = put(store, key, b"1").await;
    assert!(store.delete(key, Expect::Any).await.unwrap());
    assert!(store.get(key).await.unwrap().is_none());
    assert_eq!(put_if(store, key, b"x", Expect::Version(old)).await, None);
    let new = put_if(store, key, b"2", Expect::Absent).await.unwrap();
    assert!(new > old);
    assert_eq!(put_if(store, key, b"x", Expect::Version(old)).await, None);
}

/// Deleting twice, and at another version.
pub async fn a_delete_happens_only_if_what_it_expects_holds(store: &Shared) {
    let key = "delete/a";
    assert!(!store.delete(key, Expect::Any).await.unwrap());
    let version = put(store, key, b"1").await;
    assert!(!store.delete(key, Expect::Version(version + 1)).await.unwrap());
    assert!(store.delete(key, Expect::Version(version)).await.unwrap());
    assert!(!store.delete(key, Expect::Version(version)).await.unwrap());
    assert!(keys(store, "delete/").await.is_empty());
}

/// Many tasks count up one document.
pub async fn of_racing_puts_exactly_one_wins_each_version(store: &Shared) {
    put(store, "race/a", b"0").await;
    let racer = || {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            let mut won = 0;
            while won < 10 {
                let doc = store.get("race/a").await.unwrap().unwrap();
                let next = std::str::from_utf8(&doc.value).unwrap().parse::<u32>().unwrap() + 1;
                let expect = Expect::Version(doc.version);
                won += u32::from(put_if(&store, "race/a", next.to_string().as_bytes(), expect).await.is_some());
            }
        })
    };
    for task in [racer(), racer(), racer(), racer()] {
        task.await.unwrap();
    }
    assert_eq!(store.get("race/a").await.unwrap().unwrap().value, b"40");
}

/// Expiry is seen by every call, and a later put without an end takes it away.
pub async fn an_expired_document_is_not_there(store: &Shared) {
    let ttl = Some(Duration::from_millis(1200));
    let Put::Stored { version } = store.put("ttl/a", b"1", Expect::Absent, ttl).await.unwrap() else { panic!() };
    store.put("ttl/b", b"1", Expect::Any, ttl).await.unwrap();
    put(store, "ttl/b", b"2").await;
    assert_eq!(keys(store, "ttl/").await, ["ttl/a", "ttl/b"]);
    let started = Instant::now();
    while store.get("ttl/a").await.unwrap().is_some() {
        assert!(started.elapsed() < Duration::from_secs(10), "it did not expire");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(keys(store, "ttl/").await, ["ttl/b"]);
    assert!(!store.delete("ttl/a", Expect::Any).await.unwrap());
    assert_eq!(put_if(store, "ttl/a", b"x", Expect::Version(version)).await, None);
    assert!(put_if(store, "ttl/a", b"2", Expect::Absent).await.unwrap() > version);
}

/// Wildcards, quotes, the ends of code points, and the prefix itself as a key.
pub async fn a_prefix_is_text_and_not_a_pattern(store: &Shared) {
    let prefixes = ["%", "_", "\\", "*", "?", "[a]", "'", "\"", "é", "\u{7f}", "\u{ffff}", "\u{10ffff}", "A", "a"];
    for prefix in prefixes {
        for end in ["", "1", "\u{10ffff}", "/x"] {
            put(store, &format!("prefix/{prefix}{end}"), b"x").await;
        }
    }
    for prefix in prefixes {
        let whole = format!("prefix/{prefix}");
        let mut expected: Vec<_> = ["", "1", "\u{10ffff}", "/x"].map(|end| format!("{whole}{end}")).into();
        expected.sort();
        assert_eq!(keys(store, &whole).await, expected, "{prefix:?}");
    }
    assert!(keys(store, "prefix/no such").await.is_empty());
    assert_eq!(keys(store, "prefix/").await.len(), prefixes.len() * 4);
    assert!(keys(store, "").await.len() >= prefixes.len() * 4);
}

/// In the order of the keys' bytes, page by page.
pub async fn a_list_goes_on_after_a_key(store: &Shared) {
    for n in 0..25 {
        put(store, &format!("page/{n:02}"), &[n]).await;
    }
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = store.list("page/", after.as_deref(), 10).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        listed.extend(page.into_iter().map(|(key, doc)| (key, doc.value[0])));
    }
    assert_eq!(listed, (0..25).map(|n| (format!("page/{n:02}"), n)).collect::<Vec<_>>());
    assert!(store.list("page/", Some("page/99"), 10).await.unwrap().is_empty());
    assert_eq!(store.list("page/", Some("a"), 1).await.unwrap()[0].0, "page/00");
}

/// It goes forward, and it is this century's.
pub async fn the_servers_time_runs(store: &Shared) {
    let first = store.now().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let second = store.now().await.unwrap();
    assert!(second > first && first.0 > 1_600_000_000 && first.0 < 10_000_000_000);
}

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(400);

/// A put, an overwrite and a delete.
pub async fn a_change_under_the_prefix_ends_the_wait(store: &Shared) {
    let mut mark = store.changed("notice/", &ChangeMark::start(), LONG).await.unwrap();
    for step in 0..3 {
        let waiter = {
            let (store, mark) = (Arc::clone(store), mark.clone());
            tokio::spawn(async move {
                let started = Instant::now();
                let next = store.changed("notice/", &mark, LONG).await.unwrap();
                (next, started.elapsed())
            })
        };
        tokio::time::sleep(Duration::from_millis(100)).await;
        match step {
            0 | 1 => drop(put(store, "notice/a", b"x").await),
            _ => assert!(store.delete("notice/a", Expect::Any).await.unwrap()),
        }
        let (next, waited) = waiter.await.unwrap();
        assert_ne!(next, mark, "step {step}");
        assert!(waited < LONG / 2, "step {step} waited {waited:?}");
        mark = next;
    }
}

/// The mark stays the same, and the wait takes as long as was asked for.
pub async fn a_change_elsewhere_does_not_end_the_wait(store: &Shared) {
    let mark = store.changed("calm/", &ChangeMark::start(), LONG).await.unwrap();
    let waiter = {
        let (store, mark) = (Arc::clone(store), mark.clone());
        tokio::spawn(async move {
            let started = Instant::now();
            (store.changed("calm/", &mark, SHORT).await.unwrap(), started.elapsed())
        })
    };
    put(store, "calm", b"x").await;
    put(store, "calm0", b"x").await;
    let (next, waited) = waiter.await.unwrap();
    assert_eq!(next, mark);
    assert!(waited >= SHORT);
}

/// Also a delete of something made meanwhile, which leaves nothing to be seen.
pub async fn a_change_between_two_waits_is_not_missed(store: &Shared) {
    let mark = store.changed("between/", &ChangeMark::start(), LONG).await.unwrap();
    put(store, "between/a", b"x").await;
    assert!(store.delete("between/a", Expect::Any).await.unwrap());
    let next = store.changed("between/", &mark, Duration::ZERO).await.unwrap();
    assert_ne!(next, mark);
    assert_eq!(store.changed("between/", &next, Duration::ZERO).await.unwrap(), next);
    let text = serde_json::to_string(&next).unwrap();
    assert_eq!(serde_json::from_str::<ChangeMark>(&text).unwrap(), next);
}

/// Keys and values that no store keeps, and a delete of what is absent.
pub async fn what_no_store_does_is_an_invalid_argument(store: &Shared) {
    let long = "k".repeat(513);
    for key in ["", "a\0b", long.as_str()] {
        assert!(matches!(store.get(key).await, Err(StoreError::InvalidArgument { .. })));
        assert!(matches!(store.put(key, b"", Expect::Any, None).await, Err(StoreError::InvalidArgument { .. })));
        assert!(matches!(store.delete(key, Expect::Any).await, Err(StoreError::InvalidArgument { .. })));
    }
    put(store, &long[..512], b"x").await;
    let large = vec![0; MAX_DOC + 1];
    let no_time = Some(Duration::ZERO);
    assert!(matches!(store.put("a", &large, Expect::Any, None).await, Err(StoreError::InvalidArgument { .. })));
    assert!(matches!(store.put("a", b"", Expect::Any, no_time).await, Err(StoreError::InvalidArgument { .. })));
    assert!(matches!(store.delete("a", Expect::Absent).await, Err(StoreError::InvalidArgument { .. })));
    assert!(matches!(store.list("", None, 0).await, Err(StoreError::InvalidArgument { .. })));
}
