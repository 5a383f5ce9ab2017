//! The service from outside: what it serves, to whom, and what it says when it does not.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

mod common;
#[path = "../../custody/tests/servers/mod.rs"]
mod servers;

use std::{
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
};

use common::{
    keyfold,
    served::{STORE_VARIABLE, Served, folder, keyfold_in},
};
use serde_json::{Value, json};
use servers::{postgres::Postgres, redis::Redis};

const CONFIG: &str = "[collections.instances]\nfields = [\"/connection_url\", \"/nodes/*/password\"]\n";
const RECORD: &str = "/v1/collections/instances/records/redis-1";

fn doc() -> Value {
    json!({ "connection_url": "redis://app:hunter2@cache", "nodes": [{ "password": "swordfish" }], "name": "cache" })
}

fn events(served: &Served) -> Vec<Value> {
    served.get("/v1/audit?limit=1000").is(200)["events"].as_array().unwrap().clone()
}

#[test]
fn the_first_run_makes_everything_and_the_next_one_changes_nothing() {
    let served = Served::new("");
    let path = served.data().join("operator.token");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(served.token.starts_with("kfo_"));
    assert!(!served.stderr().contains(&served.token), "it is printed to a terminal only");
    assert_eq!(served.get("/v1/tokens").is(200)["tokens"].as_array().unwrap().len(), 1);
    let token = served.token.clone();
    let served = Served::start(served.stop(), &[]);
    assert_eq!(served.token, token);
    assert_eq!(served.get("/v1/tokens").is(200)["tokens"].as_array().unwrap().len(), 1);
    let verdict = keyfold_in(served.stop().path(), "audit verify").text();
    assert!(verdict.starts_with("ok:") && verdict.ends_with("all anchored"), "{verdict}");
}

#[test]
fn values_are_sealed_opened_moved_and_looked_at_alone_and_in_batches() {
    let served = Served::new(CONFIG);
    let place = json!({ "team": "a" });
    let sealed = served.post("/v1/seal", json!({ "plaintext": "hunter2", "context": place })).is(200);
    assert_eq!(sealed["format"], "kf1");
    let opened = served.post("/v1/open", json!({ "envelope": sealed["envelope"], "context": place })).is(200);
    assert_eq!(opened["plaintext"], "hunter2");
    served
        .post("/v1/open", json!({ "envelope": sealed["envelope"], "context": { "team": "b" } }))
        .fails(422, "context_mismatch_or_tampered");
    let bytes = served.post("/v1/seal", json!({ "plaintext_base64": "/wA=", "format": "kf1" })).is(200);
    assert_eq!(served.post("/v1/open", json!({ "envelope": bytes["envelope"] })).is(200)["plaintext_base64"], "/wA=");

    let items =
        json!({ "items": [{ "plaintext": "one" }, { "plaintext": "two", "format": "v1" }, { "plaintext": "" }] });
    let batch = served.post("/v1/seal", items).is(200);
    let mut items: Vec<Value> =
        batch["results"].as_array().unwrap().iter().map(|r| json!({ "envelope": r["envelope"] })).collect();
    items.push(json!({ "envelope": "plain" }));
    let opened = served.post("/v1/open", json!({ "items": items })).is(200);
    assert_eq!(opened["results"][0]["plaintext"], "one");
    assert_eq!(opened["results"][1]["plaintext"], "two");
    assert_eq!(opened["results"][2]["plaintext"], "");
    assert_eq!(opened["results"][3]["error"]["code"], "not_encrypted");

    let kid = served.post("/v1/keyrings/current/keys", json!({})).is(201)["kid"].as_str().unwrap().to_owned();
    served.as_(&served.token, "POST", &format!("/v1/keyrings/current/keys/{kid}:promote"), None).is(200);
    let moved = served.post("/v1/rewrap", json!({ "envelope": sealed["envelope"], "context": place })).is(200);
    assert_eq!((&moved["kid"], &moved["changed"]), (&json!(kid), &json!(true)));
    assert_eq!(moved["commitment"], sealed["commitment"], "it stays the same through every rewrap");
    let seen = served.post("/v1/inspect", json!({ "envelope": moved["envelope"] })).is(200);
    assert_eq!((&seen["kid"], &seen["secret_size"]), (&json!(kid), &json!(7)));
}

