//! [`RecordStore`]: scan, read and compare-and-swap.

use std::{collections::HashMap, sync::Arc};

use super::{
    Bench, Shared,
    bench::{On, Own},
    collection, hostile_keys,
};
use crate::store::{
    CellName, CellValue, CollectionId, MAX_PAGE, Partition, RecordKey, RecordStore, StoreError, Swap, Swapped,
};

/// All of the checks, on records of our own.
pub async fn run_all(store: &Shared) {
    run_on(&(Arc::new(Own(Arc::clone(store))) as Arc<dyn Bench>)).await;
}

/// All of the checks.
pub async fn run_on(bench: &Arc<dyn Bench>) {
    it_describes_itself(bench.store());
    reading_what_is_not_there_gives_none(bench).await;
    a_swap_is_judged_on_the_very_value_that_was_read(bench).await;
    swaps_of_a_batch_are_judged_by_themselves_and_in_order(bench).await;
    an_old_value_that_differs_in_one_byte_does_not_match(bench).await;
    large_batches_swap_with_and_without_misses(bench).await;
    every_key_is_stored_as_it_is(bench).await;
    empty_and_large_values_are_stored_as_they_are(bench).await;
    a_scan_visits_every_record_once_in_pages(bench).await;
    a_scan_ends_its_pages_early_where_records_are_large(bench).await;
    a_scan_beside_writers_visits_what_stays(bench).await;
    of_racing_writers_exactly_one_wins_each_round(bench).await;
    p14_a_writer_between_read_and_swap_wins(bench).await;
    what_no_store_does_is_an_invalid_argument(bench).await;
}

/// The collections that the checks use, for stores that must be told of them first.
#[must_use]
pub fn collections() -> Vec<CollectionId> {
    let batches = BATCHES.map(|size| format!("batch-of-{size}"));
    let others = [
        "nothing",
        "swap",
        "other",
        "batch",
        "bytes",
        "keys",
        "values",
        "pages",
        "large-pages",
        "beside",
        "race",
        "p14",
        "invalid",
    ];
    others.into_iter().chain(batches.iter().map(String::as_str)).map(collection).collect()
}

/// Sizes around any number of rows that a statement could take.
const BATCHES: [usize; 5] = [1, 31, 32, 33, 500];

