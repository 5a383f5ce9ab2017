//! What a job says when it is done, and on the way.

use std::{borrow::Cow, collections::BTreeMap};

use keyfold_core::id::KeyId;

use super::Kind;
use crate::{collection::Collection, store::RecordKey};

/// How many records are named; beyond that they are only counted.
const NAMED: usize = 1000;

/// A record that was left as it is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Quarantined {
    /// The collection's name.
    pub collection: String,
    /// The record.
    pub record: String,
    /// The field, with real indices; empty where the whole document is at fault.
    pub field: String,
    /// The stable code.
    pub code: String,
    /// One line, without any value.
    pub reason: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A value that no job changes and somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reported {
    /// The collection's name.
    pub collection: String,
    /// The record.
    pub record: String,
    /// The field, with real indices.
    pub field: String,
    /// `plaintext`, `sealed` (its readers take the ciphertext for the secret), or `masked`: asterisks stand where the secret was.
    pub what: Cow<'static, str>,
}

impl Reported {
    pub(super) fn plaintext(collection: &Collection, record: &RecordKey, field: String) -> Self {
        Self { collection: collection.name.clone(), record: record.to_string(), field, what: "plaintext".into() }
    }

    pub(super) fn sealed(collection: &Collection, record: &RecordKey, field: String) -> Self {
        Self { what: "sealed".into(), ..Self::plaintext(collection, record, field) }
    }

    pub(super) fn masked(collection: &Collection, record: &RecordKey, field: String) -> Self {
        Self { what: "masked".into(), ..Self::plaintext(collection, record, field) }
    }
}

/// Counts of one pass, or of all.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Records seen.
    pub records: u64,
    /// Secret values seen.
    pub values: u64,
    /// Records that were, or in a dry run would be, changed.
    pub changed: u64,
    /// Values in them.
    pub changed_values: u64,
    /// Records that somebody else changed in between.
    pub overtaken: u64,
    /// Values as found, by format and key; plaintext has no key.
    pub found: BTreeMap<(&'static str, Option<KeyId>), u64>,
    /// The same values as they are once the changes are stored.
    pub left: BTreeMap<(&'static str, Option<KeyId>), u64>,
    /// What was left as it is, named up to a bound.
    pub quarantined: Vec<Quarantined>,
    /// How many values that is in all.
    pub quarantined_values: u64,
    /// What no job changes and somebody should look at, named up to a bound.
    pub reported: Vec<Reported>,
    /// How many values that is in all.
    pub reported_values: u64,
}

impl Tally {
    /// Adds another tally.
    pub fn add(&mut self, other: Self) {
        self.records += other.records;
        self.values += other.values;
        self.changed += other.changed;
        self.changed_values += other.changed_values;
        self.overtaken += other.overtaken;
        self.quarantined_values += other.quarantined_values;
        for (what, count) in other.found {
            *self.found.entry(what).or_insert(0) += count;
        }
        for (what, count) in other.left {
            *self.left.entry(what).or_insert(0) += count;
        }
        let room = NAMED.saturating_sub(self.quarantined.len());
        self.quarantined.extend(other.quarantined.into_iter().take(room));
        self.reported_values += other.reported_values;
        let room = NAMED.saturating_sub(self.reported.len());
        self.reported.extend(other.reported.into_iter().take(room));
    }

    /// Notes a value that somebody should look at.
    pub fn report(&mut self, reported: Reported) {
        self.reported_values += 1;
        if self.reported.len() < NAMED {
            self.reported.push(reported);
        }
    }

    /// Notes a value that was left as it is.
    pub fn quarantine(&mut self, quarantined: Quarantined) {
        self.quarantined_values += 1;
        if self.quarantined.len() < NAMED {
            self.quarantined.push(quarantined);
        }
    }
}

/// One line of the census in a [`Summary`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FoundLine {
    /// `kf1`, `v1`, `fernet`, `plaintext`, or `masked`: asterisks stand where a secret was.
    pub format: Cow<'static, str>,
    /// The key, where it was sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<KeyId>,
    /// How many values.
    pub values: u64,
}

/// What a job did to one collection.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// What was run.
    pub job: Kind,
    /// On which collection.
    pub collection: String,
    /// Whether nothing was to be written.
    pub dry_run: bool,
    /// Passes over the collection; the last one found nothing to do, or nobody else wrote while it ran.
    pub passes: u32,
    /// Records in the last whole pass.
    pub records: u64,
    /// Secret values in the last whole pass.
    pub values: u64,
    /// Records changed, in all passes.
    pub changed: u64,
    /// Values changed, in all passes.
    pub changed_values: u64,
    /// Records that somebody else changed in between and that were visited again.
    pub overtaken: u64,
    /// Values as they are now: as the last whole pass found or, where nobody else wrote, left them.
    pub found: Vec<FoundLine>,
    /// Values left as they are.
    pub quarantined_values: u64,
    /// The first thousand of them.
    pub quarantined: Vec<Quarantined>,
    /// Values that no job changes and somebody should look at: plaintext in fields whose readers open nothing, and masks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reported_values: u64,
    /// The first thousand of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reported: Vec<Reported>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Summary {
    pub(super) fn of(kind: Kind, collection: &str, dry_run: bool) -> Self {
        Self {
            job: kind,
            collection: collection.into(),
            dry_run,
            passes: 0,
            records: 0,
            values: 0,
            changed: 0,
            changed_values: 0,
            overtaken: 0,
            found: Vec::new(),
            quarantined_values: 0,
            quarantined: Vec::new(),
            reported_values: 0,
            reported: Vec::new(),
        }
    }

    /// Takes over a pass. What a pass counts of the collection's state replaces what the one before counted.
    pub(super) fn pass(&mut self, tally: Tally) {
        self.passes += 1;
        self.changed += tally.changed;
        self.changed_values += tally.changed_values;
        self.overtaken += tally.overtaken;
        self.records = tally.records;
        self.values = tally.values;
        self.quarantined_values = tally.quarantined_values;
        self.quarantined = tally.quarantined;
        self.reported_values = tally.reported_values;
        self.reported = tally.reported;
        self.found = tally
            .found
            .into_iter()
            .map(|((format, kid), values)| FoundLine { format: format.into(), kid, values })
            .collect();
    }

    /// Adds what was seen and done in another partition.
    pub(super) fn merge(&mut self, other: Self) {
        self.passes = self.passes.max(other.passes);
        self.records += other.records;
        self.values += other.values;
        self.changed += other.changed;
        self.changed_values += other.changed_values;
        self.overtaken += other.overtaken;
        for line in other.found {
            match self.found.iter_mut().find(|mine| mine.format == line.format && mine.kid == line.kid) {
                Some(mine) => mine.values += line.values,
                None => self.found.push(line),
            }
        }
        self.found.sort_by(|a, b| (&a.format, a.kid).cmp(&(&b.format, b.kid)));
        self.quarantined_values += other.quarantined_values;
        let room = NAMED.saturating_sub(self.quarantined.len());
        self.quarantined.extend(other.quarantined.into_iter().take(room));
        self.reported_values += other.reported_values;
        let room = NAMED.saturating_sub(self.reported.len());
        self.reported.extend(other.reported.into_iter().take(room));
    }

    /// Whether anything was left that should have changed, or did not open.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.quarantined_values == 0
    }
}
