//! Sessions from outside: the real service, a real OpenID Connect server, and what neither may do.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

mod common;

use std::time::Duration;

use common::{
    keyfold,
    needles::Needles,
    people::{DESTINATIONS, Node, cookie_of, wait},
    provider::Provider,
    served::{Served, folder, keyfold_in},
};
use serde_json::{Value, json};

macro_rules! provider {
    () => {
        match Provider::start() {
            Some(provider) => provider,
            None => return,
        }
    };
}

#[test]
fn a_person_signs_in_an_agent_acts_and_it_ends_with_the_token_and_by_revocation() {
    let provider = provider!();
    let node = Node::new(&provider, "scopes = [\"openid\"]\n");
    let access = provider.token("alice", json!({}));
    let id = provider.id_token("alice", json!({ "claims": { "email": "alice@example.com", "nonce": "n-1" } }));
    let answer = node.sign_in(json!({
        "access_token": access, "id_token": id, "nonce": "n-1", "project": "p-1", "state": { "thread": 7 }, "cookie": true,
        "handle": { "agent": "agent:triage", "destinations": ["logs"], "methods": ["GET"] }
    }));
    let cookie = cookie_of(&answer);
    let made = answer.is(201);
    assert_eq!((&made["email"], &made["project"]), (&json!("alice@example.com"), &json!("p-1")));
    assert!(!made.to_string().contains(&access));
    let handle = made["handle"].as_str().unwrap();
    let agent = node.served.token_of("agent:triage");
    let seen = node.call(&agent, "GET", "/v1/sessions/current", Some(handle), None).is(200);
    assert_eq!((&seen["id"], &seen["state"]["thread"]), (&made["id"], &json!(7)));
    assert!(!seen.to_string().contains(&access));
    // An agent uses what it does not see; the proxy gives it nothing but what its handle reaches.
    node.call(&agent, "POST", "/v1/sessions/current:credential", Some(handle), Some(json!({ "destination": "logs" })))
        .fails(403, "forbidden");
    let other = node.served.token_of("agent:other");
    node.call(&other, "GET", "/v1/sessions/current", Some(handle), None).fails(401, "handle_of_another_agent");
    node.credential(Some(handle)).fails(401, "handle_of_another_agent");

    let mine = node
        .by_cookie("POST", "/v1/sessions/current/handles", &cookie, Some(json!({ "destinations": ["logs"] })))
        .is(201);
    let mine = mine["handle"].as_str().unwrap();
    let seen = node.credential(Some(mine)).is(200);
    assert_eq!((&seen["access_token"], &seen["source"]), (&json!(access), &json!("user")));
    let body = json!({ "destination": "other" });
    node.call(&node.backend, "POST", "/v1/sessions/current:credential", Some(mine), Some(body))
        .fails(403, "destination_not_allowed");
    assert_eq!(node.by_cookie("DELETE", "/v1/sessions/current", &cookie, None).status, 204);
    node.credential(Some(mine)).fails(401, "session_revoked");
    node.by_cookie("GET", "/v1/sessions/current", &cookie, None).fails(401, "session_revoked");

    let short = provider.token("alice", json!({ "expires_in": 33 }));
    let made = node.sign_in(json!({ "access_token": short, "handle": { "lifetime": "2s" } })).is(201);
    let handle = made["handle"].as_str().unwrap();
    assert!(made["expires"].as_u64().unwrap() - made["created"].as_u64().unwrap() <= 33);
    node.credential(Some(handle)).is(200);
    wait(|| node.credential(Some(handle)).status == 401);
    node.credential(Some(handle)).fails(401, "session_expired");
}

