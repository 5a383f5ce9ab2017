//! Sessions: people who signed in, and the handles that stand in for their tokens.
//!
//! - [`Sessions`]: made, found, narrowed, listed, ended. Nothing is stored before an issuer has verified it.
//! - [`Head`]: what limits a holder's copy of the token, sealed with it; [`Narrowing`]: how a holder passes less on.
//! - [`Issuers`]: what is asked of an issuer, implemented where HTTP lives.
//! - [`Reason`]: why a session is not taken.
//!
//! A handle is 256 random bits behind its session's id; what is stored of it is its SHA-256. Each holder has a sealed copy of the
//! token of its own, with the person and the holder in its context. Documents end with the session; who keeps them in memory
//! follows revocations, and takes no session at all where it cannot ([`BOUND`]).
//!
//! Not promised: that a revoked session stays so where somebody puts all of its documents back and removes the note of its
//! revocation, on a node that starts afterwards.

pub mod auto_sre;
mod cache;
mod end;
mod id;
mod import;
mod issuer;
mod own;
mod refused;
mod sealed;
mod session;
mod state;
#[cfg(test)]
pub(crate) mod testing;

use std::{sync::Arc, time::Duration};

use keyfold_core::{
    audit::{Action, Actor, Event, Name, Word},
    clock::UnixTime,
    error::Hint,
    secret::Secret,
};

pub(crate) use self::own::{Kept, Own, OwnFound};
pub use self::{
    cache::BOUND,
    id::{HandleHash, Kind, NotAnId, Person, PersonId, Reference, SessionId},
    import::{Import, Imported},
    issuer::{Granted, IssuerError, Issuers, Presented, Verified},
    refused::{Reason, Refused},
    sealed::{COLLECTION, Head, Keys, MAX_TOKEN, is_token},
    session::{Made, Narrowing, NewSession, Rules, Session, Standing, State, person_actor},
};
use self::{
    cache::{Cache, Held},
    own::StoredOwn,
    sealed::At,
    session::{StoredHolder, StoredSession, checked, narrower},
};
use crate::{
    access::{Permit, Place, op},
    auditor::Auditor,
    error::CustodyError,
    store::{CollectionId, Expect, Put, SystemStore},
    vouched::Voucher,
};

/// Where sessions lie in the system store.
const SESSIONS: &str = "sessions/s/";
/// Holders' copies, by session.
const HOLDERS: &str = "sessions/h/";
/// The session's own copy of its tokens, where it is kept.
const GRANTED: &str = "sessions/r/";
/// How long a session's documents stay after its end, so that who comes late is told why.
const GRACE: u64 = 600;
const PAGE: usize = 500;
/// The longest state that is kept with a session, in bytes.
const MAX_STATE: usize = 16 << 10;
/// The field of Auto SRE's state that holds a token.
const TOKEN_FIELD: &str = "_user_access_token";
/// The one that says whose it is.
const EMAIL_FIELD: &str = "user_email";

/// The collection that grants speak of.
#[must_use]
#[expect(clippy::expect_used, reason = "the text is a constant")]
pub fn collection() -> CollectionId {
    CollectionId::new(COLLECTION).expect("a valid name")
}

/// All sessions of a deployment.
pub struct Sessions {
    system: Arc<dyn SystemStore>,
    keys: Keys,
    voucher: Arc<Voucher>,
    auditor: Auditor,
    issuers: Arc<dyn Issuers>,
    deployment: String,
    rules: Rules,
    cache: Cache,
}

impl Sessions {
    /// In a system store. Nothing is taken before the first [`Sessions::look`].
    #[must_use]
    pub fn new(
        system: Arc<dyn SystemStore>,
        keys: Keys,
        (voucher, auditor): (Arc<Voucher>, Auditor),
        issuers: Arc<dyn Issuers>,
        (deployment, rules): (String, Rules),
    ) -> Self {
        Self { system, keys, voucher, auditor, issuers, deployment, rules, cache: Cache::default() }
    }

    /// The issuers that are asked.
    #[must_use]
    pub fn issuers(&self) -> &Arc<dyn Issuers> {
        &self.issuers
    }

    /// The audit log.
    #[must_use]
    pub const fn auditor(&self) -> &Auditor {
        &self.auditor
    }

    pub(crate) const fn system(&self) -> &Arc<dyn SystemStore> {
        &self.system
    }

    pub(crate) fn now(&self) -> UnixTime {
        self.auditor.clock().now()
    }

