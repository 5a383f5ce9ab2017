//! What a caller keeps with a session, and where [`Rules::auto_sre`](super::Rules::auto_sre) says so the token in it, for Auto SRE's
//! readers that share the store: `_user_access_token` as Fernet under the key that they hold, its keyed binding beside the state.
//!
//! Fernet binds nothing and their readers know no binding: what a writer of the store hands them they open. Keyfold opens the token
//! only where the session's document and the binding are its own.

use keyfold_core::{envelope::Format, keyring::Keyring, secret::Secret};
use std::sync::Arc;

use super::{
    EMAIL_FIELD, Reason, Refused, SESSIONS, Session, SessionId, Sessions, Standing, State, TOKEN_FIELD, json,
    sealed::{self, Sealed},
    session::StoredSession,
};
use crate::{
    error::CustodyError,
    store::{Expect, Put},
};

/// The holder of that copy.
const HOLDER: &str = "state";
const FIELD: &str = "/state/_user_access_token";

impl Sessions {
    /// Whether sessions can be made as the rules say: asked at the start, so that it is not the first sign-in that fails.
    ///
    /// # Errors
    /// Auto SRE's readers are to find tokens, and the key that they hold is not here.
    pub async fn ready(&self) -> Result<(), CustodyError> {
        if self.rules.auto_sre { readers(&*self.keys.sealing().await?).map(drop) } else { Ok(()) }
    }

    /// Writes a session's own document: a new one, or with a newer token in its state.
    pub(super) async fn put_session(
        &self,
        session: &Session,
        (state, token): (Option<State>, &Secret),
        expect: Expect,
    ) -> Result<Put, CustodyError> {
        let (stored, sealing) = self.with_token(session, state, token).await?;
        let key = format!("{SESSIONS}{}", session.id);
        let doc = self.voucher.vouch(&key, &json(&stored)?);
        if let Some(keyring) = &sealing {
            self.keys.confirm(keyring).await?;
        }
        // The keyring is held until here: until it is stored, this process still seals under that generation.
        Ok(self.system.put(&key, &doc, expect, Some(self.ttl(session.until))).await?)
    }

    async fn with_token(
        &self,
        session: &Session,
        mut state: Option<State>,
        token: &Secret,
    ) -> Result<(StoredSession, Option<Arc<Keyring>>), CustodyError> {
        if let Some(state) = &mut state {
            state.remove(TOKEN_FIELD);
        }
        if !self.rules.auto_sre {
            return Ok((StoredSession { session: session.clone(), state, bound: None }, None));
        }
        let record = session.id.to_string();
        let digest = self.at(&session.person, &record, FIELD, HOLDER).digest()?;
        let keyring = self.keys.sealing().await?;
        let sealed = sealed::seal_bytes(&readers(&keyring)?, Format::Fernet, &digest, token.expose(), self.now())?;
        let mut state = state.unwrap_or_default();
        let (text, bound) = sealed.into_parts();
        state.insert(TOKEN_FIELD.to_owned(), text.into());
        // Their readers take it for whose the token is, so it is the issuer's word and not the caller's.
        match &session.person.email {
            Some(email) => drop(state.insert(EMAIL_FIELD.to_owned(), email.as_str().into())),
            None => drop(state.remove(EMAIL_FIELD)),
        }
        Ok((StoredSession { session: session.clone(), state: Some(state), bound }, Some(keyring)))
    }

    /// Puts a newer token into the state of a session. Where it was ended meanwhile, it stays so.
    pub(crate) async fn renew_state(&self, session: &Session, token: &Secret) -> Result<(), Refused> {
        let Some((stored, version)) = self.stored(session.id).await? else { return Ok(()) };
        if self.rules.auto_sre || stored.bound.is_some() {
            self.put_session(session, (stored.state, token), Expect::Version(version)).await?;
        }
        Ok(())
    }

    /// A session as it is stored, with its version; `None` where there is none.
    pub(super) async fn stored(&self, id: SessionId) -> Result<Option<(StoredSession, u64)>, Refused> {
        let key = format!("{SESSIONS}{id}");
        let Some(doc) = self.system.get(&key).await? else { return Ok(None) };
        let stored = self.vouched(&key, &doc.value).ok_or(Reason::Tampered)?;
        Ok(Some((stored, doc.version)))
    }

    /// The token that a session's state holds; `None` where it holds none that this deployment put there.
    pub(super) fn state_token(&self, stored: &StoredSession) -> Result<Option<Secret>, Refused> {
        let Some(sealed) = stored.sealed() else { return Ok(None) };
        let record = stored.session.id.to_string();
        let digest = self.at(&stored.session.person, &record, FIELD, HOLDER).digest()?;
        Ok(Some(sealed::open_bytes(&self.keys.opening(), &sealed, &digest)?))
    }

    /// What the caller keeps with a session; without the token.
    ///
    /// # Errors
    /// The store.
    pub async fn state(&self, standing: &Standing) -> Result<Option<State>, Refused> {
        let state = self.stored(standing.session.id).await?.and_then(|(stored, _)| stored.state);
        Ok(state.map(|mut state| {
            state.remove(TOKEN_FIELD);
            state
        }))
    }
}

impl StoredSession {
    /// The token in its state, with its binding.
    pub(super) fn sealed(&self) -> Option<Sealed> {
        let text = self.state.as_ref()?.get(TOKEN_FIELD)?.as_str()?;
        Some(Sealed::of_parts(text, self.bound.clone()?))
    }
}

/// The keyring that seals Fernet under the key that Auto SRE's readers hold, and never under another.
fn readers(keyring: &Keyring) -> Result<Keyring, CustodyError> {
    if keyring.leading(Format::Fernet).is_some() {
        return Ok(keyring.led_by_environment());
    }
    Err(CustodyError::invalid(
        "`sessions.auto_sre` is on, and the key that Auto SRE's readers hold is not here",
        "set SRE_AGENT_ENCRYPTION_KEY to it, or say with --fernet-key URI where it is",
    ))
}
