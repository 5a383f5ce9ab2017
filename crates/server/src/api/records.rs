//! `/v1/collections`: records whose secrets are sealed when they come in, redacted when they go out, and opened to who may.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use keyfold_custody::{
    access::{Operation, Permit, Place, op},
    collection::Collection,
    error::CustodyError,
    records::{Incoming, PutMode},
    store::{CollectionId, Inserted, RecordKey, ScanCursor},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use zeroize::Zeroizing;

use super::{
    idempotency::{Once, shown_once},
    text::Text,
};
use crate::{auth::Caller, body, problem::Problem, service::Service};

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new()
        .routes(routes!(collections))
        .routes(routes!(list))
        .routes(routes!(get, put, remove))
        .merge(opening())
}

/// `{record}:open` shares its segment with the record's own route, which the router cannot tell apart; the handler does.
fn opening() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::with_openapi(Opening::openapi())
        .route("/v1/collections/{collection}/records/{record}", axum::routing::post(open))
}

#[derive(OpenApi)]
#[openapi(paths(open))]
struct Opening;

/// A collection, as it is configured.
#[derive(Serialize, ToSchema)]
pub(super) struct CollectionOut {
    /// Its name.
    name: String,
    /// Its immutable id.
    id: String,
    /// The fields that hold secrets.
    fields: Vec<String>,
    /// What new secrets are sealed as.
    format: &'static str,
    /// How many records it has, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    records: Option<u64>,
}

/// The collections that the caller may list.
#[derive(Serialize, ToSchema)]
pub(super) struct CollectionsOut {
    /// By name.
    collections: Vec<CollectionOut>,
}

/// Which page.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// A page of records' keys.
#[derive(Serialize, ToSchema)]
pub(super) struct KeysOut {
    /// In the store's order.
    records: Vec<String>,
    /// Where to go on, for `after`; left out on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// What became of a put.
#[derive(Serialize, ToSchema)]
pub(super) struct PutOut {
    /// `created` or `replaced`.
    result: &'static str,
}

/// Which field to open.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "describes the body; what is read borrows from it")]
pub(super) struct OpenFieldBody {
    /// A pointer with real indices, such as `/password`; every secret of the record where left out.
    field: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenGiven<'a> {
    #[serde(borrow, default)]
    field: Option<Text<'a>>,
}

/// Opened fields.
#[derive(Serialize, ToSchema)]
pub(super) struct OpenedFields<'a> {
    /// In the order of the document.
    fields: Vec<OpenedFieldOut<'a>>,
}

/// One opened field.
#[derive(Serialize, ToSchema)]
pub(super) struct OpenedFieldOut<'a> {
    /// Its pointer.
    field: &'a str,
    /// The secret, where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext: Option<&'a str>,
    /// The secret in standard base64, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext_base64: Option<String>,
}

/// A collection, and a permit in it. What is configured is not told to who may not work there: he is refused in the same words whether
/// there is such a collection or not.
pub(super) async fn configured<'a: 'p, 'p, O: Operation>(
    (service, caller): (&'a Service, &Caller),
    name: &str,
    place: impl FnOnce(&'a CollectionId) -> Place<'p>,
) -> Result<(&'a Collection, Permit<O>), Problem> {
    let collection = service.custody.config.collection(name);
    let place = collection.map_or(Place::Everything, |collection| place(&collection.id));
    let permit = caller.permit::<O>(service, &place).await.map_err(|_| {
        let what = format!("{} may not {} there", caller.actor, O::RIGHT);
        let hint = format!("an operator can grant `{}` there; `keyfold policy explain` says what is missing", O::RIGHT);
        Problem::new(StatusCode::FORBIDDEN, "forbidden", what).hint(hint)
    })?;
    let unknown = || Problem::not_found("there is no such collection").hint("GET /v1/collections lists them");
    Ok((collection.ok_or_else(unknown)?, permit))
}

/// One of our own layout.
async fn own<'a: 'p, 'p, O: Operation>(
    who: (&'a Service, &Caller),
    name: &str,
    place: impl FnOnce(&'a CollectionId) -> Place<'p>,
) -> Result<(&'a Collection, Permit<O>), Problem> {
    let (collection, permit) = configured(who, name, place).await?;
    who.0.custody.within_floor(collection)?;
    if collection.layout.is_foreign() {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            "the records of this collection belong to another program",
        )
        .hint("jobs migrate, rotate and verify them; their own program reads and writes them"));
    }
    Ok((collection, permit))
}

fn key(text: &str) -> Result<RecordKey, Problem> {
    RecordKey::own(text).map_err(|error| Problem::bad_request(error.to_string()))
}

/// List the collections
#[utoipa::path(get, path = "/v1/collections", tag = "records",
    responses((status = 200, description = "Those the caller may list", body = CollectionsOut)))]
