//! What somebody who writes the database, and holds no key, can do: nothing that gains them anything.

use super::*;

type Docs = Vec<(String, Vec<u8>)>;

/// Everything that can be copied from one stored document over another: whole, or any member of it at any depth.
fn copies(from: &serde_json::Value, to: &serde_json::Value) -> Vec<serde_json::Value> {
    let mut made = vec![from.clone()];
    if let (Some(source), Some(target)) = (from.as_object(), to.as_object()) {
        for (key, value) in source {
            for inner in copies(value, target.get(key).unwrap_or(&serde_json::Value::Null)) {
                let mut copy = target.clone();
                copy.insert(key.clone(), inner);
                made.push(copy.into());
            }
            let mut without = target.clone();
            without.remove(key);
            made.push(without.into());
        }
    }
    made
}

/// A document as it is stored: behind a MAC, or not.
fn parts(doc: &[u8]) -> Option<(&[u8], serde_json::Value)> {
    let at = if doc.starts_with(b"{") { 0 } else { 65 };
    let (mac, json) = doc.split_at_checked(at)?;
    Some((mac, serde_json::from_slice(json).ok()?))
}

/// What a writer makes of two documents; where both have a MAC, with the one's and with the other's.
fn forgeries(source: &[u8], target: &[u8]) -> Vec<Vec<u8>> {
    let mut forged = vec![source.to_vec()];
    if let (Some((mine, source)), Some((theirs, target))) = (parts(source), parts(target)) {
        for doc in copies(&source, &target) {
            let json = doc.to_string().into_bytes();
            forged.push([theirs, &json].concat());
            if !mine.is_empty() && !theirs.is_empty() {
                forged.push([mine, &json].concat());
            }
        }
    }
    forged
}

async fn put(place: &Place, key: &str, doc: &[u8]) {
    place.store.put(key, doc, Expect::Any, None).await.unwrap();
}

