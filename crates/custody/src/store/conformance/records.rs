//! [`RecordStore`]: scan, read and compare-and-swap.

use std::{collections::HashMap, sync::Arc};

use super::{Shared, collection, doc, doc_cell, hostile_keys, key, seed, swap};
use crate::store::{
    CellName, CellValue, CollectionId, MAX_PAGE, Partition, RecordKey, RecordStore, StoreError, Swap, Swapped,
};

/// All of the checks.
pub async fn run_all(store: &Shared) {
    it_describes_itself(&**store);
    reading_what_is_not_there_gives_none(store).await;
    a_swap_is_judged_on_the_very_value_that_was_read(store).await;
    swaps_of_a_batch_are_judged_by_themselves_and_in_order(store).await;
    an_old_value_that_differs_in_one_byte_does_not_match(store).await;
    large_batches_swap_with_and_without_misses(store).await;
    every_key_is_stored_as_it_is(store).await;
    empty_and_large_values_are_stored_as_they_are(store).await;
    a_scan_visits_every_record_once_in_pages(store).await;
    a_scan_ends_its_pages_early_where_records_are_large(store).await;
    a_scan_beside_writers_visits_what_stays(store).await;
    of_racing_writers_exactly_one_wins_each_round(store).await;
    p14_a_writer_between_read_and_swap_wins(store).await;
    what_no_store_does_is_an_invalid_argument(store).await;
}

/// Every record of a collection, by key, and how often each was visited.
pub async fn scan_all(store: &dyn RecordStore, c: &CollectionId, limit: usize) -> HashMap<RecordKey, (String, usize)> {
    let mut seen: HashMap<RecordKey, (String, usize)> = HashMap::new();
    for partition in store.partitions(c).await.unwrap() {
        let mut after = None;
        loop {
            let page = store.scan(c, &partition, after.as_ref(), limit).await.unwrap();
            assert!(page.records.len() <= limit, "a page is never larger than was asked for");
            for record in page.records {
                let doc = record.cell(&doc_cell()).unwrap().as_str().unwrap().to_owned();
                let entry = seen.entry(record.key).or_default();
                *entry = (doc, entry.1 + 1);
            }
            // A cursor survives being written down.
            let text = page.next.map(|cursor| serde_json::to_string(&cursor).unwrap());
            after = text.map(|text| serde_json::from_str(&text).unwrap());
            if after.is_none() {
                break;
            }
        }
    }
    seen
}

/// Messages can name the store.
pub fn it_describes_itself(store: &dyn RecordStore) {
    assert!(!store.describe().is_empty());
}

/// Neither an unknown key nor an unknown collection of ours is an error.
pub async fn reading_what_is_not_there_gives_none(store: &Shared) {
    let c = collection("nothing");
    assert!(store.read(&c, &key("a")).await.unwrap().is_none());
    assert!(scan_all(&**store, &c, 10).await.is_empty());
}

/// Done, Changed and Gone mean what they say, and the revision grows.
pub async fn a_swap_is_judged_on_the_very_value_that_was_read(store: &Shared) {
    let (c, a) = (collection("swap"), key("a"));
    seed(&**store, &c, &[(&a, "one")]).await;
    let before = store.read(&c, &a).await.unwrap().unwrap().revision;
    assert_eq!(store.swap(&c, vec![swap(&a, "one", "two")]).await.unwrap(), [Swapped::Done]);
    assert_eq!(store.swap(&c, vec![swap(&a, "one", "three")]).await.unwrap(), [Swapped::Changed]);
    assert_eq!(store.swap(&c, vec![swap(&key("b"), "one", "two")]).await.unwrap(), [Swapped::Gone]);
    assert!(doc(&**store, &c, &key("b")).await.is_none(), "a swap never creates");
    assert_eq!(store.swap(&collection("other"), vec![swap(&a, "two", "x")]).await.unwrap(), [Swapped::Gone]);
    assert_eq!(doc(&**store, &c, &a).await.unwrap(), "two");
    assert!(store.read(&c, &a).await.unwrap().unwrap().revision > before);
    assert!(store.swap(&c, Vec::new()).await.unwrap().is_empty());
}

