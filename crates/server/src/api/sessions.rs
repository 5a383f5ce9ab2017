//! `/v1/sessions`: people who signed in, and the handles that stand in for their tokens. No answer but one holds a token.
//!
//! A backend makes sessions; an agent shows its handle in `Keyfold-Session`; a person's browser shows its cookie.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use keyfold_core::{audit::Actor, secret::Secret};
use keyfold_custody::{
    access::{Place, op},
    broker::Wanted,
    config::duration,
    sessions::{
        self, Head, Import, Imported, Kind, Made, Narrowing, NewSession, Presented, Session, SessionId, collection,
    },
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use zeroize::Zeroizing;

use super::text::Text;
use crate::{
    auth::{
        Caller,
        person::{COOKIE, Who},
    },
    body,
    problem::Problem,
    service::Service,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(current, end_current))
        .routes(routes!(make_handle))
        .routes(routes!(credential))
        .routes(routes!(revoke))
        .routes(routes!(make_handle_of))
        .routes(routes!(imports, import))
        .routes(routes!(vouch))
}

const MAX_BODY: usize = 128 << 10;

/// How far a handle reaches.
#[derive(Deserialize, ToSchema, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct HandleBody {
    /// The one actor that may use it, such as `agent:triage`; whoever holds it where left out.
    agent: Option<String>,
    /// The destinations it reaches, by name; all that are configured where left out.
    destinations: Option<Vec<String>>,
    /// The methods it allows; all where left out.
    methods: Option<Vec<String>>,
    /// How long it lasts, such as `30m`; as long as the session where left out.
    lifetime: Option<String>,
}

/// A sign-in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionBody<'a> {
    /// The access token.
    #[serde(borrow)]
    #[schema(value_type = String)]
    access_token: Text<'a>,
    /// The ID token of the same sign-in.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    id_token: Option<Text<'a>>,
    /// The refresh token, where the deployment takes one.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    refresh_token: Option<Text<'a>>,
    /// What the ID token must repeat.
    nonce: Option<String>,
    /// The issuer by name; not needed with an ID token, or where there is only one.
    issuer: Option<String>,
    /// The project that the session is about.
    project: Option<String>,
    /// What else the caller keeps with it. Not for secrets.
    #[schema(value_type = Option<Object>)]
    state: Option<serde_json::Map<String, serde_json::Value>>,
    /// Whether a cookie for the person's browser is made.
    #[serde(default)]
    cookie: bool,
    /// The handle that is made.
    handle: Option<HandleBody>,
}

/// A session, without its token.
#[derive(Serialize, ToSchema)]
pub(super) struct SessionOut {
    /// Names it. It proves nothing.
    id: String,
    /// Names the person in lists and events.
    person: String,
    /// Their address, where the issuer has verified it.
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    /// The issuer, by name.
    issuer: String,
    /// Seconds since 1970.
    created: u64,
    /// Its last moment, in seconds since 1970.
    expires: u64,
    /// The project that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<String>,
    /// Whether its token is refreshed.
    refreshes: bool,
    /// Who vouched for it, where it was imported.
    #[serde(skip_serializing_if = "Option::is_none")]
    vouched: Option<String>,
}

fn out(session: &Session) -> SessionOut {
    SessionOut {
        id: session.id.to_string(),
        person: session.person.id().to_string(),
        email: session.person.email.clone(),
        issuer: session.issuer.clone(),
        created: session.created.0,
        expires: session.until.0,
        project: session.project.clone(),
        refreshes: session.refreshes,
        vouched: session.vouched.clone(),
    }
}

/// How far a handle reaches.
#[derive(Serialize, ToSchema)]
pub(super) struct ReachOut {
    /// Its last moment, in seconds since 1970.
    expires: u64,
    /// The one actor that may use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    /// The destinations it reaches.
    #[serde(skip_serializing_if = "Option::is_none")]
    destinations: Option<Vec<String>>,
    /// The methods it allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    methods: Option<Vec<String>>,
}

fn reach(head: &Head) -> ReachOut {
    ReachOut {
        expires: head.until.0,
        agent: head.agent.as_ref().map(ToString::to_string),
        destinations: head.destinations.clone(),
        methods: head.methods.clone(),
    }
}

