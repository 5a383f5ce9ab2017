//! Sessions over a real store: what is taken, what is not, and what a writer of the database can do.

use std::time::Duration;

use keyfold_core::envelope::Format;

use super::{
    testing::{Place, actor, handle, keyring, permit, person, sign_in, text, token},
    *,
};

mod forged;
mod readers;

fn reason<T>(result: Result<T, Refused>) -> Reason {
    match result {
        Ok(_) => panic!("it was taken"),
        Err(Refused::For(reason)) => reason,
        Err(other) => panic!("{other}"),
    }
}

async fn held(sessions: &Sessions, handle: &str) -> Result<String, Refused> {
    sessions.hold(handle).await.map(|standing| text(&standing.token))
}

#[tokio::test]
async fn p24_nothing_is_stored_of_a_sign_in_that_the_issuer_does_not_take() {
    let place = Place::new().await;
    let sessions = place.node().await;
    for bad in ["nonsense", "token-alice-1-1"] {
        let refused = sessions.create(&permit(), sign_in(Secret::from(bad.as_bytes()))).await;
        assert!(matches!(refused, Err(Refused::Issuer(IssuerError::Refused { .. }))));
    }
    assert!(place.docs().await.is_empty());
    let last = place.events().pop().unwrap();
    assert_eq!((last.action, last.result.unwrap().as_str()), (Action::SessionCreate, "refused"));
}

#[tokio::test]
async fn a_handle_and_a_cookie_lead_to_their_own_copies_until_the_token_ends() {
    let place = Place::new().await;
    let sessions = place.node().await;
    let made = sessions
        .create(&permit(), NewSession { cookie: true, project: Some("p-1".into()), ..sign_in(token("alice", 1, 100)) })
        .await
        .unwrap();
    let (cookie, handle) = (text(made.cookie.as_ref().unwrap()), text(&made.handle.as_ref().unwrap().0));
    for presented in [&cookie, &handle] {
        assert_eq!(held(&sessions, presented).await.unwrap(), text(&token("alice", 1, 100)));
    }
    assert_eq!(made.session.until, UnixTime(testing::NOW + 100), "it ends with the token");
    assert_eq!(reason(held(&sessions, &handle.replace("kfh_", "kfc_")).await), Reason::Unknown);
    let mut other = handle.clone().into_bytes();
    let at = other.len() - 5;
    other[at] = if other[at] == b'A' { b'B' } else { b'A' };
    assert_eq!(reason(held(&sessions, std::str::from_utf8(&other).unwrap()).await), Reason::Unknown);
    place.pass(100);
    for presented in [&cookie, &handle] {
        assert_eq!(reason(held(&sessions, presented).await), Reason::Expired);
        assert_eq!(reason(held(&*place.node().await, presented).await), Reason::Expired, "told so by every node");
    }
    assert!(sessions.list(None, None, 100).await.unwrap().0.is_empty());
}

#[tokio::test]
async fn p22_the_ids_that_lists_show_open_nothing() {
    let place = Place::new().await;
    let sessions = place.node().await;
    let (made, handle) = handle(&sessions, token("alice", 1, 100)).await;
    let reference = Reference::parse(&handle).unwrap();
    for guess in [
        made.session.id.to_string(),
        format!("{}/{}", made.session.id, reference.hash),
        reference.hash.to_string(),
        format!("kfh_{}", made.session.id),
        "kfh_".to_owned()
            + &base64_simd::URL_SAFE_NO_PAD.encode_to_string([&made.session.id.0[..], &reference.hash.0].concat()),
    ] {
        assert_eq!(reason(held(&sessions, &guess).await), Reason::Unknown, "{guess}");
    }
}

