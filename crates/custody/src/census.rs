//! What is stored under which key and in which format, declared or not.
//!
//! The census walks every string of every record of every collection, so that a value in an undeclared field, or in a
//! collection that is no longer configured, still counts for the key that it needs.

use std::collections::BTreeMap;

use keyfold_core::{
    accept::Accept,
    detect::{Detected, detect},
    envelope::{Format, Reading, kf1},
    id::KeyId,
    keyring::{Keyring, Reader, State},
};

use crate::{
    custody::Custody,
    error::CustodyError,
    layout::json::{self, Leaf},
    store::{CollectionId, StoredRecord},
};

const PAGE: usize = 500;

/// How much is stored under what.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Census {
    /// Records seen.
    pub records: u64,
    /// Values by collection id, format and key.
    pub values: Vec<Count>,
    /// Values that look sealed and that no key here opens, or that are malformed.
    pub unreadable: u64,
}

/// One line of a census.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Count {
    /// Where.
    pub collection: String,
    /// The format.
    pub format: &'static str,
    /// The key.
    pub kid: KeyId,
    /// How many.
    pub values: u64,
}

impl Census {
    /// How many values need a key.
    #[must_use]
    pub fn under(&self, kid: KeyId) -> u64 {
        self.values.iter().filter(|count| count.kid == kid).map(|count| count.values).sum()
    }
}

#[derive(Default)]
struct Tally {
    records: u64,
    unreadable: u64,
    values: BTreeMap<(String, &'static str, KeyId), u64>,
}

impl Custody {
    /// Counts everything in the record store.
    ///
    /// # Errors
    /// The store, and a record that is not JSON: what cannot be read cannot be counted.
    pub async fn census(&self) -> Result<Census, CustodyError> {
        let mut tally = Tally::default();
        for collection in self.records.collections().await? {
            for partition in self.records.partitions(&collection).await? {
                let mut after = None;
                loop {
                    let page = self.records.scan(&collection, &partition, after.as_ref(), PAGE).await?;
                    let keyring = self.keys.opening();
                    for record in &page.records {
                        tally.record(&keyring, &collection, record)?;
                    }
                    let Some(next) = page.next else { break };
                    after = Some(next);
                }
            }
        }
        let values = tally
            .values
            .into_iter()
            .map(|((collection, format, kid), values)| Count { collection, format, kid, values })
            .collect();
        Ok(Census { records: tally.records, values, unreadable: tally.unreadable })
    }
}

impl Tally {
    fn record(
        &mut self,
        keyring: &Keyring,
        collection: &CollectionId,
        record: &StoredRecord,
    ) -> Result<(), CustodyError> {
        self.records += 1;
        for cell in &record.cells {
            let Some(text) = cell.value.as_str() else {
                self.unreadable += 1;
                continue;
            };
            json::strings(text, |leaf| self.leaf(keyring, collection, &leaf))
                .map_err(|source| CustodyError::Json { place: format!("{collection}/{}", record.key), source })?;
        }
        Ok(())
    }

    fn leaf(&mut self, keyring: &Keyring, collection: &CollectionId, leaf: &Leaf<'_>) {
        match detect(leaf.value) {
            Detected::Plaintext => {}
            Detected::Sealed(format) => match needs(keyring, format, leaf.value) {
                Some(kid) => {
                    *self.values.entry((collection.as_str().into(), format.as_str(), kid)).or_insert(0) += 1;
                }
                None => self.unreadable += 1,
            },
            _ => self.unreadable += 1,
        }
    }
}

/// Which key a value needs: written in `kf1`, found by trying in the others, retired keys included.
fn needs(keyring: &Keyring, format: Format, value: &str) -> Option<KeyId> {
    if format == Format::Kf1 {
        return kf1::Envelope::from_text(value).ok().map(|envelope| envelope.kid());
    }
    let accept = Accept::only(format);
    let reader = Reader { accept: &accept, today: jiff::civil::Date::MIN, reading: Reading::Compat, max_age: None };
    let context = keyfold_core::context::Context::empty().digest();
    match keyring.open(value, &context, &reader) {
        Ok(opened) => opened.found.kid(),
        Err(keyfold_core::envelope::OpenError::KeyRetired { kid }) => Some(kid),
        Err(_) => None,
    }
}

/// The keys of a keyring that nothing stored needs and that may be retired or destroyed.
#[must_use]
pub fn idle(keyring: &Keyring, census: &Census) -> Vec<KeyId> {
    keyring
        .entries()
        .iter()
        .filter(|entry| matches!(entry.state(), State::Active | State::Retired) && census.under(entry.kid()) == 0)
        .map(keyfold_core::keyring::Entry::kid)
        .collect()
}
