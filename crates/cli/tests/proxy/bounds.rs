//! What one agent cannot take from the others, and what ends when it should.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::json;

use super::place::{Place, place, wait};

/// Asks for a tunnel, and what is answered: the status.
fn tunnel(place: &Place, handle: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(place.proxy().strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let host = format!("api.test:{}", place.up.port());
    let proof = format!("Keyfold-Token: {}\r\nKeyfold-Session: {handle}", place.agent);
    write!(stream, "CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{proof}\r\n\r\n").unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n") && stream.read(&mut byte).unwrap() > 0 {
        head.push(byte[0]);
    }
    let status = String::from_utf8(head).unwrap().split(' ').nth(1).unwrap().to_owned();
    (stream, status)
}

#[test]
fn an_agent_that_does_not_read_holds_up_nobody_and_is_cut_off_with_its_session() {
    let Some(place) = place("") else { return };
    let ((_, deaf), (_, other)) = (place.session("alice"), place.session("bob"));
    let client = reqwest::Client::builder().http2_prior_knowledge().http2_initial_stream_window_size(0);
    let client = client.timeout(Duration::from_secs(60)).no_proxy().build().unwrap();
    let ask = || place.stream(place.by(&client, "GET", "/big/2").header("keyfold-session", &deaf));
    let unread: Vec<_> = (0..12).map(|_| ask()).collect();
    let answer = place.count(place.by(&place.http2, "GET", "/big/4").header("keyfold-session", &other));
    assert_eq!(answer, 4 << 20);
    let session = place.current(&deaf);
    place.served.as_(&place.served.token, "DELETE", &format!("/v1/sessions/{session}"), None);
    wait(|| place.events().iter().filter(|event| event["result"] == "session_revoked").count() >= unread.len());
}

#[test]
fn a_tunnel_holds_a_place_among_connections_and_one_of_its_session() {
    let Some(place) = Place::with("[proxy]\nin_flight = 5\n", "") else { return };
    let ((_, greedy), (_, other)) = (place.session("alice"), place.session("bob"));
    let mut tunnels: Vec<_> = (0..5).map(|_| tunnel(&place, &greedy)).collect();
    assert!(tunnels.iter().all(|(_, status)| status == "200"));
    assert_eq!(tunnel(&place, &greedy).1, "429");
    let calls = place.request("GET", "/who").header("keyfold-session", &greedy);
    assert_eq!(place.send(calls).status, 200, "calls have room of their own");
    tunnels.push(tunnel(&place, &other));
    assert_eq!(tunnels[5].1, "200");
    let metrics = place.served.get("/metrics").text();
    let open = metrics.lines().find_map(|line| line.strip_prefix("keyfold_connections ")?.parse::<usize>().ok());
    assert!(open.unwrap() >= tunnels.len(), "{open:?}");
    drop(tunnels);
    wait(|| tunnel(&place, &greedy).1 == "200");
}

#[test]
fn a_revoked_token_cuts_what_goes_on_under_it() {
    let Some(place) = place("") else { return };
    let handle = place.handle("alice", json!({}));
    let made = place.served.post("/v1/tokens", json!({ "actor": "agent:triage" })).is(201);
    let ask = |token: &str| {
        let request = place.at(&format!("api.test:{}", place.up.port()), "GET", "/events");
        place.stream(request.header("keyfold-token", token).header("keyfold-session", &handle))
    };
    let (mut cut, mut kept) = (ask(made["token"].as_str().unwrap()), ask(&place.agent));
    assert!(place.next(&mut cut).is_some() && place.next(&mut kept).is_some());
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    place.served.as_(&place.served.token, "DELETE", &path, None);
    assert!(place.ends(&mut cut), "the stream goes on");
    assert!(place.next(&mut kept).is_some(), "the same agent's with another token goes on");
    wait(|| place.events().iter().any(|event| event["result"] == "unauthenticated"));
}

#[test]
fn handles_of_one_session_share_its_room() {
    let Some(place) = Place::with("[proxy]\nin_flight = 2\n", "") else { return };
    let first = place.handle("alice", json!({}));
    let mint = place.served.request("POST", "/v1/sessions/current/handles").bearer_auth(&place.agent);
    let minted = place.served.send(mint.header("keyfold-session", &first).json(&json!({}))).is(201);
    let second = minted["handle"].as_str().unwrap();
    let mut held: Vec<_> = [first.as_str(), second]
        .map(|handle| place.stream(place.request("GET", "/events").header("keyfold-session", handle)))
        .into();
    assert!(held.iter_mut().all(|stream| place.next(stream).is_some()));
    let ask = || place.send(place.request("GET", "/who").header("keyfold-session", second));
    ask().fails(429, "too_many_calls");
    drop(held);
    wait(|| ask().status == 200);
}

#[test]
fn slow_answers_and_broken_ones_do_not_close_a_destination_to_others() {
    let Some(place) = place("timeouts = { headers = \"1s\" }\n") else { return };
    let handle = place.handle("alice", json!({}));
    let ask = |path: &str| place.send(place.request("GET", path).header("keyfold-session", &handle));
    for _ in 0..5 {
        ask("/slow").fails(504, "upstream_timeout");
        ask("/reset").fails(502, "upstream_broken");
    }
    assert_ne!(ask("/who").status, 503);
}