#[test]
fn p24_every_sign_in_that_is_not_one_is_refused_for_its_reason_and_nothing_is_stored() {
    let provider = provider!();
    let node = Node::new(&provider, "scopes = [\"openid\"]\nmin_left = \"60s\"\n");
    let access = provider.token("alice", json!({}));
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap();
    let id = |with: Value| provider.id_token("alice", with);
    let token = |with: Value| provider.token("alice", with);
    let cases = [
        (
            "another person",
            json!({ "access_token": access, "id_token": provider.id_token("mallory", json!({})) }),
            "two people's",
        ),
        (
            "another client's ID token",
            json!({ "access_token": access, "id_token": id(json!({ "claims": { "aud": "other" } })) }),
            "another client",
        ),
        (
            "made for another",
            json!({ "access_token": access, "id_token": id(json!({ "claims": { "azp": "other" } })) }),
            "another client",
        ),
        (
            "wrong issuer",
            json!({ "access_token": access, "id_token": id(json!({ "claims": { "iss": "https://evil.example" } })) }),
            "another issuer",
        ),
        (
            "none",
            json!({ "access_token": access, "id_token": id(json!({ "alg": "none" })) }),
            "an algorithm that is not taken",
        ),
        (
            "HS256",
            json!({ "access_token": access, "id_token": id(json!({ "alg": "HS256" })) }),
            "an algorithm that is not taken",
        ),
        (
            "expired",
            json!({ "access_token": access, "id_token": id(json!({ "claims": { "exp": now - 100 } })) }),
            "has expired",
        ),
        (
            "not yet",
            json!({ "access_token": access, "id_token": id(json!({ "claims": { "nbf": now + 600 } })) }),
            "not valid yet",
        ),
        (
            "from the future",
            json!({ "access_token": access, "id_token": id(json!({ "claims": { "iat": now + 600 } })) }),
            "from the future",
        ),
        ("no expiry", json!({ "access_token": access, "id_token": id(json!({ "without": ["exp"] })) }), "ID token"),
        (
            "foreign key",
            json!({ "access_token": access, "id_token": id(json!({ "key": "foreign" })) }),
            "not among the issuer's",
        ),
        (
            "another token's",
            json!({ "access_token": access, "id_token": id(json!({ "claims": { "at_hash": "AAAAAAAAAAAAAAAAAAAAAA" } })) }),
            "another access token",
        ),
        (
            "another nonce",
            json!({ "access_token": access, "nonce": "a", "id_token": id(json!({ "claims": { "nonce": "b" } })) }),
            "another nonce",
        ),
        ("no nonce", json!({ "access_token": access, "nonce": "a", "id_token": id(json!({})) }), "another nonce"),
        ("nonce alone", json!({ "access_token": access, "nonce": "a" }), "without the ID token"),
        ("not a JWT", json!({ "access_token": access, "id_token": "abc" }), "does not read"),
        ("unknown token", json!({ "access_token": "ya29.unknown" }), "does not know the access token"),
        (
            "another client's access token",
            json!({ "access_token": token(json!({ "azp": "other", "aud": "other" })) }),
            "another client's",
        ),
        ("a scope is missing", json!({ "access_token": token(json!({ "scope": "email" })) }), "lacks a scope"),
        ("nearly over", json!({ "access_token": token(json!({ "expires_in": 20 })) }), "ends too soon"),
        ("nobody's", json!({ "access_token": token(json!({ "sub": null })) }), "whose access token"),
        ("unknown issuer", json!({ "access_token": access, "issuer": "nobody" }), "no such issuer"),
    ];
    for (name, body, says) in cases {
        let problem = node.sign_in(body).fails(401, "token_refused");
        assert!(problem["detail"].as_str().unwrap().contains(says), "{name}: {problem}");
        assert!(problem["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{name}: {problem}");
    }
    let tampered = id(json!({}));
    let (head, signature) = tampered.rsplit_once('.').unwrap();
    let turned: String = signature.chars().rev().collect();
    node.sign_in(json!({ "access_token": access, "id_token": format!("{head}.{turned}") })).fails(401, "token_refused");
    assert!(node.sessions().is_empty());
    let stored = || {
        let files = common::folder::files(&node.served.data()).into_iter();
        let mut there = files.filter(|path| path.to_string_lossy().contains("keyfold.db"));
        there.any(|path| std::fs::read(path).unwrap().windows(11).any(|window| window == b"sessions/s/"))
    };
    assert!(!stored());
    // And the same token is taken once everything is right.
    node.sign_in(json!({ "access_token": access, "id_token": id(json!({})) })).is(201);
    assert!(stored(), "that is how it would have been seen");
}

#[test]
fn p45_an_issuer_that_cannot_be_asked_signs_nobody_in_and_rotated_keys_are_found() {
    let provider = provider!();
    let node = Node::new(&provider, "");
    let access = provider.token("alice", json!({}));
    provider.ask("down", json!({ "down": true }));
    let problem = node.sign_in(json!({ "access_token": access })).fails(503, "provider_unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("`test` cannot be asked"), "{problem}");
    provider.ask("down", json!({ "down": false }));
    node.sign_in(json!({ "access_token": access, "id_token": provider.id_token("alice", json!({})) })).is(201);
    provider.ask("rotate", json!({}));
    let id = provider.id_token("alice", json!({}));
    wait(|| {
        std::thread::sleep(Duration::from_millis(500));
        node.sign_in(json!({ "access_token": access, "id_token": id })).status == 201
    });
    assert_eq!(node.sessions().len(), 2);
    let dead = Node::with(
        &provider,
        "[[sessions.issuers]]\nname = \"dead\"\nissuer = \"http://127.0.0.1:1\"\nclient_id = \"x\"\naccess = \"introspection\"\n",
    );
    dead.sign_in(json!({ "access_token": access })).fails(503, "provider_unavailable");
    assert!(dead.sessions().is_empty());
}

#[test]
fn introspection_serves_where_there_is_no_tokeninfo() {
    let provider = provider!();
    let config = format!(
        "[[sessions.issuers]]\nname = \"test\"\nissuer = \"{}\"\nclient_id = \"keyfold-test\"\nintrospection = \"{}/introspect\"\n{DESTINATIONS}",
        provider.issuer, provider.beside
    );
    let node = Node::with(&provider, &config);
    let (access, handle) = node.session("alice");
    assert_eq!(node.credential(Some(&handle)).is(200)["access_token"], json!(access));
    let others = provider.token("alice", json!({ "azp": "other" }));
    node.sign_in(json!({ "access_token": others })).fails(401, "token_refused");
    provider.ask("revoke", json!({ "access_token": others }));
}

#[test]
fn p21_strict_is_the_default_and_no_path_goes_without_a_user() {
    let provider = provider!();
    let node = Node::new(&provider, "");
    let (_, handle) = node.session("alice");
    let operator = node.served.token.clone();
    let agent = node.served.token_of("agent:x");
    let cookie = cookie_of(&node.sign_in(json!({ "access_token": provider.token("bob", json!({})), "cookie": true })));
    let paths = [
        ("GET", "/v1/sessions/current", None),
        ("DELETE", "/v1/sessions/current", None),
        ("POST", "/v1/sessions/current/handles", Some(json!({}))),
        ("POST", "/v1/sessions/current:credential", Some(json!({ "destination": "logs" }))),
        ("POST", "/v1/sessions/current:credential", Some(json!({ "destination": "other", "method": "POST" }))),
    ];
    // All that there are: whatever takes a handle says so in the document.
    let document = node.served.get("/openapi.json").is(200);
    let takes = |what: &Value| {
        let mut parameters = what["parameters"].as_array().into_iter().flatten();
        parameters.any(|parameter| parameter["name"].as_str().unwrap().eq_ignore_ascii_case("keyfold-session"))
    };
    let mut there = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let taking = methods.as_object().unwrap().iter().filter(|(_, what)| takes(what));
        there.extend(taking.map(|(method, _)| (method.to_uppercase(), path.clone())));
    }
    let mut tried: Vec<_> = paths.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    tried.sort_unstable();
    tried.dedup();
    there.sort_unstable();
    assert_eq!(tried, there);
    for (method, path, body) in paths {
        for token in [&operator, &node.backend, &agent] {
            if token == &agent && path.ends_with("credential") {
                continue; // It may not see one at all.
            }
            let problem = node.call(token, method, path, None, body.clone()).fails(401, "no_user_token");
            assert!(problem["hint"].as_str().unwrap().contains("Keyfold-Session"), "{problem}");
            for wrong in ["", "kfh_", "x", &handle[..70], &handle.replace("kfh_", "kfc_")] {
                node.call(token, method, path, Some(wrong), body.clone()).fails(401, "session_unknown");
            }
            node.call(token, method, path, Some(&cookie), body.clone()).fails(401, "not_a_handle");
        }
    }
    node.credential(Some(&handle)).is(200);
    let metrics = node.served.get("/metrics").text();
    assert!(metrics.contains("keyfold_credentials_total{source=\"service_account\"} 0"), "{metrics}");
    assert!(metrics.contains("keyfold_credentials_total{source=\"user\"} 1"), "{metrics}");
    for said in ["perhaps", ""] {
        let data = node.served.data();
        keyfold("serve --listen 127.0.0.1:0")
            .data_dir(&data)
            .env("STRICT_EUC_ENFORCEMENT", said)
            .run()
            .fails(2, &["STRICT_EUC_ENFORCEMENT"]);
    }
}

#[cfg(feature = "adc")]
#[test]
fn p21_permissive_takes_a_service_account_where_one_is_named_and_says_so_in_the_audit_log() {
    let provider = provider!();
    let folder = folder("");
    let write = |name: &str, what: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, provider.ask(what, json!({})).to_string()).unwrap();
        path.display().to_string()
    };
    let (key, user) = (write("key.json", "service_account"), write("user.json", "authorized_user"));
    let destination =
        |name: &str, fallback: &str| format!("[destinations.{name}]\nhost = \"{name}.example\"\n{fallback}\n");
    let config = [
        provider.config(""),
        destination("logs", ""),
        destination("meta", "fallback = \"metadata\""),
        destination("key", &format!("fallback = \"file:{key}\"")),
        destination("user", &format!("fallback = \"file:{user}\"")),
        destination("default", "fallback = \"adc\""),
    ];
    std::fs::write(folder.path().join("data/keyfold.toml"), config.concat()).unwrap();
    let host = provider.beside.strip_prefix("http://").unwrap().to_owned();
    let metadata = ("GCE_METADATA_HOST", host.as_str());
    let want = |node: &Node<'_>, name: &str, handle: Option<&str>| {
        let body = json!({ "destination": name });
        node.call(&node.backend, "POST", "/v1/sessions/current:credential", handle, Some(body))
    };
    let served = Served::start_with(folder, &[], &[metadata, ("STRICT_EUC_ENFORCEMENT", "false")]);
    let node = Node::over(&provider, served);
    assert!(node.served.stderr().contains("enforcement is permissive"));
    for (name, token) in [
        ("meta", "ya29.of-the-metadata-server"),
        ("user", "ya29.of-the-authorized-user"),
        ("default", "ya29.of-the-metadata-server"),
        ("key", "ey"),
    ] {
        let given = want(&node, name, None).is(200);
        assert_eq!(given["source"], "service_account");
        assert!(given["access_token"].as_str().unwrap().starts_with(token), "{name}");
    }
    want(&node, "logs", None).fails(401, "no_user_token");
    let (access, handle) = node.session("alice");
    assert_eq!(want(&node, "meta", Some(&handle)).is(200)["access_token"], json!(access), "a user's own goes first");
    let id = node.sessions()[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(node.served.as_(&node.served.token, "DELETE", &format!("/v1/sessions/{id}"), None).status, 204);
    want(&node, "meta", Some(&handle)).fails(401, "session_revoked");
    let events = node.served.get("/v1/audit?limit=1000").is(200)["events"].as_array().unwrap().clone();
    let taken = events.iter().filter(|event| event["action"] == "use_fallback" && event["kind"] == "intent");
    let taken: Vec<_> = taken.map(|event| event["field"].as_str().unwrap().to_owned()).collect();
    assert_eq!(taken, ["meta", "user", "default", "key"]);
    assert!(node.served.get("/metrics").text().contains("keyfold_credentials_total{source=\"service_account\"} 4"));
    // The same configuration under the default: nobody takes a user's place.
    let node = Node::over(&provider, Served::start_with(node.served.stop(), &[], &[metadata]));
    for name in ["meta", "key", "user", "default", "logs"] {
        want(&node, name, None).fails(401, "no_user_token");
    }
}

