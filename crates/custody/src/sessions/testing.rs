//! What tests of sessions and of the broker stand on: a store of their own, a clock that is set, an issuer that believes.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use keyfold_core::{
    audit::{Actor, Event},
    clock::{Clock, UnixTime},
    envelope::Format,
    keyring::{Entry, KeyMaterial, Keyring, Origin, Purpose, State},
    secret::{Key32, Secret},
};
use tempfile::TempDir;

use super::{
    Granted, IssuerError, Issuers, Keys, Kind, Made, Narrowing, NewSession, Person, PersonId, Presented, Rules,
    Sessions, Verified,
};
use crate::{
    access::{Operation, Permit, Subject, authorize},
    audit_log::InsecureMemory,
    auditor::Auditor,
    broker::{Broker, Destination, Exchange, Routes, ServiceAccount},
    store::{
        SystemStore,
        sqlite::{OpenMode, SqliteStore},
    },
    vouched::Voucher,
};

pub(crate) const NOW: u64 = 1_800_000_000;

#[derive(Default)]
pub(crate) struct SetClock(pub(crate) AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> UnixTime {
        UnixTime(NOW + self.0.load(Ordering::SeqCst))
    }
}

/// An issuer that takes `token-PERSON-SERIAL-EXPIRES`, and each refresh token once.
#[derive(Default)]
pub(crate) struct InsecureIssuer {
    pub(crate) clock: Arc<SetClock>,
    pub(crate) refused: Mutex<HashSet<String>>,
    pub(crate) refreshes: AtomicUsize,
    pub(crate) exchanges: AtomicUsize,
    pub(crate) used: Mutex<HashSet<Vec<u8>>>,
    pub(crate) slow: AtomicU64,
    pub(crate) forgotten: Mutex<Vec<PersonId>>,
}

pub(crate) fn person(name: &str) -> Person {
    let email = (name != "unverified").then(|| format!("{name}@example.com"));
    Person { iss: "https://issuer.example".into(), sub: name.into(), email }
}

pub(crate) fn token(name: &str, serial: u64, expires_in: u64) -> Secret {
    Secret::from(format!("token-{name}-{serial}-{}", NOW + expires_in))
}

impl InsecureIssuer {
    async fn dawdle(&self) {
        tokio::time::sleep(std::time::Duration::from_millis(self.slow.load(Ordering::SeqCst))).await;
    }
}

#[async_trait]
impl Issuers for InsecureIssuer {
    async fn verify(&self, presented: &Presented) -> Result<Verified, IssuerError> {
        let refused = IssuerError::Refused { what: "not a token of this issuer", hint: "sign in again" };
        let text = String::from_utf8(presented.access_token.expose().to_vec()).unwrap();
        let parts: Vec<_> = text.split('-').collect();
        let ["token", name, _, expires] = parts[..] else { return Err(refused) };
        if self.refused.lock().unwrap().contains(&text) {
            return Err(refused);
        }
        let expires = UnixTime(expires.parse().unwrap());
        if expires <= self.clock.now() {
            return Err(refused);
        }
        Ok(Verified { issuer: "test".into(), person: person(name), expires })
    }

    fn refreshes(&self, _: &str) -> bool {
        true
    }

    async fn refresh(&self, _: &str, token: &Secret) -> Result<Granted, IssuerError> {
        let text = String::from_utf8(token.expose().to_vec()).unwrap();
        let parts: Vec<_> = text.split('-').collect();
        let ["refresh", name, serial] = parts[..] else { panic!("{} parts", parts.len()) };
        let first = self.used.lock().unwrap().insert(token.expose().to_vec());
        self.dawdle().await;
        if !first {
            return Err(IssuerError::Refused { what: "the refresh token was used before", hint: "sign in again" });
        }
        self.refreshes.fetch_add(1, Ordering::SeqCst);
        let next = serial.parse::<u64>().unwrap() + 1;
        let expires_in = self.clock.now().0 - NOW + 1000;
        Ok(Granted {
            access_token: self::token(name, next, expires_in),
            expires: UnixTime(NOW + expires_in),
            refresh_token: Some(Secret::from(format!("refresh-{name}-{next}"))),
        })
    }

    async fn exchange(&self, _: &str, token: &Secret, to: &Exchange) -> Result<Granted, IssuerError> {
        self.exchanges.fetch_add(1, Ordering::SeqCst);
        self.dawdle().await;
        let text = String::from_utf8(token.expose().to_vec()).unwrap();
        Ok(Granted {
            access_token: Secret::from(format!("{text}-for-{}", to.audience.as_deref().unwrap_or(""))),
            expires: UnixTime(self.clock.now().0 + 500),
            refresh_token: None,
        })
    }

    async fn service_account(&self, _: &ServiceAccount, destination: &Destination) -> Result<Granted, IssuerError> {
        Ok(Granted {
            access_token: Secret::from(format!("service-account-for-{}", destination.name)),
            expires: UnixTime(self.clock.now().0 + 60),
            refresh_token: None,
        })
    }

    fn forget(&self, person: PersonId) {
        self.forgotten.lock().unwrap().push(person);
    }
}

