//! Documents of our own: bytes under a name, of more than Firestore puts into one document.
//!
//! A name is spelled as `k` and its bytes in hex, so that Firestore takes every name and has them in the order of their bytes. A
//! document has the fields `key` (the name, for people), `v` (the bytes) and, where there is an end, `ends` (milliseconds) or
//! `gone`. What is longer than [`WHOLE`] lies in documents below it, `parts/NONCE-0` and so on, written in the same commit.
//! The time of its last write, which Firestore lets only grow, is its version.

use std::{fmt::Write as _, time::Duration};

use base64_simd::STANDARD;
use jiff::Timestamp;
use keyfold_core::{
    id::to_hex,
    rng::{self, SystemRandom},
};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::{
    client::{Change, Client, Document, Expected},
    error,
    value::{Fields, Value},
};
use crate::store::StoreError;

/// The most bytes in one document; Firestore takes 1 MiB with names and all.
pub(super) const WHOLE: usize = 900 << 10;

/// The most bytes under one name: a commit takes 10 MiB, and base64 makes four of three.
pub(super) const MOST: usize = 6 << 20;

/// The fields of a document without its bytes.
pub(super) const HEAD: &[&str] = &["key", "nonce", "parts", "gone", "ends"];

/// How often a write is tried again that somebody else was in the way of.
pub(super) const TRIES: u32 = 30;

/// A document of our own as it was found, alive or not.
pub(super) struct Held {
    /// The bytes, or none where they lie in parts.
    bytes: Vec<u8>,
    parts: usize,
    nonce: String,
    pub(super) key: String,
    pub(super) gone: bool,
    /// When it ends, in milliseconds.
    pub(super) ends: Option<i64>,
    pub(super) version: u64,
    pub(super) updated: String,
}

