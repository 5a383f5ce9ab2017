//! Access tokens: looked at by who issued them. What was said is remembered for a short while, under a keyed hash of the token, and
//! never longer than the token lives.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use keyfold_core::{
    clock::UnixTime,
    mac::HmacKey,
    rng::{self, RandomError, SystemRandom},
    secret::Secret,
};
use keyfold_custody::sessions::{IssuerError, PersonId};
use serde::Deserialize;
use serde_json::Value;

use super::{
    id_token::is_true,
    refused,
    settings::{Access, IssuerSettings},
    wire::{Answer, Wire, unavailable},
};

/// How long what was said is remembered: an issuer can take a token back meanwhile.
const REMEMBERED: Duration = Duration::from_secs(60);
const MOST: usize = 10_000;

/// What an issuer says of an access token.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    pub(super) sub: String,
    pub(super) email: Option<String>,
    pub(super) expires: UnixTime,
}

struct Remembered {
    verdict: Verdict,
    person: PersonId,
    said: Instant,
}

/// What issuers said lately.
pub(super) struct Verdicts {
    key: HmacKey,
    known: Mutex<HashMap<[u8; 32], Remembered>>,
}

impl Verdicts {
    pub(super) fn new() -> Result<Self, RandomError> {
        Ok(Self { key: HmacKey::new(&rng::array::<32>(&SystemRandom)?), known: Mutex::default() })
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<[u8; 32], Remembered>) -> T) -> T {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn name(&self, issuer: &str, token: &Secret) -> [u8; 32] {
        self.key.sign(&[issuer.as_bytes(), b"\0", token.expose()])
    }

    pub(super) fn get(&self, issuer: &str, token: &Secret, now: UnixTime) -> Option<Verdict> {
        let name = self.name(issuer, token);
        self.with(|known| {
            let fresh = |held: &&Remembered| held.said.elapsed() < REMEMBERED && now < held.verdict.expires;
            known.get(&name).filter(fresh).map(|held| held.verdict.clone())
        })
    }

    pub(super) fn keep(&self, issuer: &str, token: &Secret, verdict: Verdict, person: PersonId) {
        let name = self.name(issuer, token);
        self.with(|known| {
            if known.len() >= MOST {
                known.retain(|_, held| held.said.elapsed() < REMEMBERED);
            }
            if known.len() >= MOST {
                known.clear();
            }
            known.insert(name, Remembered { verdict, person, said: Instant::now() });
        });
    }

    pub(super) fn forget(&self, person: PersonId) {
        self.with(|known| known.retain(|_, held| held.person != person));
    }
}

/// A number, which Google writes as a text.
fn number(value: Option<&Value>) -> Option<u64> {
    value.and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()))
}

