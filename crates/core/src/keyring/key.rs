//! The keys of a keyring: set up once, named by an id derived from the key.

use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};

use crate::{
    envelope::{fernet::FernetKey, lenient},
    error::{Code, Hint},
    id::KeyId,
    mac::{self, HmacKey},
    secret::{Key32, wipe},
};

/// Where the environment holds the key that redis-sre-agent seals with.
pub const MASTER_KEY_VARIABLE: &str = "REDIS_SRE_MASTER_KEY";
/// Where the environment holds the key that Auto SRE seals with.
pub const FERNET_KEY_VARIABLE: &str = "SRE_AGENT_ENCRYPTION_KEY";

/// Why a key was refused. Never holds the key, only what is wrong with it.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The variable is not set, or set to nothing.
    #[error("{variable} environment variable not set")]
    Missing {
        /// Which.
        variable: String,
    },
    /// Not base64 in the one spelling that is taken.
    #[error("{place}: the key is not canonical base64: {what} ({length} characters found)")]
    NotBase64 {
        /// Where it was read.
        place: String,
        /// Characters found, after trimming.
        length: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Decodes to another number of bytes.
    #[error("{place}: {kind} key must be 32 bytes, {length} found")]
    Length {
        /// Where it was read.
        place: String,
        /// `Master` or `Fernet`.
        kind: &'static str,
        /// Bytes found.
        length: usize,
    },
    /// The same key twice in one list.
    #[error("{place}: the same key (id `{kid}`) is listed twice")]
    Repeated {
        /// Where it was read.
        place: String,
        /// Which.
        kid: KeyId,
    },
    /// The library refused the key.
    #[error("the cryptographic library refused the key")]
    Library,
}

impl KeyError {
    /// Always [`Code::KeyInvalid`].
    #[must_use]
    pub const fn code(&self) -> Code {
        Code::KeyInvalid
    }

    /// What to change in a text that is a key but for its spelling. `None` where it is no key, or nobody can tell.
    #[must_use]
    pub fn mend(&self) -> Option<&'static str> {
        let Self::NotBase64 { what, .. } = self else { return None };
        Some(match *what {
            QUOTED => "take the quotes away: nothing here reads them as a shell would",
            STANDARD => "it is the same key with - for + and _ for /",
            URL => "it is the same key with + for - and / for _",
            _ => return None,
        })
    }

    fn is_fernet(&self) -> bool {
        match self {
            Self::Missing { variable: place }
            | Self::NotBase64 { place, .. }
            | Self::Length { place, .. }
            | Self::Repeated { place, .. } => place.starts_with(FERNET_KEY_VARIABLE),
            Self::Library => false,
        }
    }
}

impl Hint for KeyError {
    fn hint(&self) -> Option<String> {
        if let Self::Repeated { .. } = self {
            return Some("list every key once".into());
        }
        let make = if self.is_fernet() {
            format!("make one: export {FERNET_KEY_VARIABLE}=\"$(keyfold keygen --fernet)\"")
        } else {
            format!("make one: export {MASTER_KEY_VARIABLE}=\"$(keyfold keygen)\"")
        };
        Some(self.mend().map_or_else(|| make.clone(), |mend| format!("{mend}; or {make}")))
    }
}

/// Spellings of a key that are seen often and have a remedy of their own.
const QUOTED: &str = "it stands in quotes";
const STANDARD: &str = "it is standard base64, and base64url is asked for";
const URL: &str = "it is base64url, and standard base64 is asked for";

/// The 32-byte secret M of an entry, with everything derived from it that each seal needs.
pub struct MasterKey {
    m: Key32,
    kid: KeyId,
    mac: HmacKey,
    hedge: HmacKey,
    v1_hedge: LessSafeKey,
    v1_cipher: LessSafeKey,
}

