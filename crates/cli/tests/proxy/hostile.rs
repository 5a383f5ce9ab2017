//! Hostile clients and destinations: each gets the refusal that its attempt deserves, and nothing leaves.

use serde_json::json;

use crate::{
    common::needles::Needles,
    place::{Place, place, spellings, wait},
};
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
