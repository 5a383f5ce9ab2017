//! AWS: a root key in KMS, and keys that other programs share in Secrets Manager. Credentials, region and endpoints come from
//! the SDK's usual chain.

mod kms;
mod secrets;

use std::error::Error as _;

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use keyfold_core::root::RootError;

pub(crate) use self::{kms::Kms, secrets::Secrets};
use crate::Bounds;

/// The SDK's own retries are off: the bounds hold for all of them together.
async fn config(region: Option<&str>, bounds: &Bounds) -> SdkConfig {
    let timeouts = TimeoutConfig::builder().connect_timeout(bounds.attempt).build();
    let mut loader =
        aws_config::defaults(BehaviorVersion::latest()).retry_config(RetryConfig::disabled()).timeout_config(timeouts);
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    }
    loader.load().await
}

/// What an error of the SDK means here. Only its code is repeated.
fn error<E: ProvideErrorMetadata + std::error::Error + 'static, R: std::fmt::Debug>(
    place: &str,
    error: &SdkError<E, R>,
) -> RootError {
    let place = place.to_owned();
    let unavailable = |why: String, retry| RootError::Unavailable { place: place.clone(), why, retry };
    let code = match error {
        SdkError::ServiceError(service) => service.err().code().unwrap_or("no code").to_owned(),
        SdkError::TimeoutError(_) => return unavailable("no connection in time".into(), true),
        SdkError::DispatchFailure(failure) if failure.is_timeout() || failure.is_io() => {
            return unavailable("cannot be reached".into(), true);
        }
        SdkError::ResponseError(_) => return unavailable("the answer broke off".into(), true),
        other => {
            let mut causes = Vec::new();
            let mut cause = other.source();
            while let Some(inner) = cause {
                causes.push(inner.to_string());
                cause = inner.source();
            }
            let says = |words: &[&str]| causes.iter().any(|cause| words.iter().any(|word| cause.contains(word)));
            if says(&["credential"]) {
                // A place that gives credentials to whoever is there, and does not answer at the moment.
                if says(&["timed out", "timeout", "dispatch failure", "connect"]) {
                    return unavailable("the place that gives credentials cannot be reached".into(), true);
                }
                return RootError::Denied { place, why: "the SDK's usual places hold no credentials".into() };
            }
            // A connection that breaks before it answers has no name of its own in the SDK.
            let broke = matches!(other, SdkError::DispatchFailure(failure) if !failure.is_user());
            let why = if broke { "cannot be reached" } else { "the request could not be made" };
            return unavailable(why.into(), broke);
        }
    };
    match &*code {
        "InvalidCiphertextException" | "IncorrectKeyException" => RootError::Authentication { place },
        "NotFoundException" | "ResourceNotFoundException" => RootError::Missing { place, why: code },
        // The last is what Secrets Manager says of a secret that waits to be deleted.
        "DisabledException" | "KMSInvalidStateException" | "InvalidKeyUsageException" | "InvalidRequestException" => {
            RootError::Disabled { place, why: code }
        }
        "AccessDeniedException"
        | "AccessDenied"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "ExpiredTokenException"
        | "ExpiredToken"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "IncompleteSignature" => RootError::Denied { place, why: code },
        "ThrottlingException"
        | "Throttling"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "LimitExceededException" => RootError::Throttled { place },
        "KeyUnavailableException"
        | "KMSInternalException"
        | "DependencyTimeoutException"
        | "InternalServiceError"
        | "InternalFailure"
        | "ServiceUnavailable"
        | "ServiceUnavailableException" => unavailable(code, true),
        _ => unavailable(format!("the request was refused ({code})"), false),
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_kms::operation::encrypt::EncryptError;

    use super::*;

    /// An error with a cause below it.
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    fn kind(causes: [&'static str; 2]) -> &'static str {
        let error = Layer(causes[0], Some(Box::new(Layer(causes[1], None))));
        super::error("p", &SdkError::<EncryptError, ()>::construction_failure(error)).kind()
    }

    #[test]
    fn credentials_that_cannot_be_fetched_at_the_moment_are_not_credentials_that_are_missing() {
        assert_eq!(kind(["no providers in chain provided credentials", "not enabled"]), "denied");
        assert_eq!(
            kind(["an error occurred while loading credentials", "credentials provider timed out"]),
            "unavailable"
        );
        assert_eq!(kind(["the credential provider failed", "dispatch failure"]), "unavailable");
        assert_eq!(kind(["something else", "altogether"]), "unavailable");
    }
}
