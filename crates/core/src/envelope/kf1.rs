//! `kf1`: Keyfold's own envelope.
//!
//! ```text
//! H0     = F6 01 01 00                                    magic, version, suite, flags
//! DEK    = HMAC-SHA256(Expand(M, "kf1 hedge\0"), rnd32 ‖ CD ‖ P)
//! C      = Expand(DEK, "kf1 com\0" ‖ H0 ‖ CD)             commitment to key and context
//! K_enc  = Expand(DEK, "kf1 enc\0" ‖ H0 ‖ CD)
//! body   = AES-256-GCM(K_enc, IV = 0^96, P, AAD = H0 ‖ C)
//! K_w    = Expand(M, "kf1 wrap\0" ‖ H0 ‖ C ‖ CD ‖ SHA-256(body))
//! W      = AES-256-GCM(K_w, IV = 0^96, DEK, AAD = H0 ‖ C ‖ kid ‖ CD)
//! bytes  = H0(4) ‖ C(32) ‖ kid(8) ‖ W(48) ‖ body(|P|+16)  108 bytes more than P
//! text   = "kf1." ‖ base64url(bytes), no padding, canonical only
//! ```
//!
//! Expand is HKDF-Expand-SHA256 (RFC 5869 §2.3); CD is the digest of the [context](crate::context). Every K_enc and K_w
//! encrypts one message, so the zero IVs are right and nothing is counted. The commitment follows hash-then-encrypt
//! (ePrint 2022/268), since AES-GCM alone commits to neither key nor context.
//!
//! Not promised: secrecy after a rewrap (who held the old key and an old copy knows the DEK; reseal instead), detection of
//! rollback to an older envelope of the same context, and hiding of the secret's length.

use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::{Format, OpenError, SealError};
use crate::{
    context::ContextDigest,
    dek::{self, Dek},
    id::{Commitment, KeyId},
    keyring::MasterKey,
    mac::{self, HmacKey},
    rng::{self, RandomSource},
    secret::{MAX_SECRET, Secret},
};

/// Magic, version, suite and flags of the one suite there is.
pub const HEADER: [u8; 4] = [0xF6, 0x01, 0x01, 0x00];
/// What the text form starts with.
pub const PREFIX: &str = "kf1.";
/// Bytes that an envelope has more than its secret.
pub const OVERHEAD: usize = 108;

const COMMITMENT: std::ops::Range<usize> = 4..36;
const KID: std::ops::Range<usize> = 36..44;
const WRAPPED: std::ops::Range<usize> = 44..92;
const BODY: usize = 92;
const TAG: usize = 16;

/// A well-formed envelope: its lengths and header are right. Whether it opens is another matter.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope(Vec<u8>);

impl Envelope {
    /// Takes the binary form.
    ///
    /// # Errors
    /// `malformed`, `unsupported_format`, `unsupported_suite` or `too_large`.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, OpenError> {
        let malformed = |offset, what| Err(OpenError::Malformed { format: Format::Kf1, offset, what });
        if bytes.first() != Some(&HEADER[0]) {
            return malformed(0, "the first byte is not F6");
        }
        if bytes.get(1).is_some_and(|&version| version != HEADER[1]) {
            return Err(OpenError::UnsupportedFormat("a version of the kf family that is not kf1"));
        }
        if bytes.get(2).is_some_and(|&suite| suite != HEADER[2]) {
            return Err(OpenError::UnsupportedSuite(format!("{:#04x}", bytes[2])));
        }
        if bytes.get(3).is_some_and(|&flags| flags != HEADER[3]) {
            return Err(OpenError::UnsupportedSuite(format!("with flags {:#04x}", bytes[3])));
        }
        if bytes.len() < OVERHEAD {
            return malformed(bytes.len(), "the envelope ends early");
        }
        if bytes.len() > OVERHEAD + MAX_SECRET {
            return Err(OpenError::TooLarge);
        }
        Ok(Self(bytes))
    }

    /// Takes the text form.
    ///
    /// # Errors
    /// As [`Envelope::from_bytes`], and `malformed` for base64url that is not canonical.
    pub fn from_text(text: &str) -> Result<Self, OpenError> {
        let malformed = |offset, what| OpenError::Malformed { format: Format::Kf1, offset, what };
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            return Err(malformed(0, "the text does not start with `kf1.`"));
        };
        if encoded.len() > (OVERHEAD + MAX_SECRET).div_ceil(3) * 4 {
            return Err(OpenError::TooLarge);
        }
        let bytes = super::lenient::decode_url_no_pad(encoded.as_bytes())
            .map_err(|offset| malformed(PREFIX.len() + offset, "not canonical base64url"))?;
        Self::from_bytes(bytes)
    }

    /// The binary form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text form.
    #[must_use]
    pub fn to_text(&self) -> String {
        let engine = base64_simd::URL_SAFE_NO_PAD;
        let mut out = String::with_capacity(PREFIX.len() + engine.encoded_length(self.0.len()));
        out.push_str(PREFIX);
        engine.encode_append(&self.0, &mut out);
        out
    }

    /// The id of the key that wraps the DEK: opaque, to be looked up.
    #[must_use]
    pub fn kid(&self) -> KeyId {
        KeyId(take(&self.0[KID]))
    }

    /// What stays the same through every rewrap.
    #[must_use]
    pub fn commitment(&self) -> Commitment {
        Commitment(take(&self.0[COMMITMENT]))
    }

    /// Length of the secret inside, in bytes.
    #[must_use]
    pub fn secret_len(&self) -> usize {
        self.0.len() - OVERHEAD
    }

    fn wrapped(&self) -> &[u8] {
        &self.0[WRAPPED]
    }

    fn body(&self) -> &[u8] {
        &self.0[BODY..]
    }
}

