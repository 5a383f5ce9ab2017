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
/// What is put together on a small stack buffer, key block included.
const SHORT: usize = 256;

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
    HmacKey::new(key).sign(parts)
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
    HmacKey::new(key).sign(&parts)
}

/// A key with the two blocks that HMAC puts in front, set up once. Wiped when dropped.
pub struct HmacKey {
    inner: [u8; BLOCK],
    outer: [u8; BLOCK],
}

impl HmacKey {
    /// Sets a key up.
    #[must_use]
    #[inline]
    pub fn new(key: &[u8]) -> Self {
        let mut block = [0; BLOCK];
        if key.len() > BLOCK {
            block[..32].copy_from_slice(&digest(key));
        } else {
            block[..key.len()].copy_from_slice(key);
        }
        let made = Self { inner: block.map(|byte| byte ^ IPAD), outer: block.map(|byte| byte ^ OPAD) };
        wipe(&mut block);
        made
    }

    /// The MAC of a message in parts.
    #[must_use]
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.finish(hash(Some(&self.inner), parts))
    }

    /// The MAC of a message of a length that is known when this is compiled, of at most 192 bytes: without the copies and
    /// the bookkeeping of parts, a tenth of the time.
    #[must_use]
    #[inline]
    pub fn sign_short<const N: usize>(&self, message: &[u8; N]) -> [u8; 32] {
        const { assert!(N <= SHORT - BLOCK, "longer messages go in parts") };
        let mut whole = [0; SHORT];
        whole[..BLOCK].copy_from_slice(&self.inner);
        whole[BLOCK..BLOCK + N].copy_from_slice(message);
        let inner = digest(&whole[..BLOCK + N]);
        wipe(&mut whole[..BLOCK + N]);
        self.finish(inner)
    }

    /// The second hash.
    #[inline]
    fn finish(&self, mut inner: [u8; 32]) -> [u8; 32] {
        let mut message = [0; BLOCK + 32];
        message[..BLOCK].copy_from_slice(&self.outer);
        message[BLOCK..].copy_from_slice(&inner);
        let out = digest(&message);
        wipe(&mut message);
        wipe(&mut inner);
        out
    }
}

impl Drop for HmacKey {
    fn drop(&mut self) {
        wipe(&mut self.inner);
        wipe(&mut self.outer);
    }
}

/// The hash of `parts`, behind the inner block of a key where there is one.
fn hash(block: Option<&[u8; BLOCK]>, parts: &[&[u8]]) -> [u8; 32] {
    let first = block.map_or(0, |_| BLOCK);
    let total = parts.iter().fold(first, |sum, part| sum.saturating_add(part.len()));
    // Short messages are put together on the stack, in no more room than they need: clearing it costs as much as a block.
    match total {
        0..=SHORT => gathered::<SHORT>(block, parts, total),
        257..=1024 => gathered::<1024>(block, parts, total),
        _ => streamed(block, parts),
    }
}

fn gathered<const N: usize>(block: Option<&[u8; BLOCK]>, parts: &[&[u8]], total: usize) -> [u8; 32] {
    let mut message = [0; N];
    let mut at = 0;
    if let Some(block) = block {
        message[..BLOCK].copy_from_slice(block);
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

fn streamed(block: Option<&[u8; BLOCK]>, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    if let Some(block) = block {
        context.update(block);
    }
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

#[inline]
fn digest(message: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, message).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_message_is_signed_like_the_same_one_in_parts() {
        let key = HmacKey::new(&[7; 32]);
        assert_eq!(key.sign_short(&[1, 2, 3]), key.sign(&[&[1], &[2, 3]]));
        assert_eq!(key.sign_short(&[5; 192]), key.sign(&[&[5; 192]]));
        assert_eq!(HmacKey::new(&[7; 32]).sign_short(&[]), hmac(&[7; 32], &[]));
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
