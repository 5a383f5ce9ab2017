//! The keyring document under a real root key: what is written opens, and nothing else does.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

use keyfold_core::{
    accept::Accept,
    clock::UnixTime,
    envelope::Format,
    error::Code,
    id::KeyId,
    keyring::{
        Entry, KeyMaterial, Keyring, Origin, Purpose, State,
        document::{self, DocumentError},
        edit::EditError,
    },
    rng::SystemRandom,
    secret::Key32,
};
use keyfold_providers::LocalRoot;
use proptest::prelude::*;

fn root(byte: u8) -> LocalRoot {
    LocalRoot::new("test:".into(), &Key32::new([byte; 32])).unwrap()
}

fn entry(byte: u8, purpose: Purpose) -> Entry {
    let suites = match purpose {
        Purpose::Master => vec![Format::Kf1, Format::V1],
        Purpose::Fernet => vec![Format::Fernet],
    };
    let key = KeyMaterial::new(purpose, Key32::new([byte; 32])).unwrap();
    Entry::new(key, State::Staged, suites, UnixTime(100), Origin::Document)
}

fn kid(byte: u8) -> KeyId {
    entry(byte, Purpose::Master).kid()
}

/// Keys 1 (primary), 2 (active), 3 (retired) and a tombstone of 4.
fn keyring() -> Keyring {
    let now = UnixTime(200);
    let mut keyring = Keyring::first("kr", "kf", Key32::new([9; 32]));
    for byte in [1, 2, 3, 4] {
        keyring = keyring.staged(entry(byte, Purpose::Master)).unwrap();
    }
    keyring = keyring.promoted(kid(2), now).unwrap().promoted(kid(1), now).unwrap();
    for byte in [3, 4] {
        keyring = keyring.retired(kid(byte), now).unwrap();
    }
    keyring.destroyed(kid(4), now).unwrap()
}

async fn written(keyring: &Keyring) -> String {
    String::from_utf8(document::seal(&[&root(1)], &SystemRandom, keyring).await.unwrap()).unwrap()
}

fn states(keyring: &Keyring) -> Vec<(KeyId, State)> {
    keyring.entries().iter().map(|entry| (entry.kid(), entry.state())).collect()
}

#[tokio::test]
async fn what_is_written_opens_to_the_same_keyring() {
    let first = keyring().with_floors([("c", &Accept::only(Format::Kf1))], false).unwrap();
    let document = written(&first).await;
    let again = document::open(&root(1), document.as_bytes(), 0).await.unwrap();
    assert_eq!(states(&again), states(&first));
    assert_eq!(again.tombstones(), first.tombstones());
    assert_eq!(again.floor("c"), first.floor("c"));
    assert_eq!(again.generation(), first.generation());
    assert_eq!(again.audit_seed().unwrap().expose(), &[9; 32]);
    assert_eq!(document::claims(document.as_bytes()).unwrap().generation, first.generation());
    for secret in [[1; 32], [2; 32], [3; 32], [9; 32]] {
        assert!(!document.contains(&keyfold_core::keyring::master_to_text(&Key32::new(secret))));
    }
}

#[tokio::test]
async fn p18_an_older_document_put_back_is_refused() {
    let older = written(&keyring()).await;
    let newer = keyring().staged(entry(5, Purpose::Master)).unwrap();
    let error = document::open(&root(1), older.as_bytes(), newer.generation()).await.unwrap_err();
    assert!(matches!(error, DocumentError::Older { found, seen } if found + 1 == seen), "{error}");
    assert_eq!(error.code(), Code::DocumentRefused);
}

#[tokio::test]
async fn every_changed_byte_of_a_document_is_refused() {
    let document = written(&keyring()).await.into_bytes();
    for at in 0..document.len() {
        let mut changed = document.clone();
        changed[at] ^= 1;
        assert!(document::open(&root(1), &changed, 0).await.is_err(), "byte {at}");
    }
    for len in 0..document.len() - 1 {
        assert!(document::open(&root(1), &document[..len], 0).await.is_err(), "cut at {len}");
    }
    assert!(document::open(&root(2), &document, 0).await.is_err(), "another root key");
}

