//! [`OwnRecords`](crate::store::OwnRecords): making, removing, counting and listing.

use std::sync::Arc;

use super::{Shared, collection, doc, hostile_keys, key, new, seed, swap};
use crate::store::{CellValue, CollectionId, Inserted, NewRecord, OnExisting, RecordKey, StoreError, Swapped};

/// All of the checks.
pub async fn run_all(store: &Shared) {
    an_existing_record_is_skipped_replaced_or_refused(store).await;
    a_refused_batch_writes_nothing_at_all(store).await;
    a_key_that_a_batch_names_twice_exists_the_second_time(store).await;
    a_record_is_removed_once_and_only_at_the_expected_revision(store).await;
    keys_are_listed_and_counted(store).await;
    collections_are_listed_and_kept_apart(store).await;
    of_racing_inserts_exactly_one_creates(store).await;
    what_cannot_be_stored_is_refused_before_anything_is(store).await;
    where_writes_are_counted_a_swap_is_one_and_nothing_goes_uncounted(store).await;
}

/// A job finds by this count that it was alone.
pub async fn where_writes_are_counted_a_swap_is_one_and_nothing_goes_uncounted(store: &Shared) {
    let (c, a, b) = (collection("counted"), key("a"), key("b"));
    seed(&**store, &c, &[(&a, "1"), (&b, "1")]).await;
    let writes = async || store.writes(&c).await.unwrap();
    let Some(mut before) = writes().await else { return };
    let mut grown = async |least: u64, most: u64| {
        let now = writes().await.unwrap();
        assert!(
            now.since == before.since && (least..=most).contains(&(now.count - before.count)),
            "{before:?} became {now:?}"
        );
        before = now;
    };
    for (batch, done) in [
        (vec![swap(&a, "1", "2"), swap(&b, "1", "2")], [Swapped::Done, Swapped::Done]),
        // One of them, then both, were changed by somebody else.
        (vec![swap(&a, "1", "3"), swap(&b, "2", "3")], [Swapped::Changed, Swapped::Done]),
        (vec![swap(&a, "1", "3"), swap(&b, "1", "3")], [Swapped::Changed, Swapped::Changed]),
    ] {
        assert_eq!(store.swap(&c, batch).await.unwrap(), done);
        grown(1, 1).await;
    }
    assert!(store.swap(&c, Vec::new()).await.unwrap().is_empty());
    scan_once(store, &c).await;
    grown(0, 0).await;
    store.insert(&c, vec![new(&a, "4")], OnExisting::Replace).await.unwrap();
    grown(1, u64::MAX).await;
    assert!(store.remove(&c, &b, None).await.unwrap());
    seed(&**store, &c, &[(&b, "5")]).await;
    grown(1, u64::MAX).await;
}

async fn scan_once(store: &Shared, c: &CollectionId) {
    for partition in store.partitions(c).await.unwrap() {
        store.scan(c, &partition, None, 10).await.unwrap();
    }
}

/// The three ways to meet a record that is there.
pub async fn an_existing_record_is_skipped_replaced_or_refused(store: &Shared) {
    let (c, a, b) = (collection("existing"), key("a"), key("b"));
    seed(&**store, &c, &[(&a, "1")]).await;
    let both = |doc: &str| vec![new(&a, doc), new(&b, doc)];
    let results = store.insert(&c, both("2"), OnExisting::Skip).await.unwrap();
    assert_eq!(results, [Inserted::Exists, Inserted::Created]);
    assert_eq!(doc(&**store, &c, &a).await.unwrap(), "1");
    let results = store.insert(&c, both("3"), OnExisting::Replace).await.unwrap();
    assert_eq!(results, [Inserted::Replaced, Inserted::Replaced]);
    assert_eq!(doc(&**store, &c, &a).await.unwrap(), "3");
    assert!(store.insert(&c, Vec::new(), OnExisting::Fail).await.unwrap().is_empty());
}

/// Also where the one that exists comes last in a large batch.
pub async fn a_refused_batch_writes_nothing_at_all(store: &Shared) {
    let (c, last) = (collection("all-or-none"), key("k0199"));
    seed(&**store, &c, &[(&last, "theirs")]).await;
    let batch = (0..200).map(|n| new(&key(&format!("k{n:04}")), "ours")).collect();
    match store.insert(&c, batch, OnExisting::Fail).await {
        Err(StoreError::Exists { key }) => assert_eq!(key, last),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.count(&c).await.unwrap(), 1);
    assert_eq!(doc(&**store, &c, &last).await.unwrap(), "theirs");
}

