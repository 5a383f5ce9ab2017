//! Sessions of another program, taken over. Their database says whose each token is, and a database proves nothing: such a token is
//! kept, and is no session until the person signs in or an operator vouches, and the issuer says that it is theirs.

use keyfold_core::{
    audit::{Action, Actor, Name},
    clock::UnixTime,
    secret::Secret,
};

use super::{
    IssuerError, Kind, Made, Narrowing, Person, Presented, Reason, Refused, Session, SessionId, Sessions, StoredHolder,
    StoredOwn, StoredSession, Verified, json,
    sealed::{self, Sealed, is_token},
};
use crate::{
    access::{Permit, Place, op},
    error::CustodyError,
    store::{Expect, Pages},
};

/// Where imports wait.
pub(super) const IMPORTS: &str = "sessions/i/";
/// The holder of a copy that nobody holds yet.
const HOLDER: &str = "import";

/// A session as the other program has it.
pub struct Imported {
    /// The name of the issuer that its users sign in at.
    pub issuer: String,
    /// Whose it says it is.
    pub email: String,
    /// Where it was found, for people.
    pub source: String,
    /// The token.
    pub token: Secret,
}

/// An import that waits.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// Names it.
    pub id: SessionId,
    /// The issuer, by name.
    pub issuer: String,
    /// Whose it says it is.
    pub email: String,
    /// Where it was found.
    pub source: String,
    /// When it was taken over.
    pub imported: UnixTime,
    /// Until when it waits.
    pub until: UnixTime,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredImport {
    import: Import,
    sealed: Sealed,
}

/// Who says that an import is a person's.
enum Evidence<'a> {
    /// They signed in.
    SignIn(&'a Person),
    /// Somebody who may.
    Operator,
}

/// Nobody, as far as is known: what an import is bound to until it is somebody's.
fn claimed(issuer: &str, email: &str) -> Person {
    Person { iss: format!("import:{issuer}"), sub: email.to_lowercase(), email: None }
}

impl Sessions {
    /// Takes a token over, sealed anew. It is not used before somebody vouches for it.
    ///
    /// # Errors
    /// What is not a token; the store, the keys, the audit log.
    pub async fn import(&self, permit: &Permit<op::Seal>, imported: Imported) -> Result<Import, Refused> {
        permit.check(&Place::Collection(&super::collection())).map_err(CustodyError::from)?;
        let plain = |text: &str, most| (1..=most).contains(&text.len()) && !text.chars().any(char::is_control);
        if !is_token(imported.token.expose()) || !plain(&imported.email, 320) || !plain(&imported.source, 1000) {
            return Err(CustodyError::invalid(
                "what was found is not a token and whose it is",
                "look at the record; `_user_access_token` and `user_email` are expected in its state",
            )
            .into());
        }
        let person = claimed(&imported.issuer, &imported.email);
        let now = self.now();
        let import = Import {
            id: SessionId::new(person.id())?,
            issuer: imported.issuer,
            email: imported.email,
            source: imported.source,
            imported: now,
            until: self.most(),
        };
        let mut event = self.event(permit.actor(), Action::SessionImport, import.id)?;
        event.first = Some(Name::abridge(&import.source));
        self.auditor
            .audited(event, async |_| {
                let record = import.id.to_string();
                let digest = self.at(&person, &record, "/access_token", HOLDER).digest()?;
                let keyring = self.keys.sealing().await?;
                let sealed = sealed::seal_bytes(&keyring, self.rules.format, &digest, imported.token.expose(), now)?;
                let doc = json(&StoredImport { import: import.clone(), sealed })?;
                self.keys.confirm(&keyring).await?;
                self.put_new(&format!("{IMPORTS}{record}"), &doc, import.until).await
            })
            .await?;
        Ok(import)
    }

    /// What waits.
    ///
    /// # Errors
    /// The store.
    pub async fn imports(&self) -> Result<Vec<Import>, CustodyError> {
        let found = self.waiting(IMPORTS).await?;
        Ok(found.into_iter().map(|stored| stored.import).collect())
    }

    async fn waiting(&self, prefix: &str) -> Result<Vec<StoredImport>, CustodyError> {
        let mut found = Vec::new();
        let mut pages = Pages::under(prefix, &*self.system);
        while let Some(page) = pages.next().await? {
            found.extend(page.iter().filter_map(|(_, doc)| serde_json::from_slice(&doc.value).ok()));
        }
        Ok(found)
    }

    /// Makes a session of an import because an operator says whose it is. The issuer must still know the token, and where it says
    /// whose it is, the operator cannot say otherwise.
    ///
    /// # Errors
    /// No such import; the issuer does not take the token; the store, the keys, the audit log.
    pub async fn vouch(
        &self,
        permit: &Permit<op::Manage>,
        id: SessionId,
        handle: Option<&Narrowing>,
    ) -> Result<Made, Refused> {
        permit.check(&Place::Deployment).map_err(CustodyError::from)?;
        let doc = self.system.get(&format!("{IMPORTS}{id}")).await?;
        let doc = doc.ok_or_else(|| CustodyError::NotFound {
            what: "there is no such import".into(),
            hint: "see `keyfold session list --imports`".into(),
        })?;
        let stored: StoredImport = serde_json::from_slice(&doc.value).map_err(|_| Reason::Tampered)?;
        if stored.import.id != id {
            return Err(Reason::Tampered.into());
        }
        self.adopt(permit.actor(), &stored, &Evidence::Operator, handle).await
    }

