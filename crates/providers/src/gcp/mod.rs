//! GCP: a root key in KMS, and keys that other programs share in Secret Manager. Credentials are the application default ones,
//! as the SDK finds them.

mod kms;
mod secrets;

use google_cloud_kms_v1::Error;
use keyfold_core::root::RootError;

pub(crate) use self::{kms::Kms, secrets::Secrets};

/// What an error of the SDK means here. Only its code is repeated.
fn error(place: &str, error: &Error) -> RootError {
    let place = place.to_owned();
    let unavailable = |why: &str, retry| RootError::Unavailable { place: place.clone(), why: why.into(), retry };
    if error.is_authentication() {
        return RootError::Denied { place, why: "there are no application default credentials that work".into() };
    }
    let Some(status) = error.status() else {
        return match error.http_status_code() {
            Some(429) => RootError::Throttled { place },
            Some(401 | 403) => RootError::Denied { place, why: "the request was refused".into() },
            Some(404) => RootError::Missing { place, why: "nothing of that name is there".into() },
            Some(500..=599) => unavailable("the server failed", true),
            Some(_) => unavailable("the request was refused", false),
            None => unavailable("cannot be reached", !error.is_binding() && !error.is_serialization()),
        };
    };
    match status.code.name() {
        "NOT_FOUND" => RootError::Missing { place, why: "NOT_FOUND".into() },
        "FAILED_PRECONDITION" => RootError::Disabled { place, why: "FAILED_PRECONDITION".into() },
        code @ ("PERMISSION_DENIED" | "UNAUTHENTICATED") => RootError::Denied { place, why: code.into() },
        "RESOURCE_EXHAUSTED" => RootError::Throttled { place },
        code @ ("UNAVAILABLE" | "INTERNAL" | "DEADLINE_EXCEEDED" | "ABORTED") => unavailable(code, true),
        code => unavailable(&format!("the request was refused ({code})"), false),
    }
}

/// A client could not be set up.
fn unusable(place: &str) -> RootError {
    RootError::Denied { place: place.into(), why: "there are no application default credentials".into() }
}

fn checksum(bytes: &[u8]) -> i64 {
    i64::from(crc32c::crc32c(bytes))
}

/// Damage on the way, which another attempt may be spared.
fn damaged(place: &str) -> RootError {
    RootError::Unavailable { place: place.into(), why: "a checksum (CRC32C) does not fit".into(), retry: true }
}
