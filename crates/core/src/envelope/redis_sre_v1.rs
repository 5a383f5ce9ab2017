//! `v1`: redis-sre-agent's envelope, byte for byte.
//!
//! `base64(json)` where the JSON is what Python's `json.dumps` writes for `{"version", "ciphertext", "nonce",
//! "wrapped_dek", "dek_nonce"}`, each value standard base64. Both layers are AES-256-GCM with random 96-bit nonces and no
//! associated data: the data key under the master key, the secret under the data key.
//!
//! Not promised, because the format cannot: a key id, a binding to a place (a value pasted into another record opens
//! there), more than 2^32 wraps under one master key (NIST SP 800-38D §8.3).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64_simd::{AsOut, STANDARD};

use super::{Format, OpenError, Reading, SealError, lenient};
use crate::{
    dek::{self, Dek},
    keyring::MasterKey,
    mac,
    rng::RandomSource,
    secret::{MAX_SECRET, Secret, wipe},
};

/// Most wraps that one master key may make with random nonces (NIST SP 800-38D §8.3).
pub const MAX_WRAPS: u64 = 1 << 32;
/// From here on a person should be told.
pub const WARN_WRAPS: u64 = 1 << 31;

/// How the text of an envelope starts that the original wrote.
pub const START: &str = "eyJ2ZXJzaW9uIjogInYxIiwg";

const NONCE: usize = 12;
const WRAPPED: usize = 48;
const SHORT_TEXT: usize = (NONCE + WRAPPED + NONCE) / 3 * 4;
/// The text of the longest secret; anything longer is refused before it is decoded.
const MAX_TEXT: usize = (MAX_SECRET + 16) * 16 / 9 + 1024;

/// A parsed envelope. Whether it opens is another matter.
pub struct Envelope {
    ciphertext: Vec<u8>,
    nonce: [u8; NONCE],
    wrapped_dek: [u8; WRAPPED],
    dek_nonce: [u8; NONCE],
}

/// Seals text under the raw master key.
///
/// The data key is random, with the secret hashed into it: `rnd32 ⊕ (GMAC(Expand(M, "v1 hedge\0"), nonce, P) ‖ 0^128)` (NIST
/// SP 800-38D; the tag is never published). The tag of the body masks the random nonce of the wrap. So where randomness
/// repeats (a cloned machine), two secrets still get two data keys and two wrap nonces, but for a chance of about
/// |P| · 2^-131. The HMAC that `kf1` uses for this would cost as much as the rest of a seal.
///
/// # Errors
/// `too_large`, text that is not UTF-8, failing randomness.
pub fn seal(key: &MasterKey, random: &dyn RandomSource, secret: &[u8]) -> Result<String, SealError> {
    sealable(secret)?;
    let mut fresh = [0; 32 + 2 * NONCE];
    random.fill(&mut fresh)?;
    let (dek, nonces) = fresh.split_at_mut(32);
    let nonce: [u8; NONCE] = part(&nonces[..NONCE]);
    let mut dek_nonce: [u8; NONCE] = part(&nonces[NONCE..]);
    let hash = key
        .v1_hedge()
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(secret), &mut [])
        .map_err(|_| SealError::Library)?;
    mask(dek, hash.as_ref());
    let dek = Dek::new(part(dek));
    wipe(&mut fresh);
    seal_parts(key, secret, &dek, nonce, |tag| {
        mask(&mut dek_nonce, tag);
        dek_nonce
    })
}

fn mask(bytes: &mut [u8], with: &[u8]) {
    for (byte, mask) in bytes.iter_mut().zip(with) {
        *byte ^= mask;
    }
}

fn part<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

fn sealable(secret: &[u8]) -> Result<(), SealError> {
    if secret.len() > MAX_SECRET {
        return Err(SealError::TooLarge { found: secret.len(), limit: MAX_SECRET });
    }
    std::str::from_utf8(secret).map(|_| ()).map_err(|_| SealError::NotText)
}

/// [`seal`] with a chosen data key and nonces, for known answers. Never give the same ones twice outside a test.
///
/// # Errors
/// As [`seal`], without the randomness.
pub fn seal_with(
    key: &MasterKey,
    secret: &[u8],
    dek: &Dek,
    nonce: [u8; NONCE],
    dek_nonce: [u8; NONCE],
) -> Result<String, SealError> {
    sealable(secret)?;
    seal_parts(key, secret, dek, nonce, |_| dek_nonce)
}

