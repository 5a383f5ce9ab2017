//! Intent before, outcome after: the one way in which use cases write events.

use std::{sync::Arc, time::Duration};

use keyfold_core::{
    audit::{Action, Actor, Event, EventId, Name, Word},
    clock::Clock,
    rng::{self, SystemRandom},
};

use crate::{
    access::Right,
    audit_log::{AuditError, AuditSink, Durable},
    collection::Collection,
    error::CustodyError,
    refusals::Refusals,
};

/// Writes events for the actors of one process.
#[derive(Clone)]
pub struct Auditor {
    sink: Arc<dyn AuditSink>,
    clock: Arc<dyn Clock>,
    wait: Duration,
    refusals: Arc<Refusals>,
}

/// How long a call waits for its intent where nothing else is configured.
pub const WAIT: Duration = Duration::from_secs(30);

impl Auditor {
    /// Into a sink, with a clock.
    #[must_use]
    pub fn new(sink: Arc<dyn AuditSink>, clock: Arc<dyn Clock>) -> Self {
        Self { sink, clock, wait: WAIT, refusals: Arc::default() }
    }

    /// With another time that a call waits for the log before it fails.
    #[must_use]
    pub fn waiting(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// What the log answers, unless it takes too long.
    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, AuditError>>) -> Result<T, CustodyError> {
        let late = AuditError::Slow { waited: self.wait };
        Ok(tokio::time::timeout(self.wait, asked).await.map_err(|_| late)??)
    }

    /// The clock that events are stamped with.
    #[must_use]
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// The sink, to be checkpointed and closed.
    #[must_use]
    pub fn sink(&self) -> &dyn AuditSink {
        &*self.sink
    }

    /// An intent that names nothing yet but actor and action.
    ///
    /// # Errors
    /// Failing randomness for its id.
    pub fn event(&self, actor: &Actor, action: Action) -> Result<Event, CustodyError> {
        Ok(Event::intent(self.clock.now(), EventId(rng::array(&SystemRandom)?), actor.clone(), action))
    }

    /// An intent about a collection.
    ///
    /// # Errors
    /// Failing randomness for its id.
    pub fn about(&self, actor: &Actor, action: Action, collection: &Collection) -> Result<Event, CustodyError> {
        let mut event = self.event(actor, action)?;
        event.collection = Some(Name::abridge(collection.id.as_str()));
        Ok(event)
    }

    /// Makes an intent durable. Without the proof nothing may leave and nothing may be written.
    ///
    /// # Errors
    /// `audit_unavailable`.
    pub async fn intent(&self, event: &Event) -> Result<Durable, CustodyError> {
        self.in_time(self.sink.append(std::slice::from_ref(event))).await
    }

    /// Says how it went. `Ok` results say `done`.
    ///
    /// # Errors
    /// The outcome could not be written. What happened has happened; the sink refuses the next intent.
    pub async fn outcome<T>(&self, event: &Event, result: &Result<T, CustodyError>) -> Result<(), CustodyError> {
        let word = match result {
            Ok(_) => Word::done(),
            Err(error) => word_of(error),
        };
        let outcome = event.outcome(self.clock.now(), word);
        self.in_time(self.sink.append_outcome(&[outcome])).await
    }

    /// Makes several intents durable at once.
    ///
    /// # Errors
    /// `audit_unavailable`.
    pub async fn intents(&self, events: Vec<Event>) -> Result<Durable, CustodyError> {
        self.in_time(self.sink.append_owned(events)).await
    }

    /// Says how it went without waiting until that is written: for what only read. If it cannot be, the next intents are refused.
    ///
    /// # Errors
    /// The log takes nothing any more.
    pub async fn outcomes_later(&self, events: Vec<Event>) -> Result<(), CustodyError> {
        self.in_time(self.sink.submit_outcome(events)).await
    }

