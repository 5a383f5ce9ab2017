//! Requests to one server, with a token that is renewed or fetched anew as it ends.
//!
//! Of an error's body only known phrases are looked for, and none of it is repeated: what refuses a request may answer with
//! the request itself.

use std::time::{Duration, Instant};

use keyfold_core::{clock::UnixTime, root::RootError, secret::Secret};
use reqwest::{StatusCode, header::HeaderValue};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::login::{Login, environment};
use crate::{Bounds, VaultAddress};

/// An answer over this many bytes is not one of ours.
const MAX_ANSWER: usize = 1 << 20;

/// How to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Post,
}

/// One server, as one process sees it.
pub(crate) struct Client {
    place: String,
    base: String,
    namespace: Option<String>,
    http: reqwest::Client,
    login: Login,
    session: Mutex<Option<Session>>,
    bounds: Bounds,
}

/// What lets this process in.
struct Session {
    token: Secret,
    began: Instant,
    /// `None` where it does not end, or nobody asked yet.
    lasts: Option<Duration>,
    renewable: bool,
}

impl Session {
    fn left(&self) -> Option<Duration> {
        self.lasts.map(|lasts| lasts.saturating_sub(self.began.elapsed()))
    }

    /// Past two thirds of its time.
    fn is_ageing(&self) -> bool {
        self.lasts.is_some_and(|lasts| self.began.elapsed() > lasts / 3 * 2)
    }
}

/// An answer with status 2xx.
pub(crate) struct Answer {
    pub(crate) body: Value,
    pub(crate) time: Option<UnixTime>,
}

/// A refusal, before anybody knows what it means for the caller.
struct Refused {
    status: StatusCode,
    body: String,
}

