//! What should become of one record. No I/O: this is where the processor's time goes, on any thread.

use keyfold_core::{
    clock::UnixTime,
    envelope::{Format, OpenError},
    error::{Code, Hint},
    keyring::Keyring,
    rewrap::{Move, MoveError, Mover, Target},
    rng::SystemRandom,
};

use super::{Job, Kind, Quarantined, Tally};
use crate::{
    collection::Collection,
    error::CustodyError,
    layout::json::{Edit, Value, encode_string},
    records::{doc_cell, doc_of, reader, secrets, spliced},
    store::{CellValue, MAX_CELL, StoredRecord, Swap},
};

/// What a batch of records should become.
#[derive(Default)]
pub struct Planned {
    /// The changes, each checked.
    pub swaps: Vec<Swap>,
    /// What was seen.
    pub tally: Tally,
    /// How many v1 values were wrapped anew.
    pub wraps: u64,
}

/// Plans one record into `planned`. A record of which any secret does not open is left as it is, all of it.
pub fn plan_record(
    planned: &mut Planned,
    job: &Job,
    keyring: &Keyring,
    collection: &Collection,
    (record, now): (StoredRecord, UnixTime),
) {
    planned.tally.records += 1;
    let key = record.key.clone();
    match values(&mut planned.tally, job, keyring, collection, (&record, now)) {
        Ok(edits) if edits.is_empty() => {}
        Ok(edits) => {
            let count = edits.len();
            let wraps = edits.iter().filter(|(_, format)| *format == Format::V1).count();
            match swap(collection, record, edits.into_iter().map(|(edit, _)| edit).collect()) {
                Ok(swap) => {
                    planned.tally.changed += 1;
                    planned.tally.changed_values += u64::try_from(count).unwrap_or(u64::MAX);
                    planned.wraps += u64::try_from(wraps).unwrap_or(u64::MAX);
                    planned.swaps.push(swap);
                }
                Err(error) => planned.tally.quarantine(whole(collection, key.as_str(), &error)),
            }
        }
        Err(error) => planned.tally.quarantine(whole(collection, key.as_str(), &error)),
    }
}

fn swap(collection: &Collection, record: StoredRecord, edits: Vec<Edit>) -> Result<Swap, CustodyError> {
    let new = CellValue::Text(spliced(collection, &record.key, doc_of(collection, &record)?, edits)?);
    // A store refuses it, and the whole batch with it: one record would hold up all that come after.
    if new.len() > MAX_CELL {
        return Err(CustodyError::Invalid {
            what: format!("sealed, the document would have {} bytes, at most {MAX_CELL} are stored", new.len()),
            hint: "take something out of the record".into(),
            code: Some(Code::TooLarge),
        });
    }
    let cell = doc_cell()?;
    let old = record.cells.into_iter().find(|held| held.name == cell).map(|held| held.value);
    let old = old.ok_or_else(|| CustodyError::invalid("the document is gone", "run again"))?;
    Ok(Swap { key: record.key, cell, old, new })
}

type Edits = Vec<(Edit, Format)>;

/// The new values of a record, or none where one of its values does not open.
fn values(
    tally: &mut Tally,
    job: &Job,
    keyring: &Keyring,
    collection: &Collection,
    (record, now): (&StoredRecord, UnixTime),
) -> Result<Edits, CustodyError> {
    let mut edits = Edits::new();
    let mut whole = true;
    let mover = mover(job, keyring, collection, now);
    for found in secrets(collection, &record.key, doc_of(collection, record)?)? {
        let text = match &found.value {
            Value::Null => continue,
            Value::Text(text) => text,
            Value::Other(_) => {
                whole = false;
                tally.values += 1;
                tally.quarantine(Quarantined {
                    collection: collection.name.clone(),
                    record: record.key.to_string(),
                    field: found.exact,
                    code: "malformed".into(),
                    reason: "a secret field holds something else than a string".into(),
                    hint: Some("mend the record, or the `fields` of the collection".into()),
                });
                continue;
            }
        };
        tally.values += 1;
        let context = collection.digest(keyring.deployment(), &record.key, &found.pointer)?;
        let outcome = match job.kind {
            Kind::Verify => keyring
                .open(text, &context, &mover.reader)
                .map(|opened| Move::Stay(opened.found))
                .map_err(MoveError::from),
            Kind::Migrate | Kind::Rotate => mover.plan(text, &context),
        };
        let (what, edit) = match outcome {
            Ok(Move::Stay(what)) => (what, None),
            Ok(Move::To { found: what, text, format, .. }) => {
                (what, Some((Edit { span: found.span, token: encode_string(&text) }, format)))
            }
            // A rotation leaves plaintext to `migrate`, and says so.
            Err(error) => {
                whole = false;
                tally.quarantine(value(collection, record.key.as_str(), found.exact, &error));
                continue;
            }
        };
        *tally.found.entry((what.as_str(), what.kid())).or_insert(0) += 1;
        edits.extend(edit);
    }
    Ok(if whole { edits } else { Edits::new() })
}