#[inline]
fn take<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

/// Seals under `key` for the place that `context` names.
///
/// # Errors
/// `too_large`, and failing randomness.
pub fn seal(
    key: &MasterKey,
    random: &dyn RandomSource,
    context: &ContextDigest,
    secret: &[u8],
) -> Result<Envelope, SealError> {
    seal_with(key, &rng::array(random)?, context, secret)
}

/// [`seal`] with chosen randomness, for known answers. Never give the same bytes twice outside a test.
///
/// # Errors
/// `too_large`.
pub fn seal_with(
    key: &MasterKey,
    random32: &[u8; 32],
    context: &ContextDigest,
    secret: &[u8],
) -> Result<Envelope, SealError> {
    if secret.len() > MAX_SECRET {
        return Err(SealError::TooLarge { found: secret.len(), limit: MAX_SECRET });
    }
    let dek = Dek::hedged(key, random32, context, secret);
    let (commitment, body_key) = derived(&dek, context);
    let mut bytes = Vec::with_capacity(OVERHEAD + secret.len());
    let mut head = [0; BODY];
    head[..4].copy_from_slice(&HEADER);
    head[COMMITMENT].copy_from_slice(&commitment);
    head[KID].copy_from_slice(&key.kid().0);
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(secret);
    let tag = dek::encrypt_once(&body_key, &head[..36], &mut bytes[BODY..]).map_err(|()| SealError::Library)?;
    bytes.extend_from_slice(&tag);
    wrap(key, &dek, context, &mut bytes).map_err(|()| SealError::Library)?;
    Ok(Envelope(bytes))
}

/// Opens with the key that the envelope names. The caller looked it up; another key's envelope does not authenticate.
///
/// # Errors
/// `context_mismatch_or_tampered`.
pub fn open(key: &MasterKey, envelope: &Envelope, context: &ContextDigest) -> Result<Secret, OpenError> {
    unwrapped(key, envelope, context).map(|(secret, _)| secret)
}

/// An envelope that was opened, with its data key, so that a rewrap need not unwrap it again.
pub(crate) struct Kept {
    envelope: Envelope,
    dek: Dek,
}

impl Kept {
    /// As [`rewrap`].
    pub(crate) fn rewrap(self, to: &MasterKey, context: &ContextDigest) -> Result<Envelope, OpenError> {
        rewrapped(self.envelope, &self.dek, to, context)
    }
}

/// [`open`], and what a rewrap needs.
pub(crate) fn open_kept(
    key: &MasterKey,
    envelope: Envelope,
    context: &ContextDigest,
) -> Result<(Secret, Kept), OpenError> {
    let (secret, dek) = unwrapped(key, &envelope, context)?;
    Ok((secret, Kept { envelope, dek }))
}

fn unwrapped(key: &MasterKey, envelope: &Envelope, context: &ContextDigest) -> Result<(Secret, Dek), OpenError> {
    let (dek, body_key) = unwrap(key, envelope, context)?;
    let secret = dek::decrypt_once(&body_key, &envelope.0[..36], envelope.body()).map_err(|()| mismatch(envelope))?;
    Ok((secret, dek))
}

