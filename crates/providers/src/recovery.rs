//! The recovery key: kept offline, opens a keyring whose root keys are gone.
//!
//! The keyring holds its public half, `recovery:HEX`, and every writing of the document wraps for it. The private half is
//! printed once and opens nothing until somebody types it in. Wrapping is HPKE (RFC 9180: DHKEM(X25519, HKDF-SHA256),
//! HKDF-SHA256, AES-256-GCM), as rustls implements it on the one cryptographic library.

use async_trait::async_trait;
use aws_lc_rs::agreement::{PrivateKey, X25519};
use keyfold_core::{
    id::{from_hex, to_hex},
    mac,
    rng::{self, SystemRandom},
    root::{RootError, RootKey},
    secret::{Key32, Secret, wipe},
};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256,
    hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey},
};

const INFO: &[u8] = b"keyfold recovery v1";
const START: &str = "kfrec1";
/// An X25519 public value, and what is sealed: the key and its tag.
const WRAPPED: usize = 32 + 32 + 16;

fn hpke() -> &'static dyn Hpke {
    DH_KEM_X25519_HKDF_SHA256_AES_256
}

/// The private half. Nothing prints it but [`RecoveryKey::to_text`].
pub struct RecoveryKey(Key32);

impl RecoveryKey {
    /// Makes one.
    ///
    /// # Errors
    /// The random source.
    pub fn generate() -> Result<Self, rng::RandomError> {
        Ok(Self(Key32::new(rng::array(&SystemRandom)?)))
    }

    /// As it is printed and typed: `kfrec1`, eight groups of eight hex digits, and a group that finds mistakes.
    #[must_use]
    pub fn to_text(&self) -> Secret {
        let mut digits = to_hex(self.0.expose()).into_bytes();
        digits.extend_from_slice(self.check().as_bytes());
        let mut text = Vec::with_capacity(START.len() + digits.len() + 9);
        text.extend_from_slice(START.as_bytes());
        for group in digits.chunks(8) {
            text.push(b'-');
            text.extend_from_slice(group);
        }
        wipe(&mut digits);
        Secret::new(text)
    }

    /// Reads what [`RecoveryKey::to_text`] wrote; case, spaces and hyphens between the digits do not matter.
    ///
    /// # Errors
    /// Anything else. What was read is not repeated.
    pub fn parse(place: &str, text: &Secret) -> Result<Self, RootError> {
        let invalid = |why: &str| {
            RootError::Invalid {
            place: place.into(),
            why: why.into(),
            hint: "it begins with kfrec1 and has nine groups of eight hex digits, as `keyfold keys add-recovery` printed it"
                .into(),
        }
        };
        let start = text.expose().trim_ascii();
        let rest = start.get(..START.len()).filter(|start| start.eq_ignore_ascii_case(START.as_bytes()));
        rest.ok_or_else(|| invalid("not a recovery key"))?;
        let mut digits: Vec<u8> = Vec::with_capacity(start.len());
        digits.extend(start[START.len()..].iter().filter(|b| !b.is_ascii_whitespace() && **b != b'-'));
        let digits = Secret::new(digits);
        let found = digits.len();
        let whole = std::str::from_utf8(digits.expose()).ok().filter(|text| text.is_ascii() && text.len() == 72);
        let whole = whole.ok_or_else(|| invalid(&format!("a recovery key has 72 digits, {found} found")))?;
        let key = from_hex(&whole[..64]).map(|bytes| Self(Key32::new(bytes)));
        let key = key.ok_or_else(|| invalid("the recovery key has a character that is no hex digit"))?;
        if !whole[64..].eq_ignore_ascii_case(&key.check()) {
            return Err(invalid("the recovery key has a typing mistake: its last group does not fit"));
        }
        Ok(key)
    }

    fn check(&self) -> String {
        to_hex(&mac::sha256(&[b"keyfold recovery check v1\0", self.0.expose()])[..4])
    }

    /// The public half.
    ///
    /// # Errors
    /// The library refuses the key.
    pub fn public(&self) -> Result<[u8; 32], RootError> {
        let refused = || unavailable("recovery key");
        let key = PrivateKey::from_private_key(&X25519, self.0.expose()).map_err(|_| refused())?;
        let public = key.compute_public_key().map_err(|_| refused())?;
        public.as_ref().try_into().map_err(|_| refused())
    }

