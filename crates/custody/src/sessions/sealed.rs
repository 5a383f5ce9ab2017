//! A session's token at rest: sealed for its person, its session and its holder.
//!
//! As `kf1` the context is bound by the envelope. As Fernet, which binds nothing, it is bound by a keyed hash beside the token;
//! one without it does not open here. What limits the token lies sealed with it, so that nobody who writes the store can widen it.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use keyfold_core::{
    accept::Accept,
    audit::Actor,
    clock::UnixTime,
    context::{Context, ContextDigest},
    detect::{Detected, detect},
    envelope::{Format, OpenError, Reading, kf1},
    id::{KeyId, from_hex, to_hex},
    keyring::{KeyMaterial, Keyring, Reader},
    rng::{Fresh, SystemRandom},
    secret::{Secret, wipe},
};
use zeroize::Zeroizing;

use super::{Kind, Person, Reason, SessionId};
use crate::{error::CustodyError, keys::LiveKeyring};

/// What the context of a session's token names as its collection; grants name it too.
pub const COLLECTION: &str = "keyfold.sessions";
/// The longest token that is taken, in bytes.
pub const MAX_TOKEN: usize = 16 << 10;

/// The keys that sessions are sealed under.
#[derive(Clone)]
pub enum Keys {
    /// The deployment's keyring.
    Live(Arc<LiveKeyring>),
    /// A key of this process alone: its sessions end with it.
    Transient(Arc<Keyring>),
}

impl Keys {
    pub(super) fn opening(&self) -> Arc<Keyring> {
        match self {
            Self::Live(keys) => keys.opening(),
            Self::Transient(keyring) => Arc::clone(keyring),
        }
    }

    pub(super) async fn sealing(&self) -> Result<Arc<Keyring>, CustodyError> {
        match self {
            Self::Live(keys) => keys.sealing().await,
            Self::Transient(keyring) => Ok(Arc::clone(keyring)),
        }
    }

    /// Asked right before what was sealed is stored.
    pub(super) async fn confirm(&self, sealing: &Keyring) -> Result<(), CustodyError> {
        match self {
            Self::Live(keys) => keys.confirm(sealing).await,
            Self::Transient(_) => Ok(()),
        }
    }
}

/// A sealed value as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sealed {
    text: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bound: Option<Bound>,
}

/// The keyed binding of a Fernet token.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bound {
    kid: KeyId,
    mac: String,
}

/// Where a token belongs.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) deployment: &'a str,
    pub(super) person: &'a Person,
    /// The session's id, or the import's.
    pub(super) record: &'a str,
    pub(super) field: &'static str,
    /// The hash of the handle, or a word for a copy that no handle leads to.
    pub(super) holder: &'a str,
}

impl At<'_> {
    pub(super) fn digest(self) -> Result<ContextDigest, CustodyError> {
        Ok(Context::empty()
            .with("deployment", self.deployment)?
            .with("collection", COLLECTION)?
            .with("record", self.record)?
            .with("field", self.field)?
            .with("user_iss", self.person.iss.as_str())?
            .with("user_sub", self.person.sub.as_str())?
            .with("holder", self.holder)?
            .digest())
    }
}

/// Everything that limits a token, sealed with it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The session.
    pub session: SessionId,
    /// Who holds this copy.
    pub kind: Kind,
    /// The holder's last moment.
    pub until: UnixTime,
    /// The access token's.
    pub expires: UnixTime,
    /// How often the token was refreshed.
    pub generation: u64,
    /// The one agent that may use it; whoever holds the handle where `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Actor>,
    /// The destinations it reaches, by name; all that are configured where `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destinations: Option<Vec<String>>,
    /// The methods it allows; all where `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
}

/// Whether a text can be a token: visible ASCII without quotes and backslashes, as RFC 6750 has it and a little more.
#[must_use]
pub fn is_token(bytes: &[u8]) -> bool {
    (1..=MAX_TOKEN).contains(&bytes.len())
        && bytes.iter().all(|&byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

/// Seals `head` and `token` together.
pub(super) fn seal(
    keyring: &Keyring,
    format: Format,
    digest: &ContextDigest,
    (head, token): (&Head, &Secret),
    now: UnixTime,
) -> Result<Sealed, CustodyError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(1024 + token.len()));
    serde_json::to_writer(&mut *bytes, head).map_err(|_| CustodyError::invalid("a session cannot be written", ""))?;
    bytes.push(b'\n');
    bytes.extend_from_slice(token.expose());
    seal_bytes(keyring, format, digest, &bytes, now)
}

