//! Records of our own layout: secrets go in and are sealed, come out redacted, and open to who may.

use keyfold_core::{
    accept::Accepted,
    audit::{Action, Event, Name, Word},
    detect::{Detected, detect},
    envelope::Format,
    keyring::{Found as What, Keyring, Reader},
    rng::{Fresh, SystemRandom},
    secret::Secret,
};
use zeroize::Zeroizing;

use crate::{
    access::{
        Permit, Place,
        op::{List, Open, Seal},
    },
    collection::Collection,
    custody::Custody,
    error::CustodyError,
    keys::Sealing,
    layout::{
        json::{self, Edit, Encoded, Found, Value},
        path::FieldPath,
    },
    store::{
        CellName, CellValue, DOC_CELL, Inserted, NewRecord, OnExisting, RecordKey, ScanCursor, StoreError,
        StoredRecord, Swap, Swapped,
    },
};

/// A document on its way in. Its declared fields hold plaintext, or what another system sealed.
pub struct Incoming {
    /// The record's key.
    pub key: RecordKey,
    /// JSON text.
    pub doc: Zeroizing<String>,
}

/// What happens to the declared fields of incoming documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    /// Every value is a secret in plaintext, whatever it looks like, and is sealed.
    Seal,
    /// Values are stored as they are, if the collection accepts what they are: for data that is sealed already, or that a
    /// migration will seal.
    AsIs,
}

/// Documents ready to be stored, with the keyring that they were sealed under.
pub struct Batch {
    pub(crate) records: Vec<NewRecord>,
    /// How many v1 values were wrapped, for the usage count.
    pub(crate) wraps: u64,
    pub(crate) keyring: Sealing,
}

/// A document ready to be stored.
struct Prepared {
    record: NewRecord,
    /// How many v1 values were wrapped, for the usage count.
    wraps: u64,
}

/// What a put found there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// Only a new record.
    Create,
    /// A new record, or in the place of an old one.
    Replace,
    /// In the place of the old one, if it still has this revision.
    IfRevision(u64),
}

/// A document with its secrets redacted.
pub struct Redacted {
    /// The record's key.
    pub key: RecordKey,
    /// Grows with each change.
    pub revision: u64,
    /// JSON text.
    pub doc: String,
}

/// One opened field.
pub struct OpenedField {
    /// Its pointer, with real indices.
    pub pointer: String,
    /// The plaintext.
    pub secret: Secret,
}

pub(crate) fn place(collection: &Collection, key: &RecordKey, pointer: &str) -> String {
    format!("{}/{key}#{pointer}", collection.name)
}

pub(crate) fn doc_cell() -> Result<CellName, CustodyError> {
    Ok(CellName::new(DOC_CELL).map_err(StoreError::from)?)
}

pub(crate) fn doc_of<'a>(collection: &Collection, record: &'a StoredRecord) -> Result<&'a str, CustodyError> {
    let cell = doc_cell()?;
    record.cell(&cell).and_then(CellValue::as_str).ok_or_else(|| {
        CustodyError::invalid(
            format!("{}/{}: the stored document is not text", collection.name, record.key),
            "restore the record from a copy",
        )
    })
}

/// The text of a cell.
pub(crate) fn text_of<'a>(
    collection: &Collection,
    key: &RecordKey,
    value: &'a CellValue,
) -> Result<&'a str, CustodyError> {
    value.as_str().ok_or_else(|| {
        CustodyError::invalid(
            format!("{}/{key}: what is stored is not text", collection.name),
            "restore the record from a copy",
        )
    })
}

pub(crate) fn secrets<'a>(
    collection: &Collection,
    key: &RecordKey,
    doc: &'a str,
) -> Result<Vec<Found<'a>>, CustodyError> {
    secrets_at(collection, key, doc, &collection.fields)
}

pub(crate) fn secrets_at<'a>(
    collection: &Collection,
    key: &RecordKey,
    doc: &'a str,
    paths: &[FieldPath],
) -> Result<Vec<Found<'a>>, CustodyError> {
    json::find(doc, paths).map_err(|source| CustodyError::Json { place: format!("{}/{key}", collection.name), source })
}

/// Seals, or checks, the declared fields of documents. Runs no I/O; callers with many documents run it off the runtime.
///
/// # Errors
/// A document that is not JSON, a declared field that holds no string, a value the collection does not accept.
pub fn prepare_batch(
    keyring: Sealing,
    collection: &Collection,
    incoming: Vec<Incoming>,
    intake: Intake,
    now: keyfold_core::clock::UnixTime,
) -> Result<Batch, CustodyError> {
    let mut batch = Batch { records: Vec::with_capacity(incoming.len()), wraps: 0, keyring };
    for incoming in incoming {
        let prepared = prepare(&batch.keyring, collection, incoming, intake, now)?;
        batch.records.push(prepared.record);
        batch.wraps += prepared.wraps;
    }
    Ok(batch)
}