    /// Notes that an actor was refused, which right it lacked, and why. `about` fills in what is known of the place.
    ///
    /// # Errors
    /// It could not be written. The refusal stands all the same.
    pub async fn refused(
        &self,
        actor: &Actor,
        (right, why): (Right, &'static str),
        about: impl FnOnce(&mut Event) + Send,
    ) -> Result<(), CustodyError> {
        let mut event = self.event(actor, Action::Refused)?;
        event.missing = Word::new(right.as_str()).ok();
        about(&mut event);
        self.refusal(event, Word::new(why).unwrap_or_else(|_| word("forbidden"))).await
    }

    /// Notes a call that was refused, and why: by itself while an actor's refusals are few, otherwise in one event with the
    /// number of them, so that who asks in vain for ever does not fill the log.
    ///
    /// # Errors
    /// It could not be written. The refusal stands all the same.
    pub async fn refusal(&self, event: Event, why: Word) -> Result<(), CustodyError> {
        let mut summary = self.event(&event.actor, event.action)?;
        summary.missing.clone_from(&event.missing);
        let events = self.refusals.note(self.clock.now(), event, summary, why);
        if events.is_empty() {
            return Ok(());
        }
        self.intents(events).await.map(drop)
    }

    /// Writes how many refusals there were that were not written one by one: where their time is over, or of `all`.
    ///
    /// # Errors
    /// It could not be written. That there were more stands in the log already, their number in this process's own.
    pub async fn tell_refusals(&self, all: bool) -> Result<(), CustodyError> {
        let told = self.refusals.over(self.clock.now(), all);
        if told.is_empty() {
            return Ok(());
        }
        let counted: u64 = told.iter().filter_map(|event| event.count).sum();
        let written = self.in_time(self.sink.append_outcome(&told)).await;
        written.inspect_err(|_| tracing::error!(counted, "refusals could not be written to the audit log"))
    }

    /// Runs `work`, which writes, between its intent and its outcome.
    ///
    /// # Errors
    /// As [`Auditor::audited`]; an error after which the write may have happened says so.
    pub async fn audited_write<T>(
        &self,
        event: Event,
        work: impl AsyncFnOnce(Durable) -> Result<T, CustodyError>,
    ) -> Result<T, CustodyError> {
        let (result, told) = self.between(event, work).await?;
        let value = result.map_err(CustodyError::of_a_write)?;
        told.map_err(CustodyError::afterwards)?;
        Ok(value)
    }

    /// Runs `work` between its intent and its outcome.
    ///
    /// # Errors
    /// Those of `work`, and of the log. Where `work` succeeded and its outcome could not be written, that is the error: the
    /// caller must not go on as if all were well.
    pub async fn audited<T>(
        &self,
        event: Event,
        work: impl AsyncFnOnce(Durable) -> Result<T, CustodyError>,
    ) -> Result<T, CustodyError> {
        let (result, told) = self.between(event, work).await?;
        let value = result?;
        told?;
        Ok(value)
    }

    /// What became of the work, and of telling it. Where there is no intent, there is no work.
    async fn between<T>(
        &self,
        event: Event,
        work: impl AsyncFnOnce(Durable) -> Result<T, CustodyError>,
    ) -> Result<(Result<T, CustodyError>, Result<(), CustodyError>), CustodyError> {
        let durable = self.intent(&event).await?;
        let result = work(durable).await;
        let told = self.outcome(&event, &result).await;
        Ok((result, told))
    }
}

/// How an error stands in an outcome.
pub(crate) fn word_of(error: &CustodyError) -> Word {
    match error {
        CustodyError::Refused(_) => word("forbidden"),
        error => error.code().map_or_else(|| word("failed"), Word::from),
    }
}

/// A word of the vocabulary.
#[expect(clippy::expect_used, reason = "the words are constants")]
fn word(text: &'static str) -> Word {
    Word::new(text).expect("a lower-case word")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{audit_log::InsecureMemory, store::StoreError};

    fn gone() -> CustodyError {
        StoreError::Unavailable { store: "x".into(), what: "it broke off".into(), retry: true, source: None }.into()
    }

    #[tokio::test]
    async fn a_write_after_which_something_failed_is_not_called_undone() {
        let sink = Arc::new(InsecureMemory::default());
        let auditor = Auditor::new(Arc::clone(&sink) as _, Arc::new(keyfold_core::clock::UnixTime(1)));
        let event = || auditor.event(&Actor::new("operator:x").unwrap(), Action::TokenCreate).unwrap();
        let write = async |result: Result<(), CustodyError>, failing: bool| {
            sink.fail(false);
            let written = auditor.audited_write(event(), async |_| {
                sink.fail(failing);
                result
            });
            written.await
        };
        assert!(write(Ok(()), false).await.is_ok());
        let untold = write(Ok(()), true).await;
        assert!(matches!(untold, Err(CustodyError::InDoubt { happened: true, .. })), "{untold:?}");
        let broken = write(Err(gone()), false).await;
        assert!(matches!(broken, Err(CustodyError::InDoubt { happened: false, .. })), "{broken:?}");
        let refused = write(Err(CustodyError::Conflict { what: "x".into() }), false).await;
        assert!(matches!(refused, Err(CustodyError::Conflict { .. })), "{refused:?}");
        sink.fail(true);
        let nothing = auditor.audited_write(event(), async |_| Ok(())).await;
        assert!(matches!(nothing, Err(CustodyError::Audit(_))), "{nothing:?}");
    }
}
