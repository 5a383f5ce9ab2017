//! What Firestore answers, sorted by who can do something about it.
//!
//! Of what it says only the name of the error is shown; the text goes to the log.

use std::time::Duration;

use serde::Deserialize;

use crate::store::StoreError;

/// The numbers of results inside a batch that are answers and no failures.
pub(super) mod code {
    pub(crate) const OK: i32 = 0;
    /// What is to be written is not what a document may be: too large, for one that was read.
    pub(crate) const INVALID_ARGUMENT: i32 = 3;
    pub(crate) const NOT_FOUND: i32 = 5;
    pub(crate) const FAILED_PRECONDITION: i32 = 9;
    pub(crate) const ABORTED: i32 = 10;
}

/// One answer of an error, or inside a batch.
#[derive(Default, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub(super) code: i32,
    #[serde(default)]
    status: String,
    #[serde(default)]
    message: String,
}

impl Status {
    /// A write that is not to be written by anybody.
    pub(super) fn invalid() -> Self {
        Self { code: code::INVALID_ARGUMENT, ..Self::default() }
    }
}

#[derive(Deserialize)]
struct Body {
    error: Status,
}

fn unavailable(store: &str, what: &str, retry: bool, source: Option<crate::store::Cause>) -> StoreError {
    StoreError::Unavailable { store: store.into(), what: what.into(), retry, source }
}

/// A call that got no answer.
pub(super) fn no_answer(store: &str, error: reqwest::Error, limit: Duration) -> StoreError {
    // Addresses of calls hold names of collections and no values, and say nothing that the store's own name does not.
    let error = error.without_url();
    let what = if error.is_timeout() {
        format!("it did not answer within {} s", limit.as_secs())
    } else if error.is_connect() {
        "it cannot be reached".into()
    } else {
        "the connection broke off".into()
    };
    unavailable(store, &what, true, Some(error.into()))
}

/// An answer that is not what the interface says.
pub(super) fn not_understood(store: &str) -> StoreError {
    unavailable(store, "what it answered is not understood", false, None)
}

/// An answer that is an error.
pub(super) fn refused(store: &str, status: u16, body: &[u8]) -> StoreError {
    // A streamed answer is an array, and so is its error. Asked for first, since a structure would take an array for its fields.
    let said = serde_json::from_slice::<Vec<Body>>(body)
        .map(|mut all| all.pop().unwrap_or(Body { error: Status::default() }))
        .or_else(|_| serde_json::from_slice::<Body>(body));
    let said = said.map_or_else(|_| Status::default(), |body| body.error);
    judge(store, status, &said)
}

/// An error among the rows of a streamed answer, which began as if it would succeed.
pub(super) fn in_between(store: &str, said: &Status) -> StoreError {
    judge(store, u16::try_from(said.code).unwrap_or(500), said)
}

/// Whether an answer says that a document was not what a write expected, or that somebody was faster.
pub(super) fn is_conflict(status: u16, body: &[u8]) -> bool {
    let said = serde_json::from_slice::<Body>(body).map(|body| body.error.status).unwrap_or_default();
    matches!(
        (status, said.as_str()),
        (409, _) | (404, "NOT_FOUND") | (400, "FAILED_PRECONDITION") | (_, "ABORTED" | "ALREADY_EXISTS")
    )
}

/// Whether a request was refused for what it holds.
pub(super) fn is_invalid(status: u16, body: &[u8]) -> bool {
    let said = serde_json::from_slice::<Body>(body).map(|body| body.error.status).unwrap_or_default();
    (status, said.as_str()) == (400, "INVALID_ARGUMENT")
}

/// A failure of one write of a batch.
pub(super) fn of_write(store: &str, said: &Status) -> StoreError {
    let (http, name) = match said.code {
        7 => (403, "PERMISSION_DENIED"),
        8 => (429, "RESOURCE_EXHAUSTED"),
        16 => (401, "UNAUTHENTICATED"),
        _ => (503, "an error in a batch"),
    };
    judge(store, http, &Status { code: said.code, status: name.into(), message: said.message.clone() })
}

fn judge(store: &str, http: u16, said: &Status) -> StoreError {
    let source = (!said.message.is_empty()).then(|| said.message.clone().into());
    let name = if said.status.is_empty() { format!("HTTP status {http}") } else { said.status.clone() };
    match (http, said.status.as_str()) {
        (401, _) => {
            StoreError::Refused { store: store.into(), what: "it does not accept the credentials".into(), source }
        }
        (403, _) => {
            StoreError::Refused { store: store.into(), what: format!("the account may not do that ({name})"), source }
        }
        (404, _) => {
            let hint = "check the project and the database in the address; Google's console or gcloud makes a database";
            StoreError::Missing { store: store.into(), hint }
        }
        (429, _) => unavailable(store, "its quota is used up for now", true, source),
        (409, _) | (500.., _) => unavailable(store, &format!("it answered {name}"), true, source),
        (400, "FAILED_PRECONDITION") => StoreError::Refused {
            store: store.into(),
            what: "it wants an index for that query, or is in Datastore mode (FAILED_PRECONDITION)".into(),
            source,
        },
        _ => StoreError::Refused { store: store.into(), what: format!("it answered {name}"), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_sorted_and_its_text_goes_to_the_log_only() {
        let body = |status: &str| format!(r#"{{"error":{{"code":1,"message":"hidden words","status":"{status}"}}}}"#);
        for (http, status, retry) in [
            (401, "UNAUTHENTICATED", false),
            (403, "PERMISSION_DENIED", false),
            (429, "RESOURCE_EXHAUSTED", true),
            (503, "UNAVAILABLE", true),
            (409, "ABORTED", true),
            (400, "INVALID_ARGUMENT", false),
        ] {
            for body in [body(status), format!("[{}]", body(status))] {
                let error = refused("S", http, body.as_bytes());
                assert_eq!(error.is_retryable(), retry, "{error}");
                assert!(!error.to_string().contains("hidden"), "{error}");
                assert!(std::error::Error::source(&error).unwrap().to_string().contains("hidden"));
            }
        }
        assert!(matches!(refused("S", 404, b"{}"), StoreError::Missing { .. }));
        assert_eq!(refused("S", 502, b"<html>").to_string(), "S is unavailable: it answered HTTP status 502");
    }
}