    /// The root key that this opens with.
    ///
    /// # Errors
    /// The library refuses the key.
    pub fn into_root(self) -> Result<RecoveryRoot, RootError> {
        Ok(RecoveryRoot {
            private: Some(HpkePrivateKey::from(self.0.expose().to_vec())),
            ..RecoveryRoot::new(self.public()?)
        })
    }
}

fn unavailable(place: &str) -> RootError {
    RootError::Unavailable {
        place: place.into(),
        why: "the cryptographic library refused the key".into(),
        retry: false,
    }
}

/// A root key that wraps for the recovery key, and unwraps where the private half was given.
pub struct RecoveryRoot {
    uri: String,
    public: [u8; 32],
    private: Option<HpkePrivateKey>,
}

impl RecoveryRoot {
    /// For a public half: wraps only.
    #[must_use]
    pub fn new(public: [u8; 32]) -> Self {
        Self { uri: format!("recovery:{}", to_hex(&public)), public, private: None }
    }
}

#[async_trait]
impl RootKey for RecoveryRoot {
    fn uri(&self) -> &str {
        &self.uri
    }

    async fn wrap(&self, key: &Key32, aad: &[u8]) -> Result<Vec<u8>, RootError> {
        let public = HpkePublicKey(self.public.to_vec());
        let sealed = hpke().seal(INFO, aad, key.expose(), &public);
        let (EncapsulatedSecret(mut out), sealed) = sealed.map_err(|_| unavailable(&self.uri))?;
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    async fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<Key32, RootError> {
        let Some(private) = &self.private else {
            return Err(RootError::Invalid {
                place: self.uri.clone(),
                why: "this is the public half of the recovery key, which opens nothing".into(),
                hint: "restore with the recovery key itself: docs/recover.md".into(),
            });
        };
        let failed = || RootError::Authentication { place: self.uri.clone() };
        if wrapped.len() != WRAPPED {
            return Err(failed());
        }
        let (enc, sealed) = wrapped.split_at(32);
        let enc = EncapsulatedSecret(enc.to_vec());
        let opened = Secret::new(hpke().open(&enc, INFO, aad, sealed, private).map_err(|_| failed())?);
        let key: &[u8; 32] = opened.expose().try_into().map_err(|_| failed())?;
        Ok(Key32::new(*key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_public_half_wraps_what_the_private_half_opens() {
        let key = RecoveryKey::generate().unwrap();
        let public = RecoveryRoot::new(key.public().unwrap());
        let wrapped = public.wrap(&Key32::new([7; 32]), b"aad").await.unwrap();
        assert_eq!(wrapped.len(), WRAPPED);
        let refused = public.unwrap(&wrapped, b"aad").await.err().unwrap();
        assert_eq!(refused.kind(), "invalid");
        let other = RecoveryKey::generate().unwrap().into_root().unwrap();
        assert_eq!(other.unwrap(&wrapped, b"aad").await.err().unwrap().kind(), "authentication");
        let text = key.to_text();
        let root = RecoveryKey::parse("test", &text).unwrap().into_root().unwrap();
        assert_eq!(root.uri(), public.uri());
        assert_eq!(root.unwrap(&wrapped, b"aad").await.ok().unwrap().expose(), &[7; 32]);
    }

    #[test]
    fn p09_a_recovery_key_with_a_mistake_is_refused_and_not_repeated() {
        let text = RecoveryKey::generate().unwrap().to_text();
        let text = std::str::from_utf8(text.expose()).unwrap();
        for same in [text.to_uppercase(), text.replace('-', " "), format!(" {text}\n")] {
            RecoveryKey::parse("test", &Secret::from(same)).unwrap();
        }
        let last = if text.ends_with('0') { "1" } else { "0" };
        for wrong in [
            String::new(),
            text[..text.len() - 1].to_owned(),
            format!("{text}0"),
            format!("{}{last}", &text[..text.len() - 1]),
            text.replacen("kfrec1", "kfrec2", 1),
            "kfrec1-é".into(),
        ] {
            let error = RecoveryKey::parse("test", &Secret::from(wrong)).err().unwrap();
            assert!(!error.to_string().contains(&text[8..16]), "{error}");
        }
    }
}
