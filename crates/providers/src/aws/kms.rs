//! `aws-kms://ARN`: the associated data, in base64url, is the encryption context `keyfold-aad`.

use async_trait::async_trait;
use aws_sdk_kms::{Client, primitives::Blob};
use keyfold_core::{
    root::{RootError, RootKey},
    secret::{Key32, Secret},
};
use tokio::sync::OnceCell;

use crate::{AwsKey, Bounds, KeyUri};

const CONTEXT: &str = "keyfold-aad";
/// What KMS takes and gives is never longer.
const MAX_BLOB: usize = 6144;

/// A key of AWS KMS.
pub(crate) struct Kms {
    uri: String,
    key: AwsKey,
    bounds: Bounds,
    client: OnceCell<Client>,
}

impl Kms {
    pub(crate) fn new(key: &AwsKey, bounds: Bounds) -> Self {
        Self { uri: KeyUri::AwsKms(key.clone()).to_string(), key: key.clone(), bounds, client: OnceCell::new() }
    }

    async fn client(&self) -> &Client {
        self.client
            .get_or_init(|| async { Client::new(&super::config(Some(&self.key.region), &self.bounds).await) })
            .await
    }

    fn odd(&self, why: &str) -> RootError {
        RootError::Unavailable { place: self.uri.clone(), why: why.into(), retry: false }
    }
}

/// KMS takes no empty values.
fn context(aad: &[u8]) -> String {
    format!("v1.{}", base64_simd::URL_SAFE_NO_PAD.encode_to_string(aad))
}

#[async_trait]
impl RootKey for Kms {
    fn uri(&self) -> &str {
        &self.uri
    }

    async fn wrap(&self, key: &Key32, aad: &[u8]) -> Result<Vec<u8>, RootError> {
        let wrapped = self.bounds.hold(&self.uri, || async {
            let request = self.client().await.encrypt().key_id(&self.key.arn).encryption_context(CONTEXT, context(aad));
            let answer = request.plaintext(Blob::new(key.expose().to_vec())).send().await;
            answer.map_err(|error| super::error(&self.uri, &error))
        });
        let blob = wrapped.await?.ciphertext_blob.map(Blob::into_inner);
        blob.filter(|blob| !blob.is_empty() && blob.len() <= MAX_BLOB)
            .ok_or_else(|| self.odd("the answer holds no ciphertext"))
    }

    async fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<Key32, RootError> {
        let failed = || RootError::Authentication { place: self.uri.clone() };
        if wrapped.is_empty() || wrapped.len() > MAX_BLOB {
            return Err(failed());
        }
        let opened = self.bounds.hold(&self.uri, || async {
            // The key is named: a ciphertext of another key in the account does not open.
            let request = self.client().await.decrypt().key_id(&self.key.arn).encryption_context(CONTEXT, context(aad));
            let answer = request.ciphertext_blob(Blob::new(wrapped.to_vec())).send().await;
            answer.map_err(|error| super::error(&self.uri, &error))
        });
        let opened = opened.await?;
        // Named again in the answer, except where we know it by an alias.
        if self.key.arn.contains(":key/") && opened.key_id.as_deref() != Some(&*self.key.arn) {
            return Err(failed());
        }
        let blob = opened.plaintext.map(|blob| Secret::new(blob.into_inner()));
        let blob = blob.ok_or_else(|| self.odd("the answer holds no plaintext"))?;
        let key: &[u8; 32] = blob.expose().try_into().map_err(|_| failed())?;
        Ok(Key32::new(*key))
    }
}
