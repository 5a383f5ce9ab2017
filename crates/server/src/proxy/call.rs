//! One call on its way: what is written down of it when it ends, however it ends, and what it holds until then.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use keyfold_core::audit::{Event, Word};
use keyfold_custody::broker::{Broker, Credential, Held};
use tokio::sync::OwnedRwLockReadGuard;

use super::{flights::Flight, grounds::Grounds, lanes::OnLane};
use crate::{listen::Origin, problem::Problem};

/// How long after the service was told to end its streams go on.
const GOING_ON: Duration = Duration::from_secs(5);
/// How old a call gets before somebody watches whether it may go on: most are over by then, and watching costs as much as a call.
pub(super) const YOUNG: Duration = Duration::from_millis(50);

/// A call whose intent is in the audit log. When it is dropped, its outcome is written.
pub(super) struct Call {
    broker: Arc<Broker>,
    event: Event,
    held: Option<Held>,
    grounds: Arc<Grounds>,
    began: Instant,
    /// What the destination answered.
    pub(super) status: Option<u16>,
    /// Bytes of the answer.
    pub(super) bytes: u64,
    /// How it went so far; what nobody says otherwise was given up by its caller.
    pub(super) result: &'static str,
    flight: Option<Flight>,
    _origin: Option<Origin>,
    _lane: Option<OnLane>,
    begun: Option<OwnedRwLockReadGuard<()>>,
}

impl Call {
    /// One that came on `origin`, and stands on its grounds.
    pub(super) fn new(
        grounds: Arc<Grounds>,
        credential: &Credential,
        (origin, begun): (Option<Origin>, OwnedRwLockReadGuard<()>),
    ) -> Self {
        Self {
            broker: Arc::clone(&grounds.proxy.people.broker),
            event: credential.event().clone(),
            held: credential.held(),
            grounds,
            began: Instant::now(),
            status: None,
            bytes: 0,
            result: "given_up",
            flight: None,
            _origin: origin,
            _lane: None,
            begun: Some(begun),
        }
    }

    /// Goes on with another credential, after what the first one brought; that one's outcome is written now.
    pub(super) fn again(&mut self, credential: &Credential, status: u16) {
        self.status = Some(status);
        self.result = "token_rejected";
        self.write(None);
        (self.event, self.held) = (credential.event().clone(), credential.held());
        (self.status, self.result, self.began) = (None, "given_up", Instant::now());
    }

    /// Takes one of the places that its session, or its actor where there is no session, has under way.
    pub(super) fn fly(&mut self, credential: &Credential) -> Result<(), Problem> {
        let Grounds { proxy, asker, .. } = &*self.grounds;
        let session = credential.session().map(|session| session.id.to_string());
        let flight = proxy.flights.take(session.unwrap_or_else(|| asker.caller.actor.to_string()));
        self.flight = Some(flight.inspect_err(|problem| self.result = problem.code())?);
        Ok(())
    }

    /// Keeps its place on a connection until it ends.
    pub(super) fn on(&mut self, lane: Option<OnLane>) {
        self._lane = lane;
    }

    /// Resolves once the session, the proof or the grant has ended, or the service ends: with the word for it.
    pub(super) fn ended(&self) -> impl Future<Output = &'static str> + Send + 'static {
        let (broker, held, grounds) = (Arc::clone(&self.broker), self.held, Arc::clone(&self.grounds));
        let mut closing = grounds.proxy.closing.subscribe();
        async move {
            let closed = async move {
                if closing.wait_for(|closing| *closing).await.is_err() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(GOING_ON).await;
            };
            tokio::select! {
                reason = broker.ended(held) => reason.code(),
                why = grounds.gone() => why,
                () = closed => "service_ended",
            }
        }
    }
}

impl Call {
    /// Writes the outcome. Nobody waits for it; where it cannot be written, the log takes no more intents.
    fn write(&self, begun: Option<OwnedRwLockReadGuard<()>>) {
        let auditor = self.broker.sessions().auditor().clone();
        let word = Word::new(self.result).unwrap_or_else(|_| Word::done());
        let mut outcome = self.event.outcome(auditor.clock().now(), word);
        outcome.status = self.status.map(u64::from);
        outcome.bytes = Some(self.bytes);
        outcome.millis = u64::try_from(self.began.elapsed().as_millis()).ok();
        let write = async move {
            if let Err(error) = auditor.outcomes_later(vec![outcome]).await {
                tracing::error!(%error, "the outcome of a call could not be written to the audit log");
            }
            drop(begun);
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut write = Box::pin(write);
        // A queue takes it at once; a task is for what has to wait.
        if (&mut write).now_or_never().is_none() {
            runtime.spawn(write);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let begun = self.begun.take();
        self.write(begun);
    }
}
