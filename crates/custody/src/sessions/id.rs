//! Who a session belongs to, what names it, and what stands in for its token.

use std::{fmt, str::FromStr};

use keyfold_core::{
    id::{from_hex, to_hex},
    mac::sha256,
    rng::{self, RandomError, SystemRandom},
    secret::Secret,
};

/// A person, as an issuer knows them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// The issuer's own name, the claim `iss`.
    pub iss: String,
    /// The person there, the claim `sub`.
    pub sub: String,
    /// Their address, where the issuer says that it was verified. For people to read; it decides nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
}

impl Person {
    /// What lists and events call them: a hash, so that neither holds an address.
    #[must_use]
    pub fn id(&self) -> PersonId {
        let length = (self.iss.len() as u64).to_be_bytes();
        let hash = sha256(&[b"keyfold person\0", &length, self.iss.as_bytes(), self.sub.as_bytes()]);
        let mut id = [0; 8];
        id.copy_from_slice(&hash[..8]);
        PersonId(id)
    }

    /// Whether both are the same person at the same issuer, whatever their address.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.iss == other.iss && self.sub == other.sub
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub(super) [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                // One spelling: what is compared as text elsewhere must not have two.
                let lower = text.bytes().all(|byte| !byte.is_ascii_uppercase());
                from_hex(text).filter(|_| lower).map(Self).ok_or(NotAnId)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// Not an id. The text is not repeated: it may be a handle in the wrong place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id")]
pub struct NotAnId;

hex_id!(
    /// Names a person in lists and events.
    PersonId,
    8
);
hex_id!(
    /// Names a session: its person, then sixteen random bytes. So a person's sessions are listed by their keys alone, and there is
    /// no index that could be wrong. It proves nothing.
    SessionId,
    24
);

impl SessionId {
    /// A new one.
    ///
    /// # Errors
    /// Failing randomness.
    pub fn new(person: PersonId) -> Result<Self, RandomError> {
        let mut id = [0; 24];
        id[..8].copy_from_slice(&person.0);
        id[8..].copy_from_slice(&rng::array::<16>(&SystemRandom)?);
        Ok(Self(id))
    }

    /// Whose it is.
    #[must_use]
    pub fn person(&self) -> PersonId {
        let mut id = [0; 8];
        id.copy_from_slice(&self.0[..8]);
        PersonId(id)
    }
}

/// Who holds a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The person's browser.
    Cookie,
    /// An agent, or a backend.
    Handle,
}

impl Kind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Cookie => "kfc_",
            Self::Handle => "kfh_",
        }
    }
}

/// The SHA-256 of a handle: what is stored of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandleHash(pub(super) [u8; 32]);

impl fmt::Display for HandleHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for HandleHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandleHash({self})")
    }
}

/// A handle that was presented, taken apart: where to look, and what must be found there. It holds nothing secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// The session it speaks of.
    pub session: SessionId,
    /// What is stored of it.
    pub hash: HandleHash,
    /// Who should hold it.
    pub kind: Kind,
}

impl Reference {
    /// Reads a handle or a cookie; `None` where it cannot be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let kind = [Kind::Handle, Kind::Cookie].into_iter().find(|kind| text.starts_with(kind.prefix()))?;
        let encoded = &text[kind.prefix().len()..];
        // 56 bytes: 24 of the session's id and 256 random bits, which end on a whole byte and leave two bits of the last digit.
        if encoded.len() != 75 {
            return None;
        }
        let mut bytes = base64_simd::URL_SAFE_NO_PAD.decode_to_vec(encoded).ok()?;
        let session = bytes.get(..24).and_then(|id| <[u8; 24]>::try_from(id).ok()).map(SessionId);
        keyfold_core::secret::wipe(&mut bytes);
        Some(Self { session: session?, hash: HandleHash(sha256(&[text.as_bytes()])), kind })
    }
}

/// A new handle, shown once: the text and what is stored of it.
pub(super) fn make(session: SessionId, kind: Kind) -> Result<(Secret, Reference), RandomError> {
    let mut raw = [0; 56];
    raw[..24].copy_from_slice(&session.0);
    raw[24..].copy_from_slice(&rng::array::<32>(&SystemRandom)?);
    let text = format!("{}{}", kind.prefix(), base64_simd::URL_SAFE_NO_PAD.encode_to_string(raw));
    keyfold_core::secret::wipe(&mut raw);
    let hash = HandleHash(sha256(&[text.as_bytes()]));
    Ok((Secret::from(text), Reference { session, hash, kind }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(iss: &str, sub: &str) -> Person {
        Person { iss: iss.into(), sub: sub.into(), email: None }
    }

    #[test]
    fn two_issuers_with_one_subject_are_two_people_wherever_the_border_lies() {
        assert_ne!(person("https://a", "1").id(), person("https://b", "1").id());
        assert_ne!(person("https://a", "b1").id(), person("https://ab", "1").id());
        assert!(!person("https://a", "1").is(&person("https://b", "1")));
    }

    #[test]
    fn a_handle_leads_to_its_session_and_to_nothing_else() {
        let session = SessionId::new(person("https://a", "1").id()).unwrap();
        let (text, made) = make(session, Kind::Handle).unwrap();
        let text = std::str::from_utf8(text.expose()).unwrap();
        assert_eq!(Reference::parse(text), Some(made));
        assert_eq!(made.session.person(), person("https://a", "1").id());
        for wrong in ["", "kfh_", &text[..78], &format!("{text}A"), &text.replace("kfh_", "kfa_"), &text.to_uppercase()]
        {
            assert_eq!(Reference::parse(wrong), None, "{wrong}");
        }
        let as_cookie = Reference::parse(&text.replace("kfh_", "kfc_")).unwrap();
        assert_ne!(as_cookie.hash, made.hash, "a handle is no cookie");
        assert!(session.to_string().parse::<SessionId>().is_ok());
        assert!(session.to_string().to_uppercase().parse::<SessionId>().is_err());
    }
}
