//! `aws-secrets-manager://NAME`.

use aws_sdk_secretsmanager::Client;
use keyfold_core::{root::RootError, secret::Secret};

use crate::{AwsSecret, Bounds, source::Fetched};

/// A secret of AWS Secrets Manager.
pub(crate) struct Secrets<'a> {
    place: String,
    secret: &'a AwsSecret,
    bounds: Bounds,
    client: Client,
}

impl<'a> Secrets<'a> {
    pub(crate) async fn new(place: String, secret: &'a AwsSecret, bounds: Bounds) -> Result<Self, RootError> {
        let config = bounds.hold(&place, || async { Ok(super::config(secret.region.as_deref(), &bounds).await) });
        let client = Client::new(&config.await?);
        Ok(Self { place, secret, bounds, client })
    }

    pub(crate) async fn get(&self) -> Result<Fetched, RootError> {
        let answer = self.bounds.hold(&self.place, || async {
            let request = self.client.get_secret_value().secret_id(&self.secret.id);
            let request = request.set_version_id(self.secret.version.clone());
            request.send().await.map_err(|error| super::error(&self.place, &error))
        });
        let answer = answer.await?;
        let binary = answer.secret_binary.map(|blob| Secret::new(blob.into_inner()));
        let value = answer.secret_string.map(Secret::from).or(binary);
        let value =
            value.ok_or_else(|| RootError::Missing { place: self.place.clone(), why: "the secret is empty".into() })?;
        Ok(Fetched { value, version: answer.version_id })
    }

    /// Stores a new version; gives its id. The token makes a second attempt of the same write harmless.
    pub(crate) async fn put(&self, value: &Secret, token: &str) -> Result<String, RootError> {
        let text = String::from_utf8_lossy(value.expose()).into_owned();
        let answer = self.bounds.hold(&self.place, || async {
            let request = self.client.put_secret_value().secret_id(&self.secret.id).client_request_token(token);
            let answer = request.secret_string(text.clone()).send().await;
            answer.map_err(|error| super::error(&self.place, &error))
        });
        Ok(answer.await?.version_id.unwrap_or_default())
    }
}
