//! Every bit, every end and every context entry of a sealed value of each format counts.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use base64_simd::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use common::{fresh, keyring, reader, sealed_only};
use keyfold_core::{
    accept::Accept,
    context::{Context, ContextDigest},
    envelope::{Format, Reading, kf1},
    keyring::{Keyring, Purpose},
};
use serde_json::Value;

const SECRET: &[u8] = b"redis://u:p@h:6379/10";
const ENTRIES: [(&str, &str); 5] = [
    ("deployment", "d-1"),
    ("collection", "c-7"),
    ("record", "inst-1"),
    ("field", "/admin_password"),
    ("tenant", "acme"),
];

/// A sealed value, everything that opens it, and a reader that takes all three formats and no plaintext.
struct Scene {
    ring: Keyring,
    here: ContextDigest,
    accept: Accept,
    stored: String,
}

fn made_of<'a>(entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> Context {
    entries.into_iter().fold(Context::empty(), |context, (key, value)| context.with(key, value).unwrap())
}

impl Scene {
    fn new(format: Format) -> Self {
        let ring = keyring(Purpose::of(format), &[[7; 32], [8; 32]]);
        let here = made_of(ENTRIES).digest();
        let stored = ring.seal(format, &here, SECRET, fresh()).unwrap().text;
        let scene = Self { ring, here, accept: sealed_only(), stored };
        assert_eq!(scene.code(&scene.stored), "opens");
        scene
    }

    fn code(&self, stored: &str) -> &'static str {
        self.code_at(stored, &self.here)
    }

    fn code_at(&self, stored: &str, context: &ContextDigest) -> &'static str {
        match self.ring.open(stored, context, &reader(&self.accept, Reading::Strict)) {
            Ok(opened) => {
                assert_eq!(opened.secret.expose(), SECRET);
                "opens"
            }
            Err(error) => error.code().as_str(),
        }
    }

    /// Each text that differs from the stored one in one bit, where that still is text.
    fn flipped_texts(&self) -> impl Iterator<Item = String> {
        let flips = (0..self.stored.len() * 8).map(|bit| {
            let mut bytes = self.stored.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            String::from_utf8(bytes).ok()
        });
        flips.flatten()
    }
}

fn first_difference(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).position(|(a, b)| a != b).unwrap_or(one.len().min(other.len()))
}

/// The code that belongs to a kf1 envelope whose byte `at` was changed.
fn kf1_code(at: usize) -> &'static str {
    match at {
        0 => "malformed",
        1 => "unsupported_format",
        2 | 3 => "unsupported_suite",
        36..44 => "unknown_key",
        _ => "context_mismatch_or_tampered",
    }
}

#[test]
fn every_bit_of_a_kf1_envelope_counts_in_bytes_and_in_text() {
    let scene = Scene::new(Format::Kf1);
    let envelope = kf1::Envelope::from_text(&scene.stored).unwrap();
    for bit in 0..envelope.as_bytes().len() * 8 {
        let mut bytes = envelope.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let opened = kf1::Envelope::from_bytes(bytes)
            .and_then(|changed| kf1::open(scene.ring.master(changed.kid())?, &changed, &scene.here));
        assert_eq!(opened.err().unwrap().code().as_str(), kf1_code(bit / 8), "bit {bit}");
    }
    for text in scene.flipped_texts() {
        let Some(encoded) = text.strip_prefix("kf1.") else {
            // A prefix in capitals is an envelope in disguise, another number another version; a letter off is nothing.
            let code = scene.code(&text);
            assert!(["malformed", "unsupported_format", "not_encrypted"].contains(&code), "{text}: {code}");
            continue;
        };
        let expected = match URL_SAFE_NO_PAD.decode_to_vec(encoded) {
            Ok(bytes) if URL_SAFE_NO_PAD.encode_to_string(&bytes) == encoded => {
                kf1_code(first_difference(&bytes, envelope.as_bytes()))
            }
            _ => "malformed",
        };
        assert_eq!(scene.code(&text), expected, "{text}");
    }
}

