//! Moving a stored value to another key or format, checked in memory before anything is written.
//!
//! A [`Move`] is only made when the whole old value was opened and the new one was opened again to the same secret.

use crate::{
    accept::Accepted,
    clock::UnixTime,
    context::{ContextError, Located},
    detect::detect,
    envelope::{Format, OpenError, Reading, SealError, fernet, kf1, redis_sre_v1},
    error::{Code, Hint},
    id::KeyId,
    keyring::{Entry, Found, KeyMaterial, Keyring, Opened, Reader, strict_v1},
    rng::{Fresh, RandomSource},
    secret::Secret,
};

/// How a value moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum How {
    /// A new wrap around the same data key and body, where the format can. Does not restore secrecy from whoever held the old
    /// key and a copy.
    #[default]
    Rewrap,
    /// Everything new.
    Reseal,
}

impl How {
    /// What stays where nothing else is said: under a rewrap what is under the primary key, under a reseal nothing.
    #[must_use]
    pub const fn stays(self) -> Stays {
        match self {
            Self::Rewrap => Stays::UnderPrimary,
            Self::Reseal => Stays::Nothing,
        }
    }
}

/// Which of the values that have the right format stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stays {
    /// Those under the primary key.
    UnderPrimary,
    /// All, whatever key they are under: their readers may hold no other.
    UnderAnyKey,
    /// None: everything is made anew.
    Nothing,
}

/// Where a value should go.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The format, or `None` to keep the one found.
    pub format: Option<Format>,
    /// What becomes of plaintext where no format is given.
    pub plaintext_to: Format,
    /// How it gets there.
    pub how: How,
    /// Which values stay.
    pub stays: Stays,
    /// For a new Fernet token.
    pub now: UnixTime,
}

/// What should become of a stored value.
pub enum Move {
    /// It is where it should be.
    Stay(Found),
    /// It was opened, moved and opened again.
    To {
        /// What was found.
        found: Found,
        /// What to store.
        text: String,
        /// The key it is now under.
        kid: KeyId,
        /// Its format now.
        format: Format,
    },
}

/// Why a value stays as it is.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The old value did not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No new value could be made.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The new value did not open to the same secret. Nothing of it is kept.
    #[error("the new value did not open to the same secret")]
    Changed,
}

impl From<ContextError> for MoveError {
    fn from(error: ContextError) -> Self {
        Self::Open(error.into())
    }
}

impl MoveError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Open(error) => error.code(),
            Self::Seal(error) => error.code(),
            Self::Changed => Code::WrongKeyOrTampered,
        }
    }
}

impl Hint for MoveError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Open(error) => error.hint(),
            Self::Seal(error) => error.hint(),
            Self::Changed => Some("the record was left as it is; run again, and suspect this machine's memory".into()),
        }
    }
}

/// Plans moves: everything they share.
pub struct Mover<'a> {
    /// The keys.
    pub keyring: &'a Keyring,
    /// Randomness for whatever is sealed anew.
    pub random: &'a dyn RandomSource,
    /// How the old values are read.
    pub reader: Reader<'a>,
    /// Where they go.
    pub target: Target,
}

impl Mover<'_> {
    /// Opens `stored`, and where it is not yet where it should be, makes and checks the value that replaces it.
    ///
    /// # Errors
    /// A value that does not open, or is to become what the reader does not accept, is left as it is: the error says why.
    pub fn plan(&self, stored: &str, context: &dyn Located) -> Result<Move, MoveError> {
        let (Opened { secret, found }, kept) = self.keyring.open_kept(stored, context, &self.reader)?;
        let format = match (self.target.format, found) {
            (Some(format), _) | (None, Found::Sealed { format, .. }) => format,
            (None, Found::Plaintext) => self.target.plaintext_to,
        };
        // What its own reader would refuse is not made: nothing but another policy would open it again.
        self.reader.accept.check(Accepted::Sealed(format), self.reader.today)?;
        let primary = self.keyring.primary(format).ok_or(SealError::NoPrimary { format })?;
        let (same_format, same_key, made) = match found {
            Found::Sealed { format: now, kid, timestamp, .. } => (now == format, kid == primary.kid(), timestamp),
            Found::Plaintext => (false, false, None),
        };
        let stays = match self.target.stays {
            Stays::UnderPrimary => same_key,
            Stays::UnderAnyKey => true,
            Stays::Nothing => false,
        };
        if same_format && stays {
            return Ok(Move::Stay(found));
        }
        let wrapped = match (self.target.how, found.kid()) {
            (How::Rewrap, Some(kid)) if same_format => self.rewrapped((stored, kept), context, format, kid)?,
            _ => None,
        };
        let text = match wrapped {
            Some(text) => text,
            None => {
                // A Fernet token keeps its age through every move that ends in Fernet.
                let now = made.unwrap_or(self.target.now);
                let here = context.digest()?;
                self.keyring.seal(format, &here, secret.expose(), Fresh { random: self.random, now })?.text
            }
        };
        self.check(&text, context, primary.material(), &secret)?;
        Ok(Move::To { found, text, kid: primary.kid(), format })
    }

    /// The same data key and body under the primary key, where the format has a data key.
    fn rewrapped(
        &self,
        (stored, kept): (&str, Option<kf1::Kept>),
        context: &dyn Located,
        format: Format,
        kid: KeyId,
    ) -> Result<Option<String>, MoveError> {
        let (Some(KeyMaterial::Master(to)), Some(KeyMaterial::Master(from))) =
            (self.keyring.primary(format).map(Entry::material), self.keyring.entry(kid).map(Entry::material))
        else {
            return Ok(None);
        };
        Ok(match format {
            Format::Kf1 => {
                let here = context.digest()?;
                kept.map(|kept| kept.rewrap(to, &here)).transpose()?.map(|envelope| envelope.to_text())
            }
            Format::V1 => {
                let envelope = redis_sre_v1::Envelope::parse(stored, self.reader.reading)?;
                envelope.rewrap(from, to, self.random)?.map(|envelope| envelope.to_text())
            }
            Format::Fernet => None,
        })
    }

    /// Opens the new value with the primary key alone, as a strict reader, and compares.
    fn check(
        &self,
        text: &str,
        context: &dyn Located,
        primary: &KeyMaterial,
        secret: &Secret,
    ) -> Result<(), MoveError> {
        let same = |again: Option<Secret>| {
            if again.is_some_and(|again| again.same_as(secret)) { Ok(()) } else { Err(MoveError::Changed) }
        };
        if let (KeyMaterial::Master(key), Some(envelope)) = (primary, strict_v1(text)) {
            return same(envelope.open(key));
        }
        let again = match (primary, detect(text).sealed()?) {
            (KeyMaterial::Master(key), Format::Kf1) => {
                let here = context.digest()?;
                Some(kf1::open(key, &kf1::Envelope::from_text(text)?, &here)?)
            }
            (KeyMaterial::Fernet(key), Format::Fernet) => {
                fernet::Token::parse(text, Reading::Strict)?.open(key, None)?
            }
            _ => None,
        };
        same(again)
    }
}
