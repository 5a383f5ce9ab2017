//! Answers that break off in between. The emulator gives none, so a server of the test's own says what Google's would.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use keyfold_custody::{
    layout::place::Layout,
    store::{
        CellValue, Expect, NewRecord, OnExisting, OwnRecords as _, RecordKey, RecordStore as _, SystemStore as _,
        firestore::{FirestoreStore, FirestoreSystem},
    },
};
use serde_json::{Value, json};

use crate::{foreign::id, servers::firestore::ROOT};

/// The rows of the next answers to a query, and to a count; and what was asked for by path.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Value>>, Arc<Mutex<Vec<Value>>>);

impl Said {
    fn is(&self, rows: Value) {
        *self.0.lock().unwrap() = rows;
    }

    /// Answers one connection after the other until the test ends.
    fn serve(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let said = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let said = said.clone();
                std::thread::spawn(move || said.answer(stream.unwrap()));
            }
        });
        port
    }

    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let mut read = BufReader::new(stream.try_clone().ok()?);
        loop {
            let (mut asked, mut line, mut length) = (String::new(), String::new(), 0);
            read.read_line(&mut asked).ok().filter(|read| *read > 0)?;
            while line != "\r\n" {
                line.clear();
                read.read_line(&mut line).ok()?;
                if let Some(("content-length", n)) = line.to_lowercase().split_once(": ") {
                    length = n.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            read.read_exact(&mut body).ok()?;
            let body: Value = serde_json::from_slice(&body).ok()?;
            let rows = if asked.contains(":batchGet") {
                let missing = |name| json!({ "missing": name, "readTime": TIME });
                let rows = body["documents"].as_array()?.iter().map(missing).collect();
                self.1.lock().unwrap().push(body);
                rows
            } else if asked.contains(":commit") {
                let written: Vec<_> =
                    body["writes"].as_array()?.iter().map(|_| json!({ "updateTime": TIME })).collect();
                json!({ "writeResults": written, "commitTime": TIME })
            } else {
                self.0.lock().unwrap().clone()
            };
            let rows = rows.to_string();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{rows}",
                rows.len()
            )
            .ok()?;
        }
    }
}

const TIME: &str = "2026-01-01T00:00:00.000001Z";

fn row(name: &str) -> Value {
    let fields = json!({ "secret": { "stringValue": "hunter2" } });
    let document =
        json!({ "name": format!("{ROOT}/users/{name}"), "fields": fields, "createTime": TIME, "updateTime": TIME });
    json!({ "document": document, "readTime": TIME })
}

#[tokio::test]
async fn p02_an_error_in_the_middle_of_a_streamed_answer_is_an_error_and_no_end_of_the_collection() {
    let said = Said::default();
    let address = format!("firestore://test-project/(default)?emulator=127.0.0.1:{}", said.serve());
    let layouts = [(id("users"), Layout::FirestoreDocument { path: "users".into() })].into();
    let store = FirestoreStore::connect(&address.parse().unwrap(), layouts).await.unwrap();
    let parts = store.partitions(&id("users")).await.unwrap();
    let scan = async || store.scan(&id("users"), &parts[0], None, 100).await;

    said.is(json!([row("A"), row("B")]));
    assert_eq!(scan().await.unwrap().records.len(), 2);

    let error =
        |code: u16, status: &str| json!({ "error": { "code": code, "message": "hidden words", "status": status } });
    for (code, status, retry) in [
        (503, "UNAVAILABLE", true),
        (429, "RESOURCE_EXHAUSTED", true),
        (500, "INTERNAL", true),
        (403, "PERMISSION_DENIED", false),
    ] {
        for rows in [
            json!([error(code, status)]),
            json!([row("A"), error(code, status)]),
            json!([row("A"), error(code, status), row("B")]),
            json!([{ "readTime": TIME }, error(code, status)]),
        ] {
            said.is(rows.clone());
            let failed = scan().await.unwrap_err();
            assert_eq!(failed.is_retryable(), retry, "{rows}: {failed}");
            assert!(failed.to_string().contains(status) || retry, "{failed}");
            assert!(!failed.to_string().contains("hidden"), "{failed}");
        }
        said.is(json!([error(code, status)]));
        // An unknown number is one thing, and no right to ask another.
        assert_eq!(store.estimate(&id("users")).await.is_ok_and(|count| count.is_none()), retry, "{status}");
    }

    // What says nothing that is known may hide anything.
    for odd in
        [json!([row("A"), {}]), json!([row("A"), { "done": true }, row("B")]), json!({}), json!([row("A"), null])]
    {
        said.is(odd.clone());
        assert!(scan().await.is_err(), "{odd}");
    }
}

#[tokio::test]
async fn a_write_asks_what_is_there_and_not_for_its_bytes() {
    let said = Said::default();
    let address = format!("firestore://test-project/(default)?emulator=127.0.0.1:{}", said.serve());
    let store = FirestoreSystem::connect(&address.parse().unwrap()).await.unwrap();
    said.1.lock().unwrap().clear();
    for how in [OnExisting::Skip, OnExisting::Replace, OnExisting::Fail] {
        let new = NewRecord { key: RecordKey::new("a").unwrap(), doc: CellValue::text("{}".into()) };
        store.insert(&id("instances"), vec![new], how).await.unwrap();
    }
    store.put("leases/a", b"x", Expect::Absent, None).await.unwrap();
    let asked = said.1.lock().unwrap();
    assert_eq!(asked.len(), 4, "{asked:?}");
    for asked in asked.iter() {
        assert_eq!(asked["mask"]["fieldPaths"], json!(["key", "nonce", "parts", "gone", "ends"]), "{asked}");
    }
}
