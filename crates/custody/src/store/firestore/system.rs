//! Our small documents in a Firestore, and the connection that they share with our records.
//!
//! | path | holds |
//! |---|---|
//! | `keyfold-system/KEY` | a document, or for a day the trace of one that was deleted |
//! | `keyfold-changes/GROUP-N` | when a key of a group was last written or deleted; a group is a key up to its first `/` |
//! | `keyfold-records/COLLECTION/records/KEY` | a record of our own |
//!
//! A write reads the document, and commits on condition that nobody wrote it since. Each commit also writes one of the few documents
//! that stand for changes of its group; who waits looks at these. Time is Firestore's time of reading.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use keyfold_core::{
    clock::UnixTime,
    rng::{self, SystemRandom},
};
use serde_json::json;
use tokio::sync::Notify;

use super::{
    address::FirestoreAddress,
    client::{Change, Client, Expected, Query},
    held::{self, Held, New},
    value::Fields,
};
use crate::store::{
    CellName, ChangeMark, CollectionId, DOC_CELL, Doc, Expect, Put, StoreError, SystemStore, check_key, check_prefix,
    system::{check_list, check_put, wait_for_change},
};

const SYSTEM: &str = "keyfold-system";
const CHANGES: &str = "keyfold-changes";

/// How many documents stand for the changes of a group: Firestore writes one and the same only a few times in a second.
const SHARDS: u8 = 4;

/// How often Firestore is asked what others changed. Each time costs as many reads as there are shards.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often, in writes of this process, what is long gone is dropped.
const FORGET_EVERY: u32 = 64;

const DAY: i64 = 86_400_000;

/// Records and small documents of our own in a Firestore. Clones share its connections.
#[derive(Clone)]
pub struct FirestoreSystem {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) client: Client,
    pub(super) doc: CellName,
    /// Collections of ours that are known to be on the list.
    pub(super) listed: Mutex<HashSet<CollectionId>>,
    written: Notify,
    puts: AtomicU32,
    shard: u8,
}

fn place(key: &str) -> String {
    format!("{SYSTEM}/{}", held::spell(key))
}

/// A key up to its first `/`.
fn group(key: &str) -> &str {
    key.find('/').map_or(key, |at| &key[..=at])
}

impl FirestoreSystem {
    /// Connects. Where the address names no emulator, the one that `FIRESTORE_EMULATOR_HOST` names is taken.
    ///
    /// # Errors
    /// A database that cannot be reached or refuses.
    pub async fn connect(address: &FirestoreAddress) -> Result<Self, StoreError> {
        let emulator = std::env::var("FIRESTORE_EMULATOR_HOST").ok();
        let client = Client::new(&address.clone().or_emulator(emulator.as_deref()))?;
        client.get(&["keyfold/connects"]).await?;
        let shard = rng::array::<1>(&SystemRandom).map_or(0, |[byte]| byte % SHARDS);
        let inner = Inner {
            client,
            doc: CellName::new(DOC_CELL)?,
            listed: Mutex::default(),
            written: Notify::new(),
            puts: AtomicU32::new(0),
            shard,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(super) fn client(&self) -> &Client {
        &self.inner.client
    }

    pub(super) fn millis(&self, time: &str) -> Result<i64, StoreError> {
        Ok(i64::try_from(held::micros(self.client(), time)? / 1000).unwrap_or(i64::MAX))
    }

    /// What lies at a path, alive or not, and the time.
    async fn found(&self, path: &str) -> Result<(Option<Held>, i64), StoreError> {
        let (mut documents, time) = self.client().get_at(&[path]).await?;
        let found = documents.pop().flatten().map(|document| Held::of(self.client(), document)).transpose()?;
        Ok((found, self.millis(&time)?))
    }

    /// The same without its bytes.
    async fn head(&self, path: &str) -> Result<(Option<Held>, i64), StoreError> {
        let (mut documents, time) = self.client().get_only(&[path], held::HEAD).await?;
        let found = documents.pop().flatten().map(|document| Held::of(self.client(), document)).transpose()?;
        Ok((found, self.millis(&time)?))
    }

    /// Writes a document, or the trace of one that is gone, if `expect` holds; gives the version.
    async fn write(
        &self,
        key: &str,
        value: Option<&[u8]>,
        expect: Expect,
        ttl: Option<i64>,
    ) -> Result<Option<u64>, StoreError> {
        let path = place(key);
        for attempt in 0..held::TRIES {
            let (found, now) = self.head(&path).await?;
            let alive = found.as_ref().filter(|held| held.is_alive(now));
            let holds = match expect {
                Expect::Any => value.is_some() || alive.is_some(),
                Expect::Absent => alive.is_none(),
                Expect::Version(version) => alive.is_some_and(|held| held.version == version),
            };
            if !holds {
                return Ok(None);
            }
            let ends = if value.is_some() { ttl.map(|ttl| now.saturating_add(ttl)) } else { Some(now + DAY) };
            let mut changes = held::put(&path, found.as_ref(), &New { key, bytes: value, ends })?;
            changes.push(self.change_of(group(key))?);
            if let Some(times) = self.client().commit(&changes).await? {
                self.wrote(now).await;
                let written = times.first().map(String::as_str).unwrap_or_default();
                return Ok(Some(held::micros(self.client(), written)?));
            }
            held::pause(attempt).await;
        }
        Err(held::contended(self.client()))
    }

    /// The write that says that a group changed.
    fn change_of(&self, group: &str) -> Result<Change, StoreError> {
        let path = format!("{CHANGES}/{}-{}", held::spell(group), self.inner.shard);
        let fields = Fields::from([
            ("key".into(), held::text_value(group)),
            ("nonce".into(), held::text_value(&held::nonce()?)),
        ]);
        Ok(Change { path, fields: Some(fields), expect: Expected::Anything })
    }

    /// Tells who waits in this process, and now and then drops what has been gone for a day.
    async fn wrote(&self, now: i64) {
        self.inner.written.notify_waiters();
        if !self.inner.puts.fetch_add(1, Ordering::Relaxed).is_multiple_of(FORGET_EVERY) {
            return;
        }
        // The write itself is done; what could not be dropped now is dropped later.
        if let Err(error) = self.forget(now - DAY).await {
            tracing::debug!(%error, "expired documents could not be dropped");
        }
    }

    async fn forget(&self, before: i64) -> Result<(), StoreError> {
        let mut query = all(SYSTEM, "");
        query.limit = 100;
        let ended = json!({
            "where": {"fieldFilter": {"field": {"fieldPath": "ends"}, "op": "LESS_THAN", "value": {"integerValue": before.to_string()}}},
            "orderBy": [{"field": {"fieldPath": "ends"}}],
        });
        for document in self.client().list_at(&mut query, ended).await?.0 {
            let path = self.client().path(&document)?.to_owned();
            let held = Held::of(self.client(), document)?;
            let mut changes = held.forget_parts(&path);
            changes.push(Change { path, fields: None, expect: Expected::At(held.updated) });
            // Where somebody made it anew, it stays.
            let _ = self.client().commit(&changes).await?;
        }
        Ok(())
    }

    /// When something under `prefix`, or near it, was last changed, and whether that is after `seen`.
    async fn look(&self, prefix: &str, seen: u64) -> Result<(u64, bool), StoreError> {
        let documents = if prefix.contains('/') {
            let group = held::spell(group(prefix));
            let paths: Vec<String> = (0..SHARDS).map(|n| format!("{CHANGES}/{group}-{n}")).collect();
            let found = self.client().get(&paths.iter().map(String::as_str).collect::<Vec<_>>()).await?;
            found.into_iter().flatten().collect()
        } else {
            let mut query = all(CHANGES, &held::spell(prefix));
            query.limit = 1000;
            self.client().list(&mut query).await?
        };
        let mut latest = seen;
        for document in &documents {
            latest = latest.max(held::micros(self.client(), &document.updated)?);
        }
        Ok((latest, latest > seen))
    }
}

/// The documents of a collection of ours whose spelled names start with `prefix`.
pub(super) fn all<'a>(collection: &'a str, prefix: &str) -> Query<'a> {
    let (from, to) = if prefix.is_empty() {
        (None, None)
    } else {
        // No digit of hex comes after `f`.
        (Some((format!("{collection}/{prefix}"), true)), Some(format!("{collection}/{prefix}g")))
    };
    Query { parent: String::new(), collection, descendants: false, from, to, limit: 0 }
}

