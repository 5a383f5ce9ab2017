//! What should become of one record. No I/O: this is where the processor's time goes, on any thread.

use std::{borrow::Cow, cell::OnceCell, ops::Range, sync::Arc};

use keyfold_core::{
    clock::UnixTime,
    context::{ContextDigest, ContextError, Located},
    detect::{Detected, detect},
    envelope::{Format, OpenError, kf1},
    error::{Code, Hint},
    id::KeyId,
    keyring::{self, Entry, Keyring},
    rewrap::{Move, MoveError, Mover, Stays, Target},
    rng::SystemRandom,
};

use super::{Job, Kind, Quarantined, Reported, Tally};
use crate::{
    collection::Collection,
    error::CustodyError,
    layout::{
        json::{Edit, Found, Value, encode_string},
        path::FieldPath,
        place::{CellSpec, Content},
    },
    records::{reader, secrets_at, spliced, text_of},
    store::{CellName, CellValue, MAX_CELL, Odd, RecordKey, StoredRecord, Swap},
};

/// What a batch of records should become.
#[derive(Default)]
pub(super) struct Planned {
    /// The changes, each checked.
    pub(super) swaps: Vec<Swap>,
    /// What was seen.
    pub(super) tally: Tally,
    /// How many v1 values were wrapped anew.
    pub(super) wraps: u64,
    /// The key that v1 values are wrapped under.
    pub(super) v1: Option<KeyId>,
    /// The key that the job's target format is sealed under.
    pub(super) kid: Option<KeyId>,
}

/// A job on a collection, shared by the threads that plan it.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) job: Arc<Job>,
    pub(super) collection: Arc<Collection>,
    pub(super) now: UnixTime,
    /// Whether a kf1 value under the primary key is left as it is without opening it: this run opened it before, or another
    /// writer sealed it since.
    pub(super) glance: bool,
    /// Whether an earlier pass made everything anew: what is under the primary key then stays, and what a writer stored under
    /// another one since is made anew too.
    pub(super) settled: bool,
}

impl Plan {
    /// Plans a page.
    pub(super) fn page(&self, keyring: &Keyring, records: Vec<StoredRecord>, odd: Vec<Odd>) -> Planned {
        let led;
        let keyring = if self.collection.layout.is_foreign() {
            led = keyring.led_by_environment();
            &led
        } else {
            keyring
        };
        let mut planned = Planned {
            kid: keyring.primary(self.job.to.unwrap_or(self.collection.format)).map(Entry::kid),
            v1: keyring.primary(Format::V1).map(Entry::kid),
            ..Planned::default()
        };
        let page = self.looking(keyring);
        for record in records {
            planned.record(&page, record);
        }
        for odd in odd {
            planned.tally.records += 1;
            planned.tally.quarantine(Quarantined {
                collection: self.collection.name.clone(),
                record: odd.record,
                field: String::new(),
                code: "malformed".into(),
                reason: odd.what,
                hint: Some(odd.hint),
            });
        }
        planned
    }

    fn looking<'a>(&'a self, keyring: &'a Keyring) -> Looking<'a> {
        let collection = &*self.collection;
        // That they have cells was checked with the configuration.
        let reported = collection.layout.cells(&collection.reported).unwrap_or_default();
        let paths = |spec: &CellSpec| {
            let same = reported.iter().filter(|other| other.name == spec.name);
            let both = [spec].into_iter().chain(same).filter_map(CellSpec::paths);
            both.flatten().cloned().collect()
        };
        let paths = collection.cells.iter().map(paths).collect();
        Looking { plan: self, collection, mover: mover(self, keyring), paths }
    }
}

/// What every record of a page is looked at with.
struct Looking<'a> {
    plan: &'a Plan,
    collection: &'a Collection,
    mover: Mover<'a>,
    /// For each cell that is JSON, the paths of its secrets and behind them those that are only reported: a document is gone through
    /// once. What both name is a secret.
    paths: Vec<Vec<FieldPath>>,
}

