//! Calls to issuers: bounded in time and size, over TLS except on this machine, and without a token in any error.

use std::time::Duration;

use keyfold_core::secret::Secret;
use keyfold_custody::sessions::IssuerError;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// How long an issuer may take.
const TIME: Duration = Duration::from_secs(5);
/// An answer over this many bytes is not one.
const MAX_ANSWER: usize = 256 << 10;

/// A client that follows nobody elsewhere.
pub(super) struct Wire(reqwest::Client);

/// What was answered.
pub(super) struct Answer {
    pub(super) status: u16,
    body: Zeroizing<Vec<u8>>,
}

impl Answer {
    #[cfg(test)]
    pub(super) fn of(status: u16, body: &str) -> Self {
        Self { status, body: body.as_bytes().to_vec().into() }
    }

    pub(super) const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// Reads JSON; what does not read is not repeated.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// Why there is no answer, for [`IssuerError::Unavailable`].
pub(super) type Failed = String;

impl Wire {
    pub(super) fn new() -> Result<Self, reqwest::Error> {
        let builder = reqwest::Client::builder().timeout(TIME).redirect(reqwest::redirect::Policy::none());
        builder.user_agent("keyfold").build().map(Self)
    }

    pub(super) async fn get(&self, url: &str, query: &[(&str, &str)]) -> Result<Answer, Failed> {
        let mut url: reqwest::Url = url.parse().map_err(|_| "its address does not read".to_owned())?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.send(self.0.get(url)).await
    }

    /// Sends a form, with the client's own proof where there is one.
    pub(super) async fn post(
        &self,
        url: &str,
        form: &[(&str, &str)],
        client: (&str, Option<&Secret>),
    ) -> Result<Answer, Failed> {
        let mut body = Zeroizing::new(String::with_capacity(4096));
        for (name, value) in form {
            let separator = if body.is_empty() { "" } else { "&" };
            body.push_str(separator);
            encode(name, &mut body);
            body.push('=');
            encode(value, &mut body);
        }
        let (id, secret) = client;
        let mut request = self.0.post(url).header("content-type", "application/x-www-form-urlencoded");
        match secret.and_then(|secret| std::str::from_utf8(secret.expose()).ok()) {
            Some(secret) => {
                // RFC 6749 §2.3.1: each part is encoded like a form's value first.
                let (mut user, mut password) = (Zeroizing::new(String::new()), Zeroizing::new(String::new()));
                encode(id, &mut user);
                encode(secret, &mut password);
                request = request.basic_auth(&*user, Some(&*password));
            }
            None => {
                body.push_str("&client_id=");
                encode(id, &mut body);
            }
        }
        self.send(request.body(body.to_string())).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, Failed> {
        // Without its URL, which can hold a token.
        let failed = |error: reqwest::Error| {
            let what = if error.is_timeout() {
                "it did not answer in time"
            } else if error.is_connect() {
                "no connection"
            } else {
                "the call broke off"
            };
            tracing::debug!(error = %error.without_url(), "a call to an issuer failed");
            what.to_owned()
        };
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status().as_u16();
        let mut body = Zeroizing::new(Vec::with_capacity(16 << 10));
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err("its answer is too long".into());
            }
            body.extend_from_slice(&chunk);
        }
        if status >= 500 || status == 429 {
            return Err(format!("it answered {status}"));
        }
        Ok(Answer { status, body })
    }
}

/// As in a form.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            byte => {
                use std::fmt::Write as _;
                // Writing to a string does not fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

pub(super) fn unavailable(issuer: &str, what: impl Into<String>) -> IssuerError {
    IssuerError::Unavailable { issuer: issuer.to_owned(), what: what.into() }
}

/// A query of a redirect, encoded.
pub(super) fn query(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        out.push(if out.is_empty() { '?' } else { '&' });
        encode(name, &mut out);
        out.push('=');
        encode(value, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_one_value() {
        assert_eq!(query(&[("a", "b&c=d e+f/ä")]), "?a=b%26c%3Dd%20e%2Bf%2F%C3%A4");
    }
}
