//! `/v1/grants`: who may do what. The grants of `keyfold.toml`, and beside them one set that is changed here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use keyfold_core::audit::Action;
use keyfold_custody::{
    access::{Grants, Place, op},
    config::Mistake,
    error::CustodyError,
    store::{ChangeMark, Expect, Put},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::idempotency::Once;
use crate::{auth::Caller, body, problem::Problem, service::Service};

const KEY: &str = "grants/current";

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new().routes(routes!(get, put))
}

/// One grant, as it is written.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantBody {
    /// Actors, such as `agent:triage` or `agent:*`.
    to: Vec<String>,
    /// `seal`, `open`, `use`, `list`, `rotate`, `manage`, `audit`.
    may: Vec<String>,
    /// Collections by name, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    collections: Vec<String>,
    /// Records, `*` standing for anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    records: Vec<String>,
    /// Fields as pointers, `*` standing for anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fields: Vec<String>,
    /// Values in no record: true, or the context entries they must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    values: Option<serde_json::Value>,
    /// Destinations by name, or `*`: where `use` lets credentials go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    destinations: Vec<String>,
    /// The methods of calls to them, in capitals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    /// The paths of calls to them, `*` standing for anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    paths: Vec<String>,
    /// The last day, such as 2027-01-31.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

/// The grants that are changed here.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantsBody {
    /// In no particular order: none can take away what another gives.
    grants: Vec<GrantBody>,
}

/// A grant in force, and where it comes from.
#[derive(Serialize, ToSchema)]
pub(super) struct InForce {
    /// What explanations call it.
    name: String,
    /// As it was written.
    grant: serde_json::Value,
}

/// All grants in force.
#[derive(Serialize, ToSchema)]
pub(super) struct GrantsOut {
    /// The defaults first, then those of the configuration, then those that were put here.
    grants: Vec<InForce>,
}

/// List the grants in force
#[utoipa::path(get, path = "/v1/grants", tag = "access", responses((status = 200, description = "All of them", body = GrantsOut,
    headers(("etag" = String, description = "The version of the set that is changed here")))))]
async fn get(State(service): State<Arc<Service>>, caller: Caller) -> Result<Response, Problem> {
    let _permit = caller.permit::<op::Manage>(&service, &Place::Deployment).await?;
    let version = service.custody.system.get(KEY).await?.map_or(0, |doc| doc.version);
    let grants = service.grants()?;
    let out = GrantsOut {
        grants: grants
            .iter()
            .map(|grant| InForce { name: grant.name().to_owned(), grant: serde_json::json!(grant.spec()) })
            .collect(),
    };
    Ok(([(header::ETAG, etag(version))], Json(out)).into_response())
}

fn etag(version: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{version}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"0\""))
}

/// Replace the set of grants that is kept in the store
#[utoipa::path(put, path = "/v1/grants", tag = "access", request_body = GrantsBody,
    params(("if-match" = Option<String>, Header), ("idempotency-key" = Option<String>, Header)),
    responses((status = 204, description = "Replaced; in force here at once, on other nodes within two seconds")))]
async fn put(
    State(service): State<Arc<Service>>,
    caller: Caller,
    once: Once,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let permit = caller.permit::<op::Manage>(&service, &Place::Deployment).await?;
    let expect = match headers.get(header::IF_MATCH) {
        None => Expect::Any,
        Some(value) => {
            let version = value.to_str().ok().and_then(|text| text.strip_prefix('"')?.strip_suffix('"')?.parse().ok());
            match version.ok_or_else(|| Problem::bad_request("`if-match` is one ETag, as the grants' was"))? {
                0 => Expect::Absent,
                version => Expect::Version(version),
            }
        }
    };
    let given = body::read((&service.room, 1 << 20), &headers, body).await?;
    let bytes = given.bytes();
    let given: GrantsBody = body::parse(bytes)?;
    let json = serde_json::to_vec(&given).map_err(|error| Problem::internal(&error))?;
    let strangers = |grants: Grants| {
        let routes = &service.custody.config.routes;
        let strangers = grants.strangers(&|name| routes.named(name).is_some());
        strangers.is_empty().then_some(()).ok_or_else(|| listed(&strangers))
    };
    read(&service, &json).and_then(strangers).map_err(|mistakes| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", mistakes)
            .hint("nothing was changed; mend every one and put them again")
    })?;
    let doc = service.voucher.vouch(KEY, &json);
    let auditor = &service.custody.auditor;
    let mut event = auditor.event(permit.actor(), Action::GrantsChanged)?;
    event.count = u64::try_from(given.grants.len()).ok();
    let write = async {
        let put = auditor
            .audited_write(event, async |_| match service.custody.system.put(KEY, &doc, expect, None).await? {
                Put::Stored { .. } => Ok(()),
                Put::Conflict => Err(CustodyError::Conflict { what: "the grants were changed meanwhile".into() }),
            })
            .await;
        put.map_err(|error| match error {
            CustodyError::Conflict { what } => {
                Problem::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", what)
                    .hint("read them again and decide anew")
            }
            error => error.into(),
        })?;
        load(&service).await.map_err(CustodyError::afterwards)?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    once.run((&service, &caller), bytes, write).await
}

fn read(service: &Service, json: &[u8]) -> Result<Grants, String> {
    let mut table: toml::Table = serde_json::from_slice::<serde_json::Value>(json)
        .ok()
        .and_then(|value| toml::Table::try_from(value).ok())
        .ok_or("the grants do not read")?;
    // The defaults are the configuration's.
    table.insert("default_grants".into(), toml::Value::Array(Vec::new()));
    let id_of = |name: &str| service.custody.config.collection_id(name);
    Grants::parse(&table, &id_of).map_err(|mistakes| listed(&mistakes))
}

fn listed(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Takes over the grants in the store. What was not put there by us is not taken over, and what was there before ends.
pub(crate) async fn load(service: &Service) -> Result<(), CustodyError> {
    let began = Instant::now();
    let doc = service.custody.system.get(KEY).await?;
    let stored = doc.and_then(|doc| {
        let Some(json) = service.voucher.check(KEY, &doc.value) else {
            tracing::error!("grants that were not made here are not taken");
            return None;
        };
        read(service, json).map_err(|mistakes| tracing::error!(mistakes, "the stored grants are not taken")).ok()
    });
    service.set_grants(stored.as_ref(), began);
    Ok(())
}

/// Follows the grants in the store until the task is dropped. Where they cannot be followed for too long, or nobody follows them any
/// more, nobody is let in.
pub(crate) async fn follow(service: Arc<Service>) {
    let mut mark = ChangeMark::start();
    loop {
        let began = Instant::now();
        let followed = async {
            let next = service.custody.system.changed("grants/", &mark, Duration::from_secs(1)).await?;
            if next == mark {
                service.same_grants(began);
            } else {
                load(&service).await?;
                mark = next;
            }
            Ok::<_, CustodyError>(())
        };
        if let Err(error) = followed.await {
            tracing::warn!(%error, "the grants could not be followed");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}
