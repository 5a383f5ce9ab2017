//! What a token endpoint gives: for a code, for a refresh token, for another token.

use keyfold_core::{clock::UnixTime, secret::Secret};
use keyfold_custody::{
    broker::Exchange,
    sessions::{Granted, IssuerError, is_token},
};
use serde::Deserialize;

use super::{
    Issuer, Oidc, refused,
    wire::{Answer, Wire, query, unavailable},
};

const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// `invalid_grant` (RFC 6749, section 5.2), and nothing else.
const OVER: &str = "the issuer does not take the grant any more";
/// How long a token lasts whose issuer does not say: until it is verified, which says.
const UNSAID: u64 = 300;

#[derive(Deserialize)]
struct Given {
    access_token: String,
    expires_in: Option<u64>,
    refresh_token: Option<String>,
    id_token: Option<String>,
    token_type: Option<String>,
}

#[derive(Deserialize, Default)]
struct Problem {
    error: Option<String>,
}

/// What a code was good for.
pub(crate) struct SignedIn {
    pub(crate) granted: Granted,
    pub(crate) id_token: Secret,
}

fn given(issuer: &str, answer: &Answer, now: UnixTime) -> Result<(Granted, Option<Secret>), IssuerError> {
    if !answer.is_success() {
        let problem: Problem = answer.json().unwrap_or_default();
        return Err(match (answer.status, problem.error.as_deref()) {
            (400 | 401 | 403, Some("invalid_grant")) => refused(OVER, "sign in again"),
            (400 | 401 | 403, Some("invalid_client" | "unauthorized_client")) => {
                unavailable(issuer, "it does not take our `client_id` and `client_secret`")
            }
            (400 | 403, Some("invalid_target" | "invalid_scope" | "unsupported_grant_type" | "invalid_request")) => {
                refused(
                    "the issuer does not give such a token",
                    "look at `exchange` of the destination, and at what the issuer offers",
                )
            }
            (status, _) => unavailable(issuer, format!("its token endpoint answered {status}")),
        });
    }
    let given: Given = answer.json().ok_or_else(|| unavailable(issuer, "its token endpoint's answer does not read"))?;
    let bearer = given.token_type.as_deref().is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
    if !bearer || !is_token(given.access_token.as_bytes()) {
        return Err(refused("the issuer gave something that is no bearer token", "look at what the issuer offers"));
    }
    let granted = Granted {
        access_token: Secret::from(given.access_token),
        expires: UnixTime(now.0.saturating_add(given.expires_in.unwrap_or(UNSAID))),
        refresh_token: given.refresh_token.filter(|token| is_token(token.as_bytes())).map(Secret::from),
    };
    Ok((granted, given.id_token.map(Secret::from)))
}

async fn token_endpoint(wire: &Wire, issuer: &Issuer) -> Result<String, IssuerError> {
    let endpoints = issuer.published.endpoints(wire, &issuer.settings.name, &issuer.settings.issuer).await?;
    endpoints
        .token_endpoint
        .clone()
        .ok_or_else(|| unavailable(&issuer.settings.name, "discovery names no token endpoint"))
}

async fn post(
    wire: &Wire,
    issuer: &Issuer,
    url: &str,
    form: &[(&str, &str)],
    now: UnixTime,
) -> Result<(Granted, Option<Secret>), IssuerError> {
    let name = &issuer.settings.name;
    let answer = wire.post(url, form, (&issuer.settings.client_id, issuer.secret.as_ref())).await;
    given(name, &answer.map_err(|what| unavailable(name, what))?, now)
}

fn text(token: &Secret) -> &str {
    std::str::from_utf8(token.expose()).unwrap_or("")
}

pub(super) async fn refresh(
    wire: &Wire,
    issuer: &Issuer,
    token: &Secret,
    now: UnixTime,
) -> Result<Granted, IssuerError> {
    let url = token_endpoint(wire, issuer).await?;
    let form = [("grant_type", "refresh_token"), ("refresh_token", text(token))];
    post(wire, issuer, &url, &form, now).await.map(|given| given.0).map_err(|error| kept(&issuer.settings.name, error))
}

/// Only `invalid_grant` says that a refresh token is over. Whatever else an issuer does not like may be mended, and the token
/// must still be there then.
fn kept(issuer: &str, error: IssuerError) -> IssuerError {
    match error {
        IssuerError::Refused { what, .. } if what != OVER => unavailable(issuer, what),
        other => other,
    }
}