#[tokio::test]
async fn p23_a_person_sees_their_own_sessions_and_can_end_no_other() {
    let place = Place::new().await;
    let sessions = place.node().await;
    let (alice, alices) = handle(&sessions, token("alice", 1, 100)).await;
    let (bob, bobs) = handle(&sessions, token("bob", 1, 100)).await;
    handle(&sessions, token("alice", 2, 100)).await;
    let (list, next) = sessions.list(Some(&person("alice")), None, 100).await.unwrap();
    assert_eq!((list.len(), next), (2, None));
    assert!(list.iter().all(|session| session.person.sub == "alice"));
    assert_eq!(sessions.list(None, None, 100).await.unwrap().0.len(), 3);
    let (first, next) = sessions.list(None, None, 2).await.unwrap();
    assert_eq!((first.len(), sessions.list(None, next, 2).await.unwrap().0.len()), (2, 1));

    let me = person_actor(&person("alice")).unwrap();
    let refused = sessions.revoke(&me, bob.session.id, Some(&person("alice"))).await;
    assert!(matches!(refused, Err(Refused::Failed(CustodyError::NotFound { .. }))), "as if it were not there");
    sessions.revoke(&me, alice.session.id, Some(&person("alice"))).await.unwrap();
    assert_eq!(reason(held(&sessions, &alices).await), Reason::Revoked);
    held(&sessions, &bobs).await.unwrap();
}

#[tokio::test]
async fn p27_a_session_that_was_ended_is_over_here_at_once_and_elsewhere_with_the_next_look() {
    let place = Place::new().await;
    let (here, there) = (place.node().await, place.node().await);
    let (made, handle) = handle(&here, token("alice", 1, 100)).await;
    held(&there, &handle).await.unwrap();
    let standing = there.hold(&handle).await.unwrap();
    let stream = tokio::spawn({
        let there = Arc::clone(&there);
        async move { there.ended(&standing).await }
    });
    here.revoke(&actor(), made.session.id, None).await.unwrap();
    assert_eq!(reason(held(&here, &handle).await), Reason::Revoked);
    there.look().await.unwrap();
    assert_eq!(reason(held(&there, &handle).await), Reason::Revoked);
    let cut = tokio::time::timeout(Duration::from_secs(20), stream).await.unwrap().unwrap();
    assert_eq!(cut, Reason::Revoked, "an open stream is cut");
    assert_eq!(place.issuer.forgotten.lock().unwrap().len(), 2, "each node forgot what it knew of the tokens");
    let left: Vec<_> = place.docs().await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, [format!("sessions/x/{}", made.session.id)], "the token is gone server side");
    assert_eq!(
        reason(held(&*place.node().await, &handle).await),
        Reason::Revoked,
        "a node that starts later knows too"
    );
}

#[tokio::test]
async fn one_handle_can_be_ended_and_the_others_go_on() {
    let place = Place::new().await;
    let (here, there) = (place.node().await, place.node().await);
    let (_, first) = handle(&here, token("alice", 1, 100)).await;
    let standing = here.hold(&first).await.unwrap();
    let (second, _) = here.narrow(&actor(), &standing, &Narrowing::default()).await.unwrap();
    held(&there, &first).await.unwrap();
    here.drop_handle(&actor(), &standing).await.unwrap();
    there.look().await.unwrap();
    for node in [&here, &there] {
        assert_eq!(reason(held(node, &first).await), Reason::Revoked);
        held(node, &text(&second)).await.unwrap();
    }
}

#[tokio::test]
async fn a_node_that_cannot_follow_takes_no_session() {
    let place = Place::new().await;
    let sessions = place.node_with(Arc::clone(&place.keyring));
    let (_, handle) = handle(&*place.node().await, token("alice", 1, 100)).await;
    assert_eq!(reason(held(&sessions, &handle).await), Reason::Stale);
    sessions.look().await.unwrap();
    held(&sessions, &handle).await.unwrap();
}

#[tokio::test]
async fn a_handle_is_narrowed_and_never_widened() {
    let place = Place::new().await;
    let sessions = place.node().await;
    let (_, first) = handle(&sessions, token("alice", 1, 100)).await;
    let some = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let narrow = Narrowing {
        agent: Some(Actor::new("agent:x").unwrap()),
        destinations: some(&["a", "b"]),
        methods: some(&["GET"]),
        lifetime: Some(Duration::from_secs(50)),
    };
    let whole = sessions.hold(&first).await.unwrap();
    let (second, head) = sessions.narrow(&actor(), &whole, &narrow).await.unwrap();
    assert_eq!(head.until, UnixTime(testing::NOW + 50));
    let standing = sessions.hold(&text(&second)).await.unwrap();
    assert_eq!(standing.head, head);
    for (wider, why) in [
        (Narrowing { agent: Some(Actor::new("agent:y").unwrap()), ..Narrowing::default() }, Reason::OtherAgent),
        (Narrowing { destinations: some(&["a", "c"]), ..Narrowing::default() }, Reason::Destination),
        (Narrowing { methods: some(&["GET", "POST"]), ..Narrowing::default() }, Reason::Method),
    ] {
        assert_eq!(reason(sessions.narrow(&actor(), &standing, &wider).await), why);
    }
    let longer =
        Narrowing { lifetime: Some(Duration::from_secs(5000)), destinations: some(&["b"]), ..Narrowing::default() };
    let (_, third) = sessions.narrow(&actor(), &standing, &longer).await.unwrap();
    assert_eq!((third.until, third.agent, third.methods), (head.until, head.agent, head.methods), "inherited");
    assert_eq!(third.destinations, some(&["b"]));
}

