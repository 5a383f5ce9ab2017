//! The keyring: which keys can open, and the one that seals.
//!
//! A [`Keyring`] never changes. Adding, promoting or retiring a key makes a new one, so a request that began under one
//! keyring ends under it. States run `staged` (opens only), `primary` (exactly one seals), `active` (opens only),
//! `retired` (refused, recoverable), and then a tombstone.

pub mod document;
pub mod edit;
mod key;
mod open;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

pub(crate) use self::open::strict_v1;
pub use self::{
    key::{
        FERNET_KEY_VARIABLE, KeyError, MASTER_KEY_VARIABLE, MasterKey, fernet_to_text, master_to_text, parse_fernet,
        parse_key32, parse_master,
    },
    open::{Found, Opened, Reader, Sealed},
};
use crate::{
    accept::Accept,
    clock::UnixTime,
    envelope::{Format, fernet::FernetKey},
    id::KeyId,
    secret::Key32,
};

/// What an entry may do at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Opens, and waits until every process holds it.
    Staged,
    /// Opens, and is the one that seals.
    Primary,
    /// Opens only.
    Active,
    /// Refused; can be put back.
    Retired,
}

impl State {
    /// The word in documents and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Primary => "primary",
            Self::Active => "active",
            Self::Retired => "retired",
        }
    }

    /// Whether a key in this state opens.
    #[must_use]
    pub const fn opens(self) -> bool {
        !matches!(self, Self::Retired)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Two kinds of key that are never used for each other's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The M of `kf1`, and the raw master key of `v1`.
    Master,
    /// A Fernet key.
    Fernet,
}

impl Purpose {
    /// The word in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Fernet => "fernet",
        }
    }

    /// Which kind of key seals a format.
    #[must_use]
    pub const fn of(format: Format) -> Self {
        match format {
            Format::Kf1 | Format::V1 => Self::Master,
            Format::Fernet => Self::Fernet,
        }
    }
}

/// The key itself.
pub enum KeyMaterial {
    /// For `kf1` and `v1`.
    Master(Box<MasterKey>),
    /// For Fernet.
    Fernet(Box<FernetKey>),
}

impl KeyMaterial {
    /// Sets up a key for a purpose.
    ///
    /// # Errors
    /// Where the library refuses the key.
    pub fn new(purpose: Purpose, raw: Key32) -> Result<Self, KeyError> {
        Ok(match purpose {
            Purpose::Master => Self::Master(Box::new(MasterKey::new(raw)?)),
            Purpose::Fernet => Self::Fernet(Box::new(FernetKey::new(raw)?)),
        })
    }

    /// The id derived from the key.
    #[must_use]
    pub fn kid(&self) -> KeyId {
        match self {
            Self::Master(key) => key.kid(),
            Self::Fernet(key) => key.kid(),
        }
    }

    /// The raw key, to be wrapped by a root key.
    #[must_use]
    pub fn raw(&self) -> &Key32 {
        match self {
            Self::Master(key) => key.raw(),
            Self::Fernet(key) => key.raw(),
        }
    }

    const fn purpose(&self) -> Purpose {
        match self {
            Self::Master(_) => Purpose::Master,
            Self::Fernet(_) => Purpose::Fernet,
        }
    }
}

/// Where an entry came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The authenticated keyring document.
    Document,
    /// A variable of the environment; opens and seals, and is never written anywhere.
    Environment(String),
}