fn prepare(
    keyring: &Keyring,
    collection: &Collection,
    incoming: Incoming,
    intake: Intake,
    now: keyfold_core::clock::UnixTime,
) -> Result<Prepared, CustodyError> {
    let Incoming { key, doc } = incoming;
    let mut edits = Vec::new();
    let mut wraps = 0;
    let secrets = secrets(collection, &key, &doc)?;
    if secrets.is_empty() && !doc.trim_start().starts_with(['{', '[']) {
        // A bare string has no fields, so it would be stored as it is: most likely it is the secret itself.
        return Err(CustodyError::invalid(
            format!("{}/{key}: a record is a JSON object or array", collection.name),
            "put the secret into a field that `fields` in keyfold.toml lists",
        ));
    }
    for found in secrets {
        let at = || place(collection, &key, found.exact());
        let text = match &found.value {
            Value::Null => continue,
            Value::Text(text) => text,
            Value::Other(_) => {
                return Err(CustodyError::invalid(
                    format!("{}: a secret field must hold a string", at()),
                    "a redacted document cannot be put back; send the secret itself, or leave the field out",
                ));
            }
        };
        let detected = detect(text);
        if intake == Intake::AsIs {
            let kind = match detected {
                Detected::Plaintext => Accepted::Plaintext,
                other => Accepted::Sealed(other.sealed().map_err(|source| CustodyError::Open { place: at(), source })?),
            };
            collection.accept.check(kind, now.date()).map_err(|source| CustodyError::Open { place: at(), source })?;
            continue;
        }
        if detected != Detected::Plaintext {
            tracing::warn!(place = at(), found = detected.as_str(), "a value that looks sealed is sealed again");
        }
        if text.len() >= 3 && text.bytes().all(|b| b == b'*') {
            tracing::warn!(place = at(), "the value is a mask of asterisks; was the secret lost on its way?");
        }
        let context = collection.digest(keyring.deployment(), &key, &found.pointer)?;
        let fresh = Fresh { random: &SystemRandom, now };
        let sealed = keyring
            .seal(collection.format, &context, text.as_bytes(), fresh)
            .map_err(|source| CustodyError::Seal { place: at(), source })?;
        wraps += u64::from(collection.format == Format::V1);
        edits.push(Edit { span: found.span.clone(), token: json::encode_string(&sealed.text) });
    }
    let doc = if edits.is_empty() { doc } else { spliced(collection, &key, &doc, edits)? };
    Ok(Prepared { record: NewRecord { key, doc: doc.into() }, wraps })
}

pub(crate) fn spliced(
    collection: &Collection,
    key: &RecordKey,
    doc: &str,
    edits: Vec<Edit>,
) -> Result<Zeroizing<String>, CustodyError> {
    json::splice(doc, edits)
        .map_err(|source| CustodyError::Json { place: format!("{}/{key}", collection.name), source })
}

impl Custody {
    pub(crate) async fn reserve(&self, keyring: &Keyring, wraps: u64) -> Result<(), CustodyError> {
        match keyring.primary(Format::V1) {
            Some(entry) if wraps > 0 => self.usage.reserve(entry.kid(), wraps).await,
            _ => Ok(()),
        }
    }

    /// Stores one document, its secrets sealed.
    ///
    /// # Errors
    /// A document that cannot be sealed, a record that is there or changed; nothing is written then.
    pub async fn put(
        &self,
        permit: &Permit<Seal>,
        collection: &Collection,
        incoming: Incoming,
        mode: PutMode,
    ) -> Result<Inserted, CustodyError> {
        permit.check(&Place::Record(&collection.id, &incoming.key))?;
        let keyring = self.keys.sealing().await?;
        let key = incoming.key.clone();
        let prepared = prepare(&keyring, collection, incoming, Intake::Seal, self.auditor.clock().now())?;
        self.reserve(&keyring, prepared.wraps).await?;
        let mut event = self.auditor.about(permit.actor(), Action::RecordPut, collection)?;
        event.record = Some(Name::abridge(key.as_str()));
        event.kid = keyring.primary(collection.format).map(keyfold_core::keyring::Entry::kid);
        self.auditor
            .audited_write(event, async |_| {
                self.keys.confirm(&keyring).await?;
                self.write(collection, prepared.record, mode).await
            })
            .await
    }