#[tokio::test]
async fn parts_of_two_documents_do_not_make_a_third() {
    let first = written(&keyring()).await;
    let second = written(&keyring().staged(entry(5, Purpose::Master)).unwrap()).await;
    let mixed = format!("{}\n{}\n", first.lines().next().unwrap(), second.lines().nth(1).unwrap());
    let error = document::open(&root(1), mixed.as_bytes(), 0).await.unwrap_err();
    assert!(matches!(error, DocumentError::Authentication), "{error}");
}

#[tokio::test]
async fn p18_a_tombstone_wins_over_a_key_that_the_environment_brings_back() {
    let document = written(&keyring()).await;
    let loaded = document::open(&root(1), document.as_bytes(), 0).await.unwrap();
    let back = Entry::new(
        KeyMaterial::new(Purpose::Master, Key32::new([4; 32])).unwrap(),
        State::Primary,
        vec![Format::Kf1, Format::V1],
        UnixTime(0),
        Origin::Environment("REDIS_SRE_MASTER_KEY".into()),
    );
    let (keyring, buried) = loaded.with_environment(vec![back]);
    assert_eq!(buried, [kid(4)]);
    assert!(keyring.entry(kid(4)).is_none());
    assert_eq!(keyring.master(kid(4)).err().unwrap().code(), Code::KeyDestroyed);
}

#[test]
fn each_step_of_a_keys_life_leads_from_the_states_it_names() {
    let keyring = keyring();
    let now = UnixTime(300);
    assert!(matches!(keyring.retired(kid(1), now), Err(EditError::State { state: State::Primary, .. })));
    assert!(matches!(keyring.promoted(kid(3), now), Err(EditError::State { state: State::Retired, .. })));
    assert!(matches!(keyring.destroyed(kid(2), now), Err(EditError::State { state: State::Active, .. })));
    assert!(matches!(keyring.activated(kid(2), now), Err(EditError::State { .. })));
    assert!(matches!(keyring.staged(entry(4, Purpose::Master)), Err(EditError::Destroyed(_))));
    assert!(matches!(keyring.staged(entry(1, Purpose::Master)), Err(EditError::Present(_))));
    assert!(matches!(keyring.promoted(kid(7), now), Err(EditError::Unknown(_))));
    let again = keyring.activated(kid(3), now).unwrap();
    assert_eq!(again.entry(kid(3)).unwrap().state(), State::Active);
    assert_eq!(again.entry(kid(3)).unwrap().since(), now);
    assert_eq!(again.generation(), keyring.generation() + 1);
}

#[test]
fn promoting_never_leaves_a_format_without_a_key_that_seals_it() {
    let keyring = keyring();
    let narrow = Entry::new(
        KeyMaterial::new(Purpose::Master, Key32::new([6; 32])).unwrap(),
        State::Staged,
        vec![Format::Kf1],
        UnixTime(0),
        Origin::Document,
    );
    let staged = keyring.staged(narrow).unwrap();
    let error = staged.promoted(kid(6), UnixTime(0)).unwrap_err();
    assert!(matches!(error, EditError::Suites { format: Format::V1, .. }), "{error}");
    let fernet = keyring.staged(entry(7, Purpose::Fernet)).unwrap();
    let fernet = fernet.promoted(entry(7, Purpose::Fernet).kid(), UnixTime(0)).unwrap();
    assert_eq!(fernet.primary(Format::Kf1).unwrap().kid(), kid(1));
    assert!(fernet.primary(Format::Fernet).is_some());
}

#[test]
fn a_floor_tightens_and_loosens_only_when_it_is_meant() {
    let wide = Accept::any_sealed();
    let narrow = Accept::only(Format::Kf1);
    let keyring = keyring().with_floors([("c", &wide)], false).unwrap();
    let tight = keyring.with_floors([("c", &narrow)], false).unwrap();
    assert!(matches!(tight.with_floors([("c", &wide)], false), Err(EditError::Loosens { .. })));
    assert_eq!(tight.with_floors([("c", &wide)], true).unwrap().floor("c"), Some(&wide));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn p11_no_bytes_make_the_document_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), text in "\\PC{0,300}") {
        let _ = document::claims(&bytes);
        let _ = document::claims(format!("{text}\n{text}").as_bytes());
        let _ = document::claims(format!("{{\"format\":{text}\n{{\"mac\":\"{text}\"}}").as_bytes());
    }
}