/// A handle. It is not shown again.
#[derive(Serialize, ToSchema)]
pub(super) struct HandleOut<'a> {
    /// The handle.
    handle: &'a str,
    #[serde(flatten)]
    reach: ReachOut,
}

/// A session that was made.
#[derive(Serialize, ToSchema)]
pub(super) struct MadeOut<'a> {
    #[serde(flatten)]
    session: SessionOut,
    /// The handle. It is not shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    handle: Option<&'a str>,
    /// How far it reaches.
    #[serde(skip_serializing_if = "Option::is_none")]
    reach: Option<ReachOut>,
}

/// The session that a call is about.
#[derive(Serialize, ToSchema)]
pub(super) struct CurrentOut {
    #[serde(flatten)]
    session: SessionOut,
    /// How far the handle reaches that was shown.
    reach: ReachOut,
    /// What the caller keeps with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    state: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Sessions.
#[derive(Serialize, ToSchema)]
pub(super) struct SessionsOut {
    /// By id.
    sessions: Vec<SessionOut>,
    /// Where to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// What to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Go on after this id.
    after: Option<String>,
    /// At most so many, 1 to 1,000.
    limit: Option<usize>,
}

/// An answer with a secret in it, wiped once it is sent.
fn once(status: StatusCode, value: &impl Serialize) -> Result<Response, Problem> {
    super::idempotency::shown_once(status, value, 4 << 10)
}

fn shown(secret: &Secret) -> Result<&str, Problem> {
    std::str::from_utf8(secret.expose()).map_err(|error| Problem::internal(&error))
}

/// The cookie as it is set; with no value, as it is taken away.
pub(super) fn set_cookie(name: &str, value: &str, seconds: u64) -> Result<HeaderValue, Problem> {
    let text = Zeroizing::new(format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; Secure; SameSite=Lax"));
    let mut value = HeaderValue::from_str(&text).map_err(|error| Problem::internal(&error))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The body of a request for a handle.
async fn asked(service: &Service, headers: &HeaderMap, body: Body) -> Result<Narrowing, Problem> {
    let given = body::read((&service.room, MAX_BODY), headers, body).await?;
    narrowing(service, body::parse(given.bytes())?)
}

fn narrowing(service: &Service, body: HandleBody) -> Result<Narrowing, Problem> {
    let wrong = |what: &str| Problem::bad_request(what);
    let agent =
        body.agent.map(|agent| Actor::new(agent).map_err(|_| wrong("`agent` is kind:name, for example agent:triage")));
    let lifetime =
        body.lifetime.map(|text| duration(&text).ok_or_else(|| wrong("`lifetime` is a time such as 30m or 2h")));
    let routes = &service.custody.config.routes;
    if let Some(name) = body.destinations.iter().flatten().find(|name| routes.named(name).is_none()) {
        let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        return Err(
            wrong(&format!("there is no destination `{name}`")).hint("`[destinations]` in keyfold.toml lists them")
        );
    }
    let method = |method: &String| (1..=20).contains(&method.len()) && method.bytes().all(|b| b.is_ascii_uppercase());
    if !body.methods.iter().flatten().all(method) {
        return Err(wrong("`methods` are HTTP methods in capitals, for example GET"));
    }
    Ok(Narrowing {
        agent: agent.transpose()?,
        destinations: body.destinations,
        methods: body.methods,
        lifetime: lifetime.transpose()?,
    })
}

fn id(text: &str) -> Result<SessionId, Problem> {
    text.parse().map_err(|_| Problem::not_found("there is no such session").hint("see `keyfold session list`"))
}

/// Make a session out of a sign-in
#[utoipa::path(post, path = "/v1/sessions", tag = "sessions", request_body = SessionBody<'_>,
    responses((status = 201, description = "The issuer has verified the tokens, and they are sealed", body = MadeOut<'_>)))]
async fn create(
    State(service): State<Arc<Service>>,
    who: Who,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let permit = who.caller.permit::<op::Seal>(&service, &Place::Collection(&collection())).await?;
    let given = body::read((&service.room, MAX_BODY), &headers, body).await?;
    let body: SessionBody<'_> = body::parse(given.bytes())?;
    let secret = |text: &Text<'_>| Secret::from(text.as_str().as_bytes());
    let new = NewSession {
        presented: Presented {
            issuer: body.issuer,
            access_token: secret(&body.access_token),
            id_token: body.id_token.as_ref().map(secret),
            nonce: body.nonce,
        },
        refresh_token: body.refresh_token.as_ref().map(secret),
        project: body.project,
        state: body.state,
        // Without either, nobody could ever use it.
        handle: match (body.handle, body.cookie) {
            (None, true) => None,
            (handle, _) => Some(narrowing(&service, handle.unwrap_or_default())?),
        },
        cookie: body.cookie,
    };
    made(&who.people.sessions().create(&permit, new).await?)
}

fn made(made: &Made) -> Result<Response, Problem> {
    let out = MadeOut {
        session: out(&made.session),
        handle: made.handle.as_ref().map(|(handle, _)| shown(handle)).transpose()?,
        reach: made.handle.as_ref().map(|(_, head)| reach(head)),
    };
    let mut response = once(StatusCode::CREATED, &out)?;
    if let Some(cookie) = &made.cookie {
        let left = made.session.until.0.saturating_sub(made.session.created.0);
        response.headers_mut().insert(header::SET_COOKIE, set_cookie(COOKIE, shown(cookie)?, left)?);
    }
    Ok(response)
}

/// List sessions: a person's own, or everybody's for who manages the deployment
#[utoipa::path(get, path = "/v1/sessions", tag = "sessions", params(ListQuery), responses((status = 200, description = "Without their tokens", body = SessionsOut)))]
async fn list(
    State(service): State<Arc<Service>>,
    who: Who,
    Query(query): Query<ListQuery>,
) -> Result<Json<SessionsOut>, Problem> {
    let person = match &who.person {
        Some(standing) => Some(&standing.session.person),
        None => {
            let _permit = who.caller.permit::<op::Manage>(&service, &Place::Deployment).await?;
            None
        }
    };
    let limit = query.limit.unwrap_or(100);
    if !(1..=1000).contains(&limit) {
        return Err(Problem::bad_request("`limit` is 1 to 1,000"));
    }
    let after = query.after.as_deref().map(id).transpose()?;
    let (sessions, next) = who.people.sessions().list(person, after, limit).await?;
    Ok(Json(SessionsOut { sessions: sessions.iter().map(out).collect(), next: next.map(|id| id.to_string()) }))
}

/// Show the session that the cookie or the handle is of
#[utoipa::path(get, path = "/v1/sessions/current", tag = "sessions", params(("keyfold-session" = Option<String>, Header)),
    responses((status = 200, description = "Without its token", body = CurrentOut)))]
async fn current(who: Who) -> Result<Json<CurrentOut>, Problem> {
    let standing = who.standing().await?;
    let state = who.people.sessions().state(&standing).await?;
    Ok(Json(CurrentOut { session: out(&standing.session), reach: reach(&standing.head), state }))
}

/// End the session that the cookie is of, or the handle that was shown
#[utoipa::path(delete, path = "/v1/sessions/current", tag = "sessions", params(("keyfold-session" = Option<String>, Header)),
    responses((status = 204, description = "Ended: here at once, on other nodes within five seconds")))]
async fn end_current(who: Who) -> Result<Response, Problem> {
    let standing = who.standing().await?;
    let sessions = who.people.sessions();
    let mut response = StatusCode::NO_CONTENT.into_response();
    if standing.head.kind == Kind::Cookie {
        sessions.revoke(&who.caller.actor, standing.session.id, Some(&standing.session.person)).await?;
        response.headers_mut().insert(header::SET_COOKIE, set_cookie(COOKIE, "", 0)?);
    } else {
        sessions.drop_handle(&who.caller.actor, &standing).await?;
    }
    Ok(response)
}

/// End a session: one's own, or any for who manages the deployment
#[utoipa::path(delete, path = "/v1/sessions/{id}", tag = "sessions", params(("id" = String, Path)),
    responses((status = 204, description = "Ended: here at once, on other nodes within five seconds")))]
