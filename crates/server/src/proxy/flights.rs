//! How many calls of one caller are under way: nobody takes all the room.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::StatusCode;

use crate::problem::Problem;

/// Calls under way, by who makes them.
pub(super) struct Flights {
    most: usize,
    under_way: Mutex<HashMap<String, usize>>,
}

/// One of them, until it is dropped.
pub(super) struct Flight(Arc<Flights>, String);

impl Flights {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, under_way: Mutex::default() })
    }

    fn under_way<T>(&self, act: impl FnOnce(&mut HashMap<String, usize>) -> T) -> T {
        act(&mut self.under_way.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One more.
    ///
    /// # Errors
    /// They are too many.
    pub(super) fn take(self: &Arc<Self>, who: String) -> Result<Flight, Problem> {
        let taken = self.under_way(|all| {
            let held = all.entry(who.clone()).or_default();
            if *held < self.most {
                *held += 1;
                return true;
            }
            false
        });
        if taken {
            return Ok(Flight(Arc::clone(self), who));
        }
        let what = "too many calls or tunnels of this session are under way";
        Err(Problem::busy(StatusCode::TOO_MANY_REQUESTS, "too_many_calls", what, 1)
            .hint("wait until some have ended; `in_flight` under [proxy] says how many there may be"))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.under_way(|all| {
            if let Some(held) = all.get_mut(&self.1) {
                *held -= 1;
                if *held == 0 {
                    all.remove(&self.1);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_too_many_under_way_waits_and_nobody_else_does() {
        let flights = Flights::new(2);
        let first = flights.take("a".into()).unwrap();
        let _second = flights.take("a".into()).unwrap();
        assert_eq!(flights.take("a".into()).err().unwrap().code(), "too_many_calls");
        let other = flights.take("b".into()).unwrap();
        drop(first);
        let _third = flights.take("a".into()).unwrap();
        drop(other);
        assert_eq!(flights.under_way(|all| all.len()), 1, "who has none under way is forgotten");
    }
}