/// Two people with a cookie, a narrow handle, and a refresh token or none; and what each proof is worth before anybody wrote.
struct Two {
    ids: Vec<(&'static str, SessionId)>,
    worth: Vec<(&'static str, String, Head)>,
}

impl Two {
    async fn signed_in(place: &Place, refreshed: bool) -> Self {
        let sessions = place.node().await;
        let (mut ids, mut worth) = (Vec::new(), Vec::new());
        for name in ["alice", "mallory"] {
            let new = NewSession {
                refresh_token: refreshed.then(|| Secret::from(format!("refresh-{name}-1"))),
                handle: Some(Narrowing {
                    agent: Some(Actor::new(format!("agent:{name}")).unwrap()),
                    destinations: Some(vec![name.to_owned()]),
                    methods: None,
                    lifetime: Some(Duration::from_secs(if name == "alice" { 50 } else { 80 })),
                }),
                cookie: true,
                state: serde_json::json!({ "thread": name }).as_object().cloned(),
                ..sign_in(token(name, 1, 100))
            };
            let made = sessions.create(&permit(), new).await.unwrap();
            ids.push((name, made.session.id));
            for proof in [text(made.cookie.as_ref().unwrap()), text(&made.handle.as_ref().unwrap().0)] {
                let head = sessions.hold(&proof).await.unwrap().head;
                worth.push((name, proof, head));
            }
        }
        Self { ids, worth }
    }

    /// A node without any memory of what was there gives each proof what it was worth, or nothing.
    async fn unharmed(&self, place: &Place, what: &str) {
        let node = place.node().await;
        for (name, proof, head) in &self.worth {
            match node.hold(proof).await {
                Ok(standing) => {
                    assert_eq!(text(&standing.token), text(&token(name, 1, 100)), "{what}");
                    assert_eq!(&standing.head, head, "{what}");
                    if let Ok(Some(own)) = node.own(&standing.session).await {
                        assert_eq!(text(&own.token), text(&token(name, 1, 100)), "{what}");
                        let refresh = own.refresh.map(|refresh| text(&refresh));
                        assert!(refresh.is_none_or(|refresh| refresh == format!("refresh-{name}-1")), "{what}");
                    }
                }
                Err(Refused::For(Reason::Tampered | Reason::Unknown)) => {}
                Err(other) => panic!("{what}: {other}"),
            }
        }
        // What a person makes handles of, where the session's state holds it.
        for (name, id) in &self.ids {
            match node.stored(*id).await {
                Ok(Some((stored, _))) => {
                    assert!(stored.session.person.is(&person(name)) && stored.session.id == *id, "{what}");
                    let found = node.state_token(&stored).unwrap();
                    assert!(found.is_none_or(|found| text(&found) == text(&token(name, 1, 100))), "{what}");
                }
                Ok(None) | Err(Refused::For(Reason::Tampered)) => {}
                Err(other) => panic!("{what}: {other}"),
            }
        }
    }
}

async fn nothing_is_gained(place: Place, refreshed: bool) {
    let two = Two::signed_in(&place, refreshed).await;
    let docs: Docs = place.docs().await;
    let mut tried = 0;
    for (from, source) in &docs {
        for (to, target) in docs.iter().filter(|(to, _)| to != from) {
            for doc in forgeries(source, target) {
                tried += 1;
                put(&place, to, &doc).await;
                two.unharmed(&place, &format!("{from} over {to}")).await;
            }
            put(&place, to, target).await;
        }
    }
    assert!(tried > 100, "{tried}");
    // Everything that is one person's over the other's at once, in both directions.
    let of = |id: SessionId| docs.iter().filter(move |(key, _)| key.contains(&id.to_string()));
    for (from, to) in [(two.ids[0].1, two.ids[1].1), (two.ids[1].1, two.ids[0].1)] {
        for ((_, source), (key, _)) in of(from).zip(of(to)) {
            put(&place, key, source).await;
        }
        two.unharmed(&place, "everything at once").await;
        for (key, doc) in &docs {
            put(&place, key, doc).await;
        }
    }
    // And untouched, all of it still is what it was.
    let node = place.node().await;
    for (name, proof, _) in &two.worth {
        assert_eq!(held(&node, proof).await.unwrap(), text(&token(name, 1, 100)));
    }
}

#[tokio::test]
async fn p05_a_writer_of_the_database_gains_nothing_by_copying_what_is_sealed_as_kf1() {
    nothing_is_gained(Place::with(Format::Kf1).await, true).await;
}

#[tokio::test]
async fn p05_a_writer_of_the_database_gains_nothing_by_copying_what_is_sealed_as_fernet() {
    nothing_is_gained(Place::with(Format::Fernet).await, true).await;
}

#[tokio::test]
async fn p05_a_writer_of_the_database_gains_nothing_by_copying_the_token_that_auto_sres_readers_find() {
    nothing_is_gained(Place::with_readers(Format::Kf1).await, false).await;
}

#[tokio::test]
async fn p05_the_token_in_a_state_is_bound_to_its_person_and_session_under_another_key_than_the_documents_mac() {
    let place = Place::with_readers(Format::Kf1).await;
    let two = Two::signed_in(&place, false).await;
    let node = place.node().await;
    let [(_, alice), (_, mallory)] = two.ids[..] else { panic!() };
    let theirs = node.stored(alice).await.unwrap().unwrap().0;
    let mine = node.stored(mallory).await.unwrap().unwrap().0;
    let sealed = |state: &Option<State>| state.as_ref().unwrap()[TOKEN_FIELD].clone();
    for (token_of, bound_of) in [(&theirs, &theirs), (&theirs, &mine), (&mine, &theirs)] {
        let mut forged =
            StoredSession { session: mine.session.clone(), state: mine.state.clone(), bound: bound_of.bound.clone() };
        forged.state.as_mut().unwrap().insert(TOKEN_FIELD.into(), sealed(&token_of.state));
        assert!(matches!(node.state_token(&forged), Err(Refused::For(Reason::Tampered))));
    }
    assert_eq!(text(&node.state_token(&mine).unwrap().unwrap()), text(&token("mallory", 1, 100)));
    let unbound = StoredSession { bound: None, ..theirs };
    assert!(node.state_token(&unbound).unwrap().is_none(), "what nothing binds is not used");
}

#[tokio::test]
async fn p27_a_note_of_a_revocation_that_a_writer_changed_ends_the_session_all_the_same() {
    let place = Place::new().await;
    let node = place.node().await;
    let (made, proof) = handle(&node, token("alice", 1, 5000)).await;
    let (other, _) = handle(&node, token("bob", 1, 5000)).await;
    let before = place.docs().await;
    node.revoke(&actor(), made.session.id, None).await.unwrap();
    node.revoke(&actor(), other.session.id, None).await.unwrap();
    let key = |made: &Made| format!("sessions/x/{}", made.session.id);
    let note = |docs: &Docs, key: &str| docs.iter().find(|(found, _)| found == key).unwrap().1.clone();
    let docs = place.docs().await;
    let (real, others) = (note(&docs, &key(&made)), note(&docs, &key(&other)));
    assert!(node.voucher.check(&key(&made), &real).is_some(), "it carries a MAC");
    assert!(node.voucher.check(&key(&made), &others).is_none(), "under its own name");
    let shorter = [&real[..65], b"1".as_slice()].concat();
    // The writer has a copy of what was there before.
    for (key, doc) in &before {
        put(&place, key, doc).await;
    }
    // As an earlier version wrote it, with another end, another session's, and nonsense.
    for forged in [b"1".to_vec(), shorter, others, Vec::new(), b"\xff".to_vec()] {
        put(&place, &key(&made), &forged).await;
        let late = place.node().await;
        assert_eq!(reason(held(&late, &proof).await), Reason::Revoked);
        place.pass(GRACE + 10);
        late.look().await.unwrap();
        assert_eq!(reason(held(&late, &proof).await), Reason::Revoked, "nor is it forgotten early");
    }
}
