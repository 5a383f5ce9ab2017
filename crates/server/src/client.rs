//! The other side of the API, for the command line.

use std::{sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use keyfold_core::error::Hint;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::proxy::sidecar::{Holder, SidecarError};

/// How long a call may take. Changes of keys wait for other processes.
const TIME: Duration = Duration::from_secs(60);
/// An answer over this many bytes is not one.
const MAX_ANSWER: usize = 64 << 20;

/// A server, and the token to show it.
pub struct Client {
    base: String,
    token: Zeroizing<String>,
    http: reqwest::Client,
    /// Who has to hold the other end of a connection without TLS.
    holder: Option<Arc<Holder>>,
}

/// Why there is no answer.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server said so.
    #[error("{message}")]
    Problem {
        /// The status.
        status: u16,
        /// The stable code.
        code: String,
        /// One line.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The server was not reached, or broke off.
    #[error("the server at {base} cannot be reached")]
    Unreachable {
        /// Where.
        base: String,
        /// Why.
        source: reqwest::Error,
    },
    /// Somebody else's process answers there.
    #[error(transparent)]
    Stranger(SidecarError),
    /// It answered, and not as a Keyfold server does.
    #[error("what answers at {base} is not a Keyfold server, or another version of it")]
    Strange {
        /// Where.
        base: String,
    },
    /// Not an address that a token may be sent to.
    #[error("the server is written https://HOST, or http:// on this machine")]
    Address,
}

impl Hint for ClientError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Problem { hint, .. } => hint.clone(),
            Self::Unreachable { .. } => Some("is it running? start it with `keyfold serve`; check --server".into()),
            Self::Stranger(error) => error.hint(),
            Self::Strange { .. } => Some("check --server, and what stands in front of it".into()),
            Self::Address => Some("a token is not sent in the clear to another machine".into()),
        }
    }
}

/// A path with the parts of it that a caller named, percent-encoded.
#[must_use]
pub fn path(parts: &[&str]) -> String {
    let mut path = String::from("/v1");
    for part in parts {
        path.push('/');
        for byte in part.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => path.push(char::from(byte)),
                // A lone dot or two would be taken for a direction.
                byte => path.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    path
}

impl Client {
    /// For a server.
    ///
    /// # Errors
    /// An address that a token would cross the network to in the clear.
    pub fn new(base: &str, token: Zeroizing<String>) -> Result<Self, ClientError> {
        let base = base.trim_end_matches('/');
        if !crate::settings::safe(base) || base.contains('@') {
            return Err(ClientError::Address);
        }
        let mut http = reqwest::Client::builder().timeout(TIME).redirect(reqwest::redirect::Policy::none());
        // Without TLS the token stays on this machine: a proxy of the environment does not see it.
        if !base.starts_with("https:") {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|source| ClientError::Unreachable { base: base.into(), source })?;
        Ok(Self { base: base.to_owned(), token, http, holder: None })
    }

    /// The same; without TLS the token goes to a process of theirs alone.
    #[must_use]
    pub fn held_by(self, holder: Arc<Holder>) -> Self {
        let clear = !self.base.starts_with("https:");
        Self { holder: clear.then_some(holder), ..self }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, ClientError> {
        let failed =
            |source: reqwest::Error| ClientError::Unreachable { base: self.base.clone(), source: source.without_url() };
        let Some(holder) = &self.holder else { return request.send().await.map_err(failed) };
        let strange = || ClientError::Strange { base: self.base.clone() };
        let request = request.build().map_err(failed)?;
        let host = request.url().host_str().ok_or(ClientError::Address)?.to_owned();
        let port = request.url().port_or_known_default().ok_or(ClientError::Address)?;
        let mut request = axum::http::Request::<reqwest::Body>::try_from(request).map_err(failed)?;
        let authority = request.uri().authority().ok_or(ClientError::Address)?.as_str().parse();
        request.headers_mut().insert("host", authority.map_err(|_| ClientError::Address)?);
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).parse();
        *request.uri_mut() = target.map_err(|_| ClientError::Address)?;
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let answered = async {
            let stream = holder.connect(name, port).await.map_err(ClientError::Stranger)?;
            let spoken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
            let (mut sender, connection) = spoken.map_err(|_| strange())?;
            tokio::spawn(connection);
            let response = sender.send_request(request).await.map_err(|_| strange())?;
            Ok(reqwest::Response::from(response.map(reqwest::Body::wrap)))
        };
        tokio::time::timeout(TIME, answered).await.map_err(|_| strange())?
    }

    /// Calls, with a JSON body where there is one and an ETag that must still hold.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<Zeroizing<Vec<u8>>>,
        if_match: Option<(&'static str, String)>,
    ) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let method = method.parse().map_err(|_| ClientError::Address)?;
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&*self.token);
        if let Some((name, value)) = if_match {
            request = request.header(name, value);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_vec());
        }
        let failed =
            |source: reqwest::Error| ClientError::Unreachable { base: self.base.clone(), source: source.without_url() };
        let mut response = self.send(request).await?;
        let status = response.status();
        let mut bytes = Zeroizing::new(Vec::with_capacity(16 << 10));
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return Err(ClientError::Strange { base: self.base.clone() });
            }
            bytes.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(bytes);
        }
        let problem: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let text = |key: &str| problem.get(key).and_then(Value::as_str).map(str::to_owned);
        match (text("code"), text("detail")) {
            (Some(code), Some(message)) => {
                Err(ClientError::Problem { status: status.as_u16(), code, message, hint: text("hint") })
            }
            _ => Err(ClientError::Strange { base: self.base.clone() }),
        }
    }

    /// As [`Client::call`], for an answer in JSON.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn json(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let body = body.map(|body| Zeroizing::new(body.to_string().into_bytes()));
        let bytes = self.call(method, path, body, None).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|_| ClientError::Strange { base: self.base.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_named_stays_one_part_of_the_path() {
        assert_eq!(
            path(&["collections", "a", "records", "../b/c?d#e:f"]),
            "/v1/collections/a/records/%2E%2E%2Fb%2Fc%3Fd%23e%3Af"
        );
    }

    #[test]
    fn a_token_is_not_sent_in_the_clear_to_another_machine() {
        let token = || Zeroizing::new("kfo_x".to_owned());
        for bad in [
            "http://example.com",
            "ftp://127.0.0.1",
            "127.0.0.1:8740",
            "http://127.0.0.1@evil.example",
            "http://localhost.evil.example",
        ] {
            assert!(matches!(Client::new(bad, token()), Err(ClientError::Address)), "{bad}");
        }
        assert!(Client::new("http://127.0.0.1:8740/", token()).is_ok());
        assert!(Client::new("https://keyfold.example", token()).is_ok());
    }
}
