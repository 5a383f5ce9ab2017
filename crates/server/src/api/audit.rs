//! `/v1/audit`: the log, for who may read it. Reading it is an event too.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use futures::stream;
use keyfold_core::audit::{Action, Verdict};
use keyfold_custody::{
    access::{Permit, Place, op},
    audit_log::AuditError,
    error::CustodyError,
    retention::audit_key,
};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, sync::mpsc, task::spawn_blocking, time::timeout};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{auth::Caller, problem::Problem, service::Service};

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new().routes(routes!(tail)).routes(routes!(export)).routes(routes!(verify))
}

/// How long a reader of an export may take nothing of it.
const STALLED: Duration = Duration::from_secs(60);
/// How many exports are read at once: each has a thread.
pub(crate) const EXPORTS: usize = 16;

/// How much of it.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TailQuery {
    /// How many events, the last ones.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// Events, oldest first.
#[derive(Serialize, ToSchema)]
pub(super) struct EventsOut {
    /// As they are stored.
    events: Vec<serde_json::Value>,
}

/// What the log is held to be.
#[derive(Serialize, ToSchema)]
pub(super) struct ReportOut {
    /// The worst that was found, in a word; `ok` where nothing was.
    verdict: String,
    /// How many events.
    events: u64,
    /// How many process starts wrote them.
    chains: u64,
    /// How many checkpoints.
    notes: u64,
    /// How many events retention took out, signed for.
    pruned: u64,
    /// What was found, each in one line.
    findings: Vec<String>,
}

/// Reads on a thread of its own: a log in files blocks.
async fn aside<T: Send + 'static, F: Future<Output = Result<T, AuditError>>>(
    read: impl FnOnce() -> F + Send + 'static,
) -> Result<T, Problem> {
    let runtime = Handle::current();
    let done = spawn_blocking(move || runtime.block_on(read())).await;
    Ok(done.map_err(|error| Problem::internal(&error))?.map_err(CustodyError::from)?)
}

async fn read_event(service: &Service, caller: &Caller) -> Result<Permit<op::Audit>, Problem> {
    let permit = caller.permit::<op::Audit>(service, &Place::Deployment).await?;
    let auditor = &service.custody.auditor;
    let event = auditor.event(permit.actor(), Action::AuditRead)?;
    auditor.audited(event, async |_| Ok(())).await?;
    Ok(permit)
}

/// Read the last events
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(TailQuery), responses((status = 200, description = "The last ones", body = EventsOut)))]
async fn tail(
    State(service): State<Arc<Service>>,
    caller: Caller,
    query: Result<Query<TailQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<EventsOut>, Problem> {
    let _permit = read_event(&service, &caller).await?;
    let wrong = || Problem::bad_request("`limit` is a number from 1 to 1000");
    let limit = query.map_err(|_| wrong())?.0.limit.unwrap_or(100);
    if !(1..=1000).contains(&limit) {
        return Err(wrong());
    }
    let log = service.audit.clone();
    let entries = aside(async move || log.tail(limit).await).await?;
    let events = entries.iter().filter_map(|entry| serde_json::from_str(&entry.line).ok()).collect();
    Ok(Json(EventsOut { events }))
}

/// Read all events as JSON lines
#[utoipa::path(get, path = "/v1/audit/export", tag = "audit",
    responses((status = 200, description = "Chain by chain, each line as it is stored", content_type = "application/x-ndjson", body = String)))]
async fn export(State(service): State<Arc<Service>>, caller: Caller) -> Result<Response, Problem> {
    let _permit = read_event(&service, &caller).await?;
    let Ok(turn) = Arc::clone(&service.exports).try_acquire_owned() else {
        let what = "the audit log is being read by too many at once";
        return Err(Problem::busy(StatusCode::SERVICE_UNAVAILABLE, "busy", what, 10));
    };
    let log = service.audit.clone();
    // A reader that is slow holds up this thread and nobody else; one that goes away, or takes nothing for too long, ends it.
    let (lines, read) = mpsc::channel::<Result<Bytes, AuditError>>(16);
    tokio::spawn(aside(async move || {
        let _turn = turn;
        let send = async |bytes: Vec<u8>| {
            timeout(STALLED, lines.send(Ok(Bytes::from(bytes)))).await.is_ok_and(|sent| sent.is_ok())
        };
        let mut buffer = Vec::with_capacity(64 << 10);
        let read = log.export(async |entry| {
            buffer.extend_from_slice(entry.line.as_bytes());
            buffer.push(b'\n');
            if buffer.len() < 48 << 10 {
                return true;
            }
            send(std::mem::take(&mut buffer)).await
        });
        if let Err(error) = read.await {
            tracing::error!(%error, "the audit log could not be read to its end");
            // The body breaks off, so that nobody takes it for everything.
            let _ = timeout(STALLED, lines.send(Err(error))).await;
            return Ok(());
        }
        let _ = send(buffer).await;
        Ok(())
    }));
    let chunks = stream::unfold(read, async |mut read| Some((read.recv().await?, read)));
    let mut response = Response::new(Body::from_stream(chunks));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

/// Hold the log against its chains and checkpoints
#[utoipa::path(get, path = "/v1/audit/verify", tag = "audit", responses((status = 200, description = "The verdict", body = ReportOut)))]
async fn verify(State(service): State<Arc<Service>>, caller: Caller) -> Result<Json<ReportOut>, Problem> {
    let _permit = read_event(&service, &caller).await?;
    let (_, key) = audit_key(&service.custody.keys.opening())?;
    // What is not anchored yet is now, or every verdict on a live log would be about its tail.
    let generation = service.custody.keys.opening().generation();
    service.custody.auditor.sink().checkpoint(generation).await.map_err(CustodyError::from)?;
    let log = service.audit.clone();
    let report = aside(async move || log.verify(&key).await).await?;
    Ok(Json(ReportOut {
        verdict: report.verdict().as_str().to_owned(),
        events: report.events,
        chains: report.chains,
        notes: report.notes,
        pruned: report.pruned,
        findings: report.findings.iter().map(Verdict::to_string).collect(),
    }))
}
