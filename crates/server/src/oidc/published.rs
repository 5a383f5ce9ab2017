//! What an issuer publishes: its endpoints and its keys. Fetched when first needed, kept for a while, and looked for again when a
//! key is not among them, at most every ten seconds.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use keyfold_custody::sessions::IssuerError;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::wire::{Wire, unavailable};
use crate::settings::safe;

/// How long it is kept.
const KEPT: Duration = Duration::from_secs(600);
/// How soon it is looked at again for a key that is not there, or after it could not be had.
const AGAIN: Duration = Duration::from_secs(10);

/// The endpoints.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Endpoints {
    issuer: String,
    jwks_uri: String,
    pub(super) token_endpoint: Option<String>,
    pub(super) authorization_endpoint: Option<String>,
    pub(super) introspection_endpoint: Option<String>,
}

#[derive(Clone)]
struct Known {
    endpoints: Arc<Endpoints>,
    keys: Arc<JwkSet>,
    fetched: Instant,
}

/// What was had last, and what went wrong since.
#[derive(Default)]
struct State {
    known: Option<Known>,
    failed: Option<(Instant, String)>,
}

/// One issuer's.
#[derive(Default)]
pub(super) struct Published(Mutex<State>);

impl Published {
    pub(super) async fn endpoints(&self, wire: &Wire, name: &str, issuer: &str) -> Result<Arc<Endpoints>, IssuerError> {
        Ok(self.known(wire, (name, issuer), |_| true).await?.endpoints)
    }

    /// The key of that id; `None` where the issuer has none such.
    pub(super) async fn key(
        &self,
        wire: &Wire,
        issuer: (&str, &str),
        kid: Option<&str>,
    ) -> Result<Option<Jwk>, IssuerError> {
        let find = |known: &Known| match kid {
            Some(kid) => known.keys.find(kid).cloned(),
            // Without a name, only where there is no choice.
            None => match &known.keys.keys[..] {
                [only] => Some(only.clone()),
                _ => None,
            },
        };
        let known = self.known(wire, issuer, |known| find(known).is_some()).await?;
        Ok(find(&known))
    }

    async fn known(
        &self,
        wire: &Wire,
        (name, issuer): (&str, &str),
        enough: impl Fn(&Known) -> bool,
    ) -> Result<Known, IssuerError> {
        // One asks, the others wait and take what that brought.
        let mut state = self.0.lock().await;
        if let Some(known) = &state.known {
            let age = known.fetched.elapsed();
            if age < AGAIN || (age < KEPT && enough(known)) {
                return Ok(known.clone());
            }
        }
        if let Some((_, what)) = state.failed.as_ref().filter(|(at, _)| at.elapsed() < AGAIN / 10) {
            return Err(unavailable(name, what.clone()));
        }
        match fetch(wire, issuer).await {
            Ok(known) => {
                *state = State { known: Some(known.clone()), failed: None };
                Ok(known)
            }
            Err(what) => {
                tracing::error!(issuer = name, what, "what an issuer publishes could not be fetched");
                // What is too old is not taken, and nothing is verified by it.
                state.failed = Some((Instant::now(), what.clone()));
                if state.known.as_ref().is_some_and(|known| known.fetched.elapsed() >= KEPT) {
                    state.known = None;
                }
                Err(unavailable(name, what))
            }
        }
    }
}

async fn fetch(wire: &Wire, issuer: &str) -> Result<Known, String> {
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let answer = wire.get(&url, &[]).await?;
    if !answer.is_success() {
        return Err(format!("discovery answered {}", answer.status));
    }
    let endpoints: Endpoints = answer.json().ok_or("discovery does not read")?;
    if endpoints.issuer != issuer {
        return Err("discovery names another issuer".into());
    }
    let named = [&endpoints.token_endpoint, &endpoints.authorization_endpoint, &endpoints.introspection_endpoint];
    let secure = issuer.starts_with("https://");
    let fine = |url: &str| safe(url) && (!secure || url.starts_with("https://"));
    if !fine(&endpoints.jwks_uri) || !named.into_iter().flatten().all(|url| fine(url)) {
        return Err("discovery names an endpoint in the clear".into());
    }
    let answer = wire.get(&endpoints.jwks_uri, &[]).await?;
    if !answer.is_success() {
        return Err(format!("its keys answered {}", answer.status));
    }
    let keys = answer.json().ok_or("its keys do not read")?;
    Ok(Known { endpoints: Arc::new(endpoints), keys: Arc::new(keys), fetched: Instant::now() })
}