fn mover<'a>(job: &Job, keyring: &'a Keyring, collection: &'a Collection, now: UnixTime) -> Mover<'a> {
    let format = match (job.kind, job.to) {
        (_, Some(format)) => Some(format),
        (Kind::Migrate, None) => Some(collection.format),
        (Kind::Rotate | Kind::Verify, None) => None,
    };
    let target = Target { format, plaintext_to: collection.format, how: job.how, now };
    Mover { keyring, random: &SystemRandom, reader: reader(collection, now), target }
}

fn value(collection: &Collection, record: &str, field: String, error: &MoveError) -> Quarantined {
    let hint = match error {
        MoveError::Open(OpenError::NotEncrypted) => Some(format!(
            "accept plaintext in collection `{}` until a day, then run `keyfold migrate`",
            collection.name
        )),
        other => other.hint(),
    };
    Quarantined {
        collection: collection.name.clone(),
        record: record.into(),
        field,
        code: error.code().as_str().into(),
        reason: error.to_string(),
        hint,
    }
}

fn whole(collection: &Collection, record: &str, error: &CustodyError) -> Quarantined {
    Quarantined {
        collection: collection.name.clone(),
        record: record.into(),
        field: String::new(),
        code: error.code().map_or("failed", |code| code.as_str()).into(),
        reason: error.to_string(),
        hint: error.hint(),
    }
}

#[cfg(test)]
mod tests {
    use keyfold_core::{
        keyring::{Entry, KeyMaterial, Origin, Purpose, State},
        secret::Key32,
    };

    use super::*;
    use crate::{
        config::Config,
        store::{Cell, RecordKey},
    };

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn keyring() -> Keyring {
        let material = KeyMaterial::new(Purpose::Master, Key32::new([1; 32])).unwrap();
        let kid = material.kid();
        let entry = Entry::new(material, State::Staged, vec![Format::Kf1, Format::V1], NOW, Origin::Document);
        let keyring = Keyring::first("kr", "d", Key32::new([9; 32]));
        keyring.staged(entry).and_then(|keyring| keyring.promoted(kid, NOW)).unwrap()
    }

    fn collection(accept: &str) -> Collection {
        let config = Config::parse(&format!("[collections.c]\nfields = [\"/p\"]\naccept = [{accept}]\n")).unwrap();
        config.collection("c").unwrap().clone()
    }

    fn record(doc: String) -> StoredRecord {
        let value = CellValue::text(doc);
        StoredRecord {
            key: RecordKey::new("r").unwrap(),
            cells: vec![Cell { name: doc_cell().unwrap(), value }],
            revision: 1,
        }
    }

    #[test]
    fn nothing_moves_to_a_format_that_its_collection_could_not_read() {
        let collection = collection("\"kf1\", { format = \"plaintext\", until = 2999-12-31 }");
        for format in [Format::V1, Format::Fernet] {
            let job = Job { to: Some(format), ..Job::new(Kind::Migrate) };
            assert!(job.check(&collection, NOW).is_err());
            let mut planned = Planned::default();
            let found = (record(r#"{"p":"hunter2"}"#.into()), NOW);
            plan_record(&mut planned, &job, &keyring(), &collection, found);
            assert!(planned.swaps.is_empty());
            assert_eq!(planned.tally.quarantined[0].code, "format_not_accepted");
        }
        let job = Job { to: Some(Format::Kf1), ..Job::new(Kind::Migrate) };
        job.check(&collection, NOW).unwrap();
        let mut planned = Planned::default();
        plan_record(&mut planned, &job, &keyring(), &collection, (record(r#"{"p":"hunter2"}"#.into()), NOW));
        assert_eq!(planned.swaps.len(), 1);
    }

    #[test]
    fn a_record_that_would_outgrow_the_store_is_named_and_holds_up_no_other() {
        let collection = collection("\"kf1\", { format = \"plaintext\", until = 2999-12-31 }");
        let filling = "x".repeat(MAX_CELL - 50);
        let mut planned = Planned::default();
        for doc in [format!(r#"{{"p":"hunter2","n":"{filling}"}}"#), r#"{"p":"hunter2"}"#.into()] {
            plan_record(&mut planned, &Job::new(Kind::Migrate), &keyring(), &collection, (record(doc), NOW));
        }
        assert_eq!(planned.swaps.len(), 1);
        assert_eq!(planned.tally.quarantined[0].code, "too_large");
    }
}
