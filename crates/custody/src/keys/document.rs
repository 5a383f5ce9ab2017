//! Loading and storing the keyring document: compare-and-swap in the system store, copies in the data folder.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use keyfold_core::{
    error::Code,
    id::KeyId,
    keyring::{
        Entry, Keyring,
        document::{self, DocumentError},
    },
    rng::SystemRandom,
    root::{OpenRoot, RootError, RootKey, Tended},
};

use super::{Copies, roots::RECOVERY};
use crate::{
    error::CustodyError,
    store::{Expect, Put, SystemStore},
};

/// Where the document lies in the system store.
pub const KEYRING_KEY: &str = "keyring/current";

/// A keyring as loaded, with what is needed to change it.
pub struct Loaded {
    /// With the keys of the environment merged in.
    pub keyring: Keyring,
    /// The version in the system store.
    pub version: u64,
    /// The document itself.
    pub document: Vec<u8>,
    /// Keys of the environment that a tombstone refused.
    pub buried: Vec<KeyId>,
}

/// The place of the document.
#[derive(Clone)]
pub struct KeyringStore {
    system: Arc<dyn SystemStore>,
    root: Arc<dyn RootKey>,
    others: Option<Arc<dyn OpenRoot>>,
    memory: Arc<Mutex<Memory>>,
    copies: Copies,
    environment: Vec<Entry>,
}

/// What a process knows of root keys beside its own.
#[derive(Default)]
struct Memory {
    /// Those of the last keyring that authenticated. A document may name any; only these are ever opened.
    known: Vec<String>,
    /// Those that were opened: a second client would log in once more, and nobody would renew what the first one got.
    open: BTreeMap<String, Arc<dyn RootKey>>,
    /// The one that opened the document last.
    opener: Option<Arc<dyn RootKey>>,
}

impl KeyringStore {
    /// The document in `system`, wrapped by `root`, copied to a folder. `environment` holds raw keys to merge in.
    #[must_use]
    pub fn new(system: Arc<dyn SystemStore>, root: Arc<dyn RootKey>, copies: Copies, environment: Vec<Entry>) -> Self {
        Self { system, root, others: None, memory: Arc::default(), copies, environment }
    }

    /// Lets the keyring have other root keys than the one it is opened with.
    #[must_use]
    pub fn with_roots(self, others: Arc<dyn OpenRoot>) -> Self {
        Self { others: Some(others), ..self }
    }

    /// The root key that this process opens the keyring with.
    #[must_use]
    pub fn root(&self) -> &dyn RootKey {
        &*self.root
    }

    /// Another root key, by its URI. The URI must come from an operator or from a keyring that authenticated.
    ///
    /// # Errors
    /// Not a URI, or a place this build cannot reach.
    pub fn other_root(&self, uri: &str) -> Result<Arc<dyn RootKey>, CustodyError> {
        if uri == self.root.uri() {
            return Ok(Arc::clone(&self.root));
        }
        if let Some(root) = self.memory().open.get(uri) {
            return Ok(Arc::clone(root));
        }
        let others = self.others.as_ref().ok_or_else(|| RootError::Invalid {
            place: uri.into(),
            why: "this process opens no other root key".into(),
            hint: "use the `keyfold` command".into(),
        })?;
        let root = others.open_root(uri)?;
        // What lies on this machine is read anew each time: a file may have been exchanged.
        if !uri.starts_with("file:") && !uri.starts_with("env:") {
            self.memory().open.insert(uri.into(), Arc::clone(&root));
        }
        Ok(root)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a document with this process's root key; where the keyring moved to another one meanwhile, with that, if the
    /// keyring that this process held before already named it.
    async fn opened(&self, document: &[u8], seen: u64) -> Result<Keyring, CustodyError> {
        let (keyring, opener) = self.opened_by(document, seen).await?;
        self.memory().opener = Some(opener);
        Ok(keyring)
    }

    async fn opened_by(&self, document: &[u8], seen: u64) -> Result<(Keyring, Arc<dyn RootKey>), CustodyError> {
        let named = document::claims(document)?.roots;
        let mut failed = None;
        // A root key that left the keyring may be gone: it is asked only where no other one is known.
        if !named.iter().any(|uri| uri == self.root.uri()) {
            let known: Vec<String> = self.memory().known.iter().filter(|uri| named.contains(uri)).cloned().collect();
            for uri in known.iter().filter(|uri| !uri.starts_with(RECOVERY)) {
                let opened = match self.other_root(uri) {
                    Ok(root) => document::open(&*root, document, seen).await.map(|keyring| (keyring, root)),
                    Err(error) => {
                        failed = Some(error);
                        continue;
                    }
                };
                match opened {
                    Ok(opened) => return Ok(opened),
                    Err(error) => {
                        tracing::warn!(%error, "the keyring moved to a root key that does not open it here");
                        // What let this process in may have been changed where it is read.
                        self.memory().open.remove(uri);
                        failed = Some(error.into());
                    }
                }
            }
        }
        match document::open(&*self.root, document, seen).await {
            Ok(keyring) => Ok((keyring, Arc::clone(&self.root))),
            Err(error) => Err(failed.unwrap_or_else(|| error.into())),
        }
    }

    /// Stores the first document of a deployment.
    ///
    /// # Errors
    /// There is one already.
    pub async fn create(&self, keyring: &Keyring) -> Result<(), CustodyError> {
        self.write(keyring, Expect::Absent).await?.ok_or_else(|| CustodyError::Invalid {
            what: "the store has a keyring already".into(),
            hint: "use another data folder, or this one as it is".into(),
            code: None,
        })
    }

    /// Version of the stored document, without opening it; `None` where there is none.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub async fn version(&self) -> Result<Option<u64>, CustodyError> {
        Ok(self.system.get(KEYRING_KEY).await?.map(|doc| doc.version))
    }