async fn collections(State(service): State<Arc<Service>>, caller: Caller) -> Result<Json<CollectionsOut>, Problem> {
    caller.may_somewhere::<op::List>(&service).await?;
    let mut collections = Vec::new();
    for collection in service.custody.config.collections.values() {
        let place = Place::Collection(&collection.id);
        if keyfold_custody::access::authorize_at::<op::List>(&caller.subject, &place).is_err() {
            continue;
        }
        collections.push(CollectionOut {
            name: collection.name.clone(),
            id: collection.id.to_string(),
            fields: collection.fields.iter().map(ToString::to_string).collect(),
            format: collection.format.as_str(),
            records: service.custody.store_of(collection)?.estimate(&collection.id).await?,
        });
    }
    Ok(Json(CollectionsOut { collections }))
}

/// List a collection's records
#[utoipa::path(get, path = "/v1/collections/{collection}/records", tag = "records", params(("collection" = String, Path), PageQuery),
    responses((status = 200, description = "A page of keys", body = KeysOut)))]
async fn list(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Path(name): Path<String>,
    query: Result<Query<PageQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<KeysOut>, Problem> {
    caller.may_somewhere::<op::List>(&service).await?;
    let page = query.map_err(|_| Problem::bad_request("`limit` is a number, and `after` what `next` said"))?.0;
    let (collection, _permit) = own::<op::List>((&service, &caller), &name, Place::Collection).await?;
    let limit = page.limit.unwrap_or(100);
    if !(1..=1000).contains(&limit) {
        return Err(Problem::bad_request("`limit` is a number from 1 to 1000"));
    }
    let after = page.after.filter(|after| !after.is_empty()).map(ScanCursor::new).transpose();
    let after = after.map_err(|_| Problem::bad_request("`after` is not what `next` said"))?;
    let keys = service.custody.records.keys(&collection.id, after.as_ref(), limit).await?;
    Ok(Json(KeysOut {
        records: keys.keys.iter().map(ToString::to_string).collect(),
        next: keys.next.map(|next| next.to_string()),
    }))
}

/// Read a record, redacted
#[utoipa::path(get, path = "/v1/collections/{collection}/records/{record}", tag = "records",
    params(("collection" = String, Path), ("record" = String, Path), ("if-none-match" = Option<String>, Header)),
    responses((status = 200, description = "The document, each secret replaced by `{\"$sealed\": …}`", body = serde_json::Value,
        headers(("etag" = String, description = "The revision"))), (status = 304, description = "It still has that revision")))]
async fn get(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Path((name, record)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_somewhere::<op::List>(&service).await?;
    let key = key(&record)?;
    let (collection, permit) = own::<op::List>((&service, &caller), &name, |id| Place::Record(id, &key)).await?;
    let redacted = service.custody.get(&permit, collection, &key).await.map_err(no_record)?;
    let etag = etag(redacted.revision);
    if headers.get(header::IF_NONE_MATCH).is_some_and(|seen| *seen == etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let kind = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, kind), (header::ETAG, etag)], redacted.doc).into_response())
}

fn no_record(error: CustodyError) -> Problem {
    match error {
        CustodyError::NotFound { .. } => Problem::not_found("there is no such record"),
        error => error.into(),
    }
}

fn etag(revision: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{revision}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"0\""))
}

/// `If-Match: "N"`, as the record's ETag was.
fn revision(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|text| text.strip_prefix('"')?.strip_suffix('"')?.parse().ok());
    parsed.map(Some).ok_or_else(|| Problem::bad_request(format!("`{name}` is one ETag, as the record's was")))
}

fn mode(headers: &HeaderMap) -> Result<PutMode, Problem> {
    let only_new = headers.get(header::IF_NONE_MATCH);
    match (revision(headers, &header::IF_MATCH)?, only_new) {
        (Some(_), Some(_)) => Err(Problem::bad_request("`if-match` and `if-none-match` do not go together")),
        (Some(revision), None) => Ok(PutMode::IfRevision(revision)),
        (None, Some(value)) if value == "*" => Ok(PutMode::Create),
        (None, Some(_)) => Err(Problem::bad_request("`if-none-match` is `*` here: only where there is no such record")),
        (None, None) => Ok(PutMode::Replace),
    }
}

fn precondition(error: CustodyError) -> Problem {
    match error {
        CustodyError::Conflict { .. } | CustodyError::Store(keyfold_custody::store::StoreError::Exists { .. }) => {
            Problem::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", "the record is not at that revision")
                .hint("read it again and decide anew")
        }
        error => no_record(error),
    }
}

