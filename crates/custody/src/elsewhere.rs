//! What records in other programs' stores need: their keys, as the last job that went through them saw it.
//!
//! The census counts our own records. A store of another program is not ours to go through whenever a key is to be retired, and may not
//! be in reach. So every job leaves a note of the document's keys that a collection needs: before it writes, of those that it may
//! seal under; when it is done, of those that it found. No key that stands in a note is taken out of use.

use std::collections::BTreeSet;

use keyfold_core::{
    audit::{Action, Name},
    envelope::Format,
    id::KeyId,
    keyring::{Entry, Keyring, Origin},
};

use crate::{
    access::{Permit, op::Manage},
    collection::Collection,
    custody::Custody,
    error::CustodyError,
    jobs::Summary,
    store::{Expect, Pages, Put},
};

const PREFIX: &str = "elsewhere/";

/// What is known of one collection in one store.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Note {
    /// The collection's name.
    pub(crate) collection: String,
    /// The store, without credentials.
    pub(crate) store: String,
    /// The keys of the document that values there are, or may be, sealed under.
    pub(crate) keys: BTreeSet<KeyId>,
}

fn written(notes: &[Note]) -> Result<Vec<u8>, CustodyError> {
    serde_json::to_vec(notes)
        .map_err(|error| CustodyError::invalid(format!("a note cannot be written: {error}"), "report this"))
}

/// The keys of a set that the document holds. Those of the environment are not ours to retire.
fn ours(keyring: &Keyring, keys: impl IntoIterator<Item = KeyId>) -> BTreeSet<KeyId> {
    let document = |kid: &KeyId| keyring.entry(*kid).is_some_and(|entry| *entry.origin() == Origin::Document);
    keys.into_iter().filter(document).collect()
}

fn key(collection: &Collection) -> String {
    format!("{PREFIX}{}", collection.id.as_str())
}

/// What of the former note stays.
#[derive(Clone, Copy)]
enum Beside {
    /// All of it.
    All,
    /// All of it, unless it is still the version that was there when the pass began.
    Later(Option<u64>),
}

impl Custody {
    /// Notes, before anything is written, the keys that a job may seal under there.
    pub(crate) async fn may_seal_there(
        &self,
        collection: &Collection,
        store: &str,
        keyring: &Keyring,
    ) -> Result<(), CustodyError> {
        if !collection.layout.is_foreign() {
            return Ok(());
        }
        // What seals there is what the environment names, which may stand in the document in any state.
        let led = keyring.led_by_environment();
        let primaries = Format::ALL.iter().filter_map(|format| led.primary(*format)).map(Entry::kid);
        self.note(collection, store, ours(keyring, primaries), Beside::All).await
    }

    /// What [`Custody::seen_there`] needs to know of the time before.
    pub(crate) async fn noted_there(&self, collection: &Collection) -> Result<Option<u64>, CustodyError> {
        if !collection.layout.is_foreign() {
            return Ok(None);
        }
        Ok(self.system.get(&key(collection)).await?.map(|doc| doc.version))
    }

    /// Notes what a whole pass found there, in place of what was noted before it began (`known`). What did not open may need any key
    /// that was noted before, and what somebody noted meanwhile he may be sealing under.
    pub(crate) async fn seen_there(
        &self,
        collection: &Collection,
        store: &str,
        summary: &Summary,
        known: Option<u64>,
    ) -> Result<(), CustodyError> {
        if !collection.layout.is_foreign() {
            return Ok(());
        }
        let keyring = self.keys.opening();
        let found = ours(&keyring, summary.found.iter().filter_map(|line| line.kid));
        let beside = if summary.is_clean() { Beside::Later(known) } else { Beside::All };
        self.note(collection, store, found, beside).await
    }

    async fn note(
        &self,
        collection: &Collection,
        store: &str,
        mut keys: BTreeSet<KeyId>,
        beside: Beside,
    ) -> Result<(), CustodyError> {
        let key = key(collection);
        for _ in 0..20 {
            let doc = self.system.get(&key).await?;
            let mut notes: Vec<Note> =
                doc.as_ref().and_then(|doc| serde_json::from_slice(&doc.value).ok()).unwrap_or_default();
            let kept = match beside {
                Beside::All => true,
                Beside::Later(known) => doc.as_ref().map(|doc| doc.version) != known,
            };
            let place = notes.iter().position(|note| note.store == store);
            if let Some(former) = place.map(|place| notes.swap_remove(place)).filter(|_| kept) {
                keys.extend(former.keys);
            }
            notes.push(Note { collection: collection.name.clone(), store: store.into(), keys: keys.clone() });
            let value = written(&notes)?;
            let expect = doc.map_or(Expect::Absent, |doc| Expect::Version(doc.version));
            if self.system.put(&key, &value, expect, None).await? != Put::Conflict {
                return Ok(());
            }
        }
        Err(CustodyError::Conflict { what: "the note of what lies in another store kept changing".into() })
    }

    /// Forgets what was noted of a store that is gone for good: its keys may be retired from then on.
    ///
    /// # Errors
    /// Nothing is known of such a store.
    pub async fn forget_store(&self, permit: &Permit<Manage>, store: &str) -> Result<(), CustodyError> {
        let mut event = self.auditor.event(permit.actor(), Action::StoreForgotten)?;
        event.record = Some(Name::abridge(store));
        self.auditor
            .audited(event, async |_| {
                let (mut known, mut forgotten) = (Vec::new(), false);
                let mut pages = Pages::under(PREFIX, &*self.system);
                while let Some(page) = pages.next().await? {
                    for (key, doc) in page {
                        let mut notes: Vec<Note> = serde_json::from_slice(&doc.value).unwrap_or_default();
                        known.extend(notes.iter().map(|note| note.store.clone()));
                        let before = notes.len();
                        notes.retain(|note| note.store != store);
                        if notes.len() == before {
                            continue;
                        }
                        let value = written(&notes)?;
                        if self.system.put(&key, &value, Expect::Version(doc.version), None).await? == Put::Conflict {
                            return Err(CustodyError::Conflict {
                                what: "a job noted something at the same time".into(),
                            });
                        }
                        forgotten = true;
                    }
                }
                if forgotten {
                    return Ok(());
                }
                known.sort();
                known.dedup();
                Err(CustodyError::NotFound {
                    what: "no job has worked on such a store".into(),
                    hint: if known.is_empty() {
                        "there is nothing to forget".into()
                    } else {
                        format!("it is named as the refusal names it: {}", known.join("; "))
                    },
                })
            })
            .await
    }

    /// The collections elsewhere that need a key.
    pub(crate) async fn needed_elsewhere(&self, kid: KeyId) -> Result<Vec<Note>, CustodyError> {
        let mut needed = Vec::new();
        let mut pages = Pages::under(PREFIX, &*self.system);
        while let Some(page) = pages.next().await? {
            for (key, doc) in page {
                let notes: Vec<Note> = serde_json::from_slice(&doc.value).map_err(|_| {
                    let what = format!("`{key}` in the system store is not what it must be");
                    CustodyError::invalid(what, "restore a backup")
                })?;
                needed.extend(notes.into_iter().filter(|note| note.keys.contains(&kid)));
            }
        }
        Ok(needed)
    }
}
