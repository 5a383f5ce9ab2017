//! Loading and storing the keyring document: compare-and-swap in the system store, copies in the data folder.

use std::sync::Arc;

use keyfold_core::{
    error::Code,
    id::KeyId,
    keyring::{
        Entry, Keyring,
        document::{self, DocumentError},
    },
    rng::SystemRandom,
    root::RootKey,
};

use super::Copies;
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
    copies: Copies,
    environment: Vec<Entry>,
}

impl KeyringStore {
    /// The document in `system`, wrapped by `root`, copied to a folder. `environment` holds raw keys to merge in.
    #[must_use]
    pub fn new(system: Arc<dyn SystemStore>, root: Arc<dyn RootKey>, copies: Copies, environment: Vec<Entry>) -> Self {
        Self { system, root, copies, environment }
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
        let keyring = document::open(&*self.root, &doc.value, seen).await?;
        if keyring.generation() > seen || self.copies.document()?.is_none() {
            self.copies.take(&doc.value, keyring.generation())?;
        }
        let (keyring, buried) = keyring.with_environment(self.environment.clone());
        Ok(Loaded { keyring, version: doc.version, document: doc.value, buried })
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
        let document = document::seal(&*self.root, &SystemRandom, keyring).await?;
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
    /// of a deployment that went on apart each have keys that the other never had.
    ///
    /// # Errors
    /// See [`DocumentError`]; and a backup that would lose a key or bring one back.
    pub async fn examine(&self, backup: Vec<u8>) -> Result<Restorable, CustodyError> {
        let seen = self.copies.seen()?;
        let keyring = document::open(&*self.root, &backup, seen).await?;
        let stored = self.system.get(KEYRING_KEY).await?;
        let copy = self.copies.document()?;
        for there in stored.iter().map(|doc| &doc.value).chain(&copy).filter(|there| **there != backup) {
            // What lies there may be damaged, which is why it is being replaced; then it has no say.
            if let Ok(there) = document::open(&*self.root, there, 0).await {
                succeeds(&keyring, &there)?;
            }
        }
        let expect = stored.map_or(Expect::Absent, |doc| Expect::Version(doc.version));
        Ok(Restorable { keyring, document: backup, expect })
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