/// Write a record; its declared fields are sealed
#[utoipa::path(put, path = "/v1/collections/{collection}/records/{record}", tag = "records",
    params(("collection" = String, Path), ("record" = String, Path), ("if-match" = Option<String>, Header),
        ("if-none-match" = Option<String>, Header), ("idempotency-key" = Option<String>, Header)),
    request_body(content = std::collections::BTreeMap<String, serde_json::Value>, description = "The document, with its secrets"),
    responses((status = 200, description = "Replaced", body = PutOut), (status = 201, description = "Created", body = PutOut)))]
#[expect(clippy::too_many_arguments, reason = "an extractor each, as axum takes them")]
async fn put(
    State(service): State<Arc<Service>>,
    caller: Caller,
    once: Once,
    Path((name, record)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.may_somewhere::<op::Seal>(&service).await?;
    let key = key(&record)?;
    let (collection, permit) = own::<op::Seal>((&service, &caller), &name, |id| Place::Record(id, &key)).await?;
    let mode = mode(&headers)?;
    let limits = &service.settings.limits;
    let given = body::read((&service.room, limits.body), &headers, body).await?;
    let bytes = given.bytes();
    let text = std::str::from_utf8(bytes).map_err(|_| Problem::bad_request("the body is not UTF-8"))?;
    if !text.trim_start().starts_with('{') {
        return Err(Problem::bad_request("a record is a JSON object"));
    }
    let incoming = Incoming { key: key.clone(), doc: Zeroizing::new(text.trim().to_owned()) };
    let write = async {
        let put = service.custody.put(&permit, collection, incoming, mode).await;
        service.metrics.operation("record_put", if put.is_ok() { "done" } else { "failed" }, 1);
        let created = put.map_err(precondition)? == Inserted::Created;
        let (status, result) = if created { (StatusCode::CREATED, "created") } else { (StatusCode::OK, "replaced") };
        Ok((status, Json(PutOut { result })).into_response())
    };
    once.run((&service, &caller), bytes, write).await
}

/// Remove a record
#[utoipa::path(delete, path = "/v1/collections/{collection}/records/{record}", tag = "records",
    params(("collection" = String, Path), ("record" = String, Path), ("if-match" = Option<String>, Header),
        ("idempotency-key" = Option<String>, Header)),
    responses((status = 204, description = "Removed")))]
async fn remove(
    State(service): State<Arc<Service>>,
    caller: Caller,
    once: Once,
    Path((name, record)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_somewhere::<op::Seal>(&service).await?;
    let key = key(&record)?;
    let (collection, permit) = own::<op::Seal>((&service, &caller), &name, |id| Place::Record(id, &key)).await?;
    let revision = revision(&headers, &header::IF_MATCH)?;
    let write = async {
        service.custody.remove(&permit, collection, &key, revision).await.map_err(precondition)?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    once.run((&service, &caller), b"", write).await
}

/// Open a record's secrets, or one of them
#[utoipa::path(post, path = "/v1/collections/{collection}/records/{record}:open", tag = "records",
    params(("collection" = String, Path), ("record" = String, Path)), request_body = OpenFieldBody,
    responses((status = 200, description = "Opened", body = OpenedFields<'_>)))]
async fn open(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Path((name, record)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.may_somewhere::<op::Open>(&service).await?;
    let Some(record) = record.strip_suffix(":open") else {
        return Err(Problem::not_found("there is no such route").hint("POST …/records/KEY:open opens"));
    };
    let key = key(record)?;
    let limits = &service.settings.limits;
    let given = body::read((&service.room, limits.body), &headers, body).await?;
    let bytes = given.bytes();
    let given: OpenGiven<'_> = body::parse(bytes)?;
    let pointer = given.field.as_ref().map(Text::as_str);
    let place = |id| pointer.map_or(Place::Record(id, &key), |pointer| Place::Field(id, &key, pointer));
    let (collection, permit) = own::<op::Open>((&service, &caller), &name, place).await?;
    let opened = service.custody.open(&permit, collection, &key, pointer).await;
    service.metrics.operation("record_open", if opened.is_ok() { "done" } else { "failed" }, 1);
    let opened = opened.map_err(|error| match error {
        CustodyError::NotFound { .. } => Problem::not_found("there is no such record, or no such secret in it"),
        error => error.into(),
    })?;
    let room = opened.iter().map(|field| field.secret.len() + field.pointer.len() + 64).sum::<usize>() + 64;
    let fields = opened.iter().map(|field| {
        let text = std::str::from_utf8(field.secret.expose()).ok();
        OpenedFieldOut {
            field: &field.pointer,
            plaintext: text,
            plaintext_base64: text.is_none().then(|| base64_simd::STANDARD.encode_to_string(field.secret.expose())),
        }
    });
    shown_once(StatusCode::OK, &OpenedFields { fields: fields.collect() }, room)
}
