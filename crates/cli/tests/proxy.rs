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
#[path = "proxy/learn.rs"]
mod learn;
#[path = "proxy/mapped.rs"]
mod mapped;
#[path = "proxy/place.rs"]
mod place;
#[path = "proxy/upstream.rs"]
mod upstream;

use base64_simd::STANDARD;
use common::{deployment::scaled, needles::Needles};
use place::{Place, place, spellings, wait};
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
fn p30_a_tunnel_leads_to_the_one_host_it_was_opened_to() {
    let Some(place) = place("") else { return };
    let (token, handle) = place.session("alice");
    let host = format!("api.test:{}", place.up.port());
    let ask = |sni: &str, request: &str| place.through_tunnel(&host, &handle, sni, request);
    let fine = ask("api.test", &format!("GET /who HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
    assert!(fine.starts_with("HTTP/1.1 200"), "{fine}");
    assert_eq!(place.up.one().all("authorization"), [format!("Bearer {token}")]);
    for request in [
        "GET /who HTTP/1.1\r\nHost: other.test\r\n\r\n".to_owned(),
        "GET /who HTTP/1.1\r\nHost: api.test\r\n\r\n".into(),
        format!("GET https://other.test/who HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("GET /who HTTP/1.1\r\nHost: {host}\r\nHost: other.test\r\n\r\n"),
        format!("GET /who HTTP/1.1\r\nHost: {host}\r\nHost: {host}\r\n\r\n"),
        "GET /who HTTP/1.1\r\n\r\n".into(),
        "GET /who HTTP/1.0\r\n\r\n".into(),
    ] {
        let answer = ask("api.test", &request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4"), "{request}\n---\n{answer}");
    }
    assert_eq!(ask("other.test", "GET /who HTTP/1.1\r\nHost: other.test\r\n\r\n"), "", "TLS asked for another host");
    assert!(place.up.nothing());
    for (host, code) in [("other.test.evil:443", "destination_unknown"), ("2130706433:443", "host_refused")] {
        let answer = place.raw(&format!(
            "CONNECT {host} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Bearer {}\r\n\r\n",
            place.agent
        ));
        assert!(answer.starts_with("HTTP/1.1 4") && answer.contains(code), "{answer}");
    }
    let nobody = place.raw(&format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    assert!(nobody.starts_with("HTTP/1.1 407") && nobody.contains("proxy-authenticate: Basic"), "{nobody}");
}

#[test]
fn p31_an_ambiguous_path_is_refused_and_an_accepted_one_goes_out_byte_for_byte() {
    let Some(place) = Place::http1("[[destinations.api.rules]]\npath = \"/safe/**\"\n") else { return };
    let (_, handle) = place.session("alice");
    let get = |path: &str| {
        place.raw(&format!(
            "GET /proxy/api.test:{}{path} HTTP/1.1\r\nHost: x\r\nKeyfold-Token: {}\r\nKeyfold-Session: {handle}\r\n\
             Connection: close\r\n\r\n",
            place.up.port(),
            place.agent
        ))
    };
    for path in [
        "/safe/../admin",
        "/safe/%2e%2e/admin",
        "/safe/.%2E/admin",
        "/safe/..;/admin",
        "/safe/\\..\\admin",
        "/safe/%5c../admin",
        "/safe//admin",
        "/safe/%2fadmin",
        "/safe/%252e%252e/admin",
        "/safe/%c0%ae%c0%ae/admin",
        "/safe/%00",
        "/safe/a%0d%0ab",
        "/admin",
        "//safe/x",
        "/Safe/x",
    ] {
        let answer = get(path);
        assert!(answer.starts_with("HTTP/1.1 4"), "{path}: {answer}");
    }
    assert!(place.up.nothing());
    for path in ["/safe/%7Ea+b%20c?q=%2F..%2F&&x=a+b%zz", "/safe/a;b=c,d?", "/safe/%e2%82%ac"] {
        let answer = get(path);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        assert_eq!(place.up.one().target, path);
        let sent = String::from_utf8_lossy(&place.up.bytes()).into_owned();
        assert!(sent.contains(&format!("GET {path} HTTP/1.1\r\n")), "{path}\n{sent}");
    }
}

#[test]
fn p32_a_host_has_one_spelling() {
    let Some(place) = place("") else { return };
    let handle = place.handle("alice", json!({}));
    let port = place.up.port();
    for (host, status) in [
        (format!("API.Test:{port}"), 200),
        (format!("api.test.:{port}"), 400),
        (format!("api.test:0{port}"), 400),
        (format!("api.test.evil.tld:{port}"), 403),
        (format!("x@api.test:{port}"), 400),
        (format!("api%2etest:{port}"), 400),
        (format!("2130706433:{port}"), 400),
        (format!("0x7f000001:{port}"), 400),
        (format!("0177.0.0.1:{port}"), 400),
        (format!("127.1:{port}"), 400),
        (format!("127.0.0.1:{port}"), 403),
        (format!("[::ffff:127.0.0.1]:{port}"), 400),
        (format!("[64:ff9b::7f00:1]:{port}"), 403),
    ] {
        let answer = place.raw(&format!(
            "GET /proxy/{host}/who HTTP/1.1\r\nHost: x\r\nKeyfold-Token: {}\r\nKeyfold-Session: {handle}\r\nConnection: \
             close\r\n\r\n",
            place.agent
        ));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {answer}");
    }
}

#[test]
fn p33_an_address_of_this_machine_or_its_network_is_not_dialled_unless_the_destination_says_so() {
    let listed = [
        ("local", "localhost", ""),
        ("loop", "127.0.0.1", ""),
        ("meta", "169.254.169.254", "private = true\n"),
        ("pinned", "pinned.test", "address = \"127.0.0.1\"\n"),
        ("cgnat", "100.64.0.1", ""),
        ("mapped", "mapped.test", "address = \"64:ff9b::7f00:1\"\nprivate = true\n"),
    ];
    let more: Vec<_> = listed
        .iter()
        .map(|(name, host, more)| format!("[destinations.{name}]\nhost = \"{host}\"\nport = PORT\n{more}"))
        .collect();
    let Some(place) = place(&more.join("")) else { return };
    let handle = place.handle("alice", json!({}));
    for (_, host, _) in listed {
        let request = place.at(&format!("{host}:{}", place.up.port()), "GET", "/who");
        let request = request.header("keyfold-token", &place.agent).header("keyfold-session", &handle);
        place.send(request).fails(403, "address_refused");
    }
    assert!(place.up.nothing() && place.up.connections() == 0);
}

#[test]
fn p34_an_echo_of_the_token_reaches_the_agent_in_no_spelling() {
    let Some(place) = place("") else { return };
    let (token, handle) = place.session("alice");
    let long = spellings(&token).join("\n").len();
    for client in [&place.http1, &place.http2] {
        let answer = place.send(place.by(client, "GET", "/echo").header("keyfold-session", &handle));
        assert_eq!((answer.status, answer.body.len()), (200, long), "masked at equal length");
        let mut needles = Needles::default();
        needles.add("the user's token", token.as_bytes());
        assert_eq!(needles.find(&answer.body, None), None, "{}", answer.text());
        assert!(!answer.text().contains(&token[8..24]), "{}", answer.text());
        assert_eq!(needles.find(format!("{:?}", answer.headers).as_bytes(), None), None, "{:?}", answer.headers);
    }
    // What cannot be scrubbed does not come back at all.
    let asks = |path: &str| {
        let request = place.request("GET", path).header("keyfold-session", &handle);
        place.send(request.header("accept-encoding", "gzip").header("range", "bytes=0-3"))
    };
    asks("/gzip").fails(502, "upstream_encoded");
    asks("/partial").fails(502, "upstream_encoded");
    for arrived in place.up.arrived() {
        assert!(arrived.all("range").is_empty());
        assert_eq!(arrived.all("accept-encoding"), ["identity"]);
    }
}

#[test]
fn p35_a_token_endpoints_answer_holds_the_handle_and_no_live_token() {
    let Some(place) = place("token_endpoint = \"/token\"\n") else { return };
    let (_, handle) = place.session("alice");
    let answer = place.send(place.request("POST", "/token").header("keyfold-session", &handle).body("grant_type=x"));
    let text = answer.text();
    let said = answer.is(200);
    assert_eq!((&said["access_token"], &said["expires_in"]), (&json!(handle), &json!(3599)));
    assert!(!text.contains("live-"), "{text}");
}

#[test]
fn p36_the_agents_own_copies_of_what_is_injected_never_arrive() {
    let extra = "[destinations.keyed]\nhost = \"keyed.test\"\nport = PORT\naddress = \"127.0.0.1\"\nprivate = true\nroots = \
                 \"ROOTS\"\ninject = { header = \"X-Api-Key\", prefix = \"k \" }\n[destinations.queried]\nhost = \"queried.test\"\nport = \
                 PORT\naddress = \"127.0.0.1\"\nprivate = true\nroots = \"ROOTS\"\ninject = { query = \"key\" }\n";
    let Some(place) = place(extra) else { return };
    let (token, handle) = place.session("alice");
    let tricks = "Authorization: Bearer mine\r\nAUTHORIZATION: Bearer mine\r\nX-Api-Key: mine\r\nx-api-key: mine\r\nX_Api_Key: \
                  mine\r\nConnection: close, authorization, x-api-key, x-named\r\nX-Named: mine\r\nProxy-Connection: keep-alive\r\n\
                  Keep-Alive: 5\r\nTE: trailers\r\nTrailer: x\r\nCookie: a=b; __Host-keyfold=kfc_x\r\n";
    let ask = |host: &str, path: &str| {
        let answer = place.raw(&format!(
            "GET /proxy/{host}:{}{path} HTTP/1.1\r\nHost: x\r\nKeyfold-Token: {}\r\nKeyfold-Session: {handle}\r\n{tricks}\r\n",
            place.up.port(),
            place.agent
        ));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        place.up.one()
    };
    let bearer = ask("api.test", "/who");
    assert_eq!(bearer.all("authorization"), [format!("Bearer {token}")]);
    let keyed = ask("keyed.test", "/who");
    assert_eq!((keyed.all("x-api-key"), keyed.all("authorization").len()), (vec![&*format!("k {token}")], 0));
    assert!(keyed.all("x_api_key").is_empty());
    let queried = ask("queried.test", "/who?a=b&key=mine&KEY=mine&%6bey=mine&c");
    assert_eq!(queried.target, format!("/who?a=b&c&key={token}"));
    for arrived in [&bearer, &keyed, &queried] {
        for gone in ["x-named", "connection", "proxy-connection", "keep-alive", "te", "trailer", "cookie"] {
            assert!(arrived.all(gone).is_empty(), "{gone}");
        }
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
fn many_users_over_few_connections_and_no_token_crosses() {
    let Some(place) = place("") else { return };
    let (users, calls) = (scaled(100).max(10), scaled(20_000).max(500));
    let people: Vec<_> = (0..users).map(|n| place.session(&format!("user-{n}"))).collect();
    let tunnels = place.tunnels();
    let crossed = place.many(calls, |n| {
        let (token, handle) = &people[n % users];
        let path = format!("/who/{n}");
        // One handle for each request, over connections and tunnels that all share.
        let request = match n % 3 {
            0 => place.by(&place.http2, "GET", &path),
            1 => place.by(&place.http1, "GET", &path),
            _ => tunnels.get(format!("https://api.test:{}{path}", place.up.port())),
        };
        let request = request.header("keyfold-session", handle);
        (request, (format!("/who/{n}"), format!("Bearer {token}")))
    });
    assert_eq!(crossed, 0);
    assert!(place.up.connections() < 200, "{}", place.up.connections());
}

#[test]
fn a_revoked_session_cuts_its_open_streams() {
    let Some(place) = place("") else { return };
    let (_, handle) = place.session("alice");
    let (_, others) = place.session("bob");
    let session = place.current(&handle);
    let mut streams: Vec<_> = [&place.http1, &place.http2]
        .into_iter()
        .map(|client| place.stream(place.by(client, "GET", "/events").header("keyfold-session", &handle)))
        .collect();
    let mut kept = place.stream(place.request("GET", "/events").header("keyfold-session", &others));
    let mut socket = place.websocket("/ws", &handle);
    assert!(streams.iter_mut().all(|stream| place.next(stream).is_some()));
    assert!(socket.says("hello "));
    place.served.as_(&place.served.token, "DELETE", &format!("/v1/sessions/{session}"), None);
    for stream in &mut streams {
        assert!(place.ends(stream), "the stream goes on");
    }
    assert!(socket.ends(), "the socket stays open");
    assert!(place.next(&mut kept).is_some(), "another person's goes on");
    wait(|| place.events().iter().any(|event| event["result"] == "session_revoked"));
}

#[test]
fn a_websocket_goes_both_ways_and_is_scrubbed() {
    let Some(place) = place("") else { return };
    let (token, handle) = place.session("alice");
    let mut socket = place.websocket("/ws", &handle);
    let first = socket.read_some();
    assert_eq!(first, format!("hello {}", "*".repeat(token.len())));
    socket.write("ping");
    assert!(socket.says("ping"));
    let arrived = place.up.one();
    assert_eq!(arrived.all("authorization"), [format!("Bearer {token}")]);
    assert_eq!((arrived.all("upgrade"), arrived.all("sec-websocket-extensions").len()), (vec!["websocket"], 0));
}

#[test]
fn grpc_goes_through_with_its_trailers() {
    let Some(place) = place("[[destinations.api.rules]]\ngrpc = { service = \"keyfold.Test\" }\n") else { return };
    let (token, handle) = place.session("alice");
    let (status, body, trailers) = place.grpc("/keyfold.Test/Call", &handle);
    assert_eq!((status, &body[..]), (200, &b"\0\0\0\0\x02ok"[..]));
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["grpc-message"].to_str().unwrap(), masked(&token));
    let arrived = place.up.one();
    assert_eq!((arrived.version, arrived.all("te")), (hyper::Version::HTTP_2, vec!["trailers"]));
    place
        .send(place.request("POST", "/keyfold.Test/Call").header("keyfold-session", &handle))
        .fails(403, "rule_missing");
}

#[test]
fn large_bodies_stream_both_ways_without_being_held() {
    let Some(place) = place("") else { return };
    let (_, handle) = place.session("alice");
    let size = scaled(512).max(32);
    let before = place.resident();
    let answer = place.count(place.request("GET", &format!("/big/{size}")).header("keyfold-session", &handle));
    assert_eq!(answer, size << 20);
    let body = reqwest::Body::from(vec![b'x'; size << 20]);
    let answer = place.send(place.request("POST", "/size").header("keyfold-session", &handle).body(body));
    assert_eq!(answer.text(), (size << 20).to_string());
    let grown = place.resident().saturating_sub(before);
    assert!(grown < 24 << 10, "{grown} KiB more for bodies of {size} MiB");
}

#[test]
fn broken_destinations_give_a_problem_with_a_hint_and_leave_nothing_behind() {
    let Some(place) = place("timeouts = { connect = \"2s\", headers = \"1s\", idle = \"1s\" }\n") else { return };
    let handle = place.handle("alice", json!({}));
    let ask = |path: &str| place.send(place.request("GET", path).header("keyfold-session", &handle));
    ask("/reset").fails(502, "upstream_broken");
    ask("/slow").fails(504, "upstream_timeout");
    wait(|| place.events().iter().any(|event| event["result"] == "upstream_timeout"));
    wait(|| place.up.open() <= 2);

    let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n";
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "x: y\r\n".repeat(100_000)).into_bytes();
    for (sends, hang, code) in [
        (b"nonsense\r\n\r\n".to_vec(), false, "upstream_broken"),
        (Vec::new(), false, "upstream_broken"),
        (format!("{head}content-length: 11\r\n\r\n0123456789").into_bytes(), false, "upstream_broken"),
        (format!("{head}bad name: x\r\n\r\n0123456789").into_bytes(), false, "upstream_broken"),
        (endless, false, "upstream_broken"),
        (b"HTTP/1.1 200".to_vec(), true, "upstream_timeout"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".to_vec(),
            true,
            "upstream_broken",
        ),
    ] {
        let status = if code == "upstream_timeout" { 504 } else { 502 };
        let shown = String::from_utf8_lossy(&sends[..sends.len().min(60)]).into_owned();
        let answer = place.send(place.broken(&sends, hang, &handle));
        assert_eq!(answer.status, status, "{shown}: {}", answer.text());
        let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(said["code"], code, "{shown}");
        assert!(said["hint"].is_string(), "{shown}");
        // One that works, so that the destination is not left alone.
        assert_eq!(
            place.send(place.broken(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false, &handle)).status,
            200
        );
    }
    // A body that ends early, or never goes on, breaks off; what is cut is not taken for whole.
    for hang in [false, true] {
        let mut stream = place.stream(place.broken(format!("{head}\r\n0123").as_bytes(), hang, &handle));
        let mut got = 0;
        while let Some(part) = place.next(&mut stream) {
            got += part.len();
        }
        assert_eq!(got, 4);
    }
    // A certificate of nobody we know, and no listener at all.
    place.send(place.to(&place.stranger(), &handle)).fails(502, "upstream_tls");
    for _ in 0..8 {
        place.send(place.to(&place.nobody(), &handle)).fails(502, "upstream_unreachable");
    }
    place.send(place.to(&place.nobody(), &handle)).fails(503, "upstream_paused");
}

#[test]
fn smuggling_is_refused_or_exactly_one_request_arrives_as_it_was_matched() {
    let Some(place) = Place::http1("[[destinations.api.rules]]\npath = \"/safe/**\"\n") else { return };
    let (_, handle) = place.session("alice");
    let head = |more: &str| {
        format!(
            "POST /proxy/api.test:{}/safe/x HTTP/1.1\r\nHost: x\r\nKeyfold-Token: {}\r\nKeyfold-Session: {handle}\r\n{more}",
            place.up.port(),
            place.agent
        )
    };
    let smuggled = "GET /admin HTTP/1.1\r\nHost: x\r\n\r\n";
    for (name, more) in [
        ("CL.TE", format!("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}")),
        ("TE.CL", format!("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{smuggled}")),
        ("TE.TE", format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{smuggled}")),
        ("odd TE", format!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}")),
        ("two lengths", format!("Content-Length: 0\r\nContent-Length: 38\r\n\r\n{smuggled}")),
        ("signed length", format!("Content-Length: +0\r\n\r\n{smuggled}")),
        ("list of lengths", format!("Content-Length: 0, 0\r\n\r\n{smuggled}")),
        ("space before the colon", format!("Content-Length : 0\r\n\r\n{smuggled}")),
        ("folded", format!("X: a\r\n Content-Length: 0\r\nContent-Length: 0\r\n\r\n{smuggled}")),
        ("bare CR", format!("X: a\rContent-Length: 38\r\nContent-Length: 0\r\n\r\n{smuggled}")),
        ("NUL", format!("X: a\0b\r\nContent-Length: 0\r\n\r\n{smuggled}")),
        ("two hosts", format!("Host: y\r\nContent-Length: 0\r\n\r\n{smuggled}")),
        ("bad chunk", format!("Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n{smuggled}")),
        ("chunk extension", format!("Transfer-Encoding: chunked\r\n\r\n0;a\nb\r\n\r\n{smuggled}")),
    ] {
        let answers = place.raw(&head(&more));
        let arrived = place.up.take();
        let refused = arrived.is_empty();
        assert!(refused || arrived.len() == 1, "{name}: {arrived:?}\n{answers}");
        for one in arrived {
            assert_eq!((one.method.as_str(), one.target.as_str()), ("POST", "/safe/x"), "{name}");
            assert!(one.body.is_empty(), "{name}: {:?}", one.body);
        }
        if name == "two hosts" {
            assert!(refused && answers.starts_with("HTTP/1.1 400"), "{answers}");
        }
        assert!(!String::from_utf8_lossy(&place.up.bytes()).contains("/admin"), "{name}");
    }
}

#[test]
fn one_handle_does_not_take_all_the_room() {
    let Some(place) = Place::with("[proxy]\nin_flight = 3\n", "") else { return };
    let (_, greedy) = place.session("alice");
    let (_, other) = place.session("bob");
    let mut held: Vec<_> =
        (0..3).map(|_| place.stream(place.request("GET", "/events").header("keyfold-session", &greedy))).collect();
    assert!(held.iter_mut().all(|stream| place.next(stream).is_some()));
    let ask = |handle: &str| place.send(place.request("GET", "/who").header("keyfold-session", handle));
    ask(&greedy).fails(429, "too_many_calls");
    assert_eq!(ask(&other).status, 200);
    drop(held);
    wait(|| ask(&greedy).status == 200);
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
fn a_service_that_ends_gives_streams_a_moment_and_writes_down_how_they_went() {
    let Some(place) = place("") else { return };
    let (_, handle) = place.session("alice");
    let mut stream = place.stream(place.request("GET", "/events").header("keyfold-session", &handle));
    assert!(place.next(&mut stream).is_some());
    let place = place.restarted();
    assert!(place.events().iter().any(|event| event["result"] == "service_ended"), "{:?}", place.events());
    assert_eq!(place.served.get("/v1/audit/verify").is(200)["verdict"], "ok");
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

fn guide() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/proxy.md")).unwrap()
}

fn blocks(guide: &str, kind: &str) -> Vec<String> {
    let open = format!("```{kind}\n");
    guide.split(&open).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_configuration_of_the_guide_is_taken_with_and_without_what_it_comments_out() {
    let issuer = "[[sessions.issuers]]\npreset = \"google\"\nclient_id = \"x.apps.googleusercontent.com\"\n";
    let plain = format!("{issuer}{}", blocks(&guide(), "toml").join("\n"));
    let uncommented: String = plain
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(commented) if commented.contains(" = ") => format!("{commented}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(uncommented.contains("\nhandle_alone = true") && uncommented.contains("\npaths = \"lenient\""));
    for config in [plain, uncommented] {
        let folder = common::served::folder(&config);
        let checked = common::keyfold("config check").data_dir(&folder.path().join("data")).run();
        assert_eq!(checked.code, 0, "{}\n{config}", checked.stderr);
    }
}

#[test]
fn the_commands_of_the_guide_run_as_they_stand_there() {
    let Some(place) = place("") else { return };
    let (token, handle) = place.session("alice");
    let folder = place.served.folder();
    let mut answers = Vec::new();
    for line in blocks(&guide(), "console").remove(0).lines() {
        let output = std::process::Command::new("bash")
            .args(["-c", line.strip_prefix("$ ").unwrap()])
            .current_dir(folder.path())
            .env_clear()
            .envs([("PATH", std::env::var("PATH").unwrap()), ("PROXY", place.proxy()), ("AGENT", place.agent.clone())])
            .envs([("HANDLE", handle.clone()), ("HOST", format!("api.test:{}", place.up.port()))])
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        answers.push(String::from_utf8(output.stdout).unwrap());
    }
    assert_eq!(answers, [masked(&token), String::new(), masked(&token)]);
}

#[test]
fn no_guide_puts_a_proof_where_the_list_of_processes_shows_it() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let guides = std::fs::read_dir(format!("{root}/docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut commands = 0;
    for path in guides.chain([format!("{root}/README.md").into()]) {
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text
            .lines()
            .filter(|line| line.contains("$ curl ") || line.contains("| curl ") || line.starts_with("curl "))
        {
            commands += 1;
            let mut arguments = line.split_once("curl ").unwrap().1.to_owned();
            // What the shell prints into a pipe is no argument.
            if let Some((before, piped)) = arguments.split_once("<(printf ") {
                arguments = format!("{before}{}", piped.split_once(')').unwrap().1);
            }
            for secret in ["AGENT", "HANDLE", "BACKEND", "ACCESS", "KEYFOLD_TOKEN"] {
                let shown = [format!("${secret}"), format!("${{{secret}")].iter().any(|name| arguments.contains(name));
                assert!(!shown, "{}: {line}", path.display());
            }
        }
    }
    assert!(commands >= 8, "{commands}");
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