/// Every record of a collection, by key, and how often each was visited.
async fn scan_all(on: &On, limit: usize) -> HashMap<RecordKey, (String, usize)> {
    let mut seen: HashMap<RecordKey, (String, usize)> = HashMap::new();
    for partition in on.store().partitions(&on.c).await.unwrap() {
        let mut after = None;
        loop {
            let page = on.store().scan(&on.c, &partition, after.as_ref(), limit).await.unwrap();
            assert!(page.records.len() <= limit, "a page is never larger than was asked for");
            for record in page.records {
                // What was removed meanwhile may have no cell any more.
                let Some(held) = record.cell(&on.bench.cell()) else { continue };
                let held = held.as_str().unwrap().to_owned();
                let entry = seen.entry(record.key).or_default();
                *entry = (held, entry.1 + 1);
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

/// Neither an unknown key nor a collection without records is an error.
pub async fn reading_what_is_not_there_gives_none(bench: &Arc<dyn Bench>) {
    let on = On::new(bench, "nothing");
    assert!(on.held(&on.key("a")).await.is_none());
    assert!(scan_all(&on, 10).await.is_empty());
}

/// Done, Changed and Gone mean what they say, and the revision grows.
pub async fn a_swap_is_judged_on_the_very_value_that_was_read(bench: &Arc<dyn Bench>) {
    let on = On::new(bench, "swap");
    let a = on.key("a");
    on.seed(&[(&a, "one")]).await;
    let before = on.store().read(&on.c, &a).await.unwrap().unwrap().revision;
    assert_eq!(on.swap(&a, "one", "two").await, Swapped::Done);
    assert_eq!(on.swap(&a, "one", "three").await, Swapped::Changed);
    assert_eq!(on.swap(&on.key("b"), "one", "two").await, Swapped::Gone);
    assert!(on.held(&on.key("b")).await.is_none(), "a swap never creates");
    assert_eq!(On::new(bench, "other").swap(&a, "two", "x").await, Swapped::Gone);
    assert_eq!(on.held(&a).await.unwrap(), "two");
    if bench.counts_changes() {
        assert!(on.store().read(&on.c, &a).await.unwrap().unwrap().revision > before);
    }
    assert!(on.swap_all(Vec::new()).await.is_empty());
}

/// A miss keeps nothing else from being stored, and later swaps see what earlier ones stored.
pub async fn swaps_of_a_batch_are_judged_by_themselves_and_in_order(bench: &Arc<dyn Bench>) {
    let on = On::new(bench, "batch");
    let (a, b) = (on.key("a"), on.key("b"));
    on.seed(&[(&a, "1"), (&b, "1")]).await;
    let batch = vec![
        on.swap_of(&a, "1", "2"),
        on.swap_of(&on.key("none"), "1", "2"),
        on.swap_of(&b, "0", "2"),
        on.swap_of(&a, "2", "3"),
        on.swap_of(&a, "1", "9"),
        on.swap_of(&b, "1", "1"),
    ];
    use Swapped::{Changed, Done, Gone};
    assert_eq!(on.swap_all(batch).await, [Done, Gone, Changed, Done, Changed, Done]);
    assert_eq!(on.held(&a).await.unwrap(), "3");
    assert_eq!(on.held(&b).await.unwrap(), "1");
}

/// Comparison is of bytes: no case, no trailing space, no normalization, no number.
pub async fn an_old_value_that_differs_in_one_byte_does_not_match(bench: &Arc<dyn Bench>) {
    let on = On::new(bench, "bytes");
    let a = on.key("a");
    let stored = "{\"a\": \"é1.0\"}";
    on.seed(&[(&a, stored)]).await;
    for old in ["{\"a\": \"É1.0\"}", "{\"a\": \"é1.0\"} ", "{\"a\":\"é1.0\"}", "{\"a\": \"e\u{301}1.0\"}", ""] {
        assert_eq!(on.swap(&a, old, "x").await, Swapped::Changed, "{old}");
    }
    assert_eq!(on.swap(&a, stored, "x").await, Swapped::Done);
}

/// One that misses does not take the others with it.
pub async fn large_batches_swap_with_and_without_misses(bench: &Arc<dyn Bench>) {
    for size in BATCHES {
        let on = On::new(bench, &format!("batch-of-{size}"));
        let keys: Vec<_> = (0..size).map(|n| on.key(&format!("k{n:04}"))).collect();
        on.seed(&keys.iter().map(|k| (k, "old")).collect::<Vec<_>>()).await;
        let all = |old: &str, to: &str| keys.iter().map(|k| on.swap_of(k, old, to)).collect::<Vec<_>>();
        assert_eq!(on.swap_all(all("old", "mid")).await, vec![Swapped::Done; size]);
        let last = size - 1;
        assert_eq!(on.swap(&keys[last], "mid", "theirs").await, Swapped::Done);
        let results = on.swap_all(all("mid", "new")).await;
        for (n, result) in results.iter().enumerate() {
            assert_eq!(*result, if n == last { Swapped::Changed } else { Swapped::Done }, "{n} of {size}");
        }
        assert_eq!(on.held(&keys[last]).await.unwrap(), "theirs");
        let new = scan_all(&on, 100).await.values().filter(|(held, _)| held == "new").count();
        assert_eq!(new, last);
    }
}

/// Keys come back byte for byte, and none stands for another.
pub async fn every_key_is_stored_as_it_is(bench: &Arc<dyn Bench>) {
    let on = On::new(bench, "keys");
    let keys: Vec<_> = hostile_keys().iter().map(|name| on.key(name.as_str())).collect();
    let values: Vec<String> = (0..keys.len()).map(|n| format!("value {n}")).collect();
    on.seed(&keys.iter().zip(&values).map(|(k, v)| (k, v.as_str())).collect::<Vec<_>>()).await;
    for (k, v) in keys.iter().zip(&values) {
        assert_eq!(on.held(k).await.as_ref(), Some(v), "{k:?}");
        assert_eq!(on.swap(k, v, &format!("{v}!")).await, Swapped::Done, "{k:?}");
    }
    for limit in [1, 7, 1000] {
        let seen = scan_all(&on, limit).await;
        assert_eq!(seen.len(), keys.len());
        for (k, v) in keys.iter().zip(&values) {
            assert_eq!(seen[k].0, format!("{v}!"), "{k:?}");
        }
    }
    assert!(RecordKey::new("a\0b").is_err());
}

/// Nothing, a mebibyte or what there can be, and text of every kind.
pub async fn empty_and_large_values_are_stored_as_they_are(bench: &Arc<dyn Bench>) {
    let on = On::new(bench, "values");
    let large = "é\"\\\n🔑x".repeat(bench.largest() / 10);
    let values = ["", " ", "null", "{}", "\u{feff}x", "a\r\nb\t", large.as_str()];
    for (n, value) in values.iter().enumerate() {
        let k = on.key(&format!("v{n}"));
        on.seed(&[(&k, value)]).await;
        assert!(on.held(&k).await.as_deref() == Some(value), "value {n} came back changed");
        assert_eq!(on.swap(&k, value, "x").await, Swapped::Done);
        assert_eq!(on.swap(&k, "x", value).await, Swapped::Done);
        assert!(on.held(&k).await.as_deref() == Some(value), "value {n} came back changed");
    }
}

/// Page by page, without a writer, each record comes once.
pub async fn a_scan_visits_every_record_once_in_pages(bench: &Arc<dyn Bench>) {
    let on = On::new(bench, "pages");
    let keys: Vec<_> = (0..100).map(|n| on.key(&format!("k{n:03}"))).collect();
    on.seed(&keys.iter().map(|k| (k, "x")).collect::<Vec<_>>()).await;
    for limit in [1, 3, 99, 100, 101, MAX_PAGE] {
        let seen = scan_all(&on, limit).await;
        assert_eq!(seen.len(), 100, "pages of {limit}");
        assert!(seen.values().all(|(_, visits)| *visits == 1), "pages of {limit}");
    }
}

/// Memory is bounded by the store and not by the caller's guess of how large records are.
pub async fn a_scan_ends_its_pages_early_where_records_are_large(bench: &Arc<dyn Bench>) {
    let on = On::new(bench, "large-pages");
    let large = "x".repeat(bench.largest());
    for n in 0..40 {
        on.seed(&[(&on.key(&format!("k{n:03}")), &large)]).await;
    }
    for partition in on.store().partitions(&on.c).await.unwrap() {
        let page = on.store().scan(&on.c, &partition, None, 1000).await.unwrap();
        assert!(page.records.len() < 20, "{} MiB in one page", page.records.len());
    }
    assert_eq!(scan_all(&on, 1000).await.len(), 40);
}

/// Records that are there during the whole scan are visited, whatever comes, goes and changes meanwhile.
pub async fn a_scan_beside_writers_visits_what_stays(bench: &Arc<dyn Bench>) {
    let on = On::new(bench, "beside");
    let stay: Vec<_> = (0..200).map(|n| on.key(&format!("k{n:03}"))).collect();
    on.seed(&stay.iter().map(|k| (k, "0")).collect::<Vec<_>>()).await;
    let writer = {
        let (on, stay) = (on.clone(), stay.clone());
        tokio::spawn(async move {
            for round in 0..30 {
                let passing = on.key(&format!("k{:03}-passing", (round * 67) % 200));
                on.seed(&[(&passing, "p")]).await;
                let k = &stay[(round * 31) % 200];
                let now = on.held(k).await.unwrap();
                let longer = format!("{now}{}", "x".repeat(round * 50));
                assert_eq!(on.swap(k, &now, &longer).await, Swapped::Done);
                on.remove(&passing).await;
            }
        })
    };
    while !writer.is_finished() {
        let seen = scan_all(&on, 9).await;
        for k in &stay {
            assert!(seen.contains_key(k), "{k} was there all the time and was not visited");
        }
    }
    writer.await.unwrap();
}

/// Many tasks count up one record; no step is lost and none is done twice.
pub async fn of_racing_writers_exactly_one_wins_each_round(bench: &Arc<dyn Bench>) {
    let on = On::new(bench, "race");
    let k = on.key("counter");
    on.seed(&[(&k, "0")]).await;
    let racer = || {
        let (on, k) = (on.clone(), k.clone());
        tokio::spawn(async move {
            let mut won = 0;
            while won < 10 {
                let now = on.held(&k).await.unwrap();
                let next = (now.parse::<u32>().unwrap() + 1).to_string();
                won += u32::from(on.swap(&k, &now, &next).await == Swapped::Done);
            }
        })
    };
    for task in [racer(), racer(), racer(), racer()] {
        task.await.unwrap();
    }
    assert_eq!(on.held(&k).await.unwrap(), "40");
}

/// A job reads, another program writes, the job swaps: what the other program wrote stays, and the job learns of it.
pub async fn p14_a_writer_between_read_and_swap_wins(bench: &Arc<dyn Bench>) {
    let on = On::new(bench, "p14");
    let k = on.key("instance");
    on.seed(&[(&k, r#"{"password":"old"}"#)]).await;
    let read = on.held(&k).await.unwrap();
    let theirs = r#"{"password":"changed by its owner"}"#;
    assert_eq!(on.swap(&k, &read, theirs).await, Swapped::Done);
    let ours = r#"{"password":"kf1.sealed from the old one"}"#;
    assert_eq!(on.swap(&k, &read, ours).await, Swapped::Changed);
    assert_eq!(on.held(&k).await.unwrap(), theirs);
    // The job comes again.
    let again = on.held(&k).await.unwrap();
    assert_eq!(on.swap(&k, &again, ours).await, Swapped::Done);
}

/// Pages of nothing, unknown partitions and cells, values that cannot be stored: said, and nothing done.
pub async fn what_no_store_does_is_an_invalid_argument(bench: &Arc<dyn Bench>) {
    let on = On::new(bench, "invalid");
    let k = on.key("a");
    on.seed(&[(&k, "x")]).await;
    let invalid = |result: Result<(), StoreError>| {
        assert!(matches!(result, Err(StoreError::InvalidArgument { .. })), "{result:?}");
    };
    let partition = on.store().partitions(&on.c).await.unwrap().remove(0);
    invalid(on.store().scan(&on.c, &partition, None, 0).await.map(drop));
    invalid(on.store().scan(&on.c, &partition, None, MAX_PAGE + 1).await.map(drop));
    invalid(on.store().scan(&on.c, &Partition::new("no-such-part").unwrap(), None, 1).await.map(drop));
    if !bench.takes_any_cell() {
        let mut other = on.swap_of(&k, "x", "y");
        other.cell = CellName::new("no-such-cell").unwrap();
        invalid(on.store().swap(&on.c, vec![on.swap_of(&k, "x", "y"), other]).await.map(drop));
    }
    let bytes = Swap { new: CellValue::bytes(vec![0xff]), ..on.swap_of(&k, "x", "y") };
    invalid(on.store().swap(&on.c, vec![bytes]).await.map(drop));
    assert_eq!(on.held(&k).await.unwrap(), "x");
}
