//! Two processes on one keyring, and copies of a deployment that went on apart.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use keyfold_core::{
    clock::UnixTime,
    envelope::Format,
    error::Code,
    id::{KeyId, WriterId},
    keyring::{Entry, KeyMaterial, Keyring, Origin, Purpose, State},
    root::{RootError, RootKey},
    secret::Key32,
};
use tempfile::TempDir;

use super::{Copies, KEYRING_KEY, KeyringStore, LiveKeyring, Usage};
use crate::{
    access::{Subject, authorize},
    audit_log::InsecureMemory,
    auditor::Auditor,
    config::Config,
    custody::Custody,
    error::CustodyError,
    store::{
        ChangeMark, Doc, Expect, OwnRecords, Put, StoreError, SystemStore,
        sqlite::{OpenMode, SqliteStore},
    },
};

const NOW: UnixTime = UnixTime(1_800_000_000);

/// Wraps nothing: what is tested here lies above it.
struct InsecureRoot;

#[async_trait]
impl RootKey for InsecureRoot {
    fn uri(&self) -> &str {
        "test:"
    }

    async fn wrap(&self, key: &Key32, _: &[u8]) -> Result<Vec<u8>, RootError> {
        Ok(key.expose().to_vec())
    }

    async fn unwrap(&self, wrapped: &[u8], _: &[u8]) -> Result<Key32, RootError> {
        wrapped.try_into().map(Key32::new).map_err(|_| RootError::Authentication { place: "test:".into() })
    }
}

type Hook = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// A store in which something happens once: after the keyring was read, or after the processes were listed.
struct Meanwhile {
    inner: Arc<SqliteStore>,
    after_get: Mutex<Option<Hook>>,
    after_list: Mutex<Option<Hook>>,
}

impl Meanwhile {
    async fn happen(hook: &Mutex<Option<Hook>>) {
        let hook = hook.lock().unwrap().take();
        if let Some(hook) = hook {
            hook().await;
        }
    }
}

#[async_trait]
impl SystemStore for Meanwhile {
    async fn get(&self, key: &str) -> Result<Option<Doc>, StoreError> {
        let doc = self.inner.get(key).await;
        if key == KEYRING_KEY {
            Self::happen(&self.after_get).await;
        }
        doc
    }

    async fn put(&self, key: &str, value: &[u8], expect: Expect, ttl: Option<Duration>) -> Result<Put, StoreError> {
        self.inner.put(key, value, expect, ttl).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<bool, StoreError> {
        self.inner.delete(key, expect).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Doc)>, StoreError> {
        let listed = self.inner.list(prefix, after, limit).await;
        Self::happen(&self.after_list).await;
        listed
    }

    async fn now(&self) -> Result<UnixTime, StoreError> {
        self.inner.now().await
    }

    async fn changed(&self, prefix: &str, since: &ChangeMark, wait: Duration) -> Result<ChangeMark, StoreError> {
        self.inner.changed(prefix, since, wait).await
    }
}

fn entry(byte: u8) -> Entry {
    let material = KeyMaterial::new(Purpose::Master, Key32::new([byte; 32])).unwrap();
    Entry::new(material, State::Staged, vec![Format::Kf1, Format::V1], NOW, Origin::Document)
}

fn kid(byte: u8) -> KeyId {
    entry(byte).kid()
}

/// Generation 2: key 1 is primary.
fn first() -> Keyring {
    let keyring = Keyring::first("kr", "d", Key32::new([9; 32]));
    keyring.staged(entry(1)).unwrap().promoted(kid(1), NOW).unwrap()
}

struct Place {
    folder: TempDir,
    store: Arc<SqliteStore>,
}

impl Place {
    async fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path().join("db"), OpenMode::Create).await.unwrap());
        Self { folder, store }
    }

    /// With the first keyring in it.
    async fn new() -> Self {
        let place = Self::empty().await;
        place.keys().create(&first()).await.unwrap();
        place
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn keys(&self) -> KeyringStore {
        self.keys_in(Arc::clone(&self.store) as Arc<dyn SystemStore>)
    }

    fn keys_in(&self, system: Arc<dyn SystemStore>) -> KeyringStore {
        KeyringStore::new(system, Arc::new(InsecureRoot), Copies::in_folder(self.path()), Vec::new())
    }

    fn meanwhile(&self) -> Meanwhile {
        Meanwhile { inner: Arc::clone(&self.store), after_get: Mutex::new(None), after_list: Mutex::new(None) }
    }

    async fn live(&self, system: Arc<dyn SystemStore>, id: u8) -> Arc<LiveKeyring> {
        LiveKeyring::open(self.keys_in(Arc::clone(&system)), system, WriterId([id; 16]), "test").await.unwrap()
    }

    async fn custody(&self, system: Arc<dyn SystemStore>, id: u8) -> Custody {
        Custody {
            records: Arc::clone(&self.store) as Arc<dyn OwnRecords>,
            keys: self.live(Arc::clone(&system), id).await,
            usage: Usage::new(Arc::clone(&system)),
            system,
            auditor: Auditor::new(Arc::new(InsecureMemory::default()), Arc::new(NOW)),
            config: Config::default(),
        }
    }
}

async fn stage(keys: &KeyringStore, byte: u8) {
    keys.edit(|keyring| Ok(keyring.staged(entry(byte))?)).await.unwrap();
}

async fn destroy(keys: &KeyringStore, byte: u8) {
    let destroyed = |keyring: &Keyring| Ok(keyring.retired(kid(byte), NOW)?.destroyed(kid(byte), NOW)?);
    keys.edit(destroyed).await.unwrap();
}

