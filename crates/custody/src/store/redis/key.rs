//! The spelling of keys as text, the hash slot of a key, and the patterns of a collection.
//!
//! A key that is UTF-8 stands as it is. Other bytes, and NUL, become `%` and two hex digits; a `%` that two hex digits
//! follow becomes `%25`. So every key has one spelling, and no two keys share one.

use std::{borrow::Cow, fmt::Write as _};

use crate::store::{Odd, RecordKey, StoreError};

/// Slots of a cluster. A single server has none; keys are split by them all the same.
pub(super) const SLOTS: u16 = 16_384;

/// The hash slot of a key, by its hash tag where it has one.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|b| *b == b'{').and_then(|open| {
        let inside = &key[open + 1..];
        let close = inside.iter().position(|b| *b == b'}').filter(|close| *close > 0)?;
        Some(&inside[..close])
    });
    crc16::State::<crc16::XMODEM>::calculate(tag.unwrap_or(key)) % SLOTS
}

/// A key as text; nearly all keys stand as they are.
fn spelling(key: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(key) {
        Ok(text) if memchr::memchr2(b'%', 0, key).is_none() => Cow::Borrowed(text),
        _ => Cow::Owned(spell(key)),
    }
}

/// A key as text.
pub(super) fn spell(key: &[u8]) -> String {
    let mut out = String::with_capacity(key.len());
    let mut rest = key;
    for chunk in key.utf8_chunks() {
        for (at, c) in chunk.valid().char_indices() {
            match c {
                '\0' => out.push_str("%00"),
                // Looks at the key and not at the chunk, but digits are never the first bytes of what is not UTF-8.
                '%' if is_hex(&rest[at + 1..]) => out.push_str("%25"),
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "%{byte:02X}");
        }
        rest = &rest[chunk.valid().len() + chunk.invalid().len()..];
    }
    out
}

/// The key that a text spells.
///
/// # Errors
/// A text that is not the one spelling of its key.
pub(super) fn unspell(text: &RecordKey) -> Result<Vec<u8>, StoreError> {
    let bytes = text.as_str().as_bytes();
    if !bytes.contains(&b'%') {
        return Ok(bytes.to_vec());
    }
    let key: Vec<u8> = percent_encoding::percent_decode(bytes).collect();
    let spelling = spell(&key);
    if spelling == text.as_str() {
        Ok(key)
    } else {
        Err(StoreError::invalid(format!("no key is spelled `{text}`; it is spelled `{spelling}`")))
    }
}

fn is_hex(bytes: &[u8]) -> bool {
    bytes.len() >= 2 && bytes[..2].iter().all(u8::is_ascii_hexdigit)
}

/// The name of a record, or why its key cannot be one.
pub(super) fn name(key: &[u8]) -> Result<RecordKey, Odd> {
    let spelling = spelling(key);
    RecordKey::new(&spelling).map_err(|error| Odd {
        record: abridged(&spelling),
        what: format!("its key cannot be a record's: {error}"),
        hint: "rename the key, or narrow the pattern `keys` of the collection".into(),
    })
}

/// Enough of a key to find it by.
pub(super) fn abridged(spelling: &str) -> String {
    match spelling.char_indices().nth(100) {
        Some((end, _)) => format!("{}… ({} bytes)", &spelling[..end], spelling.len()),
        None => spelling.into(),
    }
}

/// Which keys a collection has: `*` stands for anything, every other character for itself.
#[derive(Debug, Clone)]
pub(super) struct Pattern(Box<str>);

impl Pattern {
    /// # Errors
    /// Other wildcards, which `*` alone would not match in the same way.
    pub(super) fn new(text: &str) -> Result<Self, StoreError> {
        if text.is_empty() || text.contains(['?', '[', ']', '\\']) {
            return Err(StoreError::invalid(format!(
                "the pattern `{text}` of a collection's keys may have `*` and no other wildcard"
            )));
        }
        Ok(Self(text.into()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a key is one of the collection's.
    pub(super) fn matches(&self, key: &[u8]) -> bool {
        let mut parts = self.0.split('*').map(str::as_bytes);
        let Some(mut rest) = parts.next().and_then(|first| key.strip_prefix(first)) else { return false };
        let mut parts: Vec<_> = parts.collect();
        let Some(last) = parts.pop() else { return rest.is_empty() };
        for part in parts {
            let Some(at) = memchr::memmem::find(rest, part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_that_is_text_stands_as_it_is_and_other_bytes_are_spelled() {
        for (key, spelling) in [
            (&b"sre_instances:prod"[..], "sre_instances:prod"),
            ("é 🔑".as_bytes(), "é 🔑"),
            (b"100%", "100%"),
            (b"%zz", "%zz"),
            (b"%41", "%2541"),
            (b"%\x0041", "%%0041"),
            (b"a\xffb\0", "a%FFb%00"),
            (b"%4\xff", "%4%FF"),
            (b"%%41", "%%2541"),
        ] {
            assert_eq!(spell(key), spelling);
            assert_eq!(unspell(&RecordKey::new(spelling).unwrap()).unwrap(), key);
        }
        for wrong in ["%41", "%c3%a9", "%ff", "%25"] {
            assert!(unspell(&RecordKey::new(wrong).unwrap()).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_spelling_leads_back_to_its_key(key in proptest::collection::vec(prop_oneof![Just(b'%'), Just(b'2'), Just(b'5'), Just(b'A'), Just(0xc3), Just(0xa9), any::<u8>()], 1..40)) {
            let spelled = RecordKey::new(spell(&key)).unwrap();
            prop_assert_eq!(spelling(&key), spelled.as_str());
            prop_assert_eq!(unspell(&spelled).unwrap(), key);
        }
    }

    #[test]
    fn a_star_stands_for_anything_and_everything_else_for_itself() {
        for (pattern, yes, no) in [
            (
                "sre_instances:*",
                &["sre_instances:", "sre_instances:a:b"][..],
                &["sre_instances", "xsre_instances:a"][..],
            ),
            (
                "sre:thread:*:instances",
                &["sre:thread:1:instances", "sre:thread::instances:instances"],
                &["sre:thread:instances", "sre:thread:1:instances:x"],
            ),
            ("a*b*b", &["abb", "axbxb"], &["ab", "axb"]),
            ("one", &["one"], &["one1", "on"]),
        ] {
            let pattern = Pattern::new(pattern).unwrap();
            assert!(yes.iter().all(|key| pattern.matches(key.as_bytes())), "{pattern:?}");
            assert!(!no.iter().any(|key| pattern.matches(key.as_bytes())), "{pattern:?}");
        }
        assert!(["a?", "[a]", "\\*", ""].iter().all(|text| Pattern::new(text).is_err()));
    }

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        for (key, expected) in [
            ("123456789", 0x31c3),
            ("foo", 12_182),
            ("{foo}bar", 12_182),
            ("foo{}{bar}", 8_363),
            ("x{foo}{bar}", 12_182),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
    }
}
