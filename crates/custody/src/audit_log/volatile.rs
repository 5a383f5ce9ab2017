//! A sink that forgets, for tests.

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use keyfold_core::audit::{Event, event::Link};

use super::{AuditError, AuditSink, Durable};

/// Keeps events in memory and calls them durable, which they are not. For tests only.
#[derive(Debug, Default)]
pub struct InsecureMemory {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Event>,
    backlog: Vec<Event>,
    failing: bool,
    closed: bool,
}

impl InsecureMemory {
    /// Everything taken so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.with(|state| state.events.clone())
    }

    /// Makes every write fail, or work again.
    pub fn fail(&self, failing: bool) {
        self.with(|state| state.failing = failing);
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn take(&mut self, batch: &[Event]) -> Result<(), AuditError> {
        if self.closed {
            return Err(AuditError::Closed);
        }
        if self.failing {
            return Err(AuditError::io("write", "memory", std::io::ErrorKind::StorageFull.into()));
        }
        // What a real sink could not store, this one does not take either.
        batch.iter().try_for_each(|event| event.encode(Link([0; 8]), 0).map(drop))?;
        self.events.append(&mut self.backlog);
        self.events.extend_from_slice(batch);
        Ok(())
    }
}

#[async_trait]
impl AuditSink for InsecureMemory {
    async fn append(&self, batch: &[Event]) -> Result<Durable, AuditError> {
        self.with(|state| state.take(batch)).map(|()| Durable(()))
    }

    async fn append_outcome(&self, batch: &[Event]) -> Result<(), AuditError> {
        self.with(|state| {
            let taken = state.take(batch);
            if taken.is_err() {
                state.backlog.extend_from_slice(batch);
            }
            taken
        })
    }

    async fn checkpoint(&self, _generation: u64) -> Result<(), AuditError> {
        self.with(|state| state.take(&[]))
    }

    async fn close(&self, _generation: u64) -> Result<(), AuditError> {
        self.with(|state| {
            let taken = state.take(&[]);
            state.closed = true;
            taken
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::audit_log::conformance::{Bench, event, suite};

    struct Memory(Arc<InsecureMemory>);

    /// Writers share the memory and are closed one by one.
    struct Writer(Arc<InsecureMemory>, Mutex<bool>);

    #[async_trait]
    impl AuditSink for Writer {
        async fn append(&self, batch: &[Event]) -> Result<Durable, AuditError> {
            if *self.1.lock().unwrap() { Err(AuditError::Closed) } else { self.0.append(batch).await }
        }

        async fn append_outcome(&self, batch: &[Event]) -> Result<(), AuditError> {
            self.0.append_outcome(batch).await
        }

        async fn checkpoint(&self, generation: u64) -> Result<(), AuditError> {
            self.0.checkpoint(generation).await
        }

        async fn close(&self, _generation: u64) -> Result<(), AuditError> {
            *self.1.lock().unwrap() = true;
            Ok(())
        }
    }

    impl Bench for Memory {
        fn sink(&self) -> Box<dyn AuditSink> {
            Box::new(Writer(Arc::clone(&self.0), Mutex::new(false)))
        }

        fn stored(&self) -> Vec<Event> {
            self.0.events()
        }
    }

    #[tokio::test]
    async fn the_memory_sink_conforms() {
        suite(|| Memory(Arc::default())).await;
    }

    #[tokio::test]
    async fn a_failing_memory_sink_refuses_until_it_works_and_keeps_outcomes() {
        let sink = InsecureMemory::default();
        sink.fail(true);
        assert!(sink.append(&[event(1)]).await.is_err());
        assert!(sink.append_outcome(&[event(2)]).await.is_err());
        sink.fail(false);
        let _proof = sink.append(&[event(3)]).await.unwrap();
        assert_eq!(sink.events(), [event(2), event(3)]);
    }
}
