//! Data keys: 32 bytes that encrypt one message under the zero IV, and how they are drawn.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::{
    context::ContextDigest,
    keyring::MasterKey,
    secret::{Key32, Secret, wipe},
};

/// A data key in the clear. Wiped when dropped; its wrapped form is another type, or bytes inside an envelope.
pub struct Dek(Key32);

impl Dek {
    /// Takes the bytes of a data key.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(Key32::new(bytes))
    }

    /// Looks inside.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// `HMAC-SHA256(Expand(M, "kf1 hedge\0"), rnd32 ‖ CD ‖ P)`: from randomness and message together, so that a forked
    /// process or a cloned machine repeats nothing that matters.
    #[must_use]
    pub fn hedged(key: &MasterKey, random32: &[u8; 32], context: &ContextDigest, secret: &[u8]) -> Self {
        Self::new(key.hedge().sign(&[random32, context.as_bytes(), secret]))
    }
}

const ZERO_IV: [u8; NONCE_LEN] = [0; NONCE_LEN];

fn cipher(key: &Dek) -> Result<LessSafeKey, ()> {
    UnboundKey::new(&AES_256_GCM, key.expose()).map(LessSafeKey::new).map_err(|_| ())
}

/// Encrypts in place under a key that sees no other message; gives the tag.
pub(crate) fn encrypt_once(key: &Dek, aad: &[u8], in_out: &mut [u8]) -> Result<[u8; 16], ()> {
    let nonce = Nonce::assume_unique_for_key(ZERO_IV);
    let tag = cipher(key)?.seal_in_place_separate_tag(nonce, Aad::from(aad), in_out).map_err(|_| ())?;
    tag.as_ref().try_into().map_err(|_| ())
}

/// Decrypts ciphertext and tag, in a copy: zeroed memory comes from the allocator's slow path, and copied memory does not.
pub(crate) fn decrypt_once(key: &Dek, aad: &[u8], sealed: &[u8]) -> Result<Secret, ()> {
    open_copy(&cipher(key)?, Nonce::assume_unique_for_key(ZERO_IV), aad, sealed)
}

/// Decrypts a copy of ciphertext and tag; it is wiped either way.
#[inline]
pub(crate) fn open_copy(cipher: &LessSafeKey, nonce: Nonce, aad: &[u8], sealed: &[u8]) -> Result<Secret, ()> {
    let mut secret = Secret::new(sealed.to_vec());
    let opened = secret.with_bytes(|bytes| cipher.open_in_place(nonce, Aad::from(aad), bytes).map(|text| text.len()));
    secret.truncate(opened.map_err(|_| ())?);
    Ok(secret)
}

/// Unwraps a 48-byte wrapped data key.
pub(crate) fn unwrap_once(key: &Dek, aad: &[u8], wrapped: &[u8]) -> Result<Dek, ()> {
    let (text, tag) = wrapped.split_at_checked(32).ok_or(())?;
    let nonce = Nonce::assume_unique_for_key(ZERO_IV);
    let mut out = [0; 32];
    let opened = cipher(key)?.open_separate_gather(nonce, Aad::from(aad), text, tag, &mut out);
    let dek = Dek::new(out);
    wipe(&mut out);
    opened.map(|()| dek).map_err(|_| ())
}
