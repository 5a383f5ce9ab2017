//! Two nodes on one store: what is revoked on one is refused on the other, keys change without a failed request, jobs are shared.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

mod common;
#[path = "../../custody/tests/servers/mod.rs"]
mod servers;

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use common::served::{Served, answer, folder};
use serde_json::{Value, json};
use servers::{postgres::Postgres, redis::Redis};

const CONFIG: &str = "[collections.instances]\nfields = [\"/connection_url\"]\n";

/// Two machines that share a store and a root key.
fn nodes(address: &str) -> [Served; 2] {
    let (first, second) = (folder(""), folder(""));
    let url = first.path().join("url");
    fs::write(&url, address).unwrap();
    for place in [&first, &second] {
        let config = format!("{CONFIG}[system]\nuri = \"file:{}\"\n", url.display());
        fs::write(place.path().join("data/keyfold.toml"), config).unwrap();
    }
    let one = Served::start(Arc::clone(&first), &[]);
    fs::copy(first.path().join("data/root.key"), second.path().join("data/root.key")).unwrap();
    let mut two = Served::start(second, &[]);
    two.token.clone_from(&one.token);
    wait(|| two.get("/v1/collections").status == 200);
    [one, two]
}

#[track_caller]
fn wait(until: impl Fn() -> bool) {
    let began = Instant::now();
    while !until() {
        assert!(began.elapsed() < Duration::from_secs(30), "thirty seconds, and nothing changed");
        std::thread::sleep(Duration::from_millis(25));
    }
}

fn revoked(nodes: &[Served; 2]) {
    let [one, two] = nodes;
    let made = one.post("/v1/tokens", json!({ "actor": "agent:x" })).is(201);
    let token = made["token"].as_str().unwrap();
    wait(|| two.as_(token, "GET", "/v1/collections", None).status == 200);
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(one.as_(&one.token, "DELETE", &path, None).status, 204);
    one.as_(token, "GET", "/v1/collections", None).fails(401, "unauthenticated");
    // Within the stated bound, five seconds; the rest is for a machine that is busy with other tests.
    wait(|| two.as_(token, "GET", "/v1/collections", None).status == 401);
    // So are grants.
    let agent = one.token_of("agent:y");
    wait(|| two.as_(&agent, "GET", "/v1/collections", None).status == 200);
    let envelope = one.post("/v1/seal", json!({ "plaintext": "x" })).is(200)["envelope"].clone();
    let open = || two.as_(&agent, "POST", "/v1/open", Some(json!({ "envelope": envelope }))).status;
    assert_eq!(open(), 403);
    one.put("/v1/grants", json!({ "grants": [{ "to": ["agent:y"], "may": ["open"], "values": true }] }));
    wait(|| open() == 200);
    one.put("/v1/grants", json!({ "grants": [] }));
    wait(|| open() == 403);
}