#[test]
fn bodies_that_a_route_does_not_take_are_refused_without_a_word_of_them() {
    let served = Served::new(CONFIG);
    for body in [
        "{",
        "[]",
        "{}",
        r#"{"plaintext": 7}"#,
        r#"{"plaintext": "a", "plaintext_base64": "YQ=="}"#,
        r#"{"plaintext": "a", "hunter2": 1}"#,
        r#"{"plaintext": "a", "format": "hunter2"}"#,
        r#"{"plaintext_base64": "hunter2!"}"#,
        r#"{"plaintext": "a", "items": []}"#,
        r#"{"items": []}"#,
        r#"{"items": [{"envelope": "hunter2"}]}"#,
    ] {
        let request = served.request("POST", "/v1/seal").bearer_auth(&served.token);
        let problem =
            served.send(request.header("content-type", "application/json").body(body)).fails(400, "invalid_request");
        assert!(!problem.to_string().contains("hunter2"), "{problem}");
    }
    let repeated = r#"{"plaintext": "a", "context": {"k": "1", "k": "2"}}"#;
    let request = served.request("POST", "/v1/seal").bearer_auth(&served.token);
    let answer = served.send(request.header("content-type", "application/json").body(repeated));
    assert_eq!(answer.status, 422, "{}", answer.text());
    let request = served.request("POST", "/v1/seal").bearer_auth(&served.token).body("plaintext=a");
    served.send(request).fails(415, "unsupported_media_type");
    let deep = format!("{{\"plaintext\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let request = served.request("POST", "/v1/seal").bearer_auth(&served.token);
    served.send(request.header("content-type", "application/json").body(deep)).fails(400, "invalid_request");
    // By its length alone, before any of it is read.
    let mut stream = std::net::TcpStream::connect(served.url.strip_prefix("http://").unwrap()).unwrap();
    let head = format!(
        "POST /v1/seal HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 9000000\r\n\r\n",
        served.token
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("too_large"), "{answer}");
    let most = json!({ "items": vec![json!({ "plaintext": "x" }); 1001] });
    served.post("/v1/seal", most).fails(400, "invalid_request");
    served.get("/v1/nothing").fails(404, "not_found");
    served.as_(&served.token, "PATCH", "/v1/seal", None).fails(405, "method_not_allowed");
}

#[test]
fn records_go_in_sealed_come_out_redacted_and_keep_their_revision() {
    let served = Served::new(CONFIG);
    served.put(RECORD, doc()).is(201);
    let read = served.get(RECORD);
    let etag = read.headers["etag"].to_str().unwrap().to_owned();
    let shown = read.is(200);
    assert_eq!(shown["connection_url"]["$sealed"]["format"], "kf1");
    assert_eq!(shown["name"], "cache");
    let unchanged =
        served.send(served.request("GET", RECORD).bearer_auth(&served.token).header("if-none-match", &etag));
    assert_eq!(unchanged.status, 304);

    let opened = served.post(&format!("{RECORD}:open"), json!({ "field": "/nodes/0/password" })).is(200);
    assert_eq!(opened["fields"], json!([{ "field": "/nodes/0/password", "plaintext": "swordfish" }]));
    assert_eq!(served.post(&format!("{RECORD}:open"), json!({})).is(200)["fields"].as_array().unwrap().len(), 2);
    served.post(&format!("{RECORD}:open"), json!({ "field": "/name" })).fails(404, "not_found");

    let put = |name: &str, value: &str, doc: Value| {
        served.send(served.request("PUT", RECORD).bearer_auth(&served.token).header(name, value).json(&doc))
    };
    put("if-none-match", "*", doc()).fails(412, "precondition_failed");
    put("if-match", &etag, json!({ "connection_url": "redis://new" })).is(200);
    put("if-match", &etag, doc()).fails(412, "precondition_failed");
    put("if-match", "1", doc()).fails(400, "invalid_request");
    let opened = served.post(&format!("{RECORD}:open"), json!({})).is(200);
    assert_eq!(opened["fields"][0]["plaintext"], "redis://new");

    let odd = "/v1/collections/instances/records/a%2Fb%20%F0%9F%94%91";
    served.put(odd, doc()).is(201);
    let first = served.get("/v1/collections/instances/records?limit=1").is(200);
    let after = first["next"].as_str().unwrap();
    let second = served
        .get(&format!(
            "/v1/collections/instances/records?limit=1&after={}",
            after.replace('/', "%2F").replace(' ', "%20")
        ))
        .is(200);
    let mut keys = [first["records"][0].as_str().unwrap(), second["records"][0].as_str().unwrap()];
    keys.sort_unstable();
    assert_eq!(keys, ["a/b 🔑", "redis-1"]);
    assert_eq!(served.get("/v1/collections").is(200)["collections"][0]["records"], 2);
    assert_eq!(served.as_(&served.token, "DELETE", odd, None).status, 204);
    served.get(odd).fails(404, "not_found");
}

#[test]
fn a_write_that_is_sent_twice_under_one_key_happens_once() {
    let served = Served::new(CONFIG);
    let put = |key: &str, doc: Value| {
        served.send(served.request("PUT", RECORD).bearer_auth(&served.token).header("idempotency-key", key).json(&doc))
    };
    assert_eq!(put("a", doc()).status, 201);
    let etag = served.get(RECORD).headers["etag"].clone();
    assert_eq!(put("a", doc()).is(201), json!({ "result": "created" }), "the first answer, again");
    put("a", json!({ "connection_url": "other" })).fails(422, "idempotency_key_reused");
    assert_eq!(served.get(RECORD).headers["etag"], etag, "it was written once");
    let make = || {
        let request = served.request("POST", "/v1/tokens").bearer_auth(&served.token).header("idempotency-key", "t");
        served.send(request.json(&json!({ "actor": "agent:x" })))
    };
    make().is(201);
    make().fails(409, "already_done");
    assert_eq!(served.get("/v1/tokens").is(200)["tokens"].as_array().unwrap().len(), 2);
}

#[test]
fn an_agent_uses_and_lists_and_does_not_open_and_every_refusal_is_in_the_audit_log() {
    let served = Served::new(CONFIG);
    served.put(RECORD, doc()).is(201);
    let agent = served.token_of("agent:triage");
    let sealed = served.post("/v1/seal", json!({ "plaintext": "x" })).is(200);
    served.as_(&agent, "GET", RECORD, None).is(200);
    served.as_(&agent, "GET", "/v1/collections/instances/records", None).is(200);
    for (method, path, body, missing) in [
        ("POST", "/v1/open", Some(json!({ "envelope": sealed["envelope"] })), "open"),
        ("POST", "/v1/seal", Some(json!({ "plaintext": "x" })), "seal"),
        ("POST", "/v1/rewrap", Some(json!({ "envelope": sealed["envelope"] })), "rotate"),
        ("POST", &format!("{RECORD}:open"), Some(json!({})), "open"),
        ("PUT", RECORD, Some(doc()), "seal"),
        ("DELETE", RECORD, None, "seal"),
        ("POST", "/v1/jobs", Some(json!({ "kind": "rotate", "collection": "instances" })), "rotate"),
        ("POST", "/v1/keyrings/current/keys", Some(json!({})), "manage"),
        ("POST", "/v1/keyrings/current/keys/0000000000000000:destroy", None, "manage"),
        ("POST", "/v1/tokens", Some(json!({ "actor": "operator:me" })), "manage"),
        ("GET", "/v1/tokens", None, "manage"),
        ("PUT", "/v1/grants", Some(json!({ "grants": [] })), "manage"),
        ("GET", "/v1/audit", None, "audit"),
        ("GET", "/v1/audit/export", None, "audit"),
    ] {
        served.as_(&agent, method, path, body).fails(403, "forbidden");
        let events = events(&served);
        let refused = events.iter().rev().find(|event| event["action"] == "refused").unwrap();
        assert_eq!(
            (&refused["actor"], &refused["missing"]),
            (&json!("agent:triage"), &json!(missing)),
            "{method} {path}"
        );
    }
    // What it may not do is said before what it sent is looked at.
    let request = served.request("POST", "/v1/open").bearer_auth(&agent).header("content-type", "text/plain").body("{");
    served.send(request).fails(403, "forbidden");
}

#[test]
fn p44_a_right_in_one_place_or_for_one_operation_is_none_elsewhere() {
    let grants = "default_grants = [\"operator\"]\n[[grants]]\nto = \"service:db\"\nmay = [\"seal\", \"open\", \"list\"]\ncollections = [\"instances\"]\nrecords = \"redis-*\"\n[[grants]]\nto = \"service:values\"\nmay = [\"seal\", \"open\"]\nvalues = { team = \"a\" }\n";
    let served = Served::new(&format!("{grants}{CONFIG}"));
    served.put(RECORD, doc()).is(201);
    served.put("/v1/collections/instances/records/sql-1", doc()).is(201);
    let (db, values) = (served.token_of("service:db"), served.token_of("service:values"));
    served.as_(&db, "POST", &format!("{RECORD}:open"), Some(json!({}))).is(200);
    served.as_(&db, "POST", "/v1/collections/instances/records/sql-1:open", Some(json!({}))).fails(403, "forbidden");
    served.as_(&db, "POST", "/v1/seal", Some(json!({ "plaintext": "x" }))).fails(403, "forbidden");
    served.as_(&values, "GET", RECORD, None).fails(403, "forbidden");

    let team = |team: &str| json!({ "plaintext": "x", "context": { "team": team } });
    let own = served.as_(&values, "POST", "/v1/seal", Some(team("a"))).is(200);
    served.as_(&values, "POST", "/v1/seal", Some(team("b"))).fails(403, "forbidden");
    let items = json!({ "items": [{ "envelope": own["envelope"], "context": { "team": "a" } }, { "envelope": own["envelope"] }] });
    let opened = served.as_(&values, "POST", "/v1/open", Some(items)).is(200);
    assert_eq!(opened["results"][0]["plaintext"], "x");
    assert_eq!(opened["results"][1]["error"]["code"], "forbidden");
    let v1 = served.post("/v1/seal", json!({ "plaintext": "x", "format": "v1" })).is(200);
    served
        .as_(&values, "POST", "/v1/open", Some(json!({ "envelope": v1["envelope"], "context": { "team": "a" } })))
        .fails(403, "forbidden");
}

#[test]
fn a_value_taken_out_of_a_record_opens_by_the_grants_of_that_record_only() {
    let grants = "default_grants = [\"operator\"]\n[[grants]]\nto = \"service:values\"\nmay = [\"seal\", \"open\"]\nvalues = true\n";
    let served = Served::new(&format!("{grants}{CONFIG}"));
    served.put(RECORD, doc()).is(201);
    let values = served.token_of("service:values");
    let exported = keyfold_in(served.folder().path(), "records export instances").text();
    let stored: Value = serde_json::from_str(&exported).unwrap();
    let envelope = stored.to_string().split('"').find(|text| text.starts_with("kf1.")).unwrap().to_owned();
    let deployment = served.get("/v1/keyrings").is(200)["keyrings"][0]["deployment"].clone();
    let place = |collection: &str| json!({ "deployment": deployment, "collection": collection, "record": "redis-1", "field": "/connection_url" });
    let open = |token: &str, context: Value| {
        served.as_(token, "POST", "/v1/open", Some(json!({ "envelope": envelope, "context": context })))
    };
    open(&values, place("instances")).fails(403, "forbidden");
    open(&values, json!({ "deployment": deployment, "collection": "instances" })).fails(403, "forbidden");
    assert_eq!(open(&served.token, place("instances")).is(200)["plaintext"], "redis://app:hunter2@cache");
    for reserved in ["user_iss", "user_sub", "holder"] {
        open(&served.token, json!({ reserved: "x" })).fails(422, "invalid");
    }
}

#[test]
fn a_token_ends_by_revocation_by_time_and_outside_of_its_networks() {
    let served = Served::new(CONFIG);
    let call = |token: &str| served.as_(token, "GET", "/v1/collections", None);
    let made = served.post("/v1/tokens", json!({ "actor": "agent:x" })).is(201);
    let token = made["token"].as_str().unwrap();
    call(token).is(200);
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(served.as_(&served.token, "DELETE", &path, None).status, 204);
    call(token).fails(401, "unauthenticated");
    served.as_(&served.token, "DELETE", &path, None).fails(404, "not_found");

    let elsewhere = served.post("/v1/tokens", json!({ "actor": "agent:x", "addresses": ["192.0.2.0/24"] })).is(201);
    call(elsewhere["token"].as_str().unwrap()).fails(401, "unauthenticated");
    let here =
        served.post("/v1/tokens", json!({ "actor": "agent:x", "addresses": ["192.0.2.0/24", "127.0.0.0/8"] })).is(201);
    call(here["token"].as_str().unwrap()).is(200);
    let short = served.post("/v1/tokens", json!({ "actor": "agent:x", "lifetime": "1s" })).is(201);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    call(short["token"].as_str().unwrap()).fails(401, "unauthenticated");
    let narrowed = json!({ "actor": "operator:x", "narrowed": { "may": ["list"], "collections": ["instances"] } });
    let narrowed = served.post("/v1/tokens", narrowed).is(201);
    call(narrowed["token"].as_str().unwrap()).is(200);
    served
        .as_(narrowed["token"].as_str().unwrap(), "POST", "/v1/seal", Some(json!({ "plaintext": "x" })))
        .fails(403, "forbidden");

    for wrong in ["", "kfo_", "kfo_AAAA", &format!("{}x", served.token), "eyJhbGciOiJub25lIn0.e30."] {
        call(wrong).fails(401, "unauthenticated");
    }
    // Another process's token is taken here too, and one it takes back is refused here, within the bound.
    let made = keyfold_in(served.folder().path(), "token create agent:cli --json").json();
    let token = made["token"].as_str().unwrap().to_owned();
    wait(|| call(&token).status == 200);
    keyfold_in(served.folder().path(), &format!("token revoke {}", made["id"].as_str().unwrap())).text();
    wait(|| call(&token).status == 401);
}

fn wait(until: impl Fn() -> bool) {
    for _ in 0..100 {
        if until() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("five seconds, and nothing changed");
}

#[test]
fn a_writer_of_the_database_cannot_make_a_token_or_a_grant() {
    let served = Served::new(CONFIG);
    let agent = served.token_of("agent:x");
    served.put("/v1/grants", json!({ "grants": [{ "to": ["agent:y"], "may": ["open"], "values": true }] }));
    let folder = served.stop();
    let database = folder.path().join("data/keyfold.db");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        use sqlx::Connection as _;
        let url = format!("sqlite://{}", database.display());
        let mut db = sqlx::SqliteConnection::connect(&url).await.unwrap();
        // The stored documents themselves, changed as their writer would like them: agents become operators.
        let changed = sqlx::query("UPDATE system SET value = CAST(replace(CAST(value AS TEXT), 'agent:', 'operator:') AS BLOB) WHERE key LIKE 'tokens/%' OR key LIKE 'grants/%'");
        assert!(changed.execute(&mut db).await.unwrap().rows_affected() >= 2);
        db.close().await.unwrap();
    });
    let served = Served::start(folder, &[]);
    served.as_(&agent, "GET", "/v1/tokens", None).fails(401, "unauthenticated");
    let grants = served.get("/v1/grants").is(200);
    assert_eq!(grants["grants"].as_array().unwrap().len(), 3, "the defaults are left: {grants}");
}

