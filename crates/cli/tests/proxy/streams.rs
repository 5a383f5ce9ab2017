//! What goes on for long: many calls at once, streams, large bodies, and destinations that break off.

use serde_json::json;

use crate::{
    common::deployment::scaled,
    masked,
    place::{place, wait},
};
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
fn a_service_that_ends_gives_streams_a_moment_and_writes_down_how_they_went() {
    let Some(place) = place("") else { return };
    let (_, handle) = place.session("alice");
    let mut stream = place.stream(place.request("GET", "/events").header("keyfold-session", &handle));
    assert!(place.next(&mut stream).is_some());
    let place = place.restarted();
    assert!(place.events().iter().any(|event| event["result"] == "service_ended"), "{:?}", place.events());
    assert_eq!(place.served.get("/v1/audit/verify").is(200)["verdict"], "ok");
}