#[test]
fn every_beginning_of_a_kf1_envelope_is_refused() {
    let scene = Scene::new(Format::Kf1);
    let bytes = kf1::Envelope::from_text(&scene.stored).unwrap().as_bytes().to_vec();
    let code = |bytes: &[u8]| {
        let opened = kf1::Envelope::from_bytes(bytes.to_vec())
            .and_then(|cut| kf1::open(scene.ring.master(cut.kid())?, &cut, &scene.here));
        opened.err().unwrap().code().as_str()
    };
    for end in 0..bytes.len() {
        let expected = if end < kf1::OVERHEAD { "malformed" } else { "context_mismatch_or_tampered" };
        assert_eq!(code(&bytes[..end]), expected, "{end} bytes");
    }
    assert_eq!(code(&[&bytes[..], b"\0"].concat()), "context_mismatch_or_tampered");
    for end in 0..scene.stored.len() {
        let expected = match URL_SAFE_NO_PAD.decode_to_vec(&scene.stored.as_bytes()[end.min(4)..end]) {
            _ if end < 4 => "not_encrypted",
            Ok(cut) if cut.len() >= kf1::OVERHEAD && URL_SAFE_NO_PAD.encode_to_string(&cut) == scene.stored[4..end] => {
                "context_mismatch_or_tampered"
            }
            _ => "malformed",
        };
        assert_eq!(scene.code(&scene.stored[..end]), expected, "{end} characters");
    }
}

#[test]
fn every_entry_of_the_context_of_a_kf1_envelope_counts() {
    let scene = Scene::new(Format::Kf1);
    let mut elsewhere = vec![Context::empty(), made_of(ENTRIES).with("user_sub", "1").unwrap()];
    for (at, (key, value)) in ENTRIES.into_iter().enumerate() {
        let others = || ENTRIES.into_iter().enumerate().filter(move |(i, _)| *i != at).map(|(_, entry)| entry);
        elsewhere.push(made_of(others()));
        elsewhere.push(made_of(others().chain([("renamed", value)])));
        elsewhere.push(made_of(others().chain([(key, "")])));
        let longer = format!("{value} ");
        elsewhere.push(made_of(others().chain([(key, longer.as_str())])));
        for bit in 0..value.len() * 8 {
            let mut changed = value.as_bytes().to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            elsewhere.push(made_of(others()).with(key, changed).unwrap());
        }
    }
    for context in elsewhere {
        assert_eq!(scene.code_at(&scene.stored, &context.digest()), "context_mismatch_or_tampered", "{context:?}");
    }
}

#[test]
fn v1_and_fernet_cannot_see_the_context_and_open_anywhere() {
    for format in [Format::V1, Format::Fernet] {
        let scene = Scene::new(format);
        for elsewhere in [Context::empty(), made_of([("record", "another")])] {
            assert_eq!(scene.code_at(&scene.stored, &elsewhere.digest()), "opens", "{format}");
        }
    }
}

/// What a strict reader says of the JSON of a v1 envelope that differs from a good one in a byte, or in two neighbours.
fn v1_code(json: &[u8], good: &[u8]) -> &'static str {
    let value_of = |member: &str| {
        let start = String::from_utf8_lossy(good).find(&format!("\"{member}\": \"")).unwrap() + member.len() + 5;
        start..start + good[start..].iter().position(|&b| b == b'"').unwrap()
    };
    let differ: Vec<usize> = (0..good.len()).filter(|&at| json.get(at) != Some(&good[at])).collect();
    let within = |value: &std::ops::Range<usize>| differ.iter().all(|at| value.contains(at));
    if json.len() != good.len() {
        return "malformed";
    }
    if within(&value_of("version")) {
        // A letter that JSON does not allow in a string leaves no JSON to have a version.
        return if serde_json::from_slice::<Value>(json).is_ok() { "unsupported_format" } else { "malformed" };
    }
    for member in ["ciphertext", "nonce", "wrapped_dek", "dek_nonce"] {
        let value = value_of(member);
        if within(&value) {
            let length = |text: &[u8]| STANDARD.decode_to_vec(text).ok().map(|bytes| bytes.len());
            let text = &json[value.clone()];
            let canonical = STANDARD.decode_to_vec(text).is_ok_and(|b| STANDARD.encode_to_string(b).as_bytes() == text);
            // A last letter that became padding takes a byte away; the ciphertext alone may have any length.
            let fits = length(text) == length(&good[value]) || member == "ciphertext";
            return if canonical && fits { "wrong_key_or_tampered" } else { "malformed" };
        }
    }
    "malformed"
}

