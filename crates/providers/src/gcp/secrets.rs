//! `gcp-secret-manager://projects/P/secrets/S`.

use google_cloud_auth::credentials::anonymous;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_secretmanager_v1::{client::SecretManagerService, model::SecretPayload};
use keyfold_core::{root::RootError, secret::Secret};

use super::{checksum, damaged};
use crate::{Bounds, GcpSecret, source::Fetched};

/// A secret of GCP Secret Manager.
pub(crate) struct Secrets<'a> {
    place: String,
    secret: &'a GcpSecret,
    bounds: Bounds,
    client: SecretManagerService,
}

impl<'a> Secrets<'a> {
    pub(crate) async fn new(place: String, secret: &'a GcpSecret, bounds: Bounds) -> Result<Self, RootError> {
        let client = bounds.hold(&place, || async {
            // The bounds hold for all attempts together.
            let builder = SecretManagerService::builder().with_retry_policy(NeverRetry);
            let client = match &secret.endpoint {
                None => builder.build().await,
                Some(endpoint) => {
                    let nobody = anonymous::Builder::new().build();
                    builder.with_endpoint(endpoint).with_credentials(nobody).build().await
                }
            };
            client.map_err(|_| super::unusable(&place))
        });
        let client = client.await?;
        Ok(Self { place, secret, bounds, client })
    }

    pub(crate) async fn get(&self) -> Result<Fetched, RootError> {
        let name = format!("{}/versions/{}", self.secret.name, self.secret.version.as_deref().unwrap_or("latest"));
        let fetched = self.bounds.hold(&self.place, || async {
            let answer = self.client.access_secret_version().set_name(&name).send().await;
            let answer = answer.map_err(|error| super::error(&self.place, &error))?;
            let payload = answer.payload.unwrap_or_default();
            let value = Secret::from(&payload.data[..]);
            // Google computes the checksum for every version; an old one may lack it.
            if payload.data_crc32c.is_some_and(|sum| sum != checksum(value.expose())) {
                return Err(damaged(&self.place));
            }
            let version = answer.name.rsplit('/').next().map(str::to_owned);
            Ok(Fetched { value, version })
        });
        fetched.await
    }

    /// Stores a new version; gives its number. Asked once: a second attempt would store a second version.
    pub(crate) async fn put(&self, value: &Secret) -> Result<String, RootError> {
        let payload = SecretPayload::new().set_data(value.expose().to_vec()).set_data_crc32c(checksum(value.expose()));
        let once = Bounds { attempts: 1, ..self.bounds };
        let stored = once.hold(&self.place, || async {
            let request = self.client.add_secret_version().set_parent(&self.secret.name).set_payload(payload.clone());
            request.send().await.map_err(|error| super::error(&self.place, &error))
        });
        Ok(stored.await?.name.rsplit('/').next().unwrap_or_default().to_owned())
    }
}
