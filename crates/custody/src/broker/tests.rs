//! The broker over a real store: whose credential leaves, and how often an issuer is asked.

use std::{collections::HashMap, time::Duration};

use keyfold_core::audit::Kind;

use super::*;
use crate::{
    access::{Grants, Known, Subject, authorize_at},
    sessions::{
        Narrowing, NewSession,
        testing::{Place, actor, handle, permit, sign_in, text, token},
    },
};

const ROUTES: &str = "[destinations.logs]\nhost = \"logs.example\"\n[destinations.narrow]\nhost = \"narrow.example\"\n\
    exchange = { audience = \"narrow\" }\n";

fn wanted<'a>(broker: &'a Broker, name: &str) -> Wanted<'a> {
    Wanted { destination: broker.routes().named(name).unwrap(), method: "GET", path: None }
}

fn reason(result: Result<Credential, Refused>) -> Reason {
    match result {
        Ok(_) => panic!("it was given"),
        Err(Refused::For(reason)) => reason,
        Err(other) => panic!("{other}"),
    }
}

fn said(credential: &Credential) -> String {
    String::from_utf8(credential.expose().to_vec()).unwrap()
}

fn permit_of(name: &str) -> Permit<op::Use> {
    let actor = Actor::new(name).unwrap();
    let grants = Grants::default().of(&actor);
    let known = Known { grants, actor, narrowed: None, today: "2026-11-22".parse().unwrap() };
    authorize_at(&Subject::Known(known), &crate::access::Place::Everything).unwrap()
}

#[tokio::test]
async fn the_users_own_token_leaves_after_its_intent_and_for_the_agent_it_was_given_to() {
    let place = Place::new().await;
    let broker = place.broker(ROUTES).await;
    let narrowing = Narrowing { agent: Some(Actor::new("agent:x").unwrap()), ..Narrowing::default() };
    let made = broker
        .sessions()
        .create(&permit(), NewSession { handle: Some(narrowing), ..sign_in(token("alice", 1, 1000)) })
        .await
        .unwrap();
    let handle = text(&made.handle.unwrap().0);
    let credential =
        broker.credential_for(&permit_of("agent:x"), Some(&handle), &wanted(&broker, "logs")).await.unwrap();
    assert_eq!(said(&credential), text(&token("alice", 1, 1000)));
    let last = place.events().pop().unwrap();
    assert_eq!((last.action, last.kind, last.actor.as_str()), (Action::Use, Kind::Intent, "agent:x"));
    assert_eq!(
        (last.field.unwrap().as_str(), last.record.unwrap().as_str()),
        ("logs", made.session.id.to_string().as_str())
    );
    broker.outcome(&credential, &Ok(())).await.unwrap();
    assert_eq!(place.events().pop().unwrap().kind, Kind::Outcome);
    let other = broker.credential_for(&permit_of("agent:y"), Some(&handle), &wanted(&broker, "logs")).await;
    assert_eq!(reason(other), Reason::OtherAgent);
    assert_eq!(place.events().pop().unwrap().result.unwrap().as_str(), "handle_of_another_agent");
}

#[tokio::test]
async fn p37_an_audit_log_that_cannot_be_written_keeps_the_credential_here() {
    let place = Place::new().await;
    let broker = place.broker(ROUTES).await;
    let (_, handle) = handle(broker.sessions(), token("alice", 1, 1000)).await;
    place.sink.fail(true);
    let refused = broker.credential_for(&permit(), Some(&handle), &wanted(&broker, "logs")).await;
    assert!(matches!(refused, Err(Refused::Failed(CustodyError::Audit(_)))));
}

#[tokio::test]
async fn p21_every_path_is_refused_without_a_user_under_strict_and_falls_back_only_where_named_under_permissive() {
    let permissive = format!(
        "enforcement = \"permissive\"\n{ROUTES}[destinations.with]\nhost = \"with.example\"\nfallback = \"metadata\"\n"
    );
    for (rules, strict) in [(ROUTES.to_owned(), true), (permissive, false)] {
        let place = Place::new().await;
        let broker = place.broker(&rules).await;
        let (made, live) = handle(broker.sessions(), token("alice", 1, 1000)).await;
        let first = broker.credential_for(&permit(), Some(&live), &wanted(&broker, "logs")).await.unwrap();
        broker.sessions().revoke(&actor(), made.session.id, None).await.unwrap();
        for destination in broker.routes().iter() {
            for permit in [permit(), permit_of("agent:x"), permit_of("service:background")] {
                for (method, handle) in
                    [("GET", None), ("POST", None), ("GET", Some("")), ("GET", Some("kfh_")), ("GET", Some(&*live))]
                {
                    let wanted = Wanted { destination, method, path: None };
                    for found in [
                        broker.credential_for(&permit, handle, &wanted).await,
                        broker.instead_of(&permit, handle, &wanted, &first).await,
                    ] {
                        match (handle, strict, destination.name.as_str()) {
                            (None, false, "with") => {
                                let credential = found.unwrap();
                                assert_eq!(said(&credential), "service-account-for-with");
                                assert_eq!(place.events().pop().unwrap().action, Action::UseFallback);
                            }
                            (None, ..) => assert_eq!(reason(found), Reason::NoSession),
                            // A handle that does not hold is never replaced by a service account.
                            (Some(text), ..) if text == live => assert_eq!(reason(found), Reason::Revoked),
                            (Some(_), ..) => assert_eq!(reason(found), Reason::Unknown),
                        }
                    }
                }
            }
        }
        let fallbacks = broker.counts().fallback.load(Ordering::SeqCst);
        assert_eq!(fallbacks, if strict { 0 } else { 12 });
    }
}