#[test]
fn p22_p26_no_id_header_or_query_says_who_somebody_is() {
    let provider = provider!();
    let node = Node::new(&provider, "");
    let (_, handle) = node.session("alice");
    let id = node.sessions()[0]["id"].as_str().unwrap().to_owned();
    let agent = node.served.token_of("agent:x");
    for (name, value) in [
        ("keyfold-session", id.as_str()),
        ("x-session-id", &id),
        ("x-user-id", "alice"),
        ("x-user-email", "alice@example.com"),
        ("x-debug-user", "alice"),
        ("x-guest", "true"),
        ("x-forwarded-user", "alice"),
        ("x-goog-authenticated-user-email", "alice@example.com"),
        ("cookie", &format!("__Host-keyfold={id}")),
        ("cookie", &format!("__Host-keyfold={handle}")),
    ] {
        let query = format!("?session_id={id}&user_id=alice&handle={handle}");
        for path in ["/v1/sessions/current".to_owned(), format!("/v1/sessions/current{query}")] {
            let request = node.served.request("GET", &path).bearer_auth(&agent).header(name, value);
            assert_eq!(node.served.send(request).status, 401, "{name}");
            let request = node.served.request("GET", &path).header(name, value);
            assert_eq!(node.served.send(request).status, 401, "{name}");
        }
    }
    for (method, path) in [("GET", format!("/v1/sessions/{id}")), ("DELETE", format!("/v1/sessions/{id}"))] {
        let status = node.call(&agent, method, &path, None, None).status;
        assert!([403, 405].contains(&status), "{method} {path}: {status}");
    }
    node.call(&agent, "GET", "/v1/sessions", None, None).fails(403, "forbidden");
    node.call(&agent, "GET", "/v1/sessions/current", Some(&handle), None).is(200);
}