#[test]
fn grants_are_checked_stored_and_in_force_at_once() {
    let served = Served::new(CONFIG);
    let agent = served.token_of("agent:x");
    let sealed = served.post("/v1/seal", json!({ "plaintext": "x" })).is(200);
    let open = || served.as_(&agent, "POST", "/v1/open", Some(json!({ "envelope": sealed["envelope"] })));
    open().fails(403, "forbidden");
    let grant = json!({ "to": ["agent:x"], "may": ["open"], "values": true });
    assert_eq!(served.put("/v1/grants", json!({ "grants": [grant] })).status, 204);
    open().is(200);
    served.put("/v1/grants", json!({ "grants": [{ "to": ["agent:x"], "may": ["fly"] }] })).fails(422, "invalid");
    open().is(200);
    let stale = served.request("PUT", "/v1/grants").bearer_auth(&served.token).header("if-match", "\"999\"");
    served.send(stale.json(&json!({ "grants": [] }))).fails(412, "precondition_failed");
    assert_eq!(served.put("/v1/grants", json!({ "grants": [] })).status, 204);
    open().fails(403, "forbidden");
}

#[test]
fn a_job_runs_is_followed_to_its_end_and_moves_every_secret() {
    let served = Served::new(CONFIG);
    for i in 0..20 {
        served.put(&format!("/v1/collections/instances/records/r{i}"), doc()).is(201);
    }
    let kid = served.post("/v1/keyrings/current/keys", json!({})).is(201)["kid"].as_str().unwrap().to_owned();
    served.as_(&served.token, "POST", &format!("/v1/keyrings/current/keys/{kid}:promote"), None).is(200);
    let started = served.post("/v1/jobs", json!({ "kind": "rotate", "collection": "instances" }));
    let location = started.headers["location"].to_str().unwrap().to_owned();
    started.is(202);
    let events = served.get(&format!("{location}/events"));
    assert_eq!(events.headers["content-type"], "text/event-stream");
    let events = events.text();
    let last: Value = serde_json::from_str(events.trim().rsplit("data: ").next().unwrap()).unwrap();
    assert_eq!((&last["state"], &last["summary"]["changed"]), (&json!("done"), &json!(20)), "{events}");
    assert_eq!(served.get(&location).is(200)["state"], "done");
    assert_eq!(served.get("/v1/jobs").is(200)["jobs"].as_array().unwrap().len(), 1);
    let census = served.get("/v1/keyrings/current/census").is(200);
    assert!(census["values"].as_array().unwrap().iter().all(|count| count["kid"] == json!(kid)), "{census}");
    assert!(
        served
            .get("/metrics")
            .text()
            .contains(&format!("keyfold_stored_values{{collection=\"instances\",format=\"kf1\",kid=\"{kid}\"}} 40"))
    );
}

