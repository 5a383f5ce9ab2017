//! Copies that no handle leads to: the session's own, what a browser carries while somebody signs in, and narrowed tokens in memory.

use keyfold_core::{
    clock::UnixTime,
    context::{Context, ContextDigest},
    envelope::Format,
    id::KeyId,
    keyring::Keyring,
    secret::Secret,
};

use super::{
    COLLECTION, GRANTED, HOLDERS, Head, Kind, Reason, Refused, SESSIONS, Session, Sessions, import, json,
    sealed::{self, Sealed},
};
use crate::{
    error::CustodyError,
    store::{Expect, Pages, Put, SystemStore},
};

/// The session's own copy of its tokens: for who refreshes it, and for who makes handles of an imported one.
pub(crate) struct Own<'a> {
    pub(crate) token: &'a Secret,
    pub(crate) expires: UnixTime,
    pub(crate) generation: u64,
    pub(crate) refresh: Option<&'a Secret>,
}

/// The same, as it was read.
pub(crate) struct OwnFound {
    pub(crate) head: Head,
    pub(crate) token: Secret,
    pub(crate) refresh: Option<Secret>,
    pub(crate) version: u64,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredOwn {
    pub(super) access: Sealed,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refresh: Option<Sealed>,
}

/// The holder of a copy that no handle leads to.
const OWN: &str = "session";

impl Sessions {
    pub(crate) async fn put_own(&self, session: &Session, own: &Own<'_>, expect: Expect) -> Result<Put, CustodyError> {
        let record = session.id.to_string();
        let head = Head {
            session: session.id,
            kind: Kind::Handle,
            until: session.until,
            expires: own.expires,
            generation: own.generation,
            agent: None,
            destinations: None,
            methods: None,
        };
        let keyring = self.keys.sealing().await?;
        let seal = |field, token| {
            let digest = self.at(&session.person, &record, field, OWN).digest()?;
            sealed::seal(&keyring, self.rules.format, &digest, (&head, token), self.now())
        };
        let stored = StoredOwn {
            access: seal("/access_token", own.token)?,
            refresh: own.refresh.map(|refresh| seal("/refresh_token", refresh)).transpose()?,
        };
        let doc = json(&stored)?;
        self.keys.confirm(&keyring).await?;
        Ok(self.system.put(&format!("{GRANTED}{record}"), &doc, expect, Some(self.ttl(session.until))).await?)
    }

    pub(crate) async fn own(&self, session: &Session) -> Result<Option<OwnFound>, Refused> {
        let record = session.id.to_string();
        let Some(doc) = self.system.get(&format!("{GRANTED}{record}")).await? else { return Ok(None) };
        let stored: StoredOwn = serde_json::from_slice(&doc.value).map_err(|_| Reason::Tampered)?;
        let keyring = self.keys.opening();
        let open = |field, sealed: &Sealed| {
            let digest = self.at(&session.person, &record, field, OWN).digest()?;
            let (head, token) = sealed::open(&keyring, sealed, &digest)?;
            if head.session == session.id { Ok::<_, Refused>((head, token)) } else { Err(Reason::Tampered.into()) }
        };
        let (head, token) = open("/access_token", &stored.access)?;
        let refresh = stored.refresh.as_ref().map(|sealed| open("/refresh_token", sealed)).transpose()?;
        Ok(Some(OwnFound { head, token, refresh: refresh.map(|(_, token)| token), version: doc.version }))
    }

    /// The keys that stored sessions need, counted.
    ///
    /// # Errors
    /// The store.
    pub(crate) async fn needs(
        system: &dyn SystemStore,
        keyring: &Keyring,
        mut found: impl FnMut(Format, KeyId) + Send,
    ) -> Result<(), CustodyError> {
        for prefix in [SESSIONS, HOLDERS, GRANTED, import::IMPORTS] {
            let mut pages = Pages::under(prefix, system);
            while let Some(page) = pages.next().await? {
                for (_, doc) in &page {
                    for sealed in import::sealed_in(&doc.value) {
                        sealed.kids(keyring).into_iter().for_each(|(format, kid)| found(format, kid));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Sessions {
    /// Seals what a browser carries for us while somebody signs in.
    ///
    /// # Errors
    /// The keys.
    pub async fn wrap(&self, bytes: &[u8]) -> Result<String, CustodyError> {
        let keyring = self.keys.sealing().await?;
        let sealed = sealed::seal_bytes(&keyring, Format::Kf1, &self.sign_in_context()?, bytes, self.now())?;
        Ok(sealed.into_text())
    }

    /// Opens it again.
    ///
    /// # Errors
    /// It is not what was sealed here.
    pub fn unwrap(&self, text: &str) -> Result<Secret, Refused> {
        let context = self.sign_in_context()?;
        Ok(sealed::open_bytes(&self.keys.opening(), &Sealed::of_text(text), &context)?)
    }

    fn sign_in_context(&self) -> Result<ContextDigest, CustodyError> {
        Ok(Context::empty()
            .with("deployment", self.deployment.as_str())?
            .with("collection", COLLECTION)?
            .with("field", "/sign_in")?
            .digest())
    }
}

/// A token that is remembered, sealed like a stored one.
pub(crate) struct Kept {
    sealed: Sealed,
    digest: ContextDigest,
}

impl Sessions {
    /// Seals a token of a session, to be remembered in memory for a destination.
    pub(crate) async fn keep(
        &self,
        session: &Session,
        copy: (&Head, &Secret),
        destination: &str,
    ) -> Result<Kept, CustodyError> {
        let (record, holder) = (session.id.to_string(), format!("destination {destination}"));
        let digest = self.at(&session.person, &record, "/access_token", &holder).digest()?;
        let keyring = self.keys.sealing().await?;
        Ok(Kept { sealed: sealed::seal(&keyring, Format::Kf1, &digest, copy, self.now())?, digest })
    }

    pub(crate) fn open_kept(&self, kept: &Kept) -> Result<(Head, Secret), Reason> {
        sealed::open(&self.keys.opening(), &kept.sealed, &kept.digest)
    }
}
