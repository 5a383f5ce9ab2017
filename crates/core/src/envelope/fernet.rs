//! Fernet, as its published specification says: `0x80 ‖ timestamp(8) ‖ IV(16) ‖ AES-128-CBC/PKCS7 ‖ HMAC-SHA256(32)`,
//! base64url with padding.
//!
//! The 32-byte key is two keys: the first half signs, the second encrypts, so the cipher is AES-**128**. The MAC is
//! checked first, in constant time, then the age, then the padding.
//!
//! Not promised, because the format cannot: a key id, and a binding to a place.

use aws_lc_rs::{
    cipher::{
        AES_128, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey,
        UnboundCipherKey,
    },
    constant_time::verify_slices_are_equal,
    iv::FixedLength,
};

use super::{Format, OpenError, Reading, SealError, lenient};
use crate::{
    clock::UnixTime,
    id::KeyId,
    keyring::KeyError,
    mac,
    rng::{self, RandomSource},
    secret::{Key32, MAX_SECRET, Secret},
};

/// Seconds by which a token may come from the future before it is refused, where an age is asked for.
pub const MAX_CLOCK_SKEW: u64 = 60;
/// How a token of this century starts.
pub const PREFIX: &str = "gAAAAA";

const VERSION: u8 = 0x80;
const HEAD: usize = 1 + 8 + 16;
const MAC: usize = 32;
const MAX_TEXT: usize = (HEAD + MAX_SECRET + 16 + MAC).div_ceil(3) * 4;

/// A Fernet key with both halves set up. Never used as the secret of a `kf1` entry.
pub struct FernetKey {
    raw: Key32,
    kid: KeyId,
    encrypt: PaddedBlockEncryptingKey,
    decrypt: PaddedBlockDecryptingKey,
}

impl FernetKey {
    /// Sets up a key from its 32 bytes.
    ///
    /// # Errors
    /// Where the library refuses the key.
    pub fn new(raw: Key32) -> Result<Self, KeyError> {
        let half = || UnboundCipherKey::new(&AES_128, &raw.expose()[16..]).map_err(|_| KeyError::Library);
        let encrypt = PaddedBlockEncryptingKey::cbc_pkcs7(half()?).map_err(|_| KeyError::Library)?;
        let decrypt = PaddedBlockDecryptingKey::cbc_pkcs7(half()?).map_err(|_| KeyError::Library)?;
        let mut kid = [0; 8];
        kid.copy_from_slice(&mac::expand(raw.expose(), b"fernet kid\0", &[])[..8]);
        Ok(Self { raw, kid: KeyId(kid), encrypt, decrypt })
    }

    /// The id by which keyrings, events and errors name this key.
    #[must_use]
    pub const fn kid(&self) -> KeyId {
        self.kid
    }

    /// The raw key, to be wrapped by a root key.
    #[must_use]
    pub const fn raw(&self) -> &Key32 {
        &self.raw
    }

    fn signing(&self) -> &[u8] {
        &self.raw.expose()[..16]
    }
}

/// A token whose lengths and version are right. Whether it opens is another matter.
pub struct Token(Vec<u8>);

/// Encrypts; `now` becomes the token's timestamp.
///
/// # Errors
/// `too_large`, failing randomness.
pub fn seal(key: &FernetKey, random: &dyn RandomSource, secret: &[u8], now: UnixTime) -> Result<String, SealError> {
    seal_with(key, secret, now, rng::array(random)?)
}

/// [`seal`] with a chosen IV, for known answers.
///
/// # Errors
/// `too_large`.
pub fn seal_with(key: &FernetKey, secret: &[u8], now: UnixTime, iv: [u8; 16]) -> Result<String, SealError> {
    if secret.len() > MAX_SECRET {
        return Err(SealError::TooLarge { found: secret.len(), limit: MAX_SECRET });
    }
    let mut body = Vec::with_capacity(secret.len() + 16);
    body.extend_from_slice(secret);
    key.encrypt
        .less_safe_encrypt(&mut body, EncryptionContext::Iv128(FixedLength::from(iv)))
        .map_err(|_| SealError::Library)?;
    let mut token = Vec::with_capacity(HEAD + body.len() + MAC);
    token.push(VERSION);
    token.extend_from_slice(&now.0.to_be_bytes());
    token.extend_from_slice(&iv);
    token.extend_from_slice(&body);
    let mac = mac::hmac(key.signing(), &[&token]);
    token.extend_from_slice(&mac);
    Ok(base64_simd::URL_SAFE.encode_to_string(&token))
}

