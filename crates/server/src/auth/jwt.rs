//! JWTs of configured issuers: signed by a key of the issuer's, for us, not yet expired.
//!
//! Keys are fetched when first needed and kept; one that is not known is looked for again, at most every ten seconds. Anybody can name
//! such a key, so nobody with a known one waits for that fetch or loses by its failure. Where keys could not be fetched for ten
//! minutes, no JWT of that issuer is taken.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{Jwk, JwkSet},
};
use keyfold_core::audit::Actor;
use tokio::sync::Mutex;

use crate::{
    problem::Problem,
    settings::{Issuer, actor},
};

/// How long keys are kept, after which time they are fetched anew, and how soon for one that is not among them.
const KEPT: Duration = Duration::from_secs(600);
const FRESH: Duration = Duration::from_secs(300);
const AGAIN: Duration = Duration::from_secs(10);
const TIME: Duration = Duration::from_secs(5);
/// A document of an issuer over this many bytes is not one.
const MAX_DOCUMENT: usize = 256 << 10;
const MAX_JWT: usize = 8 << 10;
/// Signatures only, and only by keys that can be published.
const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

struct Keys {
    set: JwkSet,
    /// When they were last had.
    fetched: Option<Instant>,
    /// When that was last tried.
    tried: Option<Instant>,
}

struct Known {
    issuer: Issuer,
    keys: RwLock<Keys>,
    /// Held while they are fetched.
    fetching: Mutex<()>,
}

/// What is known of a key.
enum Seen {
    /// It is one of the issuer's.
    There(Box<Jwk>),
    /// As [`Seen::There`], and it is time to look again.
    Aging(Box<Jwk>),
    /// It is not among them, and they were looked for just now.
    Absent,
    /// They have to be fetched.
    Unknown,
    /// There are none, and they were looked for just now.
    Away,
}

impl Known {
    fn look(&self, kid: &str) -> Seen {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let age = keys.fetched.map(|at| at.elapsed()).filter(|age| *age < KEPT);
        let tried = keys.tried.is_some_and(|at| at.elapsed() < AGAIN);
        match (age.and_then(|age| Some((age, keys.set.find(kid)?))), tried) {
            (Some((age, key)), false) if age >= FRESH => Seen::Aging(Box::new(key.clone())),
            (Some((_, key)), _) => Seen::There(Box::new(key.clone())),
            (None, false) => Seen::Unknown,
            (None, true) if age.is_some() => Seen::Absent,
            (None, true) => Seen::Away,
        }
    }

    /// What a fetch brought. One that failed takes nothing away.
    fn note(&self, fetched: Result<JwkSet, String>) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.tried = Some(Instant::now());
        match fetched {
            Ok(set) => {
                keys.fetched = keys.tried;
                keys.set = set;
            }
            Err(why) => tracing::error!(issuer = self.issuer.issuer, why, "an issuer's keys could not be fetched"),
        }
    }
}

/// The issuers.
pub(crate) struct Jwts {
    known: Vec<Arc<Known>>,
    http: Option<reqwest::Client>,
}

impl Jwts {
    pub(crate) fn new(issuers: &[Issuer]) -> Self {
        let empty = || RwLock::new(Keys { set: JwkSet { keys: Vec::new() }, fetched: None, tried: None });
        let known = |issuer: &Issuer| Known { issuer: issuer.clone(), keys: empty(), fetching: Mutex::default() };
        let known: Vec<_> = issuers.iter().map(known).map(Arc::new).collect();
        // A deployment without issuers carries no client and no certificates for it.
        let http = (!known.is_empty())
            .then(|| reqwest::Client::builder().timeout(TIME).redirect(reqwest::redirect::Policy::none()).build().ok())
            .flatten();
        Self { known, http }
    }

