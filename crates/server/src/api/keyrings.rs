//! `/v1/keyrings`: the keys that seal, and their life.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use keyfold_core::{envelope::Format, id::KeyId, keyring::Origin};
use keyfold_custody::access::{Place, op};
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{idempotency::Once, values::FormatWord};
use crate::{auth::Caller, body, problem::Problem, service::Service};

/// How long a change waits for other processes to follow.
const WAIT: Duration = Duration::from_secs(20);
/// How long a key must have been retired before it is destroyed.
const MIN_AGE: Duration = Duration::from_secs(86_400);

#[derive(OpenApi)]
#[openapi(paths(act))]
struct Actions;

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    // The action shares its segment with the key's id, which the router cannot tell apart; the handler does.
    let acting = OpenApiRouter::with_openapi(Actions::openapi()).route("/v1/keyrings/{keyring}/keys/{key}", post(act));
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(create)).routes(routes!(census)).merge(acting)
}

/// A key, without the key.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyOut {
    /// Its id.
    kid: String,
    /// `staged`, `primary`, `active` or `retired`.
    state: &'static str,
    /// The formats it serves.
    suites: Vec<&'static str>,
    /// Seconds since 1970.
    created: u64,
    /// When it came into its state.
    since: u64,
    /// `keyring`, or the variable of the environment that it comes from.
    origin: String,
}

/// A key that was destroyed.
#[derive(Serialize, ToSchema)]
pub(super) struct TombstoneOut {
    /// Its id.
    kid: String,
    /// When.
    destroyed: u64,
}

/// A keyring.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyringOut {
    /// Its id; `current` stands for it in paths.
    id: String,
    /// The deployment, part of every record's context.
    deployment: String,
    /// Grows with every change.
    generation: u64,
    /// Oldest first.
    keys: Vec<KeyOut>,
    /// What is left of destroyed keys.
    tombstones: Vec<TombstoneOut>,
    /// The processes that have it open.
    processes: Vec<ProcessOut>,
}

/// A process that has the keyring open.
#[derive(Serialize, ToSchema)]
pub(super) struct ProcessOut {
    /// As in the audit log.
    id: String,
    /// What it runs.
    command: String,
    /// Where.
    host: String,
    /// The generation it opens.
    opens: u64,
    /// The oldest generation under which it may still seal.
    seals: u64,
}

/// The keyrings of the deployment.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyringsOut {
    /// One at present.
    keyrings: Vec<KeyringOut>,
}

/// What a key is to serve.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewKeyBody {
    /// kf1 and v1, or fernet; kf1 and v1 where left out.
    #[schema(example = json!(["kf1", "v1"]))]
    suites: Option<Vec<FormatWord>>,
}

/// What became of a key.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyStateOut {
    /// Its id.
    kid: String,
    /// Its state now; `destroyed` where a tombstone is left.
    state: &'static str,
}

/// How much is stored under what.
#[derive(Serialize, ToSchema)]
pub(super) struct CensusOut {
    /// Records seen.
    records: u64,
    /// Values by collection, format and key.
    values: Vec<CountOut>,
    /// Values that look sealed and open under no key here.
    unreadable: u64,
}

/// One line of a census.
#[derive(Serialize, ToSchema)]
pub(super) struct CountOut {
    /// The collection's id.
    collection: String,
    /// The format.
    format: &'static str,
    /// The key.
    kid: String,
    /// How many.
    values: u64,
}

fn known(service: &Service, keyring: &str) -> Result<(), Problem> {
    if keyring == "current" || keyring == service.custody.keys.opening().id() {
        return Ok(());
    }
    Err(Problem::not_found("there is no such keyring")
        .hint("GET /v1/keyrings lists them; `current` always stands for one"))
}

/// List the keyrings
#[utoipa::path(get, path = "/v1/keyrings", tag = "keys", responses((status = 200, description = "All of them", body = KeyringsOut)))]
async fn list(State(service): State<Arc<Service>>, caller: Caller) -> Result<Json<KeyringsOut>, Problem> {
    let _permit = caller.permit::<op::List>(&service, &Place::Deployment).await?;
    let keyring = service.custody.keys.opening();
    let processes = service.custody.keys.processes().live().await?;
    let keys = keyring.entries().iter().map(|entry| KeyOut {
        kid: entry.kid().to_string(),
        state: entry.state().as_str(),
        suites: entry.suites().iter().map(|suite| suite.as_str()).collect(),
        created: entry.created().0,
        since: entry.since().0,
        origin: match entry.origin() {
            Origin::Document => "keyring".to_owned(),
            Origin::Environment(variable) => variable.clone(),
        },
    });
    let out = KeyringOut {
        id: keyring.id().to_owned(),
        deployment: keyring.deployment().to_owned(),
        generation: keyring.generation(),
        keys: keys.collect(),
        tombstones: keyring
            .tombstones()
            .iter()
            .map(|tombstone| TombstoneOut { kid: tombstone.kid.to_string(), destroyed: tombstone.destroyed.0 })
            .collect(),
        processes: processes
            .into_iter()
            .map(|report| ProcessOut {
                id: report.id.to_string(),
                command: report.command,
                host: report.place.host,
                opens: report.opens,
                seals: report.seals,
            })
            .collect(),
    };
    Ok(Json(KeyringsOut { keyrings: vec![out] }))
}

