//! ID tokens: signed by a key of the issuer's, for us, in force, and about this access token.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64_simd::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, errors::ErrorKind, jwk::Jwk};
use keyfold_core::{clock::UnixTime, secret::Secret};
use keyfold_custody::sessions::IssuerError;
use serde::Deserialize;

use super::{refused, settings::IssuerSettings};

/// How far clocks may be apart, in seconds.
const LEEWAY: u64 = 30;

/// Which key a token names, and how it says it is signed. Nothing of it is believed yet.
pub(super) struct Named {
    pub(super) kid: Option<String>,
    algorithm: Algorithm,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// The claims that count.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    pub(super) sub: String,
    aud: Audience,
    azp: Option<String>,
    iat: Option<u64>,
    nonce: Option<String>,
    at_hash: Option<String>,
    pub(super) email: Option<String>,
    email_verified: Option<serde_json::Value>,
}

impl Claims {
    /// The address, where the issuer says that it was verified.
    pub(super) fn verified_email(&self) -> Option<String> {
        self.email.clone().filter(|_| is_true(self.email_verified.as_ref()))
    }
}

/// Issuers write it as a word or as a truth.
pub(super) fn is_true(value: Option<&serde_json::Value>) -> bool {
    value.is_some_and(|value| *value == true || value == "true")
}

/// The issuer that a token claims to be of, to find whose keys to ask for.
pub(super) fn claimed_issuer(jwt: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claimed {
        iss: String,
    }
    let payload = jwt.split('.').nth(1)?;
    let bytes = URL_SAFE_NO_PAD.decode_to_vec(payload).ok()?;
    serde_json::from_slice::<Claimed>(&bytes).ok().map(|claimed| claimed.iss)
}

/// Reads the header.
pub(super) fn named(jwt: &str, settings: &IssuerSettings) -> Result<Named, IssuerError> {
    // `none` and what is not known do not parse; the rest must be on the list.
    let algorithm = || {
        refused(
            "the ID token is signed by an algorithm that is not taken",
            "`algorithms` of the issuer lists those that are",
        )
    };
    let header = decode_header(jwt).map_err(|error| match error.kind() {
        ErrorKind::InvalidAlgorithmName | ErrorKind::Json(_) => algorithm(),
        _ => refused("the ID token does not read", "send it as the issuer gave it"),
    })?;
    if !settings.algorithms.contains(&header.alg) {
        return Err(algorithm());
    }
    Ok(Named { kid: header.kid, algorithm: header.alg })
}

/// Verifies everything that can be verified without asking anybody.
pub(super) fn verify(
    jwt: &str,
    (named, key): (&Named, &Jwk),
    settings: &IssuerSettings,
    about: (&Secret, Option<&str>),
    now: UnixTime,
) -> Result<Claims, IssuerError> {
    let hint = "sign in again, and send the tokens of that sign-in";
    if key.common.key_algorithm.is_some_and(|alg| alg.to_string() != format!("{:?}", named.algorithm)) {
        return Err(refused("the ID token's key is for another algorithm", hint));
    }
    let key = DecodingKey::from_jwk(key).map_err(|_| refused("the ID token's key does not read", hint))?;
    let mut validation = Validation::new(named.algorithm);
    let clients: Vec<&str> =
        std::iter::once(&settings.client_id).chain(&settings.audiences).map(String::as_str).collect();
    let issuers: Vec<&str> = std::iter::once(&settings.issuer).chain(&settings.aliases).map(String::as_str).collect();
    validation.set_audience(&clients);
    validation.set_issuer(&issuers);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.validate_nbf = true;
    validation.leeway = LEEWAY;
    let claims = decode::<Claims>(jwt, &key, &validation).map_err(|error| match error.kind() {
        ErrorKind::ExpiredSignature => refused("the ID token has expired", hint),
        ErrorKind::ImmatureSignature => refused("the ID token is not valid yet", "check the clocks"),
        ErrorKind::InvalidAudience => {
            refused("the ID token is for another client", "`client_id` and `audiences` of the issuer list ours")
        }
        ErrorKind::InvalidIssuer => refused("the ID token is of another issuer", hint),
        ErrorKind::InvalidSignature => refused("the ID token's signature does not hold", hint),
        ErrorKind::MissingRequiredClaim(_) => refused("the ID token lacks a claim that it must have", hint),
        _ => refused("the ID token does not read", "send it as the issuer gave it"),
    })?;
    let claims = claims.claims;
    let ours = |client: &str| clients.contains(&client);
    // Several audiences: the party that it was made for must be us (OpenID Connect Core §3.1.3.7).
    let party = match (&claims.azp, &claims.aud) {
        (Some(party), _) => ours(party),
        (None, Audience::One(audience)) => ours(audience),
        (None, Audience::Many(audiences)) => audiences.len() == 1,
    };
    if !party {
        return Err(refused(
            "the ID token was made for another client",
            "`client_id` and `audiences` of the issuer list ours",
        ));
    }
    if claims.iat.is_some_and(|issued| issued > now.0 + LEEWAY) {
        return Err(refused("the ID token comes from the future", "check the clocks"));
    }
    let (access, nonce) = about;
    if let Some(nonce) = nonce
        && claims.nonce.as_deref() != Some(nonce)
    {
        return Err(refused("the ID token has another nonce", "send the nonce of the same sign-in"));
    }
    if let Some(hash) = &claims.at_hash
        && verify_slices_are_equal(hash.as_bytes(), at_hash(named.algorithm, access).as_bytes()).is_err()
    {
        return Err(refused("the ID token is about another access token", hint));
    }
    Ok(claims)
}

/// The left half of the access token's hash, by the hash that the signature uses.
fn at_hash(algorithm: Algorithm, access: &Secret) -> String {
    use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
    let hash = match algorithm {
        Algorithm::RS384 | Algorithm::PS384 | Algorithm::ES384 => &SHA384,
        Algorithm::RS512 | Algorithm::PS512 | Algorithm::EdDSA => &SHA512,
        _ => &SHA256,
    };
    let hash = digest(hash, access.expose());
    URL_SAFE_NO_PAD.encode_to_string(&hash.as_ref()[..hash.as_ref().len() / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_an_access_token_is_that_of_the_specification() {
        // OpenID Connect Core, appendix A.3.
        let access = Secret::from("jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y".to_owned());
        assert_eq!(at_hash(Algorithm::RS256, &access), "77QmUPtjPfzWtF2AnpK9RQ");
    }
}
