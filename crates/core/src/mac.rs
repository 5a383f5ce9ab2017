//! HMAC-SHA-256 (RFC 2104), HKDF-Expand (RFC 5869 §2.3) and SHA-256, shaped for short messages in several parts.
//!
//! The hash is the library's. HMAC is put together here from two one-shot hashes, because the library's HMAC contexts
//! allocate and copy: for the messages of an envelope that costs three times as much. Wycheproof's HMAC and HKDF vectors
//! run against these functions.

use aws_lc_rs::digest;

use crate::secret::wipe;

const BLOCK: usize = 64;
/// Messages up to this many bytes, block of the key included, are put together on the stack.
const STACK: usize = 576;

/// SHA-256 over the concatenation of `parts`.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    hash(None, parts)
}

/// HMAC-SHA-256 over the concatenation of `parts`. Keys longer than a block are hashed first, as RFC 2104 says.
#[must_use]
pub fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&sha256(&[key]));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    for byte in &mut block {
        *byte ^= 0x36;
    }
    let mut inner = hash(Some(&block), parts);
    for byte in &mut block {
        *byte ^= 0x36 ^ 0x5c;
    }
    let out = hash(Some(&block), &[&inner]);
    wipe(&mut block);
    wipe(&mut inner);
    out
}

/// HKDF-Expand to 32 bytes from a key that is already uniform: `HMAC(key, info ‖ 0x01)`. No extract step.
#[must_use]
pub fn expand(key: &[u8; 32], label: &[u8], info: &[&[u8]]) -> [u8; 32] {
    debug_assert!(info.len() <= 4, "a longer list of parts would be cut");
    let mut parts: [&[u8]; 6] = [&[]; 6];
    parts[0] = label;
    for (slot, part) in parts[1..5].iter_mut().zip(info) {
        *slot = part;
    }
    parts[5] = &[1];
    hmac(key, &parts)
}

fn hash(block: Option<&[u8; BLOCK]>, parts: &[&[u8]]) -> [u8; 32] {
    let first = block.map_or(0, |b| b.len());
    let total = parts.iter().fold(first, |sum, part| sum.saturating_add(part.len()));
    let mut out = [0; 32];
    if total <= STACK {
        let mut message = [0; STACK];
        if let Some(block) = block {
            message[..BLOCK].copy_from_slice(block);
        }
        let mut at = first;
        for part in parts {
            message[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        out.copy_from_slice(digest::digest(&digest::SHA256, &message[..total]).as_ref());
        wipe(&mut message[..total]);
    } else {
        let mut context = digest::Context::new(&digest::SHA256);
        if let Some(block) = block {
            context.update(block);
        }
        for part in parts {
            context.update(part);
        }
        out.copy_from_slice(context.finish().as_ref());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_and_the_streaming_path_agree_with_the_library() {
        for len in [0, 1, 63, 64, 65, 447, 448, 511, 512, 513, 5000] {
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
