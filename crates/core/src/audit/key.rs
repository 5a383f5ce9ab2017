//! The Ed25519 keys of the audit log, and the C2SP line by which a verifier knows one.

use std::{fmt, str::FromStr};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::{
    audit::{chain::hash, text::Deployment},
    error::Code,
    id::{from_hex, to_hex},
};

/// The longest key name, in bytes: `keyfold/`, a deployment, `/`, a writer.
const MAX_KEY_NAME: usize = 256;
/// The algorithm byte that C2SP signed-note gives Ed25519.
const ED25519_BYTE: u8 = 1;

/// Why a key or a verifier line was refused.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The seed did not make a key pair.
    #[error("the audit signing seed was refused")]
    Seed,

    /// Not `name+id+base64`.
    #[error("not a verifier key (`name+id+base64`)")]
    Malformed,

    /// The id in the line is not that of the name and key beside it.
    #[error("the verifier key's id does not belong to its name and key")]
    Id,
}

impl KeyError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        Code::KeyInvalid
    }
}

/// A signing key. The seed comes in from outside; nothing here can print or return it.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// The key that `seed` determines.
    ///
    /// # Errors
    /// The cryptographic library refuses the seed.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, KeyError> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(Self).map_err(|_| KeyError::Seed)
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let mut out = [0; 32];
        out.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(out)
    }

    /// Signs `message`. Deterministic.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut out = [0; 64];
        out.copy_from_slice(self.0.sign(message).as_ref());
        out
    }
}

/// The public half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Whether `signature` over `message` is this key's.
    #[must_use]
    pub fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }

    /// The id of this key under a name: `SHA-256(name ‖ "\n" ‖ 0x01 ‖ key)[0..4]`.
    #[must_use]
    pub fn id(&self, name: &str) -> [u8; 4] {
        let sum = hash(&[name.as_bytes(), b"\n", &[ED25519_BYTE], &self.0]).0;
        [sum[0], sum[1], sum[2], sum[3]]
    }
}

/// What somebody who checks the log must hold: a name and a public key. Prints as `name+id+base64(0x01 ‖ key)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key: PublicKey,
}

impl VerifierKey {
    /// The verifier key of a deployment.
    #[must_use]
    pub fn of(deployment: &Deployment, key: PublicKey) -> Self {
        Self { name: format!("keyfold/{deployment}"), key }
    }

    /// The name: `keyfold/` and the deployment.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Whether this is the key of `deployment`.
    #[must_use]
    pub fn is_of(&self, deployment: &Deployment) -> bool {
        self.name.strip_prefix("keyfold/") == Some(deployment.as_str())
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![ED25519_BYTE];
        bytes.extend_from_slice(&self.key.0);
        let id = to_hex(&self.key.id(&self.name));
        write!(f, "{}+{id}+{}", self.name, base64_simd::STANDARD.encode_to_string(&bytes))
    }
}

impl FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.len() > MAX_KEY_NAME + 64 {
            return Err(KeyError::Malformed);
        }
        let (name, rest) = text.split_once('+').ok_or(KeyError::Malformed)?;
        let (id, key) = rest.split_once('+').ok_or(KeyError::Malformed)?;
        let bytes = base64_simd::STANDARD.decode_to_vec(key).map_err(|_| KeyError::Malformed)?;
        let deployment = name.strip_prefix("keyfold/").ok_or(KeyError::Malformed)?;
        let deployment = Deployment::new(deployment).map_err(|_| KeyError::Malformed)?;
        let (&ED25519_BYTE, key) = bytes.split_first().ok_or(KeyError::Malformed)? else {
            return Err(KeyError::Malformed);
        };
        let key = PublicKey(key.try_into().map_err(|_| KeyError::Malformed)?);
        let id = from_hex::<4>(id).ok_or(KeyError::Malformed)?;
        if id == key.id(name) { Ok(Self::of(&deployment, key)) } else { Err(KeyError::Id) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_line_reads_back_and_a_wrong_id_is_refused() {
        let key = SigningKey::from_seed(&[7; 32]).unwrap().public();
        let line = VerifierKey::of(&Deployment::new("prod-1").unwrap(), key);
        let text = line.to_string();
        assert_eq!(text.parse::<VerifierKey>().unwrap(), line);
        assert_eq!(text.replacen("prod-1", "prod-2", 1).parse::<VerifierKey>(), Err(KeyError::Id));
        for bad in ["", "a+b", "keyfold/x+00000000+", "keyfold/x y+00000000+AQ=="] {
            assert_eq!(bad.parse::<VerifierKey>(), Err(KeyError::Malformed), "{bad}");
        }
    }

    #[test]
    fn a_signature_is_the_keys_own() {
        let (one, two) = (SigningKey::from_seed(&[1; 32]).unwrap(), SigningKey::from_seed(&[2; 32]).unwrap());
        let signature = one.sign(b"m");
        assert!(one.public().signed(b"m", &signature));
        assert!(!two.public().signed(b"m", &signature) && !one.public().signed(b"n", &signature));
        assert!(!one.public().signed(b"m", &signature[..63]));
    }
}