#[test]
fn a_public_address_without_tls_is_refused_before_anything_is_made() {
    let folder = folder("[server]\nlisten = \"0.0.0.0:0\"\ncolour = 1\n[[grants]]\nto = \"agent:x\"\nmay = \"fly\"\n");
    let data = folder.path().join("data");
    let both = keyfold("serve").data_dir(&data).run().fails(2, &["server.colour", "grants[0].may[0]"]);
    assert!(!both.stderr.contains("panicked"));
    std::fs::write(data.join("keyfold.toml"), "[server]\nlisten = \"0.0.0.0:0\"\n").unwrap();
    keyfold("serve").data_dir(&data).run().fails(2, &["can be reached from elsewhere", "behind_tls"]);
    assert!(!data.join("root.key").exists());
}

#[test]
fn without_tls_a_token_does_not_go_through_a_proxy_of_the_environment() {
    let served = Served::new(CONFIG);
    let mut call = keyfold("keys list --json").env("KEYFOLD_SERVER", &served.url).env("KEYFOLD_TOKEN", &served.token);
    // Nobody answers there; whoever did would read the token.
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        call = call.env(name, "http://127.0.0.1:1");
    }
    assert!(!call.run().text().is_empty());
}

/// Runs every test above once more, in a process that puts its deployments there. What acts on the folder's database is about the
/// embedded store alone.
fn passes_on(server: &str) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--test-threads", "2"]);
    for skipped in ["the_suite_passes", "a_writer_of_the_database", "a_public_address_without_tls"] {
        command.args(["--skip", skipped]);
    }
    let out = command.env(STORE_VARIABLE, server).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}\n{}", String::from_utf8_lossy(&out.stderr));
    assert!(said.contains("test result: ok. ") && !said.contains(" 0 passed"), "{said}");
}

#[test]
fn the_suite_passes_with_redis() {
    let Some(server) = Redis::single(&["--appendonly", "yes", "--databases", "500"]) else { return };
    passes_on(&server.address);
}

#[test]
fn the_suite_passes_with_postgresql() {
    let Some(server) = Postgres::start() else { return };
    passes_on(&server.address());
}

#[cfg(feature = "firestore")]
#[test]
fn the_suite_passes_with_firestore() {
    let Some(emulator) = servers::firestore::Firestore::start() else { return };
    passes_on(&emulator.address());
}
