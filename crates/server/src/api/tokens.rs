//! `/v1/tokens`: made, listed, taken back. A token is shown once, when it is made.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use keyfold_core::audit::Actor;
use keyfold_custody::{
    access::{GrantSpec, Place, op},
    config::duration,
    tokens::{NewToken, Token},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::idempotency::{Once, shown_once};
use crate::{auth::Caller, body, problem::Problem, service::Service};

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(revoke))
}

/// What a token is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenBody {
    /// For whom: `operator:NAME`, `service:NAME` or `agent:NAME`.
    #[schema(pattern = "^(operator|service|agent):[a-z0-9.-]{1,64}$", example = "agent:triage")]
    actor: String,
    /// For how long, such as `90d`; without end where left out.
    #[schema(pattern = "^[1-9][0-9]{0,4}[smhd]$", example = "90d")]
    lifetime: Option<String>,
    /// Networks it is taken from, such as `10.0.0.0/8`.
    #[schema(example = json!(["10.0.0.0/8"]))]
    addresses: Option<Vec<String>>,
    /// What it is narrowed to: a grant without `to`.
    narrowed: Option<serde_json::Map<String, serde_json::Value>>,
    /// For people.
    note: Option<String>,
}

/// A token, without the token.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenOut {
    /// Names it.
    id: String,
    /// Whose it is.
    actor: String,
    /// Seconds since 1970.
    created: u64,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    /// Networks it is taken from; all where empty.
    addresses: Vec<String>,
    /// What it is narrowed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    narrowed: Option<serde_json::Value>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// All tokens.
#[derive(Serialize, ToSchema)]
pub(super) struct TokensOut {
    /// By id.
    tokens: Vec<TokenOut>,
}

/// A new token.
#[derive(Serialize, ToSchema)]
pub(super) struct NewTokenOut<'a> {
    /// The token. It is not shown again.
    token: &'a str,
    #[serde(flatten)]
    about: TokenOut,
}

fn out(token: &Token) -> TokenOut {
    TokenOut {
        id: token.id.clone(),
        actor: token.actor.to_string(),
        created: token.created.0,
        expires: token.expires.map(|time| time.0),
        addresses: token.addresses.iter().map(ToString::to_string).collect(),
        narrowed: token.narrowed.as_ref().map(|grant| serde_json::json!(grant.spec())),
        note: token.note.clone(),
    }
}

/// List the tokens
#[utoipa::path(get, path = "/v1/tokens", tag = "access", responses((status = 200, description = "All of them", body = TokensOut)))]
async fn list(State(service): State<Arc<Service>>, caller: Caller) -> Result<Json<TokensOut>, Problem> {
    let _permit = caller.permit::<op::Manage>(&service, &Place::Deployment).await?;
    Ok(Json(TokensOut { tokens: service.tokens.list().iter().map(|token| out(token)).collect() }))
}

/// Make a token
#[utoipa::path(post, path = "/v1/tokens", tag = "access", request_body = TokenBody, params(("idempotency-key" = Option<String>, Header)),
    responses((status = 201, description = "Made", body = NewTokenOut<'_>)))]
async fn create(
    State(service): State<Arc<Service>>,
    caller: Caller,
    once: Once,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let permit = caller.permit::<op::Manage>(&service, &Place::Deployment).await?;
    let given = body::read((&service.room, 64 << 10), &headers, body).await?;
    let bytes = given.bytes();
    let new = new_token(body::parse(bytes)?)?;
    let write = async {
        let (token, secret) = service.tokens.create(&permit, &service.custody.auditor, new).await?;
        let text = std::str::from_utf8(secret.expose()).map_err(|error| Problem::internal(&error))?;
        shown_once(StatusCode::CREATED, &NewTokenOut { token: text, about: out(&token) }, 1 << 10)
    };
    once.run((&service, &caller), bytes, write).await
}

fn new_token(body: TokenBody) -> Result<NewToken, Problem> {
    let wrong = |what: &str| Problem::bad_request(what);
    let lifetime =
        body.lifetime.map(|text| duration(&text).ok_or_else(|| wrong("`lifetime` is a time such as 90d or 12h")));
    let addresses = body.addresses.unwrap_or_default().into_iter().map(|text| {
        text.parse()
            .or_else(|_| text.parse::<std::net::IpAddr>().map(Into::into))
            .map_err(|_| wrong("`addresses` are networks such as 10.0.0.0/8"))
    });
    let narrowed = body.narrowed.map(|grant| {
        let table = toml::Table::try_from(grant).map_err(|_| wrong("`narrowed` is a grant, without null"))?;
        GrantSpec::parse_one(&table).map_err(|mistakes| {
            let all: Vec<_> = mistakes.iter().map(|mistake| format!("narrowed.{mistake}")).collect();
            wrong(&all.join("; "))
        })
    });
    if body.note.as_ref().is_some_and(|note| note.len() > 200 || note.chars().any(char::is_control)) {
        return Err(wrong("`note` has at most 200 bytes, and no control characters"));
    }
    Ok(NewToken {
        actor: Actor::new(body.actor).map_err(|_| wrong("`actor` is kind:name, for example agent:triage"))?,
        lifetime: lifetime.transpose()?,
        addresses: addresses.collect::<Result<_, _>>()?,
        narrowed: narrowed.transpose()?,
        note: body.note,
    })
}

/// Take a token back
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "access", params(("id" = String, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 204, description = "Taken back: here at once, on other nodes within five seconds")))]
async fn revoke(
    State(service): State<Arc<Service>>,
    caller: Caller,
    once: Once,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let permit = caller.permit::<op::Manage>(&service, &Place::Deployment).await?;
    let write = async {
        service.tokens.revoke(&permit, &service.custody.auditor, &id).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    once.run((&service, &caller), b"", write).await
}
