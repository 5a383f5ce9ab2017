//! Our small documents: keyrings, tokens, sessions, grants, cursors, leases, heartbeats.

use std::{fmt, str::FromStr, time::Duration};

use async_trait::async_trait;
use keyfold_core::clock::UnixTime;
use tokio::{sync::Notify, time::Instant};

use super::{StoreError, check_limit};

/// The longest key of a document, in bytes.
pub const MAX_SYSTEM_KEY: usize = 512;

/// The longest document, in bytes (4 MiB).
pub const MAX_DOC: usize = 4 << 20;

/// A document as it is stored. Its value is sealed where it is secret; nothing prints it all the same.
#[derive(Clone, PartialEq, Eq)]
pub struct Doc {
    /// The bytes that were put.
    pub value: Vec<u8>,
    /// Grows with each change of this key, and does not come back after a delete.
    pub version: u64,
}

impl fmt::Debug for Doc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doc").field("len", &self.value.len()).field("version", &self.version).finish_non_exhaustive()
    }
}

/// What must hold for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// There is no such document, or it has expired.
    Absent,
    /// The document has this version.
    Version(u64),
}

/// How a put ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is stored.
    Stored {
        /// Its version now.
        version: u64,
    },
    /// What was expected does not hold; nothing was written.
    Conflict,
}

/// A moment in the history of a store. Opaque: it only means something to the store that made it.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ChangeMark(String);

impl ChangeMark {
    /// Before everything: [`SystemStore::changed`] answers at once, with the mark of now.
    #[must_use]
    pub fn start() -> Self {
        Self::default()
    }

    /// For stores: a mark out of their own text.
    #[must_use]
    pub fn from_store(text: String) -> Self {
        Self(text)
    }

    /// For stores: their own text; `None` for the mark before everything.
    #[must_use]
    pub fn as_store(&self) -> Option<&str> {
        Some(self.0.as_str()).filter(|text| !text.is_empty())
    }
}

/// Our small documents. Several nodes work on them at once.
///
/// Expired documents are invisible everywhere. Time is the server's.
#[async_trait]
pub trait SystemStore: Send + Sync {
    /// One document; `None` only where the store says that there is none.
    async fn get(&self, key: &str) -> Result<Option<Doc>, StoreError>;

    /// Writes a document if `expect` holds. Without `ttl` it stays, also where an earlier version had an end.
    async fn put(&self, key: &str, value: &[u8], expect: Expect, ttl: Option<Duration>) -> Result<Put, StoreError>;

    /// Deletes a document if `expect` holds, and says whether it did. [`Expect::Absent`] is an invalid argument.
    async fn delete(&self, key: &str, expect: Expect) -> Result<bool, StoreError>;

    /// Documents whose keys start with `prefix`, in the order of the keys' bytes, after the key `after`, at most `limit`.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Doc)>, StoreError>;

    /// The server's time.
    async fn now(&self) -> Result<UnixTime, StoreError>;

    /// Waits until a document under `prefix` is written or deleted after `since`, at most for `wait`, and gives the mark
    /// to go on from.
    ///
    /// The same mark means that nothing changed. A notice can be false, a missing one cannot, except for expiry, which
    /// is no change: who keeps a document with an end knows its end. Take a mark first, then read, then wait.
    async fn changed(&self, prefix: &str, since: &ChangeMark, wait: Duration) -> Result<ChangeMark, StoreError>;
}

/// Everything under a prefix, page by page: for who goes through all of it and holds little.
pub(crate) struct Pages<'a> {
    system: &'a dyn SystemStore,
    prefix: &'a str,
    after: Option<String>,
    ended: bool,
}

impl<'a> Pages<'a> {
    /// Documents in a page.
    const SIZE: usize = 1000;

    pub(crate) const fn under(prefix: &'a str, system: &'a dyn SystemStore) -> Self {
        Self { system, prefix, after: None, ended: false }
    }

    /// The next page; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<(String, Doc)>>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        let page = self.system.list(self.prefix, self.after.as_deref(), Self::SIZE).await?;
        self.ended = page.len() < Self::SIZE;
        self.after = page.last().map(|(key, _)| key.clone());
        Ok(Some(page))
    }
}

/// How often a store of our own or nearby is asked what other processes changed.
pub(super) const POLL: Duration = Duration::from_millis(150);

/// [`SystemStore::changed`] for a store that numbers its changes: `look` gives the number of the last one, and whether one after
/// the given number lies under the prefix. It is asked once in each `every`, and at once when this process itself `written` something.
pub(super) async fn wait_for_change<N, F>(
    store: &str,
    since: &ChangeMark,
    wait: Duration,
    (written, every): (&Notify, Duration),
    look: impl Fn(N) -> F + Send,
) -> Result<ChangeMark, StoreError>
where
    N: FromStr + ToString + Default + Copy + Send,
    F: Future<Output = Result<(N, bool), StoreError>> + Send,
{
    let since = match since.as_store() {
        None => None,
        Some(text) => Some(
            text.parse::<N>()
                .map_err(|_| StoreError::invalid(format!("a change mark of another store was given to {store}")))?,
        ),
    };
    let started = Instant::now();
    let mut seen = since.unwrap_or_default();
    loop {
        // Before looking, so that a write between the look and the wait is not slept through.
        let written = written.notified();
        tokio::pin!(written);
        written.as_mut().enable();

        let (latest, changed) = look(seen).await?;
        if since.is_none() || changed {
            return Ok(ChangeMark::from_store(latest.to_string()));
        }
        seen = latest;
        let left = wait.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(ChangeMark::from_store(since.unwrap_or(latest).to_string()));
        }
        let _ = tokio::time::timeout(left.min(every), written).await;
    }
}

/// Checks a document's key: 1 to 512 bytes without NUL.
///
/// # Errors
/// Says which rule the key breaks.
pub fn check_key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(StoreError::invalid("a document's key is empty"));
    }
    check_prefix(key)
}

/// Checks what keys are to start with, which may be nothing.
///
/// # Errors
/// Says which rule the prefix breaks.
pub fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    if prefix.len() > MAX_SYSTEM_KEY {
        let found = prefix.len();
        return Err(StoreError::invalid(format!(
            "a document's key has {found} bytes, at most {MAX_SYSTEM_KEY} are allowed"
        )));
    }
    if prefix.contains('\0') {
        return Err(StoreError::invalid("a document's key may not contain NUL"));
    }
    Ok(())
}

pub(super) fn check_put(key: &str, value: &[u8], ttl: Option<Duration>) -> Result<Option<i64>, StoreError> {
    check_key(key)?;
    if value.len() > MAX_DOC {
        let found = value.len();
        return Err(StoreError::invalid(format!("a document has {found} bytes, at most {MAX_DOC} are allowed")));
    }
    let Some(ttl) = ttl else { return Ok(None) };
    if ttl.is_zero() {
        return Err(StoreError::invalid("a document cannot be put with no time to live"));
    }
    // A hundred years is for ever, and far from overflow.
    let millis = ttl.as_millis().clamp(1, 100 * 366 * 86_400_000);
    Ok(Some(i64::try_from(millis).unwrap_or(i64::MAX)))
}

pub(super) fn check_list(prefix: &str, after: Option<&str>, limit: usize) -> Result<i64, StoreError> {
    check_prefix(prefix)?;
    after.map_or(Ok(()), check_prefix)?;
    check_limit(limit)
}