/// A miss keeps nothing else from being stored, and later swaps see what earlier ones stored.
pub async fn swaps_of_a_batch_are_judged_by_themselves_and_in_order(store: &Shared) {
    let (c, a, b) = (collection("batch"), key("a"), key("b"));
    seed(&**store, &c, &[(&a, "1"), (&b, "1")]).await;
    let batch = vec![
        swap(&a, "1", "2"),
        swap(&key("none"), "1", "2"),
        swap(&b, "0", "2"),
        swap(&a, "2", "3"),
        swap(&a, "1", "9"),
        swap(&b, "1", "1"),
    ];
    use Swapped::{Changed, Done, Gone};
    assert_eq!(store.swap(&c, batch).await.unwrap(), [Done, Gone, Changed, Done, Changed, Done]);
    assert_eq!(doc(&**store, &c, &a).await.unwrap(), "3");
    assert_eq!(doc(&**store, &c, &b).await.unwrap(), "1");
}

/// Comparison is of bytes: no case, no trailing space, no normalization, no number.
pub async fn an_old_value_that_differs_in_one_byte_does_not_match(store: &Shared) {
    let (c, a) = (collection("bytes"), key("a"));
    let stored = "{\"a\": \"é1.0\"}";
    seed(&**store, &c, &[(&a, stored)]).await;
    for old in ["{\"a\": \"É1.0\"}", "{\"a\": \"é1.0\"} ", "{\"a\":\"é1.0\"}", "{\"a\": \"e\u{301}1.0\"}", ""] {
        assert_eq!(store.swap(&c, vec![swap(&a, old, "x")]).await.unwrap(), [Swapped::Changed], "{old}");
    }
    assert_eq!(store.swap(&c, vec![swap(&a, stored, "x")]).await.unwrap(), [Swapped::Done]);
}

/// Sizes around any number of rows that a statement could take.
pub async fn large_batches_swap_with_and_without_misses(store: &Shared) {
    for size in [1, 31, 32, 33, 500] {
        let c = collection(&format!("batch-of-{size}"));
        let keys: Vec<_> = (0..size).map(|n| key(&format!("k{n:04}"))).collect();
        seed(&**store, &c, &keys.iter().map(|k| (k, "old")).collect::<Vec<_>>()).await;
        let all = |old: &str, to: &str| keys.iter().map(|k| swap(k, old, to)).collect::<Vec<_>>();
        assert_eq!(store.swap(&c, all("old", "mid")).await.unwrap(), vec![Swapped::Done; size]);
        let last = size - 1;
        assert_eq!(store.swap(&c, vec![swap(&keys[last], "mid", "theirs")]).await.unwrap(), [Swapped::Done]);
        let results = store.swap(&c, all("mid", "new")).await.unwrap();
        for (n, result) in results.iter().enumerate() {
            assert_eq!(*result, if n == last { Swapped::Changed } else { Swapped::Done }, "{n} of {size}");
        }
        assert_eq!(doc(&**store, &c, &keys[last]).await.unwrap(), "theirs");
        let new = scan_all(&**store, &c, 100).await.values().filter(|(doc, _)| doc == "new").count();
        assert_eq!(new, last);
    }
}

