//! The token broker: which credential leaves for which call.
//!
//! - [`decide`]: the one decision, pure. Every path to a credential goes through [`Broker::credential_for`], which calls it.
//! - [`Routes`] and [`Destination`]: where credentials may go, by name, from the configuration.
//! - [`Enforcement`]: strict by default. Permissive lets a destination name a service account for calls that came without a
//!   session; one that came with a handle that does not hold is refused all the same.
//!
//! A [`Credential`] is made here alone, after its intent is durable, and opened anew for each call: no pool, connection or cache
//! carries one person's token to another's call.

mod decide;
mod destination;
mod refresh;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use keyfold_core::{
    audit::{Action, Actor, Event, Name},
    clock::UnixTime,
    secret::Secret,
};

use self::refresh::Flights;
pub use self::{
    decide::{Call, Shown, Source, decide},
    destination::{AccountSource, Destination, Enforcement, Exchange, Lent, Routes, ServiceAccount},
};
use crate::{
    access::{Permit, Place, op},
    error::CustodyError,
    sessions::{self, Head, Kept, Reason, Reference, Refused, Session, SessionId, Sessions, Standing},
};

/// A token that ends within this many seconds is refreshed ahead, where it can be.
const AHEAD: u64 = 120;
/// After a destination did not take a token, and it was refreshed, so long it is not refreshed for that again.
const INSIST: Duration = Duration::from_secs(60);
/// How many exchanged tokens are remembered, sealed.
const EXCHANGED: usize = 10_000;

/// What was done, in numbers.
#[derive(Debug, Default)]
pub struct Counts {
    /// Users' own credentials that left.
    pub used: AtomicU64,
    /// Service accounts' that took their place.
    pub fallback: AtomicU64,
    /// Calls that were refused.
    pub refused: AtomicU64,
    /// Tokens that were refreshed by this node.
    pub refreshed: AtomicU64,
}

/// Where a call wants to go, and how.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The destination.
    pub destination: &'a Destination,
    /// The HTTP method, in capitals.
    pub method: &'a str,
    /// What the path matched, for the audit log; none where the token is shown.
    pub path: Option<&'a str>,
}

/// A credential for one call. Nothing prints it.
pub struct Credential {
    token: Secret,
    expires: UnixTime,
    generation: u64,
    session: Option<Arc<Session>>,
    held: Option<Held>,
    event: Event,
}

impl Credential {
    /// Looks at the token: to put it into the one call that it was made for.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.token.expose()
    }

    /// Its last moment.
    #[must_use]
    pub const fn expires(&self) -> UnixTime {
        self.expires
    }

    /// The session it belongs to; none where it is a service account's, or a secret of the deployment.
    #[must_use]
    pub const fn session(&self) -> Option<&Arc<Session>> {
        self.session.as_ref()
    }

    /// The handle that it was given for, as far as its end is concerned.
    #[must_use]
    pub const fn held(&self) -> Option<Held> {
        self.held
    }

    /// The intent that is in the audit log; its outcome is the caller's to write.
    #[must_use]
    pub const fn event(&self) -> &Event {
        &self.event
    }
}

/// A handle that was taken, and its last moment: enough to learn that it has ended.
pub type Held = (Reference, UnixTime);

/// Narrowed tokens by session and destination, with the generation of the token that they were made from.
type Exchanged = HashMap<(SessionId, String), (u64, Arc<Kept>)>;

/// Who opens a secret of the deployment for one call.
#[async_trait::async_trait]
pub trait Lender: Send + Sync {
    /// Opens it. The intent is durable already.
    ///
    /// # Errors
    /// No such record or field; the store; the keys.
    async fn lend(&self, lent: &Lent, intent: &Event) -> Result<Secret, CustodyError>;
}

/// The broker.
pub struct Broker {
    sessions: Arc<Sessions>,
    routes: Routes,
    lender: Option<Arc<dyn Lender>>,
    counts: Counts,
    flights: Flights,
    exchanged: Mutex<Exchanged>,
    insisted: Mutex<HashMap<SessionId, Instant>>,
}

impl Broker {
    /// Over the sessions of a deployment.
    #[must_use]
    pub fn new(sessions: Arc<Sessions>, routes: Routes, lender: Option<Arc<dyn Lender>>) -> Arc<Self> {
        Arc::new(Self {
            sessions,
            routes,
            lender,
            counts: Counts::default(),
            flights: Flights::default(),
            exchanged: Mutex::default(),
            insisted: Mutex::default(),
        })
    }