/// How old a token may be.
#[derive(Debug, Clone, Copy)]
pub struct MaxAge {
    /// Seconds; a token is expired if its timestamp plus this is before `now`.
    pub ttl: u64,
    /// When it is looked at.
    pub now: UnixTime,
}

impl Token {
    /// Reads the text form.
    ///
    /// # Errors
    /// `malformed` with the offset, `unsupported_format` for another version, `too_large`.
    pub fn parse(text: &str, reading: Reading) -> Result<Self, OpenError> {
        if text.len() > MAX_TEXT {
            return Err(OpenError::TooLarge);
        }
        let bytes = match reading {
            Reading::Strict => lenient::decode_url(text.as_bytes()),
            Reading::Compat => lenient::decode_url_as_python(text.as_bytes()).ok_or(0),
        }
        .map_err(|offset| malformed(offset, "not canonical base64url"))?;
        if bytes.first().is_some_and(|&version| version != VERSION) {
            return Err(OpenError::UnsupportedFormat("a Fernet token of another version than 0x80"));
        }
        if bytes.len() < HEAD + 16 + MAC {
            return Err(malformed(bytes.len(), "the token ends early"));
        }
        if !(bytes.len() - HEAD - MAC).is_multiple_of(16) {
            return Err(malformed(bytes.len(), "the ciphertext is not whole blocks"));
        }
        Ok(Self(bytes))
    }

    /// When the token was made. Not authenticated until it opened.
    #[must_use]
    pub fn timestamp(&self) -> UnixTime {
        let mut seconds = [0; 8];
        seconds.copy_from_slice(&self.0[1..9]);
        UnixTime(u64::from_be_bytes(seconds))
    }

    /// Length of the ciphertext, in bytes; the secret is 1 to 16 bytes shorter.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.0.len() - HEAD - MAC
    }

    /// Opens with one key; `Ok(None)` where the MAC is not this key's.
    ///
    /// # Errors
    /// `expired`, and `wrong_key_or_tampered` for a body whose padding is wrong under a right MAC.
    pub fn open(&self, key: &FernetKey, age: Option<MaxAge>) -> Result<Option<Secret>, OpenError> {
        let (signed, mac) = self.0.split_at(self.0.len() - MAC);
        if verify_slices_are_equal(&mac::hmac(key.signing(), &[signed]), mac).is_err() {
            return Ok(None);
        }
        if let Some(age) = age {
            self.check_age(age)?;
        }
        let mut iv = [0; 16];
        iv.copy_from_slice(&signed[9..HEAD]);
        let mut body = Secret::new(signed[HEAD..].to_vec());
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        let length = body
            .with_bytes(|bytes| key.decrypt.decrypt(bytes, context).map(|text| text.len()))
            .map_err(|_| OpenError::WrongKeyOrTampered { format: Format::Fernet, tried: vec![key.kid()] })?;
        body.truncate(length);
        Ok(Some(body))
    }

    fn check_age(&self, age: MaxAge) -> Result<(), OpenError> {
        let expired = OpenError::Expired { timestamp: self.timestamp(), now: age.now };
        // A timestamp so large that the sum overflows lies in the future, which the second rule refuses.
        if self.timestamp().0.checked_add(age.ttl).is_some_and(|until| until < age.now.0) {
            return Err(expired);
        }
        if age.now.0.checked_add(MAX_CLOCK_SKEW).is_some_and(|latest| latest < self.timestamp().0) {
            return Err(expired);
        }
        Ok(())
    }
}

const fn malformed(offset: usize, what: &'static str) -> OpenError {
    OpenError::Malformed { format: Format::Fernet, offset, what }
}
