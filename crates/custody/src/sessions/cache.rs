//! What a node remembers: sealed copies that were looked up, and what has ended.
//!
//! Copies are kept sealed, and opened for each call. What has ended is followed in the store; where that does not succeed within
//! [`BOUND`], no session is taken.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use keyfold_core::{clock::UnixTime, context::ContextDigest, id::from_hex};
use tokio::sync::watch;

use super::{GRACE, HandleHash, PersonId, Reason, Reference, Session, SessionId, sealed::Sealed};

/// Where it is noted what has ended, until it would have ended by itself.
pub(super) const ENDED: &str = "sessions/x/";
/// After this long without a look that succeeded, no session is taken: also the bound within which a revocation holds everywhere.
pub const BOUND: Duration = Duration::from_secs(5);
/// How many copies are kept at most.
const MOST: usize = 250_000;

/// A holder's copy, as it was read and found to open.
pub(super) struct Held {
    pub(super) session: Arc<Session>,
    pub(super) sealed: Sealed,
    pub(super) digest: ContextDigest,
    pub(super) version: u64,
    pub(super) until: UnixTime,
}

#[derive(Default)]
struct Ended {
    sessions: HashMap<SessionId, UnixTime>,
    handles: HashMap<HandleHash, UnixTime>,
    looked: Option<Instant>,
}

pub(super) struct Cache {
    held: RwLock<HashMap<HandleHash, Arc<Held>>>,
    ended: RwLock<Ended>,
    changes: watch::Sender<()>,
}

impl Default for Cache {
    fn default() -> Self {
        Self { held: RwLock::default(), ended: RwLock::default(), changes: watch::Sender::new(()) }
    }
}

impl Cache {
    fn ended<T>(&self, act: impl FnOnce(&mut Ended) -> T) -> T {
        act(&mut self.ended.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn held<T>(&self, act: impl FnOnce(&mut HashMap<HandleHash, Arc<Held>>) -> T) -> T {
        act(&mut self.held.write().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Whether this may be taken at all: it has not ended, and what has is known.
    pub(super) fn check(&self, reference: &Reference) -> Result<(), Reason> {
        let ended = self.ended.read().unwrap_or_else(PoisonError::into_inner);
        if ended.sessions.contains_key(&reference.session) || ended.handles.contains_key(&reference.hash) {
            return Err(Reason::Revoked);
        }
        match ended.looked {
            Some(looked) if looked.elapsed() <= BOUND => Ok(()),
            _ => Err(Reason::Stale),
        }
    }

    pub(super) fn is_revoked(&self, session: SessionId) -> bool {
        self.ended.read().unwrap_or_else(PoisonError::into_inner).sessions.contains_key(&session)
    }

    pub(super) fn get(&self, hash: &HandleHash) -> Option<Arc<Held>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).get(hash).cloned()
    }

    /// Keeps a copy, unless it ended meanwhile.
    pub(super) fn keep(&self, reference: &Reference, held: Arc<Held>, now: UnixTime) -> Result<(), Reason> {
        self.held(|all| {
            if all.len() >= MOST {
                all.retain(|_, held| held.until > now);
            }
            if all.len() >= MOST {
                let some: Vec<_> = all.keys().take(MOST / 4).copied().collect();
                some.iter().for_each(|hash| drop(all.remove(hash)));
            }
            all.insert(reference.hash, held);
        });
        // After it is in: whoever ends the session notes that first and then removes what is kept.
        self.check(reference).inspect_err(|_| self.forget(&reference.hash))
    }

    pub(super) fn forget(&self, hash: &HandleHash) {
        self.held(|all| drop(all.remove(hash)));
    }

    /// A session has ended.
    pub(super) fn revoke(&self, session: SessionId, until: UnixTime) -> bool {
        let new = self.ended(|ended| ended.sessions.insert(session, until).is_none());
        if new {
            self.held(|all| all.retain(|_, held| held.session.id != session));
            self.changes.send_replace(());
        }
        new
    }

    /// A handle has ended.
    pub(super) fn drop_handle(&self, hash: HandleHash, until: UnixTime) {
        if self.ended(|ended| ended.handles.insert(hash, until).is_none()) {
            self.forget(&hash);
            self.changes.send_replace(());
        }
    }

    /// Takes over a note of the store. Gives the person whose session ended, where this node did not know.
    pub(super) fn note(&self, key: &str, until: UnixTime) -> Option<PersonId> {
        let name = key.strip_prefix(ENDED)?;
        match name.split_once('/') {
            None => {
                let session: SessionId = name.parse().ok()?;
                self.revoke(session, until).then(|| session.person())
            }
            Some((_, hash)) => {
                self.drop_handle(HandleHash(from_hex(hash)?), until);
                None
            }
        }
    }

    /// A look that began then has succeeded.
    pub(super) fn looked(&self, began: Instant, now: UnixTime) {
        let over = |until: &UnixTime| until.0.saturating_add(GRACE) <= now.0;
        self.ended(|ended| {
            if ended.looked.is_none_or(|looked| looked < began) {
                ended.looked = Some(began);
            }
            ended.sessions.retain(|_, until| !over(until));
            ended.handles.retain(|_, until| !over(until));
        });
    }
}
