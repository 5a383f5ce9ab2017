//! `doctor`: what is wrong, or could go wrong, and what to run next.

use std::collections::BTreeMap;

use keyfold_core::{
    detect::{Detected, detect},
    envelope::{Format, redis_sre_v1::WARN_WRAPS},
    keyring::{Purpose, State},
};

use crate::{
    collection::Collection,
    custody::Custody,
    error::CustodyError,
    keys::process::LEASE,
    layout::{json, look, place::Content},
    records::text_of,
    store::StoredRecord,
};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Secrets are readable, or will be lost.
    Error,
    /// Something to change.
    Warning,
    /// Worth knowing.
    Note,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How much it matters.
    pub weight: Weight,
    /// A stable word.
    pub what: &'static str,
    /// One line.
    pub message: String,
    /// What to run or change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What a look found, worst first.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Diagnosis {
    /// Records looked at.
    pub records: u64,
    /// The findings.
    pub findings: Vec<Finding>,
}

/// How many fields, and how many records, are named each by itself; beyond that they are counted.
const NAMED: usize = 1000;

#[derive(Default)]
struct Notes {
    arguments: String,
    records: u64,
    findings: Vec<Finding>,
    /// Records that could not be read.
    unreadable: u64,
    /// Values in undeclared fields that are not among the named.
    unnamed: u64,
    /// collection, pointer, reason → count and one record
    undeclared: BTreeMap<(String, String, String), (u64, String)>,
    /// collection, what → count
    declared: BTreeMap<(String, &'static str), u64>,
}

impl Custody {
    /// Looks at every record, the keyring, the processes and the counters. Opens nothing. `arguments` are what a job needs on the
    /// command line to come to the same records.
    ///
    /// # Errors
    /// The store.
    pub async fn diagnose(&self, arguments: &str) -> Result<Diagnosis, CustodyError> {
        let mut notes = Notes { arguments: arguments.into(), ..Notes::default() };
        self.look_at_records(&mut notes).await?;
        self.look_at_keys(&mut notes).await?;
        notes.sum_up();
        notes.findings.sort_by_key(|finding| finding.weight);
        Ok(Diagnosis { records: notes.records, findings: notes.findings })
    }

    async fn look_at_records(&self, notes: &mut Notes) -> Result<(), CustodyError> {
        let stored = self.records.collections().await?;
        for id in &stored {
            if !self.config.collections.values().any(|collection| collection.id == *id) {
                notes.add(
                    Weight::Warning,
                    "unconfigured_collection",
                    format!("records lie in collection `{id}`, which is not configured; no job visits them"),
                    Some(format!("add [collections.{id}] to keyfold.toml")),
                );
            }
        }
        for collection in self.config.collections.values() {
            let foreign = collection.layout.is_foreign();
            if !foreign && !stored.contains(&collection.id) {
                continue;
            }
            let store = match self.store_of(collection) {
                Ok(store) => store,
                Err(error) => {
                    let hint = keyfold_core::error::Hint::hint(&error);
                    notes.add(Weight::Note, "not_looked_at", error.to_string(), hint);
                    continue;
                }
            };
            for partition in store.partitions(&collection.id).await? {
                let mut after = None;
                loop {
                    let page = store.scan(&collection.id, &partition, after.as_ref(), 500).await?;
                    page.records.iter().for_each(|record| notes.record(collection, record));
                    for odd in page.odd {
                        notes.records += 1;
                        notes.unreadable(format!("{}/{}: {}", collection.name, odd.record, odd.what), Some(odd.hint));
                    }
                    let Some(next) = page.next else { break };
                    after = Some(next);
                }
            }
        }
        Ok(())
    }

