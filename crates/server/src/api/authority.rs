//! `/v1/authority`: whom to trust behind CONNECT.

use std::sync::Arc;

use axum::{extract::State, http::header, response::IntoResponse};

use crate::{auth::Caller, problem::Problem, proxy::authority_pem, service::Service};

/// Give the certificate of the deployment's own authority, which the proxy answers CONNECT under; for whoever is known
#[utoipa::path(get, path = "/v1/authority", tag = "access",
    responses((status = 200, description = "In PEM", body = String, content_type = "application/x-pem-file")))]
pub(super) async fn authority(_: Caller, State(service): State<Arc<Service>>) -> Result<impl IntoResponse, Problem> {
    let pem = authority_pem(&service.custody).await?;
    Ok(([(header::CONTENT_TYPE, "application/x-pem-file")], pem))
}