#[test]
fn every_bit_of_a_v1_envelope_counts_in_the_json_and_in_the_text() {
    let scene = Scene::new(Format::V1);
    let good = STANDARD.decode_to_vec(&scene.stored).unwrap();
    let check = |text: &str, expected: &str| match (scene.code(text), expected) {
        // Where the first letters went, nothing says any more that this was an envelope; it is refused all the same.
        ("not_encrypted", "malformed") => assert!(detected_as_plaintext(text)),
        (code, expected) => assert_eq!(code, expected, "{text}"),
    };
    for bit in 0..good.len() * 8 {
        let mut json = good.clone();
        json[bit / 8] ^= 1 << (bit % 8);
        check(&STANDARD.encode_to_string(&json), v1_code(&json, &good));
    }
    for text in scene.flipped_texts() {
        let expected = match STANDARD.decode_to_vec(&text) {
            Ok(json) if STANDARD.encode_to_string(&json) == text => v1_code(&json, &good),
            _ => "malformed",
        };
        check(&text, expected);
    }
}

fn detected_as_plaintext(text: &str) -> bool {
    keyfold_core::detect::detect(text) == keyfold_core::detect::Detected::Plaintext
}

#[test]
fn every_beginning_of_a_v1_envelope_is_refused() {
    let scene = Scene::new(Format::V1);
    for end in 0..scene.stored.len() {
        let expected = if end < 24 { "not_encrypted" } else { "malformed" };
        assert_eq!(scene.code(&scene.stored[..end]), expected, "{end} characters");
    }
    let json = STANDARD.decode_to_vec(&scene.stored).unwrap();
    for end in 18..json.len() {
        assert_eq!(scene.code(&STANDARD.encode_to_string(&json[..end])), "malformed", "{end} bytes of JSON");
    }
}

#[test]
fn every_bit_of_a_fernet_token_counts() {
    let scene = Scene::new(Format::Fernet);
    let good = URL_SAFE.decode_to_vec(&scene.stored).unwrap();
    for text in scene.flipped_texts() {
        let expected = match URL_SAFE.decode_to_vec(&text) {
            // The version byte and a timestamp of this century are what a token is known by.
            _ if !text.starts_with("gAAAAA") => "not_encrypted",
            // A changed padding character is a byte more.
            Ok(bytes) if URL_SAFE.encode_to_string(&bytes) == text && bytes.len() == good.len() => {
                "wrong_key_or_tampered"
            }
            _ => "malformed",
        };
        assert_eq!(scene.code(&text), expected, "{text}");
    }
}

#[test]
fn every_beginning_of_a_fernet_token_is_refused() {
    let scene = Scene::new(Format::Fernet);
    for end in 0..scene.stored.len() {
        let expected = match URL_SAFE.decode_to_vec(&scene.stored.as_bytes()[..end]) {
            _ if end < 6 => "not_encrypted",
            Ok(cut) if cut.len() >= 73 && (cut.len() - 57).is_multiple_of(16) => "wrong_key_or_tampered",
            _ => "malformed",
        };
        assert_eq!(scene.code(&scene.stored[..end]), expected, "{end} characters");
    }
}