/// Keys come back byte for byte, and none stands for another.
pub async fn every_key_is_stored_as_it_is(store: &Shared) {
    let c = collection("keys");
    let keys = hostile_keys();
    let docs: Vec<String> = (0..keys.len()).map(|n| format!("doc {n}")).collect();
    seed(&**store, &c, &keys.iter().zip(&docs).map(|(k, d)| (k, d.as_str())).collect::<Vec<_>>()).await;
    for (k, d) in keys.iter().zip(&docs) {
        assert_eq!(doc(&**store, &c, k).await.as_ref(), Some(d), "{k:?}");
        let changed = format!("{d}!");
        assert_eq!(store.swap(&c, vec![swap(k, d, &changed)]).await.unwrap(), [Swapped::Done], "{k:?}");
    }
    for limit in [1, 7, 1000] {
        let seen = scan_all(&**store, &c, limit).await;
        assert_eq!(seen.len(), keys.len());
        for (k, d) in keys.iter().zip(&docs) {
            assert_eq!(seen[k].0, format!("{d}!"), "{k:?}");
        }
    }
    assert!(RecordKey::new("a\0b").is_err());
}

/// Nothing, a mebibyte, and text of every kind.
pub async fn empty_and_large_values_are_stored_as_they_are(store: &Shared) {
    let c = collection("values");
    let large = "é\"\\\n🔑x".repeat((1 << 20) / 10);
    let values = ["", " ", "null", "{}", "\u{feff}x", "a\r\nb\t", large.as_str()];
    for (n, value) in values.iter().enumerate() {
        let k = key(&format!("v{n}"));
        seed(&**store, &c, &[(&k, value)]).await;
        assert!(doc(&**store, &c, &k).await.as_deref() == Some(value), "value {n} came back changed");
        assert_eq!(store.swap(&c, vec![swap(&k, value, "x")]).await.unwrap(), [Swapped::Done]);
        assert_eq!(store.swap(&c, vec![swap(&k, "x", value)]).await.unwrap(), [Swapped::Done]);
        assert!(doc(&**store, &c, &k).await.as_deref() == Some(value), "value {n} came back changed");
    }
}

/// Page by page, without a writer, each record comes once.
pub async fn a_scan_visits_every_record_once_in_pages(store: &Shared) {
    let c = collection("pages");
    let keys: Vec<_> = (0..100).map(|n| key(&format!("k{n:03}"))).collect();
    seed(&**store, &c, &keys.iter().map(|k| (k, "x")).collect::<Vec<_>>()).await;
    for limit in [1, 3, 99, 100, 101, MAX_PAGE] {
        let seen = scan_all(&**store, &c, limit).await;
        assert_eq!(seen.len(), 100, "pages of {limit}");
        assert!(seen.values().all(|(_, visits)| *visits == 1), "pages of {limit}");
    }
}

/// Memory is bounded by the store and not by the caller's guess of how large records are.
pub async fn a_scan_ends_its_pages_early_where_records_are_large(store: &Shared) {
    let c = collection("large-pages");
    let large = "x".repeat(1 << 20);
    for n in 0..20 {
        seed(&**store, &c, &[(&key(&format!("k{n:03}")), &large)]).await;
    }
    let partition = store.partitions(&c).await.unwrap().remove(0);
    let page = store.scan(&c, &partition, None, 1000).await.unwrap();
    assert!(page.records.len() < 20 && page.next.is_some());
    assert_eq!(scan_all(&**store, &c, 1000).await.len(), 20);
}

/// Records that are there during the whole scan are visited, whatever comes, goes and changes meanwhile.
pub async fn a_scan_beside_writers_visits_what_stays(store: &Shared) {
    let c = collection("beside");
    let stay: Vec<_> = (0..200).map(|n| key(&format!("k{n:03}"))).collect();
    seed(&**store, &c, &stay.iter().map(|k| (k, "0")).collect::<Vec<_>>()).await;
    let writer = {
        let (store, c, stay) = (Arc::clone(store), c.clone(), stay.clone());
        tokio::spawn(async move {
            for round in 0..30 {
                let passing = key(&format!("k{:03}-passing", (round * 67) % 200));
                seed(&*store, &c, &[(&passing, "p")]).await;
                let k = &stay[(round * 31) % 200];
                let now = doc(&*store, &c, k).await.unwrap();
                let longer = format!("{now}{}", "x".repeat(round * 50));
                assert_eq!(store.swap(&c, vec![swap(k, &now, &longer)]).await.unwrap(), [Swapped::Done]);
                assert!(store.remove(&c, &passing, None).await.unwrap());
            }
        })
    };
    while !writer.is_finished() {
        let seen = scan_all(&**store, &c, 9).await;
        for k in &stay {
            assert!(seen.contains_key(k), "{k} was there all the time and was not visited");
        }
    }
    writer.await.unwrap();
}