async fn try_restore(keys: &KeyringStore, backup: &[u8]) -> Result<Keyring, CustodyError> {
    let examined = keys.examine(backup.to_vec()).await?;
    keys.restore(examined).await
}

#[tokio::test]
async fn a_change_between_two_reads_does_not_look_like_an_older_document() {
    let place = Place::new().await;
    let system = place.meanwhile();
    let other = place.keys();
    *system.after_get.lock().unwrap() = Some(Box::new(move || Box::pin(async move { stage(&other, 2).await })));
    let loaded = place.keys_in(Arc::new(system)).load().await.unwrap();
    assert_eq!(loaded.keyring.generation(), 2, "as it was read; the next look finds the newer one");
    assert_eq!(place.keys().load().await.unwrap().keyring.generation(), 3);
}

#[tokio::test]
async fn p18_a_backup_of_a_copy_that_went_on_by_itself_is_refused() {
    let (here, there) = (Place::new().await, Place::empty().await);
    let common = here.keys().export().await.unwrap();
    try_restore(&there.keys(), &common).await.unwrap();

    stage(&here.keys(), 2).await;
    stage(&there.keys(), 3).await;
    let same = there.keys().export().await.unwrap();
    stage(&there.keys(), 4).await;
    let newer = there.keys().export().await.unwrap();
    for backup in [&same, &newer] {
        let error = try_restore(&here.keys(), backup).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::DocumentRefused));
        assert!(error.to_string().contains(&format!("does not hold key `{}`", kid(2))), "{error}");
    }
    assert!(here.keys().load().await.unwrap().keyring.entry(kid(2)).is_some());
    // The copy in the folder has a say where the store has lost its document.
    here.store.delete(KEYRING_KEY, Expect::Any).await.unwrap();
    assert!(try_restore(&here.keys(), &newer).await.is_err());
    let own = Copies::in_folder(here.path()).document().unwrap().unwrap();
    try_restore(&here.keys(), &own).await.unwrap();
}

#[tokio::test]
async fn p18_a_backup_that_would_revive_a_destroyed_key_is_refused_however_new_it_is() {
    let (here, there) = (Place::new().await, Place::empty().await);
    stage(&here.keys(), 2).await;
    try_restore(&there.keys(), &here.keys().export().await.unwrap()).await.unwrap();
    destroy(&here.keys(), 2).await;
    for byte in 3..6 {
        stage(&there.keys(), byte).await;
    }
    let error = try_restore(&here.keys(), &there.keys().export().await.unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("was destroyed here"), "{error}");
}

#[tokio::test]
async fn p18_a_running_process_refuses_an_older_document_also_where_its_folder_was_cleaned() {
    let place = Place::new().await;
    let older = place.keys().export().await.unwrap();
    stage(&place.keys(), 2).await;
    let live = place.live(Arc::clone(&place.store) as Arc<dyn SystemStore>, 1).await;
    for file in ["keyring.json", "keyring.seen"] {
        std::fs::remove_file(place.path().join(file)).unwrap();
    }
    place.store.put(KEYRING_KEY, &older, Expect::Any, None).await.unwrap();
    assert_eq!(live.look().await.unwrap_err().code(), Some(Code::DocumentRefused));
    assert_eq!(live.opening().generation(), 3);
}

#[tokio::test]
async fn p12_a_process_that_stood_still_stores_nothing_under_a_key_that_was_retired_meanwhile() {
    let place = Place::new().await;
    let live = place.live(Arc::clone(&place.store) as Arc<dyn SystemStore>, 1).await;
    let sealing = live.sealing().await.unwrap();
    stage(&place.keys(), 2).await;
    place.keys().edit(|keyring| Ok(keyring.promoted(kid(2), NOW)?)).await.unwrap();
    live.stand_still(Duration::from_secs(60));
    live.confirm(&sealing).await.unwrap();
    place.keys().edit(|keyring| Ok(keyring.retired(kid(1), NOW)?)).await.unwrap();
    live.stand_still(Duration::from_secs(60));
    assert_eq!(live.confirm(&sealing).await.unwrap_err().code(), Some(Code::KeyRetired));
    live.confirm(&live.sealing().await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn p12_a_process_that_still_reports_is_not_forgotten() {
    let place = Place::new().await;
    let system = Arc::clone(&place.store) as Arc<dyn SystemStore>;
    let custody = place.custody(Arc::clone(&system), 1).await;
    let other = place.live(system, 2).await;
    let permit = authorize(&Subject::Local { uid: 0, owner: 0 }).unwrap();
    let error = custody.forget_process(&permit, other.id()).await.unwrap_err();
    assert!(error.to_string().contains("still reports"), "{error}");
    assert_eq!(custody.keys.processes().live().await.unwrap().len(), 2);
}

#[tokio::test]
async fn p12_a_key_that_sealed_again_during_the_census_is_not_retired_on_its_word() {
    let place = Place::new().await;
    stage(&place.keys(), 2).await;
    place.keys().edit(|keyring| Ok(keyring.promoted(kid(2), NOW)?)).await.unwrap();
    let system = Arc::new(place.meanwhile());
    let custody = place.custody(Arc::clone(&system) as Arc<dyn SystemStore>, 1).await;
    let other = place.keys();
    *system.after_list.lock().unwrap() = Some(Box::new(move || {
        Box::pin(async move {
            for byte in [1, 2] {
                other.edit(|keyring| Ok(keyring.promoted(kid(byte), NOW)?)).await.unwrap();
            }
        })
    }));
    let permit = authorize(&Subject::Local { uid: 0, owner: 0 }).unwrap();
    let error = custody.retire_key(&permit, kid(1), Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, CustodyError::Conflict { .. }), "{error}");
    custody.retire_key(&permit, kid(1), Duration::ZERO).await.unwrap();
}