#[test]
fn p20_many_users_over_one_connection_each_get_their_own_token() {
    let provider = provider!();
    let node = Node::new(&provider, "");
    let (users, calls) = (common::deployment::scaled(200), common::deployment::scaled(20_000));
    let people: Vec<_> = (0..users).map(|user| node.session(&format!("u{user}"))).collect();
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let url = format!("{}/v1/sessions/current:credential", node.served.url);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let worker = async || {
        loop {
            let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if n >= calls {
                return;
            }
            let (token, handle) = &people[(n * 7919) % people.len()];
            let request = client.post(&url).bearer_auth(&node.backend).header("keyfold-session", handle);
            let answer = common::served::answer(request.json(&json!({ "destination": "logs" }))).await.unwrap();
            assert_eq!(answer.json()["access_token"], json!(token));
        }
    };
    node.served.block_on(futures::future::join_all((0..32).map(|_| worker())));
}

#[test]
fn p23_one_persons_sessions_are_invisible_to_another_and_a_cookie_changes_nothing_by_itself() {
    let provider = provider!();
    let node = Node::new(&provider, "");
    let cookie =
        |sub: &str| cookie_of(&node.sign_in(json!({ "access_token": provider.token(sub, json!({})), "cookie": true })));
    let (alice, bob) = (cookie("alice"), cookie("bob"));
    let (_, handle) = node.session("alice");
    let list = |cookie: &str| {
        node.by_cookie("GET", "/v1/sessions", cookie, None).is(200)["sessions"].as_array().unwrap().clone()
    };
    assert_eq!((list(&alice).len(), list(&bob).len()), (2, 1));
    let told = json!([list(&alice), list(&bob), node.sessions()]).to_string();
    assert!(
        !told.contains("kfh_") && !told.contains("kfc_") && !told.contains("ya29") && !told.contains("\"sub\""),
        "{told}"
    );
    let bobs = list(&bob)[0]["id"].as_str().unwrap().to_owned();
    node.by_cookie("DELETE", &format!("/v1/sessions/{bobs}"), &alice, None).fails(404, "not_found");
    node.by_cookie("POST", &format!("/v1/sessions/{bobs}/handles"), &alice, Some(json!({}))).fails(404, "not_found");
    // Another site can make a browser send the cookie, and not the header.
    for (method, path) in [("DELETE", "/v1/sessions/current"), ("POST", "/v1/sessions/current/handles")] {
        let request =
            node.served.request(method, path).header("cookie", format!("__Host-keyfold={alice}")).json(&json!({}));
        node.served.send(request).fails(401, "unauthenticated");
    }
    // And it lets a person do nothing else.
    for (method, path) in [("GET", "/v1/tokens"), ("GET", "/v1/audit"), ("GET", "/v1/collections")] {
        let status = node.by_cookie(method, path, &alice, None).status;
        assert!(status == 403 || path == "/v1/collections", "{path}: {status}");
    }
    node.by_cookie("POST", "/v1/sessions", &alice, Some(json!({ "access_token": "x" }))).fails(403, "forbidden");
    let ours = list(&alice);
    let second = ours
        .iter()
        .find(|session| session["id"] != node.by_cookie("GET", "/v1/sessions/current", &alice, None).is(200)["id"])
        .unwrap();
    let path = format!("/v1/sessions/{}", second["id"].as_str().unwrap());
    assert_eq!(node.by_cookie("DELETE", &path, &alice, None).status, 204);
    node.credential(Some(&handle)).fails(401, "session_revoked");
}

