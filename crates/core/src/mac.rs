//! HMAC-SHA-256 (RFC 2104), HKDF-Expand (RFC 5869 §2.3) and SHA-256, shaped for short messages in several parts.
//!
//! The hash is the library's. HMAC is put together here from two one-shot hashes, because the library's HMAC contexts
//! allocate and copy: for the messages of an envelope that costs three times as much. Wycheproof's HMAC and HKDF vectors
//! run against these functions.

use aws_lc_rs::digest;

use crate::secret::wipe;

const BLOCK: usize = 64;
const IPAD: u8 = 0x36;
const OPAD: u8 = 0x5c;

/// SHA-256 over the concatenation of `parts`.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    if let [whole] = parts {
        return digest(whole);
    }
    hash(None, parts)
}

/// HMAC-SHA-256 over the concatenation of `parts`. Keys longer than a block are hashed first, as RFC 2104 says.
#[must_use]
pub fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hashed = [0; 32];
    let key = if key.len() > BLOCK {
        hashed = digest(key);
        &hashed[..]
    } else {
        key
    };
    let out = outer(key, hash(Some(key), parts));
    wipe(&mut hashed);
    out
}

/// HKDF-Expand to 32 bytes from a key that is already uniform: `HMAC(key, info ‖ 0x01)`. No extract step.
#[must_use]
pub fn expand(key: &[u8; 32], label: &[u8], info: &[&[u8]]) -> [u8; 32] {
    outer(key, expand_inner(key, label, info))
}

/// [`expand`] for two labels. The two chains do not depend on each other, and side by side a processor runs them at once.
#[must_use]
pub fn expand_two(key: &[u8; 32], labels: [&[u8]; 2], info: &[&[u8]]) -> [[u8; 32]; 2] {
    let one = expand_inner(key, labels[0], info);
    let two = expand_inner(key, labels[1], info);
    [outer(key, one), outer(key, two)]
}

fn expand_inner(key: &[u8; 32], label: &[u8], info: &[&[u8]]) -> [u8; 32] {
    debug_assert!(info.len() <= 4, "a longer list of parts would be cut");
    let mut parts: [&[u8]; 6] = [&[]; 6];
    parts[0] = label;
    for (slot, part) in parts[1..5].iter_mut().zip(info) {
        *slot = part;
    }
    parts[5] = &[1];
    hash(Some(key), &parts)
}

/// The second hash of HMAC.
fn outer(key: &[u8], mut inner: [u8; 32]) -> [u8; 32] {
    let mut message = [0; BLOCK + 32];
    message[..key.len()].copy_from_slice(key);
    for byte in &mut message[..BLOCK] {
        *byte ^= OPAD;
    }
    message[BLOCK..].copy_from_slice(&inner);
    let out = digest(&message);
    wipe(&mut message);
    wipe(&mut inner);
    out
}

/// The hash of `parts`, behind the inner block of a key where there is one.
fn hash(key: Option<&[u8]>, parts: &[&[u8]]) -> [u8; 32] {
    let first = key.map_or(0, |_| BLOCK);
    let total = parts.iter().fold(first, |sum, part| sum.saturating_add(part.len()));
    // Short messages are put together on the stack, in no more room than they need: clearing it costs as much as a block.
    match total {
        0..=256 => gathered::<256>(key, parts, total),
        257..=1024 => gathered::<1024>(key, parts, total),
        _ => streamed(key, parts),
    }
}

fn gathered<const N: usize>(key: Option<&[u8]>, parts: &[&[u8]], total: usize) -> [u8; 32] {
    let mut message = [0; N];
    let mut at = 0;
    if let Some(key) = key {
        inner_block(key, &mut message);
        at = BLOCK;
    }
    for part in parts {
        message[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    let out = digest(&message[..total]);
    wipe(&mut message[..total]);
    out
}

fn streamed(key: Option<&[u8]>, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    if let Some(key) = key {
        let mut block = [0; BLOCK];
        inner_block(key, &mut block);
        context.update(&block);
        wipe(&mut block);
    }
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

fn inner_block(key: &[u8], message: &mut [u8]) {
    message[..key.len()].copy_from_slice(key);
    for byte in &mut message[..BLOCK] {
        *byte ^= IPAD;
    }
}

fn digest(message: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, message).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_labels_side_by_side_are_two_expansions() {
        let key = [7; 32];
        let both = expand_two(&key, [b"one", b"two"], &[b"info", b"more"]);
        assert_eq!(both, [expand(&key, b"one", &[b"info", b"more"]), expand(&key, b"two", &[b"info", b"more"])]);
    }

    #[test]
    fn the_stack_and_the_streaming_path_agree_with_the_library() {
        for len in [0, 1, 63, 64, 65, 191, 192, 193, 255, 256, 257, 447, 448, 959, 960, 961, 1024, 1025, 5000] {
            let data = vec![0xa5; len];
            for key_len in [0, 1, 32, 64, 65, 200] {
                let key = vec![0x5a; key_len];
                let theirs =
                    aws_lc_rs::hmac::sign(&aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key), &data);
                assert_eq!(hmac(&key, &[&data[..len / 2], &data[len / 2..]]), theirs.as_ref(), "{len} {key_len}");
            }
            assert_eq!(sha256(&[&data]), digest::digest(&digest::SHA256, &data).as_ref());
        }
    }
}
