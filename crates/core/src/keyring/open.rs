//! Sealing and opening with a keyring: which key, and what is said when none opens.

use jiff::civil::Date;

use super::{Entry, KeyMaterial, Keyring, MasterKey, State};
use crate::{
    accept::{Accept, Accepted},
    clock::UnixTime,
    context::{ContextDigest, Located},
    detect::{Detected, detect},
    envelope::{Format, OpenError, Reading, SealError, fernet, kf1, redis_sre_v1},
    id::{Commitment, KeyId},
    rng::Fresh,
    secret::Secret,
};

/// A sealed value and what an event says of it.
pub struct Sealed {
    /// What goes into the store.
    pub text: String,
    /// The key that sealed it.
    pub kid: KeyId,
    /// For `kf1`: what stays the same through every rewrap.
    pub commitment: Option<Commitment>,
}

/// How a reader takes what it finds.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    /// The formats it accepts.
    pub accept: &'a Accept,
    /// The day, for formats that are accepted until one.
    pub today: Date,
    /// How strictly spellings are taken.
    pub reading: Reading,
    /// How old a Fernet token may be.
    pub max_age: Option<fernet::MaxAge>,
}

/// What a stored value turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A sealed value, and the key that opened it.
    Sealed {
        /// Its format.
        format: Format,
        /// The key that opened it.
        kid: KeyId,
        /// For `kf1`.
        commitment: Option<Commitment>,
        /// For Fernet.
        timestamp: Option<UnixTime>,
    },
    /// Plaintext that the policy allows.
    Plaintext,
}

impl Found {
    /// The word for counts and messages.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Sealed { format, .. } => format.as_str(),
            Self::Plaintext => "plaintext",
        }
    }

    /// The key that opened it, if it was sealed.
    #[must_use]
    pub const fn kid(&self) -> Option<KeyId> {
        match self {
            Self::Sealed { kid, .. } => Some(*kid),
            Self::Plaintext => None,
        }
    }
}

/// An opened value.
pub struct Opened {
    /// The plaintext.
    pub secret: Secret,
    /// What it was.
    pub found: Found,
}

impl Keyring {
    /// Seals with the primary key of the format.
    ///
    /// # Errors
    /// No primary key for the format, a secret the format cannot hold, failing randomness.
    pub fn seal(
        &self,
        format: Format,
        context: &ContextDigest,
        secret: &[u8],
        fresh: Fresh<'_>,
    ) -> Result<Sealed, SealError> {
        let entry = self.primary(format).ok_or(SealError::NoPrimary { format })?;
        match (format, entry.material()) {
            (Format::Kf1, KeyMaterial::Master(key)) => {
                let envelope = kf1::seal(key, fresh.random, context, secret)?;
                Ok(Sealed { text: envelope.to_text(), kid: key.kid(), commitment: Some(envelope.commitment()) })
            }
            (Format::V1, KeyMaterial::Master(key)) => {
                Ok(Sealed { text: redis_sre_v1::seal(key, fresh.random, secret)?, kid: key.kid(), commitment: None })
            }
            (Format::Fernet, KeyMaterial::Fernet(key)) => Ok(Sealed {
                text: fernet::seal(key, fresh.random, secret, fresh.now)?,
                kid: key.kid(),
                commitment: None,
            }),
            _ => Err(SealError::NoPrimary { format }),
        }
    }

    /// Opens what a store holds, if the reader accepts its format.
    ///
    /// # Errors
    /// See [`OpenError`]; plaintext that the reader does not accept is `not_encrypted`.
    pub fn open(&self, stored: &str, context: &dyn Located, reader: &Reader<'_>) -> Result<Opened, OpenError> {
        self.open_kept(stored, context, reader).map(|(opened, _)| opened)
    }

