//! Loading and storing the keyring document: compare-and-swap in the system store, copies in the data folder.

use std::sync::Arc;

use keyfold_core::{
    error::Code,
    id::KeyId,
    keyring::{
        Entry, Keyring,
        document::{self, DocumentError},
        edit::EditError,
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
    checkpoint: u64,
}

impl KeyringStore {
    /// The document in `system`, wrapped by `root`, copied to a folder. `environment` holds raw keys to merge in.
    #[must_use]
    pub fn new(system: Arc<dyn SystemStore>, root: Arc<dyn RootKey>, copies: Copies, environment: Vec<Entry>) -> Self {
        Self { system, root, copies, environment, checkpoint: 0 }
    }

    /// Refuses documents below this generation, which a checkpoint of the audit log names.
    #[must_use]
    pub fn not_below(self, checkpoint: u64) -> Self {
        Self { checkpoint, ..self }
    }

    /// The highest generation that this node or a checkpoint has seen.
    fn seen(&self) -> Result<u64, CustodyError> {
        Ok(self.copies.seen()?.max(self.checkpoint))
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
        let keyring = document::open(&*self.root, &doc.value, self.seen()?).await?;
        if keyring.generation() > self.copies.seen()? || self.copies.document()?.is_none() {
            self.copies.take(&doc.value, keyring.generation())?;
        }
        let (keyring, buried) = keyring.with_environment(self.environment.clone());
        Ok(Loaded { keyring, version: doc.version, buried })
    }

    /// Changes the keyring: loads the newest, applies `edit`, stores the result if nobody was faster, else starts anew.
    /// When it returns, the new document is in the store and in the folder.
    ///
    /// # Errors
    /// What `edit` refuses; a store or folder that cannot be written.
    pub async fn edit(
        &self,
        edit: impl Fn(&Keyring) -> Result<Keyring, EditError> + Send + Sync,
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
        self.load().await?;
        Ok(self.system.get(KEYRING_KEY).await?.map(|doc| doc.value).unwrap_or_default())
    }

    /// Opens a backup that may take the place of the document: it opens under the root key, belongs to the same keyring where
    /// there is one, and is not older than what this folder or a checkpoint has seen.
    ///
    /// # Errors
    /// See [`DocumentError`].
    pub async fn restorable(&self, backup: &[u8]) -> Result<Keyring, CustodyError> {
        let keyring = document::open(&*self.root, backup, self.seen()?).await?;
        let stored = self.system.get(KEYRING_KEY).await?.map(|doc| doc.value);
        // What lies there may be damaged, which is why it is being replaced; then it has no say.
        for there in [stored, self.copies.document()?].into_iter().flatten() {
            let Ok(there) = document::open(&*self.root, &there, 0).await else { continue };
            if there.id() != keyring.id() {
                return Err(CustodyError::Invalid {
                    what: format!("the backup is of keyring `{}`, this folder holds `{}`", keyring.id(), there.id()),
                    hint: "restore into an empty data folder".into(),
                    code: Some(Code::DocumentRefused),
                });
            }
            if there.generation() > keyring.generation() {
                let (found, seen) = (keyring.generation(), there.generation());
                return Err(DocumentError::Older { found, seen }.into());
            }
        }
        Ok(keyring)
    }

    /// Puts a backup in the place of the document.
    ///
    /// # Errors
    /// As [`KeyringStore::restorable`].
    pub async fn restore(&self, backup: &[u8]) -> Result<Keyring, CustodyError> {
        let expect = self.system.get(KEYRING_KEY).await?.map_or(Expect::Absent, |doc| Expect::Version(doc.version));
        let keyring = self.restorable(backup).await?;
        match self.system.put(KEYRING_KEY, backup, expect, None).await? {
            Put::Conflict => Err(CustodyError::Conflict { what: "the keyring changed while it was restored".into() }),
            Put::Stored { .. } => {
                self.copies.take(backup, keyring.generation())?;
                Ok(keyring)
            }
        }
    }
}
