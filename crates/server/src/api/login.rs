//! `/auth/login` and `/auth/callback`: signing in without a frontend, by authorization code with PKCE. It ends in a session, whose
//! cookie the browser gets.
//!
//! What the way back must match is sealed in a cookie of the browser that set out: another browser cannot be made to come back in its
//! place, and the service keeps nothing of sign-ins that are never finished.

use std::sync::Arc;

use axum::{
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64_simd::URL_SAFE_NO_PAD;
use keyfold_core::{
    mac::sha256,
    rng::{self, SystemRandom},
    secret::Secret,
};
use keyfold_custody::sessions::{IssuerError, NewSession, Presented, Refused};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};
use zeroize::{Zeroize, Zeroizing};

use super::sessions::set_cookie;
use crate::{
    auth::person::{COOKIE, cookie},
    oidc::{Asked, settings::SignIn},
    people::People,
    problem::Problem,
    service::Service,
};

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new().routes(routes!(login)).routes(routes!(callback))
}

/// The cookie of a sign-in under way.
const LOGIN: &str = "__Host-keyfold-login";
/// How long a person may take at the issuer, in seconds.
const TIME: u64 = 600;

/// What was begun. Sealed in the browser's cookie.
#[derive(Serialize, Deserialize, Zeroize)]
#[zeroize(drop)]
struct Begun {
    state: String,
    nonce: String,
    verifier: String,
    next: String,
    until: u64,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LoginQuery {
    /// The path to go to afterwards.
    next: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct CallbackQuery {
    /// What the issuer gave.
    code: Option<String>,
    /// What was sent along.
    state: Option<String>,
    /// Why the issuer gave nothing.
    error: Option<String>,
}

/// A place on this site, and on no other.
fn local(next: &str) -> bool {
    next.starts_with('/')
        && !next.starts_with("//")
        && next.len() <= 1000
        && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
}

fn open(service: &Service) -> Result<(&Arc<People>, &SignIn), Problem> {
    let people = service.people();
    people.and_then(|people| Some((people, people.sign_in.as_ref()?))).ok_or_else(|| {
        Problem::not_found("nobody signs in here").hint("configure [sessions.sign_in]; docs/sessions.md says how")
    })
}

fn random() -> Result<String, Problem> {
    let bytes = rng::array::<32>(&SystemRandom).map_err(|error| Problem::internal(&error))?;
    Ok(URL_SAFE_NO_PAD.encode_to_string(bytes))
}

fn redirect(to: &str, cookies: &[HeaderValue]) -> Result<Response, Problem> {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let location = HeaderValue::from_str(to).map_err(|error| Problem::internal(&error))?;
    response.headers_mut().insert(header::LOCATION, location);
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie.clone());
    }
    Ok(response)
}

/// Send a browser to the issuer
#[utoipa::path(get, path = "/auth/login", tag = "sessions", security(()), params(LoginQuery),
    responses((status = 303, description = "To the issuer")))]
async fn login(State(service): State<Arc<Service>>, Query(query): Query<LoginQuery>) -> Result<Response, Problem> {
    let (people, sign_in) = open(&service)?;
    let next = query.next.unwrap_or_else(|| "/".into());
    if !local(&next) {
        return Err(Problem::bad_request("`next` is a path of this site").hint("write it as /path"));
    }
    let now = service.custody.auditor.clock().now();
    let begun = Begun { state: random()?, nonce: random()?, verifier: random()?, next, until: now.0 + TIME };
    let challenge = URL_SAFE_NO_PAD.encode_to_string(sha256(&[begun.verifier.as_bytes()]));
    let back = format!("{}/auth/callback", sign_in.public_url);
    let asked = Asked { redirect_uri: &back, state: &begun.state, nonce: &begun.nonce, challenge: &challenge };
    let url = people.oidc.authorization_url(&sign_in.issuer, &sign_in.scopes, &asked).await;
    let url = url.map_err(|error| Problem::from(Refused::from(error)))?;
    let json = Zeroizing::new(serde_json::to_vec(&begun).map_err(|error| Problem::internal(&error))?);
    let sealed = people.sessions().wrap(&json).await?;
    redirect(&url, &[set_cookie(LOGIN, &sealed, TIME)?])
}

/// Finish a sign-in
#[utoipa::path(get, path = "/auth/callback", tag = "sessions", security(()), params(CallbackQuery),
    responses((status = 303, description = "Signed in; to where it began")))]
async fn callback(
    State(service): State<Arc<Service>>,
    Query(query): Query<CallbackQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (people, sign_in) = open(&service)?;
    let again = |what: &str| Problem::no_proof("sign_in_refused", what).hint("begin again at /auth/login");
    let now = service.custody.auditor.clock().now();
    let sealed = cookie(&headers, LOGIN).ok_or_else(|| again("this browser did not begin a sign-in"))?;
    let opened = people.sessions().unwrap(sealed).map_err(|_| again("this browser did not begin a sign-in"))?;
    let begun: Begun = serde_json::from_slice(opened.expose()).map_err(|error| Problem::internal(&error))?;
    if now.0 >= begun.until {
        return Err(again("the sign-in took too long"));
    }
    let state = query.state.unwrap_or_default();
    aws_lc_rs::constant_time::verify_slices_are_equal(state.as_bytes(), begun.state.as_bytes())
        .map_err(|_| again("the sign-in that came back is not the one that was begun"))?;
    if query.error.is_some() {
        return Err(again("the issuer refused the sign-in"));
    }
    let code = query.code.filter(|code| code.len() <= 2048).ok_or_else(|| again("the issuer sent no code"))?;
    let back = format!("{}/auth/callback", sign_in.public_url);
    let verifier = Secret::from(begun.verifier.as_bytes());
    let signed_in = people.oidc.redeem(&sign_in.issuer, &code, &verifier, &back).await;
    let signed_in = signed_in.map_err(|error: IssuerError| Problem::from(Refused::from(error)))?;
    let new = NewSession {
        presented: Presented {
            issuer: Some(sign_in.issuer.clone()),
            access_token: signed_in.granted.access_token,
            id_token: Some(signed_in.id_token),
            nonce: Some(begun.nonce.clone()),
        },
        refresh_token: signed_in.granted.refresh_token,
        project: None,
        state: None,
        cookie: true,
        handle: None,
    };
    let made = people.sessions().create(&people.sign_in_permit()?, new).await?;
    let value = made.cookie.as_ref().and_then(|cookie| std::str::from_utf8(cookie.expose()).ok()).unwrap_or("");
    let left = made.session.until.0.saturating_sub(now.0);
    redirect(&begun.next, &[set_cookie(COOKIE, value, left)?, set_cookie(LOGIN, "", 0)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_in_ends_on_this_site() {
        for good in ["/", "/console", "/a?b=c#d"] {
            assert!(local(good), "{good}");
        }
        for bad in ["", "console", "//evil.example", "/\\evil.example", "https://evil.example", "/a b", "/a\nb", "/ä"]
        {
            assert!(!local(bad), "{bad}");
        }
    }
}