    async fn write(&self, collection: &Collection, record: NewRecord, mode: PutMode) -> Result<Inserted, CustodyError> {
        let on_existing = match mode {
            PutMode::Create => OnExisting::Fail,
            PutMode::Replace => OnExisting::Replace,
            PutMode::IfRevision(revision) => return self.write_over(collection, record, revision).await,
        };
        let inserted = self.records.insert(&collection.id, vec![record], on_existing).await?;
        Ok(inserted.first().copied().unwrap_or(Inserted::Exists))
    }

    async fn write_over(
        &self,
        collection: &Collection,
        record: NewRecord,
        revision: u64,
    ) -> Result<Inserted, CustodyError> {
        let changed = |now: String| CustodyError::Conflict {
            what: format!("{}/{} {now}, not at revision {revision}", collection.name, record.key),
        };
        let Some(stored) = self.records.read(&collection.id, &record.key).await? else {
            return Err(changed("is not there".into()));
        };
        if stored.revision != revision {
            return Err(changed(format!("is at revision {}", stored.revision)));
        }
        let key = record.key.clone();
        let old = CellValue::text(doc_of(collection, &stored)?.to_owned());
        let swap = Swap { key, cell: doc_cell()?, old, new: record.doc };
        match self.records.swap(&collection.id, vec![swap]).await?.first() {
            Some(Swapped::Done) => Ok(Inserted::Replaced),
            _ => Err(CustodyError::Conflict {
                what: format!("{}/{} changed at the same moment", collection.name, record.key),
            }),
        }
    }

    /// Stores a batch of documents that [`prepare_batch`] made, in one transaction, with one event.
    ///
    /// # Errors
    /// The store or the audit log; nothing of the batch is written then.
    pub async fn store_batch(
        &self,
        permit: &Permit<Seal>,
        collection: &Collection,
        batch: Batch,
        on_existing: OnExisting,
    ) -> Result<Vec<Inserted>, CustodyError> {
        permit.check(&Place::Collection(&collection.id))?;
        let Batch { records, wraps, keyring } = batch;
        self.reserve(&keyring, wraps).await?;
        let mut event = self.auditor.about(permit.actor(), Action::RecordImport, collection)?;
        event.first = records.first().map(|record| Name::abridge(record.key.as_str()));
        event.last = records.last().map(|record| Name::abridge(record.key.as_str()));
        event.count = u64::try_from(records.len()).ok();
        event.kid = keyring.primary(collection.format).map(keyfold_core::keyring::Entry::kid);
        let stored = self
            .auditor
            .audited_write(event, async |_| {
                self.keys.confirm(&keyring).await?;
                Ok(self.records.insert(&collection.id, records, on_existing).await?)
            })
            .await;
        // Held until here: until the batch is stored, this process still seals under that generation.
        drop(keyring);
        stored
    }

    async fn stored(&self, collection: &Collection, key: &RecordKey) -> Result<StoredRecord, CustodyError> {
        self.records.read(&collection.id, key).await?.ok_or_else(|| CustodyError::NotFound {
            what: format!("no record `{key}` in collection `{}`", collection.name),
            hint: format!("see `keyfold records list {}`", collection.name),
        })
    }

    /// Reads a document with every declared secret replaced by a note of its format and key.
    ///
    /// # Errors
    /// No such record; a stored document that is not JSON.
    pub async fn get(
        &self,
        permit: &Permit<List>,
        collection: &Collection,
        key: &RecordKey,
    ) -> Result<Redacted, CustodyError> {
        permit.check(&Place::Record(&collection.id, key))?;
        let record = self.stored(collection, key).await?;
        let doc = redacted(collection, key, doc_of(collection, &record)?)?;
        Ok(Redacted { key: record.key, revision: record.revision, doc })
    }

    /// Opens the declared secrets of a record, or the one at `pointer`. The intent is durable before this returns.
    ///
    /// # Errors
    /// A value that does not open withholds them all; so does an intent that cannot be written.
    pub async fn open(
        &self,
        permit: &Permit<Open>,
        collection: &Collection,
        key: &RecordKey,
        pointer: Option<&str>,
    ) -> Result<Vec<OpenedField>, CustodyError> {
        permit.check(
            &pointer.map_or(Place::Record(&collection.id, key), |pointer| Place::Field(&collection.id, key, pointer)),
        )?;
        let record = self.stored(collection, key).await?;
        let found = secrets(collection, key, doc_of(collection, &record)?)?;
        self.open_found(permit, (collection, key), found, pointer).await
    }