impl Planned {
    /// Plans one record. One of which any secret does not open is left as it is, all of it.
    fn record(&mut self, page: &Looking<'_>, mut record: StoredRecord) {
        self.tally.records += 1;
        let collection = page.collection;
        let mut seen = Vec::new();
        let swaps = values((&mut self.tally, &mut seen), page, &record).and_then(|edits| {
            let count = edits.iter().map(|cell| cell.edits.len()).sum::<usize>();
            let wraps = edits.iter().map(|cell| cell.wraps).sum::<u64>();
            Ok((swaps(collection, &mut record, edits)?, count, wraps))
        });
        let moves = swaps.as_ref().is_ok_and(|(swaps, _, _)| !swaps.is_empty());
        for Seen { was, becomes } in seen {
            *self.tally.left.entry(becomes.filter(|_| moves).unwrap_or(was)).or_insert(0) += 1;
            *self.tally.found.entry(was).or_insert(0) += 1;
        }
        match swaps {
            Ok((swaps, _, _)) if swaps.is_empty() => {}
            Ok((swaps, count, wraps)) => {
                self.tally.changed += 1;
                self.tally.changed_values += u64::try_from(count).unwrap_or(u64::MAX);
                self.wraps += wraps;
                self.swaps.extend(swaps);
            }
            Err(error) => self.tally.quarantine(whole(collection, record.key.as_str(), &error)),
        }
    }
}