    /// Makes sessions of the imports of somebody who has just signed in. What does not turn out to be theirs goes on waiting.
    pub(super) async fn claim(&self, verified: &Verified, actor: &Actor) {
        let Some(email) = &verified.person.email else { return };
        let prefix = format!("{IMPORTS}{}", claimed(&verified.issuer, email).id());
        let waiting = match self.waiting(&prefix).await {
            Ok(waiting) => waiting,
            Err(error) => return tracing::warn!(%error, "imported sessions could not be looked for"),
        };
        for stored in waiting {
            let adopted = self.adopt(actor, &stored, &Evidence::SignIn(&verified.person), None).await;
            if let Err(error) = adopted {
                tracing::info!(import = %stored.import.id, %error, "an imported session was not taken over at a sign-in");
            }
        }
    }

    async fn adopt(
        &self,
        actor: &Actor,
        stored: &StoredImport,
        evidence: &Evidence<'_>,
        handle: Option<&Narrowing>,
    ) -> Result<Made, Refused> {
        let import = &stored.import;
        let record = import.id.to_string();
        let claim = claimed(&import.issuer, &import.email);
        let digest = self.at(&claim, &record, "/access_token", HOLDER).digest()?;
        let token = sealed::open_bytes(&self.keys.opening(), &stored.sealed, &digest)?;
        let presented = Presented {
            issuer: Some(import.issuer.clone()),
            access_token: Secret::from(token.expose()),
            id_token: None,
            nonce: None,
        };
        let verified = self.issuers.verify(&presented).await?;
        let same = match evidence {
            Evidence::SignIn(person) => person.is(&verified.person),
            // What the issuer does not confirm is the word of whoever writes to the other program's store.
            Evidence::Operator => {
                verified.person.email.as_ref().is_some_and(|email| email.eq_ignore_ascii_case(&import.email))
            }
        };
        if !same {
            return Err(IssuerError::Refused {
                what: "the issuer does not say that the imported token is of the person that the record names",
                hint: "ask the person to sign in; if it names another one, find out who writes to the other program's store",
            }
            .into());
        }
        let session = Session {
            id: SessionId::new(verified.person.id())?,
            until: self.most().min(verified.expires),
            person: verified.person,
            issuer: verified.issuer,
            created: self.now(),
            project: None,
            refreshes: false,
            vouched: Some(format!("{actor}; {}", import.source)),
        };
        let mut event = self.event(actor, Action::SessionVouch, session.id)?;
        event.first = Some(Name::abridge(&import.source));
        let made = self
            .auditor
            .audited(event, async |_| {
                self.store(&session, None, None, (&token, verified.expires)).await?;
                let handle = match handle {
                    Some(narrowing) => {
                        Some(self.holder(&session, Kind::Handle, narrowing, (&token, verified.expires)).await?)
                    }
                    None => None,
                };
                self.system.delete(&format!("{IMPORTS}{record}"), Expect::Any).await?;
                Ok(Made { session: session.clone(), cookie: None, handle })
            })
            .await?;
        Ok(made)
    }

    /// A handle of another session of the same person: one that was taken over has none yet.
    ///
    /// # Errors
    /// No such session of theirs; the store, the keys, the audit log.
    pub async fn handle_of(
        &self,
        actor: &Actor,
        person: &Person,
        id: SessionId,
        narrowing: &Narrowing,
    ) -> Result<(Secret, super::Head), Refused> {
        let unknown = || {
            CustodyError::NotFound {
            what: "there is no such session, or it keeps no token of its own".into(),
            hint: "sessions that were taken over do, and all under `sessions.auto_sre`; others pass on what their own handles reach".into(),
        }
        };
        let stored = self.stored(id).await?.map(|(stored, _)| stored).filter(|stored| stored.session.person.is(person));
        let stored = stored.ok_or_else(unknown)?;
        if self.cache.is_revoked(id) {
            return Err(Reason::Revoked.into());
        }
        let session = &stored.session;
        let (token, expires) = match self.own(session).await? {
            Some(own) => (own.token, own.head.expires),
            // A session that is not refreshed ends with its token.
            None if !session.refreshes => (self.state_token(&stored)?.ok_or_else(unknown)?, session.until),
            None => return Err(unknown().into()),
        };
        let mut event = self.event(actor, Action::HandleCreate, id)?;
        event.field = narrowing.agent.as_ref().map(|agent| Name::abridge(agent.as_str()));
        let made = self
            .auditor
            .audited(event, async |_| self.holder(session, Kind::Handle, narrowing, (&token, expires)).await)
            .await?;
        Ok(made)
    }
}

/// The sealed values in a stored document, whichever of the four it is.
pub(super) fn sealed_in(value: &[u8]) -> Vec<Sealed> {
    // A session's own lies behind its MAC. Whether that holds does not matter to who counts keys.
    if let Some(session) = value.get(65..).and_then(|json| serde_json::from_slice::<StoredSession>(json).ok()) {
        return session.sealed().into_iter().collect();
    }
    if let Ok(holder) = serde_json::from_slice::<StoredHolder>(value) {
        return vec![holder.sealed];
    }
    if let Ok(own) = serde_json::from_slice::<StoredOwn>(value) {
        return [Some(own.access), own.refresh].into_iter().flatten().collect();
    }
    serde_json::from_slice::<StoredImport>(value).map(|import| import.sealed).into_iter().collect()
}
