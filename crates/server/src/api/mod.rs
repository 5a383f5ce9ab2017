//! The routes. Everything under `/v1` is behind [`crate::auth`]; what is beside it tells no names.
//!
//! The OpenAPI document is made from the same declarations as the routes, so that one cannot be without the other.

pub(crate) mod audit;
mod authority;
pub(crate) mod grants;
pub(crate) mod health;
pub(crate) mod idempotency;
pub(crate) mod jobs;
mod keyrings;
mod login;
mod records;
mod sessions;
mod text;
mod tokens;
mod values;

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    http::{StatusCode, header},
    middleware::from_fn_with_state,
    routing::get,
};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        ContentBuilder, Ref, ResponseBuilder,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    auth,
    problem::{MEDIA_TYPE, Problem, ProblemBody},
    request,
    service::Service,
    whole,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Keyfold", description = "Keeps the credentials that SRE agents work with: sealed at rest, rotated without loss."),
    components(schemas(ProblemBody)),
    security(("token" = [])),
    modifiers(&Common),
    tags(
        (name = "values", description = "Values that somebody else keeps"),
        (name = "records", description = "Records, their secrets sealed"),
        (name = "keys", description = "The keyring"),
        (name = "jobs", description = "Migrations, rotations, verifications"),
        (name = "access", description = "Tokens and grants"),
        (name = "sessions", description = "People who signed in, and the handles that stand in for their tokens"),
        (name = "audit", description = "Who did what"),
        (name = "health", description = "For machines that watch"),
    )
)]
struct Document;

/// What holds for every route: the token, and the problems that any of them can answer with.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        if let Some(components) = document.components.as_mut() {
            let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
            components.add_security_scheme("token", SecurityScheme::Http(scheme));
        }
    }
}

/// Every status that a route under `/v1` can answer with besides its own.
const PROBLEMS: [(&str, &str); 12] = [
    ("400", "The request is not one that this route takes"),
    ("401", "Nobody who is known"),
    ("403", "Known, and not allowed"),
    ("404", "Nothing of that name"),
    ("408", "The body did not come in"),
    ("409", "Something stands against it"),
    ("412", "The record has another revision"),
    ("413", "Too large"),
    ("415", "Not application/json"),
    ("422", "Understood, and a value or document is not what it must be"),
    ("429", "Too many calls"),
    ("503", "Nothing was done: something that the service depends on is not there"),
];

fn with_problems(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let problem = |description: &str| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        ResponseBuilder::new().description(description).content(MEDIA_TYPE, content).build()
    };
    for (path, item) in &mut document.paths.paths {
        if !path.starts_with("/v1") && !path.starts_with("/auth") {
            continue;
        }
        let operations =
            [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().filter_map(Option::as_mut);
        for operation in operations {
            for (status, description) in PROBLEMS {
                operation.responses.responses.entry(status.to_owned()).or_insert_with(|| problem(description).into());
            }
        }
    }
    document
}

fn declared() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(values::seal))
        .routes(routes!(values::open))
        .routes(routes!(values::rewrap))
        .routes(routes!(values::inspect))
        .merge(records::routes())
        .merge(keyrings::routes())
        .merge(jobs::routes())
        .merge(tokens::routes())
        .merge(sessions::routes())
        .merge(grants::routes())
        .merge(audit::routes())
        .routes(routes!(authority::authority))
}

fn open_to_all() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new()
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .merge(login::routes())
}

/// The OpenAPI document.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    let (_, mut document) = declared().split_for_parts();
    let (_, open) = open_to_all().split_for_parts();
    document.merge(open);
    with_problems(document)
}

/// Everything that is served.
pub fn router(service: &Arc<Service>) -> Router {
    let (behind, _) = declared().split_for_parts();
    let (open, _) = open_to_all().split_for_parts();
    let nothing = async || Problem::not_found("there is no such route").hint("/openapi.json lists them");
    let wrong_method = async || {
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "the route does not take this method")
    };
    let behind = behind
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(service), whole::layer))
        .layer(from_fn_with_state(Arc::clone(service), auth::layer));
    // It does not fail: every part of it is a string, a number or a list of those.
    let document = Bytes::from(serde_json::to_vec(&document()).unwrap_or_default());
    let document = async move || ([(header::CONTENT_TYPE, "application/json")], document);
    open.route("/openapi.json", get(document))
        .method_not_allowed_fallback(wrong_method)
        .merge(behind)
        .fallback(nothing)
        .layer(from_fn_with_state(Arc::clone(service), request::layer))
        .with_state(Arc::clone(service))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_openapi_3_1_and_names_every_problem_of_every_route() {
        let document = serde_json::to_value(document()).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let paths = document["paths"].as_object().unwrap();
        assert!(paths.len() > 15, "{:?}", paths.keys().collect::<Vec<_>>());
        assert_eq!(
            document["paths"]["/v1/open"]["post"]["responses"]["503"]["content"][MEDIA_TYPE]["schema"]["$ref"],
            "#/components/schemas/Problem"
        );
    }
}
