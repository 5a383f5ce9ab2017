//! The proxy from outside: the real service, real clients, hostile ones, and a destination that notes every byte it gets.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

#[path = "proxy/alone.rs"]
mod alone;
#[path = "proxy/bounds.rs"]
mod bounds;
#[path = "proxy/certificates.rs"]
mod certificates;
#[path = "common/mod.rs"]
mod common;
#[path = "proxy/guide.rs"]
mod guide;
#[path = "proxy/hostile.rs"]
mod hostile;
#[path = "proxy/learn.rs"]
mod learn;
#[path = "proxy/mapped.rs"]
mod mapped;
#[path = "proxy/place.rs"]
mod place;
#[path = "proxy/streams.rs"]
mod streams;
#[path = "proxy/upstream.rs"]
mod upstream;

use base64_simd::STANDARD;
use common::needles::Needles;
use place::{Place, place, wait};
use serde_json::json;

#[test]
fn a_call_leaves_with_the_users_own_token_and_nothing_of_the_agents() {
    let Some(place) = place("") else { return };
    let (token, handle) = place.session("alice");
    let sent = place
        .request("POST", "/a/b%20c?d=e&f")
        .header("keyfold-session", &handle)
        .header("authorization", "Bearer the-agents-own")
        .header("x-kept", "kept")
        .body("body");
    let answer = place.send(sent);
    assert_eq!((answer.status, answer.text()), (200, masked(&token)));
    let arrived = place.up.one();
    assert_eq!((arrived.method.as_str(), arrived.target.as_str()), ("POST", "/a/b%20c?d=e&f"));
    assert_eq!(arrived.all("authorization"), [format!("Bearer {token}")]);
    assert_eq!((arrived.all("x-kept"), &arrived.body[..]), (vec!["kept"], &b"body"[..]));
    assert_eq!(arrived.all("host"), [format!("api.test:{}", place.up.port())]);
    for gone in ["keyfold-session", "keyfold-token", "proxy-authorization", "x-forwarded-for", "via"] {
        assert!(arrived.all(gone).is_empty(), "{gone}");
    }
    let mut needles = Needles::default();
    needles.add("the agent's token", place.agent.as_bytes());
    needles.add("the handle", handle.as_bytes());
    needles.add("the agent's own", b"the-agents-own");
    assert_eq!(needles.find(&place.up.bytes(), None), None, "nothing of ours reaches a destination");

    // The log names who, whose, where, how and what came of it; no path, no query, no token.
    let use_ = || place.events().into_iter().filter(|event| event["action"] == "use").collect::<Vec<_>>();
    wait(|| use_().len() == 2);
    let events = use_();
    let (intent, outcome) = (&events[0], &events[1]);
    assert_eq!(intent["kind"], "intent");
    for event in &events {
        assert_eq!((&event["actor"], &event["field"]), (&json!("agent:triage"), &json!("api")));
        assert_eq!((&event["method"], &event["path"]), (&json!("POST"), &json!("/a/{}")));
        assert!(event["record"].as_str().is_some_and(|session| session.len() == 48));
    }
    assert_eq!((&outcome["result"], &outcome["status"]), (&json!("done"), &json!(200)));
    assert_eq!(outcome["bytes"], json!(token.len() + 7));
    assert!(outcome["millis"].is_u64());
    let mut needles = Needles::default();
    needles.add("the user's token", token.as_bytes());
    needles.add("the handle", handle.as_bytes());
    needles.add("the agent's token", place.agent.as_bytes());
    let log = format!("{:?}{}", place.events(), place.served.stderr());
    assert_eq!(needles.find(log.as_bytes(), None), None);
}

/// What the destination answers of a credential, as it comes back.
fn masked(token: &str) -> String {
    format!("Bearer {}", "*".repeat(token.len()))
}

