//! Base64 as the formats need it: canonical only, or as Python's `base64.b64decode` reads it.

use base64_simd::{AsOut, Base64, STANDARD, URL_SAFE, URL_SAFE_NO_PAD};

/// Decodes padded standard base64; exactly one spelling of each byte string is taken.
///
/// # Errors
/// The offset near which the text is not canonical.
pub(crate) fn decode_standard(text: &[u8]) -> Result<Vec<u8>, usize> {
    canonical(&STANDARD, text)
}

/// Decodes padded base64url, canonical only.
///
/// # Errors
/// The offset near which the text is not canonical.
pub(crate) fn decode_url(text: &[u8]) -> Result<Vec<u8>, usize> {
    canonical(&URL_SAFE, text)
}

/// Decodes base64url without padding, canonical only.
///
/// # Errors
/// The offset near which the text is not canonical.
pub(crate) fn decode_url_no_pad(text: &[u8]) -> Result<Vec<u8>, usize> {
    canonical(&URL_SAFE_NO_PAD, text)
}

/// Decodes canonical standard base64 into exactly `out.len()` bytes, a multiple of three.
///
/// # Errors
/// `()` where the text is not canonical or has another length.
pub(crate) fn decode_exact(text: &[u8], out: &mut [u8]) -> Result<(), ()> {
    let length = out.len();
    debug_assert!(length.is_multiple_of(3), "the decoder needs room for whole groups");
    if text.len() != STANDARD.encoded_length(length) {
        return Err(());
    }
    let decoded = STANDARD.decode(text, out.as_out()).map_err(|_| ())?;
    // The text of one or two bytes less has the same length.
    (decoded.len() == length).then_some(()).ok_or(())
}

/// The library refuses unused bits that are not zero, padding that is missing or too much, and everything outside of the
/// alphabet; a test below holds it to that.
fn canonical(engine: &Base64, text: &[u8]) -> Result<Vec<u8>, usize> {
    engine.decode_to_vec(text).map_err(|_| first_bad(engine, text))
}

fn first_bad(engine: &Base64, text: &[u8]) -> usize {
    let url = engine.encode_type::<String>([0xfb]).starts_with('-');
    text.iter()
        .position(|&b| {
            !(b.is_ascii_alphanumeric()
                || if url { matches!(b, b'-' | b'_' | b'=') } else { matches!(b, b'+' | b'/' | b'=') })
        })
        .unwrap_or(text.len())
}

/// Decodes as Python's `base64.b64decode(text)` does: characters outside the alphabet are skipped, what follows the
/// padding is ignored, unused bits are not looked at.
#[must_use]
pub fn decode_as_python(text: &[u8]) -> Option<Vec<u8>> {
    // What is canonical reads the same either way, and this way it is read by whole vectors.
    if let Ok(bytes) = decode_standard(text) {
        return Some(bytes);
    }
    decode_skipping(text, |b| match b {
        b'A'..=b'Z' => Some(b - b'A'),
        b'a'..=b'z' => Some(b - b'a' + 26),
        b'0'..=b'9' => Some(b - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    })
}

/// Decodes as Python's `base64.urlsafe_b64decode(text)` does, which takes both alphabets.
#[must_use]
pub(crate) fn decode_url_as_python(text: &[u8]) -> Option<Vec<u8>> {
    let standard: Vec<u8> = text
        .iter()
        .map(|&b| match b {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        })
        .collect();
    decode_as_python(&standard)
}

fn decode_skipping(text: &[u8], value: impl Fn(u8) -> Option<u8>) -> Option<Vec<u8>> {
    if !text.is_ascii() {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut place, mut pads, mut left) = (0u8, 0u8, 0u8);
    for &b in text {
        if b == b'=' {
            if place >= 2 {
                pads += 1;
                if place + pads >= 4 {
                    return Some(out);
                }
            }
            continue;
        }
        let Some(bits) = value(b) else { continue };
        pads = 0;
        match place {
            0 => left = bits,
            1 => {
                out.push(left << 2 | bits >> 4);
                left = bits & 0x0f;
            }
            2 => {
                out.push(left << 4 | bits >> 2);
                left = bits & 0x03;
            }
            _ => out.push(left << 6 | bits),
        }
        place = (place + 1) % 4;
    }
    (place == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_of_each_byte_string_is_taken() {
        assert_eq!(decode_standard(b"QQ=="), Ok(vec![b'A']));
        for odd in ["QR==", "QQ=", "QQ", "QQ==\n", " QQ==", "Q_==", "QQ==QQ==", "Q"] {
            assert!(decode_standard(odd.as_bytes()).is_err(), "{odd}");
        }
        assert_eq!(decode_url_no_pad(b"_w"), Ok(vec![0xff]));
        for odd in ["_x", "_w==", "/w", "_w "] {
            assert!(decode_url_no_pad(odd.as_bytes()).is_err(), "{odd}");
        }
        for len in 0..64usize {
            let text = STANDARD.encode_to_string(vec![0xff; len]);
            assert_eq!(decode_standard(text.as_bytes()).unwrap().len(), len);
            for wanted in (0..64).step_by(3) {
                let exact = decode_exact(text.as_bytes(), &mut vec![0; wanted]);
                assert_eq!(exact.is_ok(), wanted == len, "{len} bytes where {wanted} are wanted");
            }
        }
    }

    #[test]
    fn what_decodes_is_what_its_bytes_encode_to_whatever_character_is_changed_cut_or_added() {
        for engine in [&STANDARD, &URL_SAFE, &URL_SAFE_NO_PAD] {
            let check = |text: &[u8]| {
                if let Ok(bytes) = canonical(engine, text) {
                    let again: String = engine.encode_type(&bytes);
                    assert_eq!(text, again.as_bytes());
                }
            };
            // Lengths on both sides of what the decoder takes by vectors, with each rest.
            for len in [0, 1, 2, 3, 4, 5, 22, 23, 24, 25, 26, 46, 47, 48, 49, 50, 51] {
                let text: String = engine.encode_type(vec![0xfb; len]);
                let text = text.into_bytes();
                for at in 0..text.len() {
                    let mut changed = text.clone();
                    for byte in 0..=255 {
                        changed[at] = byte;
                        check(&changed);
                    }
                    check(&text[..at]);
                }
                for more in ["=", "==", "A", "AA", "AAA", "\n", " "] {
                    check(&[&text, more.as_bytes()].concat());
                }
            }
        }
    }

    #[test]
    fn python_reads_around_what_it_does_not_know() {
        assert_eq!(decode_as_python(b"Q\nQ = = junk").as_deref(), Some(&b"A"[..]));
        assert_eq!(decode_as_python(b"QUJD!QUJD").as_deref(), Some(&b"ABCABC"[..]));
        assert_eq!(decode_as_python(b"QUJDQ"), None);
        assert_eq!(decode_as_python("QUJDé".as_bytes()), None);
        assert_eq!(decode_url_as_python(b"-_+/").as_deref(), Some(&[0xfb, 0xff, 0xbf][..]));
    }
}
