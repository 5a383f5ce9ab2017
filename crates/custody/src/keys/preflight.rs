//! A look at the start: what of what is stored does this keyring open?

use std::{collections::BTreeMap, fmt};

use keyfold_core::{
    envelope::{OpenError, Reading},
    id::KeyId,
    keyring::Reader,
};

use crate::{
    custody::Custody,
    error::CustodyError,
    layout::json::{self, Value},
    records::doc_of,
};

/// What a sample showed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Preflight {
    /// Values looked at.
    pub values: u64,
    /// Of them, those that open.
    pub open: u64,
    /// Keys that are named by values and not held, and by how many.
    pub missing: BTreeMap<KeyId, u64>,
}

impl Preflight {
    /// Whether everything opened.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.open == self.values
    }
}

impl fmt::Display for Preflight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this keyring opens {} of {} values that were tried", self.open, self.values)?;
        for (kid, count) in &self.missing {
            write!(f, "; key `{kid}` is missing for {count}")?;
        }
        Ok(())
    }
}

impl Custody {
    /// Opens up to `sample` values of each collection of our own, and forgets them at once.
    ///
    /// # Errors
    /// The store.
    pub async fn preflight(&self, sample: usize) -> Result<Preflight, CustodyError> {
        let mut found = Preflight::default();
        let keyring = self.keys.opening();
        for collection in self.config.collections.values() {
            if self.foreign.contains_key(&collection.id) {
                continue;
            }
            let mut records = Vec::new();
            for partition in self.records.partitions(&collection.id).await? {
                let left = sample.saturating_sub(records.len());
                if left == 0 {
                    break;
                }
                records.extend(self.records.scan(&collection.id, &partition, None, left).await?.records);
            }
            let mut left = sample;
            for record in &records {
                let Ok(doc) = doc_of(collection, record) else { continue };
                let Ok(fields) = json::find(doc, &collection.fields) else { continue };
                for field in fields {
                    let Value::Text(text) = &field.value else { continue };
                    if left == 0 {
                        break;
                    }
                    left -= 1;
                    let context = collection.digest(keyring.deployment(), &record.key, &field.pointer)?;
                    let today = self.auditor.clock().now().date();
                    let reader = Reader { accept: &collection.accept, today, reading: Reading::Compat, max_age: None };
                    found.values += 1;
                    match keyring.open(text, &context, &reader) {
                        Ok(_) => found.open += 1,
                        Err(OpenError::UnknownKey { kid }) => *found.missing.entry(kid).or_insert(0) += 1,
                        Err(_) => {}
                    }
                }
            }
        }
        Ok(found)
    }
}
