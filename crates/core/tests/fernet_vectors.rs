//! Fernet against its specification's vectors and against Python's `cryptography`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{array, fernet_key, list, text};
use jiff::Timestamp;
use keyfold_core::{
    clock::UnixTime,
    context::Context,
    envelope::{
        OpenError, Reading,
        fernet::{FernetKey, MaxAge, Token, seal_with},
    },
    error::Code,
    keyring::{Purpose, parse_fernet},
};
use serde_json::Value;

fn open(token: &str, keys: &[FernetKey], reading: Reading, age: Option<MaxAge>) -> Result<Vec<u8>, OpenError> {
    let token = Token::parse(token, reading)?;
    for key in keys {
        if let Some(secret) = token.open(key, age)? {
            return Ok(secret.expose().to_vec());
        }
    }
    Err(OpenError::WrongKeyOrTampered { format: keyfold_core::envelope::Format::Fernet, tried: Vec::new() })
}

fn code(result: Result<impl Sized, OpenError>) -> &'static str {
    result.map_or_else(|error| error.code().as_str(), |_| "opens")
}

fn seconds(rfc3339: &str) -> UnixTime {
    UnixTime(rfc3339.parse::<Timestamp>().unwrap().as_second().try_into().unwrap())
}

fn published(name: &str) -> Vec<Value> {
    common::vectors(&format!("fernet-spec/{name}.json")).as_array().unwrap().clone()
}

fn age(case: &Value) -> Option<MaxAge> {
    Some(MaxAge { ttl: case["ttl_sec"].as_u64().unwrap(), now: seconds(text(case, "now")) })
}

#[test]
fn the_published_generate_vectors_come_out_byte_for_byte() {
    for case in published("generate") {
        let iv: Vec<u8> = list(&case, "iv").iter().map(|b| b.as_u64().unwrap().try_into().unwrap()).collect();
        let (key, now) = (fernet_key(text(&case, "secret")), seconds(text(&case, "now")));
        let token = seal_with(&key, text(&case, "src").as_bytes(), now, iv.try_into().unwrap()).unwrap();
        assert_eq!(token, text(&case, "token"));
    }
}

#[test]
fn the_published_verify_vectors_open() {
    for case in published("verify") {
        let opened = open(text(&case, "token"), &[fernet_key(text(&case, "secret"))], Reading::Strict, age(&case));
        assert_eq!(opened.unwrap(), text(&case, "src").as_bytes());
    }
}

#[test]
fn the_published_invalid_vectors_are_refused_each_with_its_code() {
    let cases = published("invalid");
    assert_eq!(cases.len(), 8);
    for case in cases {
        let expected = match text(&case, "desc") {
            "incorrect mac" | "payload padding error" | "incorrect IV (causes padding error)" => {
                "wrong_key_or_tampered"
            }
            "too short" | "invalid base64" | "payload size not multiple of block size" => "malformed",
            "far-future TS (unacceptable clock skew)" | "expired TTL" => "expired",
            other => panic!("a vector without an expectation: {other}"),
        };
        let opened = open(text(&case, "token"), &[fernet_key(text(&case, "secret"))], Reading::Strict, age(&case));
        assert_eq!(code(opened), expected, "{}", text(&case, "desc"));
    }
}

#[test]
fn every_size_and_text_seals_to_the_librarys_token() {
    let known = common::vectors("fernet.json");
    let key = fernet_key(text(&known, "key"));
    for case in list(&known, "seals") {
        let (name, secret) = (text(case, "name"), text(case, "plaintext").as_bytes());
        let now = UnixTime(case["timestamp"].as_u64().unwrap());
        assert_eq!(seal_with(&key, secret, now, array(text(case, "iv"))).unwrap(), text(case, "token"), "{name}");
        for reading in [Reading::Strict, Reading::Compat] {
            let token = Token::parse(text(case, "token"), reading).unwrap();
            assert_eq!(token.timestamp(), now, "{name}");
            assert_eq!(token.open(&key, None).unwrap().unwrap().expose(), secret, "{name}");
        }
    }
}

#[test]
fn a_token_expires_in_the_second_in_which_the_library_lets_it_expire() {
    let known = common::vectors("fernet.json");
    let keys = [fernet_key(text(&known, "key"))];
    for case in list(&known, "ages") {
        let now = UnixTime(case["now"].as_u64().unwrap());
        let age = case["ttl"].as_u64().map(|ttl| MaxAge { ttl, now });
        let opened = open(text(case, "token"), &keys, Reading::Strict, age);
        assert_eq!(code(opened), text(case, "code"), "{}", text(case, "name"));
    }
}

#[test]
fn every_negative_case_is_refused_with_its_code_by_both_readers() {
    let known = common::vectors("fernet.json");
    for case in list(&known, "refused") {
        let keys: Vec<_> = list(case, "keys").iter().map(|key| fernet_key(key.as_str().unwrap())).collect();
        for (reading, expected) in [(Reading::Strict, "strict"), (Reading::Compat, "compat")] {
            let opened = open(text(case, "token"), &keys, reading, None);
            assert_eq!(code(opened), text(case, expected), "{} ({expected})", text(case, "name"));
        }
    }
}

#[test]
fn a_keyring_tries_its_keys_like_multifernet_and_names_those_it_tried() {
    let known = common::vectors("fernet.json");
    let accept = common::sealed_only();
    let reader = common::reader(&accept, Reading::Strict);
    for case in list(&known, "rotations") {
        let keys: Vec<[u8; 32]> =
            list(case, "keys").iter().map(|key| *fernet_key(key.as_str().unwrap()).raw().expose()).collect();
        let ring = common::keyring(Purpose::Fernet, &keys);
        let opened = ring.open(text(case, "token"), &Context::empty().digest(), &reader).unwrap();
        assert_eq!(opened.secret.expose(), b"hunter2");
        let stranger = common::keyring(Purpose::Fernet, &[[1; 32], [2; 32]]);
        let Err(error) = stranger.open(text(case, "token"), &Context::empty().digest(), &reader) else { panic!() };
        assert_eq!(error.code(), Code::WrongKeyOrTampered);
        for entry in stranger.entries() {
            assert!(error.to_string().contains(&entry.kid().to_string()), "{error}");
        }
    }
}

#[test]
fn a_key_that_is_not_32_bytes_of_canonical_base64url_is_refused_with_its_length() {
    let known = common::vectors("fernet.json");
    for case in list(&known, "key_refused") {
        let (name, key) = (text(case, "name"), text(case, "key"));
        let error = parse_fernet("SRE_AGENT_ENCRYPTION_KEY", key).err().unwrap_or_else(|| panic!("{name}"));
        assert_eq!(error.code(), Code::KeyInvalid, "{name}");
        let length = case["length"].as_u64().filter(|&length| length > 0);
        if let Some(length) = length {
            assert!(error.to_string().contains(&length.to_string()), "{name}: {error}");
        }
        assert!(key.is_empty() || !error.to_string().contains(key), "{name}: the message holds the key");
    }
}
