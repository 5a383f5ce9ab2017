//! Writes that are sent again, that break off in the middle, and whose callers go: done once, told of truly, and with no secret left behind.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use common::served::{Answer, Served, answer, folder};
use serde_json::{Value, json};
use sqlx::{Connection as _, Row as _, SqliteConnection};

const CONFIG: &str = "[collections.instances]\nfields = [\"/connection_url\"]\n";
const RECORD: &str = "/v1/collections/instances/records/a";

fn again(served: &Served, method: &str, path: &str, key: &str, body: &Value) -> Answer {
    let request = served.request(method, path).bearer_auth(&served.token).header("idempotency-key", key);
    served.send(request.json(body))
}

/// Everything that is stored, but the first token's own file.
fn stored(served: &Served) -> Vec<u8> {
    let mut stored = Vec::new();
    for path in common::folder::files(&served.data()) {
        if path.file_name().is_some_and(|name| name != "operator.token") {
            stored.extend(fs::read(path).unwrap_or_default());
        }
    }
    stored
}

fn is_stored(served: &Served, needle: &str) -> bool {
    memchr::memmem::find(&stored(served), needle.as_bytes()).is_some()
}

fn events(served: &Served, action: &str) -> Vec<String> {
    let named = format!("\"action\":\"{action}\"");
    let text = String::from_utf8_lossy(&stored_events(served)).into_owned();
    text.lines().filter(|line| line.contains(&named)).map(str::to_owned).collect()
}

fn stored_events(served: &Served) -> Vec<u8> {
    let files = common::folder::files(&served.data().join("audit"));
    let logs = files.into_iter().filter(|path| path.extension().is_some_and(|e| e == "open" || e == "jsonl"));
    logs.flat_map(|path| fs::read(path).unwrap_or_default()).collect()
}

