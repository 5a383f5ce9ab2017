//! `POST /v1/seal`, `/v1/open`, `/v1/rewrap`, `/v1/inspect`: values that somebody else keeps, one or a batch.
//!
//! A batch answers 200 with a result for each item, in order; an item that failed has an `error` that is a problem by itself.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use keyfold_core::{
    envelope::Format,
    id::{Commitment, KeyId},
    inspect::inspect as look,
    rewrap::How,
};
use keyfold_custody::{
    access::{Operation, op},
    error::CustodyError,
    values::{self, Allowed, Results, SealedValue, ToOpen, ToRewrap, ToSeal},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::{
    idempotency::shown_once,
    text::{Entries, Text},
};
use crate::{
    auth::Caller,
    body,
    problem::{Problem, ProblemBody},
    service::Service,
};

/// A context: where a value belongs.
type ContextSchema = BTreeMap<String, String>;

/// A value to be sealed: text, or bytes in base64.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "describes the body; what is read borrows from it")]
pub(super) struct SealOne {
    /// The secret, as text.
    plaintext: Option<String>,
    /// The secret, as bytes in standard base64. One of the two is given.
    #[schema(content_encoding = "base64")]
    plaintext_base64: Option<String>,
    /// The place that the value is bound to; kf1 only.
    context: Option<ContextSchema>,
    /// kf1 where left out.
    format: Option<FormatWord>,
}

/// A format.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Format)]
pub(super) enum FormatWord {
    Kf1,
    V1,
    Fernet,
}

impl From<FormatWord> for Format {
    fn from(word: FormatWord) -> Self {
        match word {
            FormatWord::Kf1 => Self::Kf1,
            FormatWord::V1 => Self::V1,
            FormatWord::Fernet => Self::Fernet,
        }
    }
}

macro_rules! bodies {
    ($($(#[$doc:meta])* $schema:ident = $one:ident | $batch:ident;)*) => {$(
        $(#[$doc])*
        #[derive(ToSchema)]
        #[serde(untagged)]
        #[allow(dead_code, reason = "describes the body; what is read borrows from it")]
        pub(super) enum $schema {
            /// One.
            One($one),
            /// Several.
            Batch($batch),
        }

        /// Several items, each with its own result.
        #[derive(ToSchema)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code, reason = "describes the body; what is read borrows from it")]
        pub(super) struct $batch {
            /// The items.
            #[schema(min_items = 1)]
            items: Vec<$one>,
        }
    )*};
}

bodies! {
    /// One value to be sealed, or several.
    SealBody = SealOne | SealBatch;
    /// One value to be opened, or several.
    OpenBody = OpenOne | OpenBatch;
    /// One value to be wrapped anew, or several.
    RewrapBody = RewrapOne | RewrapBatch;
    /// One value to be looked at, or several.
    InspectBody = InspectOne | InspectBatch;
}

/// A value to be opened.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "describes the body; what is read borrows from it")]
pub(super) struct OpenOne {
    /// As it was kept.
    envelope: String,
    /// The context it was sealed with.
    context: Option<ContextSchema>,
    /// How old a Fernet token may be, in seconds.
    max_age: Option<u64>,
}

/// A value to be wrapped anew.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "describes the body; what is read borrows from it")]
pub(super) struct RewrapOne {
    /// As it was kept.
    envelope: String,
    /// The context it was sealed with.
    context: Option<ContextSchema>,
    /// The format to end in; the one it has where left out.
    to: Option<FormatWord>,
    /// Everything new, the data key included.
    reseal: Option<bool>,
}

/// A value to be looked at.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "describes the body; what is read borrows from it")]
pub(super) struct InspectOne {
    /// As it was kept.
    envelope: String,
}

/// A sealed value.
#[derive(Serialize, ToSchema)]
pub(super) struct SealedOut {
    /// What to keep.
    envelope: String,
    /// Its format.
    format: &'static str,
    /// The key that sealed it.
    #[schema(value_type = String)]
    kid: KeyId,
    /// kf1 only: what stays the same through every rewrap.
    #[schema(value_type = Option<String>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    commitment: Option<Commitment>,
    /// Rewrap only: false where it was under the primary key already.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<bool>,
}

/// An opened value: text where it is text, else bytes in base64.
#[derive(Serialize, ToSchema)]
pub(super) struct OpenedOut<'a> {
    /// The secret, where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext: Option<&'a str>,
    /// The secret in standard base64, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext_base64: Option<String>,
    /// The format it had.
    format: &'static str,
    /// The key that opened it.
    #[schema(value_type = String)]
    kid: KeyId,
}

/// What a value shows without a key.
#[derive(Serialize, ToSchema)]
pub(super) struct InspectedOut {
    /// `kf1`, `v1`, `fernet`, `plaintext`, `malformed`, `malformed_v1`, `unsupported_format` or `foreign`.
    format: &'static str,
    /// kf1 only: the key that wraps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    /// kf1 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    commitment: Option<String>,
    /// Fernet only: seconds since 1970, as claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<u64>,
    /// Bytes of the value.
    size: usize,
    /// Bytes of the secret in it; for Fernet the most it can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_size: Option<usize>,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// One result of a batch.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Each<T> {
    /// It went well.
    Done(T),
    /// It did not.
    Failed {
        /// Why.
        error: ProblemBody,
    },
}

/// The results of a batch, in the order of its items.
#[derive(Serialize, ToSchema)]
pub(super) struct Batch<T> {
    /// One for each item.
    results: Vec<Each<T>>,
}

/// What came in: one item, spelled out, or a list of items.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Item<'a> {
    /// The items of a batch; none of them has any by itself.
    #[serde(borrow, default)]
    items: Option<Vec<Item<'a>>>,
    #[serde(borrow, default)]
    plaintext: Option<Text<'a>>,
    #[serde(borrow, default)]
    plaintext_base64: Option<Text<'a>>,
    #[serde(borrow, default)]
    envelope: Option<Text<'a>>,
    #[serde(borrow, default)]
    context: Option<Entries<'a>>,
    #[serde(default)]
    format: Option<FormatWord>,
    #[serde(default)]
    max_age: Option<u64>,
    #[serde(default)]
    to: Option<FormatWord>,
    #[serde(default)]
    reseal: Option<bool>,
}

/// Which members a route takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Route {
    Seal,
    Open,
    Rewrap,
    Inspect,
}

