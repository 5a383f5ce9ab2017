//! Intent before, outcome after: the one way in which use cases write events.

use std::sync::Arc;

use keyfold_core::{
    audit::{Action, Actor, Event, EventId, Name, Word},
    clock::Clock,
    rng::{self, SystemRandom},
};

use crate::{
    audit_log::{AuditSink, Durable},
    collection::Collection,
    error::CustodyError,
};

/// Writes events for the actors of one process.
#[derive(Clone)]
pub struct Auditor {
    sink: Arc<dyn AuditSink>,
    clock: Arc<dyn Clock>,
}

impl Auditor {
    /// Into a sink, with a clock.
    #[must_use]
    pub fn new(sink: Arc<dyn AuditSink>, clock: Arc<dyn Clock>) -> Self {
        Self { sink, clock }
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
        Ok(self.sink.append(std::slice::from_ref(event)).await?)
    }

    /// Says how it went. `Ok` results say `done`.
    ///
    /// # Errors
    /// The outcome could not be written. What happened has happened; the sink refuses the next intent.
    pub async fn outcome<T>(&self, event: &Event, result: &Result<T, CustodyError>) -> Result<(), CustodyError> {
        let word = match result {
            Ok(_) => Word::done(),
            Err(CustodyError::Refused(_)) => word("forbidden"),
            Err(error) => error.code().map_or_else(|| word("failed"), Word::from),
        };
        let outcome = event.outcome(self.clock.now(), word);
        Ok(self.sink.append_outcome(&[outcome]).await?)
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
        let durable = self.intent(&event).await?;
        let result = work(durable).await;
        let told = self.outcome(&event, &result).await;
        let value = result?;
        told?;
        Ok(value)
    }
}

/// A word of the vocabulary.
#[expect(clippy::expect_used, reason = "the words are constants")]
fn word(text: &'static str) -> Word {
    Word::new(text).expect("a lower-case word")
}