/// A key is staged and promoted on one node, while both are asked without a pause.
fn keys_change(nodes: &[Served; 2]) {
    let [one, two] = nodes;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (failed, kids) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let callers: Vec<_> = [one, two, one, two]
        .into_iter()
        .zip([two, one, one, two])
        .map(|(seals, opens)| {
            // One for each: a shared one's connections end with the thread that opened them.
            let (client, token) = (reqwest::Client::new(), seals.token.clone());
            let (seal, open) = (format!("{}/v1/seal", seals.url), format!("{}/v1/open", opens.url));
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            let (failed, kids) = (Arc::clone(&failed), Arc::clone(&kids));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let ask = |url: &str, body: Value| {
                        let answer =
                            runtime.block_on(answer(client.post(url).bearer_auth(&token).json(&body))).unwrap();
                        if answer.status != 200 {
                            failed.lock().unwrap().push(answer.text());
                        }
                        answer
                    };
                    let sealed = ask(&seal, json!({ "plaintext": "x" })).json();
                    kids.lock().unwrap().push(sealed["kid"].clone());
                    ask(&open, json!({ "envelope": sealed["envelope"] }));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let kid = one.post("/v1/keyrings/current/keys", json!({})).is(201)["kid"].clone();
    let act = |node: &Served, action: &str, kid: &Value| {
        let path = format!("/v1/keyrings/current/keys/{}:{action}", kid.as_str().unwrap());
        node.as_(&node.token, "POST", &path, None)
    };
    let former = two.get("/v1/keyrings").is(200)["keyrings"][0]["keys"][0]["kid"].clone();
    // It waits until the other node opens it.
    act(one, "promote", &kid).is(200);
    let seen = done.load(Ordering::Relaxed);
    wait(|| done.load(Ordering::Relaxed) > seen + 50);
    // The other node seals under it too, and the former one goes once nothing needs it.
    wait(|| two.post("/v1/seal", json!({ "plaintext": "x" })).is(200)["kid"] == kid);
    wait(|| act(two, "retire", &former).status == 200);
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.join().unwrap();
    }
    // What was sealed under the former key and never stored cannot be opened once it is retired; nothing else may fail.
    let failed = failed.lock().unwrap();
    assert!(failed.iter().all(|text| text.contains("key_retired")), "{failed:?}");
    let kids = kids.lock().unwrap();
    assert!(kids.contains(&former) && kids.contains(&kid));
}

fn jobs_are_shared(nodes: &[Served; 2]) {
    let [one, two] = nodes;
    for n in 0..200 {
        let node = &nodes[n % 2];
        node.put(&format!("/v1/collections/instances/records/r{n}"), json!({ "connection_url": format!("s{n}") }))
            .is(201);
    }
    let kid = one.post("/v1/keyrings/current/keys", json!({})).is(201)["kid"].clone();
    let path = format!("/v1/keyrings/current/keys/{}:promote", kid.as_str().unwrap());
    one.as_(&one.token, "POST", &path, None).is(200);
    // Both work on it at once; what each did adds up, and either tells of both.
    let started = nodes.each_ref().map(|node| {
        node.post("/v1/jobs", json!({ "kind": "rotate", "collection": "instances" })).is(202)["id"].clone()
    });
    for id in &started {
        for node in [two, one] {
            let path = format!("/v1/jobs/{}", id.as_str().unwrap());
            wait(|| node.get(&path).is(200)["state"] != "running");
            let job = node.get(&path).is(200);
            assert!(job["state"] == "done" || job["code"] == "waiting", "{job}");
        }
    }
    let census = two.get("/v1/keyrings/current/census").is(200);
    let counts = census["values"].as_array().unwrap();
    assert!(counts.iter().all(|count| count["kid"] == kid), "{census}");
    assert_eq!(counts.iter().map(|count| count["values"].as_u64().unwrap()).sum::<u64>(), 200);
    for n in 0..200 {
        let opened =
            nodes[(n + 1) % 2].post(&format!("/v1/collections/instances/records/r{n}:open"), json!({})).is(200);
        assert_eq!(opened["fields"][0]["plaintext"], format!("s{n}"));
    }
    for node in nodes {
        assert_eq!(node.get("/v1/audit/verify").is(200)["verdict"], "ok");
    }
}

fn all(address: &str) {
    let nodes = nodes(address);
    revoked(&nodes);
    keys_change(&nodes);
    jobs_are_shared(&nodes);
}

#[test]
fn two_nodes_on_one_redis_share_tokens_grants_keys_and_jobs() {
    let Some(server) = Redis::single(&["--appendonly", "yes"]) else { return };
    all(&server.address);
}

#[test]
fn two_nodes_on_one_postgresql_share_tokens_grants_keys_and_jobs() {
    let Some(server) = Postgres::start() else { return };
    all(&server.address());
}

#[test]
fn a_redis_that_can_lose_system_data_is_refused_with_the_remedy() {
    let Some(server) = Redis::single(&[]) else { return };
    let place = tempfile::tempdir().unwrap();
    let serve = || {
        common::keyfold("serve --listen 127.0.0.1:0")
            .data_dir(place.path())
            .env("KEYFOLD_SYSTEM", &server.address)
            .run()
    };
    serve().fails(5, &["no append-only file", "set `appendonly yes`"]);
    server.servers[0].configure("appendonly", "yes");
    server.servers[0].configure("maxmemory-policy", "allkeys-lru");
    serve().fails(5, &["allkeys-lru", "set `maxmemory-policy noeviction`"]);
}

#[test]
fn p02_while_the_store_is_away_nobody_is_let_in_and_afterwards_everything_goes_on() {
    let Some(mut server) = Redis::single(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    let [one, two] = nodes(&server.address);
    one.put("/v1/collections/instances/records/a", json!({ "connection_url": "x" })).is(201);
    server.servers[0].kill();
    // A record cannot be read; and tokens that cannot be looked at are soon not taken.
    wait(|| one.get("/v1/collections/instances/records/a").status == 503);
    wait(|| two.get("/v1/collections").status == 503 && two.get("/readyz").status == 503);
    server.servers[0].restart();
    wait(|| one.get("/readyz").status == 200 && two.get("/readyz").status == 200);
    wait(|| two.get("/v1/collections").status == 200);
    assert_eq!(two.post("/v1/collections/instances/records/a:open", json!({})).is(200)["fields"][0]["plaintext"], "x");
}