impl Client {
    /// A client for `place`, which is the URI that messages name.
    ///
    /// # Errors
    /// Nothing that would let this process in; a certificate file that cannot be read.
    pub(crate) fn new(place: String, address: &VaultAddress, bounds: Bounds) -> Result<Self, RootError> {
        let login = Login::from_environment(&place)?;
        let invalid = |why: String, hint: &str| RootError::Invalid { place: place.clone(), why, hint: hint.into() };
        let mut builder = reqwest::Client::builder()
            .connect_timeout(bounds.attempt)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("keyfold/", env!("CARGO_PKG_VERSION")));
        // Without TLS nothing leaves this machine, for a proxy of the environment neither.
        if !address.is_tls() {
            builder = builder.no_proxy();
        }
        if let Some(path) = environment("CACERT") {
            let hint = "BAO_CACERT or VAULT_CACERT names a file of certificates in PEM";
            let pem = std::fs::read(&path).map_err(|error| invalid(format!("{path}: {}", error.kind()), hint))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem);
            let certificates = certificates.map_err(|_| invalid(format!("{path}: not certificates in PEM"), hint))?;
            builder = builder.tls_certs_merge(certificates);
        }
        let http =
            builder.build().map_err(|_| invalid("TLS could not be set up".into(), "look at the certificates"))?;
        let namespace = address.namespace().map(str::to_owned).or_else(|| environment("NAMESPACE"));
        Ok(Self { base: address.url(), place, namespace, http, login, session: Mutex::new(None), bounds })
    }

    /// The URI that messages name.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Asks, within bounds, with a token; fetches a new one where the old one is no longer taken. `body` is sent as it is and
    /// must be JSON.
    ///
    /// # Errors
    /// See [`RootError`].
    pub(crate) async fn ask(&self, method: Method, path: &str, body: &Secret) -> Result<Answer, RootError> {
        self.bounds
            .hold(&self.place, || async {
                match self.once(method, path, body).await? {
                    Ok(answer) => Ok(answer),
                    Err(refused) if refused.status == StatusCode::FORBIDDEN && self.login.can_repeat() => {
                        // The token may have been revoked, or have ended earlier than was said.
                        *self.session.lock().await = None;
                        self.once(method, path, body).await?.map_err(|refused| self.error(&refused))
                    }
                    Err(refused) => Err(self.error(&refused)),
                }
            })
            .await
    }

    async fn once(&self, method: Method, path: &str, body: &Secret) -> Result<Result<Answer, Refused>, RootError> {
        let token = self.token().await?;
        self.send(method, path, Some(&token), body.expose()).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&Secret>,
        body: &[u8],
    ) -> Result<Result<Answer, Refused>, RootError> {
        let url = format!("{}/v1/{path}", self.base);
        let mut request = match method {
            Method::Get => self.http.get(url),
            Method::Post => self.http.post(url).header("content-type", "application/json").body(body.to_vec()),
        };
        request = request.header("x-vault-request", "true");
        if let Some(namespace) = &self.namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_bytes(token.expose()).map_err(|_| RootError::Invalid {
                place: self.place.clone(),
                why: "the token has characters that do not belong".into(),
                hint: "take it anew from `bao login`".into(),
            })?;
            value.set_sensitive(true);
            request = request.header("x-vault-token", value);
        }
        let mut response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let time = response.headers().get("date").and_then(|date| date.to_str().ok()).and_then(http_date);
        let mut bytes = Zeroizing::new(Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return Err(self.odd("the answer is over 1 MiB"));
            }
            bytes.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            return Ok(Err(Refused { status, body: String::from_utf8_lossy(&bytes).into_owned() }));
        }
        let body = if bytes.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(&bytes) };
        Ok(Ok(Answer { body: body.map_err(|_| self.odd("the answer is not JSON"))?, time }))
    }

    /// The token, renewed or fetched where that is due.
    async fn token(&self) -> Result<Secret, RootError> {
        let mut held = self.session.lock().await;
        if let Some(session) = held.as_mut()
            && session.is_ageing()
        {
            if session.renewable {
                self.renew(session).await;
            }
            if session.left().is_some_and(|left| left.is_zero()) {
                *held = None;
            }
        }
        if held.as_ref().is_none_or(|session| session.is_ageing() && self.login.can_repeat()) {
            *held = Some(self.log_in().await?);
        }
        held.as_ref().map(|session| Secret::from(session.token.expose())).ok_or_else(|| self.odd("no token"))
    }

    async fn log_in(&self) -> Result<Session, RootError> {
        let (path, body) = match &self.login {
            Login::Token(token) => {
                let token = Secret::from(token.expose());
                return Ok(Session { token, began: Instant::now(), lasts: None, renewable: false });
            }
            login => login.request(&self.place)?,
        };
        match self.send(Method::Post, &path, None, body.expose()).await? {
            Ok(answer) => {
                session(&answer.body["auth"]).ok_or_else(|| self.odd("the login was answered without a token"))
            }
            Err(refused) if refused.status.is_server_error() || refused.status == StatusCode::TOO_MANY_REQUESTS => {
                Err(self.error(&refused))
            }
            Err(refused) => Err(RootError::Denied {
                place: self.place.clone(),
                why: format!("the login by {} was refused (HTTP {})", self.login.name(), refused.status.as_u16()),
            }),
        }
    }

    /// Best effort: where it fails, the token is used as long as it lasts.
    async fn renew(&self, session: &mut Session) {
        match self.send(Method::Post, "auth/token/renew-self", Some(&session.token), b"{}").await {
            Ok(Ok(answer)) => {
                if let Some(renewed) = self::session(&answer.body["auth"]) {
                    *session = renewed;
                }
            }
            Ok(Err(refused)) => {
                tracing::warn!(place = self.place, status = refused.status.as_u16(), "the token could not be renewed");
            }
            Err(error) => tracing::warn!(%error, "the token could not be renewed"),
        }
    }

    /// Asks how long the token lasts, renews it where it is past half of its time, and gives the server's clock.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub(crate) async fn tend(&self) -> Result<(Option<UnixTime>, Option<Duration>), RootError> {
        let answer = self.ask(Method::Get, "auth/token/lookup-self", &Secret::from(&b""[..])).await?;
        let data = &answer.body["data"];
        let seconds = |name: &str| data[name].as_u64().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let (left, whole) = (seconds("ttl"), seconds("creation_ttl"));
        let mut held = self.session.lock().await;
        let Some(session) = held.as_mut() else { return Ok((answer.time, left)) };
        session.renewable = data["renewable"].as_bool().unwrap_or(false);
        (session.began, session.lasts) = (Instant::now(), left);
        if session.renewable && left.zip(whole).is_some_and(|(left, whole)| left < whole / 2) {
            self.renew(session).await;
        }
        Ok((answer.time, session.left()))
    }

    fn error(&self, refused: &Refused) -> RootError {
        let place = self.place.clone();
        let says = |phrase: &str| refused.body.contains(phrase);
        let unavailable = |why: &str, retry| RootError::Unavailable { place: place.clone(), why: why.into(), retry };
        match refused.status.as_u16() {
            400 if says("message authentication failed") || says("invalid ciphertext") => {
                RootError::Authentication { place }
            }
            400 if says("disallowed by policy") => {
                RootError::Disabled { place, why: "the version that wrapped is below min_decryption_version".into() }
            }
            400 if says("soft deleted") || says("soft-deleted") => {
                RootError::Disabled { place, why: "the key is soft-deleted".into() }
            }
            400 if says("encryption key not found") => {
                RootError::Missing { place, why: "no key of that name is in the transit engine".into() }
            }
            401 | 403 => RootError::Denied {
                place,
                why: format!("the token from {} may not do this, or ended", self.login.name()),
            },
            404 if says("no handler for route") => {
                RootError::Missing { place, why: "no engine is mounted there".into() }
            }
            404 => RootError::Missing { place, why: "nothing of that name is there".into() },
            412 => unavailable("the server has not caught up with its leader", true),
            429 => RootError::Throttled { place },
            503 if says("sealed") => unavailable("the server is sealed", true),
            status @ 500..=599 => unavailable(&format!("the server failed (HTTP {status})"), true),
            status => unavailable(&format!("the server refused the request (HTTP {status})"), false),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> RootError {
        // The innermost cause says what happened; the outer ones repeat the address.
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let retry = !cause.to_string().contains("certificate");
        RootError::Unavailable { place: self.place.clone(), why: format!("cannot be reached: {cause}"), retry }
    }

    /// An answer that no server of this kind gives.
    pub(crate) fn odd(&self, why: &str) -> RootError {
        RootError::Unavailable { place: self.place.clone(), why: why.into(), retry: false }
    }
}

fn session(auth: &Value) -> Option<Session> {
    let token = Secret::from(auth["client_token"].as_str()?.as_bytes());
    let lasts = auth["lease_duration"].as_u64().filter(|seconds| *seconds > 0).map(Duration::from_secs);
    Some(Session { token, began: Instant::now(), lasts, renewable: auth["renewable"].as_bool().unwrap_or(false) })
}

fn http_date(text: &str) -> Option<UnixTime> {
    let seconds = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_second();
    u64::try_from(seconds).ok().map(UnixTime)
}

/// The body of a request without members.
pub(crate) fn nothing() -> Secret {
    Secret::from(json!({}).to_string())
}
