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
    layout::{
        json::{self, Leaf},
        path::FieldPath,
    },
    own,
    sessions::{COLLECTION, Sessions},
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
    /// Values in declared fields that lie in plaintext, by collection id.
    pub plaintext: BTreeMap<String, u64>,
    /// Values that look sealed and that no key here opens, or that are malformed. Another system's ciphertext needs none of
    /// our keys and is not among them.
    pub unreadable: u64,
    /// Where the first of them is: collection, record and pointer. It may lie in a field that no job visits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_unreadable: Option<String>,
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
    plaintext: BTreeMap<String, u64>,
    unreadable: u64,
    first_unreadable: Option<String>,
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
            let configured = self.config.collections.values().find(|configured| configured.id == collection);
            let fields = configured.map_or(&[][..], |configured| &configured.fields);
            for partition in self.records.partitions(&collection).await? {
                let mut after = None;
                loop {
                    let page = self.records.scan(&collection, &partition, after.as_ref(), PAGE).await?;
                    let keyring = self.keys.opening();
                    for record in &page.records {
                        tally.record(&keyring, (&collection, fields), record)?;
                    }
                    let Some(next) = page.next else { break };
                    after = Some(next);
                }
            }
        }
        let keyring = self.keys.opening();
        let mut count = |collection: &str, format: Format, kid| {
            *tally.values.entry((collection.into(), format.as_str(), kid)).or_insert(0) += 1;
        };
        Sessions::needs(&*self.system, &keyring, |format, kid| count(COLLECTION, format, kid)).await?;
        own::needs(&*self.system, |format, kid| count(own::COLLECTION, format, kid)).await?;
        let values = std::mem::take(&mut tally.values)
            .into_iter()
            .map(|((collection, format, kid), values)| Count { collection, format, kid, values })
            .collect();
        let Tally { records, plaintext, unreadable, first_unreadable, .. } = tally;
        Ok(Census { records, values, plaintext, unreadable, first_unreadable })
    }
}

impl Tally {
    fn record(
        &mut self,
        keyring: &Keyring,
        (collection, fields): (&CollectionId, &[FieldPath]),
        record: &StoredRecord,
    ) -> Result<(), CustodyError> {
        self.records += 1;
        for cell in &record.cells {
            let Some(text) = cell.value.as_str() else {
                self.unreadable(collection, record, "");
                continue;
            };
            json::strings(text, |leaf| self.leaf(keyring, (collection, fields, record), &leaf))
                .map_err(|source| CustodyError::Json { place: format!("{collection}/{}", record.key), source })?;
        }
        Ok(())
    }

    fn leaf(
        &mut self,
        keyring: &Keyring,
        (collection, fields, record): (&CollectionId, &[FieldPath], &StoredRecord),
        leaf: &Leaf<'_>,
    ) {
        let kid = match detect(leaf.value) {
            Detected::Plaintext => {
                if fields.iter().any(|field| field.covers(leaf.pointer)) {
                    *self.plaintext.entry(collection.as_str().into()).or_insert(0) += 1;
                }
                return;
            }
            Detected::Foreign(_) => return,
            Detected::Sealed(format) => needs(keyring, format, leaf.value).map(|kid| (format, kid)),
            Detected::MalformedV1 | Detected::Disguised | Detected::UnsupportedFormat => None,
        };
        match kid {
            Some((format, kid)) => {
                *self.values.entry((collection.as_str().into(), format.as_str(), kid)).or_insert(0) += 1;
            }
            None => self.unreadable(collection, record, leaf.pointer),
        }
    }

    fn unreadable(&mut self, collection: &CollectionId, record: &StoredRecord, pointer: &str) {
        self.unreadable += 1;
        self.first_unreadable.get_or_insert_with(|| format!("{collection}/{}#{pointer}", record.key));
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

#[cfg(test)]
mod tests {
    use keyfold_core::{
        clock::UnixTime,
        context::Context,
        keyring::{Entry, KeyMaterial, Origin, Purpose},
        rng::{Fresh, SystemRandom},
        secret::Key32,
    };

    use super::*;
    use crate::store::{Cell, CellValue, RecordKey};

    #[test]
    fn p04_a_value_in_an_undeclared_field_counts_and_the_first_that_does_not_open_is_named() {
        let now = UnixTime(1_800_000_000);
        let material = KeyMaterial::new(Purpose::Master, Key32::new([1; 32])).unwrap();
        let kid = material.kid();
        let entry = Entry::new(material, State::Primary, vec![Format::Kf1, Format::V1], now, Origin::Document);
        let keyring = Keyring::from_entries("kr", vec![entry]).unwrap();
        let fresh = Fresh { random: &SystemRandom, now };
        let sealed = |format| keyring.seal(format, &Context::empty().digest(), b"x", fresh).unwrap().text;
        let doc = format!(
            r#"{{"a":"{}","b":["{}"],"note":"vault:v1:abc","c":{{"d":"kf2.x"}},"e":"AQICAH","f":["p"],"g":"p"}}"#,
            sealed(Format::Kf1),
            sealed(Format::V1)
        );
        let record = StoredRecord {
            key: RecordKey::new("r").unwrap(),
            cells: vec![Cell { name: crate::records::doc_cell().unwrap(), value: CellValue::text(doc) }],
            revision: 1,
        };
        let mut tally = Tally::default();
        let fields = ["/a", "/note", "/f/*"].map(|path| path.parse().unwrap());
        tally.record(&keyring, (&CollectionId::new("c").unwrap(), &fields), &record).unwrap();
        assert_eq!(tally.plaintext, BTreeMap::from([("c".to_owned(), 1)]), "/f/* is declared, /g is not");
        assert_eq!(tally.values.values().sum::<u64>(), 2);
        assert!(tally.values.keys().all(|(_, _, needed)| *needed == kid));
        assert_eq!((tally.unreadable, tally.first_unreadable.as_deref()), (1, Some("c/r#/c/d")));
    }
}