    /// The sessions.
    #[must_use]
    pub const fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// The destinations, and whether a user's token is needed for them.
    #[must_use]
    pub const fn routes(&self) -> &Routes {
        &self.routes
    }

    /// What was done so far.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The credential for one call: the user's own, or refused. The intent is durable before this returns.
    ///
    /// # Errors
    /// Refused, and why; the store, the issuer, the audit log. No other credential is tried then.
    pub async fn credential_for(
        self: &Arc<Self>,
        permit: &Permit<op::Use>,
        handle: Option<&str>,
        wanted: &Wanted<'_>,
    ) -> Result<Credential, Refused> {
        self.counted(permit.actor(), wanted, self.found(permit, handle, wanted, None).await).await
    }

    /// As [`Broker::credential_for`], after the destination did not take `rejected`: where the session can be refreshed, it is.
    ///
    /// # Errors
    /// As there; and where there is no way to another token.
    pub async fn instead_of(
        self: &Arc<Self>,
        permit: &Permit<op::Use>,
        handle: Option<&str>,
        wanted: &Wanted<'_>,
        rejected: &Credential,
    ) -> Result<Credential, Refused> {
        let found = self.found(permit, handle, wanted, Some(rejected.generation)).await;
        self.counted(permit.actor(), wanted, found).await
    }