#[test]
fn proof_and_handle_can_stand_where_stock_clients_can_put_them() {
    let Some(place) = place("") else { return };
    let (token, handle) = place.session("alice");
    let basic =
        |user: &str, password: &str| format!("Basic {}", STANDARD.encode_to_string(format!("{user}:{password}")));
    let agent = place.agent.clone();
    for headers in [
        vec![("authorization", format!("Bearer {agent}")), ("keyfold-session", handle.clone())],
        vec![("keyfold-token", agent.clone()), ("authorization", format!("Bearer {handle}"))],
        vec![("proxy-authorization", basic("agent", &agent)), ("authorization", format!("Bearer {handle}"))],
        vec![("proxy-authorization", basic(&handle, &agent))],
    ] {
        let mut request = place.bare("GET", "/who");
        for (name, value) in &headers {
            request = request.header(*name, value);
        }
        assert_eq!(place.send(request).status, 200, "{headers:?}");
        assert_eq!(place.up.one().all("authorization"), [format!("Bearer {token}")]);
    }
    for (headers, status, code) in [
        (vec![], 401, "unauthenticated"),
        (vec![("authorization", format!("Bearer {agent}x"))], 401, "unauthenticated"),
        (vec![("authorization", format!("Bearer {handle}"))], 401, "unauthenticated"),
        (vec![("keyfold-token", agent.clone())], 401, "no_user_token"),
        (vec![("keyfold-token", agent), ("keyfold-session", "kfh_made-up".into())], 401, "session_unknown"),
        (
            vec![("keyfold-token", place.served.token_of("agent:other")), ("keyfold-session", handle)],
            401,
            "handle_of_another_agent",
        ),
    ] {
        let mut request = place.bare("GET", "/who");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        place.send(request).fails(status, code);
    }
    assert!(place.up.nothing());
}

#[test]
fn a_handle_alone_speaks_for_its_agent_only_where_the_deployment_says_so() {
    let Some(place) = Place::with("[proxy]\nhandle_alone = true\n", "") else { return };
    let (token, handle) = place.session("alice");
    let with = |handle: &str| place.send(place.bare("GET", "/who").header("authorization", format!("Bearer {handle}")));
    assert_eq!(with(&handle).status, 200);
    assert_eq!(place.up.one().all("authorization"), [format!("Bearer {token}")]);
    let anybodys = place.handle("bob", json!({}));
    with(&anybodys).fails(401, "not_a_handle");
    assert!(place.up.nothing());
}

#[test]
fn p21_without_a_session_strict_refuses_and_a_handle_reaches_no_further_than_it_says() {
    let Some(place) = place("") else { return };
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let problem = place.send(place.request(method, "/who")).fails(401, "no_user_token");
        assert!(problem["hint"].as_str().unwrap().contains("Keyfold-Session"), "{problem}");
    }
    assert_eq!(place.send(place.request("HEAD", "/who")).status, 401);
    // By the other way in, as a stream, as a WebSocket, and as gRPC.
    let url = format!("https://api.test:{}/who", place.up.port());
    place.send(place.tunnels().get(url)).fails(401, "no_user_token");
    for headers in [
        [("accept", "text/event-stream"), ("cache-control", "no-cache")],
        [("connection", "upgrade"), ("upgrade", "websocket")],
        [("content-type", "application/grpc"), ("te", "trailers")],
    ] {
        let mut request = place.request("POST", "/who");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        assert_eq!(place.send(request).status, 401, "{headers:?}");
    }
    let elsewhere = place.handle("alice", json!({ "agent": "agent:triage", "destinations": ["other"] }));
    place.send(place.request("GET", "/who").header("keyfold-session", elsewhere)).fails(403, "destination_not_allowed");
    let reads = place.handle("alice", json!({ "agent": "agent:triage", "methods": ["GET"] }));
    place
        .send(place.request("POST", "/who").header("keyfold-session", &reads))
        .fails(403, "method_not_allowed_by_handle");
    assert!(place.up.nothing());
    assert_eq!(place.send(place.request("GET", "/who").header("keyfold-session", &reads)).status, 200);
}

