//! Refreshing: ahead of a token's end, or after it; by one node at a time, and whether or not the caller still waits.
//!
//! An issuer that rotates refresh tokens takes each of them once. So a node takes a lease before it asks, looks again whether
//! another one has been quicker, and stores what it got before it says so to anybody.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use keyfold_core::{
    audit::{Action, Actor},
    clock::UnixTime,
    error::Hint,
    id::to_hex,
    rng::{self, SystemRandom},
    secret::Secret,
};
use tokio::{sync::watch, time::sleep};

use super::{AHEAD, Broker};
use crate::{
    auditor::word_of,
    error::CustodyError,
    sessions::{IssuerError, Own, OwnFound, Presented, Reason, Refused, Session, SessionId, Standing, word},
    store::{Expect, Put},
};

/// The node that refreshes a session, for so long.
const LEASES: &str = "sessions/l/";
/// Longer than the calls to an issuer can take.
const LEASE: Duration = Duration::from_secs(40);
/// How long a call waits for a token that is over.
const WAIT: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(100);
/// How often what an issuer gave is tried to be stored.
const TRIES: u32 = 20;

type Flown = Option<Result<(), Arc<Refused>>>;

/// The refreshes under way in this process.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<SessionId, watch::Receiver<Flown>>>);

impl Flights {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<SessionId, watch::Receiver<Flown>>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One whose task broke off has no sender any more.
fn under_way(flight: &watch::Receiver<Flown>) -> bool {
    flight.has_changed().is_ok()
}

/// An error that several wait for.
fn shared(error: &Refused) -> Refused {
    match error {
        Refused::For(reason) => Refused::For(*reason),
        Refused::Issuer(error) => Refused::Issuer(error.clone()),
        Refused::Failed(error) => CustodyError::Invalid {
            what: error.to_string(),
            hint: error.hint().unwrap_or_default(),
            code: error.code(),
        }
        .into(),
    }
}

impl Broker {
    /// Refreshes a token that will soon be over, while the call goes on with it.
    pub(super) fn ahead(self: &Arc<Self>, standing: &Standing, now: UnixTime) {
        let soon = standing.head.expires.0.saturating_sub(AHEAD) <= now.0;
        if !soon
            || !standing.session.refreshes
            || self.flights.with(|flights| flights.contains_key(&standing.session.id))
        {
            return;
        }
        // All the way to the handle's own copy, so that the calls after this one find it there.
        let (broker, standing) = (Arc::clone(self), standing.again());
        tokio::spawn(async move {
            if let Err(error) = broker.refreshed(standing).await {
                tracing::debug!(%error, "a token was not refreshed ahead");
            }
        });
    }

    /// The same handle with a newer token.
    pub(super) async fn refreshed(self: &Arc<Self>, standing: Standing) -> Result<Standing, Refused> {
        // The session's own copy may be ahead of this handle's and over all the same, or be the very token that did not do.
        let own = self.sessions.own(&standing.session).await?.ok_or(Reason::TokenExpired)?;
        let than = own.head.generation.max(standing.head.generation);
        let ahead = own.head.generation > standing.head.generation
            && self.sessions.now() < own.head.expires
            && !own.token.same_as(&standing.token);
        let own = match Some(own).filter(|_| ahead) {
            Some(own) => own,
            None => {
                let mut flight = self.fly(&standing.session, than);
                let late = || IssuerError::Unavailable {
                    issuer: standing.session.issuer.clone(),
                    what: "a new token did not come in time".into(),
                };
                let flown = tokio::time::timeout(WAIT, flight.wait_for(Option::is_some)).await;
                let flown = flown.map_err(|_| late())?.map_err(|_| late())?.clone();
                flown.unwrap_or(Ok(())).map_err(|error| shared(&error))?;
                self.newer(&standing.session, than).await?.ok_or(Reason::NotRefreshed)?
            }
        };
        let mut head = standing.head.clone();
        (head.expires, head.generation) = (own.head.expires, own.head.generation);
        if self.sessions.now() >= head.expires {
            return Err(Reason::TokenExpired.into());
        }
        let copy = (&head, &own.token);
        let stored = self
            .sessions
            .put_holder(&standing.session, &standing.reference, copy, Expect::Version(standing.version))
            .await;
        if let Err(error) = stored {
            // The next call finds the session's own copy again.
            tracing::warn!(%error, "a handle's copy of a refreshed token could not be stored");
        }
        Ok(Standing { head, token: own.token, ..standing })
    }

    /// Waits for the refreshes under way: an issuer that rotates refresh tokens gives each of them once, and what it gave has to be
    /// stored before the process ends.
    pub async fn settled(&self) {
        loop {
            let flight = self.flights.with(|flights| flights.values().find(|flight| under_way(flight)).cloned());
            let Some(mut flight) = flight else { return };
            // An error says that it broke off.
            let _ = flight.wait_for(Option::is_some).await;
        }
    }

    async fn newer(&self, session: &Session, than: u64) -> Result<Option<OwnFound>, Refused> {
        let own = self.sessions.own(session).await?.ok_or(Reason::TokenExpired)?;
        Ok((own.head.generation > than).then_some(own))
    }