#[test]
fn bodies_that_are_held_to_be_signed_take_room_of_the_service() {
    let config = "[server.limits]\nbody = 1048576\nmemory = 1048576\n[collections.keys]\nfields = [\"/key\"]\n";
    let more = "secret = \"keys/aws#/key\"\ninject = { aws_sigv4 = \"AKIAIOSFODNN7EXAMPLE\" }\n";
    let Some(place) = Place::with(config, more) else { return };
    place.served.put("/v1/collections/keys/records/aws", json!({ "key": "wJalrXUtnFEMI" })).is(201);
    let handle = place.handle("alice", json!({}));
    let ask = |size: usize| {
        let signed = format!(
            "AWS4-HMAC-SHA256 Credential={handle}/20261122/eu-west-1/sts/aws4_request, SignedHeaders=host;x-amz-date, \
             Signature={}",
            "0".repeat(64)
        );
        let request = place.request("POST", "/size").header("x-amz-date", "20261122T000000Z");
        place.send(request.header("authorization", signed).body(vec![b'x'; size]))
    };
    ask(2 << 20).fails(503, "busy");
    for _ in 0..3 {
        assert_eq!(ask(700 << 10).text(), (700 << 10).to_string(), "its room is given back");
    }
}

#[test]
fn calls_that_go_on_for_ever_do_not_hold_up_others_where_a_connection_takes_few() {
    let Some(place) = place("") else { return };
    let handle = place.handle("alice", json!({}));
    let (host, _) = place.narrow();
    let ask = |path: &str| {
        let request = place.at(&host, "GET", path).header("keyfold-token", &place.agent);
        request.header("keyfold-session", &handle).timeout(Duration::from_secs(10))
    };
    assert_eq!(place.send(ask("/who")).status, 200);
    let mut streams: Vec<_> = (0..5).map(|_| place.stream(ask("/events").timeout(Duration::from_secs(60)))).collect();
    assert!(streams.iter_mut().all(|stream| place.next(stream).is_some()));
    assert_eq!(place.send(ask("/who")).status, 200);
    let (_, connections) = place.narrow();
    assert!((3..=4).contains(&connections), "{connections} for six calls, two on each");
}

/// The refusals in the log: each event's half, result and count.
fn refusals(place: &Place, action: &str) -> Vec<(String, String, u64)> {
    let text = |event: &serde_json::Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    let events =
        place.events().into_iter().filter(|event| event["action"] == action && event["actor"] == "agent:triage");
    events.map(|e| (text(&e, "kind"), text(&e, "result"), e["count"].as_u64().unwrap_or(1))).collect()
}

#[test]
fn p40_refusals_do_not_fill_the_log_and_none_is_lost_from_their_number() {
    let Some(place) = place("[[destinations.api.rules]]\npath = \"/safe/**\"\n") else { return };
    let handle = place.handle("alice", json!({}));
    for _ in 0..120 {
        place.send(place.request("GET", "/other").header("keyfold-session", &handle)).fails(403, "rule_missing");
        place.send(place.request("GET", "/safe/x")).fails(401, "no_user_token");
        place.served.as_(&place.agent, "GET", "/v1/tokens", None).fails(403, "forbidden");
    }
    for _ in 0..60 {
        assert_eq!(place.send(place.request("GET", "/safe/x").header("keyfold-session", &handle)).status, 200);
    }
    let intents = |action: &str| refusals(&place, action).iter().filter(|(kind, ..)| kind == "intent").count();
    assert_eq!(intents("refused"), 2 * (50 + 1), "of each kind the first, and one that says that more follow");
    assert_eq!(intents("use"), 50 + 1 + 60, "what was permitted is written one by one");
    let place = place.restarted();
    for (action, why) in [("refused", "rule_missing"), ("use", "no_user_token"), ("refused", "forbidden")] {
        let told = refusals(&place, action).into_iter().filter(|(kind, result, _)| kind == "outcome" && result == why);
        let counts: Vec<_> = told.map(|(.., count)| count).collect();
        assert_eq!((counts.len(), counts.iter().sum::<u64>()), (51, 120), "{why}");
    }
    assert_eq!(place.served.get("/v1/audit/verify").is(200)["verdict"], "ok");
}

#[test]
fn a_refused_host_is_in_the_log_however_it_is_refused() {
    let Some(place) = place("") else { return };
    let handle = place.handle("alice", json!({}));
    let proof = format!("Keyfold-Token: {}\r\nKeyfold-Session: {handle}\r\n", place.agent);
    let host = format!("api.test:{}", place.up.port());
    let within = |sni: &str, named: &str| {
        let request = format!("GET /who HTTP/1.1\r\nHost: {named}\r\nConnection: close\r\n\r\n");
        place.through_tunnel(&host, &handle, sni, &request)
    };
    let addressed = |host: &str, more: &str| {
        place.raw(&format!("GET /proxy/{host}/x HTTP/1.1\r\nHost: p\r\n{more}{proof}Connection: close\r\n\r\n"))
    };
    addressed("2130706433", "");
    addressed("me:password@evil.test", "");
    addressed("api.test", "Host: q\r\n");
    place.raw(&format!("CONNECT 0x7f.1:443 HTTP/1.1\r\nHost: 0x7f.1:443\r\n{proof}\r\n"));
    place.raw(&format!("GET http://api.test/x HTTP/1.1\r\nHost: api.test\r\n{proof}Connection: close\r\n\r\n"));
    within("api.test", "other.test");
    within("other.test", &host);
    let events = place.events().into_iter().filter(|event| event["action"] == "refused" && event["kind"] == "outcome");
    let said: Vec<_> = events.map(|event| format!("{} {}", event["result"], event["field"]).replace('"', "")).collect();
    assert_eq!(
        said,
        [
            "host_refused 2130706433",
            "host_refused evil.test",
            "invalid_request api.test",
            "host_refused 0x7f.1:443",
            "invalid_request api.test",
            "host_differs other.test",
            "host_differs other.test",
        ]
    );
    assert!(place.up.nothing());
}