/// Moves an envelope to another key: same DEK, commitment and body. Deterministic; needs the digest of the context, not the
/// context, and does not decrypt the body, which K_w authenticates all the same.
///
/// # Errors
/// `context_mismatch_or_tampered`.
pub fn rewrap(
    from: &MasterKey,
    to: &MasterKey,
    envelope: &Envelope,
    context: &ContextDigest,
) -> Result<Envelope, OpenError> {
    let (dek, _) = unwrap(from, envelope, context)?;
    rewrapped(envelope.clone(), &dek, to, context)
}

fn rewrapped(
    mut envelope: Envelope,
    dek: &Dek,
    to: &MasterKey,
    context: &ContextDigest,
) -> Result<Envelope, OpenError> {
    let failed = mismatch(&envelope);
    envelope.0[KID].copy_from_slice(&to.kid().0);
    wrap(to, dek, context, &mut envelope.0).map_err(|()| failed)?;
    Ok(envelope)
}

fn mismatch(envelope: &Envelope) -> OpenError {
    OpenError::ContextMismatchOrTampered { kid: envelope.kid() }
}

/// The data key, and the key of the body, once the wrap and the commitment have proved it.
fn unwrap(key: &MasterKey, envelope: &Envelope, context: &ContextDigest) -> Result<(Dek, Dek), OpenError> {
    let head: [u8; 44] = take(&envelope.0[..44]);
    let stored: [u8; 32] = take(&head[COMMITMENT]);
    let wrap_key = wrap_key(key, &stored, context, envelope.body());
    let dek =
        dek::unwrap_once(&wrap_key, &wrap_aad(&head, context), envelope.wrapped()).map_err(|()| mismatch(envelope))?;
    let (commitment, body_key) = derived(&dek, context);
    verify_slices_are_equal(&commitment, &stored).map_err(|_| mismatch(envelope))?;
    Ok((dek, body_key))
}

/// Fills in W. Header, commitment, kid and body are in place.
fn wrap(key: &MasterKey, dek: &Dek, context: &ContextDigest, bytes: &mut [u8]) -> Result<(), ()> {
    let head: [u8; 44] = take(&bytes[..44]);
    let wrap_key = wrap_key(key, &take(&head[COMMITMENT]), context, &bytes[BODY..]);
    let place = &mut bytes[WRAPPED];
    place[..32].copy_from_slice(dek.expose());
    let tag = dek::encrypt_once(&wrap_key, &wrap_aad(&head, context), &mut place[..32])?;
    place[32..32 + TAG].copy_from_slice(&tag);
    Ok(())
}

/// C and K_enc: `Expand(DEK, label ‖ H0 ‖ CD)` for their two labels.
fn derived(dek: &Dek, context: &ContextDigest) -> ([u8; 32], Dek) {
    let key = HmacKey::new(dek.expose());
    let mut info = [0; 8 + 4 + 32 + 1];
    info[..8].copy_from_slice(b"kf1 com\0");
    info[8..12].copy_from_slice(&HEADER);
    info[12..44].copy_from_slice(context.as_bytes());
    info[44] = 1;
    let commitment = key.sign_short(&info);
    info[..8].copy_from_slice(b"kf1 enc\0");
    (commitment, Dek::new(key.sign_short(&info)))
}

/// K_w: `Expand(M, "kf1 wrap\0" ‖ H0 ‖ C ‖ CD ‖ SHA-256(body))`.
fn wrap_key(key: &MasterKey, commitment: &[u8; 32], context: &ContextDigest, body: &[u8]) -> Dek {
    let mut info = [0; 9 + 4 + 32 + 32 + 32 + 1];
    info[..9].copy_from_slice(b"kf1 wrap\0");
    info[9..13].copy_from_slice(&HEADER);
    info[13..45].copy_from_slice(commitment);
    info[45..77].copy_from_slice(context.as_bytes());
    info[77..109].copy_from_slice(&mac::sha256(&[body]));
    info[109] = 1;
    Dek::new(key.mac().sign_short(&info))
}

/// What the wrap authenticates beside the DEK: `H0 ‖ C ‖ kid ‖ CD`.
fn wrap_aad(head: &[u8; 44], context: &ContextDigest) -> [u8; 76] {
    let mut aad = [0; 76];
    aad[..44].copy_from_slice(head);
    aad[44..].copy_from_slice(context.as_bytes());
    aad
}

/// The keyed binding kept beside a Fernet token in our own records: `HMAC(Expand(M, "kf1 fernet bind\0"), CD ‖ token)`.
#[must_use]
pub fn fernet_binding(key: &MasterKey, context: &ContextDigest, token: &str) -> [u8; 32] {
    let bind = Dek::new(mac::expand(key.expose(), b"kf1 fernet bind\0", &[]));
    mac::hmac(bind.expose(), &[context.as_bytes(), token.as_bytes()])
}