    /// Starts a refresh, or joins the one under way. It goes on if whoever started it hangs up.
    fn fly(self: &Arc<Self>, session: &Arc<Session>, than: u64) -> watch::Receiver<Flown> {
        self.flights.with(|flights| {
            if let Some(flight) = flights.get(&session.id).filter(|flight| under_way(flight)) {
                return flight.clone();
            }
            let (said, flight) = watch::channel(None);
            flights.insert(session.id, flight.clone());
            let (broker, session) = (Arc::clone(self), Arc::clone(session));
            tokio::spawn(async move {
                let flown = broker.refresh(&session, than).await;
                if let Err(error) = &flown {
                    tracing::warn!(session = %session.id, %error, "a session's token was not refreshed");
                }
                broker.flights.with(|flights| drop(flights.remove(&session.id)));
                said.send_replace(Some(flown.map_err(Arc::new)));
            });
            flight
        })
    }

    async fn refresh(&self, session: &Session, than: u64) -> Result<(), Refused> {
        let system = self.sessions.system();
        let key = format!("{LEASES}{}", session.id);
        let mine = to_hex(&rng::array::<8>(&SystemRandom)?);
        let began = Instant::now();
        loop {
            if self.newer(session, than).await?.is_some() {
                return Ok(());
            }
            match system.put(&key, mine.as_bytes(), Expect::Absent, Some(LEASE)).await? {
                Put::Stored { version } => {
                    let refreshed = self.with_lease(session, than).await;
                    if let Err(error) = system.delete(&key, Expect::Version(version)).await {
                        tracing::warn!(%error, "a lease could not be given back; it ends by itself");
                    }
                    return refreshed;
                }
                Put::Conflict if began.elapsed() > LEASE + WAIT => {
                    return Err(IssuerError::Unavailable {
                        issuer: session.issuer.clone(),
                        what: "another node has been refreshing the session for too long".into(),
                    }
                    .into());
                }
                Put::Conflict => sleep(AGAIN).await,
            }
        }
    }

    async fn with_lease(&self, session: &Session, than: u64) -> Result<(), Refused> {
        // Who had the lease before may have been quicker.
        let own = self.sessions.own(session).await?.ok_or(Reason::TokenExpired)?;
        if own.head.generation > than {
            return Ok(());
        }
        let refresh = own.refresh.as_ref().ok_or(Reason::NotRefreshed)?;
        let actor = Actor::new("keyfold:broker").map_err(|error| CustodyError::invalid(error.to_string(), ""))?;
        let event = self.sessions.event(&actor, Action::SessionRefresh, session.id)?;
        let auditor = self.sessions.auditor();
        let _durable = auditor.intent(&event).await?;
        let refreshed = self.ask(session, &own, refresh).await;
        let result = match &refreshed {
            Ok(()) => keyfold_core::audit::Word::done(),
            Err(Refused::For(reason)) => word(reason.code()),
            Err(Refused::Issuer(_)) => word("refused"),
            Err(Refused::Failed(error)) => word_of(error),
        };
        auditor.outcomes_later(vec![event.outcome(self.sessions.now(), result)]).await?;
        refreshed
    }

    async fn ask(&self, session: &Session, own: &OwnFound, refresh: &Secret) -> Result<(), Refused> {
        let issuers = self.sessions.issuers();
        let granted = match issuers.refresh(&session.issuer, refresh).await {
            Ok(granted) => granted,
            Err(error @ IssuerError::Refused { .. }) => {
                // It will not say otherwise the next time: the refresh token is forgotten, the session ends with its token.
                self.replace(session, own, (&own.token, own.head.expires), None).await?;
                tracing::info!(session = %session.id, %error, "the issuer refused to refresh");
                return Err(Reason::NotRefreshed.into());
            }
            Err(error) => return Err(error.into()),
        };
        let next = granted.refresh_token.as_ref().unwrap_or(refresh);
        let presented = Presented {
            issuer: Some(session.issuer.clone()),
            access_token: Secret::from(granted.access_token.expose()),
            id_token: None,
            nonce: None,
        };
        // A token that the issuer gave is checked like one that a caller brought: it must still be this person's.
        let verified = match issuers.verify(&presented).await {
            Ok(verified) if verified.person.is(&session.person) => verified,
            Ok(_) => {
                self.replace(session, own, (&own.token, own.head.expires), None).await?;
                return Err(Reason::NotRefreshed.into());
            }
            Err(error) => {
                // The old refresh token may be used up; the new one is kept for the next try.
                self.replace(session, own, (&own.token, own.head.expires), Some(next)).await?;
                return Err(error.into());
            }
        };
        self.replace(session, own, (&granted.access_token, verified.expires), Some(next)).await?;
        self.counts.refreshed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Puts new tokens in the place of those that were read. An issuer gives them once, so this is tried for a while.
    async fn replace(
        &self,
        session: &Session,
        own: &OwnFound,
        (token, expires): (&Secret, UnixTime),
        refresh: Option<&Secret>,
    ) -> Result<(), Refused> {
        let newer = expires != own.head.expires || !token.same_as(&own.token);
        let generation = own.head.generation + u64::from(newer);
        let own = (Own { token, expires, generation, refresh }, own.version);
        let mut tries = 0;
        loop {
            match self.sessions.put_own(session, &own.0, Expect::Version(own.1)).await {
                Ok(Put::Stored { .. }) => {
                    if newer && let Err(error) = self.sessions.renew_state(session, token).await {
                        // Nothing here goes by it: readers that share the store find the former token until the next refresh.
                        tracing::warn!(%error, "a refreshed token could not be put into its session's state");
                    }
                    return Ok(());
                }
                // It was ended meanwhile, and stays so.
                Ok(Put::Conflict) => return Err(Reason::Revoked.into()),
                Err(error) if tries >= TRIES => return Err(error.into()),
                Err(error) => {
                    tries += 1;
                    tracing::warn!(%error, "a refreshed token could not be stored; it is tried again");
                    sleep(AGAIN * tries.min(10)).await;
                }
            }
        }
    }
}