    async fn look_at_keys(&self, notes: &mut Notes) -> Result<(), CustodyError> {
        let keyring = self.keys.opening();
        for collection in self.config.collections.values() {
            let led = keyring.led_by_environment();
            let seals = if collection.layout.is_foreign() { &led } else { &*keyring };
            if seals.primary(collection.format).is_none() {
                notes.add(
                    Weight::Error,
                    "no_primary",
                    format!("no primary key seals {} for collection `{}`", collection.format, collection.name),
                    Some(match (collection.layout.is_foreign(), collection.format) {
                        (true, Format::V1) => {
                            "set REDIS_SRE_MASTER_KEY to the key that the records' readers hold".into()
                        }
                        (true, Format::Fernet) => {
                            "set SRE_AGENT_ENCRYPTION_KEY to the key that the records' readers hold".into()
                        }
                        _ => format!("keyfold keys create --suites {}", collection.format),
                    }),
                );
            }
            match keyring.floor(collection.id.as_str()) {
                None if collection.layout.is_foreign() => {}
                None => notes.add(
                    Weight::Note,
                    "no_floor",
                    format!("the accept policy of collection `{}` has no floor yet", collection.name),
                    Some("`keyfold config apply` records it in the keyring, so that it can only tighten".into()),
                ),
                Some(_) => {
                    if let Err(error) = self.within_floor(collection) {
                        let hint = keyfold_core::error::Hint::hint(&error);
                        notes.add(Weight::Error, "beyond_floor", error.to_string(), hint);
                    }
                }
            }
        }
        for entry in keyring.entries() {
            let count = if entry.purpose() == Purpose::Master { self.usage.count(entry.kid()).await? } else { 0 };
            if count >= WARN_WRAPS {
                notes.add(
                    Weight::Warning,
                    "key_usage",
                    format!("key `{}` has sealed at least {count} v1 values, of 2^32 that are safe", entry.kid()),
                    Some("create and promote a new key, then `keyfold rotate`".into()),
                );
            }
            if entry.state() == State::Staged {
                notes.add(
                    Weight::Note,
                    "staged_key",
                    format!("key `{}` is staged and does not seal yet", entry.kid()),
                    Some(format!("keyfold keys promote {}", entry.kid())),
                );
            }
        }
        let now = self.system.now().await?;
        for report in self.keys.processes().live().await? {
            if now.0.saturating_sub(report.reported.0) > LEASE.as_secs() {
                notes.add(
                    Weight::Warning,
                    "silent_process",
                    format!("process {} (`{}` on {}) stopped reporting", report.id, report.command, report.place.host),
                    Some(format!("if it is gone for good, keyfold keys forget-process {}", report.id)),
                );
            }
        }
        Ok(())
    }
}

impl Notes {
    fn add(&mut self, weight: Weight, what: &'static str, message: String, hint: Option<String>) {
        self.findings.push(Finding { weight, what, message, hint });
    }

    fn unreadable(&mut self, message: String, hint: Option<String>) {
        self.unreadable += 1;
        if self.unreadable <= NAMED as u64 {
            self.add(Weight::Error, "unreadable_record", message, hint);
        }
    }

    fn record(&mut self, collection: &Collection, record: &StoredRecord) {
        self.records += 1;
        let (name, key) = (collection.name.as_str(), record.key.to_string());
        for spec in &collection.cells {
            let Some(held) = record.cell(&spec.name) else { continue };
            let walked = text_of(collection, &record.key, held).and_then(|text| {
                if spec.content == Content::Text {
                    let leaf = json::Leaf { pointer: &spec.at, name: Some(spec.name.as_str()), value: text };
                    self.leaf(name, true, &key, &leaf);
                    return Ok(());
                }
                json::strings(text, |leaf| {
                    let pointer = format!("{}{}", spec.at, leaf.pointer);
                    let declared = collection.fields.iter().any(|path| path.covers(&pointer));
                    self.leaf(name, declared, &key, &json::Leaf { pointer: &pointer, ..leaf });
                })
                .map_err(|source| CustodyError::Json { place: format!("{name}/{}", record.key), source })
            });
            if let Err(error) = walked {
                self.unreadable(error.to_string(), None);
            }
        }
    }