/// One word or several.
fn words(value: Option<&Value>) -> Vec<&str> {
    match value {
        Some(Value::String(text)) => text.split_whitespace().collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Google's shape, and that of RFC 7662.
#[derive(Deserialize, Default)]
struct Said {
    active: Option<bool>,
    sub: Option<String>,
    aud: Option<Value>,
    azp: Option<String>,
    client_id: Option<String>,
    iss: Option<String>,
    scope: Option<Value>,
    exp: Option<Value>,
    expires_in: Option<Value>,
    nbf: Option<u64>,
    token_type: Option<String>,
    email: Option<String>,
    email_verified: Option<Value>,
}

/// Asks the issuer.
pub(super) async fn ask(
    wire: &Wire,
    settings: &IssuerSettings,
    (introspection, secret): (Option<&str>, Option<&Secret>),
    token: &Secret,
    now: UnixTime,
) -> Result<Verdict, IssuerError> {
    let text = std::str::from_utf8(token.expose()).unwrap_or("");
    let failed = |what| unavailable(&settings.name, what);
    let answer = match &settings.access {
        Access::TokenInfo(url) => wire.get(url, &[("access_token", text)]).await.map_err(failed)?,
        Access::Introspection(url) => {
            let url = url.as_deref().or(introspection);
            let url = url.ok_or_else(|| failed("discovery names no introspection endpoint".into()))?;
            let form = [("token", text), ("token_type_hint", "access_token")];
            wire.post(url, &form, (&settings.client_id, secret)).await.map_err(failed)?
        }
    };
    judged(&answer, settings, now)
}

const AGAIN: &str = "sign in again, and send the tokens of that sign-in";

fn judged(answer: &Answer, settings: &IssuerSettings, now: UnixTime) -> Result<Verdict, IssuerError> {
    let introspected = matches!(settings.access, Access::Introspection(_));
    if !answer.is_success() {
        // Google says 400 of a token that it does not know. An introspection endpoint that refuses *us* says nothing of the token.
        return Err(match (introspected, answer.status) {
            (false, 400 | 401) => refused("the issuer does not know the access token, or it has expired", AGAIN),
            (_, status) => unavailable(&settings.name, format!("it answered {status}")),
        });
    }
    let said: Said = answer.json().ok_or_else(|| unavailable(&settings.name, "its answer does not read"))?;
    weighed(said, settings, now)
}

fn weighed(said: Said, settings: &IssuerSettings, now: UnixTime) -> Result<Verdict, IssuerError> {
    if matches!(settings.access, Access::Introspection(_)) && said.active != Some(true) {
        return Err(refused("the issuer does not know the access token, or it has expired", AGAIN));
    }
    if said.token_type.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case("refresh_token")) {
        return Err(refused("what was sent as access token is a refresh token", AGAIN));
    }
    let ours = |client: &str| client == settings.client_id || settings.audiences.iter().any(|known| known == client);
    // Whoever it was issued to must be us; where that is not said, it must be for us alone.
    let audiences = words(said.aud.as_ref());
    let party = said.azp.as_deref().or(said.client_id.as_deref());
    let for_us = match party {
        Some(party) => {
            ours(party) && (audiences.is_empty() || said.azp.is_none() || audiences.iter().any(|aud| ours(aud)))
        }
        None => !audiences.is_empty() && audiences.iter().all(|audience| ours(audience)),
    };
    if !for_us {
        return Err(refused(
            "the access token is another client's",
            "`client_id` and `audiences` of the issuer list ours",
        ));
    }
    let issuer = |iss: &str| iss == settings.issuer || settings.aliases.iter().any(|alias| alias == iss);
    if said.iss.as_deref().is_some_and(|iss| !issuer(iss)) {
        return Err(refused("the access token is of another issuer", AGAIN));
    }
    let Some(sub) = said.sub.filter(|sub| !sub.is_empty()) else {
        return Err(refused(
            "the issuer does not say whose access token it is",
            "ask for the scope `openid` at the sign-in, so that it does",
        ));
    };
    let expires = number(said.exp.as_ref())
        .or_else(|| number(said.expires_in.as_ref()).map(|left| now.0.saturating_add(left)))
        .ok_or_else(|| refused("the issuer does not say when the access token ends", AGAIN))?;
    if expires <= now.0 {
        return Err(refused("the access token has expired", AGAIN));
    }
    if expires < now.0.saturating_add(settings.min_left.as_secs()) {
        return Err(refused(
            "the access token ends too soon",
            "sign in again; `min_left` of the issuer says what is too soon",
        ));
    }
    if said.nbf.is_some_and(|from| from > now.0 + 30) {
        return Err(refused("the access token is not valid yet", "check the clocks"));
    }
    let scopes = words(said.scope.as_ref());
    if settings.scopes.iter().any(|scope| !scopes.contains(&scope.as_str())) {
        return Err(refused(
            "the access token lacks a scope that is required",
            "`scopes` of the issuer lists those that are; ask for them at the sign-in",
        ));
    }
    let email = said.email.filter(|_| is_true(said.email_verified.as_ref()));
    Ok(Verdict { sub, email, expires: UnixTime(expires) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::oidc::settings::SessionSettings;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn settings(access: &str) -> IssuerSettings {
        let text = format!(
            "[[issuers]]\nname = \"t\"\nissuer = \"https://t.example\"\nclient_id = \"us\"\naudiences = [\"frontend\"]\n\
             scopes = [\"cloud\"]\n{access}"
        );
        SessionSettings::parse(&text.parse().unwrap()).unwrap().issuers.remove(0)
    }

    fn why(said: Value, access: &str) -> &'static str {
        let said = serde_json::from_value(said).unwrap();
        match weighed(said, &settings(access), NOW) {
            Ok(_) => "taken",
            Err(IssuerError::Refused { what, .. }) => what,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn p24_what_tokeninfo_says_is_weighed_in_googles_shape() {
        let tokeninfo = "tokeninfo = \"https://t.example/tokeninfo\"";
        let good = json!({
            "azp": "us", "aud": "us", "sub": "1", "scope": "openid cloud", "exp": (NOW.0 + 100).to_string(),
            "expires_in": "100", "email": "a@b", "email_verified": "true"
        });
        assert_eq!(why(good.clone(), tokeninfo), "taken");
        let with = |change: Value| {
            let mut said = good.clone();
            for (key, value) in change.as_object().unwrap() {
                said[key] = value.clone();
            }
            why(said, tokeninfo)
        };
        assert_eq!(with(json!({ "aud": "frontend", "azp": "frontend" })), "taken");
        for (change, says) in [
            (json!({ "aud": "other", "azp": "other" }), "another client's"),
            (json!({ "aud": "other" }), "another client's"),
            (json!({ "azp": "other" }), "another client's"),
            (json!({ "aud": null, "azp": null }), "another client's"),
            (json!({ "sub": null }), "does not say whose"),
            (json!({ "exp": (NOW.0 - 1).to_string() }), "has expired"),
            (json!({ "exp": (NOW.0 + 5).to_string() }), "ends too soon"),
            (json!({ "exp": null, "expires_in": null }), "when the access token ends"),
            (json!({ "scope": "openid cloudy" }), "lacks a scope"),
        ] {
            assert!(with(change.clone()).contains(says), "{change}: {}", with(change.clone()));
        }
    }

    #[test]
    fn p24_what_introspection_says_is_weighed_by_rfc_7662() {
        let good = json!({
            "active": true, "client_id": "us", "sub": "1", "scope": "cloud", "exp": NOW.0 + 100, "aud": ["api"],
            "iss": "https://t.example", "token_type": "Bearer"
        });
        let introspection = "access = \"introspection\"";
        assert_eq!(why(good.clone(), introspection), "taken");
        let with = |change: Value| {
            let mut said = good.clone();
            for (key, value) in change.as_object().unwrap() {
                said[key] = value.clone();
            }
            why(said, introspection)
        };
        for (change, says) in [
            (json!({ "active": false }), "does not know"),
            (json!({ "active": null }), "does not know"),
            (json!({ "client_id": "other" }), "another client's"),
            (json!({ "client_id": null }), "another client's"),
            (json!({ "iss": "https://evil.example" }), "another issuer"),
            (json!({ "nbf": NOW.0 + 100 }), "not valid yet"),
            (json!({ "token_type": "refresh_token" }), "a refresh token"),
        ] {
            assert!(with(change.clone()).contains(says), "{change}: {}", with(change.clone()));
        }
    }

    #[test]
    fn p25_a_verdict_ends_with_its_token_and_is_dropped_with_its_person() {
        let verdicts = Verdicts::new().unwrap();
        let token = Secret::from("x".to_owned());
        let person =
            |sub: &str| keyfold_custody::sessions::Person { iss: "i".into(), sub: sub.into(), email: None }.id();
        let verdict = Verdict { sub: "1".into(), email: None, expires: UnixTime(NOW.0 + 10) };
        verdicts.keep("t", &token, verdict, person("1"));
        assert!(verdicts.get("t", &token, NOW).is_some());
        assert!(verdicts.get("t", &token, UnixTime(NOW.0 + 10)).is_none());
        assert!(verdicts.get("u", &token, NOW).is_none());
        verdicts.forget(person("2"));
        assert!(verdicts.get("t", &token, NOW).is_some());
        verdicts.forget(person("1"));
        assert!(verdicts.get("t", &token, NOW).is_none());
    }
}
