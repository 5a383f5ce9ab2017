//! The outermost layer: an id for every request, its problem written out, its number counted, its line in the log.
//!
//! The line holds method, route template, status, time, id and actor; no path, no query, no header, no body.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt as _;
use keyfold_core::{
    id::to_hex,
    rng::{self, SystemRandom},
};

use crate::{auth::Acted, problem::Problem, service::Service};

/// The header that carries the id out.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub(crate) async fn layer(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    // Ours, whatever the caller sent: it must not be able to choose what a line of the log says.
    let id = rng::array::<8>(&SystemRandom).map_or_else(|_| String::new(), |bytes| to_hex(&bytes));
    let method = word(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let template = route.as_ref().map_or("-", MatchedPath::as_str);
    let span = service.traces.begin(method, template, request.headers());
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|_| {
        // What it panicked with is in no response, and in the log only where the hook that the binary sets puts it.
        Problem::internal(&format!("request {id} panicked")).into_response()
    });
    let code = response.extensions().get::<Problem>().map(Problem::code);
    let actor = response.extensions_mut().remove::<Acted>();
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = problem.response(Some(&id));
    }
    let headers = response.headers_mut();
    // Nothing that is answered belongs into a cache, or is what it does not say it is.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    let (status, took) = (response.status().as_u16(), began.elapsed());
    let route = template;
    span.end(status, &id, code);
    service.metrics.request(route, method, status, took);
    tracing::info!(
        target: "keyfold_server::requests",
        request = id,
        method,
        route,
        status,
        code,
        actor = actor.as_ref().map(|acted| acted.0.as_str()),
        micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    );
    response
}

/// A caller can make methods up; a label cannot.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}