/// Make a key and stage it
#[utoipa::path(post, path = "/v1/keyrings/{keyring}/keys", tag = "keys", request_body = NewKeyBody,
    params(("keyring" = String, Path, description = "Its id, or `current`"), ("idempotency-key" = Option<String>, Header)),
    responses((status = 201, description = "Made", body = KeyStateOut)))]
#[expect(clippy::too_many_arguments, reason = "an extractor each, as axum takes them")]
async fn create(
    State(service): State<Arc<Service>>,
    caller: Caller,
    once: Once,
    Path(keyring): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let permit = caller.permit::<op::Manage>(&service, &Place::Deployment).await?;
    known(&service, &keyring)?;
    let given = body::read((&service.room, 16 << 10), &headers, body).await?;
    let new: NewKeyBody = body::parse(given.bytes())?;
    let suites =
        new.suites.map_or_else(|| vec![Format::Kf1, Format::V1], |words| words.into_iter().map(Format::from).collect());
    let write = async {
        let kid = service.custody.create_key(&permit, &suites).await?;
        Ok((StatusCode::CREATED, Json(state(&service, kid))).into_response())
    };
    once.run((&service, &caller), given.bytes(), write).await
}

fn state(service: &Service, kid: KeyId) -> KeyStateOut {
    let keyring = service.custody.keys.opening();
    KeyStateOut { kid: kid.to_string(), state: keyring.entry(kid).map_or("destroyed", |entry| entry.state().as_str()) }
}

/// Promote, retire, activate or destroy a key
///
/// Each waits up to twenty seconds for other processes to follow. A key is destroyed once it has been retired for a day.
#[utoipa::path(post, path = "/v1/keyrings/{keyring}/keys/{key}:{action}", tag = "keys",
    params(("keyring" = String, Path, description = "Its id, or `current`"), ("key" = String, Path),
        ("action" = String, Path, description = "promote, retire, activate or destroy"), ("idempotency-key" = Option<String>, Header)),
    responses((status = 200, description = "Done", body = KeyStateOut)))]
async fn act(
    State(service): State<Arc<Service>>,
    caller: Caller,
    once: Once,
    Path((keyring, key)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let permit = caller.permit::<op::Manage>(&service, &Place::Deployment).await?;
    known(&service, &keyring)?;
    let no_route =
        || Problem::not_found("there is no such route").hint("POST …/keys/KID:promote, :retire, :activate or :destroy");
    let (kid, action) = key.split_once(':').ok_or_else(no_route)?;
    let kid: KeyId = kid.parse().map_err(|_| Problem::bad_request("a key's id has 16 hex digits"))?;
    let custody = &service.custody;
    if !["promote", "retire", "activate", "destroy"].contains(&action) {
        return Err(no_route());
    }
    let write = async {
        match action {
            "promote" => custody.promote_key(&permit, kid, WAIT).await?,
            "retire" => drop(custody.retire_key(&permit, kid, WAIT).await?),
            "activate" => custody.activate_key(&permit, kid).await?,
            _ => custody.destroy_key(&permit, kid, MIN_AGE).await?,
        }
        Ok(Json(state(&service, kid)).into_response())
    };
    once.run((&service, &caller), b"", write).await
}

/// Count what is stored under each key
#[utoipa::path(get, path = "/v1/keyrings/{keyring}/census", tag = "keys", params(("keyring" = String, Path, description = "Its id, or `current`")),
    responses((status = 200, description = "Counted", body = CensusOut)))]
async fn census(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Path(keyring): Path<String>,
) -> Result<Json<CensusOut>, Problem> {
    let _permit = caller.permit::<op::List>(&service, &Place::Deployment).await?;
    known(&service, &keyring)?;
    let census = service.custody.census().await?;
    Ok(Json(CensusOut {
        records: census.records,
        unreadable: census.unreadable,
        values: census
            .values
            .into_iter()
            .map(|count| CountOut {
                collection: count.collection,
                format: count.format,
                kid: count.kid.to_string(),
                values: count.values,
            })
            .collect(),
    }))
}