/// The items, and whether they came as a batch.
struct Items<'a> {
    list: Vec<Item<'a>>,
    batch: bool,
}

impl<'a> Items<'a> {
    fn parse(bytes: &'a [u8], route: Route, most: usize) -> Result<Self, Problem> {
        let mut single: Item<'_> = body::parse(bytes)?;
        let items = match single.items.take() {
            None => Self { list: vec![single], batch: false },
            Some(_) if !single.is_empty() => {
                return Err(Problem::bad_request("a body has `items`, or the members of one item, and not both"));
            }
            Some(list) => Self { list, batch: true },
        };
        if items.list.is_empty() || items.list.len() > most {
            return Err(Problem::bad_request(format!("a batch has 1 to {most} items"))
                .hint("send it in parts, or raise `server.limits.batch`"));
        }
        match items.list.iter().position(|item| !item.fits(route)) {
            None => Ok(items),
            Some(at) => Err(Problem::bad_request(format!("item {at} has not the members that this route takes"))
                .hint("/openapi.json describes every route's body")),
        }
    }

    /// Writes the results, for which there is about so much room.
    fn answer<T: Serialize>(&self, results: Vec<Result<T, Problem>>, room: usize) -> Result<Response, Problem> {
        if self.batch {
            let each = |result: Result<T, Problem>| match result {
                Ok(value) => Each::Done(value),
                Err(problem) => Each::Failed { error: problem.body(None) },
            };
            let batch = Batch { results: results.into_iter().map(each).collect() };
            shown_once(StatusCode::OK, &batch, room)
        } else {
            let one = results.into_iter().next().ok_or_else(|| Problem::internal(&"no result for an item"))??;
            shown_once(StatusCode::OK, &one, room)
        }
    }
}