    async fn open_found(
        &self,
        permit: &Permit<Open>,
        (collection, key): (&Collection, &RecordKey),
        mut found: Vec<Found<'_>>,
        pointer: Option<&str>,
    ) -> Result<Vec<OpenedField>, CustodyError> {
        if let Some(pointer) = pointer {
            found.retain(|found| found.exact() == pointer);
            if found.is_empty() {
                return Err(CustodyError::NotFound {
                    what: format!("{}: no secret field there", place(collection, key, pointer)),
                    hint:
                        "give the field as a JSON pointer, for example /password, that `fields` in keyfold.toml covers"
                            .into(),
                });
            }
        }
        let mut event = self.auditor.about(permit.actor(), Action::RecordGet, collection)?;
        event.record = Some(Name::abridge(key.as_str()));
        event.field = pointer.map(Name::abridge);
        let opened = self.open_fields(collection, key, found, &mut event);
        match opened {
            Ok(fields) => {
                event.bytes = u64::try_from(fields.iter().map(|field| field.secret.len()).sum::<usize>()).ok();
                self.auditor.audited(event, async |_| Ok(fields)).await
            }
            Err(error) => {
                // Somebody tried: that is an event too. The refusal stands whether or not it could be written.
                let refused = Err::<(), _>(error);
                let told = self.auditor.intent(&event).await.is_ok();
                if told {
                    self.auditor.outcome(&event, &refused).await?;
                }
                Err(refused.err().unwrap_or_else(|| CustodyError::invalid("refused", "")))
            }
        }
    }

    fn open_fields(
        &self,
        collection: &Collection,
        key: &RecordKey,
        found: Vec<Found<'_>>,
        event: &mut Event,
    ) -> Result<Vec<OpenedField>, CustodyError> {
        let keyring = self.keys.opening();
        let reader = reader(collection, self.auditor.clock().now());
        let mut fields = Vec::new();
        for found in found {
            let Value::Text(text) = &found.value else { continue };
            let at = || place(collection, key, found.exact());
            let context = collection.digest(keyring.deployment(), key, &found.pointer)?;
            let opened =
                keyring.open(text, &context, &reader).map_err(|source| CustodyError::Open { place: at(), source })?;
            if let What::Sealed { format, kid, commitment, .. } = opened.found {
                if format == Format::Fernet {
                    // Anybody who can write the store could have put another record's token here.
                    return Err(CustodyError::invalid(
                        format!("{}: a Fernet token without a binding to its place is not used", at()),
                        "move it to kf1 with `keyfold migrate --to kf1`, if you trust where it came from",
                    ));
                }
                event.kid = Some(kid);
                event.commitment = commitment;
                event.format = Word::new(format.as_str()).ok();
            }
            fields.push(OpenedField { pointer: found.exact().to_owned(), secret: opened.secret });
        }
        Ok(fields)
    }

    /// Opens one secret field to be put into a call, for the broker alone: the permit to use it, and the intent, are its own.
    pub(crate) async fn lent(
        &self,
        collection: &Collection,
        key: &RecordKey,
        (pointer, intent): (&str, &Event),
    ) -> Result<Secret, CustodyError> {
        let record = self.stored(collection, key).await?;
        let mut found = secrets(collection, key, doc_of(collection, &record)?)?;
        found.retain(|found| found.exact() == pointer);
        let opened = self.open_fields(collection, key, found, &mut intent.clone())?.pop();
        opened.map(|field| field.secret).ok_or_else(|| CustodyError::NotFound {
            what: format!("{}: no secret field there", place(collection, key, pointer)),
            hint: "`secret` of the destination names a field that `fields` of the collection covers".into(),
        })
    }

    /// A document with its secrets in plaintext.
    ///
    /// # Errors
    /// As [`Custody::open`].
    pub async fn reveal(
        &self,
        permit: &Permit<Open>,
        collection: &Collection,
        key: &RecordKey,
    ) -> Result<Zeroizing<String>, CustodyError> {
        permit.check(&Place::Record(&collection.id, key))?;
        let record = self.stored(collection, key).await?;
        let doc = doc_of(collection, &record)?;
        // One reading of the record for both: between two, a writer could move what stands where.
        let fields = self.open_found(permit, (collection, key), secrets(collection, key, doc)?, None).await?;
        revealed(collection, key, doc, secrets(collection, key, doc)?, &fields)
    }