    fn leaf(&mut self, collection: &str, declared: bool, record: &str, leaf: &json::Leaf<'_>) {
        let detected = detect(leaf.value);
        if !declared {
            let reason = match detected {
                Detected::Plaintext => look::leaf_looks_secret(leaf).map(|reason| reason.to_string()),
                sealed => Some(format!("holds {} data", sealed.as_str())),
            };
            if let Some(reason) = reason {
                let key = (collection.to_owned(), leaf.pointer.to_owned(), reason);
                if self.undeclared.len() >= NAMED && !self.undeclared.contains_key(&key) {
                    self.unnamed += 1;
                    return;
                }
                self.undeclared.entry(key).or_insert_with(|| (0, record.to_owned())).0 += 1;
            }
            return;
        }
        let what = match detected {
            Detected::Plaintext if leaf.value.len() >= 3 && leaf.value.bytes().all(|b| b == b'*') => "masked",
            Detected::Plaintext => "plaintext",
            Detected::Sealed(Format::Kf1) => return,
            Detected::Sealed(_) => "unbound",
            Detected::Foreign(_) | Detected::UnsupportedFormat => "foreign",
            Detected::MalformedV1 | Detected::Disguised => "malformed",
        };
        *self.declared.entry((collection.into(), what)).or_insert(0) += 1;
    }

    fn sum_up(&mut self) {
        for ((collection, pointer, reason), (count, record)) in std::mem::take(&mut self.undeclared) {
            self.add(
                Weight::Warning,
                "undeclared_field",
                format!(
                    "{collection}#{pointer}: {reason}, in {count} records, `{record}` for one, and is not declared"
                ),
                Some(format!("add it to `fields` of collection `{collection}`, then run `keyfold migrate`")),
            );
        }
        if let Some(more) = self.unreadable.checked_sub(NAMED as u64).filter(|more| *more > 0) {
            self.add(Weight::Error, "unreadable_record", format!("{more} more records cannot be read"), None);
        }
        if self.unnamed > 0 {
            self.add(
                Weight::Warning,
                "undeclared_field",
                format!("{} more values lie in fields that are not declared", self.unnamed),
                Some("declare the fields above, with `*` for names that differ, then run this again".into()),
            );
        }
        for ((collection, what), count) in std::mem::take(&mut self.declared) {
            let (weight, says, hint) = match what {
                "plaintext" => (
                    Weight::Error,
                    "secrets lie in plaintext",
                    format!("keyfold migrate --collection {collection}{}", self.arguments),
                ),
                "masked" => (
                    Weight::Error,
                    "secrets are masks of asterisks: lost before they were stored",
                    "put the secrets in again".into(),
                ),
                "unbound" => (
                    Weight::Note,
                    "secrets are in a format that does not bind them to their place: pasted elsewhere, they open there",
                    format!(
                        "keyfold migrate --collection {collection} --to kf1{}, once every reader can",
                        self.arguments
                    ),
                ),
                "foreign" => (
                    Weight::Warning,
                    "secrets are another system's ciphertext",
                    "open them there, and put them in again".into(),
                ),
                _ => (Weight::Error, "secrets are damaged envelopes", "keyfold verify names them".into()),
            };
            self.add(weight, what, format!("{collection}: {count} {says}"), Some(hint));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_by_itself_is_bounded_and_the_rest_is_counted() {
        let mut notes = Notes::default();
        for n in 0..NAMED + 5 {
            let pointer = format!("/extra/{n}/password");
            let leaf = json::Leaf { pointer: &pointer, name: Some("password"), value: "hunter2" };
            notes.leaf("c", false, "r", &leaf);
            notes.unreadable("not JSON".into(), None);
        }
        notes.sum_up();
        assert_eq!(notes.findings.len(), 2 * (NAMED + 1));
        let more: Vec<&str> =
            notes.findings.iter().map(|finding| &*finding.message).filter(|text| text.starts_with("5 more")).collect();
        assert_eq!(more.len(), 2, "{more:?}");
    }
}