impl Item<'_> {
    fn is_empty(&self) -> bool {
        self.items.is_none()
            && !(self.plaintext.is_some() || self.plaintext_base64.is_some() || self.envelope.is_some())
            && self.context.is_none()
            && self.format.is_none()
            && self.max_age.is_none()
            && self.to.is_none()
            && self.reseal.is_none()
    }

    fn fits(&self, route: Route) -> bool {
        if self.items.is_some() {
            return false;
        }
        let sealing = self.plaintext.is_some() != self.plaintext_base64.is_some() && self.envelope.is_none();
        let given = self.envelope.is_some() && self.plaintext.is_none() && self.plaintext_base64.is_none();
        let rewraps = self.to.is_some() || self.reseal.is_some();
        match route {
            Route::Seal => sealing && self.max_age.is_none() && !rewraps,
            Route::Open => given && self.format.is_none() && !rewraps,
            Route::Rewrap => given && self.format.is_none() && self.max_age.is_none(),
            Route::Inspect => {
                given && self.format.is_none() && self.max_age.is_none() && !rewraps && self.context.is_none()
            }
        }
    }

    fn envelope(&self) -> &str {
        self.envelope.as_ref().map_or("", Text::as_str)
    }

    fn allow<O: Operation>(&self, caller: &Caller, deployment: &str, bound: bool) -> Result<Allowed<O>, CustodyError> {
        let pairs = self.context.as_ref().map(Entries::pairs).unwrap_or_default();
        values::allow(&caller.subject, deployment, &pairs, bound)
    }
}

/// A result that is there already, or the place of one to come.
type Slots<T> = Vec<Option<Result<T, CustodyError>>>;

/// Sorts out the items that may be worked on. Those that may not are in the audit log before this returns.
async fn sort<I, T>(
    (service, caller): (&Service, &Caller),
    prepared: Vec<Result<I, CustodyError>>,
) -> (Slots<T>, Vec<I>) {
    let mut slots = Vec::with_capacity(prepared.len());
    let mut items = Vec::with_capacity(prepared.len());
    let mut refusal = None;
    let mut refused = 0_u64;
    for prepared in prepared {
        match prepared {
            Ok(item) => {
                items.push(item);
                slots.push(None);
            }
            Err(error) => {
                if let CustodyError::Refused(why) = &error {
                    refused += 1;
                    refusal.get_or_insert_with(|| why.clone());
                }
                slots.push(Some(Err(error)));
            }
        }
    }
    if let Some(refusal) = refusal {
        caller.refused_values(service, &refusal, refused).await;
    }
    (slots, items)
}

/// Puts every result in its place.
fn fill<T>(slots: Slots<T>, done: Results<T>) -> Result<Results<T>, Problem> {
    let mut done = done.into_iter();
    let filled = slots.into_iter().map(|slot| slot.or_else(|| done.next()));
    filled.map(|result| result.ok_or_else(|| Problem::internal(&"an item without a result"))).collect()
}

fn count<T>(service: &Service, operation: &'static str, results: &[Result<T, CustodyError>]) {
    let done = results.iter().filter(|result| result.is_ok()).count() as u64;
    if done > 0 {
        service.metrics.operation(operation, "done", done);
    }
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        service.metrics.operation(operation, error.code().map_or("failed", keyfold_core::error::Code::as_str), 1);
    }
}

/// Room for what stands beside a value.
const BESIDE: usize = 192;

/// Seal one value or a batch
///
/// The secret is sealed under the primary key and bound to the context.
#[utoipa::path(post, path = "/v1/seal", tag = "values", request_body = SealBody,
    responses((status = 200, description = "Sealed", body = inline(OneOrBatch<SealedOut>))))]