    async fn counted(
        &self,
        actor: &Actor,
        wanted: &Wanted<'_>,
        found: Result<Credential, Refused>,
    ) -> Result<Credential, Refused> {
        let count = match &found {
            Ok(credential) if credential.session.is_some() => &self.counts.used,
            Ok(_) => &self.counts.fallback,
            Err(_) => &self.counts.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if let Err(Refused::For(reason)) = &found {
            let auditor = self.sessions.auditor();
            let mut event = auditor.event(actor, Action::Use)?;
            about(&mut event, wanted);
            // It is refused whether or not that can be written down; what cannot be is said in the log.
            if let Err(error) = auditor.refusal(event, sessions::word(reason.code())).await {
                tracing::error!(%error, "a refusal could not be written to the audit log");
            }
        }
        found
    }

    async fn found(
        self: &Arc<Self>,
        permit: &Permit<op::Use>,
        handle: Option<&str>,
        wanted: &Wanted<'_>,
        rejected: Option<u64>,
    ) -> Result<Credential, Refused> {
        permit.check(&Place::Destination(&wanted.destination.name, Some((wanted.method, ""))))?;
        let standing = match handle {
            Some(handle) => Some(self.sessions.hold(handle).await?),
            None => None,
        };
        let call = Call {
            destination: wanted.destination,
            method: wanted.method,
            actor: permit.actor(),
            now: self.sessions.now(),
        };
        let shown =
            standing.as_ref().map(|standing| Shown { head: &standing.head, refreshes: standing.session.refreshes });
        match (decide(shown, &call, self.routes.enforcement)?, standing) {
            (Source::Fallback(account), _) => self.fallback(permit.actor(), account, wanted).await,
            (Source::Deployment(lent), standing) => self.lent(permit.actor(), lent, (standing, wanted)).await,
            (source, Some(standing)) => {
                let refused = rejected == Some(standing.head.generation);
                if refused && !(standing.session.refreshes && self.may_insist(standing.session.id)) {
                    return Err(Reason::TokenExpired.into());
                }
                let standing = if source == Source::UserRefreshed || refused {
                    self.refreshed(standing).await?
                } else {
                    self.ahead(&standing, call.now);
                    standing
                };
                self.users(permit.actor(), standing, wanted).await
            }
            (_, None) => Err(Reason::NoSession.into()),
        }
    }

    /// Whether a token that a destination did not take may be given back for a new one: once in a while. A destination that refuses
    /// every token must not wear out the issuer, or the refresh token.
    fn may_insist(&self, session: SessionId) -> bool {
        let now = Instant::now();
        let mut insisted = self.insisted.lock().unwrap_or_else(PoisonError::into_inner);
        insisted.retain(|_, at| now.duration_since(*at) < INSIST);
        let may = !insisted.contains_key(&session) && insisted.len() < EXCHANGED;
        if may {
            insisted.insert(session, now);
        }
        may
    }

    async fn users(&self, actor: &Actor, standing: Standing, wanted: &Wanted<'_>) -> Result<Credential, Refused> {
        let Standing { reference, session, head, token, .. } = standing;
        let mut event = self.sessions.event(actor, Action::Use, session.id)?;
        about(&mut event, wanted);
        let _durable = self.sessions.auditor().intent(&event).await?;
        let (token, expires) = match &wanted.destination.exchange {
            None => (token, head.expires),
            Some(_) => self.exchanged(&session, (&head, &token), wanted.destination).await?,
        };
        // Waiting for the log or the issuer takes time, in which the session may have ended.
        self.sessions.still(&reference)?;
        let held = Some((reference, head.until));
        Ok(Credential { token, expires, generation: head.generation, session: Some(session), held, event })
    }

    async fn lent(
        &self,
        actor: &Actor,
        lent: &Lent,
        (standing, wanted): (Option<Standing>, &Wanted<'_>),
    ) -> Result<Credential, Refused> {
        let auditor = self.sessions.auditor();
        let mut event = auditor.event(actor, Action::Use)?;
        event.collection = Some(Name::abridge(&lent.collection));
        event.record = Some(Name::abridge(lent.record.as_str()));
        about(&mut event, wanted);
        let _durable = auditor.intent(&event).await?;
        let lender = self.lender.as_ref().ok_or_else(|| {
            CustodyError::invalid("no secrets of the deployment are lent here", "use the proxy of `keyfold serve`")
        })?;
        let opened = lender.lend(lent, &event).await;
        if opened.is_err() {
            auditor.outcome(&event, &opened).await?;
        }
        if let Some(standing) = &standing {
            self.sessions.still(&standing.reference)?;
        }
        let (held, session) = standing
            .map_or((None, None), |standing| (Some((standing.reference, standing.head.until)), Some(standing.session)));
        let expires = UnixTime(u64::MAX);
        Ok(Credential { token: opened?, expires, generation: 0, session, held, event })
    }

    async fn fallback(
        &self,
        actor: &Actor,
        account: &ServiceAccount,
        wanted: &Wanted<'_>,
    ) -> Result<Credential, Refused> {
        let auditor = self.sessions.auditor();
        let mut event = auditor.event(actor, Action::UseFallback)?;
        about(&mut event, wanted);
        let _durable = auditor.intent(&event).await?;
        let granted = self.sessions.issuers().service_account(account, wanted.destination).await?;
        let (token, expires) = (granted.access_token, granted.expires);
        Ok(Credential { token, expires, generation: 0, session: None, held: None, event })
    }

    /// The token narrowed for a destination. What the issuer gave is remembered sealed, for this session and destination.
    async fn exchanged(
        &self,
        session: &Session,
        (head, token): (&Head, &Secret),
        destination: &Destination,
    ) -> Result<(Secret, UnixTime), Refused> {
        let Some(exchange) = &destination.exchange else { return Err(Reason::Destination.into()) };
        let key = (session.id, destination.name.clone());
        let kept = self.kept(|all| all.get(&key).filter(|(generation, _)| *generation == head.generation).cloned());
        if let Some((_, kept)) = kept {
            let (kept_head, token) = self.sessions.open_kept(&kept)?;
            if kept_head.expires.0 > self.sessions.now().0 + AHEAD / 4 {
                return Ok((token, kept_head.expires));
            }
        }
        let granted = self.sessions.issuers().exchange(&session.issuer, token, exchange).await?;
        // Never longer than the token it was made from.
        let expires = granted.expires.min(head.expires);
        let narrowed = Head { expires, destinations: Some(vec![destination.name.clone()]), ..head.clone() };
        let kept = self.sessions.keep(session, (&narrowed, &granted.access_token), &destination.name).await?;
        self.kept(|all| {
            if all.len() >= EXCHANGED {
                all.clear();
            }
            all.insert(key, (head.generation, Arc::new(kept)));
        });
        Ok((granted.access_token, expires))
    }

    fn kept<T>(&self, act: impl FnOnce(&mut Exchanged) -> T) -> T {
        act(&mut self.exchanged.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Resolves once the handle that a credential was given for has ended, and never where there was none.
    pub async fn ended(&self, held: Option<Held>) -> Reason {
        match held {
            Some((reference, until)) => self.sessions.ended_at(&reference, until).await,
            None => std::future::pending().await,
        }
    }

    /// Says how a call went. What happened has happened where that cannot be written; the log then takes no more intents.
    ///
    /// # Errors
    /// The audit log.
    pub async fn outcome(
        &self,
        credential: &Credential,
        result: &Result<(), CustodyError>,
    ) -> Result<(), CustodyError> {
        self.sessions.auditor().outcome(&credential.event, result).await
    }
}

fn about(event: &mut Event, wanted: &Wanted<'_>) {
    event.field = Some(Name::abridge(&wanted.destination.name));
    event.method = Some(Name::abridge(wanted.method));
    event.path = wanted.path.map(Name::abridge);
}

#[cfg(test)]
mod tests;
