//! Listeners that are mapped to one destination: in the clear and under the deployment's authority, with all that holds elsewhere.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::json;

use super::{
    common::{keyfold, served},
    place::{Place, wait},
};

const TWO: &str = "listen = \"http://127.0.0.1:0\"\n[destinations.keyed]\nhost = \"keyed.test\"\nport = PORT\naddress = \"127.0.0.1\"\n\
                   private = true\nroots = \"ROOTS\"\nlisten = \"https://127.0.0.1:0\"\n";

/// Sends these bytes in the clear; what comes back.
fn raw(url: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

#[test]
fn a_mapped_listener_leads_to_its_destination_as_the_proxy_does() {
    let Some(place) = Place::with("", TWO) else { return };
    let (token, handle) = place.session("alice");
    let root = reqwest::Certificate::from_pem(&std::fs::read(place.ca()).unwrap()).unwrap();
    let client =
        || reqwest::Client::builder().timeout(Duration::from_secs(60)).no_proxy().tls_certs_only([root.clone()]);
    let tls = place.mapped("keyed");
    let named = |name: &str| tls.replace("127.0.0.1", name);
    let address = tls.strip_prefix("https://").unwrap().parse().unwrap();
    let resolving = client().resolve("keyed.test", address);
    for (name, client, url, host) in [
        ("in the clear", place.http1.clone(), place.mapped("api"), "api"),
        ("HTTP/2 in the clear", place.http2.clone(), place.mapped("api"), "api"),
        ("TLS, HTTP/2", client().build().unwrap(), tls.clone(), "keyed"),
        ("TLS, HTTP/1.1", client().http1_only().build().unwrap(), tls.clone(), "keyed"),
        ("TLS as localhost", client().build().unwrap(), named("localhost"), "keyed"),
        ("TLS as the destination", resolving.build().unwrap(), named("keyed.test"), "keyed"),
    ] {
        let request = client.post(format!("{url}/a/%7E?b=c%2F")).header("keyfold-token", &place.agent);
        let request = request.header("keyfold-session", &handle).header("x-api-key", "mine").body("body");
        let answer = place.send(request);
        assert_eq!((answer.status, answer.text()), (200, super::masked(&token)), "{name}");
        let arrived = place.up.one();
        assert_eq!(
            (arrived.method.as_str(), arrived.target.as_str(), &arrived.body[..]),
            ("POST", "/a/%7E?b=c%2F", &b"body"[..])
        );
        assert_eq!(arrived.all("authorization"), [format!("Bearer {token}")], "{name}");
        let authority = arrived.headers.get("host").map(|host| host.to_str().unwrap().to_owned());
        assert!(authority.is_none_or(|authority| authority == format!("{host}.test:{}", place.up.port())), "{name}");
        assert!(arrived.all("x-api-key").is_empty() && arrived.all("keyfold-token").is_empty(), "{name}");
    }
    let used = || place.events().into_iter().filter(|event| event["action"] == "use").collect::<Vec<_>>();
    wait(|| used().len() == 12);
    for event in used() {
        assert_eq!((&event["actor"], &event["path"]), (&json!("agent:triage"), &json!("/a/{}")));
        assert!(["api", "keyed"].contains(&event["field"].as_str().unwrap()));
    }
    // gRPC, with its trailers; and a WebSocket.
    let url = place.mapped("api");
    let (status, body, trailers) = place.grpc_at(&url, &format!("{url}/keyfold.Test/Call"), &handle);
    assert_eq!(
        (status, &body[..], &trailers["grpc-status"]),
        (200, &b"\0\0\0\0\x02ok"[..], &"0".parse::<reqwest::header::HeaderValue>().unwrap())
    );
    let proof = format!("Keyfold-Token: {}\r\nKeyfold-Session: {handle}\r\n", place.agent);
    let socket = raw(
        &url,
        &format!(
            "GET /ws HTTP/1.1\r\nHost: x.invalid\r\n{proof}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: bWFkZS11cA==\r\n\r\n"
        )
        .replace("x.invalid", "localhost"),
    );
    assert!(
        socket.starts_with("HTTP/1.1 101") && socket.contains(&format!("hello {}", "*".repeat(token.len()))),
        "{socket}"
    );
    // The proxy's own address is where it was.
    assert_eq!(place.send(place.request("GET", "/who").header("keyfold-session", &handle)).status, 200);
}

#[test]
fn p30_a_mapped_listener_leads_nowhere_else_and_lets_nothing_pass_that_the_proxy_refuses() {
    let rules = "[[destinations.api.rules]]\nmethods = [\"GET\"]\npath = \"/safe/**\"\n[[grants]]\nto = \"agent:triage\"\nmay = [\"use\"]\n\
                 destinations = [\"api\", \"meta\"]\n[destinations.meta]\nhost = \"meta.test\"\naddress = \"169.254.169.254\"\nprivate = true\n\
                 listen = \"http://127.0.0.1:0\"\n";
    let first = "default_grants = [\"operator\", \"service\"]\n";
    let Some(place) = Place::with(first, &format!("{TWO}{rules}")) else { return };
    let (_, handle) = place.session("alice");
    let url = place.mapped("api");
    let ask = |url: &str, method: &str, path: &str, agent: &str| {
        let request =
            place.http1.request(method.parse().unwrap(), format!("{url}{path}")).header("keyfold-token", agent);
        place.send(request.header("keyfold-session", &handle))
    };
    assert_eq!(ask(&url, "GET", "/safe/a", &place.agent).status, 200);
    place.up.one();
    ask(&url, "POST", "/safe/a", &place.agent).fails(403, "rule_missing");
    ask(&url, "GET", "/admin", &place.agent).fails(403, "rule_missing");
    ask(&url, "GET", "/safe//admin", &place.agent).fails(400, "path_refused");
    ask(&url, "GET", "/safe/a", &place.served.token_of("agent:other")).fails(403, "forbidden");
    ask(&url, "GET", "/safe/a", "kfa_made-up").fails(401, "unauthenticated");
    ask(&place.mapped("meta"), "GET", "/x", &place.agent).fails(403, "address_refused");
    place
        .send(place.http1.get(format!("{url}/safe/a")).header("keyfold-token", &place.agent))
        .fails(401, "no_user_token");
    let proof = format!("Keyfold-Token: {}\r\nKeyfold-Session: {handle}\r\nConnection: close\r\n", place.agent);
    for (request, says) in [
        (format!("GET /safe/a HTTP/1.1\r\nHost: other.test\r\n{proof}\r\n"), "421"),
        (format!("GET http://other.test/safe/a HTTP/1.1\r\nHost: other.test\r\n{proof}\r\n"), "421"),
        (format!("GET http://other.test/safe/a HTTP/1.1\r\nHost: api.test\r\n{proof}\r\n"), "400"),
        (format!("GET /safe/a HTTP/1.1\r\nHost: api.test\r\nHost: api.test\r\n{proof}\r\n"), "400"),
        (format!("GET /safe/a HTTP/1.0\r\nHost: api.test\r\n{proof}\r\n"), "400"),
        (format!("CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n{proof}\r\n"), "400"),
        (format!("GET /safe//../admin HTTP/1.1\r\nHost: api.test\r\n{proof}\r\n"), "400"),
    ] {
        let answer = raw(&url, &request);
        let version = answer.split(' ').nth(1).unwrap_or_default();
        assert_eq!(version, says, "{request}\n---\n{answer}");
    }
    // TLS that asks for somebody else ends there, whoever it names within.
    let root = reqwest::Certificate::from_pem(&std::fs::read(place.ca()).unwrap()).unwrap();
    let address = place.mapped("keyed").strip_prefix("https://").unwrap().parse().unwrap();
    let client =
        reqwest::Client::builder().no_proxy().tls_certs_only([root]).resolve("other.test", address).build().unwrap();
    let port = place.mapped("keyed").rsplit(':').next().unwrap().to_owned();
    assert!(place.served.block_on(client.get(format!("https://other.test:{port}/x")).send()).is_err());
    assert!(place.up.nothing());
}

#[test]
fn p27_a_revoked_session_cuts_what_came_in_by_a_mapped_listener() {
    let Some(place) = Place::with("", TWO) else { return };
    let (_, handle) = place.session("alice");
    let request = place.http1.get(format!("{}/events", place.mapped("api"))).header("keyfold-token", &place.agent);
    let mut stream = place.stream(request.header("keyfold-session", &handle));
    assert!(place.next(&mut stream).is_some());
    let session = place.current(&handle);
    place.served.as_(&place.served.token, "DELETE", &format!("/v1/sessions/{session}"), None).is(204);
    assert!(place.ends(&mut stream));
    wait(|| place.events().iter().any(|event| event["result"] == "session_revoked"));
}

#[test]
fn a_listener_that_cannot_be_is_reported_before_a_port_is_bound() {
    let issuer = "[[sessions.issuers]]\npreset = \"google\"\nclient_id = \"x.apps.googleusercontent.com\"\n";
    for (tables, says) in [
        (
            "[destinations.a]\nhost = \"a.example\"\nlisten = \"127.0.0.1:9443\"\n",
            "destinations.a.listen: must be http://",
        ),
        (
            "[destinations.a]\nhost = \"*.a.example\"\nlisten = \"https://127.0.0.1:9443\"\n",
            "destinations.a.listen: leads to one host",
        ),
        (
            "[destinations.a]\nhost = \"a.example\"\nlisten = \"http://0.0.0.0:9443\"\n",
            "destinations.a.listen: 0.0.0.0:9443 can be reached",
        ),
        (
            "[destinations.a]\nhost = \"a.example\"\nlisten = \"http://127.0.0.1:9443\"\n[destinations.b]\nhost = \"b.example\"\nlisten = \
             \"https://127.0.0.1:9443\"\n",
            "destinations.b.listen: has the address of destination `a`",
        ),
        (
            "[proxy]\nlisten = \"127.0.0.1:9443\"\n[destinations.a]\nhost = \"a.example\"\nlisten = \"https://127.0.0.1:9443\"\n",
            "destinations.a.listen: has the address of the proxy itself",
        ),
    ] {
        let folder = served::folder(&format!("{issuer}{tables}"));
        let ended = keyfold("serve --listen 127.0.0.1:0").data_dir(&folder.path().join("data")).run();
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{says}\n---\n{}", ended.stderr);
        assert!(!folder.path().join("data/operator.token").exists(), "nothing was made");
    }
}