#[test]
fn p25_p27_p28_what_is_revoked_is_over_and_no_file_and_no_log_tells_a_token_or_a_handle() {
    let provider = provider!();
    let node = Node::new(&provider, "refresh = true\n");
    let access = provider.token("alice", json!({}));
    let refresh = provider.refresh_token("alice");
    let answer =
        node.sign_in(json!({ "access_token": access, "refresh_token": refresh, "cookie": true, "handle": {} }));
    let cookie = cookie_of(&answer);
    let handle = answer.is(201)["handle"].as_str().unwrap().to_owned();
    node.credential(Some(&handle)).is(200);
    let mut needles = Needles::default();
    for (name, secret) in
        [("access token", &access), ("refresh token", &refresh), ("cookie", &cookie), ("handle", &handle)]
    {
        needles.add(name, secret.as_bytes());
        needles.add(&format!("the end of the {name}"), &secret.as_bytes()[secret.len() - 20..]);
    }
    let id = node.sessions()[0]["id"].as_str().unwrap().to_owned();
    let data = node.served.data();
    let search = |place: &str| {
        for path in common::folder::files(&data) {
            let found = needles.find(&std::fs::read(&path).unwrap(), None).map(str::to_owned);
            assert_eq!(found, None, "{place}: {}", path.display());
        }
        assert_eq!(needles.find(node.served.stderr().as_bytes(), None), None, "{place}: the log");
    };
    search("while it lives");
    // Another process of the same deployment ends it.
    assert_eq!(
        keyfold_in(node.served.folder().path(), &format!("session revoke {id}")).text(),
        format!("revoked {id}")
    );
    wait(|| node.credential(Some(&handle)).status == 401);
    node.credential(Some(&handle)).fails(401, "session_revoked");
    search("after it ended");
    // The issuer has taken the token back meanwhile: what it said before is not believed any more.
    provider.ask("revoke", json!({ "access_token": access }));
    node.sign_in(json!({ "access_token": access })).fails(401, "token_refused");
    let events = node.served.get("/v1/audit?limit=1000").is(200)["events"].as_array().unwrap().clone();
    let actions: Vec<_> = events.iter().map(|event| event["action"].as_str().unwrap()).collect();
    for action in ["session_create", "use", "session_revoke"] {
        assert!(actions.contains(&action), "{actions:?}");
    }
    assert_eq!(needles.find(json!(events).to_string().as_bytes(), None), None);
}