    /// Loads and authenticates the document; refuses one older than this folder has seen.
    ///
    /// # Errors
    /// See [`DocumentError`]; and no document at all.
    pub async fn load(&self) -> Result<Loaded, CustodyError> {
        // Before the document is read: were it the other way round, another process that changes keys in between would make
        // the document just read look older than what this folder has seen.
        let seen = self.copies.seen()?;
        let Some(doc) = self.system.get(KEYRING_KEY).await? else {
            let copy = self.copies.document_path();
            return Err(CustodyError::Invalid {
                what: "the store has no keyring".into(),
                hint: if copy.exists() {
                    format!(
                        "the store was emptied or exchanged; `keyfold keys restore {}` puts the copy back",
                        copy.display()
                    )
                } else {
                    "make a deployment with `keyfold init`".into()
                },
                code: Some(Code::DocumentRefused),
            });
        };
        let keyring = self.opened(&doc.value, seen).await?;
        self.same_deployment(&keyring)?;
        self.memory().known = keyring.roots().to_vec();
        if keyring.generation() > seen || self.copies.document()?.is_none() {
            self.copies.take(&doc.value, keyring.generation())?;
        }
        let (keyring, buried) = keyring.with_environment(self.environment.clone());
        Ok(Loaded { keyring, version: doc.version, document: doc.value, buried })
    }

    /// Looks after what lets this process reach the root key, and opens the stored document once more: one call. Nothing is
    /// taken over from it but how long that lasts.
    ///
    /// # Errors
    /// As [`KeyringStore::load`], when a process would start now.
    pub async fn prove(&self) -> Result<Tended, CustodyError> {
        // A keyring that moved on does not need the root key that this process was started with.
        let opener = self.memory().opener.clone();
        let tended = match opener {
            Some(root) => root.tend().await?,
            None => Tended::default(),
        };
        if let Some(doc) = self.system.get(KEYRING_KEY).await? {
            self.opened(&doc.value, 0).await?;
        }
        Ok(tended)
    }

    /// Refuses a store that holds another deployment than this folder has worked for: its audit log and its copies are of one.
    fn same_deployment(&self, keyring: &Keyring) -> Result<(), CustodyError> {
        let copied = self.copies.document()?.and_then(|copy| document::claims(&copy).ok());
        match copied.filter(|copied| copied.id != keyring.id()) {
            None => Ok(()),
            Some(copied) => Err(CustodyError::Invalid {
                what: format!("the store holds keyring `{}`, and this folder is of `{}`", keyring.id(), copied.id),
                hint: "name another data folder with --data-dir DIR, or the system store that this one belongs to"
                    .into(),
                code: Some(Code::DocumentRefused),
            }),
        }
    }

    /// Changes the keyring: loads the newest, applies `edit`, stores the result if nobody was faster, else starts anew.
    /// When it returns, the new document is in the store and in the folder.
    ///
    /// # Errors
    /// What `edit` refuses; a store or folder that cannot be written.
    pub async fn edit(
        &self,
        edit: impl Fn(&Keyring) -> Result<Keyring, CustodyError> + Send + Sync,
    ) -> Result<Keyring, CustodyError> {
        for _ in 0..20 {
            let loaded = self.load().await?;
            let next = edit(&loaded.keyring)?;
            if self.write(&next, Expect::Version(loaded.version)).await?.is_some() {
                return Ok(next);
            }
        }
        Err(CustodyError::Conflict { what: "the keyring kept changing while it was edited".into() })
    }

    async fn write(&self, keyring: &Keyring, expect: Expect) -> Result<Option<()>, CustodyError> {
        let mut roots = Vec::new();
        for uri in keyring.roots() {
            roots.push(self.other_root(uri)?);
        }
        if roots.is_empty() {
            roots.push(Arc::clone(&self.root));
        }
        let roots: Vec<&dyn RootKey> = roots.iter().map(|root| &**root).collect();
        let document = document::seal(&roots, &SystemRandom, keyring).await?;
        match self.system.put(KEYRING_KEY, &document, expect, None).await? {
            Put::Conflict => Ok(None),
            Put::Stored { .. } => {
                self.copies.take(&document, keyring.generation())?;
                Ok(Some(()))
            }
        }
    }

    /// The stored document, for a backup.
    ///
    /// # Errors
    /// As [`KeyringStore::load`].
    pub async fn export(&self) -> Result<Vec<u8>, CustodyError> {
        Ok(self.load().await?.document)
    }