#[async_trait]
impl SystemStore for FirestoreSystem {
    async fn get(&self, key: &str) -> Result<Option<Doc>, StoreError> {
        check_key(key)?;
        let path = place(key);
        for attempt in 0..held::TRIES {
            let (found, now) = self.found(&path).await?;
            let Some(mut held) = found.filter(|held| held.is_alive(now)) else { return Ok(None) };
            if let Some(value) = held.bytes(self.client(), &path).await? {
                return Ok(Some(Doc { value, version: held.version }));
            }
            held::pause(attempt).await;
        }
        Err(held::contended(self.client()))
    }

    async fn put(&self, key: &str, value: &[u8], expect: Expect, ttl: Option<Duration>) -> Result<Put, StoreError> {
        let ttl = check_put(key, value, ttl)?;
        let written = self.write(key, Some(value), expect, ttl).await?;
        Ok(written.map_or(Put::Conflict, |version| Put::Stored { version }))
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<bool, StoreError> {
        check_key(key)?;
        if expect == Expect::Absent {
            return Err(StoreError::invalid("a document cannot be deleted on condition that it is absent"));
        }
        Ok(self.write(key, None, expect, None).await?.is_some())
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Doc)>, StoreError> {
        check_list(prefix, after, limit)?;
        let mut query = all(SYSTEM, &held::spell(prefix));
        if let Some(after) = after.filter(|after| *after >= prefix) {
            query.from = Some((place(after), false));
        }
        let mut listed = Vec::new();
        loop {
            query.limit = (limit - listed.len()).clamp(1, 300);
            let (documents, time) = self.client().list_at(&mut query, json!({})).await?;
            let last = documents.len() < query.limit;
            for document in documents {
                let path = self.client().path(&document)?.to_owned();
                query.from = Some((path.clone(), false));
                let mut held = Held::of(self.client(), document)?;
                if !held.is_alive(self.millis(&time)?) {
                    continue;
                }
                match held.bytes(self.client(), &path).await? {
                    Some(value) => listed.push((held.key, Doc { value, version: held.version })),
                    // It was written meanwhile.
                    None => listed.extend(self.get(&held.key).await?.map(|doc| (held.key, doc))),
                }
            }
            if last || listed.len() >= limit {
                return Ok(listed);
            }
        }
    }

    async fn now(&self) -> Result<UnixTime, StoreError> {
        let (_, time) = self.client().get_at(&["keyfold/connects"]).await?;
        Ok(UnixTime(held::micros(self.client(), &time)? / 1_000_000))
    }

    async fn changed(&self, prefix: &str, since: &ChangeMark, wait: Duration) -> Result<ChangeMark, StoreError> {
        check_prefix(prefix)?;
        let noticed = (&self.inner.written, LOOK_EVERY);
        wait_for_change(&self.client().name, since, wait, noticed, |seen| self.look(prefix, seen)).await
    }
}
