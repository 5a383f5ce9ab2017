//! What a scan finds and what a swap leaves as it is.

use keyfold_custody::store::{
    CellName, CellValue, DOC_CELL, RecordKey, RecordStore as _, StoreError, Swap, Swapped, conformance,
};
use serde_json::{Value, json};

use crate::{
    foreign::{Foreign, connect, id, scan_all},
    servers::firestore::{Firestore, ROOT},
};

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_one_collection_conform() {
    let Some(emulator) = Firestore::start() else { return };
    conformance::records::run_on(&Foreign::on(&emulator, false).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_collections_below_documents_conform() {
    let Some(emulator) = Firestore::start() else { return };
    conformance::records::run_on(&Foreign::on(&emulator, true).await).await;
}

fn swap(key: &str, old: &str, new: &str) -> Swap {
    let (old, new) = (CellValue::text(old.into()), CellValue::text(new.into()));
    Swap { key: RecordKey::new(key).unwrap(), cell: CellName::new(DOC_CELL).unwrap(), old, new }
}

/// Values of every type that Firestore has.
fn every_type() -> Value {
    json!({
        "text": {"stringValue": "plain"},
        "no": {"booleanValue": false},
        "nothing": {"nullValue": null},
        "whole": {"integerValue": "9223372036854775807"},
        "broken": {"doubleValue": 0.1},
        "huge": {"doubleValue": 1e300},
        "nan": {"doubleValue": "NaN"},
        "endless": {"doubleValue": "-Infinity"},
        "when": {"timestampValue": "2026-01-02T03:04:05.678901Z"},
        "bytes": {"bytesValue": "AP8="},
        "where": {"geoPointValue": {"latitude": 1.5, "longitude": -2.25}},
        "which": {"referenceValue": format!("{ROOT}/agents/other")},
        "empty": {"mapValue": {}},
        "vector": {"mapValue": {"fields": {
            "__type__": {"stringValue": "__vector__"},
            "value": {"arrayValue": {"values": [{"doubleValue": 1.0}, {"doubleValue": 2.5}]}},
        }}},
    })
}

#[tokio::test]
async fn a_swap_changes_a_text_and_leaves_every_other_field_in_its_type() {
    let Some(emulator) = Firestore::start() else { return };
    let owner = emulator.owner();
    let mut inside = every_type();
    inside["pass.word `\\"] = json!({"stringValue": "old-1"});
    let mut element = every_type();
    element["token"] = json!({"stringValue": "old-2"});
    // An array holds neither an array nor a vector.
    let mut list = every_type();
    for value in [&mut element, &mut list] {
        value.as_object_mut().unwrap().remove("vector");
    }
    let mut list: Vec<Value> = list.as_object().unwrap().values().cloned().collect();
    list.push(json!({"mapValue": {"fields": element}}));
    let mut fields = every_type();
    fields["smtp settings"] = json!({"mapValue": {"fields": inside}});
    fields["list"] = json!({"arrayValue": {"values": list}});
    owner.put("agents/a", &fields).await;
    let (before, _) = owner.get("agents/a").await.unwrap();

    let store = connect(&emulator, &[("c", "agents")]).await.unwrap();
    let record = scan_all(&store, &id("c"), 10).await.records.remove(0);
    let old = record.cells[0].value.as_str().unwrap().to_owned();
    let read: Value = serde_json::from_str(&old).unwrap();
    assert_eq!(read["smtp settings"]["pass.word `\\"], "old-1");
    assert_eq!(read["list"][13]["token"], "old-2");
    assert_eq!(read["when"], json!({"timestampValue": "2026-01-02T03:04:05.678901Z"}));
    let new = old.replace("old-", "new-");
    assert_eq!(store.swap(&id("c"), vec![swap("a", &old, &new)]).await.unwrap(), [Swapped::Done]);

    let (after, _) = owner.get("agents/a").await.unwrap();
    let expected = before.to_string().replace("old-", "new-");
    assert_eq!(after, serde_json::from_str::<Value>(&expected).unwrap());
    assert_eq!(store.read(&id("c"), &record.key).await.unwrap().unwrap().cells[0].value.as_str(), Some(&*new));
}

#[tokio::test]
async fn p14_what_others_write_between_read_and_swap_stays() {
    let Some(emulator) = Firestore::start() else { return };
    let (owner, c) = (emulator.owner(), id("c"));
    let store = connect(&emulator, &[("c", "agents")]).await.unwrap();
    let fields = |token: &str, note: &str| json!({"token": {"stringValue": token}, "note": {"stringValue": note}});
    owner.put("agents/a", &fields("old", "one")).await;
    let old = r#"{"note":"one","token":"old"}"#;
    let new = r#"{"note":"one","token":"sealed"}"#;
    // Somebody writes the whole document, changing another field only.
    owner.put("agents/a", &fields("old", "two")).await;
    assert_eq!(store.swap(&c, vec![swap("a", old, new)]).await.unwrap(), [Swapped::Changed]);
    assert_eq!(owner.get("agents/a").await.unwrap().0, fields("old", "two"));
    owner.delete("agents/a").await;
    assert_eq!(store.swap(&c, vec![swap("a", old, new)]).await.unwrap(), [Swapped::Gone]);
    assert!(owner.get("agents/a").await.is_none(), "a swap never creates");
}

#[tokio::test(flavor = "multi_thread")]
async fn p14_no_write_is_lost_among_writers_of_whole_documents() {
    let Some(emulator) = Firestore::start() else { return };
    let owner = emulator.owner();
    let store = connect(&emulator, &[("c", "agents")]).await.unwrap();
    let fields = |count: u32, token: u32| json!({"count": {"integerValue": count.to_string()}, "token": {"stringValue": format!("t{token}")}});
    owner.put("agents/a", &fields(0, 0)).await;
    // The owner counts up one field in whole documents; the store the other.
    let writer = tokio::spawn({
        let owner = owner.clone();
        async move {
            let mut done = 0;
            while done < 30 {
                let (mut now, updated) = owner.get("agents/a").await.unwrap();
                let count: u32 = now["count"]["integerValue"].as_str().unwrap().parse().unwrap();
                now["count"]["integerValue"] = (count + 1).to_string().into();
                done += u32::from(owner.put_if("agents/a", &now, &updated).await);
            }
        }
    });
    let (c, key) = (id("c"), RecordKey::new("a").unwrap());
    let mut done = 0;
    while done < 30 {
        let record = store.read(&c, &key).await.unwrap().unwrap();
        let old = record.cells[0].value.as_str().unwrap().to_owned();
        let new = old.replace(&format!("\"t{done}\""), &format!("\"t{}\"", done + 1));
        done += u32::from(store.swap(&c, vec![swap("a", &old, &new)]).await.unwrap() == [Swapped::Done]);
    }
    writer.await.unwrap();
    assert_eq!(owner.get("agents/a").await.unwrap().0, fields(30, 30));
}

#[tokio::test]
async fn a_collection_has_its_own_documents_and_no_others() {
    let Some(emulator) = Firestore::start() else { return };
    let owner = emulator.owner();
    let document = json!({"token": {"stringValue": "x"}});
    let longest = "é".repeat(750);
    let mine = ["users/u1/tokens/t1", "users/u1/tokens/t2", "users/u 2/tokens/__id7__", "users/\0%41/tokens/100%"];
    let others =
        ["tokens/t1", "users/u1", "others/u1/tokens/t1", "users/u1/tokens/t1/tokens/t", "deep/d/users/u/tokens/t"];
    for path in mine.iter().chain(&others) {
        owner.put(path, &document).await;
    }
    owner.put(&format!("users/{longest}/tokens/{longest}"), &document).await;
    let paths = [("every", "users/*/tokens"), ("one", "users/u1/tokens"), ("below", "deep/d/users/*/tokens")];
    let store = connect(&emulator, &paths).await.unwrap();
    for limit in [1, 2, 100] {
        let found = |name| {
            let store = store.clone();
            async move {
                let page = scan_all(&store, &id(name), limit).await;
                let mut keys: Vec<_> = page.records.iter().map(|record| record.key.as_str().to_owned()).collect();
                keys.sort();
                (keys, page.odd.len())
            }
        };
        let long = format!("{longest}/{longest}");
        let mut expected = ["u1/t1", "u1/t2", "u 2/__id7__", "%00%2541/100%", &long].map(ToOwned::to_owned);
        expected.sort();
        assert_eq!(found("every").await, (expected.to_vec(), 0));
        assert_eq!(found("one").await, (vec!["t1".to_owned(), "t2".to_owned()], 0));
        assert_eq!(found("below").await, (vec!["u/t".to_owned()], 0));
    }
    for key in ["u1/t1", "u 2/__id7__", "%00%2541/100%"] {
        let key = RecordKey::new(key).unwrap();
        assert!(store.read(&id("every"), &key).await.unwrap().is_some(), "{key}");
    }
    for nothing in ["t1", "u1", "u1/t9", "u1/t1/tokens/t", "../t1"] {
        assert!(store.read(&id("every"), &RecordKey::new(nothing).unwrap()).await.unwrap().is_none(), "{nothing}");
    }
    assert_eq!(store.estimate(&id("one")).await.unwrap(), Some(2));
}

#[tokio::test]
async fn what_a_swap_cannot_do_is_said_and_not_done() {
    let Some(emulator) = Firestore::start() else { return };
    let (owner, c) = (emulator.owner(), id("c"));
    let fields = json!({"at": {"timestampValue": "2026-01-02T03:04:05Z"}, "token": {"stringValue": "x"}});
    owner.put("agents/a", &fields).await;
    let store = connect(&emulator, &[("c", "agents")]).await.unwrap();
    let old = r#"{"at":{"timestampValue":"2026-01-02T03:04:05Z"},"token":"x"}"#;
    for new in ["{}", "not JSON", &old.replace("03:04", "03:05"), &old.replace("token", "tokens")] {
        let result = store.swap(&c, vec![swap("a", old, new)]).await;
        assert!(matches!(result, Err(StoreError::InvalidArgument { .. })), "{new}: {result:?}");
    }
    let large = old.replace("\"x\"", &format!("\"{}\"", "secret".repeat(200_000)));
    // One document that would become too large does not keep the others from being written.
    owner.put("agents/b", &fields).await;
    let new = old.replace("\"x\"", "\"y\"");
    let both = vec![swap("a", old, &large), swap("b", old, &new)];
    assert_eq!(store.swap(&c, both).await.unwrap(), [Swapped::Refused, Swapped::Done]);
    assert_eq!(owner.get("agents/a").await.unwrap().0, fields);
}

#[tokio::test]
async fn p02_an_emulator_that_is_gone_is_an_error_and_no_empty_collection() {
    let Some(mut emulator) = Firestore::start() else { return };
    let c = id("c");
    emulator.owner().put("agents/a", &json!({"token": {"stringValue": "x"}})).await;
    let store = connect(&emulator, &[("c", "agents")]).await.unwrap();
    let partition = store.partitions(&c).await.unwrap().remove(0);
    emulator.kill();
    let key = RecordKey::new("a").unwrap();
    let batch = vec![swap("a", r#"{"token":"x"}"#, r#"{"token":"y"}"#)];
    let errors = [
        store.scan(&c, &partition, None, 10).await.map(drop).unwrap_err(),
        store.read(&c, &key).await.map(drop).unwrap_err(),
        store.swap(&c, batch).await.map(drop).unwrap_err(),
        connect(&emulator, &[]).await.map(drop).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::Unavailable { retry: true, .. }), "{error:?}");
        assert!(error.to_string().contains("test-project"), "{error}");
    }
}
