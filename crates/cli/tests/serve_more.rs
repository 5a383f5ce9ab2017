//! The service beside its API: JWTs, limits of rate, HTTP/2 in plain, traces, numbers.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

mod common;

use std::time::Duration;

use common::{
    fake::Fake,
    issuer::{Issuer, now},
    served::{Served, folder},
};
use serde_json::{Value, json};

const CONFIG: &str = "[collections.instances]\nfields = [\"/connection_url\"]\n";

#[track_caller]
fn wait(until: impl Fn() -> bool) {
    for _ in 0..1200 {
        if until() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("a minute, and nothing changed");
}

#[test]
fn a_jwt_of_a_configured_issuer_names_its_actor_and_every_other_one_is_refused() {
    let (issuer, stranger) = (Issuer::new(1), Issuer::new(2));
    let url = &issuer.fake.url;
    let served = Served::new(&format!(
        "{CONFIG}[[server.issuers]]\nissuer = \"{url}\"\naudience = \"keyfold\"\njwks = \"{url}/jwks\"\nkind = \"agent\"\n"
    ));
    let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": "k1" });
    let claims = json!({ "iss": url, "aud": "keyfold", "sub": "triage", "exp": now() + 300 });
    let with = |key: &str, value: Value| {
        let mut changed = claims.clone();
        changed[key] = value;
        changed
    };
    let list = |jwt: &str| served.as_(jwt, "GET", "/v1/collections", None);
    let good = issuer.jwt(&header, &claims);
    list(&good).is(200);
    // An agent's rights, and no more.
    served.as_(&good, "POST", "/v1/open", Some(json!({ "envelope": "x" }))).fails(403, "forbidden");
    let last = served.get("/v1/audit?limit=1000").is(200);
    let refused = last["events"].as_array().unwrap().iter().find(|event| event["action"] == "refused").unwrap().clone();
    assert_eq!((&refused["actor"], &refused["missing"]), (&json!("agent:triage"), &json!("open")));
    let mut cut = good.clone();
    cut.pop();
    for (what, jwt) in [
        ("expired", issuer.jwt(&header, &with("exp", json!(now() - 300)))),
        ("without an end", issuer.jwt(&header, &with("exp", Value::Null))),
        ("not yet valid", issuer.jwt(&header, &with("nbf", json!(now() + 300)))),
        ("for somebody else", issuer.jwt(&header, &with("aud", json!("other")))),
        ("of another issuer", issuer.jwt(&header, &with("iss", json!("http://127.0.0.1:1")))),
        ("signed by another", stranger.jwt(&header, &claims)),
        ("under another key", issuer.jwt(&json!({ "alg": "EdDSA", "kid": "k2" }), &claims)),
        ("under no key", issuer.jwt(&json!({ "alg": "EdDSA" }), &claims)),
        ("unsigned", issuer.jwt(&json!({ "alg": "none", "kid": "k1" }), &claims)),
        ("by a shared secret", issuer.jwt(&json!({ "alg": "HS256", "kid": "k1" }), &claims)),
        ("without a name", issuer.jwt(&header, &with("sub", Value::Null))),
        ("with a name that cannot be one", issuer.jwt(&header, &with("sub", json!("a\nb")))),
        ("cut off", cut),
    ] {
        let answer = list(&jwt);
        assert_eq!(answer.status, 401, "{what}: {}", answer.text());
    }
    list(&good).is(200);
    assert!(issuer.fake.sent().len() < 4, "keys are not fetched for every call");
}

#[test]
fn p45_while_an_issuers_keys_cannot_be_had_none_of_its_jwts_is_taken() {
    let issuer = Issuer::new(1);
    let served = Served::new(&format!(
        "{CONFIG}[[server.issuers]]\nissuer = \"{}\"\naudience = \"keyfold\"\njwks = \"http://127.0.0.1:1/jwks\"\n",
        issuer.fake.url
    ));
    let claims = json!({ "iss": issuer.fake.url, "aud": "keyfold", "sub": "x", "exp": now() + 300 });
    let jwt = issuer.jwt(&json!({ "alg": "EdDSA", "kid": "k1" }), &claims);
    served.as_(&jwt, "GET", "/v1/collections", None).fails(503, "provider_unavailable");
    served.get("/v1/collections").is(200);
}

#[test]
fn an_actor_that_calls_too_often_waits_and_the_others_do_not() {
    let served = Served::new(&format!("{CONFIG}[server.limits]\nrate = 2\n"));
    let agent = served.token_of("agent:x");
    let answers: Vec<_> = (0..30).map(|_| served.as_(&agent, "GET", "/v1/collections", None)).collect();
    let sent_away: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!sent_away.is_empty() && answers.iter().filter(|answer| answer.status == 200).count() >= 2);
    assert_eq!(sent_away[0].headers["retry-after"], "1");
    assert_eq!(sent_away[0].json()["code"], "rate_limited");
    served.get("/v1/collections").is(200);
    std::thread::sleep(Duration::from_secs(1));
    served.as_(&agent, "GET", "/v1/collections", None).is(200);
}