/// One key with its state. Cheap to clone; the key is shared.
#[derive(Clone)]
pub struct Entry {
    key: Arc<KeyMaterial>,
    state: State,
    suites: Vec<Format>,
    created: UnixTime,
    since: UnixTime,
    origin: Origin,
    scheduled: bool,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("kid", &self.kid()).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Entry {
    /// An entry that the document or the environment brings.
    #[must_use]
    pub fn new(key: KeyMaterial, state: State, suites: Vec<Format>, created: UnixTime, origin: Origin) -> Self {
        Self { key: Arc::new(key), state, suites, created, since: created, origin, scheduled: false }
    }

    /// The same entry, made by a rotation by the clock.
    #[must_use]
    pub fn by_schedule(self) -> Self {
        Self { scheduled: true, ..self }
    }

    /// The id.
    #[must_use]
    pub fn kid(&self) -> KeyId {
        self.key.kid()
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// The formats this key may serve.
    #[must_use]
    pub fn suites(&self) -> &[Format] {
        &self.suites
    }

    /// When the key was made.
    #[must_use]
    pub const fn created(&self) -> UnixTime {
        self.created
    }

    /// When it came into its present state.
    #[must_use]
    pub const fn since(&self) -> UnixTime {
        self.since
    }

    /// Where it came from.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Whether a rotation by the clock made it, and nobody else waits for something before it seals.
    #[must_use]
    pub const fn is_scheduled(&self) -> bool {
        self.scheduled
    }

    /// What kind of key it is.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.key.purpose()
    }

    /// The key, for whoever wraps it.
    #[must_use]
    pub fn material(&self) -> &KeyMaterial {
        &self.key
    }

    fn serves(&self, format: Format) -> bool {
        self.suites.contains(&format)
    }
}

/// What is left of a destroyed key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tombstone {
    /// The key that was.
    pub kid: KeyId,
    /// When it was destroyed.
    pub destroyed: UnixTime,
}

/// A set of keys at one generation.
pub struct Keyring {
    id: String,
    deployment: String,
    generation: u64,
    /// The URIs of the root keys that wrap the document.
    roots: Vec<String>,
    entries: Vec<Entry>,
    tombstones: Vec<Tombstone>,
    floors: BTreeMap<String, Accept>,
    audit_seed: Option<Arc<Key32>>,
    /// Which entry opened the last value of a format without key ids; it is tried first.
    last_hit: AtomicUsize,
    /// The current keys of the environment; each list has one.
    current: Vec<KeyId>,
    /// Whether those seal v1 and Fernet, whatever the document says.
    led: bool,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("id", &self.id)
            .field("generation", &self.generation)
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

/// Why keys do not make a keyring.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// Two entries with one id.
    #[error("key `{0}` is in the keyring twice")]
    Repeated(KeyId),
    /// More than one key would seal.
    #[error("keys `{0}` and `{1}` are both primary")]
    TwoPrimaries(KeyId, KeyId),
}

impl KeyringError {
    /// Always [`crate::error::Code::KeyInvalid`].
    #[must_use]
    pub const fn code(&self) -> crate::error::Code {
        crate::error::Code::KeyInvalid
    }
}

impl crate::error::Hint for KeyringError {
    fn hint(&self) -> Option<String> {
        Some("list every key once, with one primary for each kind of key".into())
    }
}

impl Keyring {
    /// A keyring of raw keys from the environment, without a document: the first of each list seals, the rest open.
    ///
    /// # Errors
    /// Two entries with one id.
    pub fn from_entries(id: &str, entries: Vec<Entry>) -> Result<Self, KeyringError> {
        let keyring = Self {
            id: id.into(),
            deployment: id.into(),
            generation: 0,
            roots: Vec::new(),
            entries,
            tombstones: Vec::new(),
            floors: BTreeMap::new(),
            audit_seed: None,
            last_hit: AtomicUsize::new(0),
            current: Vec::new(),
            led: false,
        };
        keyring.checked()
    }

    /// Adds keys of the environment to a keyring from a document. They open; where the document has no primary of their
    /// kind they seal too. A tombstone or an entry of the same id wins; the ids it won over are returned.
    #[must_use]
    pub fn with_environment(mut self, keys: Vec<Entry>) -> (Self, Vec<KeyId>) {
        let mut buried = Vec::new();
        for mut entry in keys {
            let kid = entry.kid();
            if self.tombstone(kid).is_some() {
                buried.push(kid);
                continue;
            }
            if entry.state == State::Primary {
                self.current.push(kid);
            }
            if self.entry(kid).is_none() {
                let taken = self.entries.iter().any(|e| e.state == State::Primary && e.purpose() == entry.purpose());
                if entry.state == State::Primary && taken {
                    entry.state = State::Active;
                }
                self.entries.push(entry);
            }
        }
        (self, buried)
    }

