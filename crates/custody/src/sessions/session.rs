//! What a session is, what makes one, and how far what stands in for its token reaches.

use std::{sync::Arc, time::Duration};

use keyfold_core::{audit::Actor, clock::UnixTime, envelope::Format, secret::Secret};

use super::{
    Head, MAX_STATE, Person, Presented, Reason, Reference, SessionId, TOKEN_FIELD, is_token, json,
    sealed::{Bound, Sealed},
};
use crate::error::CustodyError;

/// What a caller keeps with a session, beside what Keyfold does.
pub type State = serde_json::Map<String, serde_json::Value>;

/// What holds for every session.
#[derive(Debug, Clone)]
pub struct Rules {
    /// How long one lasts at most.
    pub life: Duration,
    /// What tokens are sealed in: `kf1`, or Fernet with a binding beside it.
    pub format: Format,
    /// Whether a session's state holds the token besides, for Auto SRE's readers that share the store.
    pub auto_sre: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { life: Duration::from_secs(12 * 3600), format: Format::Kf1, auto_sre: false }
    }
}

/// A session, without its token.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Names it. It proves nothing.
    pub id: SessionId,
    /// Whose it is.
    pub person: Person,
    /// The name under which their issuer is configured.
    pub issuer: String,
    /// When they signed in.
    pub created: UnixTime,
    /// Its last moment.
    pub until: UnixTime,
    /// The project that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Whether its token is refreshed.
    #[serde(default)]
    pub refreshes: bool,
    /// Where it was imported from, and who vouched for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vouched: Option<String>,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredSession {
    pub(super) session: Session,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<State>,
    /// What binds the token in the state, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bound: Option<Bound>,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredHolder {
    pub(super) person: Person,
    pub(super) sealed: Sealed,
}

/// How a holder's reach is narrowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Narrowing {
    /// The one agent that may use it.
    pub agent: Option<Actor>,
    /// The destinations it reaches, by name.
    pub destinations: Option<Vec<String>>,
    /// The methods it allows.
    pub methods: Option<Vec<String>>,
    /// How long it lasts.
    pub lifetime: Option<Duration>,
}

/// A session to be made.
pub struct NewSession {
    /// What the sign-in brought.
    pub presented: Presented,
    /// The refresh token, where the deployment asked for one.
    pub refresh_token: Option<Secret>,
    /// The project that it is about.
    pub project: Option<String>,
    /// What else the caller keeps with it. Not for secrets.
    pub state: Option<State>,
    /// Whether a cookie is made.
    pub cookie: bool,
    /// Whether a handle is made, and how narrow.
    pub handle: Option<Narrowing>,
}

/// A session that was made, and what stands in for its token, shown this once.
pub struct Made {
    /// The session.
    pub session: Session,
    /// For the browser.
    pub cookie: Option<Secret>,
    /// For an agent.
    pub handle: Option<(Secret, Head)>,
}

/// A handle that held: its session, what limits it, and the token. Only [`super::Sessions::hold`] makes one.
pub struct Standing {
    /// What was presented.
    pub reference: Reference,
    /// Its session.
    pub session: Arc<Session>,
    /// What limits it.
    pub head: Head,
    pub(crate) token: Secret,
    pub(crate) version: u64,
}

pub(super) fn checked(new: &NewSession) -> Result<(), CustodyError> {
    let tokens = [Some(&new.presented.access_token), new.presented.id_token.as_ref(), new.refresh_token.as_ref()];
    if !tokens.into_iter().flatten().all(|token| is_token(token.expose())) {
        return Err(CustodyError::invalid(
            "a token is not text that a header can carry, or over 16 KiB",
            "send the tokens as the issuer gave them",
        ));
    }
    if new.project.as_ref().is_some_and(|text| text.len() > 200 || text.chars().any(char::is_control)) {
        return Err(CustodyError::invalid("`project` has at most 200 bytes, and no control characters", "shorten it"));
    }
    let Some(state) = &new.state else { return Ok(()) };
    if state.contains_key(TOKEN_FIELD) {
        return Err(CustodyError::invalid(
            format!("`state` may not hold `{TOKEN_FIELD}`"),
            "send the token as `access_token`; what is in `state` is not sealed",
        ));
    }
    if json(state)?.len() > MAX_STATE {
        return Err(CustodyError::invalid("`state` is over 16 KiB", "keep it elsewhere, under the session's id"));
    }
    Ok(())
}

/// What a handle made from `from` may be: everything that is not asked for is inherited, nothing can be added.
pub(super) fn narrower(from: &Head, asked: &Narrowing, now: UnixTime) -> Result<Narrowing, Reason> {
    let within = |all: &Option<Vec<String>>, some: &Option<Vec<String>>| match (all, some) {
        (Some(all), Some(some)) => some.iter().all(|one| all.contains(one)),
        _ => true,
    };
    if from.agent.is_some() && asked.agent.is_some() && from.agent != asked.agent {
        return Err(Reason::OtherAgent);
    }
    if !within(&from.destinations, &asked.destinations) {
        return Err(Reason::Destination);
    }
    if !within(&from.methods, &asked.methods) {
        return Err(Reason::Method);
    }
    let left = Duration::from_secs(from.until.0.saturating_sub(now.0));
    Ok(Narrowing {
        agent: asked.agent.clone().or_else(|| from.agent.clone()),
        destinations: asked.destinations.clone().or_else(|| from.destinations.clone()),
        methods: asked.methods.clone().or_else(|| from.methods.clone()),
        lifetime: Some(asked.lifetime.unwrap_or(left).min(left)),
    })
}

impl Standing {
    /// The same for work that outlives the call.
    pub(crate) fn again(&self) -> Self {
        Self {
            reference: self.reference,
            session: Arc::clone(&self.session),
            head: self.head.clone(),
            token: Secret::from(self.token.expose()),
            version: self.version,
        }
    }

    /// The person as events name them.
    ///
    /// # Errors
    /// As [`person_actor`].
    pub fn actor(&self) -> Result<Actor, CustodyError> {
        person_actor(&self.session.person)
    }
}

/// A person as events name them.
///
/// # Errors
/// Never: a hash is printable.
pub fn person_actor(person: &Person) -> Result<Actor, CustodyError> {
    Actor::new(format!("user:{}", person.id())).map_err(|error| CustodyError::invalid(error.to_string(), ""))
}