#[test]
fn what_no_rule_and_no_grant_allows_is_refused_and_written_down() {
    let rules = "[[destinations.api.rules]]\nmethods = [\"GET\"]\npath = \"/v1/**\"\n[[destinations.api.rules]]\nmethods = [\"POST\"]\n\
                 path = \"/v1/*:list\"\n[[grants]]\nto = \"agent:narrow\"\nmay = [\"use\"]\ndestinations = [\"api\"]\nmethods = [\"GET\"]\n\
                 paths = [\"/v1/logs/*\"]\n[[grants]]\nto = \"agent:elsewhere\"\nmay = [\"use\"]\ndestinations = [\"other\"]\n";
    let Some(place) = Place::with("default_grants = [\"operator\", \"service\"]\n", rules) else { return };
    let handle = place.handle("alice", json!({}));
    let narrow = place.served.token_of("agent:narrow");
    let call = |agent: &str, method: &str, path: &str| {
        let request = place.bare(method, path).header("keyfold-token", agent).header("keyfold-session", &handle);
        place.send(request)
    };
    assert_eq!(call(&narrow, "GET", "/v1/logs/a").status, 200);
    place.up.one();
    // The rules of the destination.
    for (method, path) in [("POST", "/v1/logs/a"), ("GET", "/v2/logs/a"), ("GET", "/v1"), ("TRACE", "/v1/logs/a")] {
        call(&narrow, method, path).fails(403, "rule_missing");
    }
    // The three ways to be without a grant: another path, another destination, none at all.
    call(&narrow, "GET", "/v1/other").fails(403, "forbidden");
    call(&narrow, "POST", "/v1/logs:list").fails(403, "forbidden");
    call(&place.served.token_of("agent:elsewhere"), "GET", "/v1/logs/a").fails(403, "forbidden");
    call(&place.served.token_of("agent:none"), "GET", "/v1/logs/a").fails(403, "forbidden");
    // What is not listed at all.
    for host in ["evil.test", "api.test:1", "api.test.evil.tld"] {
        let request = place.at(host, "GET", "/v1/logs/a").header("keyfold-token", &narrow);
        place.send(request.header("keyfold-session", &handle)).fails(403, "destination_unknown");
    }
    assert!(place.up.nothing());
    let refused = place.events().into_iter().filter(|event| event["action"] == "refused" && event["kind"] == "intent");
    let refused: Vec<_> = refused.collect();
    assert_eq!(refused.len(), 4 + 4 + 3);
    assert!(refused.iter().all(|event| event["missing"] == "use" && event["field"].is_string()), "{refused:?}");
    // The same answers ahead of time.
    for (actor, request, code) in [
        ("agent:narrow", "GET https://api.test:PORT/v1/logs/a", 0),
        ("agent:narrow", "GET https://api.test:PORT/v1/other", 3),
        ("agent:narrow", "GET https://api.test:PORT/v2/logs/a", 3),
        ("agent:elsewhere", "GET https://api.test:PORT/v1/logs/a", 3),
        ("agent:elsewhere", "destination other", 0),
    ] {
        let request = request.replace("PORT", &place.up.port().to_string());
        let ended = place.keyfold(&format!("policy explain {actor} use {request}"));
        assert_eq!(ended.code, code, "{actor} {request}: {}", ended.stderr);
    }
}

#[test]
fn p37_without_the_audit_log_nothing_leaves() {
    let Some(place) = place("").and_then(Place::on_a_disk) else { return };
    let (_, handle) = place.session("alice");
    let ask = || place.send(place.request("GET", "/who").header("keyfold-session", &handle));
    assert_eq!(ask().status, 200);
    place.up.one();
    place.break_audit();
    // What is left of the page that is being written takes a few events more.
    wait(|| ask().status == 503);
    place.up.take();
    for _ in 0..3 {
        ask().fails(503, "audit_unavailable");
    }
    assert!(place.up.nothing());
}