    /// Makes a session out of a sign-in, once its issuer has verified it.
    ///
    /// # Errors
    /// The tokens are not what they must be; the store, the keys, the audit log. Nothing is stored then.
    pub async fn create(&self, permit: &Permit<op::Seal>, new: NewSession) -> Result<Made, Refused> {
        permit.check(&Place::Collection(&collection())).map_err(CustodyError::from)?;
        checked(&new)?;
        let verified = match self.issuers.verify(&new.presented).await {
            Ok(verified) => verified,
            Err(error) => {
                self.note_refused_sign_in(permit.actor()).await?;
                return Err(error.into());
            }
        };
        let now = self.now();
        let refresh = new.refresh_token.filter(|_| self.issuers.refreshes(&verified.issuer));
        let most = UnixTime(now.0.saturating_add(self.rules.life.as_secs()));
        let session = Session {
            id: SessionId::new(verified.person.id())?,
            until: if refresh.is_some() { most } else { most.min(verified.expires) },
            person: verified.person.clone(),
            issuer: verified.issuer.clone(),
            created: now,
            project: new.project,
            refreshes: refresh.is_some(),
            vouched: None,
        };
        let token = new.presented.access_token;
        let event = self.event(permit.actor(), Action::SessionCreate, session.id)?;
        let made = self
            .auditor
            .audited(event, async |_| {
                let keep = refresh.as_ref().map(|refresh| (refresh, verified.expires));
                self.store(&session, new.state, keep.map(|(refresh, _)| refresh), (&token, verified.expires)).await?;
                let cookie = match new.cookie {
                    true => Some(
                        self.holder(&session, Kind::Cookie, &Narrowing::default(), (&token, verified.expires)).await?.0,
                    ),
                    false => None,
                };
                let handle = match &new.handle {
                    Some(narrowing) => {
                        Some(self.holder(&session, Kind::Handle, narrowing, (&token, verified.expires)).await?)
                    }
                    None => None,
                };
                Ok(Made { session: session.clone(), cookie, handle })
            })
            .await?;
        self.claim(&verified, permit.actor()).await;
        Ok(made)
    }

    async fn note_refused_sign_in(&self, actor: &Actor) -> Result<(), CustodyError> {
        let event = self.auditor.event(actor, Action::SessionCreate)?;
        let outcome = event.outcome(self.now(), word("refused"));
        self.auditor.intents(vec![event, outcome]).await.map(drop)
    }

    /// An intent about a session.
    pub(crate) fn event(&self, actor: &Actor, action: Action, session: SessionId) -> Result<Event, CustodyError> {
        let mut event = self.auditor.event(actor, action)?;
        event.collection = Some(Name::abridge(COLLECTION));
        event.record = Some(Name::abridge(&session.to_string()));
        Ok(event)
    }

    /// Writes the session's own documents.
    async fn store(
        &self,
        session: &Session,
        state: Option<State>,
        refresh: Option<&Secret>,
        (token, expires): (&Secret, UnixTime),
    ) -> Result<(), CustodyError> {
        self.ready().await?;
        if session.refreshes || session.vouched.is_some() {
            let own = Own { token, expires, generation: 0, refresh };
            self.put_own(session, &own, Expect::Absent).await?;
        }
        only_new(self.put_session(session, (state, token), Expect::Absent).await?)
    }

    async fn put_new(&self, key: &str, doc: &[u8], until: UnixTime) -> Result<(), CustodyError> {
        only_new(self.system.put(key, doc, Expect::Absent, Some(self.ttl(until))).await?)
    }

    pub(crate) fn ttl(&self, until: UnixTime) -> Duration {
        Duration::from_secs(until.0.saturating_sub(self.now().0).saturating_add(GRACE))
    }

    /// A new holder with a sealed copy of its own.
    async fn holder(
        &self,
        session: &Session,
        kind: Kind,
        narrowing: &Narrowing,
        (token, expires): (&Secret, UnixTime),
    ) -> Result<(Secret, Head), CustodyError> {
        let (text, reference) = id::make(session.id, kind)?;
        let now = self.now();
        let until = narrowing.lifetime.map(|life| UnixTime(now.0.saturating_add(life.as_secs())));
        let head = Head {
            session: session.id,
            kind,
            until: until.unwrap_or(session.until).min(session.until),
            expires,
            generation: 0,
            agent: narrowing.agent.clone(),
            destinations: narrowing.destinations.clone(),
            methods: narrowing.methods.clone(),
        };
        self.put_holder(session, &reference, (&head, token), Expect::Absent).await?;
        Ok((text, head))
    }

    pub(crate) async fn put_holder(
        &self,
        session: &Session,
        reference: &Reference,
        (head, token): (&Head, &Secret),
        expect: Expect,
    ) -> Result<(), CustodyError> {
        let (hash, record) = (reference.hash.to_string(), session.id.to_string());
        let digest = self.at(&session.person, &record, "/access_token", &hash).digest()?;
        let keyring = self.keys.sealing().await?;
        let sealed = sealed::seal(&keyring, self.rules.format, &digest, (head, token), self.now())?;
        let doc = json(&StoredHolder { person: bare(&session.person), sealed })?;
        self.keys.confirm(&keyring).await?;
        let key = format!("{HOLDERS}{record}/{hash}");
        // A conflict means that another node has written what this one was about to.
        self.system.put(&key, &doc, expect, Some(self.ttl(head.until))).await?;
        self.cache.forget(&reference.hash);
        Ok(())
    }

