//! kf1 against the answers of its executable model.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{array, context, hex, list, master, text, unhex};
use keyfold_core::{
    context::Context,
    envelope::{
        OpenError, Reading,
        kf1::{self, Envelope},
    },
    error::Code,
    keyring::{MasterKey, Purpose},
};
use serde_json::Value;

fn open(case: &Value, key: [u8; 32]) -> Result<Vec<u8>, OpenError> {
    let ring = common::keyring(Purpose::Master, &[key]);
    let envelope = Envelope::from_bytes(unhex(text(case, "envelope")))?;
    let secret = kf1::open(ring.master(envelope.kid())?, &envelope, &context(&case["context"]).digest())?;
    Ok(secret.expose().to_vec())
}

fn code(result: Result<impl Sized, OpenError>) -> &'static str {
    result.map_or_else(|error| error.code().as_str(), |_| "opens")
}

fn keys(vectors: &Value) -> (MasterKey, MasterKey) {
    (master(array(text(vectors, "m1"))), master(array(text(vectors, "m2"))))
}

#[test]
fn the_reference_envelope_comes_out_byte_for_byte() {
    let known = common::vectors("kf1-vectors.json");
    let (m1, m2) = keys(&known);
    assert_eq!(m1.kid().to_string(), text(&known, "kid1"));
    assert_eq!(m2.kid().to_string(), text(&known, "kid2"));
    let (random, secret) = (array(text(&known, "random")), text(&known, "plaintext").as_bytes());
    let here = context(&known["context"]).digest();
    assert_eq!(hex(here.as_bytes()), text(&known, "context_digest"));
    let sealed = kf1::seal_with(&m1, &random, &here, secret).unwrap();
    assert_eq!(hex(sealed.as_bytes()), text(&known, "envelope"));
    assert_eq!(sealed.to_text(), text(&known, "text"));
    assert_eq!(sealed.commitment().to_string(), text(&known, "commitment"));
    let moved = kf1::rewrap(&m1, &m2, &sealed, &here).unwrap();
    assert_eq!(hex(moved.as_bytes()), text(&known, "rewrapped_to_m2"));
    let empty = kf1::seal_with(&m1, &random, &here, b"").unwrap();
    assert_eq!(hex(empty.as_bytes()), text(&known, "empty_plaintext"));
    let nowhere = kf1::seal_with(&m1, &random, &Context::empty().digest(), secret).unwrap();
    assert_eq!(hex(nowhere.as_bytes()), text(&known, "no_context"));
}

#[test]
fn contexts_with_empty_binary_and_non_ascii_entries_have_the_models_digest() {
    let known = common::vectors("kf1-vectors.json");
    assert_eq!(hex(Context::empty().digest().as_bytes()), text(&known, "empty_context_digest"));
    let odd = known["odd_context"].as_object().unwrap().iter();
    let odd = odd.fold(Context::empty(), |c, (key, value)| c.with(key, unhex(value.as_str().unwrap())).unwrap());
    assert_eq!(hex(odd.digest().as_bytes()), text(&known, "odd_context_digest"));
}

#[test]
fn every_size_and_context_seals_opens_and_rewraps_as_in_the_model() {
    let known = common::vectors("kf1.json");
    let (m1, m2) = keys(&known);
    for case in list(&known, "seals") {
        let name = text(case, "name");
        let (here, secret) = (context(&case["context"]).digest(), text(case, "plaintext").as_bytes());
        assert_eq!(hex(here.as_bytes()), text(case, "context_digest"), "{name}");
        let sealed = kf1::seal_with(&m1, &array(text(case, "random")), &here, secret).unwrap();
        assert_eq!(sealed.to_text(), text(case, "text"), "{name}");
        assert_eq!(sealed.commitment().to_string(), text(case, "commitment"), "{name}");
        assert_eq!(sealed.secret_len(), secret.len(), "{name}");
        let read = Envelope::from_text(text(case, "text")).unwrap();
        assert_eq!(kf1::open(&m1, &read, &here).unwrap().expose(), secret, "{name}");
        let moved = kf1::rewrap(&m1, &m2, &read, &here).unwrap();
        assert_eq!(moved.to_text(), text(case, "rewrapped"), "{name}");
        assert_eq!(moved.commitment(), sealed.commitment(), "{name}");
        assert_eq!(kf1::open(&m2, &moved, &here).unwrap().expose(), secret, "{name}");
    }
}

#[test]
fn every_negative_case_is_refused_with_its_code() {
    let known = common::vectors("kf1.json");
    for case in list(&known, "refused") {
        let key = array(case["keys"][0].as_str().unwrap());
        assert_eq!(code(open(case, key)), text(case, "code"), "{}", text(case, "name"));
    }
}

#[test]
fn a_text_that_is_not_canonical_is_refused_with_its_code() {
    let known = common::vectors("kf1.json");
    let ring = common::keyring(Purpose::Master, &[array(text(&known, "m1"))]);
    let accept = common::sealed_only();
    for case in list(&known, "text_refused") {
        let (name, value) = (text(case, "name"), text(case, "text"));
        assert_eq!(code(Envelope::from_text(value)), text(case, "code"), "{name}");
        for reading in [Reading::Strict, Reading::Compat] {
            let stored = ring.open(value, &Context::empty().digest(), &common::reader(&accept, reading));
            assert_eq!(code(stored), text(case, "stored"), "{name}");
        }
    }
}

#[test]
fn the_binding_beside_a_fernet_token_is_the_models() {
    let known = common::vectors("kf1-vectors.json");
    let (m1, _) = keys(&known);
    let here = context(&known["context"]).digest();
    assert_eq!(hex(&kf1::fernet_binding(&m1, &here, "gAAAAAexample")), text(&known, "fernet_binding"));
    let more = common::vectors("kf1.json");
    let (m1, _) = keys(&more);
    for case in list(&more, "fernet_bindings") {
        let binding = kf1::fernet_binding(&m1, &context(&case["context"]).digest(), text(case, "token"));
        assert_eq!(hex(&binding), text(case, "binding"));
    }
}

#[test]
fn a_secret_of_one_mebibyte_is_the_longest() {
    let key = master([7; 32]);
    let here = Context::empty().digest();
    let longest = vec![b'x'; keyfold_core::secret::MAX_SECRET];
    let sealed = kf1::seal_with(&key, &[1; 32], &here, &longest).unwrap();
    let read = Envelope::from_text(&sealed.to_text()).unwrap();
    assert_eq!(kf1::open(&key, &read, &here).unwrap().expose(), longest);
    let over = [&longest[..], b"x"].concat();
    assert_eq!(kf1::seal_with(&key, &[1; 32], &here, &over).err().unwrap().code(), Code::TooLarge);
    let mut bytes = sealed.as_bytes().to_vec();
    bytes.push(0);
    assert_eq!(Envelope::from_bytes(bytes).err().unwrap().code(), Code::TooLarge);
    let text = format!("kf1.{}", "A".repeat(3 << 20));
    assert_eq!(Envelope::from_text(&text).err().unwrap().code(), Code::TooLarge);
}