#[tokio::test]
async fn a_token_is_narrowed_for_a_destination_once_and_remembered_for_that_session_alone() {
    let place = Place::new().await;
    let broker = place.broker(ROUTES).await;
    let (_, alices) = handle(broker.sessions(), token("alice", 1, 1000)).await;
    let (_, bobs) = handle(broker.sessions(), token("bob", 1, 1000)).await;
    for (handle, name) in [(&alices, "alice"), (&bobs, "bob"), (&alices, "alice"), (&bobs, "bob")] {
        let credential = broker.credential_for(&permit(), Some(handle), &wanted(&broker, "narrow")).await.unwrap();
        assert_eq!(said(&credential), format!("{}-for-narrow", text(&token(name, 1, 1000))));
    }
    assert_eq!(place.issuer.exchanges.load(Ordering::SeqCst), 2);
    place.pass(480);
    broker.credential_for(&permit(), Some(&alices), &wanted(&broker, "narrow")).await.unwrap();
    assert_eq!(place.issuer.exchanges.load(Ordering::SeqCst), 3, "what is nearly over is asked for again");
}

async fn refreshing(broker: &Broker, name: &str, expires_in: u64) -> String {
    let new = NewSession {
        refresh_token: Some(Secret::from(format!("refresh-{name}-1"))),
        ..sign_in(token(name, 1, expires_in))
    };
    text(&broker.sessions().create(&permit(), new).await.unwrap().handle.unwrap().0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p29_two_nodes_and_one_rotating_refresh_token_make_one_refresh_though_the_callers_hang_up() {
    let place = Place::new().await;
    let (one, two) = (place.broker(ROUTES).await, place.broker(ROUTES).await);
    let handle = refreshing(&one, "alice", 100).await;
    place.issuer.slow.store(300, Ordering::SeqCst);
    place.pass(100);
    let call = |broker: &Arc<Broker>| {
        let (broker, handle) = (Arc::clone(broker), handle.clone());
        tokio::spawn(async move {
            broker.credential_for(&permit(), Some(&handle), &wanted(&broker, "logs")).await.map(|found| said(&found))
        })
    };
    // Whoever starts it hangs up in the middle of it.
    let hasty = [call(&one), call(&two)];
    tokio::time::sleep(Duration::from_millis(100)).await;
    for call in &hasty {
        call.abort();
    }
    let calls: Vec<_> = (0..20).map(|i| call(if i % 2 == 0 { &one } else { &two })).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), text(&token("alice", 2, 1100)));
    }
    assert_eq!(place.issuer.refreshes.load(Ordering::SeqCst), 1);
    let leases = place.docs().await.into_iter().filter(|(key, _)| key.starts_with("sessions/l/")).count();
    assert_eq!(leases, 0, "the lease was given back");
    // The next one works too: the rotated refresh token was kept.
    place.pass(1000);
    assert_eq!(call(&two).await.unwrap().unwrap(), text(&token("alice", 3, 2100)));
    assert_eq!(place.issuer.refreshes.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p29_a_handle_that_lags_behind_its_session_is_refreshed_like_the_others() {
    let place = Place::new().await;
    let broker = place.broker(ROUTES).await;
    let first = refreshing(&broker, "alice", 100).await;
    let standing = broker.sessions().hold(&first).await.unwrap();
    let (second, _) = broker.sessions().narrow(&actor(), &standing, &Narrowing::default()).await.unwrap();
    let second = text(&second);
    let call = async |handle: &str| {
        let found = broker.credential_for(&permit(), Some(handle), &wanted(&broker, "logs")).await;
        found.map(|found| said(&found)).unwrap()
    };
    place.pass(100);
    assert_eq!(call(&first).await, text(&token("alice", 2, 1100)));
    // What the first one brought is over before the second one asks.
    place.pass(1000);
    for handle in [&second, &first] {
        assert_eq!(call(handle).await, text(&token("alice", 3, 2100)));
    }
    assert_eq!(place.issuer.refreshes.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_refreshed_ahead_of_its_end_and_when_a_destination_does_not_take_it() {
    let place = Place::new().await;
    let broker = place.broker(ROUTES).await;
    let handle = refreshing(&broker, "alice", 1000).await;
    let get = async || broker.credential_for(&permit(), Some(&handle), &wanted(&broker, "logs")).await.unwrap();
    place.pass(1000 - AHEAD);
    assert_eq!(said(&get().await), text(&token("alice", 1, 1000)), "the call does not wait");
    for _ in 0..200 {
        if broker.counts().refreshed.load(Ordering::SeqCst) == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let rejected = get().await;
    let next = broker.instead_of(&permit(), Some(&handle), &wanted(&broker, "logs"), &rejected).await.unwrap();
    assert_ne!(said(&next), said(&rejected), "after a 401 there is another token");
    let again = broker.instead_of(&permit(), Some(&handle), &wanted(&broker, "logs"), &next).await;
    assert_eq!(reason(again), Reason::TokenExpired, "a destination that refuses every token wears nothing out");
    let plain = crate::sessions::testing::handle(broker.sessions(), token("bob", 1, 2000)).await.1;
    let rejected = broker.credential_for(&permit(), Some(&plain), &wanted(&broker, "logs")).await.unwrap();
    let refused = broker.instead_of(&permit(), Some(&plain), &wanted(&broker, "logs"), &rejected).await;
    assert_eq!(reason(refused), Reason::TokenExpired);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_token_that_the_issuer_refuses_is_not_tried_again() {
    let place = Place::new().await;
    let broker = place.broker(ROUTES).await;
    let handle = refreshing(&broker, "alice", 100).await;
    place.issuer.used.lock().unwrap().insert(b"refresh-alice-1".to_vec());
    place.pass(100);
    for _ in 0..3 {
        let refused = broker.credential_for(&permit(), Some(&handle), &wanted(&broker, "logs")).await;
        assert_eq!(reason(refused), Reason::NotRefreshed);
    }
    let refused = place.events().into_iter().filter(|event| event.action == Action::SessionRefresh);
    assert_eq!(refused.filter(|event| event.kind == Kind::Intent).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_that_brings_another_persons_token_is_refused() {
    let place = Place::new().await;
    let broker = place.broker(ROUTES).await;
    let new = NewSession {
        refresh_token: Some(Secret::from("refresh-mallory-1".to_owned())),
        ..sign_in(token("alice", 1, 100))
    };
    let handle = text(&broker.sessions().create(&permit(), new).await.unwrap().handle.unwrap().0);
    place.pass(100);
    let refused = broker.credential_for(&permit(), Some(&handle), &wanted(&broker, "logs")).await;
    assert_eq!(reason(refused), Reason::NotRefreshed);
}

/// A number from a seed, the same in every run.
struct Dice(u64);

impl Dice {
    fn next(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn scaled(full: u64) -> u64 {
    let scale = std::env::var("KEYFOLD_TEST_SCALE").ok().map_or(0.1, |text| text.parse::<f64>().unwrap());
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "small numbers"
    )]
    let scaled = (full as f64 * scale) as u64;
    scaled.max(10)
}

#[derive(Clone)]
struct Live {
    handle: String,
    token: String,
    until: u64,
}

/// One of several that call at once, each for users of its own; what was given, and what was refused.
async fn p20_caller(place: Arc<Place>, brokers: [Arc<Broker>; 2], share: u64, users: u64, calls: u64) -> (u64, u64) {
    let mut dice = Dice(42 + share);
    // What should be: each user's live handle, and the handles that are over.
    let mut live: HashMap<u64, Live> = HashMap::new();
    let mut over: Vec<String> = Vec::new();
    let (mut given, mut refused) = (0_u64, 0_u64);
    for serial in 0..calls {
        let user = dice.next(users);
        let broker = &brokers[usize::try_from(dice.next(2)).unwrap()];
        // The others let time pass, so it is read before a call and after.
        let before = place.passed();
        match dice.next(100) {
            0..5 => {
                // A sign-in; the former session goes on by itself until its end, and is not looked at any more.
                let life = 50 + dice.next(1000);
                let access = token(&format!("u{share}x{user}"), serial, before + life);
                let kept = text(&access);
                let (_, handle) = handle(broker.sessions(), access).await;
                live.insert(user, Live { handle, token: kept, until: before + life });
            }
            5..7 => {
                if let Some(gone) = live.remove(&user) {
                    let id = crate::sessions::Reference::parse(&gone.handle).unwrap().session;
                    match broker.sessions().revoke(&actor(), id, None).await {
                        Ok(()) => {
                            // The other node learns of it within the bound; here, by the look that its follower makes.
                            for broker in &brokers {
                                broker.sessions().look().await.unwrap();
                            }
                            over.push(gone.handle);
                        }
                        Err(error) => assert!(gone.until <= place.passed(), "{error}"),
                    }
                }
            }
            7 => place.pass(1),
            8..12 => {
                if let Some(handle) = over.get(usize::try_from(dice.next(1 + over.len() as u64)).unwrap()) {
                    let found = broker.credential_for(&permit(), Some(handle), &wanted(broker, "logs")).await;
                    // Long after its end it is not even remembered.
                    assert!([Reason::Revoked, Reason::Unknown].contains(&reason(found)));
                    refused += 1;
                }
            }
            _ => {
                let Some(mine) = live.get(&user).cloned() else { continue };
                match broker.credential_for(&permit(), Some(&mine.handle), &wanted(broker, "logs")).await {
                    Ok(credential) => {
                        assert!(mine.until > before, "it was over");
                        assert_eq!(said(&credential), mine.token, "user {user} of {share}");
                        assert_eq!(credential.session().unwrap().person.sub, format!("u{share}x{user}"));
                        given += 1;
                    }
                    Err(error) => {
                        assert!(mine.until <= place.passed(), "{error}");
                        assert_eq!(reason(Err(error)), Reason::Expired);
                        refused += 1;
                    }
                }
            }
        }
        if serial % 64 == 0 {
            for broker in &brokers {
                broker.sessions().look().await.unwrap();
            }
        }
    }
    (given, refused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p20_a_thousand_users_at_random_and_at_once_never_get_another_ones_token() {
    const SHARES: u64 = 8;
    let place = Arc::new(Place::new().await);
    let brokers = [place.broker(ROUTES).await, place.broker(ROUTES).await];
    let (users, calls) = (scaled(1000).div_ceil(SHARES), scaled(100_000).div_ceil(SHARES));
    let callers: Vec<_> = (0..SHARES)
        .map(|share| tokio::spawn(p20_caller(Arc::clone(&place), brokers.clone(), share, users, calls)))
        .collect();
    let (mut given, mut refused) = (0, 0);
    for caller in callers {
        let (some, others) = caller.await.unwrap();
        (given, refused) = (given + some, refused + others);
    }
    assert!(given > SHARES * calls / 4 && refused > 0, "{given} given, {refused} refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p25_a_session_that_ends_while_its_token_is_narrowed_gives_none() {
    let place = Place::new().await;
    let broker = place.broker(ROUTES).await;
    let (made, live) = handle(broker.sessions(), token("alice", 1, 1000)).await;
    place.issuer.slow.store(500, Ordering::SeqCst);
    let call = {
        let broker = Arc::clone(&broker);
        tokio::spawn(async move { broker.credential_for(&permit(), Some(&live), &wanted(&broker, "narrow")).await })
    };
    while place.issuer.exchanges.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    broker.sessions().revoke(&actor(), made.session.id, None).await.unwrap();
    assert_eq!(reason(call.await.unwrap()), Reason::Revoked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p29_what_an_issuer_gave_is_stored_before_a_node_ends() {
    let place = Place::new().await;
    let broker = place.broker(ROUTES).await;
    let handle = refreshing(&broker, "alice", 100).await;
    place.issuer.slow.store(300, Ordering::SeqCst);
    place.pass(100);
    let call = {
        let (broker, handle) = (Arc::clone(&broker), handle.clone());
        tokio::spawn(async move {
            broker.credential_for(&permit(), Some(&handle), &wanted(&broker, "logs")).await.map(drop)
        })
    };
    while place.issuer.used.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    call.abort();
    broker.settled().await;
    // Another node finds it there, and asks nobody.
    let other = place.broker(ROUTES).await;
    let found = other.credential_for(&permit(), Some(&handle), &wanted(&other, "logs")).await.unwrap();
    assert_eq!(said(&found), text(&token("alice", 2, 1100)));
    assert_eq!(place.issuer.refreshes.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn p25_a_session_cannot_be_made_again_of_a_token_that_the_issuer_has_taken_back() {
    let place = Place::new().await;
    let broker = place.broker(ROUTES).await;
    let access = || token("alice", 1, 1000);
    let (made, _) = handle(broker.sessions(), access()).await;
    broker.sessions().revoke(&actor(), made.session.id, None).await.unwrap();
    assert_eq!(place.issuer.forgotten.lock().unwrap()[..], [made.session.person.id()]);
    place.issuer.refused.lock().unwrap().insert(text(&access()));
    assert!(broker.sessions().create(&permit(), sign_in(access())).await.is_err());
}
