//! Where our own data lies: the data folder's database, or a store that several machines share.
//!
//! Keyring, tokens, grants, cursors, leases and heartbeats are documents; records of our own layout lie beside them. The root key,
//! the copies of the keyring and, unless it has a store of its own, the audit log stay in each machine's data folder.

use std::{path::PathBuf, sync::Arc};

use keyfold_core::{clock::Clock, error::Hint, keyring::Keyring};
#[cfg(feature = "firestore")]
use keyfold_custody::store::firestore::{FirestoreAddress, FirestoreSystem};
use keyfold_custody::{
    audit_log::{AuditError, Log, Queued, Segments, Stored},
    config::{Config, Mistake},
    error::CustodyError,
    store::{
        OwnRecords, SystemStore,
        postgres::{PostgresAddress, PostgresStore},
        redis::{self, Losses, RedisAddress, RedisOwn, RedisSystem},
        sqlite::{OpenMode, Scrub, SqliteStore},
    },
};

use crate::{failure::Failure, folder::Folder, invocation::Invocation, location::Location};

/// An open system store.
pub(crate) struct System {
    pub(crate) records: Arc<dyn OwnRecords>,
    pub(crate) documents: Arc<dyn SystemStore>,
    /// The data folder's database, where it is that.
    database: Option<SqliteStore>,
}

/// Where it is, if not in the data folder: `--system` before `KEYFOLD_SYSTEM` before `[system]` in keyfold.toml.
pub(crate) fn place(invocation: &Invocation, config: &Config) -> Result<Option<Location>, Failure> {
    if let Some(named) = invocation.system() {
        return Ok(Some(named.clone()));
    }
    let configured = config.system.as_deref().map(str::parse::<Location>).transpose();
    configured.map_err(|error| Failure::usage(format!("system.uri: {error}")))
}

/// What is wrong with the addresses in keyfold.toml, as far as that shows without connecting.
pub(crate) fn mistakes(config: &Config) -> Vec<Mistake> {
    let places = [("system.uri", &config.system), ("audit.sink", &config.audit.sink)];
    let wrong = |(place, text): (&str, &Option<String>)| {
        let error = text.as_deref()?.parse::<Location>().err()?;
        Some(Mistake { place: place.into(), what: error.to_string() })
    };
    places.into_iter().filter_map(wrong).collect()
}

/// An address that was read, of one of the stores that our own data may lie in.
enum Address {
    Postgres(PostgresAddress),
    Redis(RedisAddress),
    #[cfg(feature = "firestore")]
    Firestore(FirestoreAddress),
}

impl Address {
    /// `what` is to lie there, in messages.
    async fn of(place: &Location, what: &str) -> Result<Self, Failure> {
        let url = place.url().await?;
        let text = std::str::from_utf8(url.expose())
            .map_err(|_| Failure::usage(format!("{}: the address of the {what} is not text", place.as_written())))?;
        // What is wrong with an address is said without repeating it: it may hold a password.
        let wrong = |error: &dyn std::error::Error, hint: Option<String>| {
            Failure::usage(format!("the address of the {what}: {error}")).hint(hint.unwrap_or_default())
        };
        let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "postgres" | "postgresql" => {
                Ok(Self::Postgres(text.parse().map_err(|error| wrong(&error, Hint::hint(&error)))?))
            }
            _ if RedisAddress::is_one(text) => Ok(Self::Redis(text.parse()?)),
            #[cfg(feature = "firestore")]
            _ if FirestoreAddress::is_one(text) => {
                Ok(Self::Firestore(text.parse().map_err(|error| wrong(&error, Hint::hint(&error)))?))
            }
            #[cfg(not(feature = "firestore"))]
            "firestore" => Err(Failure::usage("this build of keyfold knows no Firestore")
                .hint("install one that does: cargo install keyfold --features firestore")),
            "sqlite" => Err(Failure::usage(format!("a SQLite file cannot be the {what}; the data folder has one already"))
                .hint("leave --system out, and name the folder with --data-dir DIR")),
            _ => Err(Failure::usage(format!("{}: not the address of a {what}", place.as_written())).hint(
                "write redis://host:6379/0, postgres://user@host/database or firestore://project/(default), or leave it \
                 out for the data folder's own",
            )),
        }
    }
}

