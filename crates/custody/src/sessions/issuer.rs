//! What is asked of an issuer. The calls themselves are made where HTTP lives.

use async_trait::async_trait;
use keyfold_core::{clock::UnixTime, error::Hint, secret::Secret};

use super::{Person, PersonId};
use crate::broker::{Destination, Exchange, ServiceAccount};

/// What a sign-in brought, to be verified.
pub struct Presented {
    /// The name of the issuer, where the caller said it.
    pub issuer: Option<String>,
    /// The access token.
    pub access_token: Secret,
    /// The ID token of the same sign-in.
    pub id_token: Option<Secret>,
    /// What the ID token must repeat.
    pub nonce: Option<String>,
}

/// A sign-in that was verified: whose tokens they are, and how long the access token lasts.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The name under which the issuer is configured.
    pub issuer: String,
    /// Whose.
    pub person: Person,
    /// The access token's last moment.
    pub expires: UnixTime,
}

/// A token that an issuer gave.
pub struct Granted {
    /// The access token.
    pub access_token: Secret,
    /// Its last moment.
    pub expires: UnixTime,
    /// The refresh token that takes the place of the one used, where there is one.
    pub refresh_token: Option<Secret>,
}

/// What an issuer said, or why it could not be asked.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// The tokens are not what they must be.
    #[error("{what}")]
    Refused {
        /// One line, without anything of a token.
        what: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// It could not be asked: nothing is known, and nothing is taken on trust.
    #[error("the issuer `{issuer}` cannot be asked: {what}")]
    Unavailable {
        /// Which.
        issuer: String,
        /// One line, without anything of a token.
        what: String,
    },
}

impl Hint for IssuerError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Refused { hint, .. } => (*hint).to_owned(),
            Self::Unavailable { .. } => "nothing was stored; try again once it answers".into(),
        })
    }
}

/// The issuers of a deployment.
#[async_trait]
pub trait Issuers: Send + Sync {
    /// Verifies that the tokens are for us, in force, and one person's.
    async fn verify(&self, presented: &Presented) -> Result<Verified, IssuerError>;

    /// Whether sign-ins at this issuer may bring refresh tokens.
    fn refreshes(&self, issuer: &str) -> bool;

    /// A new access token for a refresh token. [`IssuerError::Refused`] means that the refresh token is over for good.
    async fn refresh(&self, issuer: &str, token: &Secret) -> Result<Granted, IssuerError>;

    /// A token narrowed to a destination (RFC 8693).
    async fn exchange(&self, issuer: &str, token: &Secret, to: &Exchange) -> Result<Granted, IssuerError>;

    /// A service account's own token, for a destination that names it as fallback.
    async fn service_account(
        &self,
        account: &ServiceAccount,
        destination: &Destination,
    ) -> Result<Granted, IssuerError>;

    /// Drops what is remembered of a person's tokens.
    fn forget(&self, person: PersonId);
}
