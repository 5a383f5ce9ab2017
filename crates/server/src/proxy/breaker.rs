//! Leaves a host alone for a while after connecting to it failed often; then one call tries, and the others wait for what it finds.
//!
//! Each host and port by itself, and only what no agent can bring about: a name that does not resolve, a slow answer or a broken one
//! say nothing about whether the next call would reach it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::StatusCode;

use crate::problem::Problem;

/// How many connections in a row have to fail before a host is left alone, and for how long it is.
const FAILURES: usize = 8;
const PAUSE: Duration = Duration::from_secs(5);
/// Over so many hosts that fail, all are forgotten: better asked in vain than held without bound.
const HOSTS: usize = 1000;

/// The hosts of a destination that failed last.
#[derive(Default)]
pub(super) struct Breaker(Mutex<HashMap<String, Failing>>);

#[derive(Default)]
struct Failing {
    failures: usize,
    until: Option<Instant>,
}

impl Breaker {
    fn state<T>(&self, act: impl FnOnce(&mut HashMap<String, Failing>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether `host` is asked at all.
    ///
    /// # Errors
    /// It is left alone.
    pub(super) fn check(&self, host: &str) -> Result<(), Problem> {
        let now = Instant::now();
        let open = self.state(|all| match all.get_mut(host).and_then(|failing| failing.until.as_mut()) {
            Some(at) if now < *at => true,
            Some(at) => {
                *at = now + PAUSE;
                false
            }
            None => false,
        });
        if !open {
            return Ok(());
        }
        let what = "the destination could not be reached several times in a row, and is left alone for a moment";
        let seconds = u16::try_from(PAUSE.as_secs()).unwrap_or(5);
        Err(Problem::busy(StatusCode::SERVICE_UNAVAILABLE, "upstream_paused", what, seconds)
            .hint("nothing was sent; try again later"))
    }

    pub(super) fn worked(&self, host: &str) {
        self.state(|all| {
            all.remove(host);
        });
    }

    pub(super) fn failed(&self, host: &str) {
        self.state(|all| {
            if all.len() >= HOSTS {
                all.clear();
            }
            let failing = all.entry(host.to_owned()).or_default();
            failing.failures += 1;
            if failing.failures >= FAILURES {
                failing.until = Some(Instant::now() + PAUSE);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_keeps_failing_is_left_alone_until_one_call_has_worked_and_no_other_is() {
        let breaker = Breaker::default();
        for _ in 1..FAILURES {
            breaker.failed("a:443");
            assert!(breaker.check("a:443").is_ok());
        }
        breaker.failed("a:443");
        assert_eq!(breaker.check("a:443").unwrap_err().code(), "upstream_paused");
        assert!(breaker.check("a:8443").is_ok() && breaker.check("b:443").is_ok());
        breaker.state(|all| all.get_mut("a:443").unwrap().until = Some(Instant::now()));
        assert!(breaker.check("a:443").is_ok(), "one may try");
        assert!(breaker.check("a:443").is_err(), "and the others wait for it");
        breaker.worked("a:443");
        assert!(breaker.check("a:443").is_ok() && breaker.check("a:443").is_ok());
        for n in 0..=HOSTS {
            breaker.failed(&n.to_string());
        }
        assert_eq!(breaker.state(|all| all.len()), 1);
    }
}
