//! Records and small documents of our own.

use std::{sync::Arc, time::Duration};

use keyfold_custody::store::{
    CellValue, ChangeMark, Expect, Swap, SystemStore as _,
    conformance::{self, system},
    firestore::FirestoreSystem,
};

use crate::servers::firestore::Firestore;

async fn connect(emulator: &Firestore) -> FirestoreSystem {
    FirestoreSystem::connect(&emulator.address().parse().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn system_documents_conform() {
    let Some(emulator) = Firestore::start() else { return };
    let store: system::Shared = Arc::new(connect(&emulator).await);
    system::run_all(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_records_conform() {
    let Some(emulator) = Firestore::start() else { return };
    let store: conformance::Shared = Arc::new(connect(&emulator).await);
    conformance::own_records::run_all(&store).await;
    conformance::records::run_all(&store).await;
}

#[tokio::test]
async fn another_processs_change_is_noticed_and_a_value_in_parts_is_replaced_whole() {
    let Some(emulator) = Firestore::start() else { return };
    let (one, other) = (connect(&emulator).await, connect(&emulator).await);
    let mark = one.changed("tokens/", &ChangeMark::start(), Duration::ZERO).await.unwrap();
    for (n, size) in [3 << 20, 1 << 20, 4, 2 << 20].into_iter().enumerate() {
        let value = vec![u8::try_from(n).unwrap(); size];
        other.put("tokens/a", &value, Expect::Any, None).await.unwrap();
        assert!(one.get("tokens/a").await.unwrap().unwrap().value == value, "value {n}");
    }
    let next = one.changed("tokens/", &mark, Duration::from_secs(20)).await.unwrap();
    assert_ne!(next, mark);
    assert!(other.delete("tokens/a", Expect::Any).await.unwrap());
    assert_ne!(one.changed("tokens/", &next, Duration::from_secs(20)).await.unwrap(), next);
}

#[tokio::test]
async fn all_collections_are_listed_however_many_there_are() {
    use keyfold_custody::store::{CollectionId, NewRecord, OnExisting, OwnRecords as _, RecordKey};

    let Some(emulator) = Firestore::start() else { return };
    let store = connect(&emulator).await;
    let mut ids: Vec<_> = (0..250).map(|n| CollectionId::new(format!("c{n:03}")).unwrap()).collect();
    for id in &ids {
        let record = NewRecord { key: RecordKey::new("a").unwrap(), doc: CellValue::text("{}".into()) };
        store.insert(id, vec![record], OnExisting::Fail).await.unwrap();
    }
    ids.sort();
    assert_eq!(store.collections().await.unwrap(), ids);
}

#[tokio::test]
async fn a_record_that_would_outgrow_firestore_is_refused_and_keeps_no_other_back() {
    use keyfold_custody::store::{
        CollectionId, NewRecord, OnExisting, OwnRecords as _, RecordKey, RecordStore as _, Swapped,
    };

    let Some(emulator) = Firestore::start() else { return };
    let store = connect(&emulator).await;
    let (id, doc) = (CollectionId::new("c").unwrap(), || CellValue::text("{}".into()));
    let keys = ["a", "b"].map(|key| RecordKey::new(key).unwrap());
    let records = keys.clone().map(|key| NewRecord { key, doc: doc() }).into();
    store.insert(&id, records, OnExisting::Fail).await.unwrap();
    let cell = keyfold_custody::store::CellName::new("doc").unwrap();
    let texts = [format!("\"{}\"", "x".repeat(6 << 20)), "{\"x\":1}".into()];
    let swap = |(key, new)| Swap { key, cell: cell.clone(), old: doc(), new: CellValue::text(new) };
    let swaps = keys.into_iter().zip(texts).map(swap).collect();
    assert_eq!(store.swap(&id, swaps).await.unwrap(), [Swapped::Refused, Swapped::Done]);
}

#[tokio::test]
async fn p02_an_emulator_that_is_gone_is_an_error_and_no_missing_document() {
    let Some(mut emulator) = Firestore::start() else { return };
    let store = connect(&emulator).await;
    store.put("a", b"x", Expect::Any, None).await.unwrap();
    emulator.kill();
    assert!(store.get("a").await.unwrap_err().is_retryable());
    assert!(store.list("", None, 10).await.unwrap_err().is_retryable());
    assert!(store.put("a", b"y", Expect::Any, None).await.unwrap_err().is_retryable());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_conforms() {
    use keyfold_custody::audit_log::conformance as audit;

    use crate::suite::{
        Bench, old_events_go_and_what_is_left_verifies, several_writers_are_anchored_and_told_in_order,
    };

    let Some(emulator) = Firestore::start() else { return };
    let place = connect(&emulator).await.audit();
    let empty = || {
        let work = emulator.owner().forget_all();
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work));
        Bench::on(place.clone())
    };
    audit::suite(empty).await;
    several_writers_are_anchored_and_told_in_order(&empty()).await;
    old_events_go_and_what_is_left_verifies(&empty()).await;
}