pub(super) async fn seal(
    State(service): State<Arc<Service>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.may_somewhere::<op::Seal>(&service).await?;
    let limits = &service.settings.limits;
    let given = body::read((&service.room, limits.body), &headers, body).await?;
    let bytes = given.bytes();
    let items = Items::parse(bytes, Route::Seal, limits.batch)?;
    let decoded: Vec<Option<Zeroizing<Vec<u8>>>> = items.list.iter().map(decode).collect::<Result<_, _>>()?;
    let keyring = service.custody.keys.opening();
    let prepared = items.list.iter().zip(&decoded).map(|(item, decoded)| {
        let format = item.format.map_or(Format::Kf1, Format::from);
        let allowed = item.allow::<op::Seal>(&caller, keyring.deployment(), format == Format::Kf1)?;
        if format != Format::Kf1 && item.context.as_ref().is_some_and(|context| !context.pairs().is_empty()) {
            return Err(no_context(format));
        }
        let text = item.plaintext.as_ref().map_or("", Text::as_str);
        Ok(ToSeal { allowed, format, secret: decoded.as_ref().map_or(text.as_bytes(), |bytes| bytes) })
    });
    let (slots, items_allowed) = sort((&service, &caller), prepared.collect()).await;
    let since = Instant::now();
    let done = if items_allowed.is_empty() { Vec::new() } else { service.custody.seal_values(items_allowed).await? };
    service.metrics.audited(since);
    let results = fill(slots, done)?;
    count(&service, "seal", &results);
    let room = results.iter().flatten().map(|sealed| sealed.text.len() + BESIDE).sum::<usize>() + BESIDE;
    items.answer(results.into_iter().map(|result| sealed(result, None)).collect(), room)
}

fn decode(item: &Item<'_>) -> Result<Option<Zeroizing<Vec<u8>>>, Problem> {
    let Some(text) = &item.plaintext_base64 else { return Ok(None) };
    let bytes = base64_simd::STANDARD.decode_to_vec(text.as_str());
    bytes
        .map(|bytes| Some(Zeroizing::new(bytes)))
        .map_err(|_| Problem::bad_request("`plaintext_base64` is not standard base64 with padding"))
}

fn no_context(format: Format) -> CustodyError {
    CustodyError::invalid(
        format!("the {format} format binds no context"),
        "leave the context out, or seal as kf1, which binds it",
    )
}

fn sealed(result: Result<SealedValue, CustodyError>, rewrap: Option<()>) -> Result<SealedOut, Problem> {
    let value = result?;
    Ok(SealedOut {
        envelope: value.text,
        format: value.format.as_str(),
        kid: value.kid,
        commitment: value.commitment,
        changed: rewrap.map(|()| value.changed),
    })
}

