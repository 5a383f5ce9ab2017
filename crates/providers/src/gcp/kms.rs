//! `gcp-kms://projects/…/cryptoKeys/…`: associated data by its own parameter, checksums both ways.

use async_trait::async_trait;
use google_cloud_auth::credentials::anonymous;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_kms_v1::client::KeyManagementService;
use keyfold_core::{
    root::{RootError, RootKey},
    secret::{Key32, Secret},
};
use tokio::sync::OnceCell;

use super::{checksum, damaged};
use crate::{Bounds, GcpKey, KeyUri};

/// What KMS takes and gives is never longer.
const MAX_BLOB: usize = 64 << 10;

/// A key of GCP KMS.
pub(crate) struct Kms {
    uri: String,
    key: GcpKey,
    bounds: Bounds,
    client: OnceCell<KeyManagementService>,
}

impl Kms {
    pub(crate) fn new(key: &GcpKey, bounds: Bounds) -> Self {
        Self { uri: KeyUri::GcpKms(key.clone()).to_string(), key: key.clone(), bounds, client: OnceCell::new() }
    }

    async fn client(&self) -> Result<&KeyManagementService, RootError> {
        let made = self.client.get_or_try_init(|| async {
            // The bounds hold for all attempts together.
            let builder = KeyManagementService::builder().with_retry_policy(NeverRetry);
            match &self.key.endpoint {
                None => builder.build().await,
                Some(endpoint) => {
                    let nobody = anonymous::Builder::new().build();
                    builder.with_endpoint(endpoint).with_credentials(nobody).build().await
                }
            }
        });
        made.await.map_err(|_| super::unusable(&self.uri))
    }

    async fn wrap_once(&self, key: &Key32, aad: &[u8]) -> Result<Vec<u8>, RootError> {
        let request = self.client().await?.encrypt().set_name(&self.key.name);
        let request = request
            .set_plaintext(key.expose().to_vec())
            .set_plaintext_crc32c(checksum(key.expose()))
            .set_additional_authenticated_data(aad.to_vec())
            .set_additional_authenticated_data_crc32c(checksum(aad));
        let answer = request.send().await.map_err(|error| super::error(&self.uri, &error))?;
        let arrived = answer.verified_plaintext_crc32c && answer.verified_additional_authenticated_data_crc32c;
        // The answer names the version that was used.
        let ours =
            answer.name.strip_prefix(&self.key.name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if !arrived || !ours || answer.ciphertext_crc32c != Some(checksum(&answer.ciphertext)) {
            return Err(damaged(&self.uri));
        }
        Ok(answer.ciphertext.to_vec())
    }

    async fn unwrap_once(&self, wrapped: &[u8], aad: &[u8]) -> Result<Key32, RootError> {
        let failed = || RootError::Authentication { place: self.uri.clone() };
        let request = self.client().await?.decrypt().set_name(&self.key.name);
        let request = request
            .set_ciphertext(wrapped.to_vec())
            .set_ciphertext_crc32c(checksum(wrapped))
            .set_additional_authenticated_data(aad.to_vec())
            .set_additional_authenticated_data_crc32c(checksum(aad));
        let answer = request.send().await.map_err(|error| {
            match error.status().filter(|status| status.code.name() == "INVALID_ARGUMENT") {
                Some(status) if status.message.to_ascii_lowercase().contains("crc32c") => damaged(&self.uri),
                // What else about such a request can be invalid: what it is to open.
                Some(_) => failed(),
                None => super::error(&self.uri, &error),
            }
        })?;
        let plaintext = Secret::from(&answer.plaintext[..]);
        if answer.plaintext_crc32c != Some(checksum(plaintext.expose())) {
            return Err(damaged(&self.uri));
        }
        let key: &[u8; 32] = plaintext.expose().try_into().map_err(|_| failed())?;
        Ok(Key32::new(*key))
    }
}

#[async_trait]
impl RootKey for Kms {
    fn uri(&self) -> &str {
        &self.uri
    }

    async fn wrap(&self, key: &Key32, aad: &[u8]) -> Result<Vec<u8>, RootError> {
        self.bounds.hold(&self.uri, || self.wrap_once(key, aad)).await
    }

    async fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<Key32, RootError> {
        if wrapped.is_empty() || wrapped.len() > MAX_BLOB {
            return Err(RootError::Authentication { place: self.uri.clone() });
        }
        self.bounds.hold(&self.uri, || self.unwrap_once(wrapped, aad)).await
    }
}