async fn revoke(
    State(service): State<Arc<Service>>,
    who: Who,
    Path(text): Path<String>,
) -> Result<StatusCode, Problem> {
    let own = match &who.person {
        Some(standing) => Some(&standing.session.person),
        None => {
            let _permit = who.caller.permit::<op::Manage>(&service, &Place::Deployment).await?;
            None
        }
    };
    who.people.sessions().revoke(&who.caller.actor, id(&text)?, own).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Make a handle that reaches no further than the cookie or the handle that was shown
#[utoipa::path(post, path = "/v1/sessions/current/handles", tag = "sessions", request_body = HandleBody,
    params(("keyfold-session" = Option<String>, Header)),
    responses((status = 201, description = "Made", body = HandleOut<'_>)))]
async fn make_handle(
    State(service): State<Arc<Service>>,
    who: Who,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let standing = who.standing().await?;
    let narrowing = asked(&service, &headers, body).await?;
    let (handle, head) = who.people.sessions().narrow(&who.caller.actor, &standing, &narrowing).await?;
    once(StatusCode::CREATED, &HandleOut { handle: shown(&handle)?, reach: reach(&head) })
}

/// Make a handle of another session of the same person: one that was imported, or any where `sessions.auto_sre` is on
#[utoipa::path(post, path = "/v1/sessions/{id}/handles", tag = "sessions", request_body = HandleBody,
    params(("id" = String, Path)), responses((status = 201, description = "Made", body = HandleOut<'_>)))]
async fn make_handle_of(
    State(service): State<Arc<Service>>,
    who: Who,
    Path(text): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let Some(standing) = &who.person else {
        return Err(Problem::no_proof(
            "unauthenticated",
            "only the person's own cookie makes handles of their other sessions",
        )
        .hint("sign in at /auth/login, or make handles from the session's own handle"));
    };
    let narrowing = asked(&service, &headers, body).await?;
    let (person, id) = (&standing.session.person, id(&text)?);
    let (handle, head) = who.people.sessions().handle_of(&who.caller.actor, person, id, &narrowing).await?;
    once(StatusCode::CREATED, &HandleOut { handle: shown(&handle)?, reach: reach(&head) })
}

/// What a credential is wanted for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CredentialBody {
    /// The destination, by name.
    destination: String,
    /// The method; `GET` where left out.
    method: Option<String>,
}

/// A credential, for who may see it.
#[derive(Serialize, ToSchema)]
pub(super) struct CredentialOut<'a> {
    /// The token.
    access_token: &'a str,
    /// `Bearer`
    token_type: &'static str,
    /// Its last moment, in seconds since 1970.
    expires: u64,
    /// Whose it is: `user`, or `service_account` where a fallback was taken.
    source: &'static str,
}

/// Give the token itself, to who may `open`; agents use the proxy
#[utoipa::path(post, path = "/v1/sessions/current:credential", tag = "sessions", request_body = CredentialBody,
    params(("keyfold-session" = Option<String>, Header)), responses((status = 200, description = "The token", body = CredentialOut<'_>)))]
async fn credential(
    State(service): State<Arc<Service>>,
    who: Who,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let place = collection();
    let place = Place::Collection(&place);
    let _see = who.caller.permit::<op::Open>(&service, &place).await?;
    who.caller.may_somewhere::<op::Use>(&service).await?;
    let given = body::read((&service.room, MAX_BODY), &headers, body).await?;
    let body: CredentialBody = body::parse(given.bytes())?;
    let broker = &who.people.broker;
    let destination = broker.routes().named(&body.destination).ok_or_else(|| {
        Problem::not_found("there is no such destination").hint("`[destinations]` in keyfold.toml lists them")
    })?;
    if destination.secret.is_some() {
        return Err(Problem::bad_request("this destination takes a secret of the deployment, which is nobody's token")
            .hint("call it through the proxy; who may read the record can open its field"));
    }
    // Who sees the token can make any call with it.
    let permit = who.caller.permit::<op::Use>(&service, &Place::Destination(&destination.name, None)).await?;
    let wanted = Wanted { destination, method: body.method.as_deref().unwrap_or("GET"), path: None };
    let credential = broker.credential_for(&permit, who.handle(), &wanted).await?;
    let token = std::str::from_utf8(credential.expose()).map_err(|error| Problem::internal(&error))?;
    let source = if credential.session().is_some() { "user" } else { "service_account" };
    let out = CredentialOut { access_token: token, token_type: "Bearer", expires: credential.expires().0, source };
    let response = once(StatusCode::OK, &out)?;
    broker.outcome(&credential, &Ok(())).await?;
    Ok(response)
}

/// A session of another program.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportBody<'a> {
    /// The issuer that its users sign in at, by name.
    issuer: String,
    /// Whose it says it is.
    email: String,
    /// Where it was found.
    source: String,
    /// The token.
    #[serde(borrow)]
    #[schema(value_type = String)]
    access_token: Text<'a>,
}

/// An import that waits: for its person to sign in, or for an operator to vouch.
#[derive(Serialize, ToSchema)]
pub(super) struct ImportOut {
    /// Names it.
    id: String,
    /// The issuer, by name.
    issuer: String,
    /// Whose it says it is.
    email: String,
    /// Where it was found.
    source: String,
    /// Seconds since 1970.
    imported: u64,
    /// Until when it waits.
    expires: u64,
}

/// All imports that wait.
#[derive(Serialize, ToSchema)]
pub(super) struct ImportsOut {
    imports: Vec<ImportOut>,
}

fn import_out(import: &Import) -> ImportOut {
    ImportOut {
        id: import.id.to_string(),
        issuer: import.issuer.clone(),
        email: import.email.clone(),
        source: import.source.clone(),
        imported: import.imported.0,
        expires: import.until.0,
    }
}

/// List the imports that wait
#[utoipa::path(get, path = "/v1/sessions/imports", tag = "sessions", responses((status = 200, description = "All of them", body = ImportsOut)))]
async fn imports(State(service): State<Arc<Service>>, who: Who) -> Result<Json<ImportsOut>, Problem> {
    let _permit = who.caller.permit::<op::Manage>(&service, &Place::Deployment).await?;
    let imports = who.people.sessions().imports().await?;
    Ok(Json(ImportsOut { imports: imports.iter().map(import_out).collect() }))
}

/// Take over a session of another program; it is not used before its person signs in or an operator vouches
#[utoipa::path(post, path = "/v1/sessions/imports", tag = "sessions", request_body = ImportBody<'_>,
    responses((status = 201, description = "It waits", body = ImportOut)))]
async fn import(
    State(service): State<Arc<Service>>,
    who: Who,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let _manage = manages(&service, &who.caller).await?;
    let permit = who.caller.permit::<op::Seal>(&service, &Place::Collection(&collection())).await?;
    let given = body::read((&service.room, MAX_BODY), &headers, body).await?;
    let body: ImportBody<'_> = body::parse(given.bytes())?;
    let imported = Imported {
        issuer: body.issuer,
        email: body.email,
        source: body.source,
        token: Secret::from(body.access_token.as_str().as_bytes()),
    };
    let import = who.people.sessions().import(&permit, imported).await?;
    Ok((StatusCode::CREATED, Json(import_out(&import))).into_response())
}

/// Vouch for an import: its issuer still knows the token, and it becomes a session
#[utoipa::path(post, path = "/v1/sessions/imports/{id}/vouch", tag = "sessions", request_body = HandleBody,
    params(("id" = String, Path)), responses((status = 201, description = "It is a session now", body = MadeOut<'_>)))]
async fn vouch(
    State(service): State<Arc<Service>>,
    who: Who,
    Path(text): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let permit = manages(&service, &who.caller).await?;
    let narrowing = asked(&service, &headers, body).await?;
    made(&who.people.sessions().vouch(&permit, id(&text)?, Some(&narrowing)).await?)
}

async fn manages(service: &Service, caller: &Caller) -> Result<keyfold_custody::access::Permit<op::Manage>, Problem> {
    caller.permit::<op::Manage>(service, &Place::Deployment).await
}

impl From<sessions::Refused> for Problem {
    fn from(refused: sessions::Refused) -> Self {
        use keyfold_core::error::Hint;
        let hint = refused.hint();
        let problem = match refused {
            sessions::Refused::Failed(error) => return error.into(),
            sessions::Refused::For(reason @ sessions::Reason::Stale) => {
                Self::busy(StatusCode::SERVICE_UNAVAILABLE, reason.code(), reason.to_string(), 1)
            }
            sessions::Refused::For(reason) if reason.is_about_what() => {
                Self::new(StatusCode::FORBIDDEN, reason.code(), reason.to_string())
            }
            sessions::Refused::For(reason) => Self::no_proof(reason.code(), reason.to_string()),
            sessions::Refused::Issuer(error @ sessions::IssuerError::Refused { .. }) => {
                Self::no_proof("token_refused", error.to_string())
            }
            sessions::Refused::Issuer(error) => {
                Self::busy(StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable", error.to_string(), 5)
            }
        };
        match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}