#[test]
fn p29_a_rotating_refresh_token_is_used_once_by_two_nodes_though_the_callers_hang_up() {
    let provider = provider!();
    let config = format!("{}{DESTINATIONS}", provider.config("refresh = true\nmin_left = \"1s\"\n"));
    let one = Node::with(&provider, &config);
    let two = Node::over(&provider, Served::start(one.served.folder(), &[]));
    let access = provider.token("alice", json!({ "expires_in": 3 }));
    let body = json!({ "access_token": access, "refresh_token": provider.refresh_token("alice") });
    let handle = one.sign_in(body).is(201)["handle"].as_str().unwrap().to_owned();
    provider.ask("slow", json!({ "ms": 500 }));
    std::thread::sleep(Duration::from_secs(4));
    // A caller that hangs up in the middle of it.
    let request = one.served.request("POST", "/v1/sessions/current:credential").bearer_auth(&one.backend);
    let request = request.header("keyfold-session", &handle).timeout(Duration::from_millis(200));
    let cut = one.served.block_on(async { request.json(&json!({ "destination": "logs" })).send().await });
    assert!(cut.is_err(), "it was slow enough to be cut");
    let tokens: Vec<_> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8)
            .map(|i| {
                let (node, handle) = (if i % 2 == 0 { &one } else { &two }, &handle);
                scope.spawn(move || node.credential(Some(handle)).is(200)["access_token"].as_str().unwrap().to_owned())
            })
            .collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert!(tokens.iter().all(|token| *token == tokens[0] && *token != access), "{}", tokens.len());
    let counts = provider.ask("counts", json!({}));
    assert_eq!((&counts["refresh"], &counts["reused"]), (&json!(1), &json!(0)));
}

