//! What the tests of the core share: known answers, keys, and how long a long test is.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "every test takes its part of it"
)]

use std::{fs, path::PathBuf};

use jiff::civil::date;
use keyfold_core::{
    accept::{Accept, Rule},
    clock::UnixTime,
    context::Context,
    envelope::{Format, Reading, fernet::FernetKey},
    keyring::{Entry, KeyMaterial, Keyring, MasterKey, Origin, Purpose, Reader, State, parse_fernet},
    rng::{Fresh, SystemRandom},
    secret::Key32,
};
use serde_json::Value;

/// A moment that every test may call now.
pub const NOW: UnixTime = UnixTime(1_790_000_000);

/// Known answers from `vectors/`.
pub fn vectors(name: &str) -> Value {
    let path = vectors_folder().join(name);
    serde_json::from_str(&fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

pub fn vectors_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../vectors")
}

/// `full`, times `KEYFOLD_TEST_SCALE` (a tenth unless told), at least one.
pub fn scaled(full: usize) -> usize {
    let scale = scale();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "small")]
    let size = (full as f64 * scale).round() as usize;
    size.max(1)
}

/// 1 for the full size.
pub fn scale() -> f64 {
    std::env::var("KEYFOLD_TEST_SCALE").ok().map_or(0.1, |text| text.parse().expect("KEYFOLD_TEST_SCALE is a number"))
}

pub fn text<'a>(case: &'a Value, member: &str) -> &'a str {
    case[member].as_str().unwrap_or_else(|| panic!("{member} in {case}"))
}

pub fn list<'a>(doc: &'a Value, member: &str) -> &'a [Value] {
    let list = doc[member].as_array().unwrap_or_else(|| panic!("{member}"));
    assert!(!list.is_empty(), "{member} has no case");
    list
}

pub fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

pub fn array<const N: usize>(text: &str) -> [u8; N] {
    unhex(text).try_into().unwrap()
}

pub fn hex(bytes: &[u8]) -> String {
    keyfold_core::id::to_hex(bytes)
}

/// A context written as an object of strings.
pub fn context(object: &Value) -> Context {
    let entries = object.as_object().unwrap().iter();
    entries.fold(Context::empty(), |context, (key, value)| context.with(key, value.as_str().unwrap()).unwrap())
}

pub fn master(bytes: [u8; 32]) -> MasterKey {
    MasterKey::new(Key32::new(bytes)).unwrap()
}

pub fn fernet_key(text: &str) -> FernetKey {
    parse_fernet("test", text).unwrap()
}

/// One entry of a keyring.
pub fn entry(purpose: Purpose, bytes: [u8; 32], state: State) -> Entry {
    let suites = Format::ALL.into_iter().filter(|&format| Purpose::of(format) == purpose).collect();
    Entry::new(KeyMaterial::new(purpose, Key32::new(bytes)).unwrap(), state, suites, NOW, Origin::Document)
}

/// A keyring of keys of one kind; the first seals.
pub fn keyring(purpose: Purpose, keys: &[[u8; 32]]) -> Keyring {
    let state = |i| if i == 0 { State::Primary } else { State::Active };
    Keyring::from_entries("test", keys.iter().enumerate().map(|(i, key)| entry(purpose, *key, state(i))).collect())
        .unwrap()
}

/// The three formats and nothing else.
pub fn sealed_only() -> Accept {
    Accept::new(Format::ALL.iter().map(|format| Rule::new(format.as_str(), None).unwrap()).collect()).unwrap()
}

pub fn reader(accept: &Accept, reading: Reading) -> Reader<'_> {
    Reader { accept, today: date(2026, 11, 22), reading, max_age: None }
}

pub fn fresh() -> Fresh<'static> {
    Fresh { random: &SystemRandom, now: NOW }
}
