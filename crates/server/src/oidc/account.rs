//! Service accounts, by application default credentials: the metadata server, a key file, an authorized user. Google's own library
//! does it, and keeps the tokens while they last.

use std::{collections::HashMap, path::Path, time::Duration};

use google_cloud_auth::credentials::{AccessTokenCredentials, Builder, mds, service_account, user_account};
use keyfold_core::{clock::UnixTime, secret::Secret};
use keyfold_custody::{
    broker::{AccountSource, Destination, ServiceAccount},
    sessions::{Granted, IssuerError},
};
use tokio::sync::Mutex;

use super::{refused, wire::unavailable};

const TIME: Duration = Duration::from_secs(10);
/// For how long a caller may take the token to be good; the library hands out none that ends sooner.
const LASTS: u64 = 60;
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// The accounts in use, by destination.
#[derive(Default)]
pub(super) struct Accounts(Mutex<HashMap<String, AccessTokenCredentials>>);

impl Accounts {
    pub(super) async fn token(
        &self,
        account: &ServiceAccount,
        destination: &Destination,
        now: UnixTime,
    ) -> Result<Granted, IssuerError> {
        let credentials = {
            let mut known = self.0.lock().await;
            match known.get(&destination.name) {
                Some(credentials) => credentials.clone(),
                None => {
                    let made = made(account).await?;
                    known.insert(destination.name.clone(), made.clone());
                    made
                }
            }
        };
        let named = format!("service account of {}", destination.name);
        let token = tokio::time::timeout(TIME, credentials.access_token())
            .await
            .map_err(|_| unavailable(&named, "it did not answer in time"))?
            .map_err(|error| {
                tracing::error!(%error, destination = destination.name, "a service account gave no token");
                unavailable(&named, "it gave no token; the log says why")
            })?;
        Ok(Granted { access_token: Secret::from(token.token), expires: UnixTime(now.0 + LASTS), refresh_token: None })
    }
}

async fn made(account: &ServiceAccount) -> Result<AccessTokenCredentials, IssuerError> {
    // Google's library signs with the process's cryptography and brings none; where there is one already, that stays.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let scopes = if account.scopes.is_empty() { vec![SCOPE.to_owned()] } else { account.scopes.clone() };
    let built = match &account.source {
        AccountSource::Default => Builder::default().with_scopes(scopes).build_access_token_credentials(),
        AccountSource::Metadata => mds::Builder::default().with_scopes(scopes).build_access_token_credentials(),
        AccountSource::File(path) => {
            let json = read(path).await?;
            match json.get("type").and_then(serde_json::Value::as_str) {
                Some("service_account") => service_account::Builder::new(json)
                    .with_access_specifier(service_account::AccessSpecifier::from_scopes(scopes))
                    .build_access_token_credentials(),
                Some("authorized_user") => {
                    user_account::Builder::new(json).with_scopes(scopes).build_access_token_credentials()
                }
                _ => return Err(wrong_file()),
            }
        }
    };
    built.map_err(|error| {
        // The library's own words can quote the file.
        tracing::debug!(kind = error.is_parsing(), "a service account's credentials were not taken");
        refused("the service account's credentials are not taken", "look at what the destination's `fallback` names")
    })
}

const fn wrong_file() -> IssuerError {
    refused(
        "the service account's file does not read as one",
        "`fallback = \"file:PATH\"` names the JSON file of a service account's key or of an authorized user",
    )
}

async fn read(path: &Path) -> Result<serde_json::Value, IssuerError> {
    let bytes = tokio::fs::read(path).await.map_err(|error| {
        tracing::error!(path = %path.display(), error = %error.kind(), "a service account's file cannot be read");
        wrong_file()
    })?;
    serde_json::from_slice(&zeroize::Zeroizing::new(bytes)).map_err(|_| wrong_file())
}