#[test]
fn a_token_is_narrowed_for_a_destination_where_the_issuer_offers_it() {
    let provider = provider!();
    let config = provider.config(&format!("exchange = \"{}/exchange\"\n", provider.beside));
    let node = Node::with(
        &provider,
        &format!("{config}[destinations.logs]\nhost = \"logs.example\"\nexchange = {{ audience = \"logs\" }}\n"),
    );
    let (access, handle) = node.session("alice");
    let narrowed = node.credential(Some(&handle)).is(200)["access_token"].as_str().unwrap().to_owned();
    assert!(narrowed.starts_with("narrow.logs.alice.") && narrowed != access);
    assert_eq!(node.credential(Some(&handle)).is(200)["access_token"], json!(narrowed));
    assert_eq!(provider.ask("counts", json!({}))["exchange"], 1);
}

#[test]
fn signing_in_by_code_with_pkce_ends_in_a_session_of_the_browser_that_began_it() {
    let provider = provider!();
    let config = format!("{}[sessions.sign_in]\npublic_url = \"http://127.0.0.1:1\"\n", provider.config(""));
    let node = Node::with(&provider, &config);
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let get = |url: String, cookie: &str| node.served.send(client.get(url).header("cookie", cookie));
    let begin = || {
        let answer = get(format!("{}/auth/login?next=/console", node.served.url), "");
        assert_eq!(answer.status, 303, "{}", answer.text());
        let cookie = answer.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        (answer.headers["location"].to_str().unwrap().to_owned(), cookie)
    };
    let (to, cookie) = begin();
    assert!(
        to.starts_with(&format!("{}/authorize?", provider.issuer)) && to.contains("code_challenge_method=S256"),
        "{to}"
    );
    assert!(cookie.starts_with("__Host-keyfold-login=kf1."), "sealed");
    let back = get(to, "");
    let back = back.headers["location"].to_str().unwrap().to_owned();
    let back = back.strip_prefix("http://127.0.0.1:1").unwrap().to_owned();
    let callback = |path: &str, cookie: &str| get(format!("{}{path}", node.served.url), cookie);
    let (_, others) = begin();
    callback(&back, "").fails(401, "sign_in_refused");
    callback(&back, &others).fails(401, "sign_in_refused");
    callback(&back.replace("state=", "state=x"), &cookie).fails(401, "sign_in_refused");
    callback("/auth/callback?error=access_denied&state=x", &cookie).fails(401, "sign_in_refused");
    let done = callback(&back, &cookie);
    assert_eq!((done.status, done.headers["location"].to_str().unwrap()), (303, "/console"), "{}", done.text());
    let session = cookie_of(&done);
    let me = node.by_cookie("GET", "/v1/sessions/current", &session, None).is(200);
    assert_eq!(me["issuer"], "test");
    assert!(callback(&back, &cookie).status >= 400, "a code is good once");
    for bad in ["//evil.example", "https://evil.example", "/%5Cevil.example"] {
        get(format!("{}/auth/login?next={bad}", node.served.url), "").fails(400, "invalid_request");
    }
}

