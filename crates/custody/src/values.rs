//! Values that lie in no record of ours: sealed, opened and wrapped anew for who keeps them elsewhere.
//!
//! One intent for each value, durable together before anything leaves; one outcome for those that went well, and one for each
//! that did not.

use std::{num::NonZero, sync::LazyLock};

use keyfold_core::{
    accept::{Accept, Rule},
    audit::{Action, Actor, Event, Name, Word},
    context::{Context, ContextDigest},
    detect::{Detected, detect},
    envelope::{Format, Reading, fernet::MaxAge},
    error::{Code, Hint},
    id::{Commitment, KeyId},
    keyring::{Found, Keyring, Reader},
    rewrap::{How, Move, Mover, Target},
    rng::{Fresh, SystemRandom},
    secret::Secret,
};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    access::{Operation, Permit, Place, RESERVED, Subject, authorize_at, op},
    auditor::word_of,
    custody::Custody,
    error::CustodyError,
    store::{CollectionId, RecordKey},
};

/// The entries of a value's context.
pub type Entries<'a> = &'a [(&'a str, &'a str)];

/// A value that may be worked on: where it belongs, and the permit for that.
pub struct Allowed<O: Operation> {
    permit: Permit<O>,
    digest: ContextDigest,
    place: Option<(Name, Name, Name)>,
}

/// A sealed value.
pub struct SealedValue {
    /// What to keep.
    pub text: String,
    /// Its format.
    pub format: Format,
    /// The key that sealed it.
    pub kid: KeyId,
    /// For `kf1`: what stays the same through every rewrap.
    pub commitment: Option<Commitment>,
    /// Whether it is new: a rewrap can find it to be where it should be.
    pub changed: bool,
}

/// An opened value.
pub struct OpenedValue {
    /// The plaintext.
    pub secret: Secret,
    /// Its format.
    pub format: Format,
    /// The key that opened it.
    pub kid: KeyId,
}

/// Decides whether a value of this context may be worked on. `bound` is false for formats that bind no place: a value of theirs
/// can have come from anywhere, so they take the right everywhere. A context that names a record of ours takes the right to that
/// field of it.
///
/// # Errors
/// The actor may not; a context that cannot be; entries that only Keyfold writes.
pub fn allow<O: Operation>(
    subject: &Subject,
    deployment: &str,
    entries: Entries<'_>,
    bound: bool,
) -> Result<Allowed<O>, CustodyError> {
    if let Some((key, _)) = entries.iter().find(|(key, _)| RESERVED.contains(key)) {
        return Err(CustodyError::invalid(
            format!("the context entry `{key}` is reserved"),
            "values of end users are opened through their sessions only",
        ));
    }
    let entry = |key: &str| entries.iter().find(|(k, _)| *k == key).map(|(_, value)| *value);
    let ours = ["deployment", "collection", "record", "field"].map(entry);
    let names = match ours {
        [Some(of), Some(collection), Some(record), Some(field)] if of == deployment => {
            CollectionId::new(collection).ok().zip(RecordKey::new(record).ok()).map(|(c, r)| (c, r, field))
        }
        _ => None,
    };
    let place = match &names {
        _ if !bound => Place::Everything,
        Some((collection, record, field)) => Place::Field(collection, record, field),
        None if ours.iter().any(Option::is_some) => Place::Everything,
        None => Place::Value(entries),
    };
    let permit = authorize_at::<O>(subject, &place)?;
    let mut context = Context::empty();
    for (key, value) in entries {
        context = context.with(key, *value)?;
    }
    let place = names.as_ref().map(|(collection, record, field)| {
        (Name::abridge(collection.as_str()), Name::abridge(record.as_str()), Name::abridge(field))
    });
    Ok(Allowed { permit, digest: context.digest(), place })
}

/// Whether a value's format binds it to its place.
#[must_use]
pub fn is_bound(stored: &str) -> bool {
    matches!(detect(stored), Detected::Sealed(Format::Kf1))
}

/// A value to be sealed.
pub struct ToSeal<'a> {
    /// The right to.
    pub allowed: Allowed<op::Seal>,
    /// The format.
    pub format: Format,
    /// The plaintext.
    pub secret: &'a [u8],
}

/// A value to be opened.
pub struct ToOpen<'a> {
    /// The right to.
    pub allowed: Allowed<op::Open>,
    /// As it was kept.
    pub stored: &'a str,
    /// How old a Fernet token may be, in seconds.
    pub max_age: Option<u64>,
}

/// A value to be wrapped anew.
pub struct ToRewrap<'a> {
    /// The right to.
    pub allowed: Allowed<op::Rotate>,
    /// As it was kept.
    pub stored: &'a str,
    /// A new wrap, or everything new.
    pub how: How,
    /// The format to end in.
    pub to: Option<Format>,
}

