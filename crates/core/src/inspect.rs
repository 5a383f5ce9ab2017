//! What can be said of a value without a key.

use crate::{
    clock::UnixTime,
    detect::{Detected, detect},
    envelope::{Format, OpenError, Reading, fernet, kf1, redis_sre_v1},
    id::{Commitment, KeyId},
};

/// Everything that a sealed value shows to whoever holds no key. Nothing of plaintext is repeated, only its length.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Inspection {
    /// `kf1`, `v1`, `fernet`, `plaintext`, `malformed`, `malformed_v1`, `unsupported_format` or `foreign`.
    pub format: &'static str,
    /// `kf1` only: the key that wraps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<KeyId>,
    /// `kf1` only: what stays the same through every rewrap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commitment: Option<Commitment>,
    /// Fernet only: seconds since the epoch, as claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<UnixTime>,
    /// Bytes of the stored value.
    pub size: usize,
    /// Bytes of the secret inside; for Fernet the most it can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_size: Option<usize>,
    /// What is wrong with it, where a strict reader would refuse it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Looks at a stored value.
#[must_use]
pub fn inspect(stored: &str) -> Inspection {
    let detected = detect(stored);
    let mut out = Inspection {
        format: detected.as_str(),
        kid: None,
        commitment: None,
        timestamp: None,
        size: stored.len(),
        secret_size: None,
        problem: None,
    };
    let looked = match detected {
        Detected::Sealed(format) => fill(&mut out, format, stored),
        Detected::Plaintext => Ok(()),
        other => other.sealed().map(|_| ()),
    };
    out.problem = looked.err().map(|error| error.to_string());
    out
}

fn fill(out: &mut Inspection, format: Format, stored: &str) -> Result<(), OpenError> {
    match format {
        Format::Kf1 => {
            let envelope = kf1::Envelope::from_text(stored)?;
            out.kid = Some(envelope.kid());
            out.commitment = Some(envelope.commitment());
            out.secret_size = Some(envelope.secret_len());
        }
        Format::V1 => out.secret_size = Some(redis_sre_v1::Envelope::parse(stored, Reading::Strict)?.secret_len()),
        Format::Fernet => {
            let token = fernet::Token::parse(stored, Reading::Strict)?;
            out.timestamp = Some(token.timestamp());
            out.secret_size = Some(token.body_len() - 1);
        }
    }
    Ok(())
}