/// Where `audit.sink` is, if it is another place than the data folder.
async fn sink_address(config: &Config) -> Result<Option<Address>, Failure> {
    let Some(text) = &config.audit.sink else { return Ok(None) };
    let place: Location = text.parse().map_err(|error| Failure::usage(format!("audit.sink: {error}")))?;
    Address::of(&place, "audit sink").await.map(Some)
}

/// Where the audit log lies.
pub(crate) enum Audit {
    /// Segment files in the data folder.
    Folder(PathBuf),
    /// A store that machines share.
    Stored(Stored),
}

impl Audit {
    /// As keyfold.toml says; makes what it needs there where `mode` says so. A store without, or another one than was meant, would
    /// otherwise begin a log in which nothing has happened yet.
    pub(crate) async fn open(config: &Config, folder: &Folder, mode: OpenMode) -> Result<Self, Failure> {
        let Some(address) = sink_address(config).await? else { return Ok(Self::Folder(folder.audit())) };
        Ok(Self::Stored(match address {
            Address::Postgres(address) => PostgresStore::open(&address, mode).await?.audit(),
            Address::Redis(address) => redis::audit(&address).await?,
            #[cfg(feature = "firestore")]
            Address::Firestore(address) => FirestoreSystem::connect(&address).await?.audit(),
        }))
    }

    /// The log for who only reads it: nothing is made there, and nothing asked of the store that only a writer needs.
    pub(crate) async fn to_read(config: &Config, folder: &Folder) -> Result<Log, Failure> {
        let Some(address) = sink_address(config).await? else { return Ok(Log::Folder(folder.audit())) };
        Ok(Log::Stored(match address {
            Address::Postgres(address) => PostgresStore::open(&address, OpenMode::Existing).await?.audit().log(),
            Address::Redis(address) => redis::audit_to_read(&address).await?,
            #[cfg(feature = "firestore")]
            Address::Firestore(address) => FirestoreSystem::connect(&address).await?.audit().log(),
        }))
    }

    /// For reading.
    pub(crate) fn log(&self) -> Log {
        match self {
            Self::Folder(path) => Log::Folder(path.clone()),
            Self::Stored(stored) => Log::Stored(stored.log()),
        }
    }

    /// The writer of this process.
    pub(crate) fn sink(
        &self,
        keyring: &Keyring,
        seed: &[u8; 32],
        random: [u8; 48],
        clock: &Arc<dyn Clock>,
    ) -> Result<Queued, Failure> {
        let clock = Arc::clone(clock);
        let opened: Result<Queued, AuditError> = match self {
            Self::Folder(path) => Segments::open(path, keyring.deployment(), seed, random, clock),
            Self::Stored(stored) => stored.open(keyring.deployment(), seed, random, clock),
        };
        Ok(opened.map_err(CustodyError::from)?)
    }
}

impl System {
    /// Opens it; makes what it needs there where `mode` says so.
    pub(crate) async fn open(place: Option<&Location>, folder: &Folder, mode: OpenMode) -> Result<Self, Failure> {
        let Some(place) = place else {
            let store = SqliteStore::open(folder.database(), mode).await?;
            return Ok(Self::both(store.clone(), Some(store)));
        };
        Ok(match Address::of(place, "system store").await? {
            Address::Postgres(address) => Self::both(PostgresStore::open(&address, mode).await?, None),
            Address::Redis(address) => Self {
                records: Arc::new(RedisOwn::connect(&address, Losses::Refused).await?),
                documents: Arc::new(RedisSystem::connect(&address, Losses::Refused).await?),
                database: None,
            },
            #[cfg(feature = "firestore")]
            Address::Firestore(address) => Self::both(FirestoreSystem::connect(&address).await?, None),
        })
    }

    fn both<S: OwnRecords + SystemStore + Clone + 'static>(store: S, database: Option<SqliteStore>) -> Self {
        Self { records: Arc::new(store.clone()), documents: Arc::new(store), database }
    }

    /// Takes old content out of the data folder's database. What a server keeps of it is the server's to forget.
    pub(crate) async fn scrub(&self, how: Scrub) -> Result<(), Failure> {
        match &self.database {
            Some(database) => Ok(database.scrub(how).await?),
            None => Ok(()),
        }
    }

    /// Whether other machines can work on it too.
    pub(crate) const fn is_shared(&self) -> bool {
        self.database.is_none()
    }

    /// Closes the data folder's database. Connections to a server end with their last user.
    pub(crate) async fn close(&self) {
        if let Some(database) = &self.database {
            database.close().await;
        }
    }
}