/// A value of a record, by format and key: as it was found, and as it will be if the record is changed.
struct Seen {
    was: (&'static str, Option<KeyId>),
    becomes: Option<(&'static str, Option<KeyId>)>,
}

/// What changes in one cell.
struct CellEdits {
    cell: CellName,
    edits: Vec<(Range<usize>, String)>,
    wraps: u64,
    json: bool,
}

fn swaps(collection: &Collection, record: &mut StoredRecord, edits: Vec<CellEdits>) -> Result<Vec<Swap>, CustodyError> {
    let StoredRecord { key, cells, .. } = record;
    let mut swaps = Vec::with_capacity(edits.len());
    for CellEdits { cell, edits, json, .. } in edits {
        let held = cells.iter().position(|held| held.name == cell);
        let old = held.map(|at| cells.swap_remove(at).value);
        let old = old.ok_or_else(|| CustodyError::invalid("the document is gone", "run again"))?;
        let text = text_of(collection, key, &old)?;
        let new = if json {
            let edits = edits.into_iter().map(|(span, text)| Edit { span, token: encode_string(&text) }).collect();
            spliced(collection, key, text, edits)?.into()
        } else {
            CellValue::text(edits.into_iter().map(|(_, text)| text).collect())
        };
        // The kind that was read is the kind that is written.
        let new = match (&old, new) {
            (CellValue::Bytes(_), CellValue::Text(text)) => CellValue::bytes(text.as_bytes().to_vec()),
            (_, new) => new,
        };
        // A store refuses it, and the whole batch with it: one record would hold up all that come after.
        if new.len() > MAX_CELL {
            return Err(CustodyError::Invalid {
                what: format!("sealed, the document would have {} bytes, at most {MAX_CELL} are stored", new.len()),
                hint: "take something out of the record".into(),
                code: Some(Code::TooLarge),
            });
        }
        swaps.push(Swap { key: key.clone(), cell, old, new });
    }
    Ok(swaps)
}

/// The new values of a record, or none where one of its values does not open.
fn values(
    (tally, seen): (&mut Tally, &mut Vec<Seen>),
    page: &Looking<'_>,
    record: &StoredRecord,
) -> Result<Vec<CellEdits>, CustodyError> {
    let mut all = Vec::new();
    let mut whole = true;
    let collection = page.collection;
    for (spec, paths) in collection.cells.iter().zip(&page.paths) {
        let Some(held) = record.cell(&spec.name) else { continue };
        let text = text_of(collection, &record.key, held)?;
        let found = match &spec.content {
            Content::Json(own) => {
                let here = (&record.key, &*spec.at);
                let (own, reported) = paths.split_at(own.len());
                match secrets_at(collection, &record.key, text, paths) {
                    Ok(mut found) => {
                        for reported in found.extract_if(.., |found| found.path >= own.len()) {
                            report((tally, seen), page, here, &reported)?;
                        }
                        found
                    }
                    // What is wrong at one of them leaves the other as it is: a key that a reported value needs is known all the same.
                    Err(_) if !reported.is_empty() => {
                        for reported in secrets_at(collection, &record.key, text, reported)? {
                            report((tally, seen), page, here, &reported)?;
                        }
                        secrets_at(collection, &record.key, text, own)?
                    }
                    Err(error) => return Err(error),
                }
            }
            Content::Text => vec![Found::whole(text)],
        };
        let mut cell =
            CellEdits { cell: spec.name.clone(), edits: Vec::new(), wraps: 0, json: spec.content != Content::Text };
        for found in found {
            match one((tally, seen), page, (&record.key, &spec.at), &found)? {
                One::Stay => {}
                One::Left => whole = false,
                One::To(text, format) => {
                    cell.wraps += u64::from(format == Format::V1);
                    cell.edits.push((found.span, text));
                }
            }
        }
        if !cell.edits.is_empty() {
            all.push(cell);
        }
    }
    Ok(if whole { all } else { Vec::new() })
}

/// What becomes of one value.
enum One {
    Stay,
    /// It stays because it does not open, and its record with it.
    Left,
    To(String, Format),
}

fn one(
    (tally, seen): (&mut Tally, &mut Vec<Seen>),
    page: &Looking<'_>,
    (key, at): (&RecordKey, &str),
    found: &Found<'_>,
) -> Result<One, CustodyError> {
    let Looking { plan, collection, mover, .. } = page;
    let text = match &found.value {
        Value::Null => return Ok(One::Stay),
        Value::Text(text) => text,
        Value::Other(_) => {
            tally.values += 1;
            tally.quarantine(Quarantined {
                collection: collection.name.clone(),
                record: key.to_string(),
                field: format!("{at}{}", found.exact()),
                code: "malformed".into(),
                reason: "a secret field holds something else than a string".into(),
                hint: Some("mend the record, or the `fields` of the collection".into()),
            });
            return Ok(One::Left);
        }
    };
    if collection.layout.is_foreign() && (text.is_empty() || is_mask(text)) {
        // Its owner's reader takes the empty string for "not set". A mask is what is left of a secret that somebody lost; sealing
        // it would hide that.
        if !text.is_empty() {
            tally.values += 1;
            seen.push(Seen { was: ("masked", None), becomes: None });
            tally.report(Reported::masked(collection, key, format!("{at}{}", found.exact())));
        }
        return Ok(One::Stay);
    }
    tally.values += 1;
    if plan.glance
        && let Some(kid) = at_home(mover, text)
    {
        seen.push(Seen { was: (Format::Kf1.as_str(), Some(kid)), becomes: None });
        return Ok(One::Stay);
    }
    let pointer =
        if at.is_empty() { Cow::Borrowed(&*found.pointer) } else { Cow::Owned(format!("{at}{}", found.pointer)) };
    let here =
        Here { collection, deployment: mover.keyring.deployment(), key, pointer: &pointer, digest: OnceCell::new() };
    let outcome = match plan.job.kind {
        Kind::Verify => mover
            .keyring
            .open(text, &here, &mover.reader)
            .map(|opened| Move::Stay(opened.found))
            .map_err(MoveError::from),
        Kind::Migrate | Kind::Rotate => mover.plan(text, &here),
    };
    let (what, becomes, moved) = match outcome {
        Ok(Move::Stay(what)) => (what, None, One::Stay),
        Ok(Move::To { found: what, text, kid, format }) => {
            (what, Some((format.as_str(), Some(kid))), One::To(text, format))
        }
        // A rotation leaves plaintext to `migrate`, and says so.
        Err(error) => {
            tally.quarantine(value(collection, key.as_str(), format!("{at}{}", found.exact()), &error));
            return Ok(One::Left);
        }
    };
    seen.push(Seen { was: (what.as_str(), what.kid()), becomes });
    Ok(moved)
}

/// Where a value lies. The digest is made when it is asked for, once: nobody does to open a value that is bound to no place.
struct Here<'a> {
    collection: &'a Collection,
    deployment: &'a str,
    key: &'a RecordKey,
    pointer: &'a str,
    digest: OnceCell<ContextDigest>,
}

impl Located for Here<'_> {
    fn digest(&self) -> Result<ContextDigest, ContextError> {
        if let Some(digest) = self.digest.get() {
            return Ok(*digest);
        }
        let digest = self.collection.digest(self.deployment, self.key, self.pointer)?;
        Ok(*self.digest.get_or_init(|| digest))
    }
}

