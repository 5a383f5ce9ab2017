//! What ends an answer from outside. It does not wait for an agent that reads: room on the connection to the destination would be
//! taken for as long as that one likes.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use super::{STALLED, Streaming, lock};
use crate::proxy::call::YOUNG;

/// An answer that nobody watches yet, and how long it may idle.
type New = (Weak<Mutex<Streaming>>, Duration);

/// Gives answers somebody who watches them, once they are no longer young.
#[derive(Default)]
pub(in crate::proxy) struct Watchers {
    unwatched: Mutex<Vec<New>>,
    any: Notify,
}

impl Watchers {
    /// Starts their task, which ends with the runtime.
    pub(in crate::proxy) fn start() -> Arc<Self> {
        let watchers = Arc::<Self>::default();
        tokio::spawn(Arc::clone(&watchers).run());
        watchers
    }

    fn unwatched(&self) -> MutexGuard<'_, Vec<New>> {
        self.unwatched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, streaming: &Arc<Mutex<Streaming>>, idle: Duration) {
        self.unwatched().push((Arc::downgrade(streaming), idle));
        self.any.notify_one();
    }

    async fn run(self: Arc<Self>) {
        loop {
            self.any.notified().await;
            sleep(YOUNG).await;
            let new = mem::take(&mut *self.unwatched());
            for (weak, idle) in new {
                let Some(streaming) = weak.upgrade() else { continue };
                let mut streaming = lock(&streaming);
                let Some((_, call)) = &streaming.parts else { continue };
                let ended = call.ended();
                streaming.watch = Some(tokio::spawn(watch(weak, ended, idle)).abort_handle());
            }
        }
    }
}

/// Cuts an answer off whose session has ended, or that nobody reads or writes any more.
async fn watch(streaming: Weak<Mutex<Streaming>>, ended: impl Future<Output = &'static str>, idle: Duration) {
    let overdue = async {
        while let Some((until, why)) = streaming.upgrade().map(|streaming| lock(&streaming).pace.due(idle)) {
            let now = Instant::now();
            if until <= now {
                return why;
            }
            // It may be another's turn before that.
            sleep_until(until.min(now + idle.min(STALLED))).await;
        }
        "given_up"
    };
    let why = tokio::select! {
        why = ended => why,
        why = overdue => why,
    };
    if let Some(streaming) = streaming.upgrade() {
        lock(&streaming).cut(why);
    }
}