    /// The actor that a JWT stands for.
    ///
    /// # Errors
    /// It is not taken; which of its parts is wrong is for the log.
    pub(crate) async fn actor(&self, jwt: &str) -> Result<Actor, Problem> {
        let refused = |why: &str| {
            tracing::info!(why, "a JWT was not taken");
            Problem::unauthenticated("the token is not known here").hint(
                "was it revoked, or cut when it was copied? an operator makes a new one with `keyfold token create`",
            )
        };
        if self.known.is_empty() || jwt.len() > MAX_JWT {
            return Err(refused("no issuer is configured, or it is too long"));
        }
        let header = decode_header(jwt).map_err(|_| refused("its header does not read"))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(refused("its algorithm is not taken"));
        }
        let claimed = jsonwebtoken::dangerous::insecure_decode::<serde_json::Value>(jwt)
            .map_err(|_| refused("its claims do not read"))?;
        let claimed = claimed.claims.get("iss").and_then(serde_json::Value::as_str).unwrap_or("").to_owned();
        let known = self.known.iter().find(|known| known.issuer.issuer == claimed);
        let known = known.ok_or_else(|| refused("its issuer is not configured"))?;
        let kid = header.kid.as_deref().ok_or_else(|| refused("it names no key"))?;
        let key = self.key(known, kid).await?.ok_or_else(|| refused("its key is not among the issuer's"))?;
        if key.common.key_algorithm.is_some_and(|alg| alg.to_string() != format!("{:?}", header.alg)) {
            return Err(refused("its key is for another algorithm"));
        }
        let key = DecodingKey::from_jwk(&key).map_err(|_| refused("its key does not read"))?;
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&[&known.issuer.audience]);
        validation.set_issuer(&[&known.issuer.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.validate_nbf = true;
        validation.leeway = 30;
        let claims =
            decode::<serde_json::Value>(jwt, &key, &validation).map_err(|error| refused(&error.to_string()))?;
        let name = claims.claims.get(&known.issuer.claim).and_then(serde_json::Value::as_str);
        let name = name.ok_or_else(|| refused("it lacks the claim that names the actor"))?;
        actor(&known.issuer.kind, name).ok_or_else(|| refused("its name cannot name an actor"))
    }

    async fn key(&self, known: &Arc<Known>, kid: &str) -> Result<Option<Box<Jwk>>, Problem> {
        let mut seen = known.look(kid);
        let due = match &seen {
            Seen::Unknown => true,
            // One fetch is enough for all whose key is still good.
            Seen::Aging(_) => known.fetching.try_lock().is_ok(),
            Seen::There(_) | Seen::Absent | Seen::Away => false,
        };
        if due {
            let Some(http) = self.http.clone() else { return Err(away()) };
            // Not bound to the caller: who hangs up would take the keys from everybody who waits for them.
            let fetching = tokio::spawn(refresh(Arc::clone(known), http, kid.to_owned()));
            if let Seen::Unknown = seen {
                fetching.await.map_err(|error| Problem::internal(&error))?;
                seen = known.look(kid);
            }
        }
        match seen {
            Seen::There(key) | Seen::Aging(key) => Ok(Some(key)),
            Seen::Absent => Ok(None),
            Seen::Unknown | Seen::Away => Err(away()),
        }
    }
}

fn away() -> Problem {
    let what = "the issuer's keys cannot be had at the moment";
    Problem::busy(StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable", what, 10)
}

/// Fetches an issuer's keys, unless somebody else did meanwhile.
async fn refresh(known: Arc<Known>, http: reqwest::Client, kid: String) {
    let _fetching = known.fetching.lock().await;
    if let Seen::Aging(_) | Seen::Unknown = known.look(&kid) {
        let fetched = fetch(&http, &known.issuer).await;
        known.note(fetched);
    }
}

async fn fetch(http: &reqwest::Client, issuer: &Issuer) -> Result<JwkSet, String> {
    #[derive(serde::Deserialize)]
    struct Discovered {
        issuer: String,
        jwks_uri: String,
    }
    let url = match &issuer.jwks {
        Some(url) => url.clone(),
        None => {
            let base = issuer.issuer.trim_end_matches('/');
            let found = get(http, &format!("{base}/.well-known/openid-configuration")).await?;
            let found: Discovered = serde_json::from_slice(&found).map_err(|_| "discovery does not read")?;
            if found.issuer != issuer.issuer {
                return Err("discovery names another issuer".into());
            }
            let plain = found.jwks_uri.starts_with("http://") && !issuer.issuer.starts_with("http://");
            if plain {
                return Err("discovery names keys in the clear".into());
            }
            found.jwks_uri
        }
    };
    serde_json::from_slice(&get(http, &url).await?).map_err(|_| "the keys do not read".into())
}

async fn get(http: &reqwest::Client, url: &str) -> Result<Vec<u8>, String> {
    let mut response = http.get(url).send().await.map_err(|error| error.to_string())?;
    if !response.status().is_success() {
        return Err(format!("it answered {}", response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| error.to_string())? {
        if body.len() + chunk.len() > MAX_DOCUMENT {
            return Err("its document is too long".into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
