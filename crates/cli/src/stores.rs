//! The stores that records of other programs lie in: which ones a command needs, and the connections to them.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use keyfold_core::error::{Code, Hint};
#[cfg(feature = "firestore")]
use keyfold_custody::store::firestore::{FirestoreAddress, FirestoreStore};
use keyfold_custody::{
    collection::Collection,
    config::Config,
    layout::place::Layout,
    store::{
        CollectionId, RecordStore,
        redis::{RedisAddress, RedisStore},
        sql::{self, SqlAddress},
    },
};

use crate::{failure::Failure, location::Location};

/// What a command needs of them.
#[derive(Default)]
pub(crate) enum Needs {
    /// Nothing: it works on the data folder.
    #[default]
    Nothing,
    /// The configured collections, or the one of that name.
    Configured {
        /// Only this one.
        only: Option<String>,
        /// Where they lie, instead of where keyfold.toml says.
        store: Option<Location>,
    },
    /// These collections instead of the configured ones.
    Preset {
        /// What the preset names.
        collections: Vec<Collection>,
        /// Where they lie.
        store: Location,
    },
}

impl Needs {
    /// Puts a preset's collections in the place of the configured ones.
    pub(crate) fn apply(&self, config: &mut Config) {
        if let Self::Preset { collections, .. } = self {
            config.collections =
                collections.iter().map(|collection| (collection.name.clone(), collection.clone())).collect();
        }
    }

    /// Connects to every store that a needed collection lies in, once each.
    pub(crate) async fn connect(
        &self,
        config: &Config,
        folder: &Path,
    ) -> Result<HashMap<CollectionId, Arc<dyn RecordStore>>, Failure> {
        let (only, named) = match self {
            Self::Nothing => return Ok(HashMap::new()),
            Self::Configured { only, store } => (only.as_deref(), store.as_ref()),
            Self::Preset { store, .. } => (None, Some(store)),
        };
        let mut places: BTreeMap<String, (Location, HashMap<CollectionId, Layout>)> = BTreeMap::new();
        let needed = config.collections.values().filter(|collection| only.is_none_or(|name| name == collection.name));
        for collection in needed.filter(|collection| collection.layout.is_foreign()) {
            let place = match (named, &collection.store) {
                (Some(place), _) => place.clone(),
                (None, Some(text)) => text.parse().map_err(|error: crate::location::SecretInArgument| {
                    Failure::usage(format!("collections.{}.store: {error}", collection.name))
                })?,
                (None, None) => {
                    return Err(Failure::usage(format!("no store is named for collection `{}`", collection.name))
                        .hint("name it with --store, or as `store` of the collection in keyfold.toml"));
                }
            };
            let (_, layouts) = places.entry(place.as_written()).or_insert_with(|| (place, HashMap::new()));
            layouts.insert(collection.id.clone(), collection.layout.clone());
        }
        let mut stores = HashMap::new();
        for (place, layouts) in places.into_values() {
            let ids: Vec<CollectionId> = layouts.keys().cloned().collect();
            let store = open(&place, layouts, folder).await?;
            stores.extend(ids.into_iter().map(|id| (id, Arc::clone(&store))));
        }
        Ok(stores)
    }
}

async fn open(
    place: &Location,
    layouts: HashMap<CollectionId, Layout>,
    folder: &Path,
) -> Result<Arc<dyn RecordStore>, Failure> {
    let url = place.url().await?;
    let text = std::str::from_utf8(url.expose())
        .map_err(|_| Failure::usage(format!("{}: the address of the store is not text", place.as_written())))?;
    // What is wrong with an address is said without repeating it: it may hold a password.
    let address = |error: &dyn std::error::Error, hint: Option<String>| {
        Failure::usage(format!("the address of the store: {error}")).hint(hint.unwrap_or_default())
    };
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    match scheme {
        "postgres" | "postgresql" => {
            let parsed: SqlAddress = text.parse().map_err(|error| address(&error, Hint::hint(&error)))?;
            fits(&layouts, "PostgreSQL", |layout| matches!(layout, Layout::SqlColumns { .. }))?;
            Ok(sql::connect(&parsed, layouts).await?)
        }
        "sqlite" => {
            fits(&layouts, "SQLite", |layout| matches!(layout, Layout::SqlColumns { .. }))?;
            Ok(sql::connect(&SqlAddress::Sqlite(sqlite_file(text, folder)?), layouts).await?)
        }
        _ if RedisAddress::is_one(text) => {
            let parsed: RedisAddress = text.parse()?;
            let redis = |layout: &Layout| {
                matches!(
                    layout,
                    Layout::RedisHashJson { .. } | Layout::RedisJsonString { .. } | Layout::RedisHashField { .. }
                )
            };
            fits(&layouts, "Redis", redis)?;
            Ok(Arc::new(RedisStore::connect(&parsed, layouts).await?))
        }
        #[cfg(feature = "firestore")]
        _ if FirestoreAddress::is_one(text) => {
            let parsed: FirestoreAddress = text.parse().map_err(|error| address(&error, Hint::hint(&error)))?;
            fits(&layouts, "Firestore", |layout| matches!(layout, Layout::FirestoreDocument { .. }))?;
            Ok(Arc::new(FirestoreStore::connect(&parsed, layouts).await?))
        }
        #[cfg(not(feature = "firestore"))]
        "firestore" => Err(Failure::usage("this build of keyfold knows no Firestore")
            .hint("install one that does: cargo install keyfold --features firestore")),
        _ => Err(Failure::usage(format!("{}: not the address of a store", place.as_written())).hint(
            "write redis://host:6379/0, postgres://user@host/database, sqlite:PATH or firestore://project/(default)",
        )),
    }
}

fn fits(layouts: &HashMap<CollectionId, Layout>, store: &str, fits: impl Fn(&Layout) -> bool) -> Result<(), Failure> {
    match layouts.iter().find(|(_, layout)| !fits(layout)) {
        None => Ok(()),
        Some((id, layout)) => {
            Err(Failure::usage(format!("the layout {} of `{id}` is not one of {store}", layout.as_str()))
                .hint("name another store, or another preset or collection"))
        }
    }
}

/// `sqlite:PATH`, relative to where the command runs. Programs disagree on whether `sqlite:///app.db` is `/app.db` or `app.db`:
/// the one that is there is meant.
fn sqlite_file(text: &str, folder: &Path) -> Result<PathBuf, Failure> {
    let path = text.strip_prefix("sqlite:").unwrap_or(text);
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let candidates: Vec<PathBuf> = match path.strip_prefix("//") {
        None => vec![path.into()],
        Some(rest) => {
            let inner = rest.strip_prefix('/').unwrap_or(rest);
            let mut both: Vec<PathBuf> = vec![rest.into(), inner.into()];
            both.dedup();
            both
        }
    };
    let there: Vec<&PathBuf> = candidates.iter().filter(|path| path.is_file()).collect();
    match there[..] {
        [path] if path.starts_with(folder) && path.file_name().is_some_and(|name| name == "keyfold.db") => {
            Err(Failure::usage("that is the data folder's own database")
                .hint("leave --store out to work on the data folder's records"))
        }
        [path] => Ok(path.clone()),
        [] => Err(Failure::coded(Code::ProviderUnavailable, format!("there is no SQLite file at {path}"))
            .hint("write sqlite:PATH with the path of an existing file")),
        _ => Err(Failure::usage("two files could be meant").hint("write sqlite:PATH, without the slashes of a URL")),
    }
}