/// A deployment's store and keys; nodes are made over it.
pub(crate) struct Place {
    _folder: TempDir,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) issuer: Arc<InsecureIssuer>,
    pub(crate) clock: Arc<SetClock>,
    pub(crate) sink: Arc<InsecureMemory>,
    pub(crate) format: Format,
    pub(crate) auto_sre: bool,
}

/// The key that Auto SRE's readers hold.
pub(crate) const READERS: [u8; 32] = [7; 32];

/// A keyring with a master key and a Fernet key.
pub(crate) fn keyring(byte: u8) -> Arc<Keyring> {
    Arc::new(keyring_of(byte))
}

fn keyring_of(byte: u8) -> Keyring {
    let now = UnixTime(NOW);
    let mut keyring = Keyring::first("kr", "kf-test", Key32::new([9; 32]));
    for (purpose, suites) in [(Purpose::Master, vec![Format::Kf1]), (Purpose::Fernet, vec![Format::Fernet])] {
        let material = KeyMaterial::new(purpose, Key32::new([byte; 32])).unwrap();
        let kid = material.kid();
        let entry = Entry::new(material, State::Staged, suites, now, Origin::Document);
        keyring = keyring.staged(entry).unwrap().promoted(kid, now).unwrap();
    }
    keyring
}

impl Place {
    pub(crate) async fn new() -> Self {
        Self::with(Format::Kf1).await
    }

    pub(crate) async fn with(format: Format) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path().join("db"), OpenMode::Create).await.unwrap());
        let clock = Arc::new(SetClock::default());
        let issuer = Arc::new(InsecureIssuer { clock: Arc::clone(&clock), ..InsecureIssuer::default() });
        let sink = Arc::new(InsecureMemory::default());
        Self { _folder: folder, store, keyring: keyring(1), issuer, clock, sink, format, auto_sre: false }
    }

    /// One whose sessions keep the token for Auto SRE's readers too.
    pub(crate) async fn with_readers(format: Format) -> Self {
        let material = KeyMaterial::new(Purpose::Fernet, Key32::new(READERS)).unwrap();
        let origin = Origin::Environment("SRE_AGENT_ENCRYPTION_KEY".into());
        let entry = Entry::new(material, State::Primary, vec![Format::Fernet], UnixTime(0), origin);
        let place = Self::with(format).await;
        let (keyring, _) = keyring_of(1).with_environment(vec![entry]);
        Self { keyring: Arc::new(keyring), auto_sre: true, ..place }
    }

    /// A node that has looked.
    pub(crate) async fn node(&self) -> Arc<Sessions> {
        let node = self.node_with(Arc::clone(&self.keyring));
        node.look().await.unwrap();
        node
    }

    pub(crate) fn node_with(&self, keyring: Arc<Keyring>) -> Arc<Sessions> {
        let voucher = Arc::new(Voucher::of(&keyring).unwrap());
        let auditor = Auditor::new(Arc::clone(&self.sink) as Arc<_>, Arc::clone(&self.clock) as Arc<_>);
        Arc::new(Sessions::new(
            Arc::clone(&self.store) as Arc<dyn SystemStore>,
            Keys::Transient(keyring),
            (voucher, auditor),
            Arc::clone(&self.issuer) as Arc<dyn Issuers>,
            ("kf-test".into(), Rules { format: self.format, auto_sre: self.auto_sre, ..Rules::default() }),
        ))
    }

    pub(crate) async fn broker(&self, routes: &str) -> Arc<Broker> {
        Broker::new(self.node().await, Routes::parse(&routes.parse().unwrap()).unwrap(), None)
    }

    pub(crate) fn pass(&self, seconds: u64) {
        self.clock.0.fetch_add(seconds, Ordering::SeqCst);
    }

    pub(crate) fn passed(&self) -> u64 {
        self.clock.0.load(Ordering::SeqCst)
    }

    /// All documents of sessions, as they are stored.
    pub(crate) async fn docs(&self) -> Vec<(String, Vec<u8>)> {
        let docs = self.store.list("sessions/", None, 10_000).await.unwrap();
        docs.into_iter().map(|(key, doc)| (key, doc.value)).collect()
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.sink.events()
    }
}

pub(crate) fn permit<O: Operation>() -> Permit<O> {
    authorize(&Subject::Local { uid: 0, owner: 0 }).unwrap()
}

/// The actor of [`permit`].
pub(crate) fn actor() -> Actor {
    Actor::new("local:0").unwrap()
}

pub(crate) fn sign_in(token: Secret) -> NewSession {
    NewSession {
        presented: Presented { issuer: None, access_token: token, id_token: None, nonce: None },
        refresh_token: None,
        project: None,
        state: None,
        cookie: false,
        handle: Some(Narrowing::default()),
    }
}

pub(crate) fn text(secret: &Secret) -> String {
    String::from_utf8(secret.expose().to_vec()).unwrap()
}

/// A session with a handle; gives the handle.
pub(crate) async fn handle(sessions: &Sessions, token: Secret) -> (Made, String) {
    let made = sessions.create(&permit(), sign_in(token)).await.unwrap();
    let handle = text(&made.handle.as_ref().unwrap().0);
    assert_eq!(super::Reference::parse(&handle).unwrap().kind, Kind::Handle);
    (made, handle)
}