/// One result for each value, in their order.
pub type Results<T> = Vec<Result<T, CustodyError>>;

/// What an event says of a value.
struct Told {
    bytes: usize,
    format: Option<Format>,
    kid: Option<KeyId>,
    commitment: Option<Commitment>,
}

impl Custody {
    /// Seals values.
    ///
    /// # Errors
    /// The keyring, the store, the audit log: then none of them. What is wrong with one value is its own result.
    pub async fn seal_values(&self, items: Vec<ToSeal<'_>>) -> Result<Results<SealedValue>, CustodyError> {
        let keyring = self.keys.sealing().await?;
        let wraps = items.iter().filter(|item| item.format == Format::V1).count() as u64;
        if wraps > 0
            && let Some(entry) = keyring.primary(Format::V1)
        {
            self.usage.reserve(entry.kid(), wraps).await?;
        }
        let fresh = Fresh { random: &SystemRandom, now: self.auditor.clock().now() };
        self.valued(
            items,
            Action::Seal,
            |item| (&item.allowed.permit, &item.allowed.place),
            |item| {
                let sealed = keyring
                    .seal(item.format, &item.allowed.digest, item.secret, fresh)
                    .map_err(|error| said(&error, error.code()))?;
                let told = Told {
                    bytes: item.secret.len(),
                    format: Some(item.format),
                    kid: Some(sealed.kid),
                    commitment: sealed.commitment,
                };
                let (format, kid, commitment) = (item.format, sealed.kid, sealed.commitment);
                Ok((SealedValue { text: sealed.text, format, kid, commitment, changed: true }, told))
            },
        )
        .await
    }

    /// Opens values. The intents are durable before this returns.
    ///
    /// # Errors
    /// The audit log: then none of them. What is wrong with one value is its own result.
    pub async fn open_values(&self, items: Vec<ToOpen<'_>>) -> Result<Results<OpenedValue>, CustodyError> {
        let keyring = self.keys.opening();
        let accept = accept_sealed()?;
        let now = self.auditor.clock().now();
        let today = now.date();
        self.valued(
            items,
            Action::Open,
            |item| (&item.allowed.permit, &item.allowed.place),
            |item| {
                let max_age = item.max_age.map(|ttl| MaxAge { ttl, now });
                let reader = Reader { accept: &accept, today, reading: Reading::Strict, max_age };
                let opened = keyring
                    .open(item.stored, &item.allowed.digest, &reader)
                    .map_err(|error| said(&error, error.code()))?;
                let Found::Sealed { format, kid, commitment, .. } = opened.found else {
                    return Err(CustodyError::invalid("the value is not encrypted", "seal it first"));
                };
                let told = Told { bytes: opened.secret.len(), format: Some(format), kid: Some(kid), commitment };
                Ok((OpenedValue { secret: opened.secret, format, kid }, told))
            },
        )
        .await
    }

    /// Moves values to the primary key.
    ///
    /// # Errors
    /// The keyring, the store, the audit log: then none of them. What is wrong with one value is its own result.
    pub async fn rewrap_values(&self, items: Vec<ToRewrap<'_>>) -> Result<Results<SealedValue>, CustodyError> {
        let keyring = self.keys.sealing().await?;
        let to_v1 = |item: &&ToRewrap<'_>| item.to.map_or_else(|| !is_bound(item.stored), |to| to == Format::V1);
        let wraps = items.iter().filter(to_v1).count() as u64;
        if wraps > 0
            && let Some(entry) = keyring.primary(Format::V1)
        {
            self.usage.reserve(entry.kid(), wraps).await?;
        }
        let accept = accept_sealed()?;
        let now = self.auditor.clock().now();
        self.valued(
            items,
            Action::Rewrap,
            |item| (&item.allowed.permit, &item.allowed.place),
            |item| moved(&keyring, &accept, now, item),
        )
        .await
    }