#[tokio::test]
async fn p28_no_stored_byte_tells_a_token_or_a_handle() {
    for format in [Format::Kf1, Format::Fernet] {
        let place = Place::with(format).await;
        let sessions = place.node().await;
        let new = NewSession {
            refresh_token: Some(Secret::from("refresh-alice-1".to_owned())),
            cookie: true,
            ..sign_in(token("alice", 1, 100))
        };
        let made = sessions.create(&permit(), new).await.unwrap();
        let secrets = [
            text(&token("alice", 1, 100)),
            "refresh-alice-1".into(),
            text(made.cookie.as_ref().unwrap()),
            text(&made.handle.as_ref().unwrap().0),
            text(&made.handle.as_ref().unwrap().0)[40..].to_owned(),
        ];
        let docs = place.docs().await;
        assert_eq!(docs.len(), 4, "the session, two holders, its own copy");
        for (key, value) in docs {
            for secret in &secrets {
                for spelled in [
                    secret.clone(),
                    base64_simd::STANDARD_NO_PAD.encode_to_string(secret),
                    keyfold_core::id::to_hex(secret.as_bytes()),
                ] {
                    let there = |bytes: &[u8]| bytes.windows(spelled.len()).any(|window| window == spelled.as_bytes());
                    assert!(!there(&value) && !there(key.as_bytes()), "{key}");
                }
            }
        }
        let events = serde_json::to_string(&place.events()).unwrap();
        assert!(secrets.iter().all(|secret| !events.contains(secret.as_str())));
    }
}

#[tokio::test]
async fn sessions_of_a_key_that_is_gone_end_and_say_so() {
    for format in [Format::Kf1, Format::Fernet] {
        let place = Place::with(format).await;
        let (_, handle) = handle(&*place.node().await, token("alice", 1, 100)).await;
        let next = place.node_with(keyring(2));
        next.look().await.unwrap();
        assert_eq!(reason(held(&next, &handle).await), Reason::KeyGone);
    }
}

