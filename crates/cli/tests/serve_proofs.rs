//! Who is let in, and for how long: by every kind of proof, while stores and issuers fail; and what is told to who may not.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

mod common;
#[path = "../../custody/tests/servers/mod.rs"]
mod servers;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use common::{
    authority::Authority,
    issuer::{Issuer, now},
    served::{Answer, Served, answer, folder},
};
use serde_json::{Value, json};
use servers::redis::Redis;

const CONFIG: &str = "[collections.instances]\nfields = [\"/connection_url\"]\n";

#[track_caller]
fn wait(until: impl Fn() -> bool) {
    let began = Instant::now();
    while !until() {
        assert!(began.elapsed() < Duration::from_secs(40), "forty seconds, and nothing changed");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn p37_grants_hold_for_certificates_and_jwts_as_for_tokens_and_without_the_store_nobody_is_let_in() {
    let Some(mut server) = Redis::single(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    let (authority, issuer) = (Authority::new(), Issuer::new(1));
    let place = folder("");
    let file = |name: &str| place.path().join(name).display().to_string();
    let (cert, key) = authority.sign(vec![rcgen::SanType::IpAddress("127.0.0.1".parse().unwrap())]);
    for (name, text) in [("cert.pem", &cert), ("key.pem", &key), ("ca.pem", &authority.0.pem())] {
        fs::write(file(name), text).unwrap();
    }
    fs::write(file("system"), &server.address).unwrap();
    let url = &issuer.fake.url;
    let shared = format!("default_grants = [\"operator\"]\n{CONFIG}[system]\nuri = \"file:{}\"\n", file("system"));
    let tls = format!(
        "[server.tls]\ncert = {:?}\nkey = {:?}\nclients = {:?}\n[[server.issuers]]\nissuer = \"{url}\"\naudience = \"keyfold\"\n\
         jwks = \"{url}/jwks\"\nkind = \"service\"\n",
        file("cert.pem"),
        file("key.pem"),
        file("ca.pem")
    );
    fs::write(file("data/keyfold.toml"), format!("{shared}{tls}")).unwrap();
    let one = Served::start(Arc::clone(&place), &[]);
    // Where grants are changed.
    let elsewhere = folder(&shared);
    fs::copy(file("data/root.key"), elsewhere.path().join("data/root.key")).unwrap();
    let mut two = Served::start(elsewhere, &[]);
    two.token.clone_from(&one.token);

    let root = reqwest::Certificate::from_pem(authority.0.pem().as_bytes()).unwrap();
    let client = |identity: Option<Vec<rcgen::SanType>>| {
        let builder = reqwest::Client::builder().tls_certs_only([root.clone()]).timeout(Duration::from_secs(40));
        let builder = match identity.map(|names| authority.sign(names)) {
            Some((cert, key)) => {
                builder.identity(reqwest::Identity::from_pem(format!("{cert}{key}").as_bytes()).unwrap())
            }
            None => builder,
        };
        builder.build().unwrap()
    };
    let known = client(Some(vec![rcgen::SanType::URI("keyfold:service:known".try_into().unwrap())]));
    let plain = client(None);
    let claims = json!({ "iss": url, "aud": "keyfold", "sub": "known", "exp": now() + 600 });
    let jwt = issuer.jwt(&json!({ "alg": "EdDSA", "typ": "JWT", "kid": "k1" }), &claims);
    wait(|| two.post("/v1/seal", json!({ "plaintext": "x" })).status == 200);
    let sealed = two.post("/v1/seal", json!({ "plaintext": "x" })).is(200);
    // Opening asks no store: only grants that are known to be old keep it from being done.
    let open = |request: reqwest::RequestBuilder| {
        one.block_on(answer(request.json(&json!({ "envelope": sealed["envelope"] })))).unwrap()
    };
    let target = format!("{}/v1/open", one.url);
    let by_certificate = || open(known.post(&target)).status;
    let by_jwt = || open(plain.post(&target).bearer_auth(&jwt)).status;
    assert_eq!((by_certificate(), by_jwt()), (403, 403));
    let put = |grants: Value| assert_eq!(two.put("/v1/grants", json!({ "grants": grants })).status, 204);
    put(json!([{ "to": ["service:known"], "may": ["open"], "values": true }]));
    wait(|| (by_certificate(), by_jwt()) == (200, 200));
    put(json!([]));
    wait(|| (by_certificate(), by_jwt()) == (403, 403));
    put(json!([{ "to": ["service:known"], "may": ["open"], "values": true }]));
    wait(|| (by_certificate(), by_jwt()) == (200, 200));
    server.servers[0].kill();
    wait(|| (by_certificate(), by_jwt()) == (503, 503));
    open(known.post(&target)).fails(503, "provider_unavailable");
    server.servers[0].restart();
    wait(|| (by_certificate(), by_jwt()) == (200, 200));
}

#[test]
fn a_jwt_under_a_key_that_nobody_knows_holds_up_nobody_and_takes_no_key_away() {
    let (mode, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (told, seen) = (Arc::clone(&mode), Arc::clone(&asked));
    let issuer = Issuer::telling(1, move |keys| {
        seen.fetch_add(1, Ordering::SeqCst);
        if told.load(Ordering::SeqCst) == 0 {
            return keys.to_owned();
        }
        for _ in 0..400 {
            if told.load(Ordering::SeqCst) == 2 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        "out of order".to_owned()
    });
    let url = &issuer.fake.url;
    let served = Served::new(&format!(
        "{CONFIG}[[server.issuers]]\nissuer = \"{url}\"\naudience = \"keyfold\"\njwks = \"{url}/jwks\"\nkind = \"agent\"\n"
    ));
    let claims = json!({ "iss": url, "aud": "keyfold", "sub": "triage", "exp": now() + 600 });
    let jwt = |kid: &str| issuer.jwt(&json!({ "alg": "EdDSA", "kid": kid }), &claims);
    let (good, unknown) = (jwt("k1"), jwt("k2"));
    let list = |jwt: &str| served.as_(jwt, "GET", "/v1/collections", None);
    list(&good).is(200);
    // As soon as it may be looked for again, somebody names a key that does not exist.
    std::thread::sleep(Duration::from_millis(10_500));
    mode.store(1, Ordering::SeqCst);
    let fetches = asked.load(Ordering::SeqCst);
    let request = served.request("GET", "/v1/collections").bearer_auth(&unknown);
    let waiting = std::thread::spawn(move || tokio::runtime::Runtime::new().unwrap().block_on(answer(request)));
    wait(|| asked.load(Ordering::SeqCst) > fetches);
    list(&good).is(200);
    assert!(!waiting.is_finished(), "the issuer has not answered yet");
    mode.store(2, Ordering::SeqCst);
    assert_eq!(waiting.join().unwrap().unwrap().status, 401);
    list(&good).is(200);
    assert_eq!(list(&unknown).status, 401);
    assert_eq!(asked.load(Ordering::SeqCst), fetches + 1, "it was asked for again at once");
}

#[test]
fn who_may_not_work_in_a_collection_is_not_told_whether_it_is_configured() {
    let config = "default_grants = [\"operator\"]\n[[grants]]\nto = \"service:db\"\nmay = [\"seal\", \"open\", \"list\", \"rotate\"]\n\
                  collections = [\"instances\"]\n[collections.instances]\nfields = [\"/connection_url\"]\n[collections.theirs]\n\
                  fields = [\"/password\"]\n";
    let served = Served::new(config);
    let db = served.token_of("service:db");
    let refusals = || {
        let events = served.get("/v1/audit?limit=1000").is(200)["events"].clone();
        events.as_array().unwrap().iter().filter(|event| event["action"] == "refused").count()
    };
    let said = |answer: Answer| {
        let mut problem = answer.fails(403, "forbidden");
        problem.as_object_mut().unwrap().remove("request_id");
        problem
    };
    for (method, path, body) in [
        ("GET", "/v1/collections/NAME/records", None),
        ("GET", "/v1/collections/NAME/records/a", None),
        ("PUT", "/v1/collections/NAME/records/a", Some(json!({ "password": "x" }))),
        ("DELETE", "/v1/collections/NAME/records/a", None),
        ("POST", "/v1/collections/NAME/records/a:open", Some(json!({}))),
        ("POST", "/v1/jobs", Some(json!({ "kind": "verify", "collection": "NAME" }))),
    ] {
        let ask = |name: &str| {
            let body = body.as_ref().map(|body| serde_json::from_str(&body.to_string().replace("NAME", name)).unwrap());
            served.as_(&db, method, &path.replace("NAME", name), body)
        };
        let before = refusals();
        assert_eq!(said(ask("theirs")), said(ask("nowhere")), "{method} {path}");
        assert_eq!(refusals(), before + 4, "{method} {path}: an intent and an outcome for each");
    }
    served.get("/v1/collections/nowhere/records").fails(404, "not_found");
}

/// Holds the thread that writes the audit log: a job waits for its intent then.
fn stuck(served: &Served) -> fs::File {
    let lock = fs::File::open(served.data().join("audit/notes.lock")).unwrap();
    lock.lock().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    lock
}

#[test]
fn a_job_is_followed_no_longer_than_its_process_lives_and_than_the_caller_may() {
    let served = Served::new(&format!("{CONFIG}[server]\ncheckpoint = \"1s\"\n"));
    served.put("/v1/collections/instances/records/a", json!({ "connection_url": "x" })).is(201);
    let short = served.post("/v1/tokens", json!({ "actor": "agent:x", "lifetime": "5s" })).is(201);
    let lock = stuck(&served);
    let started = served.post("/v1/jobs", json!({ "kind": "verify", "collection": "instances" })).is(202);
    let path = format!("/v1/jobs/{}", started["id"].as_str().unwrap());
    let events = format!("{path}/events");
    let last = |text: String| serde_json::from_str::<Value>(text.trim().rsplit("data: ").next().unwrap()).unwrap();
    // The token ends while the job stands still, and so does what its holder is told.
    let told = served.as_(short["token"].as_str().unwrap(), "GET", &events, None);
    assert_eq!(last(told.text())["state"], "running", "{}", told.text());
    assert_eq!(served.get(&path).is(200)["state"], "running");
    let folder = served.kill();
    drop(lock);
    let served = Served::start(folder, &[]);
    let job = served.get(&path).is(200);
    assert_eq!((&job["state"], &job["code"]), (&json!("failed"), &json!("abandoned")), "{job}");
    assert_eq!(last(served.get(&events).text())["state"], "failed");
    assert_eq!(served.get("/v1/jobs").is(200)["jobs"][0]["state"], "failed");
}