/// A name as the last part of a path.
pub(super) fn spell(name: &str) -> String {
    let mut out = String::with_capacity(1 + 2 * name.len());
    out.push('k');
    for byte in name.bytes() {
        // Writing to a string does not fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// Microseconds of a time as Firestore writes it.
pub(super) fn micros(client: &Client, time: &str) -> Result<u64, StoreError> {
    let parsed: Timestamp = time.parse().map_err(|_| error::not_understood(&client.name))?;
    u64::try_from(parsed.as_microsecond()).map_err(|_| error::not_understood(&client.name))
}

/// A number that no other write has.
pub(super) fn nonce() -> Result<String, StoreError> {
    let random: [u8; 8] = rng::array(&SystemRandom).map_err(|e| StoreError::invalid(format!("no randomness: {e}")))?;
    Ok(to_hex(&random))
}

/// A moment before the next try, longer each time and never the same for two.
pub(super) async fn pause(attempt: u32) {
    let random = rng::array::<1>(&SystemRandom).map_or(0, |[byte]| u64::from(byte));
    tokio::time::sleep(Duration::from_millis(random / 8 + u64::from(attempt.min(10)) * random / 16)).await;
}

/// Somebody was always in the way.
pub(super) fn contended(client: &Client) -> StoreError {
    StoreError::Unavailable {
        store: client.name.clone(),
        what: "others wrote the same document all the time".into(),
        retry: true,
        source: None,
    }
}

fn other(kind: &str, json: String) -> Result<Value, StoreError> {
    let raw = RawValue::from_string(json).map_err(|_| StoreError::invalid("a value cannot be written as JSON"))?;
    Ok(Value::Other(kind.into(), raw))
}

pub(super) fn bytes_value(bytes: &[u8]) -> Result<Value, StoreError> {
    other("bytesValue", format!("\"{}\"", STANDARD.encode_to_string(bytes)))
}

pub(super) fn text_value(text: &str) -> Value {
    Value::Text(Zeroizing::new(text.to_owned()))
}

pub(super) fn integer(number: i64) -> Result<Value, StoreError> {
    other("integerValue", format!("\"{number}\""))
}

/// What is stored under a name.
pub(super) struct New<'a> {
    pub(super) key: &'a str,
    /// `None` for the trace of what is gone.
    pub(super) bytes: Option<&'a [u8]>,
    pub(super) ends: Option<i64>,
}

/// The writes that put this there, on condition that the document is still what was found.
pub(super) fn put(path: &str, found: Option<&Held>, new: &New<'_>) -> Result<Vec<Change>, StoreError> {
    let nonce = nonce()?;
    let mut fields = Fields::from([("key".into(), text_value(new.key)), ("nonce".into(), text_value(&nonce))]);
    let mut changes = Vec::new();
    match new.bytes {
        None => drop(fields.insert("gone".into(), other("booleanValue", "true".into())?)),
        Some(bytes) if bytes.len() <= WHOLE => drop(fields.insert("v".into(), bytes_value(bytes)?)),
        Some(bytes) if bytes.len() > MOST => {
            let what = format!("{} bytes are more than Firestore stores in one step, which is {MOST}", bytes.len());
            return Err(StoreError::invalid(what));
        }
        Some(bytes) => {
            for (n, part) in bytes.chunks(WHOLE).enumerate() {
                let fields = Fields::from([("v".into(), bytes_value(part)?)]);
                changes.push(Change { path: part_of(path, &nonce, n), fields: Some(fields), expect: Expected::Absent });
            }
            fields.insert("parts".into(), integer(i64::try_from(changes.len()).unwrap_or(i64::MAX))?);
        }
    }
    if let Some(ends) = new.ends {
        fields.insert("ends".into(), integer(ends)?);
    }
    let expect = found.map_or(Expected::Absent, |found| Expected::At(found.updated.clone()));
    changes.insert(0, Change { path: path.into(), fields: Some(fields), expect });
    changes.extend(found.into_iter().flat_map(|found| found.forget_parts(path)));
    Ok(changes)
}

fn part_of(path: &str, nonce: &str, n: usize) -> String {
    format!("{path}/parts/{nonce}-{n}")
}

impl Held {
    /// # Errors
    /// A document that we did not write.
    pub(super) fn of(client: &Client, document: Document) -> Result<Self, StoreError> {
        let damaged = || StoreError::Corrupt {
            store: client.name.clone(),
            what: "a document below `keyfold-…` is not as Keyfold writes it".into(),
            source: None,
        };
        let version = micros(client, &document.updated)?;
        let updated = document.updated;
        let mut held = Self {
            bytes: Vec::new(),
            parts: 0,
            nonce: String::new(),
            key: String::new(),
            gone: false,
            ends: None,
            version,
            updated,
        };
        for (name, value) in document.fields {
            match (name.as_str(), value) {
                ("key", Value::Text(text)) => held.key.clone_from(&text),
                ("nonce", Value::Text(text)) => held.nonce.clone_from(&text),
                ("v", Value::Other(_, raw)) => {
                    let text = raw.get().trim_matches('"');
                    held.bytes = STANDARD.decode_to_vec(text).map_err(|_| damaged())?;
                }
                ("gone", _) => held.gone = true,
                ("parts", Value::Other(_, raw)) => {
                    held.parts = raw.get().trim_matches('"').parse().map_err(|_| damaged())?;
                }
                ("ends", Value::Other(_, raw)) => {
                    held.ends = Some(raw.get().trim_matches('"').parse().map_err(|_| damaged())?);
                }
                _ => return Err(damaged()),
            }
        }
        Ok(held)
    }

    /// Whether it is there for callers, at a time in milliseconds.
    pub(super) fn is_alive(&self, now: i64) -> bool {
        !self.gone && self.ends.is_none_or(|ends| ends > now)
    }

    /// Its bytes, where they lie in the one document.
    pub(super) fn whole(&self) -> Option<&[u8]> {
        (self.parts == 0).then_some(&self.bytes)
    }

    /// All of its bytes; `None` where it was written anew meanwhile, and must be read again.
    pub(super) async fn bytes(&mut self, client: &Client, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
        if self.parts == 0 {
            return Ok(Some(std::mem::take(&mut self.bytes)));
        }
        let paths: Vec<String> = (0..self.parts).map(|n| part_of(path, &self.nonce, n)).collect();
        let mut bytes = Vec::new();
        for part in client.get(&paths.iter().map(String::as_str).collect::<Vec<_>>()).await? {
            let Some(part) = part else { return Ok(None) };
            bytes.append(&mut Self::of(client, part)?.bytes);
        }
        Ok(Some(bytes))
    }

    /// The deletions of what lies below it.
    pub(super) fn forget_parts(&self, path: &str) -> Vec<Change> {
        let gone = |n| Change { path: part_of(path, &self.nonce, n), fields: None, expect: Expected::Anything };
        (0..self.parts).map(gone).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelled_in_the_order_of_their_bytes_and_as_firestore_takes_them() {
        let mut names = ["", "a", "a/", "a0", "é", "\u{ffff}", "\u{10ffff}", "..", "__x__"];
        names.sort_unstable();
        let spelled = names.map(spell);
        assert!(spelled.is_sorted());
        assert!(spelled.iter().all(|name| name.bytes().all(|b| b.is_ascii_alphanumeric()) && name.starts_with('k')));
        assert!(spell("a/b").starts_with(&spell("a/")));
    }
}
