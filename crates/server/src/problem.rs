//! What a caller gets instead of an answer: RFC 9457, with a stable code and a hint.
//!
//! What is the caller's to mend is said in the words of the error, which never hold a secret. What is not is said in a fixed
//! sentence; the error itself goes to the log, under the request's id.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use keyfold_core::error::{Code, Hint};
use keyfold_custody::{access::Refusal, error::CustodyError, store::StoreError, tokens::TokenError};

/// The media type.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// One problem. The request's id is added on the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(Box<Inner>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inner {
    status: StatusCode,
    code: &'static str,
    detail: String,
    hint: Option<String>,
    header: Option<(HeaderName, HeaderValue)>,
}

/// A problem as it is written.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// `urn:keyfold:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The status.
    pub status: u16,
    /// One line of what happened.
    pub detail: String,
    /// A stable name for what went wrong.
    pub code: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// As in the header `x-request-id` and in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Problem {
    /// A problem of any kind.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Inner { status, code, detail: detail.into(), hint: None, header: None }))
    }

    /// Nobody who is known.
    #[must_use]
    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        let header = (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"keyfold\""));
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail).header(header)
    }

    /// A proof that does not hold, with a code of its own.
    #[must_use]
    pub(crate) fn no_proof(code: &'static str, detail: impl Into<String>) -> Self {
        let header = (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"keyfold\""));
        Self::new(StatusCode::UNAUTHORIZED, code, detail).header(header)
    }

    /// The request is not one that this route takes.
    #[must_use]
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }

    /// There is nothing of that name.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// Too much at once; to be tried again.
    #[must_use]
    pub fn busy(status: StatusCode, code: &'static str, detail: impl Into<String>, seconds: u16) -> Self {
        let header = (header::RETRY_AFTER, HeaderValue::from(seconds));
        Self::new(status, code, detail).header(header)
    }

    /// Something of ours that must not happen. The error goes to the log.
    #[must_use]
    pub fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "a request failed inside");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the service failed; its log says why")
    }

    /// A write that was begun, and whose end is not as it should be. Not a status that anything repeats by itself.
    fn in_doubt(detail: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "in_doubt", detail)
            .hint("do not simply send it again: look first what is there")
    }

    /// Says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    fn header(mut self, header: (HeaderName, HeaderValue)) -> Self {
        self.0.header = Some(header);
        self
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// As it is written.
    #[must_use]
    pub fn body(&self, request: Option<&str>) -> ProblemBody {
        ProblemBody {
            kind: format!("urn:keyfold:problem:{}", self.0.code),
            title: self.0.status.canonical_reason().unwrap_or("Problem").to_owned(),
            status: self.0.status.as_u16(),
            detail: self.0.detail.clone(),
            code: self.0.code.to_owned(),
            hint: self.0.hint.clone(),
            request_id: request.map(str::to_owned),
        }
    }

    /// The response, with the request's id in it.
    #[must_use]
    pub fn response(self, request: Option<&str>) -> Response {
        let json = serde_json::to_vec(&self.body(request)).unwrap_or_default();
        let mut response = Response::new(Body::from(json));
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some((name, value)) = self.0.header {
            headers.insert(name, value);
        }
        response
    }
}

/// A problem travels as an extension of its response; the outermost layer writes it, with the request's id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

const UNAVAILABLE: &str = "something that the service depends on cannot be reached; nothing was done";
const UNFINISHED: &str = "it was done, and something that had to follow failed";
const UNKNOWN: &str = "something broke off while it was done; whether it was is not known";
const NO_AUDIT: &str = "the audit log cannot be written; nothing is done unaudited";

fn of_code(code: Code) -> (StatusCode, Option<&'static str>) {
    match code {
        Code::ProviderUnavailable => (StatusCode::SERVICE_UNAVAILABLE, Some(UNAVAILABLE)),
        Code::AuditUnavailable => (StatusCode::SERVICE_UNAVAILABLE, Some(NO_AUDIT)),
        Code::DocumentRefused | Code::KeyInvalid => {
            (StatusCode::SERVICE_UNAVAILABLE, Some("the deployment's keyring cannot be used; its log says why"))
        }
        Code::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, None),
        Code::KeyUsageExhausted => (StatusCode::CONFLICT, None),
        _ => (StatusCode::UNPROCESSABLE_ENTITY, None),
    }
}

impl From<CustodyError> for Problem {
    fn from(error: CustodyError) -> Self {
        let (status, code) = match &error {
            CustodyError::Refused(refusal) => return Self::from(refusal.clone()),
            CustodyError::NotFound { .. } => (StatusCode::NOT_FOUND, "not_found"),
            CustodyError::Conflict { .. } => (StatusCode::CONFLICT, "conflict"),
            CustodyError::Waiting { .. } => (StatusCode::CONFLICT, "waiting"),
            CustodyError::Store(StoreError::Exists { .. }) => (StatusCode::CONFLICT, "exists"),
            CustodyError::Store(StoreError::InvalidArgument { .. }) => (StatusCode::BAD_REQUEST, "invalid_request"),
            CustodyError::Store(_) => {
                tracing::error!(%error, "a store failed");
                return Self::busy(StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable", UNAVAILABLE, 1);
            }
            CustodyError::InDoubt { happened, .. } => {
                tracing::error!(%error, happened, "something failed after a write was begun");
                return Self::in_doubt(if *happened { UNFINISHED } else { UNKNOWN });
            }
            CustodyError::Edit(_) => (StatusCode::CONFLICT, error.code().map_or("conflict", Code::as_str)),
            CustodyError::Io { .. } => {
                tracing::error!(%error, "a file of the data folder failed");
                return Self::busy(StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable", UNAVAILABLE, 1);
            }
            other => match other.code() {
                None => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
                Some(code) => match of_code(code) {
                    (status, None) => (status, code.as_str()),
                    (status, Some(sentence)) => {
                        tracing::error!(%error, code = code.as_str(), "a request could not be served");
                        return Self::busy(status, code.as_str(), sentence, 1);
                    }
                },
            },
        };
        let problem = Self::new(status, code, error.to_string());
        match error.hint() {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let problem = Self::new(StatusCode::FORBIDDEN, "forbidden", refusal.to_string());
        match refusal.hint() {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        CustodyError::from(error).into()
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let problem = match error {
            TokenError::Stale => {
                Self::busy(StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable", error.to_string(), 1)
            }
            _ => Self::unauthenticated(error.to_string()),
        };
        match error.hint() {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p42_what_is_not_the_callers_to_mend_is_said_in_a_fixed_sentence() {
        let inner = "/srv/keyfold/kf.db: password=hunter2";
        let source = std::io::Error::other(inner);
        let problem = Problem::from(CustodyError::Io { path: inner.into(), source });
        let body = serde_json::to_string(&problem.body(Some("1"))).unwrap();
        assert!(!body.contains("hunter2") && !body.contains("/srv"), "{body}");
        assert_eq!(problem.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn nobody_is_told_that_nothing_was_done_where_something_may_have_been() {
        let source = || std::io::Error::other("x");
        let error = || CustodyError::Io { path: "x".into(), source: source() };
        for happened in [true, false] {
            let problem = Problem::from(CustodyError::InDoubt { error: Box::new(error()), happened });
            assert_eq!((problem.status().as_u16(), problem.code()), (500, "in_doubt"));
        }
        assert_eq!(Problem::from(error()).code(), "provider_unavailable");
    }
}
