//! How sessions and handles end, and how every node learns of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use keyfold_core::{
    audit::{Action, Actor},
    clock::UnixTime,
};

use super::{
    BOUND, GRANTED, HOLDERS, PAGE, Person, Reason, Reference, Refused, SESSIONS, SessionId, Sessions, Standing,
    StoredSession, cache,
};
use crate::{
    error::CustodyError,
    store::{ChangeMark, Expect, Pages, StoreError},
};

impl Sessions {
    /// Ends a session: here at once, elsewhere within [`BOUND`]. `own` is the person who may end none but theirs.
    ///
    /// # Errors
    /// No such session; the store, the audit log.
    pub async fn revoke(&self, actor: &Actor, id: SessionId, own: Option<&Person>) -> Result<(), Refused> {
        let found = self.stored(id).await;
        let session = match found {
            Ok(Some((StoredSession { session, .. }, _))) if own.is_none_or(|person| person.is(&session.person)) => {
                session
            }
            // What was tampered with can still be ended, by who may end everything.
            Err(Refused::For(Reason::Tampered)) if own.is_none() => return self.end(actor, id, self.most()).await,
            Err(error) => return Err(error),
            Ok(found) => {
                // Where a writer of the store removed the session, nodes may go on with what they remember of it: it is ended all
                // the same, by its person and by who may end everything.
                let gone = found.is_none();
                if gone && own.is_none_or(|person| person.id() == id.person()) {
                    self.end(actor, id, self.most()).await?;
                }
                if gone && own.is_some_and(|person| person.id() == id.person()) {
                    return Ok(());
                }
                return Err(CustodyError::NotFound {
                    what: "there is no such session".into(),
                    hint: "see `keyfold session list`; should a node still know it, it knows now that it has ended"
                        .into(),
                }
                .into());
            }
        };
        self.end(actor, id, session.until).await
    }

    /// Whether it still holds: asked again after whatever took time.
    pub(crate) fn still(&self, reference: &Reference) -> Result<(), Reason> {
        self.cache.check(reference)
    }

    pub(super) fn most(&self) -> UnixTime {
        UnixTime(self.now().0.saturating_add(self.rules.life.as_secs()))
    }

    async fn end(&self, actor: &Actor, id: SessionId, until: UnixTime) -> Result<(), Refused> {
        let event = self.event(actor, Action::SessionRevoke, id)?;
        self.auditor
            .audited(event, async |_| {
                self.note_end(&format!("{id}"), until).await?;
                self.cache.revoke(id, until);
                self.issuers.forget(id.person());
                // From here on it is over; what follows only tidies up, and its documents end by themselves otherwise.
                for key in [format!("{SESSIONS}{id}"), format!("{GRANTED}{id}")] {
                    self.system.delete(&key, Expect::Any).await?;
                }
                self.delete_all(&format!("{HOLDERS}{id}/")).await?;
                Ok(())
            })
            .await?;
        Ok(())
    }

    async fn note_end(&self, what: &str, until: UnixTime) -> Result<(), StoreError> {
        let key = format!("{}{what}", cache::ENDED);
        let note = self.voucher.vouch(&key, until.0.to_string().as_bytes());
        self.system.put(&key, &note, Expect::Any, Some(self.ttl(until))).await?;
        Ok(())
    }

    /// Until when a note of the store holds. One that was not made here ends its session too: to refuse is the safe side, and who can
    /// write it could remove the session. But then its own word for how long counts for nothing.
    fn noted(&self, key: &str, note: &[u8]) -> UnixTime {
        let until = self.voucher.check(key, note).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let most = self.most();
        until.map_or_else(
            || {
                tracing::warn!(key, "a note of a revocation was not made here; what it names is over all the same");
                most
            },
            |until| UnixTime(until).min(most),
        )
    }

    async fn delete_all(&self, prefix: &str) -> Result<(), StoreError> {
        loop {
            let docs = self.system.list(prefix, None, PAGE).await?;
            for (key, _) in &docs {
                self.system.delete(key, Expect::Any).await?;
            }
            if docs.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// Ends one handle, and leaves the session and its other handles.
    ///
    /// # Errors
    /// The store, the audit log.
    pub async fn drop_handle(&self, actor: &Actor, standing: &Standing) -> Result<(), Refused> {
        let Reference { session, hash, .. } = standing.reference;
        let event = self.event(actor, Action::HandleRevoke, session)?;
        self.auditor
            .audited(event, async |_| {
                self.note_end(&format!("{session}/{hash}"), standing.head.until).await?;
                self.cache.drop_handle(hash, standing.head.until);
                self.system.delete(&format!("{HOLDERS}{session}/{hash}"), Expect::Any).await?;
                Ok(())
            })
            .await?;
        Ok(())
    }

    /// Resolves once the session has ended, by time or by revocation: for streams that are open meanwhile.
    pub async fn ended(&self, standing: &Standing) -> Reason {
        self.ended_at(&standing.reference, standing.head.until).await
    }

    /// As [`Sessions::ended`], for who kept no more of it than what was presented and its last moment.
    pub async fn ended_at(&self, reference: &Reference, until: UnixTime) -> Reason {
        let mut changes = self.cache.changes();
        loop {
            let now = self.now();
            match self.cache.check(reference) {
                Err(reason) => return reason,
                Ok(()) if now >= until => return Reason::Expired,
                Ok(()) => {}
            }
            let left = Duration::from_secs(until.0.saturating_sub(now.0)).min(BOUND / 5);
            let _ = tokio::time::timeout(left.max(Duration::from_millis(100)), changes.changed()).await;
        }
    }

    /// Reads all revocations anew.
    ///
    /// # Errors
    /// The store.
    pub async fn look(&self) -> Result<(), CustodyError> {
        let began = Instant::now();
        let mut pages = Pages::under(cache::ENDED, &*self.system);
        while let Some(page) = pages.next().await? {
            for (key, doc) in &page {
                if let Some(person) = self.cache.note(key, self.noted(key, &doc.value)) {
                    self.issuers.forget(person);
                }
            }
        }
        self.cache.looked(began, self.now());
        Ok(())
    }

    /// Follows revocations until the task is dropped.
    pub async fn follow(self: Arc<Self>) {
        let mut mark = ChangeMark::start();
        loop {
            let began = Instant::now();
            let followed = async {
                let next = self.system.changed(cache::ENDED, &mark, Duration::from_secs(1)).await?;
                if next == mark {
                    self.cache.looked(began, self.now());
                } else {
                    self.look().await?;
                    mark = next;
                }
                Ok::<_, CustodyError>(())
            };
            if let Err(error) = followed.await {
                tracing::warn!(%error, "the sessions could not be followed");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}