fn seal_parts(
    key: &MasterKey,
    secret: &[u8],
    dek: &Dek,
    nonce: [u8; NONCE],
    dek_nonce: impl FnOnce(&[u8]) -> [u8; NONCE],
) -> Result<String, SealError> {
    let cipher = UnboundKey::new(&AES_256_GCM, dek.expose()).map(LessSafeKey::new).map_err(|_| SealError::Library)?;
    let mut ciphertext = Vec::with_capacity(secret.len() + 16);
    ciphertext.extend_from_slice(secret);
    let tag = cipher
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut ciphertext)
        .map_err(|_| SealError::Library)?;
    ciphertext.extend_from_slice(tag.as_ref());
    let dek_nonce = dek_nonce(tag.as_ref());
    let wrapped_dek = wrap(key, dek, dek_nonce)?;
    Ok(Envelope { ciphertext, nonce, wrapped_dek, dek_nonce }.to_text())
}

fn wrap(key: &MasterKey, dek: &Dek, dek_nonce: [u8; NONCE]) -> Result<[u8; WRAPPED], SealError> {
    let mut wrapped = [0; WRAPPED];
    wrapped[..32].copy_from_slice(dek.expose());
    let tag = key
        .v1_cipher()
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(dek_nonce), Aad::empty(), &mut wrapped[..32])
        .map_err(|_| SealError::Library)?;
    wrapped[32..].copy_from_slice(tag.as_ref());
    Ok(wrapped)
}

impl Envelope {
    /// Reads the text form.
    ///
    /// # Errors
    /// `malformed` with the offset, or `too_large`.
    pub fn parse(text: &str, reading: Reading) -> Result<Self, OpenError> {
        if text.len() > MAX_TEXT {
            return Err(OpenError::TooLarge);
        }
        match reading {
            Reading::Strict => Self::parse_strict(text),
            Reading::Compat => Self::parse_compat(text),
        }
    }

    fn parse_strict(text: &str) -> Result<Self, OpenError> {
        let json =
            lenient::decode_standard(text.as_bytes()).map_err(|offset| malformed(offset, "not canonical base64"))?;
        if let Some(envelope) = Self::as_written(&json) {
            return envelope.checked();
        }
        let mut fields: [Option<&[u8]>; 5] = [None; 5];
        let mut rest = json.strip_prefix(b"{\"").ok_or_else(|| malformed(0, "not a JSON object"))?;
        loop {
            let offset = json.len() - rest.len();
            let (name, after) =
                split(rest, b"\": \"").ok_or_else(|| malformed(offset, "not a member as json.dumps writes it"))?;
            let place = MEMBERS
                .iter()
                .position(|member| member.as_bytes() == name)
                .ok_or_else(|| malformed(offset, "an unknown member"))?;
            let end = memchr::memchr(b'"', after).ok_or_else(|| malformed(offset, "a string that does not end"))?;
            if fields[place].replace(&after[..end]).is_some() {
                return Err(malformed(offset, "a member given twice"));
            }
            rest = &after[end + 1..];
            if rest == b"}" {
                break;
            }
            let offset = json.len() - rest.len();
            rest = rest.strip_prefix(b", \"").ok_or_else(|| malformed(offset, "not spaced as json.dumps writes it"))?;
        }
        let [Some(version), Some(ciphertext), Some(nonce), Some(wrapped_dek), Some(dek_nonce)] = fields else {
            return Err(malformed(json.len(), "a member is missing"));
        };
        if version != b"v1" {
            return Err(OpenError::UnsupportedFormat("a redis-sre-agent envelope of another version than v1"));
        }
        let mut envelope = Self {
            ciphertext: lenient::decode_standard(ciphertext)
                .map_err(|_| malformed(0, "the ciphertext is not canonical base64"))?,
            nonce: [0; NONCE],
            wrapped_dek: [0; WRAPPED],
            dek_nonce: [0; NONCE],
        };
        lenient::decode_exact(nonce, &mut envelope.nonce).map_err(|()| malformed(0, NONCE_RULE))?;
        lenient::decode_exact(dek_nonce, &mut envelope.dek_nonce).map_err(|()| malformed(0, DEK_NONCE_RULE))?;
        lenient::decode_exact(wrapped_dek, &mut envelope.wrapped_dek).map_err(|()| malformed(0, WRAPPED_RULE))?;
        envelope.checked()
    }