/// A batch is stored in order.
pub async fn a_key_that_a_batch_names_twice_exists_the_second_time(store: &Shared) {
    let (c, a) = (collection("twice"), key("a"));
    let twice = || vec![new(&a, "1"), new(&a, "2")];
    assert!(matches!(store.insert(&c, twice(), OnExisting::Fail).await, Err(StoreError::Exists { .. })));
    assert_eq!(store.count(&c).await.unwrap(), 0);
    let results = store.insert(&c, twice(), OnExisting::Skip).await.unwrap();
    assert_eq!(results, [Inserted::Created, Inserted::Exists]);
    assert_eq!(doc(&**store, &c, &a).await.unwrap(), "1");
    assert!(store.remove(&c, &a, None).await.unwrap());
    let results = store.insert(&c, twice(), OnExisting::Replace).await.unwrap();
    assert_eq!(results, [Inserted::Created, Inserted::Replaced]);
    assert_eq!(doc(&**store, &c, &a).await.unwrap(), "2");
}

/// A revision does not come back with a record that is made anew.
pub async fn a_record_is_removed_once_and_only_at_the_expected_revision(store: &Shared) {
    let (c, a) = (collection("remove"), key("a"));
    assert!(!store.remove(&c, &a, None).await.unwrap());
    seed(&**store, &c, &[(&a, "1")]).await;
    let first = store.read(&c, &a).await.unwrap().unwrap().revision;
    assert!(!store.remove(&c, &a, Some(first + 1)).await.unwrap());
    assert!(!store.remove(&c, &a, Some(u64::MAX)).await.unwrap());
    assert!(store.remove(&c, &a, Some(first)).await.unwrap());
    assert!(!store.remove(&c, &a, None).await.unwrap());
    seed(&**store, &c, &[(&a, "2")]).await;
    assert!(!store.remove(&c, &a, Some(first)).await.unwrap(), "the new record was taken for the old one");
    assert!(store.remove(&c, &a, None).await.unwrap());
}

/// Each key once, hostile ones too.
pub async fn keys_are_listed_and_counted(store: &Shared) {
    let c = collection("list");
    let mut keys = hostile_keys();
    seed(&**store, &c, &keys.iter().map(|k| (k, "x")).collect::<Vec<_>>()).await;
    assert_eq!(store.count(&c).await.unwrap(), keys.len() as u64);
    keys.sort();
    for limit in [1, 10, 1000] {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = store.keys(&c, after.as_ref(), limit).await.unwrap();
            listed.extend(page.keys);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        listed.sort();
        assert_eq!(listed, keys);
    }
    assert!(matches!(store.keys(&c, None, 0).await, Err(StoreError::InvalidArgument { .. })));
}

/// One collection's records are not another's, however alike their ids are.
pub async fn collections_are_listed_and_kept_apart(store: &Shared) {
    let ids = ["apart", "apart.", "apart-a", "APART"].map(collection);
    for (n, c) in ids.iter().enumerate() {
        seed(&**store, c, &[(&key("a"), &n.to_string()), (&key("b"), "x")]).await;
    }
    for (n, c) in ids.iter().enumerate() {
        assert_eq!(doc(&**store, c, &key("a")).await.unwrap(), n.to_string());
        assert_eq!(store.count(c).await.unwrap(), 2);
    }
    let listed = store.collections().await.unwrap();
    assert!(ids.iter().all(|c| listed.contains(c)));
    assert!(listed.is_sorted());
    for k in [key("a"), key("b")] {
        assert!(store.remove(&ids[0], &k, None).await.unwrap());
    }
    assert!(!store.collections().await.unwrap().contains(&ids[0]));
}

/// Two tasks insert the same keys: each key is created once.
pub async fn of_racing_inserts_exactly_one_creates(store: &Shared) {
    let c = collection("insert-race");
    let racer = || {
        let (store, c) = (Arc::clone(store), c.clone());
        tokio::spawn(async move {
            let mut created = 0;
            for n in 0..20 {
                let batch = vec![new(&key(&format!("k{n}")), "x")];
                let results = store.insert(&c, batch, OnExisting::Skip).await.unwrap();
                created += results.iter().filter(|r| **r == Inserted::Created).count();
            }
            created
        })
    };
    let (one, two) = (racer(), racer());
    assert_eq!(one.await.unwrap() + two.await.unwrap(), 20);
}

/// A document that is not text, or too large.
pub async fn what_cannot_be_stored_is_refused_before_anything_is(store: &Shared) {
    let c = collection("unstorable");
    let too_large = CellValue::text("x".repeat(crate::store::MAX_CELL + 1));
    for doc in [CellValue::bytes(vec![0xff, 0xfe]), too_large] {
        let bad = NewRecord { key: RecordKey::new("b").unwrap(), doc };
        let result = store.insert(&c, vec![new(&key("a"), "x"), bad], OnExisting::Skip).await;
        assert!(matches!(result, Err(StoreError::InvalidArgument { .. })));
    }
    assert_eq!(store.count(&c).await.unwrap(), 0);
}
