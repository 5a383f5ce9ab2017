//! How the key of a row is spelled as a record key, and read back.
//!
//! One column: its value as text. Several: a JSON array of them in the order of the layout, whole numbers as numbers and all
//! else as strings. Bytes that are not UTF-8, and NUL, are percent-encoded; `%` itself only where two hex digits follow, so
//! that no two keys are spelled alike.

use serde_json::Value;

use crate::store::{RecordKey, ScanCursor, StoreError};

/// One value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Spelled text.
    Text(String),
    /// A whole number, as decimal digits.
    Number(String),
}

impl Part {
    /// The text, or the digits.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Text(text) | Self::Number(text) => text,
        }
    }

    fn json(&self) -> String {
        match self {
            Self::Text(text) => Value::String(text.clone()).to_string(),
            Self::Number(digits) => digits.clone(),
        }
    }
}

fn array(parts: &[Part]) -> String {
    format!("[{}]", parts.iter().map(Part::json).collect::<Vec<_>>().join(","))
}

/// The record key of these parts, or what is wrong with it.
pub(super) fn spell(parts: &[Part]) -> Result<RecordKey, String> {
    let spelled = match parts {
        [one] => RecordKey::new(one.as_str()),
        several => RecordKey::new(array(several)),
    };
    spelled.map_err(|error| error.to_string())
}

/// Where a scan goes on: an array even of one, so that the empty text has a spelling too.
pub(super) fn cursor(parts: &[Part]) -> Result<ScanCursor, StoreError> {
    Ok(ScanCursor::new(array(parts))?)
}

/// The parts of a record key of `columns` columns; `None` where no row can have it.
pub(super) fn parse(key: &RecordKey, columns: usize) -> Option<Vec<Part>> {
    if columns == 1 {
        return Some(vec![Part::Text(key.as_str().into())]);
    }
    parse_array(key.as_str(), columns)
}

/// The parts that a cursor was made of.
pub(super) fn parse_cursor(cursor: &ScanCursor, columns: usize) -> Result<Vec<Part>, StoreError> {
    parse_array(cursor.as_str(), columns).ok_or_else(|| StoreError::invalid("a cursor of another collection was given"))
}

fn parse_array(text: &str, columns: usize) -> Option<Vec<Part>> {
    let values: Vec<Value> = serde_json::from_str(text).ok()?;
    if values.len() != columns {
        return None;
    }
    values
        .into_iter()
        .map(|value| match value {
            Value::String(text) => Some(Part::Text(text)),
            Value::Number(number) if number.is_i64() => Some(Part::Number(number.to_string())),
            _ => None,
        })
        .collect()
}

/// Bytes as text.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    let mut rest = bytes;
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\0' => out.push_str("%00"),
                '%' if rest.len() > 2 && rest[1].is_ascii_hexdigit() && rest[2].is_ascii_hexdigit() => {
                    out.push_str("%25");
                }
                c => out.push(c),
            }
            rest = &rest[c.len_utf8()..];
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("%{byte:02X}"));
            rest = &rest[1..];
        }
    }
    out
}

/// The bytes that [`escape`] made text of.
pub(super) fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |n: usize| bytes.get(at + n).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[at], hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// A key for a message: abridged, on one line.
pub(super) fn abridge(text: &str) -> String {
    const MOST: usize = 120;
    let mut out: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().count() > MOST {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_are_spelled_readably() {
        for (bytes, spelled) in [
            (&b"plain"[..], "plain"),
            ("é 🔑".as_bytes(), "é 🔑"),
            (b"100%", "100%"),
            (b"%zz %4", "%zz %4"),
            (b"%41", "%2541"),
            (b"a\0b", "a%00b"),
            (b"\xff\xfe", "%FF%FE"),
            (b"%\xff41", "%%FF41"),
        ] {
            assert_eq!(escape(bytes), spelled);
            assert_eq!(unescape(spelled), bytes);
        }
    }

    #[test]
    fn several_columns_are_a_json_array_with_numbers_as_numbers() {
        let parts = vec![Part::Text("a\"b".into()), Part::Number("-7".into()), Part::Text("7".into())];
        let key = spell(&parts).unwrap();
        assert_eq!(key.as_str(), r#"["a\"b",-7,"7"]"#);
        assert_eq!(parse(&key, 3).unwrap(), parts);
        for bad in ["plain", "[1]", r#"["a",1.5,"b"]"#, r#"["a",null,"b"]"#, "{}"] {
            assert_eq!(parse(&RecordKey::new(bad).unwrap(), 3), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_two_byte_strings_are_spelled_alike(bytes in proptest::collection::vec(prop_oneof![
            Just(b'%'), Just(b'4'), Just(b'1'), Just(0u8), any::<u8>()], 0..24)) {
            prop_assert_eq!(unescape(&escape(&bytes)), bytes);
        }
    }
}
