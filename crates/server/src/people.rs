//! People who signed in: sessions, the broker and the issuers, put together once.

use std::sync::Arc;

use keyfold_core::{
    audit::Actor,
    clock::Clock,
    envelope::Format,
    error::Hint,
    keyring::{Entry, KeyError, KeyMaterial, Keyring, Origin, Purpose, State},
    rng::{self, RandomError, SystemRandom},
    secret::Key32,
};
use keyfold_custody::{
    access::{GrantSpec, Known, Permit, Place, Refusal, Subject, authorize_at, op},
    broker::{Broker, Lender, Routes},
    config::Mistake,
    custody::Custody,
    error::CustodyError,
    sessions::{self, Issuers, Keys, Sessions},
    vouched::Voucher,
};

use crate::oidc::{
    Oidc, OidcError,
    settings::{SessionSettings, SignIn},
};

/// Everything about people.
pub struct People {
    /// The broker, and the sessions it decides over.
    pub broker: Arc<Broker>,
    pub(crate) oidc: Arc<Oidc>,
    pub(crate) sign_in: Option<SignIn>,
    clock: Arc<dyn Clock>,
}

/// Why there are no sessions where some were configured.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    /// The issuers.
    #[error(transparent)]
    Oidc(#[from] OidcError),
    /// The keyring, the store.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// The transient key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
}

impl Hint for PeopleError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Oidc(error) => error.hint(),
            Self::Custody(error) => error.hint(),
            Self::Key(error) => error.hint(),
            Self::Random(error) => error.hint(),
        }
    }
}

/// What sessions are sealed under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealedUnder {
    /// The deployment's keyring.
    Keyring,
    /// A key that ends with this process.
    Transient,
}

/// Where the store and the root key are, as far as sessions care.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings {
    /// Whether other nodes use the same store.
    pub shared_store: bool,
    /// Whether somebody named the root key, instead of leaving it to a file that was made beside the data.
    pub root_configured: bool,
    /// Whether a key of this process alone was asked for.
    pub dev: bool,
}

/// Decides what sessions are sealed under, before a port is bound.
///
/// # Errors
/// A shared store and a key that other nodes do not have.
pub fn sealed_under(surroundings: Surroundings) -> Result<SealedUnder, Mistake> {
    let Surroundings { shared_store, root_configured, dev } = surroundings;
    let mistake = |what: &str| Err(Mistake { place: "sessions".into(), what: what.into() });
    match (shared_store, root_configured, dev) {
        (true, _, true) => mistake(
            "--dev seals sessions under a key of this process alone, which no other node of a shared store has; leave --dev out",
        ),
        (true, false, false) => mistake(
            "on a shared store sessions need a root key that every node has; name it as `root_key` or in KEYFOLD_ROOT_KEY",
        ),
        (false, _, true) => Ok(SealedUnder::Transient),
        _ => Ok(SealedUnder::Keyring),
    }
}

impl People {
    /// Over an open deployment.
    ///
    /// # Errors
    /// See [`PeopleError`].
    pub fn open(
        custody: &Arc<Custody>,
        settings: &SessionSettings,
        routes: Routes,
        (under, clock): (SealedUnder, Arc<dyn Clock>),
    ) -> Result<Arc<Self>, PeopleError> {
        let keyring = custody.keys.opening();
        let voucher = Arc::new(Voucher::of(&keyring)?);
        let keys = match under {
            SealedUnder::Keyring => Keys::Live(Arc::clone(&custody.keys)),
            SealedUnder::Transient => Keys::Transient(Arc::new(transient(&*clock)?)),
        };
        let oidc = Arc::new(Oidc::new(settings, Box::new(Shared(Arc::clone(&clock))))?);
        let sessions = Sessions::new(
            Arc::clone(&custody.system),
            keys,
            (voucher, custody.auditor.clone()),
            Arc::clone(&oidc) as Arc<dyn Issuers>,
            (keyring.deployment().to_owned(), settings.rules.clone()),
        );
        let broker = Broker::new(Arc::new(sessions), routes, Some(Arc::clone(custody) as Arc<dyn Lender>));
        Ok(Arc::new(Self { broker, oidc, sign_in: settings.sign_in.clone(), clock }))
    }

    /// The sessions.
    #[must_use]
    pub fn sessions(&self) -> &Arc<Sessions> {
        self.broker.sessions()
    }

    /// The clock that all of it goes by.
    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// The right to make the session that a sign-in of ours ends in, and nothing else.
    pub(crate) fn sign_in_permit(&self) -> Result<Permit<op::Seal>, CustodyError> {
        let invalid = |what: String| CustodyError::invalid(what, "report this");
        let table: toml::Table = [
            ("may".to_owned(), toml::Value::Array(vec!["seal".into()])),
            ("collections".to_owned(), toml::Value::Array(vec![sessions::COLLECTION.into()])),
        ]
        .into_iter()
        .collect();
        let id_of = |name: &str| (name == sessions::COLLECTION).then(sessions::collection);
        let grant = GrantSpec::parse_one(&table).and_then(|spec| spec.compile(&id_of));
        let grant = grant.map_err(|mistakes| invalid(format!("{} mistakes", mistakes.len())))?;
        let known = Known {
            actor: Actor::new("keyfold:login").map_err(|error| invalid(error.to_string()))?,
            grants: Arc::from([Arc::new(grant)]),
            narrowed: None,
            today: self.clock.now().date(),
        };
        authorize_at(&Subject::Known(known), &Place::Collection(&sessions::collection())).map_err(|e: Refusal| e.into())
    }
}

struct Shared(Arc<dyn Clock>);

impl Clock for Shared {
    fn now(&self) -> keyfold_core::clock::UnixTime {
        self.0.now()
    }
}

/// Keys that nobody writes down.
fn transient(clock: &dyn Clock) -> Result<Keyring, PeopleError> {
    let mut entries = Vec::new();
    for (purpose, suites) in [(Purpose::Master, vec![Format::Kf1]), (Purpose::Fernet, vec![Format::Fernet])] {
        let material = KeyMaterial::new(purpose, Key32::new(rng::array(&SystemRandom)?))?;
        entries.push(Entry::new(material, State::Primary, suites, clock.now(), Origin::Document));
    }
    Keyring::from_entries("transient", entries)
        .map_err(|error| CustodyError::invalid(error.to_string(), "report this").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_store_needs_a_key_that_every_node_has() {
        let at = |shared_store, root_configured, dev| sealed_under(Surroundings { shared_store, root_configured, dev });
        assert_eq!(at(false, false, false).unwrap(), SealedUnder::Keyring);
        assert_eq!(at(true, true, false).unwrap(), SealedUnder::Keyring);
        assert_eq!(at(false, true, true).unwrap(), SealedUnder::Transient);
        assert!(at(true, false, false).unwrap_err().what.contains("root_key"));
        for root in [true, false] {
            assert!(at(true, root, true).unwrap_err().what.contains("--dev"));
        }
    }
}