#[test]
fn a_transient_key_says_so_and_the_sessions_of_an_earlier_run_end_with_it() {
    let provider = provider!();
    let folder = folder(&format!("{}{DESTINATIONS}", provider.config("")));
    let node = Node::over(&provider, Served::start(folder, &["--dev"]));
    assert!(node.served.stderr().contains("sealed under a key of this run alone"));
    let (_, handle) = node.session("alice");
    node.credential(Some(&handle)).is(200);
    let node = Node::over(&provider, Served::start(node.served.stop(), &["--dev"]));
    let problem = node.credential(Some(&handle)).fails(401, "session_key_gone");
    assert!(problem["detail"].as_str().unwrap().contains("the key that sealed it is gone"));
    // Without it they live as long as the deployment.
    let node = Node::over(&provider, Served::start(node.served.stop(), &[]));
    let (access, handle) = node.session("alice");
    let node = Node::over(&provider, Served::start(node.served.stop(), &[]));
    assert_eq!(node.credential(Some(&handle)).is(200)["access_token"], json!(access));
}

#[test]
fn the_command_line_lists_shows_and_ends_sessions_here_and_over_a_server() {
    let provider = provider!();
    let node = Node::new(&provider, "");
    let (_, handle) = node.session("alice");
    let id = node.sessions()[0]["id"].as_str().unwrap().to_owned();
    let here = |arguments: &str| keyfold_in(node.served.folder().path(), arguments);
    let there = |arguments: &str| {
        keyfold(arguments).env("KEYFOLD_SERVER", &node.served.url).env("KEYFOLD_TOKEN", &node.served.token).run()
    };
    for listed in [here("session list").text(), there("session list").text()] {
        assert!(listed.contains(&id) && listed.contains("alice@example.com") && !listed.contains("ya29"), "{listed}");
    }
    for shown in [here(&format!("session show {id}")).json(), there(&format!("session show {id}")).json()] {
        assert_eq!(shown["id"], json!(id));
    }
    here("session show 00").fails(2, &["not an id"]);
    assert_eq!(there(&format!("session revoke {id}")).text(), format!("revoked {id}"));
    node.credential(Some(&handle)).fails(401, "session_revoked");
    there(&format!("session revoke {id}")).fails(1, &["there is no such session"]);
    assert!(here("session list --json").text().is_empty());
}

#[test]
fn every_mistake_of_the_sessions_is_reported_in_one_run_before_anything_is_bound() {
    let folder = folder(
        "enforcement = \"lax\"\n[sessions]\nlife = \"long\"\n[[sessions.issuers]]\nname = \"x\"\nclient_secret = \"hunter2hunter2\"\n\
         [destinations.a]\nhost = \"A\"\n",
    );
    let data = folder.path().join("data");
    let said = keyfold("serve --listen 127.0.0.1:0").data_dir(&data).run().fails(
        2,
        &[
            "enforcement: must be",
            "sessions.life: must be",
            "sessions.issuers[0].issuer",
            "sessions.issuers[0].client_id",
            "sessions.issuers[0].access",
            "destinations.a.host",
        ],
    );
    assert!(!said.stderr.contains("hunter2"));
    assert!(!data.join("root.key").exists());
}