    /// Exactly what [`Envelope::to_text`] writes, without a search for where the members are. Anything else takes the long
    /// way, which also knows what is wrong with it.
    fn as_written(json: &[u8]) -> Option<Self> {
        let rest = json.strip_prefix(OPENING)?;
        let (ciphertext, rest) = rest.split_at_checked(rest.len().checked_sub(CLOSING)?)?;
        let (nonce, rest) = rest.strip_prefix(NONCE_MEMBER)?.split_at_checked(NONCE / 3 * 4)?;
        let (wrapped_dek, rest) = rest.strip_prefix(WRAPPED_MEMBER)?.split_at_checked(WRAPPED / 3 * 4)?;
        let (dek_nonce, rest) = rest.strip_prefix(DEK_NONCE_MEMBER)?.split_at_checked(NONCE / 3 * 4)?;
        if rest != END {
            return None;
        }
        let mut text = [0; SHORT_TEXT];
        for (place, part) in [(0, nonce), (NONCE / 3 * 4, wrapped_dek), ((NONCE + WRAPPED) / 3 * 4, dek_nonce)] {
            text[place..place + part.len()].copy_from_slice(part);
        }
        // Padding in the first or second part would be padding within the whole, which is not canonical.
        let mut short = [0; NONCE + WRAPPED + NONCE];
        lenient::decode_exact(&text, &mut short).ok()?;
        let mut envelope = Self {
            ciphertext: lenient::decode_standard(ciphertext).ok()?,
            nonce: [0; NONCE],
            wrapped_dek: [0; WRAPPED],
            dek_nonce: [0; NONCE],
        };
        envelope.nonce.copy_from_slice(&short[..NONCE]);
        envelope.wrapped_dek.copy_from_slice(&short[NONCE..NONCE + WRAPPED]);
        envelope.dek_nonce.copy_from_slice(&short[NONCE + WRAPPED..]);
        Some(envelope)
    }

