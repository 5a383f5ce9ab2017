//! A call that may change something is done to its end, also where its caller hangs up in the middle: whether an outcome is written
//! after an intent must not be for the caller to decide.

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{problem::Problem, service::Service};

/// These change nothing, and there are many of them.
const READS: [&str; 4] = ["/v1/seal", "/v1/open", "/v1/rewrap", "/v1/inspect"];

pub(crate) async fn layer(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    if request.method().is_safe() || route.is_some_and(|route| READS.contains(&route)) {
        return next.run(request).await;
    }
    let begun = Arc::clone(&service.begun).read_owned().await;
    let run = tokio::spawn(async move {
        let _begun = begun;
        next.run(request).await
    });
    match run.await {
        Ok(response) => response,
        Err(error) => match error.try_into_panic() {
            // For the outermost layer, as if it had not been in a task of its own.
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Problem::internal(&error).into_response(),
        },
    }
}
