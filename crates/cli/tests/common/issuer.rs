//! An issuer of JWTs: its key, and the place where others find the public half.

use std::time::SystemTime;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64_simd::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::fake::Fake;

/// Somebody who signs JWTs.
pub(crate) struct Issuer {
    key: Ed25519KeyPair,
    pub(crate) fake: Fake,
}

impl Issuer {
    pub(crate) fn new(seed: u8) -> Self {
        Self::telling(seed, str::to_owned)
    }

    /// One who says something of his own when he is asked for his keys.
    pub(crate) fn telling(seed: u8, tell: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let key = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let x = URL_SAFE_NO_PAD.encode_to_string(key.public_key().as_ref());
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "k1", "x": x });
        let keys = json!({ "keys": [jwk] }).to_string();
        Self { key, fake: Fake::serve(move |path| if path == "/jwks" { tell(&keys) } else { "{}".into() }) }
    }

    pub(crate) fn jwt(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode_to_string(value.to_string());
        let text = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode_to_string(self.key.sign(text.as_bytes()).as_ref());
        format!("{text}.{signature}")
    }
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the issuer is another machine, with a clock of its own")]
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}