#[test]
fn behind_a_proxy_that_ends_tls_it_speaks_http_2_in_plain_on_the_port_it_is_given() {
    let served = Served::start(folder(CONFIG), &["--behind-tls"]);
    let client = reqwest::Client::builder().http2_prior_knowledge().timeout(Duration::from_secs(20)).build().unwrap();
    served.block_on(async {
        let calls = (0..50).map(|_| {
            let request = client.post(format!("{}/v1/seal", served.url)).bearer_auth(&served.token);
            request.json(&json!({ "plaintext": "x" })).send()
        });
        for answer in futures::future::join_all(calls).await {
            let answer = answer.unwrap();
            assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
        }
    });
}

#[test]
#[cfg(feature = "otlp")]
fn traces_go_to_a_collector_follow_the_callers_and_hold_no_secret() {
    let collector = Fake::serve(|_| "{}".into());
    let served = Served::new(&format!("{CONFIG}[server.traces]\nendpoint = \"{}\"\n", collector.url));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = served.request("POST", "/v1/seal").bearer_auth(&served.token).header("traceparent", parent);
    served.send(request.json(&json!({ "plaintext": "hunter2" }))).is(200);
    served.put("/v1/collections/instances/records/swordfish", json!({ "connection_url": "hunter2" })).is(201);
    served.as_("kfa_wrong", "GET", "/v1/tokens", None).fails(401, "unauthenticated");
    let token = served.token.clone();
    // What is left is sent at the end.
    served.stop();
    let mut spans = Vec::new();
    for sent in collector.sent() {
        assert_eq!(sent.path, "/v1/traces");
        let text = String::from_utf8(sent.body).unwrap();
        assert!(!["hunter2", "swordfish", "kfa_wrong", &token].iter().any(|needle| text.contains(needle)), "{text}");
        let body: Value = serde_json::from_str(&text).unwrap();
        for resource in body["resourceSpans"].as_array().unwrap() {
            for scope in resource["scopeSpans"].as_array().unwrap() {
                spans.extend(scope["spans"].as_array().unwrap().clone());
            }
        }
    }
    let named = |name: &str| spans.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("{spans:?}"));
    let seal = named("POST /v1/seal");
    assert_eq!(seal["traceId"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(seal["parentSpanId"], "b7ad6b7169203331");
    assert!(named("PUT /v1/collections/{collection}/records/{record}")["attributes"].to_string().contains("201"));
    assert!(named("GET /v1/tokens")["attributes"].to_string().contains("unauthenticated"));
}

#[test]
fn the_numbers_tell_of_keys_of_what_is_stored_and_in_plaintext_and_of_the_log() {
    let config = "[collections.instances]\nfields = [\"/connection_url\"]\naccept = [\"kf1\", { format = \"plaintext\", until = \
                  2999-01-01 }]\n[server]\ncensus = \"1s\"\ncheckpoint = \"1s\"\n";
    let served = Served::new(config);
    served.put("/v1/collections/instances/records/a", json!({ "connection_url": "sealed" })).is(201);
    let import = common::keyfold("records import instances --as-is").data_dir(&served.data());
    import.stdin("{\"id\":\"b\",\"connection_url\":\"plain\"}").run().text();
    let has = |line: &str| served.get("/metrics").text().lines().any(|found| found == line);
    wait(|| has("keyfold_plaintext_values{collection=\"instances\"} 1"));
    let kid = served.get("/v1/keyrings").is(200)["keyrings"][0]["keys"][0]["kid"].as_str().unwrap().to_owned();
    wait(|| has(&format!("keyfold_stored_values{{collection=\"instances\",format=\"kf1\",kid=\"{kid}\"}} 1")));
    let started = served.post("/v1/jobs", json!({ "kind": "migrate", "collection": "instances" })).is(202);
    let path = format!("/v1/jobs/{}", started["id"].as_str().unwrap());
    wait(|| served.get(&path).is(200)["state"] == "done");
    wait(|| has("keyfold_plaintext_values{collection=\"instances\"} 0"));
    let text = served.get("/metrics").text();
    for says in [
        &format!("keyfold_key_age_seconds{{kid=\"{kid}\",state=\"primary\"}} "),
        "keyfold_audit_intent_seconds_bucket{",
        "keyfold_audit_unsigned_seconds ",
        "keyfold_request_seconds_bucket{",
        "keyfold_job_records_total ",
        "keyfold_census_time_seconds ",
        "keyfold_keyring_generation ",
    ] {
        assert!(text.contains(says), "{says} is not in\n{text}");
    }
    // One that works for a while shows how far it is.
    let docs: String = (0..4000).map(|i| format!("{{\"id\":\"x{i}\",\"connection_url\":\"plain-{i}\"}}\n")).collect();
    let import = common::keyfold("records import instances --as-is").data_dir(&served.data());
    import.stdin(docs).run().text();
    wait(|| {
        let started = served.post("/v1/jobs", json!({ "kind": "verify", "collection": "instances" })).is(202);
        let path = format!("/v1/jobs/{}", started["id"].as_str().unwrap());
        let mut seen = false;
        while served.get(&path).is(200)["state"] == "running" {
            let progress = "keyfold_job_pass_records{kind=\"verify\",collection=\"instances\"}";
            seen |= served.get("/metrics").text().contains(progress);
        }
        seen
    });
}
