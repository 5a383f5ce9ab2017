//! `/healthz`, `/readyz`, `/metrics`, `/openapi.json`: for machines that watch. They tell no names and take no token.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::{sync::Mutex, time::timeout};
use utoipa::ToSchema;

use crate::{
    metrics::{Credential, Key},
    service::Service,
};

/// How long readiness waits for an answer of what it asks.
const TIME: Duration = Duration::from_secs(2);

/// The process runs.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`
    status: &'static str,
    /// The version that runs.
    version: &'static str,
}

/// Whether calls would be served, and what keeps them from it.
#[derive(Serialize, ToSchema)]
pub(super) struct Ready {
    /// Whether they would.
    ready: bool,
    /// What is wrong; empty where nothing is.
    reasons: Vec<&'static str>,
}

/// Say that the process runs
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses((status = 200, description = "It runs", body = Health)))]
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// Say whether calls would be served
#[utoipa::path(get, path = "/readyz", tag = "health", security(()), responses(
    (status = 200, description = "They would", body = Ready),
    (status = 503, description = "They would not, and why", body = Ready)))]
pub(super) async fn readyz(State(service): State<Arc<Service>>) -> Response {
    let mut reasons = service.readiness.get(&service).await;
    if service.is_draining() {
        reasons.push("the service is shutting down");
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready: reasons.is_empty(), reasons })).into_response()
}

/// What was found when it was last looked for, at most once in a second however many ask.
#[derive(Default)]
pub(crate) struct Readiness(Mutex<Option<(Instant, Vec<&'static str>)>>);

impl Readiness {
    async fn get(&self, service: &Service) -> Vec<&'static str> {
        let mut last = self.0.lock().await;
        if let Some((_, reasons)) = last.as_ref().filter(|(at, _)| at.elapsed() < Duration::from_secs(1)) {
            return reasons.clone();
        }
        let reasons = look(service).await;
        *last = Some((Instant::now(), reasons.clone()));
        reasons
    }
}

async fn look(service: &Service) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    match timeout(TIME, service.custody.keys.look()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "not ready");
            reasons.push("the keyring cannot be refreshed");
        }
        Err(_) => reasons.push("the store does not answer"),
    }
    if service.grants().is_err() || service.tokens.is_stale() {
        reasons.push("tokens and grants cannot be followed");
    }
    // No event, and yet through everything that one would pass.
    match timeout(TIME, service.custody.auditor.sink().append(&[])).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "not ready");
            reasons.push("the audit log cannot be written");
        }
        Err(_) => reasons.push("the audit log does not answer"),
    }
    reasons
}

/// Numbers, for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "health", security(()),
    responses((status = 200, description = "Text", content_type = "application/openmetrics-text", body = String)))]
pub(super) async fn metrics(State(service): State<Arc<Service>>) -> Response {
    let keyring = service.custody.keys.opening();
    let now = service.custody.auditor.clock().now();
    service.metrics.keys.clear();
    for entry in keyring.entries() {
        let age = now.0.saturating_sub(entry.created().0);
        let key = Key { kid: entry.kid().to_string(), state: entry.state().as_str() };
        service.metrics.keys.get_or_create(&key).set(i64::try_from(age).unwrap_or(i64::MAX));
    }
    let signed = service.signed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).elapsed();
    service.metrics.audit_unsigned.set(signed.as_secs_f64());
    service.metrics.generation.set(i64::try_from(keyring.generation()).unwrap_or(i64::MAX));
    if let Some(people) = service.people() {
        use std::sync::atomic::Ordering::Relaxed;
        let counts = people.broker.counts();
        let by = [("user", &counts.used), ("service_account", &counts.fallback), ("refused", &counts.refused)];
        for (source, count) in by {
            let counter = service.metrics.credentials.get_or_create(&Credential { source }).clone();
            counter.inner().store(count.load(Relaxed), Relaxed);
        }
        service.metrics.refreshed.inner().store(counts.refreshed.load(Relaxed), Relaxed);
    }
    service.metrics.root_key.set(service.custody.keys.root_trouble().is_none().into());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], service.metrics.text()).into_response()
}