#[track_caller]
fn wait(until: impl Fn() -> bool) {
    for _ in 0..400 {
        if until() {
            return;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("ten seconds, and nothing changed");
}

#[test]
fn p38_what_opens_a_secret_is_done_and_audited_anew_however_its_path_is_written() {
    let served = Served::new(CONFIG);
    served.put(RECORD, json!({ "connection_url": "hunter2-swordfish" })).is(201);
    for path in [format!("{RECORD}:open"), format!("{RECORD}%3Aopen"), format!("{RECORD}%3aope%6e")] {
        for _ in 0..2 {
            let before = events(&served, "record_get").len();
            let opened = again(&served, "POST", &path, "k", &json!({})).is(200);
            assert_eq!(opened["fields"][0]["plaintext"], "hunter2-swordfish");
            assert!(events(&served, "record_get").len() > before, "{path}: opened, and nobody wrote it down");
        }
    }
    assert!(!is_stored(&served, "hunter2-swordfish"));
}

#[test]
fn p28_a_token_is_shown_once_and_stored_nowhere_over_http_2_too() {
    let served = Served::start(folder(CONFIG), &["--behind-tls"]);
    let http_2 = reqwest::Client::builder().http2_prior_knowledge().timeout(Duration::from_secs(20)).build().unwrap();
    for (name, client) in [("one", served.client()), ("two", &http_2)] {
        let make = || {
            let request = client.post(format!("{}/v1/tokens", served.url)).bearer_auth(&served.token);
            let request = request.header("idempotency-key", name).json(&json!({ "actor": "agent:x" }));
            served.block_on(answer(request)).unwrap()
        };
        let made = make().is(201)["token"].as_str().unwrap().to_owned();
        make().fails(409, "already_done");
        assert!(!is_stored(&served, &made[4..]), "{name}: a token in the clear");
    }
    // What is no secret is answered alike.
    let put = || {
        let request = http_2.put(format!("{}{RECORD}", served.url)).bearer_auth(&served.token);
        let request = request.header("idempotency-key", "r").json(&json!({ "connection_url": "x" }));
        served.block_on(answer(request)).unwrap()
    };
    assert_eq!((put().is(201), put().is(201)), (json!({ "result": "created" }), json!({ "result": "created" })));
    assert_eq!(served.get(RECORD).headers["etag"], "\"1\"");
}

#[test]
fn an_answer_is_repeated_only_to_who_could_ask_for_it_anew() {
    let served = Served::new(CONFIG);
    let put = |grants: Value| assert_eq!(served.put("/v1/grants", json!({ "grants": grants })).status, 204);
    put(json!([{ "to": ["agent:x"], "may": ["seal"], "collections": ["instances"] }]));
    let agent = served.token_of("agent:x");
    let write = || {
        let request = served.request("PUT", RECORD).bearer_auth(&agent).header("idempotency-key", "k");
        served.send(request.json(&json!({ "connection_url": "x" })))
    };
    write().is(201);
    write().is(201);
    put(json!([]));
    write().fails(403, "forbidden");
}

#[test]
fn who_may_not_is_told_so_before_a_byte_of_the_body_came() {
    let served = Served::new(CONFIG);
    let agent = served.token_of("agent:x");
    let mut stream = TcpStream::connect(served.url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let head = format!(
        "POST /v1/tokens HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {agent}\r\nidempotency-key: k\r\ncontent-type: application/json\r\n\
         content-length: 1000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 403");
}

#[test]
fn what_an_earlier_version_kept_of_answers_is_removed() {
    let place = Served::new(CONFIG).stop();
    let database = format!("sqlite://{}", place.path().join("data/keyfold.db").display());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut db = runtime.block_on(SqliteConnection::connect(&database)).unwrap();
    let insert = "INSERT INTO system (key, value, version) \
                  SELECT 'idempotency/00', CAST('hunter2' AS BLOB), max(version) + 1 FROM system";
    runtime.block_on(sqlx::query(insert).execute(&mut db)).unwrap();
    runtime.block_on(db.close()).unwrap();
    let served = Served::start(place, &[]);
    let mut db = runtime.block_on(SqliteConnection::connect(&database)).unwrap();
    for _ in 0..200 {
        let left = sqlx::query("SELECT count(*) FROM system WHERE key LIKE 'idempotency/%' AND value IS NOT NULL")
            .fetch_one(&mut db);
        if runtime.block_on(left).unwrap().get::<i64, _>(0) == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("it is still there: {}", served.stderr());
}

/// Holds the thread that writes the audit log, as a disk that does not answer.
fn stuck(served: &Served) -> fs::File {
    let lock = fs::File::open(served.data().join("audit/notes.lock")).unwrap();
    lock.lock().unwrap();
    // Until the next checkpoint waits for it.
    std::thread::sleep(Duration::from_millis(1500));
    lock
}

/// Holds the database's write lock.
struct Locked(tokio::runtime::Runtime, Option<SqliteConnection>);

impl Locked {
    fn new(served: &Served) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let address = format!("sqlite://{}", served.data().join("keyfold.db").display());
        let mut db = runtime.block_on(SqliteConnection::connect(&address)).unwrap();
        runtime.block_on(sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut db)).unwrap();
        Self(runtime, Some(db))
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = self.0.block_on(self.1.take().unwrap().close());
    }
}

const SLOW: &str = "[audit]\nwait = \"8s\"\n[server]\ncheckpoint = \"1s\"\n";

#[test]
fn a_write_whose_outcome_could_not_be_written_down_is_not_called_undone_and_not_repeated() {
    let served = Served::new(&format!("{CONFIG}{SLOW}"));
    let make = || again(&served, "POST", "/v1/tokens", "k", &json!({ "actor": "agent:x" }));
    let log = stuck(&served);
    std::thread::scope(|scope| {
        let call = scope.spawn(make);
        // It has taken its key and waits for its intent; from then on for the database.
        std::thread::sleep(Duration::from_millis(1000));
        let database = Locked::new(&served);
        drop(log);
        wait(|| events(&served, "token_create").len() >= 3);
        let log = stuck(&served);
        drop(database);
        call.join().unwrap().fails(500, "in_doubt");
        drop(log);
    });
    wait(|| served.get("/readyz").status == 200);
    make().fails(409, "in_doubt");
    let tokens = served.get("/v1/tokens").is(200)["tokens"].as_array().unwrap().len();
    assert_eq!(tokens, 2, "the first one, and the one that was made");
}

#[test]
fn p40_a_caller_that_hangs_up_does_not_decide_whether_an_outcome_is_written() {
    let served = Served::new(&format!("{CONFIG}{SLOW}"));
    let log = stuck(&served);
    let mut stream = TcpStream::connect(served.url.strip_prefix("http://").unwrap()).unwrap();
    let body = r#"{"connection_url":"x"}"#;
    let head = format!(
        "PUT {RECORD} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        served.token,
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(1000));
    let database = Locked::new(&served);
    drop(log);
    wait(|| events(&served, "record_put").len() == 1);
    drop(stream);
    std::thread::sleep(Duration::from_millis(500));
    drop(database);
    // Its outcome stands there too.
    wait(|| events(&served, "record_put").len() == 2);
    assert_eq!(served.get(RECORD).status, 200);
}