    /// [`Keyring::open`], and for `kf1` what a rewrap needs.
    pub(crate) fn open_kept(
        &self,
        stored: &str,
        context: &dyn Located,
        reader: &Reader<'_>,
    ) -> Result<(Opened, Option<kf1::Kept>), OpenError> {
        if let Some(envelope) = strict_v1(stored) {
            reader.accept.check(Accepted::Sealed(Format::V1), reader.today)?;
            return Ok((self.open_v1(&envelope)?, None));
        }
        let format = match detect(stored) {
            Detected::Plaintext => {
                reader.accept.check(Accepted::Plaintext, reader.today)?;
                return Ok((Opened { secret: Secret::from(stored.as_bytes()), found: Found::Plaintext }, None));
            }
            detected => detected.sealed()?,
        };
        reader.accept.check(Accepted::Sealed(format), reader.today)?;
        let opened = match format {
            Format::Kf1 => {
                let (opened, kept) = self.open_kf1(kf1::Envelope::from_text(stored)?, &context.digest()?)?;
                return Ok((opened, Some(kept)));
            }
            Format::V1 => self.open_v1(&redis_sre_v1::Envelope::parse(stored, reader.reading)?),
            Format::Fernet => self.open_fernet(&fernet::Token::parse(stored, reader.reading)?, reader),
        };
        Ok((opened?, None))
    }

    /// The master key that a `kf1` envelope names.
    ///
    /// # Errors
    /// `unknown_key`, `key_retired`, `key_destroyed`, `unsupported_suite`.
    pub fn master(&self, kid: KeyId) -> Result<&MasterKey, OpenError> {
        // The tombstone comes first: it wins over whatever brought the key back.
        if let Some(tombstone) = self.tombstone(kid) {
            return Err(OpenError::KeyDestroyed { kid, at: tombstone.destroyed });
        }
        let entry = self.entry(kid).ok_or(OpenError::UnknownKey { kid })?;
        if entry.state() == State::Retired {
            return Err(OpenError::KeyRetired { kid });
        }
        match entry.material() {
            KeyMaterial::Master(key) if entry.serves(Format::Kf1) => Ok(key),
            _ => Err(OpenError::UnsupportedSuite(format!("kf1 under key `{kid}`"))),
        }
    }

    fn open_kf1(&self, envelope: kf1::Envelope, context: &ContextDigest) -> Result<(Opened, kf1::Kept), OpenError> {
        let key = self.master(envelope.kid())?;
        let found = Found::Sealed {
            format: Format::Kf1,
            kid: key.kid(),
            commitment: Some(envelope.commitment()),
            timestamp: None,
        };
        let (secret, kept) = kf1::open_kept(key, envelope, context)?;
        Ok((Opened { secret, found }, kept))
    }

    fn open_v1(&self, envelope: &redis_sre_v1::Envelope) -> Result<Opened, OpenError> {
        self.try_each(Format::V1, None, |material| match material {
            KeyMaterial::Master(key) => Ok(envelope.open(key)),
            KeyMaterial::Fernet(_) => Ok(None),
        })
    }

    fn open_fernet(&self, token: &fernet::Token, reader: &Reader<'_>) -> Result<Opened, OpenError> {
        self.try_each(Format::Fernet, Some(token.timestamp()), |material| match material {
            KeyMaterial::Fernet(key) => token.open(key, reader.max_age),
            KeyMaterial::Master(_) => Ok(None),
        })
    }

    /// Tries every key that may open `format`; where none does, says whether a retired one would.
    fn try_each(
        &self,
        format: Format,
        timestamp: Option<UnixTime>,
        open: impl Fn(&KeyMaterial) -> Result<Option<Secret>, OpenError>,
    ) -> Result<Opened, OpenError> {
        let mut tried = Vec::new();
        for (index, entry) in self.candidates(format) {
            if let Some(secret) = open(entry.material())? {
                self.remember(index);
                let found = Found::Sealed { format, kid: entry.kid(), commitment: None, timestamp };
                return Ok(Opened { secret, found });
            }
            tried.push((index, entry.kid()));
        }
        let retired = |entry: &&Entry| entry.state() == State::Retired && entry.serves(format);
        for entry in self.entries().iter().filter(retired) {
            if open(entry.material())?.is_some() {
                return Err(OpenError::KeyRetired { kid: entry.kid() });
            }
        }
        // In the keyring's order, whichever was tried first: the same value gets the same words.
        tried.sort_unstable_by_key(|(index, _)| *index);
        let tried = tried.into_iter().map(|(_, kid)| kid).collect();
        Err(OpenError::WrongKeyOrTampered { format, tried })
    }
}

/// What a strict reader takes is v1 by every rule of detection, and is not decoded twice to find that out.
pub(crate) fn strict_v1(stored: &str) -> Option<redis_sre_v1::Envelope> {
    if !stored.starts_with(redis_sre_v1::START) {
        return None;
    }
    redis_sre_v1::Envelope::parse(stored, Reading::Strict).ok()
}