/// The primary key, where a value is kf1 under it by its own account and has no other format to go to.
fn at_home(mover: &Mover<'_>, text: &str) -> Option<KeyId> {
    if !text.starts_with("kf1.") || !matches!(mover.target.format, None | Some(Format::Kf1)) {
        return None;
    }
    let primary = mover.keyring.primary(Format::Kf1)?.kid();
    kf1::Envelope::from_text(text).ok().map(|envelope| envelope.kid()).filter(|kid| *kid == primary)
}

/// Counts what lies in fields that are looked at and left alone. A sealed value there needs its key like any other: it is counted
/// under it, and a rotation that leaves it behind says so.
fn report(
    (tally, seen): (&mut Tally, &mut Vec<Seen>),
    page: &Looking<'_>,
    (key, at): (&RecordKey, &str),
    found: &Found<'_>,
) -> Result<(), CustodyError> {
    let Looking { plan, collection, mover, .. } = page;
    let Value::Text(text) = &found.value else { return Ok(()) };
    let exact = || format!("{at}{}", found.exact());
    if is_mask(text) {
        tally.report(Reported::masked(collection, key, exact()));
        return Ok(());
    }
    if text.is_empty() {
        return Ok(());
    }
    if detect(text) == Detected::Plaintext {
        tally.report(Reported::plaintext(collection, key, exact()));
        return Ok(());
    }
    let context = collection.digest(mover.keyring.deployment(), key, &format!("{at}{}", found.pointer))?;
    tally.report(Reported::sealed(collection, key, exact()));
    match mover.keyring.open(text, &context, &mover.reader) {
        Ok(opened) => {
            seen.push(Seen { was: (opened.found.as_str(), opened.found.kid()), becomes: None });
            if plan.job.kind == Kind::Rotate && !is_home(mover.keyring, &opened.found) {
                tally.quarantine(behind(collection, key.as_str(), exact()));
            }
        }
        Err(error) if plan.job.kind == Kind::Rotate => {
            tally.quarantine(value(collection, key.as_str(), exact(), &error.into()));
        }
        Err(_) => {}
    }
    Ok(())
}

fn is_home(keyring: &Keyring, found: &keyring::Found) -> bool {
    let keyring::Found::Sealed { format, kid, .. } = *found else { return false };
    keyring.primary(format).is_some_and(|primary| primary.kid() == kid)
}

/// A value that needs a former key and that this run may not change.
fn behind(collection: &Collection, record: &str, field: String) -> Quarantined {
    Quarantined {
        collection: collection.name.clone(),
        record: record.into(),
        field,
        code: "left_behind".into(),
        reason: "it is sealed under a former key, in a field that this run leaves alone".into(),
        hint: Some(
            "declare the field (with the preset redis-sre-agent: --extension-secrets) and rotate again, before that key is given up"
                .into(),
        ),
    }
}

fn is_mask(text: &str) -> bool {
    text.len() >= 3 && text.bytes().all(|b| b == b'*')
}

