//! Why a session is not taken, or its token not given: one list of reasons for every path.

use keyfold_core::error::Hint;

use crate::error::CustodyError;

/// Why a call is refused. The words hold no secret and name no other person.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reason {
    /// No handle came with the call, and the rules are strict.
    #[error("no user token: the call came without a session")]
    NoSession,
    /// Not a handle of a session that is known here.
    #[error("the session is not known here")]
    Unknown,
    /// Its time is over.
    #[error("the session has ended: its time is over")]
    Expired,
    /// Somebody ended it.
    #[error("the session has ended: it was revoked")]
    Revoked,
    /// Its token cannot be opened any more.
    #[error("the session has ended: the key that sealed it is gone")]
    KeyGone,
    /// What is stored is not what was written.
    #[error("the session is refused: what is stored of it does not authenticate")]
    Tampered,
    /// The access token is past its end and there is no way to a new one.
    #[error("the user's access token has expired")]
    TokenExpired,
    /// The issuer refused a new token.
    #[error("the issuer gives no new token for this session")]
    NotRefreshed,
    /// The handle is another agent's.
    #[error("the handle was made for another agent")]
    OtherAgent,
    /// A cookie where a handle belongs, or the other way round.
    #[error("a browser's cookie does not stand for a handle")]
    OtherKind,
    /// The handle was narrowed to other destinations.
    #[error("the handle does not reach this destination")]
    Destination,
    /// The handle was narrowed to other methods.
    #[error("the handle does not allow this method")]
    Method,
    /// Sessions could not be looked at for too long.
    #[error("sessions cannot be checked at the moment")]
    Stale,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::NoSession,
        Self::Unknown,
        Self::Expired,
        Self::Revoked,
        Self::KeyGone,
        Self::Tampered,
        Self::TokenExpired,
        Self::NotRefreshed,
        Self::OtherAgent,
        Self::OtherKind,
        Self::Destination,
        Self::Method,
        Self::Stale,
    ];

    /// The stable code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoSession => "no_user_token",
            Self::Unknown => "session_unknown",
            Self::Expired => "session_expired",
            Self::Revoked => "session_revoked",
            Self::KeyGone => "session_key_gone",
            Self::Tampered => "session_refused",
            Self::TokenExpired => "token_expired",
            Self::NotRefreshed => "token_not_refreshed",
            Self::OtherAgent => "handle_of_another_agent",
            Self::OtherKind => "not_a_handle",
            Self::Destination => "destination_not_allowed",
            Self::Method => "method_not_allowed_by_handle",
            Self::Stale => "provider_unavailable",
        }
    }

    /// Whether somebody is known, and may not: the others are about who it is.
    #[must_use]
    pub const fn is_about_what(self) -> bool {
        matches!(self, Self::Destination | Self::Method)
    }
}

impl Hint for Reason {
    fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::NoSession => {
                    "send the session's handle in `Keyfold-Session`; a person signs in first, and no service account takes their place"
                }
                Self::Unknown => "was it cut when it was copied? make a new one after the person has signed in",
                Self::Expired | Self::TokenExpired | Self::NotRefreshed => "ask the person to sign in again",
                Self::Revoked => "ask the person to sign in again, if they did not mean to end it",
                Self::KeyGone => {
                    "sessions of an earlier run with a transient key end with it, and those of a retired key with that; ask the person \
                     to sign in again"
                }
                Self::Tampered => "ask the person to sign in again, and find out who writes to the store",
                Self::OtherAgent => "each agent gets a handle of its own from whoever holds the session",
                Self::OtherKind => "make a handle with `POST /v1/sessions/current/handles`",
                Self::Destination => "make a handle that names the destination; those it was made from must reach it too",
                Self::Method => "make a handle that names the method; those it was made from must allow it too",
                Self::Stale => "the store that holds the sessions cannot be reached; try again",
            }
            .into(),
        )
    }
}

/// A call that was not served: for one of our reasons, or because something that it needs failed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// By the rules.
    #[error(transparent)]
    For(#[from] Reason),
    /// By what an issuer answered, or did not.
    #[error(transparent)]
    Issuer(#[from] super::IssuerError),
    /// By a store, a key, the audit log, or a missing right.
    #[error(transparent)]
    Failed(#[from] CustodyError),
}

impl From<crate::store::StoreError> for Refused {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<keyfold_core::rng::RandomError> for Refused {
    fn from(error: keyfold_core::rng::RandomError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<crate::access::Refusal> for Refused {
    fn from(error: crate::access::Refusal) -> Self {
        Self::Failed(error.into())
    }
}

impl Hint for Refused {
    fn hint(&self) -> Option<String> {
        match self {
            Self::For(reason) => reason.hint(),
            Self::Issuer(error) => error.hint(),
            Self::Failed(error) => error.hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_code_of_its_own_and_a_hint() {
        let mut codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
        assert!(Reason::ALL.iter().all(|reason| reason.hint().is_some_and(|hint| hint.len() > 20)));
    }
}
