//! Putting other values in the place of some, and leaving every other byte as it is.

use std::ops::Range;

use zeroize::Zeroizing;

use super::error::JsonError;

/// A JSON string token, quotes and all. It is wiped on drop.
pub struct Encoded(Zeroizing<String>);

impl Encoded {
    /// A token that is JSON already. The caller vouches for it; a splice does not look inside.
    #[must_use]
    pub fn raw(json: String) -> Self {
        Self(Zeroizing::new(json))
    }

    /// The token as it will stand in the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `value` as a JSON string token. Only what must be escaped is.
#[must_use]
pub fn encode_string(value: &str) -> Encoded {
    if is_plain(value) {
        let mut out = Zeroizing::new(String::with_capacity(value.len() + 2));
        out.push('"');
        out.push_str(value);
        out.push('"');
        return Encoded(out);
    }
    let needed: usize = value.bytes().map(|b| escape(b).map_or(1, |e| if e == b'u' { 6 } else { 2 })).sum();
    // Exactly as much as is needed, so that no shorter copy stays behind in memory.
    let mut out = Zeroizing::new(String::with_capacity(needed + 2));
    out.push('"');
    let mut done = 0;
    for (at, b) in value.bytes().enumerate() {
        let Some(e) = escape(b) else { continue };
        out.push_str(&value[done..at]);
        out.push('\\');
        out.push(char::from(e));
        if e == b'u' {
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            out.push_str("00");
            out.push(char::from(DIGITS[usize::from(b >> 4)]));
            out.push(char::from(DIGITS[usize::from(b & 15)]));
        }
        done = at + 1;
    }
    out.push_str(&value[done..]);
    out.push('"');
    Encoded(out)
}

/// Whether nothing in it must be escaped, as in every sealed value. Blocks without an early end are looked at many bytes at once.
fn is_plain(value: &str) -> bool {
    let odd = |block: &[u8]| block.iter().fold(false, |odd, &b| odd | (b < 0x20) | (b == b'"') | (b == b'\\'));
    !value.as_bytes().chunks(64).any(odd)
}

/// What follows the backslash where a byte must be escaped.
const fn escape(b: u8) -> Option<u8> {
    match b {
        b'"' | b'\\' => Some(b),
        0x08 => Some(b'b'),
        0x0c => Some(b'f'),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        b'\t' => Some(b't'),
        0..0x20 => Some(b'u'),
        _ => None,
    }
}

/// A token to be put in the place of the value at `span`.
pub struct Edit {
    /// Where the value is, as [`super::find`] gave it.
    pub span: Range<usize>,
    /// What is to stand there.
    pub token: Encoded,
}

/// `text` with the edits made, in any order. It is wiped on drop.
///
/// # Errors
/// [`JsonError::BadEdit`] where spans overlap or do not lie in `text`.
pub fn splice(text: &str, mut edits: Vec<Edit>) -> Result<Zeroizing<String>, JsonError> {
    edits.sort_by_key(|edit| (edit.span.start, edit.span.end));
    let mut size = text.len();
    let mut done = 0;
    for Edit { span, token } in &edits {
        if span.start < done || span.is_empty() || text.get(span.clone()).is_none() {
            return Err(JsonError::BadEdit { start: span.start, end: span.end });
        }
        size = size - span.len() + token.as_str().len();
        done = span.end;
    }
    let mut out = Zeroizing::new(String::with_capacity(size));
    done = 0;
    for Edit { span, token } in &edits {
        out.push_str(&text[done..span.start]);
        out.push_str(token.as_str());
        done = span.end;
    }
    out.push_str(&text[done..]);
    Ok(out)
}