    /// Removes a record; says whether there was one.
    ///
    /// # Errors
    /// The store or the audit log.
    pub async fn remove(
        &self,
        permit: &Permit<Seal>,
        collection: &Collection,
        key: &RecordKey,
        revision: Option<u64>,
    ) -> Result<(), CustodyError> {
        permit.check(&Place::Record(&collection.id, key))?;
        let mut event = self.auditor.about(permit.actor(), Action::RecordRemove, collection)?;
        event.record = Some(Name::abridge(key.as_str()));
        self.auditor
            .audited_write(event, async |_| {
                if self.records.remove(&collection.id, key, revision).await? {
                    return Ok(());
                }
                Err(match revision {
                    Some(revision) => CustodyError::Conflict {
                        what: format!("{}/{key} is not there at revision {revision}", collection.name),
                    },
                    None => CustodyError::NotFound {
                        what: format!("no record `{key}` in collection `{}`", collection.name),
                        hint: format!("see `keyfold records list {}`", collection.name),
                    },
                })
            })
            .await
    }

    /// A page of documents as they are stored, sealed, and where the next one begins.
    ///
    /// # Errors
    /// The store or the audit log.
    pub async fn export(
        &self,
        permit: &Permit<List>,
        collection: &Collection,
        mut at: ExportCursor,
    ) -> Result<(Vec<StoredRecord>, Option<ExportCursor>), CustodyError> {
        permit.check(&Place::Collection(&collection.id))?;
        let partitions = self.records.partitions(&collection.id).await?;
        let (page, next) = loop {
            let Some(partition) = partitions.get(at.partition) else { return Ok((Vec::new(), None)) };
            let page = self.records.scan(&collection.id, partition, at.after.as_ref(), 500).await?;
            let next = match &page.next {
                Some(after) => Some(ExportCursor { after: Some(after.clone()), ..at }),
                None => Some(ExportCursor { partition: at.partition + 1, after: None })
                    .filter(|next| next.partition < partitions.len()),
            };
            match next {
                Some(next) if page.records.is_empty() => at = next,
                next => break (page, next),
            }
        };
        let mut event = self.auditor.about(permit.actor(), Action::RecordExport, collection)?;
        event.first = page.records.first().map(|record| Name::abridge(record.key.as_str()));
        event.last = page.records.last().map(|record| Name::abridge(record.key.as_str()));
        event.count = u64::try_from(page.records.len()).ok();
        self.auditor.audited(event, async |_| Ok((page.records, next))).await
    }
}

/// How far an export has come: in which of the store's partitions, and behind what. It begins with the default.
#[derive(Debug, Clone, Default)]
pub struct ExportCursor {
    partition: usize,
    after: Option<ScanCursor>,
}

/// How a collection's values are read today.
pub(crate) fn reader(collection: &Collection, now: keyfold_core::clock::UnixTime) -> Reader<'_> {
    Reader { accept: &collection.accept, today: now.date(), reading: collection.reading, max_age: None }
}

fn revealed(
    collection: &Collection,
    key: &RecordKey,
    doc: &str,
    found: Vec<Found<'_>>,
    fields: &[OpenedField],
) -> Result<Zeroizing<String>, CustodyError> {
    let mut edits = Vec::new();
    for found in found {
        let Some(field) = fields.iter().find(|field| field.pointer == found.exact()) else { continue };
        let text = std::str::from_utf8(field.secret.expose()).map_err(|_| {
            CustodyError::invalid(
                format!("{}: the secret is not text", place(collection, key, found.exact())),
                "read it alone with --field",
            )
        })?;
        edits.push(Edit { span: found.span, token: json::encode_string(text) });
    }
    spliced(collection, key, doc, edits)
}

/// Replaces each declared secret by `{"$sealed":{"format":…,"kid":…}}`. Plaintext that lies in the store is not shown
/// either.
fn redacted(collection: &Collection, key: &RecordKey, doc: &str) -> Result<String, CustodyError> {
    let mut edits = Vec::new();
    for found in secrets(collection, key, doc)? {
        let seen = match &found.value {
            Value::Null => continue,
            Value::Text(text) => keyfold_core::inspect::inspect(text),
            Value::Other(_) => keyfold_core::inspect::inspect(""),
        };
        let kid = seen.kid.map_or(String::new(), |kid| format!(",\"kid\":\"{kid}\""));
        let token = Encoded::raw(format!("{{\"$sealed\":{{\"format\":\"{}\"{kid}}}}}", seen.format));
        edits.push(Edit { span: found.span, token });
    }
    Ok(std::mem::take(&mut *spliced(collection, key, doc, edits)?))
}