#[test]
fn p38_no_plaintext_of_a_token_lies_in_the_data_folder() {
    let Some(place) = place("") else { return };
    let (token, handle) = place.session("alice");
    for _ in 0..3 {
        assert_eq!(place.send(place.request("GET", "/who").header("keyfold-session", &handle)).status, 200);
    }
    let mut needles = Needles::default();
    needles.add("the user's token", token.as_bytes());
    needles.add("the handle", handle.as_bytes());
    needles.add("the agent's token", place.agent.as_bytes());
    for (file, bytes) in place.stored() {
        assert_eq!(needles.find(&bytes, None), None, "{}", file.display());
    }
}

#[test]
fn a_fallback_is_taken_where_it_is_configured_and_never_for_a_handle_that_does_not_hold() {
    // The real metadata server is elsewhere; that the account's place is looked for, and nothing leaves without it, is seen here.
    let more = "fallback = \"file:/nonexistent/key.json\"\n";
    let Some(place) = Place::with("enforcement = \"permissive\"\n", more) else { return };
    place.send(place.request("GET", "/who")).fails(401, "token_refused");
    place.send(place.request("GET", "/who").header("keyfold-session", "kfh_made-up")).fails(401, "session_unknown");
    assert!(place.up.nothing());
    wait(|| place.events().iter().any(|event| event["action"] == "use_fallback"));
}

#[test]
fn a_secret_of_the_deployment_is_lent_to_calls_and_never_shown() {
    let config = "[collections.keys]\nfields = [\"/key\"]\n";
    let more = "secret = \"keys/grafana#/key\"\ninject = { basic = \"admin\" }\n";
    let Some(place) = Place::with(config, more) else { return };
    place.served.put("/v1/collections/keys/records/grafana", json!({ "key": "the-secret-of-grafana" })).is(201);
    let answer = place.send(place.request("GET", "/echo"));
    let basic = format!("Basic {}", STANDARD.encode_to_string("admin:the-secret-of-grafana"));
    assert_eq!(place.up.one().all("authorization"), [basic]);
    let mut needles = Needles::default();
    needles.add("the secret", b"the-secret-of-grafana");
    assert_eq!(needles.find(&answer.body, None), None, "{}", answer.text());
    let used = place.events().into_iter().find(|event| event["action"] == "use").unwrap();
    assert_eq!((&used["collection"], &used["record"]), (&json!("keys"), &json!("grafana")));
}

#[test]
fn curl_and_python_reach_the_destination_through_both_ways_in() {
    let Some(place) = place("") else { return };
    let (token, handle) = place.session("alice");
    let (ca, port) = (place.ca(), place.up.port());
    let proxy = place.proxy().replace("http://", &format!("http://{handle}:{}@", place.agent));
    let url = format!("https://api.test:{port}/who?a=b");
    let addressed = format!("{}/proxy/api.test:{port}/who?a=b", place.proxy());
    let mut clients: Vec<(&str, Vec<String>)> = Vec::new();
    let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (ours, session) = (format!("Keyfold-Token: {}", place.agent), format!("Keyfold-Session: {handle}"));
    clients.push(("curl", texts(&["curl", "-sf", "-H", &ours, "-H", &session, &addressed])));
    clients.push((
        "curl, HTTP/2 in the clear",
        texts(&["curl", "-sf", "--http2-prior-knowledge", "-H", &ours, "-H", &session, &addressed]),
    ));
    clients.push(("curl through CONNECT", texts(&["curl", "-sf", "--cacert", &ca, "-x", &proxy, &url])));
    clients.push((
        "curl through CONNECT, HTTP/1.1",
        texts(&["curl", "-sf", "--http1.1", "--cacert", &ca, "-x", &proxy, &url]),
    ));
    if let Some(python) = place::python() {
        let script = "import sys, os, requests\nprint(requests.get(sys.argv[1]).text, end='')";
        clients.push(("requests through CONNECT", texts(&[&python, "-c", script, &url])));
        let script =
            "import sys, ssl, os, urllib.request\nprint(urllib.request.urlopen(sys.argv[1]).read().decode(), end='')";
        clients.push(("urllib through CONNECT", texts(&[&python, "-c", script, &url])));
    }
    for (name, words) in clients {
        let said = place::run(&words, &[("HTTPS_PROXY", &proxy), ("REQUESTS_CA_BUNDLE", &ca), ("SSL_CERT_FILE", &ca)]);
        assert_eq!(said, masked(&token), "{name}");
        let arrived = place.up.one();
        assert_eq!(
            (arrived.target.as_str(), arrived.all("authorization")),
            ("/who?a=b", vec![&*format!("Bearer {token}")])
        );
        assert!(arrived.all("proxy-authorization").is_empty());
    }
}