#[tokio::test]
async fn documents_end_with_the_session() {
    let place = Place::new().await;
    let sessions = place.node().await;
    let rules = sessions.ttl(UnixTime(testing::NOW + 100));
    assert_eq!(rules, Duration::from_secs(100 + GRACE), "long enough to say why, and no longer");
    handle(&sessions, token("alice", 1, 1)).await;
    assert!(place.docs().await.iter().all(|(key, _)| key.starts_with("sessions/")));
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_before_the_issuer_is_asked() {
    let place = Place::new().await;
    let sessions = place.node().await;
    let state = |json: serde_json::Value| json.as_object().cloned();
    let cases = [
        NewSession { state: state(serde_json::json!({ "_user_access_token": "x" })), ..sign_in(token("a", 1, 9)) },
        NewSession { state: state(serde_json::json!({ "x": "y".repeat(MAX_STATE) })), ..sign_in(token("a", 1, 9)) },
        NewSession { project: Some("a\nb".into()), ..sign_in(token("a", 1, 9)) },
        sign_in(Secret::from("two words".to_owned())),
        sign_in(Secret::from("x".repeat(MAX_TOKEN + 1))),
        sign_in(Secret::from(String::new())),
    ];
    for new in cases {
        assert!(matches!(sessions.create(&permit(), new).await, Err(Refused::Failed(CustodyError::Invalid { .. }))));
    }
    assert!(place.docs().await.is_empty());
}

fn imported(email: &str, name: &str) -> Imported {
    let source = format!("sessions/{name}");
    Imported { issuer: "test".into(), email: email.into(), source, token: token(name, 7, 100) }
}

#[tokio::test]
async fn an_imported_token_is_used_only_once_its_person_signs_in_or_an_operator_vouches() {
    let place = Place::new().await;
    let sessions = place.node().await;
    let import = sessions.import(&permit(), imported("Alice@example.com", "alice")).await.unwrap();
    assert!(sessions.list(None, None, 100).await.unwrap().0.is_empty());
    handle(&sessions, token("bob", 1, 100)).await;
    assert_eq!(
        sessions.imports().await.unwrap(),
        std::slice::from_ref(&import),
        "somebody else's sign-in changes nothing"
    );
    let (made, _) = handle(&sessions, token("alice", 1, 100)).await;
    assert!(sessions.imports().await.unwrap().is_empty());
    let (list, _) = sessions.list(Some(&person("alice")), None, 100).await.unwrap();
    let taken = list.iter().find(|session| session.id != made.session.id).unwrap();
    assert!(taken.vouched.as_ref().unwrap().contains("sessions/alice"));
    let (handle, _) = sessions.handle_of(&actor(), &person("alice"), taken.id, &Narrowing::default()).await.unwrap();
    assert_eq!(held(&sessions, &text(&handle)).await.unwrap(), text(&token("alice", 7, 100)));
    let others = sessions.handle_of(&actor(), &person("bob"), taken.id, &Narrowing::default()).await;
    assert!(matches!(others, Err(Refused::Failed(CustodyError::NotFound { .. }))));

    let import = sessions.import(&permit(), imported("carol@example.com", "carol")).await.unwrap();
    let made = sessions.vouch(&permit(), import.id, Some(&Narrowing::default())).await.unwrap();
    assert_eq!(held(&sessions, &text(&made.handle.unwrap().0)).await.unwrap(), text(&token("carol", 7, 100)));
    let said = place.events().iter().filter(|event| event.action == Action::SessionVouch).count();
    assert_eq!(said, 4, "an intent and an outcome for each");
}

#[tokio::test]
async fn an_imported_token_that_is_another_persons_than_the_record_says_stays_unused() {
    let place = Place::new().await;
    let sessions = place.node().await;
    // A writer of the other program's database has put Bob's token into Mallory's session, or that of somebody whose address the
    // issuer has not verified.
    for (n, whose) in [(1, "bob"), (2, "unverified")] {
        let import = sessions.import(&permit(), imported("mallory@example.com", whose)).await.unwrap();
        handle(&sessions, token("mallory", n, 100)).await;
        assert_eq!(sessions.list(None, None, 100).await.unwrap().0.len() as u64, n, "hers alone");
        let refused = sessions.vouch(&permit(), import.id, None).await;
        assert!(
            matches!(refused, Err(Refused::Issuer(IssuerError::Refused { what, .. })) if what.contains("does not say"))
        );
        assert_eq!(sessions.imports().await.unwrap().len() as u64, n);
    }
}

#[tokio::test]
async fn a_key_that_sessions_need_is_counted() {
    for format in [Format::Kf1, Format::Fernet] {
        let place = Place::with(format).await;
        handle(&*place.node().await, token("alice", 1, 100)).await;
        let mut found = Vec::new();
        Sessions::needs(&*place.store, &place.keyring, |format, kid| found.push((format, kid))).await.unwrap();
        let primary = |format| (format, place.keyring.primary(format).unwrap().kid());
        let expected = match format {
            Format::Kf1 => vec![primary(Format::Kf1)],
            _ => vec![primary(Format::Kf1), primary(Format::Fernet)],
        };
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn p27_a_session_whose_document_a_writer_of_the_store_removed_can_still_be_ended() {
    let place = Place::new().await;
    for by_its_person in [false, true] {
        let node = place.node().await;
        let (made, handle) = handle(&node, token("alice", 1, 1000)).await;
        node.hold(&handle).await.unwrap();
        let id = made.session.id;
        place.store.delete(&format!("{SESSIONS}{id}"), Expect::Any).await.unwrap();
        let (alice, bob) = (person("alice"), person("bob"));
        assert!(node.revoke(&actor(), id, Some(&bob)).await.is_err());
        node.hold(&handle).await.expect("another person ends nothing");
        let ended = node.revoke(&actor(), id, by_its_person.then_some(&alice)).await;
        assert_eq!(ended.is_ok(), by_its_person, "an operator learns that nothing of that name was stored");
        assert!(matches!(node.hold(&handle).await, Err(Refused::For(Reason::Revoked))));
    }
}
