//! `hcvault-kv://HOST/MOUNT/PATH`: the KV engine, version 2.

use keyfold_core::{root::RootError, secret::Secret};
use serde_json::{Map, Value, json};

use super::client::{Client, Method, nothing};
use crate::{Bounds, VaultSecret, source::Fetched};

/// A secret of the KV engine.
pub(crate) struct Kv<'a> {
    client: Client,
    secret: &'a VaultSecret,
}

impl<'a> Kv<'a> {
    pub(crate) fn new(place: String, secret: &'a VaultSecret, bounds: Bounds) -> Result<Self, RootError> {
        Ok(Self { client: Client::new(place, &secret.address, bounds)?, secret })
    }

    fn field(&self) -> &str {
        self.secret.field.as_deref().unwrap_or("key")
    }

    async fn read(&self) -> Result<(Map<String, Value>, u64), RootError> {
        let version = self.secret.version.map(|version| format!("?version={version}")).unwrap_or_default();
        let path = format!("{}/data/{}{version}", self.secret.mount, self.secret.path);
        let mut answer = self.client.ask(Method::Get, &path, &nothing()).await?.body;
        let version = answer["data"]["metadata"]["version"].as_u64().unwrap_or_default();
        match answer["data"]["data"].take() {
            Value::Object(members) => Ok((members, version)),
            _ => Err(RootError::Missing { place: self.client.place().into(), why: "that version was deleted".into() }),
        }
    }

    /// The number of the latest version where that was deleted: the next one still counts from it. 0 where there is none, or
    /// where this process may not see it; then the server decides.
    async fn deleted(&self) -> Result<u64, RootError> {
        let path = format!("{}/metadata/{}", self.secret.mount, self.secret.path);
        match self.client.ask(Method::Get, &path, &nothing()).await {
            Ok(answer) => Ok(answer.body["data"]["current_version"].as_u64().unwrap_or_default()),
            Err(RootError::Missing { .. } | RootError::Denied { .. }) => Ok(0),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn get(&self) -> Result<Fetched, RootError> {
        let (mut members, version) = self.read().await?;
        match members.remove(self.field()) {
            Some(Value::String(text)) => Ok(Fetched { value: Secret::from(text), version: Some(version.to_string()) }),
            _ => Err(RootError::Missing {
                place: self.client.place().into(),
                why: format!("the secret has no text member `{}`", self.field()),
            }),
        }
    }

    /// Stores a new version with the other members as they are, unless somebody else wrote meanwhile.
    pub(crate) async fn put(&self, value: &Secret) -> Result<String, RootError> {
        let (mut members, version) = match self.read().await {
            Ok(found) => found,
            Err(RootError::Missing { .. }) => (Map::new(), self.deleted().await?),
            Err(error) => return Err(error),
        };
        members.insert(self.field().into(), String::from_utf8_lossy(value.expose()).into_owned().into());
        let body = Secret::from(json!({ "options": { "cas": version }, "data": members }).to_string());
        let path = format!("{}/data/{}", self.secret.mount, self.secret.path);
        let answer = self.client.ask(Method::Post, &path, &body).await?;
        Ok(answer.body["data"]["version"].to_string())
    }
}
