//! redis-sre-agent's envelope against what Python's `cryptography` and `json.dumps` make of the same keys and nonces.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{array, list, master, text};
use keyfold_core::{
    context::Context,
    dek::Dek,
    detect::detect,
    envelope::{
        Reading,
        redis_sre_v1::{Envelope, seal_with},
    },
    error::Code,
    keyring::Purpose,
};
use serde_json::Value;

/// Reads a case's envelope with a keyring of the case's keys, without looking what kind of value it is.
fn read(case: &Value, reading: Reading, secret: &str) -> &'static str {
    let envelope = match Envelope::parse(text(case, "envelope"), reading) {
        Ok(envelope) => envelope,
        Err(error) => return error.code().as_str(),
    };
    for key in list(case, "keys") {
        if let Some(opened) = envelope.open(&master(array(key.as_str().unwrap()))) {
            assert_eq!(opened.expose(), secret.as_bytes());
            return "opens";
        }
    }
    "wrong_key_or_tampered"
}

#[test]
fn the_writer_lays_out_what_json_dumps_lays_out_for_the_same_key_and_nonces() {
    let known = common::vectors("v1.json");
    let key = master(array(text(&known, "key")));
    for case in list(&known, "seals") {
        let (name, secret) = (text(case, "name"), text(case, "plaintext").as_bytes());
        let dek = Dek::new(array(text(case, "dek")));
        let sealed = seal_with(&key, secret, &dek, array(text(case, "nonce")), array(text(case, "dek_nonce"))).unwrap();
        assert_eq!(sealed, text(case, "envelope"), "{name}");
        for reading in [Reading::Strict, Reading::Compat] {
            let envelope = Envelope::parse(&sealed, reading).unwrap();
            assert_eq!(envelope.secret_len(), secret.len(), "{name}");
            assert_eq!(envelope.open(&key).unwrap().expose(), secret, "{name}");
            assert_eq!(envelope.to_text(), sealed, "{name}");
        }
    }
}

#[test]
fn the_models_envelope_is_ours() {
    let known = common::vectors("kf1-vectors.json");
    let (m1, random) = (master(array(text(&known, "m1"))), Dek::new(array(text(&known, "random"))));
    let (nonce, dek_nonce) = (array("000102030405060708090a0b"), array("0c0d0e0f1011121314151617"));
    let sealed = seal_with(&m1, text(&known, "plaintext").as_bytes(), &random, nonce, dek_nonce).unwrap();
    assert_eq!(sealed, text(&known, "v1"));
}

#[test]
fn a_strict_reader_takes_what_the_writer_writes_and_refuses_the_rest_with_its_code() {
    let known = common::vectors("v1.json");
    for case in list(&known, "refused") {
        assert_eq!(read(case, Reading::Strict, text(&known, "secret")), text(case, "strict"), "{}", text(case, "name"));
    }
}

#[test]
fn a_lenient_reader_takes_what_the_original_takes() {
    let known = common::vectors("v1.json");
    for case in list(&known, "refused") {
        assert_eq!(read(case, Reading::Compat, text(&known, "secret")), text(case, "compat"), "{}", text(case, "name"));
    }
}

#[test]
fn no_case_is_taken_for_plaintext_by_a_reader_that_looks_what_the_value_is() {
    let known = common::vectors("v1.json");
    let accept = common::sealed_only();
    for case in list(&known, "refused") {
        let (name, value) = (text(case, "name"), text(case, "envelope"));
        assert_eq!(detect(value).as_str(), text(case, "detected"), "{name}");
        let keys: Vec<[u8; 32]> = list(case, "keys").iter().map(|key| array(key.as_str().unwrap())).collect();
        let ring = common::keyring(Purpose::Master, &keys);
        for (reading, expected) in [(Reading::Strict, "strict"), (Reading::Compat, "compat")] {
            // What shows nothing of an envelope any more is plaintext, and refused as such.
            let code = match text(case, "detected") {
                "plaintext" => "not_encrypted",
                "malformed_v1" => "malformed",
                _ => text(case, expected),
            };
            match ring.open(value, &Context::empty().digest(), &common::reader(&accept, reading)) {
                Ok(opened) => {
                    assert_eq!(code, "opens", "{name}");
                    assert_eq!(opened.secret.expose(), text(&known, "secret").as_bytes(), "{name}");
                }
                Err(error) => assert_eq!(error.code().as_str(), code, "{name}"),
            }
        }
    }
}

#[test]
fn only_text_of_at_most_one_mebibyte_is_sealed() {
    let key = master([7; 32]);
    let seal = |secret: &[u8]| seal_with(&key, secret, &Dek::new([1; 32]), [2; 12], [3; 12]);
    let longest = vec![b'x'; keyfold_core::secret::MAX_SECRET];
    let sealed = seal(&longest).unwrap();
    let envelope = Envelope::parse(&sealed, Reading::Strict).unwrap();
    assert_eq!(envelope.open(&key).unwrap().expose(), longest);
    assert_eq!(seal(&[&longest[..], b"x"].concat()).unwrap_err().code(), Code::TooLarge);
    for not_text in [&b"\xff"[..], b"abc\xc3", b"\xed\xa0\x80"] {
        assert_eq!(seal(not_text).unwrap_err().code(), Code::Malformed);
    }
    for reading in [Reading::Strict, Reading::Compat] {
        assert_eq!(Envelope::parse(&"A".repeat(3 << 20), reading).err().unwrap().code(), Code::TooLarge);
    }
}