impl MasterKey {
    /// Sets up a key from its 32 bytes.
    ///
    /// # Errors
    /// Where the library refuses the key.
    pub fn new(m: Key32) -> Result<Self, KeyError> {
        let mut kid = [0; 8];
        kid.copy_from_slice(&mac::expand(m.expose(), b"kf1 kid\0", &[])[..8]);
        let mac = HmacKey::new(m.expose());
        let hedge = HmacKey::new(&mac::expand(m.expose(), b"kf1 hedge\0", &[]));
        let cipher =
            |key: &[u8; 32]| UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| KeyError::Library);
        let v1_hedge = cipher(&mac::expand(m.expose(), b"v1 hedge\0", &[]))?;
        let v1_cipher = cipher(m.expose())?;
        Ok(Self { m, kid: KeyId(kid), mac, hedge, v1_hedge, v1_cipher })
    }

    /// The id by which envelopes, keyrings, events and errors name this key.
    #[must_use]
    pub const fn kid(&self) -> KeyId {
        self.kid
    }

    /// Looks at M itself: to derive from it, or to wrap it by a root key.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        self.m.expose()
    }

    /// M, to be wrapped by a root key.
    #[must_use]
    pub const fn raw(&self) -> &Key32 {
        &self.m
    }

    /// M, set up for HMAC.
    pub(crate) const fn mac(&self) -> &HmacKey {
        &self.mac
    }

    pub(crate) const fn hedge(&self) -> &HmacKey {
        &self.hedge
    }

    pub(crate) const fn v1_hedge(&self) -> &LessSafeKey {
        &self.v1_hedge
    }

    pub(crate) const fn v1_cipher(&self) -> &LessSafeKey {
        &self.v1_cipher
    }
}

/// Reads a master key as redis-sre-agent holds it: base64 of exactly 32 bytes; white space around it is trimmed and nothing
/// else is forgiven.
///
/// # Errors
/// [`KeyError`] with `place` and the length found.
pub fn parse_master(place: &str, text: &str) -> Result<MasterKey, KeyError> {
    MasterKey::new(decode(place, "Master", text, lenient::decode_standard)?)
}

/// Reads a Fernet key: base64url, with padding, of exactly 32 bytes.
///
/// # Errors
/// [`KeyError`] with `place` and the length found.
pub fn parse_fernet(place: &str, text: &str) -> Result<FernetKey, KeyError> {
    FernetKey::new(decode(place, "Fernet", text, lenient::decode_url)?)
}

/// Reads 32 bytes of standard base64, as key files hold them.
///
/// # Errors
/// [`KeyError`] with `place` and the length found.
pub fn parse_key32(place: &str, text: &str) -> Result<Key32, KeyError> {
    decode(place, "Root", text, lenient::decode_standard)
}

/// Writes a key as [`parse_master`] reads it.
#[must_use]
pub fn master_to_text(key: &Key32) -> String {
    base64_simd::STANDARD.encode_to_string(key.expose())
}

/// Writes a key as [`parse_fernet`] reads it.
#[must_use]
pub fn fernet_to_text(key: &Key32) -> String {
    base64_simd::URL_SAFE.encode_to_string(key.expose())
}

/// What is wrong with the spelling of a key, where only that is wrong. Looks at characters that tell nothing of the key.
fn misspelt(text: &str, url: bool) -> Option<&'static str> {
    let quoted = |quote| text.len() > 2 && text.starts_with(quote) && text.ends_with(quote);
    if quoted('"') || quoted('\'') {
        return Some(QUOTED);
    }
    let other = if url { base64_simd::STANDARD } else { base64_simd::URL_SAFE };
    let mut bytes = other.decode_to_vec(text.as_bytes()).ok()?;
    let is_key = bytes.len() == 32;
    wipe(&mut bytes);
    is_key.then_some(if url { STANDARD } else { URL })
}

fn decode(
    place: &str,
    kind: &'static str,
    text: &str,
    decoder: impl Fn(&[u8]) -> Result<Vec<u8>, usize>,
) -> Result<Key32, KeyError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(KeyError::Missing { variable: place.into() });
    }
    let mut bytes = decoder(text.as_bytes()).map_err(|offset| KeyError::NotBase64 {
        place: place.into(),
        length: text.chars().count(),
        what: misspelt(text, kind == "Fernet").unwrap_or(if offset < text.len() {
            "a character that does not belong"
        } else {
            "the end is missing"
        }),
    })?;
    let key = <[u8; 32]>::try_from(&bytes[..]).map(Key32::new);
    let length = bytes.len();
    wipe(&mut bytes);
    key.map_err(|_| KeyError::Length { place: place.into(), kind, length })
}
