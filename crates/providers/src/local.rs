//! A root key held in this process's memory, whether it came from a file or from the environment.

use std::path::PathBuf;

use async_trait::async_trait;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use keyfold_core::{
    mac,
    rng::{RandomSource, SystemRandom},
    root::{RootError, RootKey, Tended},
    secret::{Key32, wipe},
};

const TAG: usize = 16;
const WRAPPED: usize = NONCE_LEN + 32 + TAG;

/// Wraps under `Expand(root, "keyfold root wrap v1\0")` with AES-256-GCM and a random nonce: `nonce(12) ‖ key(32) ‖ tag(16)`.
///
/// A keyring is written a few times a year, far below the 2^32 wraps that random nonces allow (NIST SP 800-38D §8.3).
pub struct LocalRoot {
    uri: String,
    cipher: LessSafeKey,
    /// Where it is read again when it is looked after.
    file: Option<PathBuf>,
}

impl LocalRoot {
    /// Sets up a root key that was read from `uri`.
    ///
    /// # Errors
    /// Where the library refuses the key.
    pub fn new(uri: String, root: &Key32) -> Result<Self, RootError> {
        let mut derived = mac::expand(root.expose(), b"keyfold root wrap v1\0", &[]);
        let cipher = UnboundKey::new(&AES_256_GCM, &derived).map(LessSafeKey::new);
        wipe(&mut derived);
        let cipher = cipher.map_err(|_| RootError::Unavailable {
            place: uri.clone(),
            why: "the cryptographic library refused the key".into(),
            retry: false,
        })?;
        Ok(Self { uri, cipher, file: None })
    }

    /// The same key, which a start would read from this file.
    pub(crate) fn in_file(self, path: PathBuf) -> Self {
        Self { file: Some(path), ..self }
    }

    fn failed(&self) -> RootError {
        RootError::Authentication { place: self.uri.clone() }
    }
}

#[async_trait]
impl RootKey for LocalRoot {
    fn uri(&self) -> &str {
        &self.uri
    }

    async fn wrap(&self, key: &Key32, aad: &[u8]) -> Result<Vec<u8>, RootError> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom.fill(&mut nonce).map_err(|error| RootError::Unavailable {
            place: self.uri.clone(),
            why: error.to_string(),
            retry: false,
        })?;
        let mut out = vec![0; WRAPPED];
        out[..NONCE_LEN].copy_from_slice(&nonce);
        out[NONCE_LEN..NONCE_LEN + 32].copy_from_slice(key.expose());
        let tag = self
            .cipher
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                &mut out[NONCE_LEN..NONCE_LEN + 32],
            )
            .map_err(|_| self.failed())?;
        out[NONCE_LEN + 32..].copy_from_slice(tag.as_ref());
        Ok(out)
    }

    async fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<Key32, RootError> {
        if wrapped.len() != WRAPPED {
            return Err(self.failed());
        }
        let (nonce, sealed) = wrapped.split_at(NONCE_LEN);
        let (text, tag) = sealed.split_at(32);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| self.failed())?;
        let mut out = [0; 32];
        let opened = self.cipher.open_separate_gather(nonce, Aad::from(aad), text, tag, &mut out);
        let key = Key32::new(out);
        wipe(&mut out);
        opened.map(|()| key).map_err(|_| self.failed())
    }

    /// Whether the file still holds this key. What came from the environment stays with the process.
    async fn tend(&self) -> Result<Tended, RootError> {
        if let Some(path) = &self.file {
            let wrapped = self.wrap(&Key32::new([0; 32]), b"keyfold probe").await?;
            crate::file::open(path)?.unwrap(&wrapped, b"keyfold probe").await?;
        }
        Ok(Tended::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(byte: u8) -> LocalRoot {
        LocalRoot::new("test:".into(), &Key32::new([byte; 32])).unwrap()
    }

    #[tokio::test]
    async fn a_wrapped_key_opens_with_the_same_root_and_use_only() {
        let key = Key32::new([7; 32]);
        let wrapped = root(1).wrap(&key, b"entry a").await.unwrap();
        assert_eq!(root(1).unwrap(&wrapped, b"entry a").await.ok().unwrap().expose(), key.expose());
        assert!(root(1).unwrap(&wrapped, b"entry b").await.is_err());
        assert!(root(2).unwrap(&wrapped, b"entry a").await.is_err());
        for i in 0..wrapped.len() {
            let mut changed = wrapped.clone();
            changed[i] ^= 1;
            assert!(root(1).unwrap(&changed, b"entry a").await.is_err(), "byte {i}");
            assert!(root(1).unwrap(&wrapped[..i], b"entry a").await.is_err(), "cut at {i}");
        }
    }

    #[tokio::test]
    async fn a_root_never_wraps_under_its_own_bytes() {
        let wrapped = root(1).wrap(&Key32::new([7; 32]), b"").await.unwrap();
        let raw = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[1; 32]).unwrap());
        let mut sealed = wrapped[NONCE_LEN..].to_vec();
        let nonce = Nonce::try_assume_unique_for_key(&wrapped[..NONCE_LEN]).unwrap();
        assert!(raw.open_in_place(nonce, Aad::empty(), &mut sealed).is_err());
    }
}
