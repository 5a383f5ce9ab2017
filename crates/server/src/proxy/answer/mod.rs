//! Bodies as they stream through: nothing is kept of them but what the scrubber holds back.

mod watch;

use std::{
    error::Error as StdError,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use axum::http::{HeaderMap, header};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{task::AbortHandle, time::Instant};

pub(super) use self::watch::Watchers;
use super::{
    call::Call,
    headers,
    scrub::{Patterns, Scrubber},
    settings::Reach,
    upstream::Interrupted,
};
use crate::listen::STALLED;

type Broken = Box<dyn StdError + Send + Sync>;

/// Why an answer breaks off: what the destination said of it is not passed on.
#[derive(Debug, thiserror::Error)]
#[error("the answer was cut off: {0}")]
struct Cut(&'static str);

/// What scrubs an answer.
struct Scrubbing {
    scrubber: Option<Scrubber>,
    secrets: Arc<Patterns>,
}

/// Who is waited for, and since when.
struct Pace {
    /// The agent's, while it waits for the destination.
    waiting: Option<Waker>,
    moved: Instant,
}

impl Pace {
    fn new() -> Self {
        Self { waiting: None, moved: Instant::now() }
    }

    /// The destination has nothing yet for an agent that asks.
    fn waits(&mut self, waker: &Waker) {
        match &mut self.waiting {
            Some(waiting) => waiting.clone_from(waker),
            None => *self = Self { waiting: Some(waker.clone()), moved: Instant::now() },
        }
    }

    /// When it has lasted too long, and the word for it then.
    fn due(&self, idle: Duration) -> (Instant, &'static str) {
        match self.waiting {
            Some(_) => (self.moved + idle, "upstream_timeout"),
            None => (self.moved + STALLED, "given_up"),
        }
    }
}

/// An answer while it is under way.
struct Streaming {
    /// Both are gone once it is over, whoever still holds what is left.
    parts: Option<(Incoming, Call)>,
    scrubbing: Option<Scrubbing>,
    trailers: Option<HeaderMap>,
    pace: Pace,
    /// Why it was cut off, until that is said.
    cut: Option<&'static str>,
    watch: Option<AbortHandle>,
}

/// The body of an answer on its way to the agent.
pub(super) struct Answer(Arc<Mutex<Streaming>>);

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(watch) = lock(&self.0).watch.take() {
            watch.abort();
        }
    }
}

impl Answer {
    /// Of a destination that may idle for so long, scrubbed of `secrets` where there are any.
    pub(super) fn new(
        body: Incoming,
        call: Call,
        secrets: Option<Arc<Patterns>>,
        (watchers, idle): (&Watchers, Duration),
    ) -> Self {
        let over = body.is_end_stream();
        let scrubbing = secrets.map(|secrets| Scrubbing { scrubber: Some(Scrubber::new(&secrets)), secrets });
        let (parts, pace) = (Some((body, call)), Pace::new());
        let mut streaming = Streaming { parts, scrubbing, trailers: None, pace, cut: None, watch: None };
        if over {
            streaming.over("done");
        }
        let streaming = Arc::new(Mutex::new(streaming));
        if !over {
            watchers.add(&streaming, idle);
        }
        Self(streaming)
    }
}