    /// What Python's `base64.b64decode` and `json.loads` accept.
    fn parse_compat(text: &str) -> Result<Self, OpenError> {
        let json = lenient::decode_as_python(text.as_bytes()).ok_or_else(|| malformed(0, "not base64"))?;
        let doc: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&json).map_err(|error| malformed(error.column(), "not a JSON object"))?;
        if doc.get("version").and_then(|version| version.as_str()) != Some("v1") {
            return Err(OpenError::UnsupportedFormat("a redis-sre-agent envelope of another version than v1"));
        }
        let field = |name: &str| {
            doc.get(name)
                .and_then(|value| value.as_str())
                .and_then(|value| lenient::decode_as_python(value.as_bytes()))
                .ok_or_else(|| malformed(0, "a member is missing or not base64"))
        };
        Self {
            ciphertext: field("ciphertext")?,
            nonce: field("nonce")?.try_into().map_err(|_| malformed(0, NONCE_RULE))?,
            wrapped_dek: field("wrapped_dek")?.try_into().map_err(|_| malformed(0, WRAPPED_RULE))?,
            dek_nonce: field("dek_nonce")?.try_into().map_err(|_| malformed(0, DEK_NONCE_RULE))?,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, OpenError> {
        if self.ciphertext.len() < 16 {
            return Err(malformed(0, "the ciphertext is shorter than its tag"));
        }
        if self.ciphertext.len() > MAX_SECRET + 16 {
            return Err(OpenError::TooLarge);
        }
        Ok(self)
    }

    /// Length of the secret inside, in bytes.
    #[must_use]
    pub fn secret_len(&self) -> usize {
        self.ciphertext.len() - 16
    }

    /// The text form, exactly as `json.dumps` lays it out.
    #[must_use]
    pub fn to_text(&self) -> String {
        // Their lengths are multiples of three, so they are encoded in one go and cut where each ends.
        let mut short = [0; NONCE + WRAPPED + NONCE];
        short[..NONCE].copy_from_slice(&self.nonce);
        short[NONCE..NONCE + WRAPPED].copy_from_slice(&self.wrapped_dek);
        short[NONCE + WRAPPED..].copy_from_slice(&self.dek_nonce);
        let mut encoded = [0; SHORT_TEXT];
        let _ = STANDARD.encode(&short, encoded.as_mut_slice().as_out());
        let (nonce, rest) = encoded.split_at(NONCE / 3 * 4);
        let (wrapped_dek, dek_nonce) = rest.split_at(WRAPPED / 3 * 4);
        let mut json = Vec::with_capacity(STANDARD.encoded_length(self.ciphertext.len()) + 200);
        json.extend_from_slice(OPENING);
        STANDARD.encode_append(&self.ciphertext, &mut json);
        json.extend_from_slice(NONCE_MEMBER);
        json.extend_from_slice(nonce);
        json.extend_from_slice(WRAPPED_MEMBER);
        json.extend_from_slice(wrapped_dek);
        json.extend_from_slice(DEK_NONCE_MEMBER);
        json.extend_from_slice(dek_nonce);
        json.extend_from_slice(END);
        STANDARD.encode_to_string(&json)
    }

    /// Opens with one key, or `None` where it does not authenticate; which layer failed is not said.
    #[must_use]
    pub fn open(&self, key: &MasterKey) -> Option<Secret> {
        let dek = self.unwrap(key)?;
        let cipher = UnboundKey::new(&AES_256_GCM, dek.expose()).map(LessSafeKey::new).ok()?;
        dek::open_copy(&cipher, Nonce::assume_unique_for_key(self.nonce), &[], &self.ciphertext).ok()
    }

    /// The same data key and body under another master key, with a fresh wrap nonce. `None` where `from` is not the key.
    ///
    /// # Errors
    /// Failing randomness.
    pub fn rewrap(
        &self,
        from: &MasterKey,
        to: &MasterKey,
        random: &dyn RandomSource,
    ) -> Result<Option<Self>, SealError> {
        let Some(dek) = self.unwrap(from) else { return Ok(None) };
        let mut dek_nonce = [0; NONCE];
        random.fill(&mut dek_nonce)?;
        // The data key is the message here; its MAC keeps wrap nonces apart where randomness repeats.
        mask(&mut dek_nonce, &mac::hmac(to.expose(), &[b"v1 rewrap\0", dek.expose()]));
        let wrapped_dek = wrap(to, &dek, dek_nonce)?;
        Ok(Some(Self { ciphertext: self.ciphertext.clone(), nonce: self.nonce, wrapped_dek, dek_nonce }))
    }

    fn unwrap(&self, key: &MasterKey) -> Option<Dek> {
        let mut out = [0; 32];
        let (text, tag) = self.wrapped_dek.split_at(32);
        let nonce = Nonce::assume_unique_for_key(self.dek_nonce);
        let opened = key.v1_cipher().open_separate_gather(nonce, Aad::empty(), text, tag, &mut out);
        let dek = Dek::new(out);
        wipe(&mut out);
        opened.ok().map(|()| dek)
    }
}

/// The layout of `json.dumps`, cut where the values stand.
const OPENING: &[u8] = b"{\"version\": \"v1\", \"ciphertext\": \"";
const NONCE_MEMBER: &[u8] = b"\", \"nonce\": \"";
const WRAPPED_MEMBER: &[u8] = b"\", \"wrapped_dek\": \"";
const DEK_NONCE_MEMBER: &[u8] = b"\", \"dek_nonce\": \"";
const END: &[u8] = b"\"}";
/// Bytes from the end of the ciphertext to the end.
const CLOSING: usize = NONCE_MEMBER.len() + WRAPPED_MEMBER.len() + DEK_NONCE_MEMBER.len() + SHORT_TEXT + END.len();
const MEMBERS: [&str; 5] = ["version", "ciphertext", "nonce", "wrapped_dek", "dek_nonce"];
const NONCE_RULE: &str = "`nonce` is not 12 bytes of canonical base64";
const DEK_NONCE_RULE: &str = "`dek_nonce` is not 12 bytes of canonical base64";
const WRAPPED_RULE: &str = "`wrapped_dek` is not 48 bytes of canonical base64";

const fn malformed(offset: usize, what: &'static str) -> OpenError {
    OpenError::Malformed { format: Format::V1, offset, what }
}

fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    // Names are short: a byte-wise look for the quote, then a comparison, beats a general search.
    let quote = memchr::memchr(b'"', bytes)?;
    let rest = bytes[quote..].strip_prefix(at)?;
    Some((&bytes[..quote], rest))
}
