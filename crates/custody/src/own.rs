//! Secrets of the deployment itself, such as the key of its certificate authority: made once, sealed in the system store, and shared by
//! all nodes.
//!
//! They are sealed under the primary key. One that still lies under an older key is sealed anew by whoever reads it next, and before a key
//! is retired; the census counts it until then.

use keyfold_core::{
    accept::Accept,
    context::{Context, ContextDigest},
    envelope::{Format, Reading, kf1},
    id::KeyId,
    keyring::{Keyring, Reader},
    rng::{Fresh, SystemRandom},
    secret::Secret,
};

use crate::{
    custody::Custody,
    error::CustodyError,
    store::{Doc, Expect, Put, SystemStore},
};

/// Where they lie.
const PREFIX: &str = "own/";
/// What their context names as their collection.
pub(crate) const COLLECTION: &str = "keyfold.own";
/// There are a handful.
const MOST: usize = 1000;

impl Custody {
    /// The secret of that name. Where there is none yet, `make` gives one; of several nodes that make one at once, all
    /// take the first that was stored.
    ///
    /// # Errors
    /// The store, the keys; a stored secret that does not open. A new one never takes its place.
    pub async fn own_secret(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<Secret, CustodyError>,
    ) -> Result<Secret, CustodyError> {
        let key = format!("{PREFIX}{name}");
        if let Some(doc) = self.system.get(&key).await? {
            return self.open_own(&key, name, &doc).await;
        }
        let made = make()?;
        if let Put::Stored { .. } = self.put_own(&key, name, &made, Expect::Absent).await? {
            return Ok(made);
        }
        let doc = self.system.get(&key).await?;
        let doc = doc.ok_or_else(|| CustodyError::Conflict { what: format!("`{key}` was written and removed") })?;
        self.open_own(&key, name, &doc).await
    }

    /// Seals those that lie under an older key anew.
    ///
    /// # Errors
    /// The store, the keys; one that does not open.
    pub(crate) async fn renew_own(&self) -> Result<(), CustodyError> {
        for (key, doc) in self.system.list(PREFIX, None, MOST).await? {
            let name = key.strip_prefix(PREFIX).unwrap_or_default();
            self.open_own(&key, name, &doc).await?;
        }
        Ok(())
    }

    async fn put_own(&self, key: &str, name: &str, secret: &Secret, expect: Expect) -> Result<Put, CustodyError> {
        let keyring = self.keys.sealing().await?;
        let fresh = Fresh { random: &SystemRandom, now: self.auditor.clock().now() };
        let sealed = keyring
            .seal(Format::Kf1, &context(&keyring, name)?, secret.expose(), fresh)
            .map_err(|source| CustodyError::Seal { place: key.to_owned(), source })?;
        self.keys.confirm(&keyring).await?;
        Ok(self.system.put(key, sealed.text.as_bytes(), expect, None).await?)
    }

    async fn open_own(&self, key: &str, name: &str, doc: &Doc) -> Result<Secret, CustodyError> {
        let keyring = self.keys.opening();
        let text = String::from_utf8_lossy(&doc.value);
        let accept = Accept::only(Format::Kf1);
        let reader = Reader { accept: &accept, today: jiff::civil::Date::MIN, reading: Reading::Strict, max_age: None };
        let opened = keyring
            .open(&text, &context(&keyring, name)?, &reader)
            .map_err(|source| CustodyError::Open { place: key.to_owned(), source })?;
        if opened.found.kid() != keyring.primary(Format::Kf1).map(keyfold_core::keyring::Entry::kid) {
            // Where another node was quicker, it is done.
            self.put_own(key, name, &opened.secret, Expect::Version(doc.version)).await?;
        }
        Ok(opened.secret)
    }
}

fn context(keyring: &Keyring, name: &str) -> Result<ContextDigest, CustodyError> {
    Ok(Context::empty()
        .with("deployment", keyring.deployment())?
        .with("collection", COLLECTION)?
        .with("record", name)?
        .digest())
}

/// The keys that they need, for the census.
///
/// # Errors
/// The store.
pub(crate) async fn needs(
    system: &dyn SystemStore,
    mut found: impl FnMut(Format, KeyId) + Send,
) -> Result<(), CustodyError> {
    for (_, doc) in system.list(PREFIX, None, MOST).await? {
        if let Ok(envelope) = kf1::Envelope::from_text(&String::from_utf8_lossy(&doc.value)) {
            found(Format::Kf1, envelope.kid());
        }
    }
    Ok(())
}