fn mover<'a>(plan: &'a Plan, keyring: &'a Keyring) -> Mover<'a> {
    let Plan { job, collection, now, settled, .. } = plan;
    let (settled, now) = (*settled, *now);
    let format = match (job.kind, job.to) {
        (_, Some(format)) => Some(format),
        (Kind::Migrate, None) => Some(collection.format),
        (Kind::Rotate | Kind::Verify, None) => None,
    };
    let stays = match job.kind {
        // Who migrates does not ask for another key, and readers that hold one key would lose what moved to it.
        Kind::Migrate => Stays::UnderAnyKey,
        _ if settled => Stays::UnderPrimary,
        _ => job.how.stays(),
    };
    let target = Target { format, plaintext_to: collection.format, how: job.how, stays, now };
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
        keyring::{KeyMaterial, Origin, Purpose, State},
        secret::Key32,
    };

    use super::*;
    use crate::{config::Config, records::doc_cell, store::Cell};

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

    fn planned(job: &Job, collection: &Collection, docs: Vec<String>) -> Planned {
        let plan = Plan {
            job: Arc::new(job.clone()),
            collection: Arc::new(collection.clone()),
            now: NOW,
            glance: false,
            settled: false,
        };
        plan.page(&keyring(), docs.into_iter().map(record).collect(), Vec::new())
    }

    #[test]
    fn nothing_moves_to_a_format_that_its_collection_could_not_read() {
        let collection = collection("\"kf1\", { format = \"plaintext\", until = 2999-12-31 }");
        for format in [Format::V1, Format::Fernet] {
            let job = Job { to: Some(format), ..Job::new(Kind::Migrate) };
            assert!(job.check(&collection, NOW).is_err());
            let planned = planned(&job, &collection, vec![r#"{"p":"hunter2"}"#.into()]);
            assert!(planned.swaps.is_empty());
            assert_eq!(planned.tally.quarantined[0].code, "format_not_accepted");
        }
        let job = Job { to: Some(Format::Kf1), ..Job::new(Kind::Migrate) };
        job.check(&collection, NOW).unwrap();
        let planned = planned(&job, &collection, vec![r#"{"p":"hunter2"}"#.into()]);
        assert_eq!(planned.swaps.len(), 1);
    }

    /// A collection with secrets and with fields that are only reported.
    fn reporting(fields: &str, report: &str) -> Collection {
        let accept = "[\"kf1\", \"v1\", { format = \"plaintext\", until = 2999-12-31 }]";
        let text = format!("[collections.c]\nfields = {fields}\nreport = {report}\naccept = {accept}\n");
        Config::parse(&text).unwrap().collection("c").unwrap().clone()
    }

    fn sealed() -> String {
        let here = ContextDigest::of_sorted(&[]).unwrap();
        let fresh = keyfold_core::rng::Fresh { random: &SystemRandom, now: NOW };
        keyring().seal(Format::V1, &here, b"hunter2", fresh).unwrap().text
    }

    fn places(planned: &Planned) -> Vec<&str> {
        planned.tally.reported.iter().map(|reported| reported.field.as_str()).collect()
    }

    #[test]
    fn one_look_finds_secrets_and_what_is_reported_wherever_they_lie() {
        let migrate = Job { to: Some(Format::Kf1), ..Job::new(Kind::Migrate) };
        // Side by side, and one inside of the other.
        let collection = reporting(r#"["/p"]"#, r#"["/r/*"]"#);
        let doc = format!(r#"{{"r":{{"a":"{}","b":"***","c":""}},"p":"hunter2"}}"#, sealed());
        let seen = planned(&migrate, &collection, vec![doc]);
        assert_eq!((seen.swaps.len(), places(&seen)), (1, vec!["/r/a", "/r/b"]));
        assert!(seen.swaps[0].new.as_str().unwrap().starts_with(r#"{"r":{"a":"eyJ"#));
        let collection = reporting(r#"["/e/x"]"#, r#"["/e/*/*"]"#);
        let seen = planned(&migrate, &collection, vec![r#"{"e":{"x":"s","y":{"z":"plain"}}}"#.into()]);
        assert_eq!((seen.swaps.len(), places(&seen)), (1, vec!["/e/y/z"]));
        // What both name is a secret: it moves, and is no report.
        let collection = reporting(r#"["/a/x"]"#, r#"["/*/x"]"#);
        let doc = format!(r#"{{"a":{{"x":"{}"}},"b":{{"x":"plain"}}}}"#, sealed());
        let seen = planned(&migrate, &collection, vec![doc]);
        assert_eq!((seen.swaps.len(), places(&seen)), (1, vec!["/b/x"]));
        // More paths than one pass takes.
        let many: Vec<String> = (0..70).map(|n| format!("\"/r{n}\"")).collect();
        let collection = reporting(r#"["/p"]"#, &format!("[{}]", many.join(",")));
        let seen = planned(&migrate, &collection, vec![r#"{"r69":"plain","p":"s","r1":"***"}"#.into()]);
        assert_eq!((seen.swaps.len(), places(&seen)), (1, vec!["/r69", "/r1"]));
    }

    #[test]
    fn what_is_wrong_with_the_secrets_takes_no_report_away_and_the_limits_count_for_each() {
        let rotate = Job::new(Kind::Rotate);
        let collection = reporting(r#"["/p"]"#, r#"["/r"]"#);
        let seen = planned(&rotate, &collection, vec![format!(r#"{{"p":"a","p":"b","r":"{}"}}"#, sealed())]);
        assert_eq!((seen.swaps.len(), places(&seen), seen.tally.quarantined.len()), (0, vec!["/r"], 1));
        assert_eq!(seen.tally.found.len(), 1, "the key that the reported value needs is counted");
        let collection = reporting(r#"["/a/*"]"#, r#"["/b/*"]"#);
        let members = (0..60_000).map(|n| format!(r#""{n}":"""#)).collect::<Vec<_>>().join(",");
        let doc = format!(r#"{{"a":{{{members},"s":"hunter2"}},"b":{{{members}}}}}"#);
        let seen = planned(&Job::new(Kind::Verify), &collection, vec![doc]);
        assert!(seen.tally.quarantined.is_empty(), "{:?}", seen.tally.quarantined.first());
    }

    #[test]
    fn reports_of_a_column_name_the_column() {
        let text = "[collections.c]\nlayout = \"sql-columns\"\ntable = \"t\"\nkey = [\"id\"]\ncolumns = { state = \"json\", other = \"json\" }\nfields = [\"/state/p\"]\nstore = \"sqlite:x.db\"\n";
        let collection = |report: &str| Config::parse(&format!("{text}report = {report}\n"));
        let collection_of = |report: &str| collection(report).unwrap().collection("c").unwrap().clone();
        let c = collection_of(r#"["/state/r"]"#);
        let value = CellValue::text(r#"{"r":"plain","p":""}"#.into());
        let cells = vec![Cell { name: CellName::new("state").unwrap(), value }];
        let record = StoredRecord { key: RecordKey::new("r").unwrap(), cells, revision: 0 };
        let plan = Plan {
            job: Arc::new(Job::new(Kind::Verify)),
            collection: Arc::new(c),
            now: NOW,
            glance: false,
            settled: false,
        };
        let seen = plan.page(&keyring(), vec![record], Vec::new());
        assert_eq!(places(&seen), ["/state/r"]);
        for (report, says) in [
            (r#"["/other/r"]"#, "`/other/r` lies where `fields` reads nothing"),
            (r#"["/nowhere/r"]"#, "is not listed under `columns`"),
        ] {
            let error = collection(report).unwrap_err().to_string();
            assert!(error.contains(says), "{report}: {error}");
        }
    }

    #[test]
    fn a_record_that_would_outgrow_the_store_is_named_and_holds_up_no_other() {
        let collection = collection("\"kf1\", { format = \"plaintext\", until = 2999-12-31 }");
        let filling = "x".repeat(MAX_CELL - 50);
        let docs = vec![format!(r#"{{"p":"hunter2","n":"{filling}"}}"#), r#"{"p":"hunter2"}"#.into()];
        let planned = planned(&Job::new(Kind::Migrate), &collection, docs);
        assert_eq!(planned.swaps.len(), 1);
        assert_eq!(planned.tally.quarantined[0].code, "too_large");
    }
}