/// Open one value or a batch
///
/// The intent is in the audit log before the secret leaves.
#[utoipa::path(post, path = "/v1/open", tag = "values", request_body = OpenBody,
    responses((status = 200, description = "Opened", body = inline(OneOrBatch<OpenedOut<'_>>))))]
pub(super) async fn open(
    State(service): State<Arc<Service>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.may_somewhere::<op::Open>(&service).await?;
    let limits = &service.settings.limits;
    let given = body::read((&service.room, limits.body), &headers, body).await?;
    let bytes = given.bytes();
    let items = Items::parse(bytes, Route::Open, limits.batch)?;
    let keyring = service.custody.keys.opening();
    let prepared = items.list.iter().map(|item| {
        let stored = item.envelope();
        let allowed = item.allow::<op::Open>(&caller, keyring.deployment(), values::is_bound(stored))?;
        Ok(ToOpen { allowed, stored, max_age: item.max_age })
    });
    let (slots, items_allowed) = sort((&service, &caller), prepared.collect()).await;
    let since = Instant::now();
    let done = if items_allowed.is_empty() { Vec::new() } else { service.custody.open_values(items_allowed).await? };
    service.metrics.audited(since);
    let results = fill(slots, done)?;
    count(&service, "open", &results);
    let room = results.iter().flatten().map(|opened| opened.secret.len() + BESIDE).sum::<usize>() + BESIDE;
    let (opened, results): (Vec<_>, Vec<_>) = results
        .into_iter()
        .map(|result| match result {
            Ok(value) => (Some(value), None),
            Err(error) => (None, Some(error)),
        })
        .unzip();
    let answers = opened.iter().zip(results).map(|(opened, error)| match (opened, error) {
        (Some(value), _) => {
            let text = std::str::from_utf8(value.secret.expose()).ok();
            Ok(OpenedOut {
                plaintext: text,
                plaintext_base64: text.is_none().then(|| base64_simd::STANDARD.encode_to_string(value.secret.expose())),
                format: value.format.as_str(),
                kid: value.kid,
            })
        }
        (None, Some(error)) => Err(error.into()),
        (None, None) => Err(Problem::internal(&"an item without a result")),
    });
    items.answer(answers.collect(), room)
}

/// Move one value or a batch to the primary key
#[utoipa::path(post, path = "/v1/rewrap", tag = "values", request_body = RewrapBody,
    responses((status = 200, description = "Wrapped anew", body = inline(OneOrBatch<SealedOut>))))]
pub(super) async fn rewrap(
    State(service): State<Arc<Service>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.may_somewhere::<op::Rotate>(&service).await?;
    let limits = &service.settings.limits;
    let given = body::read((&service.room, limits.body), &headers, body).await?;
    let bytes = given.bytes();
    let items = Items::parse(bytes, Route::Rewrap, limits.batch)?;
    let keyring = service.custody.keys.opening();
    let prepared = items.list.iter().map(|item| {
        let (stored, to) = (item.envelope(), item.to.map(Format::from));
        // Into a format without a place, and out of one: either way the place is not vouched for.
        let bound = values::is_bound(stored) && to.is_none_or(|to| to == Format::Kf1);
        let allowed = item.allow::<op::Rotate>(&caller, keyring.deployment(), bound)?;
        let how = if item.reseal == Some(true) { How::Reseal } else { How::Rewrap };
        Ok(ToRewrap { allowed, stored, how, to })
    });
    let (slots, items_allowed) = sort((&service, &caller), prepared.collect()).await;
    let since = Instant::now();
    let done = if items_allowed.is_empty() { Vec::new() } else { service.custody.rewrap_values(items_allowed).await? };
    service.metrics.audited(since);
    let results = fill(slots, done)?;
    count(&service, "rewrap", &results);
    let room = results.iter().flatten().map(|sealed| sealed.text.len() + BESIDE).sum::<usize>() + BESIDE;
    items.answer(results.into_iter().map(|result| sealed(result, Some(()))).collect(), room)
}

/// Say what one value or a batch is, without a key
#[utoipa::path(post, path = "/v1/inspect", tag = "values", request_body = InspectBody,
    responses((status = 200, description = "Looked at", body = inline(OneOrBatch<InspectedOut>))))]
pub(super) async fn inspect(
    State(service): State<Arc<Service>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.may_somewhere::<op::List>(&service).await?;
    let limits = &service.settings.limits;
    let given = body::read((&service.room, limits.body), &headers, body).await?;
    let bytes = given.bytes();
    let items = Items::parse(bytes, Route::Inspect, limits.batch)?;
    let looked = items.list.iter().map(|item| {
        let seen = look(item.envelope());
        Ok(InspectedOut {
            format: seen.format,
            kid: seen.kid.map(|kid| kid.to_string()),
            commitment: seen.commitment.map(|commitment| commitment.to_string()),
            timestamp: seen.timestamp.map(|time| time.0),
            size: seen.size,
            secret_size: seen.secret_size,
            problem: seen.problem,
        })
    });
    items.answer(looked.collect(), BESIDE * items.list.len())
}

/// One answer, or those of a batch.
#[derive(ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes what `Items::answer` writes")]
pub(super) enum OneOrBatch<T> {
    /// One.
    One(T),
    /// Several.
    Batch(Batch<T>),
}