    fn at<'a>(&'a self, person: &'a Person, record: &'a str, field: &'static str, holder: &'a str) -> At<'a> {
        At { deployment: &self.deployment, person, record, field, holder }
    }

    /// Finds what a handle or a cookie stands for, and opens it.
    ///
    /// # Errors
    /// It does not hold, or cannot be checked. Nothing weaker is tried.
    pub async fn hold(&self, presented: &str) -> Result<Standing, Refused> {
        let reference = Reference::parse(presented).ok_or(Reason::Unknown)?;
        let now = self.now();
        self.cache.check(&reference)?;
        let held = match self.cache.get(&reference.hash) {
            Some(held) => held,
            None => self.load(&reference).await?,
        };
        let keyring = self.keys.opening();
        let (head, token) = sealed::open(&keyring, &held.sealed, &held.digest)?;
        if head.session != reference.session || head.kind != reference.kind {
            return Err(Reason::Tampered.into());
        }
        if now >= head.until {
            return Err(Reason::Expired.into());
        }
        Ok(Standing { reference, session: Arc::clone(&held.session), head, token, version: held.version })
    }

    async fn load(&self, reference: &Reference) -> Result<Arc<Held>, Refused> {
        let (record, hash) = (reference.session.to_string(), reference.hash.to_string());
        let doc = self.system.get(&format!("{HOLDERS}{record}/{hash}")).await?.ok_or(Reason::Unknown)?;
        let stored: StoredHolder = serde_json::from_slice(&doc.value).map_err(|_| Reason::Tampered)?;
        let (StoredSession { session, .. }, _) = self.stored(reference.session).await?.ok_or(Reason::Unknown)?;
        if !session.person.is(&stored.person) {
            return Err(Reason::Tampered.into());
        }
        let digest = self.at(&session.person, &record, "/access_token", &hash).digest()?;
        let held = Arc::new(Held {
            until: session.until,
            session: Arc::new(session),
            sealed: stored.sealed,
            digest,
            version: doc.version,
        });
        // Only what opens is worth keeping, and only what was not revoked while it was read.
        sealed::open(&self.keys.opening(), &held.sealed, &held.digest)?;
        self.cache.keep(reference, Arc::clone(&held), self.now())?;
        Ok(held)
    }

    fn vouched(&self, key: &str, stored: &[u8]) -> Option<StoredSession> {
        serde_json::from_slice(self.voucher.check(key, stored)?).ok()
    }

    /// A handle that reaches no further than the one it is made from.
    ///
    /// # Errors
    /// It would reach further; the store, the keys, the audit log.
    pub async fn narrow(
        &self,
        actor: &Actor,
        from: &Standing,
        narrowing: &Narrowing,
    ) -> Result<(Secret, Head), Refused> {
        let narrowing = narrower(&from.head, narrowing, self.now())?;
        let mut event = self.event(actor, Action::HandleCreate, from.session.id)?;
        event.field = narrowing.agent.as_ref().map(|agent| Name::abridge(agent.as_str()));
        let made = self
            .auditor
            .audited(event, async |_| {
                self.holder(&from.session, Kind::Handle, &narrowing, (&from.token, from.head.expires)).await
            })
            .await?;
        Ok(made)
    }

    /// Sessions in the order of their ids, a person's own or everybody's.
    ///
    /// # Errors
    /// The store.
    pub async fn list(
        &self,
        of: Option<&Person>,
        after: Option<SessionId>,
        limit: usize,
    ) -> Result<(Vec<Session>, Option<SessionId>), CustodyError> {
        let prefix = of.map_or_else(|| SESSIONS.to_owned(), |person| format!("{SESSIONS}{}", person.id()));
        let after = after.map(|id| format!("{SESSIONS}{id}"));
        let docs = self.system.list(&prefix, after.as_deref(), limit).await?;
        let full = docs.len() == limit;
        let last = docs.last().and_then(|(key, _)| key.strip_prefix(SESSIONS)?.parse().ok());
        let mut sessions = Vec::with_capacity(docs.len());
        for (key, doc) in docs {
            match self.vouched(&key, &doc.value) {
                // An id is a short hash; the person is the person.
                Some(stored) if of.is_none_or(|person| person.is(&stored.session.person)) => {
                    sessions.push(stored.session);
                }
                Some(_) => {}
                None => tracing::warn!(key, "a session that was not made here is not shown"),
            }
        }
        sessions.retain(|session| session.until > self.now() && !self.cache.is_revoked(session.id));
        Ok((sessions, last.filter(|_| full)))
    }
}

/// A person as a holder's copy names them: without their address, which changes.
fn bare(person: &Person) -> Person {
    Person { email: None, ..person.clone() }
}

fn only_new(put: Put) -> Result<(), CustodyError> {
    match put {
        Put::Stored { .. } => Ok(()),
        Put::Conflict => Err(CustodyError::Conflict { what: "there is such a session already".into() }),
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, CustodyError> {
    serde_json::to_vec(value).map_err(|_| CustodyError::invalid("a session cannot be written", "report this"))
}

#[expect(clippy::expect_used, reason = "the words are constants")]
pub(crate) fn word(text: &'static str) -> Word {
    Word::new(text).expect("a lower-case word")
}

impl Hint for NotAnId {
    fn hint(&self) -> Option<String> {
        Some("a session's id is 48 hex digits; see `keyfold session list`".into())
    }
}

#[cfg(test)]
mod tests;
