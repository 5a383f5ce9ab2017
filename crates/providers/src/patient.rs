//! Bounded waits: one attempt ends within its bound, passing failures are tried again a few times, and then it is over.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use keyfold_core::root::RootError;

/// How long a call to a provider may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// One attempt.
    pub attempt: Duration,
    /// Attempts, the first one included.
    pub attempts: u32,
    /// Before the second attempt; doubled before each later one.
    pub pause: Duration,
    /// After this long no further attempt begins.
    pub overall: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(5),
            attempts: 4,
            pause: Duration::from_millis(250),
            overall: Duration::from_secs(12),
        }
    }
}

impl Bounds {
    /// Runs `call` until it succeeds, fails for good, or the bounds are reached. `call` must not change anything that a
    /// second run of it would harm.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn hold<T, F>(&self, place: &str, call: impl Fn() -> F) -> Result<T, RootError>
    where
        F: Future<Output = Result<T, RootError>>,
    {
        let began = Instant::now();
        let mut pause = self.pause;
        for attempt in 1.. {
            let result = match tokio::time::timeout(self.attempt, call()).await {
                Ok(result) => result,
                Err(_) => Err(RootError::TimedOut { place: place.into(), seconds: self.attempt.as_secs().max(1) }),
            };
            match result {
                Err(error) if error.is_passing() && attempt < self.attempts && began.elapsed() < self.overall => {
                    tracing::debug!(%error, attempt, "a root key did not answer as it should; trying again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
        unreachable!("the last attempt returns")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn bounds() -> Bounds {
        Bounds { attempt: Duration::from_millis(20), pause: Duration::from_millis(1), ..Bounds::default() }
    }

    async fn counted(error: impl Fn(u32) -> Option<RootError>) -> (u32, Result<(), RootError>) {
        let calls = AtomicU32::new(0);
        let one = || async { error(calls.fetch_add(1, Ordering::Relaxed)).map_or(Ok(()), Err) };
        let result = bounds().hold("p", one).await;
        (calls.into_inner(), result)
    }

    #[tokio::test]
    async fn what_passes_is_tried_again_and_what_does_not_is_not() {
        let throttled = || RootError::Throttled { place: "p".into() };
        assert_eq!(counted(|n| (n < 2).then(throttled)).await, (3, Ok(())));
        assert_eq!(counted(|_| Some(throttled())).await, (4, Err(throttled())));
        let denied = || RootError::Denied { place: "p".into(), why: "x".into() };
        assert_eq!(counted(|_| Some(denied())).await, (1, Err(denied())));
    }

    #[tokio::test]
    async fn a_call_that_never_answers_ends() {
        let never = bounds().hold("p", std::future::pending::<Result<(), RootError>>).await;
        assert_eq!(never.unwrap_err().kind(), "timed_out");
    }
}