    /// The keyring for records that other programs read: v1 and Fernet are sealed under the environment's current keys, which are
    /// the ones that those programs hold, also where the document has a primary of its own.
    #[must_use]
    pub fn led_by_environment(&self) -> Self {
        Self {
            id: self.id.clone(),
            deployment: self.deployment.clone(),
            generation: self.generation,
            entries: self.entries.clone(),
            tombstones: self.tombstones.clone(),
            floors: self.floors.clone(),
            audit_seed: self.audit_seed.clone(),
            roots: self.roots.clone(),
            last_hit: AtomicUsize::new(self.last_hit.load(Ordering::Relaxed)),
            current: self.current.clone(),
            led: true,
        }
    }

    /// The key that programs which hold a raw key seal a format under; `None` for `kf1` and where the environment names none.
    #[must_use]
    pub fn leading(&self, format: Format) -> Option<&Entry> {
        let opens =
            |entry: &&Entry| entry.purpose() == Purpose::of(format) && entry.serves(format) && entry.state.opens();
        self.current.iter().filter(|_| format != Format::Kf1).filter_map(|kid| self.entry(*kid)).find(opens)
    }

    fn checked(self) -> Result<Self, KeyringError> {
        for (i, entry) in self.entries.iter().enumerate() {
            for earlier in &self.entries[..i] {
                if earlier.kid() == entry.kid() {
                    return Err(KeyringError::Repeated(entry.kid()));
                }
                if earlier.state == State::Primary
                    && entry.state == State::Primary
                    && earlier.purpose() == entry.purpose()
                {
                    return Err(KeyringError::TwoPrimaries(earlier.kid(), entry.kid()));
                }
            }
        }
        Ok(self)
    }

    /// The keyring's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The deployment it belongs to; part of every field's context.
    #[must_use]
    pub fn deployment(&self) -> &str {
        &self.deployment
    }

    /// Grows by one with every change.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The URIs of the root keys that wrap the document; none where it was never written.
    #[must_use]
    pub fn roots(&self) -> &[String] {
        &self.roots
    }

    /// All entries, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What is left of destroyed keys.
    #[must_use]
    pub fn tombstones(&self) -> &[Tombstone] {
        &self.tombstones
    }

    /// The accept floor of a collection, where one was set.
    #[must_use]
    pub fn floor(&self, collection: &str) -> Option<&Accept> {
        self.floors.get(collection)
    }

    /// The seed of the deployment's audit key, where the keyring came from a document.
    #[must_use]
    pub fn audit_seed(&self) -> Option<&Key32> {
        self.audit_seed.as_deref()
    }

    /// The entry with this id.
    #[must_use]
    pub fn entry(&self, kid: KeyId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.kid() == kid)
    }

    /// The tombstone with this id.
    #[must_use]
    pub fn tombstone(&self, kid: KeyId) -> Option<&Tombstone> {
        self.tombstones.iter().find(|tombstone| tombstone.kid == kid)
    }

    /// The entry that seals a format.
    #[must_use]
    pub fn primary(&self, format: Format) -> Option<&Entry> {
        if self.led
            && let Some(leading) = self.leading(format)
        {
            return Some(leading);
        }
        self.entries.iter().find(|entry| {
            entry.state == State::Primary && entry.purpose() == Purpose::of(format) && entry.serves(format)
        })
    }

    /// Entries that may open a format without key ids, the last hit first.
    fn candidates(&self, format: Format) -> impl Iterator<Item = (usize, &Entry)> {
        let last = self.last_hit.load(Ordering::Relaxed);
        let first = self.entries.get(last).map(|entry| (last, entry));
        first
            .into_iter()
            .chain(self.entries.iter().enumerate().filter(move |&(i, _)| i != last))
            .filter(move |(_, entry)| entry.state.opens() && entry.serves(format))
    }

    fn remember(&self, index: usize) {
        if self.last_hit.load(Ordering::Relaxed) != index {
            self.last_hit.store(index, Ordering::Relaxed);
        }
    }
}