    async fn valued<I, T>(
        &self,
        items: Vec<I>,
        action: Action,
        of: impl for<'i> Fn(&'i I) -> (&'i dyn Permitted, &'i Option<(Name, Name, Name)>),
        work: impl Fn(&I) -> Result<(T, Told), CustodyError>,
    ) -> Result<Results<T>, CustodyError> {
        let (mut intents, mut outcomes) = (Vec::with_capacity(items.len()), Vec::new());
        let mut results = Vec::with_capacity(items.len());
        let mut shared: Option<Event> = None;
        let (mut count, mut bytes) = (0_u64, 0_u64);
        let now = self.auditor.clock().now();
        let turn = turn(items.len()).await;
        offload(items.len(), || {
            for item in &items {
                let (permit, place) = of(item);
                let mut event = match &shared {
                    Some(first) => Event::intent(now, first.id, permit.actor().clone(), action),
                    None => self.auditor.event(permit.actor(), action)?,
                };
                if let Some((collection, record, field)) = place {
                    event.collection = Some(collection.clone());
                    event.record = Some(record.clone());
                    event.field = Some(field.clone());
                }
                match work(item) {
                    Ok((value, told)) => {
                        event.bytes = Some(told.bytes as u64);
                        event.format = told.format.map(Word::from);
                        event.kid = told.kid;
                        event.commitment = told.commitment;
                        count += 1;
                        bytes += told.bytes as u64;
                        shared.get_or_insert_with(|| Event::intent(now, event.id, permit.actor().clone(), action));
                        results.push(Ok(value));
                    }
                    Err(error) => {
                        if shared.as_ref().is_some_and(|shared| shared.id == event.id) {
                            event.id = self.auditor.event(permit.actor(), action)?.id;
                        }
                        outcomes.push(event.outcome(now, word_of(&error)));
                        results.push(Err(error));
                    }
                }
                intents.push(event);
            }
            Ok::<_, CustodyError>(())
        })?;
        drop(turn);
        let alone = intents.len() == 1;
        let first = alone.then(|| intents[0].clone());
        let _durable = self.auditor.intents(intents).await?;
        if let Some(mut event) = shared {
            if let Some(first) = first {
                event = first;
            }
            event.bytes = Some(bytes);
            event.count = (!alone).then_some(count);
            outcomes.push(event.outcome(self.auditor.clock().now(), Word::done()));
        }
        self.auditor.outcomes_later(outcomes).await?;
        Ok(results)
    }
}

/// A permit, whatever it is for.
trait Permitted: Sync {
    fn actor(&self) -> &Actor;
}

impl<O: Operation + Sync> Permitted for Permit<O> {
    fn actor(&self) -> &Actor {
        self.actor()
    }
}

/// How many values are worked on where they come in; more of them wait for their turn, and leave the runtime to other tasks.
const FEW: usize = 64;

/// Batches that are worked on at once: one for each processor. More of them would not be done sooner, and each would push what
/// the others work with out of the processors' caches.
async fn turn(items: usize) -> Option<SemaphorePermit<'static>> {
    static TURNS: LazyLock<Semaphore> =
        LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, NonZero::get)));
    if items > FEW { TURNS.acquire().await.ok() } else { None }
}

/// Runs work that would hold up the runtime where other tasks can go on meanwhile.
fn offload<T>(items: usize, work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    let several = Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if items > FEW && several { tokio::task::block_in_place(work) } else { work() }
}

fn moved(
    keyring: &Keyring,
    accept: &Accept,
    now: keyfold_core::clock::UnixTime,
    item: &ToRewrap<'_>,
) -> Result<(SealedValue, Told), CustodyError> {
    let reader = Reader { accept, today: now.date(), reading: Reading::Strict, max_age: None };
    let target = Target { format: item.to, plaintext_to: Format::Kf1, how: item.how, stays: item.how.stays(), now };
    let planned = Mover { keyring, random: &SystemRandom, reader, target }
        .plan(item.stored, &item.allowed.digest)
        .map_err(|error| said(&error, error.code()))?;
    let (text, format, kid, found, changed) = match planned {
        Move::Stay(found) => {
            let Found::Sealed { format, kid, .. } = found else {
                return Err(CustodyError::invalid("the value is not encrypted", "seal it first"));
            };
            (item.stored.to_owned(), format, kid, found, false)
        }
        Move::To { found, text, kid, format } => (text, format, kid, found, true),
    };
    let commitment = match found {
        Found::Sealed { commitment, .. } if item.how == How::Rewrap => commitment,
        _ => None,
    };
    let told = Told { bytes: text.len(), format: Some(format), kid: Some(kid), commitment };
    Ok((SealedValue { text, format, kid, commitment, changed }, told))
}

/// In the core's own words: there is no collection to speak of.
fn said(error: &(impl std::error::Error + Hint), code: Code) -> CustodyError {
    CustodyError::Invalid { what: error.to_string(), hint: error.hint().unwrap_or_default(), code: Some(code) }
}

/// Sealed values of every format, and never plaintext.
fn accept_sealed() -> Result<Accept, CustodyError> {
    let rules = Format::ALL.iter().filter_map(|format| Rule::new(format.as_str(), None).ok()).collect();
    Accept::new(rules).map_err(|error| CustodyError::Invalid {
        what: error.to_string(),
        hint: String::new(),
        code: Some(Code::FormatNotAccepted),
    })
}