pub(super) async fn exchange(
    wire: &Wire,
    issuer: &Issuer,
    token: &Secret,
    to: &Exchange,
    now: UnixTime,
) -> Result<Granted, IssuerError> {
    let url = match &issuer.settings.exchange {
        Some(url) => url.clone(),
        None => token_endpoint(wire, issuer).await?,
    };
    let mut form = vec![
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token", text(token)),
        ("subject_token_type", ACCESS_TOKEN),
        ("requested_token_type", ACCESS_TOKEN),
    ];
    for (name, value) in [("audience", &to.audience), ("resource", &to.resource), ("scope", &to.scope)] {
        if let Some(value) = value {
            form.push((name, value));
        }
    }
    Ok(post(wire, issuer, &url, &form, now).await?.0)
}

/// What a sign-in begins with: who must come back, and with what.
pub(crate) struct Asked<'a> {
    pub(crate) redirect_uri: &'a str,
    pub(crate) state: &'a str,
    pub(crate) nonce: &'a str,
    /// The SHA-256 of the verifier, base64url.
    pub(crate) challenge: &'a str,
}

impl Oidc {
    /// Where a browser is sent to sign in.
    ///
    /// # Errors
    /// The issuer publishes no such place, or cannot be asked.
    pub(crate) async fn authorization_url(
        &self,
        name: &str,
        scopes: &[String],
        begun: &Asked<'_>,
    ) -> Result<String, IssuerError> {
        let issuer = self.named(name)?;
        let endpoints = issuer.published.endpoints(&self.wire, name, &issuer.settings.issuer).await?;
        let url = endpoints.authorization_endpoint.as_ref();
        let url = url.ok_or_else(|| unavailable(name, "discovery names no authorization endpoint"))?;
        let scope = scopes.iter().chain(&issuer.settings.scopes).fold(String::new(), |mut all, scope| {
            if !all.split(' ').any(|one| one == scope) {
                if !all.is_empty() {
                    all.push(' ');
                }
                all.push_str(scope);
            }
            all
        });
        let mut pairs = vec![
            ("response_type", "code"),
            ("client_id", issuer.settings.client_id.as_str()),
            ("redirect_uri", begun.redirect_uri),
            ("scope", &scope),
            ("state", begun.state),
            ("nonce", begun.nonce),
            ("code_challenge", begun.challenge),
            ("code_challenge_method", "S256"),
        ];
        if issuer.settings.refresh {
            // As Google names it; others read `offline_access` among the scopes, which is the configuration's to ask for.
            pairs.push(("access_type", "offline"));
        }
        let query = query(&pairs);
        let query = if url.contains('?') { query.replacen('?', "&", 1) } else { query };
        Ok(format!("{url}{query}"))
    }

    /// Takes a code to the token endpoint.
    ///
    /// # Errors
    /// The issuer does not take it, gives no ID token for it, or cannot be asked.
    pub(crate) async fn redeem(
        &self,
        name: &str,
        code: &str,
        verifier: &Secret,
        redirect_uri: &str,
    ) -> Result<SignedIn, IssuerError> {
        let issuer = self.named(name)?;
        let url = token_endpoint(&self.wire, issuer).await?;
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", text(verifier)),
        ];
        let (granted, id_token) = post(&self.wire, issuer, &url, &form, self.clock.now()).await?;
        let id_token = id_token.filter(|token| is_token(token.expose()));
        let id_token = id_token.ok_or_else(|| refused("the issuer gave no ID token", "ask for the scope `openid`"))?;
        Ok(SignedIn { granted, id_token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refreshing(status: u16, body: &str) -> IssuerError {
        let answer = Answer::of(status, body);
        kept("corp", given("corp", &answer, UnixTime(0)).err().expect("an error"))
    }

    #[test]
    fn only_invalid_grant_ends_a_refresh_token() {
        assert!(matches!(refreshing(400, r#"{"error":"invalid_grant"}"#), IssuerError::Refused { .. }));
        for (status, body) in [
            (400, r#"{"error":"invalid_scope"}"#),
            (400, r#"{"error":"invalid_request"}"#),
            (401, r#"{"error":"invalid_client"}"#),
            (400, "{}"),
            (503, r#"{"error":"invalid_grant"}"#),
            (200, r#"{"access_token":"t","token_type":"mac"}"#),
        ] {
            assert!(matches!(refreshing(status, body), IssuerError::Unavailable { .. }), "{status} {body}");
        }
    }
}