    /// Looks whether a backup may take the place of the document. It must open under the root key, belong to the same keyring
    /// where there is one, not be older than what this folder has seen, and know every key that it would replace: two copies
    /// of a deployment that went on apart each have keys that the other never had. What is to be replaced may open under
    /// `recovery` only.
    ///
    /// # Errors
    /// See [`DocumentError`]; a backup that would lose a key or bring one back; a document there that nobody can look into.
    pub async fn examine(&self, backup: Vec<u8>, recovery: Option<&dyn RootKey>) -> Result<Restorable, CustodyError> {
        let seen = self.copies.seen()?;
        let keyring = document::open(&*self.root, &backup, seen).await?;
        let stored = self.system.get(KEYRING_KEY).await?;
        let copy = self.copies.document()?;
        for there in stored.iter().map(|doc| &doc.value).chain(&copy).filter(|there| **there != backup) {
            if let Some(there) = self.looked_into(there, recovery).await? {
                succeeds(&keyring, &there)?;
            }
        }
        let expect = stored.map_or(Expect::Absent, |doc| Expect::Version(doc.version));
        Ok(Restorable { keyring, document: backup, expect })
    }

    /// Opens what a backup would replace. It may be damaged, which is why it is being replaced; then it has no say.
    async fn looked_into(&self, there: &[u8], recovery: Option<&dyn RootKey>) -> Result<Option<Keyring>, CustodyError> {
        use DocumentError::{Authentication, Key, Keyring as Entries, Malformed, OtherRoots, Root, WrongKid};
        let mut elsewhere = None;
        for root in [Some(&*self.root), recovery].into_iter().flatten() {
            match document::open(root, there, 0).await {
                Ok(keyring) => return Ok(Some(keyring)),
                Err(Malformed(_) | Authentication | WrongKid(_) | Entries(_) | Key(_)) => return Ok(None),
                // Another key of that name wrapped it, or it was changed: only another root key can tell.
                Err(Root(RootError::Authentication { .. })) => {}
                Err(OtherRoots { roots, .. }) => elsewhere = Some(roots),
                Err(error) => return Err(error.into()),
            }
        }
        let Some(roots) = elsewhere else { return Ok(None) };
        Err(CustodyError::Invalid {
            what: format!(
                "the keyring that is here opens under {} only, so nobody can see whether the backup would lose a key",
                roots.join(", ")
            ),
            hint: "name that root key (KEYFOLD_ROOT_KEY) or its recovery key, or restore into an empty data folder"
                .into(),
            code: Some(Code::DocumentRefused),
        })
    }

    /// Puts a backup in the place of the document.
    ///
    /// # Errors
    /// The document changed since the backup was examined; a store or folder that cannot be written.
    pub async fn restore(&self, backup: Restorable) -> Result<Keyring, CustodyError> {
        let Restorable { keyring, document, expect } = backup;
        match self.system.put(KEYRING_KEY, &document, expect, None).await? {
            Put::Conflict => Err(CustodyError::Conflict { what: "the keyring changed while it was restored".into() }),
            Put::Stored { .. } => {
                self.copies.take(&document, keyring.generation())?;
                Ok(keyring)
            }
        }
    }
}

/// A backup that may take the place of the document.
pub struct Restorable {
    keyring: Keyring,
    document: Vec<u8>,
    expect: Expect,
}

impl Restorable {
    /// What it holds.
    #[must_use]
    pub const fn keyring(&self) -> &Keyring {
        &self.keyring
    }
}

/// Whether a backup can be what became of a keyring, as far as that shows.
fn succeeds(backup: &Keyring, there: &Keyring) -> Result<(), CustodyError> {
    if there.id() != backup.id() {
        return Err(CustodyError::Invalid {
            what: format!("the backup is of keyring `{}`, this folder holds `{}`", backup.id(), there.id()),
            hint: "restore into an empty data folder".into(),
            code: Some(Code::DocumentRefused),
        });
    }
    if there.generation() > backup.generation() {
        let (found, seen) = (backup.generation(), there.generation());
        return Err(DocumentError::Older { found, seen }.into());
    }
    let apart = |what: String| {
        CustodyError::Invalid {
        what,
        hint: "the backup comes from a copy of this deployment that went on by itself; restore it into an empty data folder"
            .into(),
        code: Some(Code::DocumentRefused),
    }
    };
    if let Some(tombstone) = there.tombstones().iter().find(|tombstone| backup.tombstone(tombstone.kid).is_none()) {
        return Err(apart(format!("key `{}` was destroyed here, and the backup does not know it", tombstone.kid)));
    }
    let known = |kid| backup.entry(kid).is_some() || backup.tombstone(kid).is_some();
    if let Some(entry) = there.entries().iter().find(|entry| !known(entry.kid())) {
        return Err(apart(format!("the backup does not hold key `{}`, which would be lost", entry.kid())));
    }
    if there.generation() == backup.generation() {
        return Err(apart(format!("the backup is another document of generation {}", backup.generation())));
    }
    Ok(())
}