/// Many tasks count up one record; no step is lost and none is done twice.
pub async fn of_racing_writers_exactly_one_wins_each_round(store: &Shared) {
    let (c, k) = (collection("race"), key("counter"));
    seed(&**store, &c, &[(&k, "0")]).await;
    let racer = || {
        let (store, c, k) = (Arc::clone(store), c.clone(), k.clone());
        tokio::spawn(async move {
            let mut won = 0;
            while won < 10 {
                let now = doc(&*store, &c, &k).await.unwrap();
                let next = (now.parse::<u32>().unwrap() + 1).to_string();
                won += u32::from(store.swap(&c, vec![swap(&k, &now, &next)]).await.unwrap() == [Swapped::Done]);
            }
        })
    };
    for task in [racer(), racer(), racer(), racer()] {
        task.await.unwrap();
    }
    assert_eq!(doc(&**store, &c, &k).await.unwrap(), "40");
}

/// A job reads, another program writes, the job swaps: what the other program wrote stays, and the job learns of it.
pub async fn p14_a_writer_between_read_and_swap_wins(store: &Shared) {
    let (c, k) = (collection("p14"), key("instance"));
    seed(&**store, &c, &[(&k, r#"{"password":"old"}"#)]).await;
    let read = doc(&**store, &c, &k).await.unwrap();
    let theirs = r#"{"password":"changed by its owner"}"#;
    assert_eq!(store.swap(&c, vec![swap(&k, &read, theirs)]).await.unwrap(), [Swapped::Done]);
    let ours = r#"{"password":"kf1.sealed from the old one"}"#;
    assert_eq!(store.swap(&c, vec![swap(&k, &read, ours)]).await.unwrap(), [Swapped::Changed]);
    assert_eq!(doc(&**store, &c, &k).await.unwrap(), theirs);
    // The job comes again.
    let again = doc(&**store, &c, &k).await.unwrap();
    assert_eq!(store.swap(&c, vec![swap(&k, &again, ours)]).await.unwrap(), [Swapped::Done]);
}

/// Pages of nothing, unknown partitions and cells, values that cannot be stored: said, and nothing done.
pub async fn what_no_store_does_is_an_invalid_argument(store: &Shared) {
    let (c, k) = (collection("invalid"), key("a"));
    seed(&**store, &c, &[(&k, "x")]).await;
    let invalid = |result: Result<(), StoreError>| {
        assert!(matches!(result, Err(StoreError::InvalidArgument { .. })), "{result:?}");
    };
    let partition = store.partitions(&c).await.unwrap().remove(0);
    invalid(store.scan(&c, &partition, None, 0).await.map(drop));
    invalid(store.scan(&c, &partition, None, MAX_PAGE + 1).await.map(drop));
    invalid(store.scan(&c, &Partition::new("no-such-part").unwrap(), None, 1).await.map(drop));
    let mut other = swap(&k, "x", "y");
    other.cell = CellName::new("no-such-cell").unwrap();
    invalid(store.swap(&c, vec![swap(&k, "x", "y"), other]).await.map(drop));
    let bytes = Swap { new: CellValue::bytes(vec![0xff]), ..swap(&k, "x", "y") };
    invalid(store.swap(&c, vec![bytes]).await.map(drop));
    assert_eq!(doc(&**store, &c, &k).await.unwrap(), "x");
}