pub(super) fn seal_bytes(
    keyring: &Keyring,
    format: Format,
    digest: &ContextDigest,
    bytes: &[u8],
    now: UnixTime,
) -> Result<Sealed, CustodyError> {
    let failed = |source| CustodyError::Seal { place: COLLECTION.into(), source };
    let sealed = keyring.seal(format, digest, bytes, Fresh { random: &SystemRandom, now }).map_err(failed)?;
    let bound = match format {
        Format::Fernet => {
            let primary = keyring.primary(Format::Kf1).map(|entry| (entry.kid(), entry.material()));
            let Some((kid, KeyMaterial::Master(key))) = primary else {
                return Err(failed(keyfold_core::envelope::SealError::NoPrimary { format: Format::Kf1 }));
            };
            Some(Bound { kid, mac: to_hex(&kf1::fernet_binding(key, digest, &sealed.text)) })
        }
        _ => None,
    };
    Ok(Sealed { text: sealed.text.into(), bound })
}

/// Opens a copy: what limits the token, and the token.
pub(super) fn open(keyring: &Keyring, sealed: &Sealed, digest: &ContextDigest) -> Result<(Head, Secret), Reason> {
    let opened = open_bytes(keyring, sealed, digest)?;
    let bytes = opened.expose();
    let at = bytes.iter().position(|&byte| byte == b'\n').ok_or(Reason::Tampered)?;
    let head = serde_json::from_slice(&bytes[..at]).map_err(|_| Reason::Tampered)?;
    Ok((head, Secret::from(&bytes[at + 1..])))
}

pub(super) fn open_bytes(keyring: &Keyring, sealed: &Sealed, digest: &ContextDigest) -> Result<Secret, Reason> {
    let format = match (detect(&sealed.text), &sealed.bound) {
        (Detected::Sealed(Format::Kf1), None) => Format::Kf1,
        (Detected::Sealed(Format::Fernet), Some(bound)) => {
            let key = keyring.master(bound.kid).map_err(|error| of(&error))?;
            let stored: [u8; 32] = from_hex(&bound.mac).ok_or(Reason::Tampered)?;
            let mut made = kf1::fernet_binding(key, digest, &sealed.text);
            let same = verify_slices_are_equal(&made, &stored);
            wipe(&mut made);
            same.map_err(|_| Reason::Tampered)?;
            Format::Fernet
        }
        // A Fernet token that nothing binds, a v1 envelope, plaintext: none of them was written here.
        _ => return Err(Reason::Tampered),
    };
    let accept = Accept::only(format);
    let reader = Reader { accept: &accept, today: jiff::civil::Date::MIN, reading: Reading::Strict, max_age: None };
    keyring.open(&sealed.text, digest, &reader).map(|opened| opened.secret).map_err(|error| of(&error))
}

const fn of(error: &OpenError) -> Reason {
    match error {
        OpenError::UnknownKey { .. } | OpenError::KeyRetired { .. } | OpenError::KeyDestroyed { .. } => Reason::KeyGone,
        // Fernet names no key; its binding held, so the token is ours and its key is not here.
        OpenError::WrongKeyOrTampered { .. } => Reason::KeyGone,
        _ => Reason::Tampered,
    }
}

impl Sealed {
    /// A kf1 envelope that comes back from elsewhere.
    pub(super) fn of_text(text: &str) -> Self {
        Self { text: text.into(), bound: None }
    }

    /// A Fernet token that was kept apart from its binding.
    pub(super) fn of_parts(text: &str, bound: Bound) -> Self {
        Self { text: text.into(), bound: Some(bound) }
    }

    /// The same, to be kept so.
    pub(super) fn into_parts(self) -> (String, Option<Bound>) {
        (self.text.into(), self.bound)
    }

    /// The envelope, to be carried elsewhere.
    pub(super) fn into_text(self) -> String {
        self.text.into()
    }

    /// The keys that it needs, for the census.
    pub(super) fn kids(&self, keyring: &Keyring) -> Vec<(Format, KeyId)> {
        match &self.bound {
            None => kf1::Envelope::from_text(&self.text).map(|e| (Format::Kf1, e.kid())).into_iter().collect(),
            Some(bound) => {
                let accept = Accept::only(Format::Fernet);
                let reader =
                    Reader { accept: &accept, today: jiff::civil::Date::MIN, reading: Reading::Strict, max_age: None };
                let opened = keyring.open(&self.text, &Context::empty().digest(), &reader);
                let kid = match opened {
                    Ok(opened) => opened.found.kid(),
                    Err(OpenError::KeyRetired { kid }) => Some(kid),
                    Err(_) => None,
                };
                [(Format::Kf1, Some(bound.kid)), (Format::Fernet, kid)]
                    .into_iter()
                    .filter_map(|(format, kid)| Some((format, kid?)))
                    .collect()
            }
        }
    }
}

#[cfg(test)]
mod tests;
