//! The token in a session's state, for Auto SRE's readers that share the store.

use keyfold_core::{
    accept::Accept,
    context::Context,
    envelope::Reading,
    keyring::{KeyMaterial, Keyring, Origin, Purpose, Reader},
    secret::Key32,
};

use super::*;

/// What a reader sees that holds the shared key and nothing else: the state and the token in it.
async fn seen(place: &Place, id: SessionId) -> (State, String) {
    let key = format!("{SESSIONS}{id}");
    let doc = place.store.get(&key).await.unwrap().unwrap().value;
    let at = doc.iter().position(|&byte| byte == b'\n').unwrap();
    let json: serde_json::Value = serde_json::from_slice(&doc[at + 1..]).unwrap();
    let state = json["state"].as_object().unwrap().clone();
    let material = KeyMaterial::new(Purpose::Fernet, Key32::new(testing::READERS)).unwrap();
    let entry = keyfold_core::keyring::Entry::new(
        material,
        keyfold_core::keyring::State::Primary,
        vec![Format::Fernet],
        UnixTime(0),
        Origin::Document,
    );
    let keyring = Keyring::from_entries("reader", vec![entry]).unwrap();
    let accept = Accept::only(Format::Fernet);
    let reader = Reader { accept: &accept, today: jiff::civil::Date::MIN, reading: Reading::Strict, max_age: None };
    let sealed = state[TOKEN_FIELD].as_str().unwrap();
    let token = keyring.open(sealed, &Context::empty().digest(), &reader).unwrap().secret;
    (state, text(&token))
}

#[tokio::test]
async fn p23_a_state_holds_the_token_under_the_readers_key_and_never_shows_it() {
    for format in [Format::Kf1, Format::Fernet] {
        let place = Place::with_readers(format).await;
        let node = place.node().await;
        // Whose the token is, is the issuer's word.
        let state = serde_json::json!({ "thread": 7, "user_email": "bob@example.com" });
        let new = NewSession { state: state.as_object().cloned(), ..sign_in(token("alice", 1, 100)) };
        let made = node.create(&permit(), new).await.unwrap();
        let (state, found) = seen(&place, made.session.id).await;
        assert_eq!(found, text(&token("alice", 1, 100)));
        assert_eq!((&state["thread"], &state["user_email"]), (&7.into(), &"alice@example.com".into()));
        let standing = node.hold(&text(&made.handle.unwrap().0)).await.unwrap();
        let shown = serde_json::to_string(&node.state(&standing).await.unwrap()).unwrap();
        assert_eq!(shown, r#"{"thread":7,"user_email":"alice@example.com"}"#);
        let unknown = node.create(&permit(), sign_in(token("unverified", 1, 100))).await.unwrap();
        assert!(!seen(&place, unknown.session.id).await.0.contains_key("user_email"));
        // Where nobody said so, there is none.
        let place = Place::with(format).await;
        let (made, _) = handle(&*place.node().await, token("alice", 1, 100)).await;
        let stored = place.node().await.stored(made.session.id).await.unwrap().unwrap().0;
        assert!(stored.state.is_none() && stored.bound.is_none());
    }
}

#[tokio::test]
async fn the_key_of_the_readers_is_counted_and_without_it_no_session_is_made() {
    let place = Place::with_readers(Format::Kf1).await;
    handle(&*place.node().await, token("alice", 1, 100)).await;
    let mut found = Vec::new();
    Sessions::needs(&*place.store, &place.keyring, |format, kid| found.push((format, kid))).await.unwrap();
    let readers = place.keyring.leading(Format::Fernet).unwrap().kid();
    assert_ne!(readers, place.keyring.primary(Format::Fernet).unwrap().kid());
    let master = (Format::Kf1, place.keyring.primary(Format::Kf1).unwrap().kid());
    assert_eq!(found, [master, (Format::Fernet, readers), master], "the state's with its binding, and a handle's copy");

    let mut place = Place::new().await;
    place.auto_sre = true;
    let node = place.node().await;
    let hint = node.ready().await.unwrap_err().hint().unwrap();
    assert!(hint.contains("SRE_AGENT_ENCRYPTION_KEY"), "{hint}");
    let new = NewSession {
        refresh_token: Some(Secret::from("refresh-alice-1".to_owned())),
        ..sign_in(token("alice", 1, 100))
    };
    assert!(matches!(node.create(&permit(), new).await, Err(Refused::Failed(CustodyError::Invalid { .. }))));
    assert!(place.docs().await.is_empty(), "nothing is stored, and nothing under another key");
}

#[tokio::test]
async fn a_refreshed_token_takes_the_place_of_the_one_in_the_state_and_an_ended_session_leaves_none() {
    let place = Place::with_readers(Format::Kf1).await;
    let broker = place.broker("[destinations.logs]\nhost = \"logs.example\"\n").await;
    let node = broker.sessions();
    let new = NewSession {
        refresh_token: Some(Secret::from("refresh-alice-1".to_owned())),
        ..sign_in(token("alice", 1, 100))
    };
    let made = node.create(&permit(), new).await.unwrap();
    place.pass(101);
    let wanted =
        crate::broker::Wanted { destination: broker.routes().named("logs").unwrap(), method: "GET", path: None };
    let proof = text(&made.handle.unwrap().0);
    let credential = broker.credential_for(&permit(), Some(&proof), &wanted).await.unwrap();
    let (_, found) = seen(&place, made.session.id).await;
    assert_eq!(found.as_bytes(), credential.expose());
    assert_ne!(found, text(&token("alice", 1, 100)));
    node.revoke(&actor(), made.session.id, None).await.unwrap();
    node.renew_state(&made.session, &token("alice", 9, 900)).await.unwrap();
    let left: Vec<_> = place.docs().await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, [format!("sessions/x/{}", made.session.id)], "a refresh that comes late brings nothing back");
}

#[tokio::test]
async fn a_person_makes_handles_of_their_other_sessions_from_the_token_in_their_state() {
    let place = Place::with_readers(Format::Kf1).await;
    let node = place.node().await;
    let (made, _) = handle(&node, token("alice", 1, 100)).await;
    let id = made.session.id;
    let (second, head) = node.handle_of(&actor(), &person("alice"), id, &Narrowing::default()).await.unwrap();
    assert_eq!((head.until, head.expires), (made.session.until, made.session.until));
    assert_eq!(held(&node, &text(&second)).await.unwrap(), text(&token("alice", 1, 100)));
    let others = node.handle_of(&actor(), &person("bob"), id, &Narrowing::default()).await;
    assert!(matches!(others, Err(Refused::Failed(CustodyError::NotFound { .. }))));
}