#[test]
fn a_destination_that_answers_401_is_asked_once_more_with_a_new_token() {
    let Some(place) = Place::refreshing() else { return };
    let (first, handle) = place.refreshing_session("alice");
    let answer = place.send(place.request("GET", "/unauthorized").header("keyfold-session", &handle));
    assert_eq!(answer.status, 401);
    let arrived = place.up.take();
    assert_eq!(arrived.len(), 2, "once more, and not again");
    assert_eq!(arrived[0].all("authorization"), [format!("Bearer {first}")]);
    assert_ne!(arrived[1].all("authorization"), arrived[0].all("authorization"));
}

#[test]
fn the_proxy_serves_under_the_services_own_tls_and_not_in_the_clear_where_others_reach_it() {
    let Some(place) = place("") else { return };
    let ended =
        common::keyfold("serve --listen 127.0.0.1:0 --proxy-listen 0.0.0.0:0").data_dir(&place.served.data()).run();
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("proxy.listen") && ended.stderr.contains("in the clear"), "{}", ended.stderr);
    let authority = common::authority::Authority::new();
    let (cert, key) = authority.sign(vec![rcgen::SanType::IpAddress("127.0.0.1".parse().unwrap())]);
    let folder = place.served.folder();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("cert.pem"), cert).unwrap();
    std::fs::write(path("key.pem"), key).unwrap();
    let (_, handle) = place.session("alice");
    let place = place.under_tls(&path("cert.pem"), &path("key.pem"), &authority.0.pem());
    assert!(place.proxy().starts_with("https://"));
    let answer = place.send(place.request("GET", "/who").header("keyfold-session", &handle));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_request_for_aws_is_signed_anew_with_the_real_key() {
    let config = "[collections.keys]\nfields = [\"/key\"]\n";
    let more = "secret = \"keys/aws#/key\"\ninject = { aws_sigv4 = \"AKIAIOSFODNN7EXAMPLE\" }\n";
    let Some(place) = Place::with(config, more) else { return };
    place
        .served
        .put("/v1/collections/keys/records/aws", json!({ "key": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY" }))
        .is(201);
    let (_, handle) = place.session("alice");
    let signed = |key: &str| {
        format!(
            "AWS4-HMAC-SHA256 Credential={key}/20261122/eu-west-1/sts/aws4_request, SignedHeaders=host;x-amz-date, Signature={}",
            "0".repeat(64)
        )
    };
    let ask = |authorization: &str| {
        let request = place.request("POST", "/who").header("x-amz-date", "20261122T000000Z");
        place.send(request.header("authorization", authorization).body("Action=GetCallerIdentity"))
    };
    let answer = ask(&signed(&handle));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let arrived = place.up.one();
    let authorization = arrived.all("authorization")[0].to_owned();
    let scope = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20261122/eu-west-1/sts/aws4_request";
    assert!(authorization.starts_with(scope) && !authorization.contains(&"0".repeat(64)), "{authorization}");
    assert!(!authorization.contains("kfh_") && &arrived.body[..] == b"Action=GetCallerIdentity");
    ask("Bearer mine").fails(400, "invalid_request");
    let revoked = place.current(&handle);
    place.served.as_(&place.served.token, "DELETE", &format!("/v1/sessions/{revoked}"), None);
    ask(&signed(&handle)).fails(401, "session_revoked");
    assert!(place.up.nothing());
}