fn lock(streaming: &Mutex<Streaming>) -> MutexGuard<'_, Streaming> {
    streaming.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Streaming {
    fn over(&mut self, result: &'static str) {
        if let Some((_, mut call)) = self.parts.take() {
            call.result = result;
        }
    }

    fn cut(&mut self, why: &'static str) {
        if self.parts.is_some() {
            self.over(why);
            self.cut = Some(why);
            if let Some(waiting) = self.pace.waiting.take() {
                waiting.wake();
            }
        }
    }

    fn held_back(&mut self) -> Option<Bytes> {
        let rest = self.scrubbing.as_mut().and_then(|scrubbing| scrubbing.scrubber.take()).map(Scrubber::finish);
        rest.filter(|rest| !rest.is_empty())
    }

    /// The last part, with what was held back: who knows how long an answer is does not ask for more.
    fn whole(&mut self, data: Bytes) -> Option<Result<Frame<Bytes>, Broken>> {
        self.over("done");
        let last = match self.held_back() {
            Some(rest) if data.is_empty() => rest,
            Some(rest) => [data, rest].concat().into(),
            None => data,
        };
        (!last.is_empty()).then(|| Ok(Frame::data(last)))
    }

    /// What is due at the end: what was held back, then the trailers.
    fn last(&mut self) -> Option<Result<Frame<Bytes>, Broken>> {
        if let Some(rest) = self.held_back() {
            return Some(Ok(Frame::data(rest)));
        }
        self.over("done");
        let mut trailers = self.trailers.take()?;
        // They come too late for a cookie.
        trailers.remove(header::SET_COOKIE);
        Some(Ok(Frame::trailers(match &self.scrubbing {
            None => trailers,
            Some(Scrubbing { secrets, .. }) => headers::scrubbed(trailers.iter(), secrets),
        })))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            if let Some(why) = self.cut.take() {
                return Poll::Ready(Some(Err(Cut(why).into())));
            }
            if self.trailers.is_some() {
                return Poll::Ready(self.last());
            }
            let Some((body, call)) = &mut self.parts else { return Poll::Ready(None) };
            let scrubber = self.scrubbing.as_mut().and_then(|scrubbing| scrubbing.scrubber.as_mut());
            let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
                let freed = scrubber.map(Scrubber::idle).unwrap_or_default();
                if !freed.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(freed))));
                }
                return Poll::Pending;
            };
            let frame = match frame {
                None => return Poll::Ready(self.last()),
                Some(Err(error)) => {
                    tracing::debug!(%error, "an answer broke off");
                    self.cut("upstream_broken");
                    continue;
                }
                Some(Ok(frame)) => frame,
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    self.trailers = frame.into_trailers().ok();
                    continue;
                }
            };
            call.bytes += u64::try_from(data.len()).unwrap_or(0);
            let data = match scrubber {
                Some(scrubber) => scrubber.scrub(data),
                None => data,
            };
            if body.is_end_stream() {
                return Poll::Ready(self.whole(data));
            }
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            // Something came, if nothing of it may go yet.
            self.pace = Pace::new();
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut streaming = lock(&self.0);
        let polled = streaming.poll(cx);
        match &polled {
            Poll::Ready(_) => streaming.pace = Pace::new(),
            Poll::Pending => streaming.pace.waits(cx.waker()),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let streaming = lock(&self.0);
        streaming.parts.is_none() && streaming.cut.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &*lock(&self.0) {
            // What the scrubber holds back is still to come.
            Streaming { parts: Some((body, _)), scrubbing: None, .. } => body.size_hint(),
            Streaming { parts: None, cut: None, .. } => SizeHint::with_exact(0),
            _ => SizeHint::new(),
        }
    }
}

/// When something last moved in a request, for who waits for its answer.
pub(super) struct Progress {
    began: Instant,
    moved: AtomicU64,
}

impl Progress {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), moved: AtomicU64::new(0) })
    }

    fn note(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(millis, Ordering::Relaxed);
    }

    /// Resolves once nothing has moved for so long.
    pub(super) async fn stalled(&self, time: Duration) {
        loop {
            let until = self.began + Duration::from_millis(self.moved.load(Ordering::Relaxed)) + time;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// The body of a request on its way to the destination.
pub(super) struct Question {
    body: Incoming,
    reach: Arc<Reach>,
    progress: Arc<Progress>,
}

impl Question {
    pub(super) fn new(body: Incoming, reach: &Arc<Reach>, progress: &Arc<Progress>) -> Self {
        Self { body, reach: Arc::clone(reach), progress: Arc::clone(progress) }
    }
}

impl Body for Question {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.progress.note();
        Poll::Ready(match frame {
            None => None,
            Some(Err(_)) => Some(Err(Interrupted("the body of the request broke off").into())),
            Some(Ok(frame)) => Some(Ok(match frame.into_data() {
                Ok(data) => Frame::data(data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    Frame::trailers(headers::outgoing_trailers(&self.reach, &trailers))
                }
            })),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_does_not_ask_and_a_destination_that_does_not_answer_are_not_waited_for() {
        let idle = Duration::from_secs(300);
        let mut pace = Pace::new();
        assert_eq!(pace.due(idle), (pace.moved + STALLED, "given_up"));
        pace.waits(Waker::noop());
        let since = pace.moved;
        pace.waits(Waker::noop());
        assert_eq!(pace.due(idle), (since + idle, "upstream_timeout"), "asking again is no answer");
    }
}
