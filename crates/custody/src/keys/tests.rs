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
    error::{Code, Hint},
    id::{KeyId, WriterId},
    keyring::{Entry, KeyMaterial, Keyring, Origin, Purpose, State},
    root::{OpenRoot, RootError, RootKey, Tended},
    secret::Key32,
};
use tempfile::TempDir;

use super::{
    Copies, KEYRING_KEY, KeyringStore, LiveKeyring, Usage,
    checkup::root_findings,
    maintain::{Inline, Schedule, Step},
    process::{Place as Where, Report},
    roots::{RECOVERY, reroot},
};
use crate::{
    access::{Permit, Subject, authorize, op::Manage},
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
        let keys = self.live(Arc::clone(&system), id).await;
        self.custody_of(system, keys)
    }

    fn custody_of(&self, system: Arc<dyn SystemStore>, keys: Arc<LiveKeyring>) -> Custody {
        Custody {
            records: Arc::clone(&self.store) as Arc<dyn OwnRecords>,
            foreign: std::collections::HashMap::new(),
            keys,
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
    let examined = keys.examine(backup.to_vec(), None).await?;
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

#[tokio::test]
async fn what_ends_right_after_counts_what_it_seals_and_what_stays_counts_ahead() {
    let place = Place::new().await;
    let usage = || Usage::new(Arc::clone(&place.store) as Arc<dyn SystemStore>);
    for _ in 0..3 {
        usage().reserve_just(kid(1), 1).await.unwrap();
    }
    assert_eq!(usage().count(kid(1)).await.unwrap(), 3);
    let stays = usage();
    for _ in 0..3 {
        stays.reserve(kid(1), 1).await.unwrap();
    }
    assert_eq!(usage().count(kid(1)).await.unwrap(), 3 + 1024, "a block, and no flush for each");
}

/// Root keys that bear their name in what they wrap, and what was asked of each.
#[derive(Default)]
struct InsecureRoots {
    opened: Mutex<Vec<String>>,
    tended: Arc<Mutex<Vec<String>>>,
    gone: Arc<Mutex<Vec<String>>>,
}

struct Named {
    uri: String,
    tended: Arc<Mutex<Vec<String>>>,
    gone: Arc<Mutex<Vec<String>>>,
}

impl InsecureRoots {
    fn root(&self, uri: &str) -> Arc<dyn RootKey> {
        let (tended, gone) = (Arc::clone(&self.tended), Arc::clone(&self.gone));
        Arc::new(Named { uri: uri.into(), tended, gone })
    }
}

impl OpenRoot for InsecureRoots {
    fn open_root(&self, uri: &str) -> Result<Arc<dyn RootKey>, RootError> {
        self.opened.lock().unwrap().push(uri.into());
        Ok(self.root(uri))
    }
}

impl Named {
    fn there(&self) -> Result<(), RootError> {
        if self.gone.lock().unwrap().contains(&self.uri) {
            return Err(RootError::Missing { place: self.uri.clone(), why: "destroyed".into() });
        }
        Ok(())
    }
}

#[async_trait]
impl RootKey for Named {
    fn uri(&self) -> &str {
        &self.uri
    }

    async fn wrap(&self, key: &Key32, aad: &[u8]) -> Result<Vec<u8>, RootError> {
        self.there()?;
        Ok([self.uri.as_bytes(), key.expose(), aad].concat())
    }

    async fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<Key32, RootError> {
        self.there()?;
        let key = wrapped.strip_prefix(self.uri.as_bytes()).and_then(|rest| rest.strip_suffix(aad));
        let key = key.and_then(|key| key.try_into().ok()).map(Key32::new);
        key.ok_or_else(|| RootError::Authentication { place: self.uri.clone() })
    }

    async fn tend(&self) -> Result<Tended, RootError> {
        self.tended.lock().unwrap().push(self.uri.clone());
        Ok(Tended { time: Some(UnixTime(NOW.0 + 120)), expires_in: None })
    }
}

impl Place {
    /// A process that was started with `root`, and may open the others.
    async fn rooted(&self, roots: &Arc<InsecureRoots>, root: &str, id: u8) -> Custody {
        let system = Arc::clone(&self.store) as Arc<dyn SystemStore>;
        let keys = self.rooted_keys(roots, root);
        let keys = LiveKeyring::open(keys, Arc::clone(&system), WriterId([id; 16]), "test").await.unwrap();
        self.custody_of(system, keys)
    }

    fn rooted_keys(&self, roots: &Arc<InsecureRoots>, root: &str) -> KeyringStore {
        let system = Arc::clone(&self.store) as Arc<dyn SystemStore>;
        let keys = KeyringStore::new(system, roots.root(root), Copies::in_folder(self.path()), Vec::new());
        keys.with_roots(Arc::clone(roots) as Arc<dyn OpenRoot>)
    }

    fn uris(custody: &Custody) -> Vec<String> {
        custody.keys.opening().roots().to_vec()
    }
}

async fn rewrap(custody: &Custody, to: &str) -> Result<(), CustodyError> {
    custody.rewrap_root(&manage(), &[to.to_owned()], Duration::from_secs(20)).await
}

fn manage() -> Permit<Manage> {
    authorize(&Subject::Local { uid: 0, owner: 0 }).unwrap()
}

#[tokio::test]
async fn where_one_of_two_root_keys_is_gone_the_other_takes_over_and_keys_can_be_changed_again() {
    let place = Place::empty().await;
    let roots = Arc::new(InsecureRoots::default());
    let both = first().with_roots(vec!["x:a".into(), "x:b".into()]);
    place.rooted_keys(&roots, "x:a").create(&both).await.unwrap();
    let earlier = place.rooted(&roots, "x:a", 1).await;
    roots.gone.lock().unwrap().push("x:a".into());
    let custody = place.rooted(&roots, "x:b", 2).await;
    let create = || async { custody.create_key(&manage(), &[Format::Kf1]).await };
    let frozen = create().await.unwrap_err();
    assert!(frozen.to_string().contains("x:a") && frozen.hint().unwrap().contains("remove-root"), "{frozen}");
    // The process that was started with the lost one follows meanwhile, with the one that is left.
    let (moved, ()) = tokio::join!(rewrap(&custody, "x:b"), async {
        for _ in 0..5 {
            earlier.keys.look().await.unwrap();
        }
    });
    moved.unwrap();
    assert_eq!(Place::uris(&custody), ["x:b"]);
    create().await.unwrap();
    earlier.keys.look().await.unwrap();
    assert_eq!(earlier.keys.opening().generation(), custody.keys.opening().generation());
}

#[tokio::test]
async fn a_root_key_or_a_recovery_key_is_taken_off_without_being_asked_and_the_last_one_is_not() {
    let place = Place::empty().await;
    let roots = Arc::new(InsecureRoots::default());
    let all = ["x:a", "x:b", "recovery:1", "recovery:2"].map(str::to_owned);
    place.rooted_keys(&roots, "x:a").create(&first().with_roots(all.to_vec())).await.unwrap();
    roots.gone.lock().unwrap().extend(["x:b".to_owned(), "recovery:1".to_owned()]);
    let custody = place.rooted(&roots, "x:a", 1).await;
    let remove = |uri: &'static str| {
        let custody = &custody;
        async move { custody.remove_root(&manage(), uri, Duration::ZERO).await }
    };
    let lost = remove("recovery:2").await.unwrap_err();
    assert!(lost.to_string().contains("x:b"), "another one that is gone has to go first: {lost}");
    assert!(matches!(remove("x:none").await.unwrap_err(), CustodyError::NotFound { .. }));
    let rewrapped = custody.rewrap_root(&manage(), &["x:a".into()], Duration::ZERO).await;
    assert!(rewrapped.is_err(), "a recovery key that does not wrap");
    roots.gone.lock().unwrap().retain(|uri| uri != "recovery:1");
    remove("x:b").await.unwrap();
    remove("recovery:1").await.unwrap();
    assert_eq!(Place::uris(&custody), ["x:a", "recovery:2"]);
    let refused = remove("x:a").await.unwrap_err();
    assert!(refused.to_string().contains("no root key would be left"), "{refused}");
    remove("recovery:2").await.unwrap();
    assert_eq!(Place::uris(&custody), ["x:a"]);
}

#[tokio::test]
async fn a_recovery_key_that_is_added_while_others_are_waited_for_stays() {
    let place = Place::empty().await;
    let roots = Arc::new(InsecureRoots::default());
    place.rooted_keys(&roots, "x:a").create(&first().with_roots(vec!["x:a".into()])).await.unwrap();
    let custody = place.rooted(&roots, "x:a", 1).await;
    let late = place.rooted(&roots, "x:a", 2).await;
    let adding = async {
        while place.rooted_keys(&roots, "x:a").load().await.unwrap().keyring.roots().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        late.add_root(&manage(), "recovery:1").await.unwrap();
    };
    let (moved, ()) = tokio::join!(rewrap(&custody, "x:b"), adding);
    moved.unwrap();
    assert_eq!(Place::uris(&custody), ["x:b", "recovery:1"]);
}

#[tokio::test]
async fn a_backup_opened_by_one_recovery_key_keeps_the_others_and_says_which_root_keys_it_leaves_out() {
    let place = Place::empty().await;
    let roots = Arc::new(InsecureRoots::default());
    let all = ["x:a", "recovery:1", "x:b", "recovery:2"].map(str::to_owned);
    let keys = place.rooted_keys(&roots, "x:a");
    keys.create(&first().with_roots(all.to_vec())).await.unwrap();
    let backup = keys.export().await.unwrap();
    let (old, new) = (roots.root("recovery:1"), roots.root("x:new"));
    let rerooted = reroot(&backup, &*old, &*new, &*roots, 0).await.unwrap();
    assert_eq!(rerooted.left_out, ["x:a", "x:b"]);
    let named = keyfold_core::keyring::document::claims(&rerooted.document).unwrap().roots;
    assert_eq!(named, ["x:new", "recovery:1", "recovery:2"]);
    assert!(named.iter().filter(|uri| uri.starts_with(RECOVERY)).count() == 2);
}

#[tokio::test]
async fn p18_a_restore_with_the_recovery_key_loses_no_key_that_only_the_folder_has() {
    let place = Place::empty().await;
    let roots = Arc::new(InsecureRoots::default());
    let keys = place.rooted_keys(&roots, "x:a");
    keys.create(&first().with_roots(vec!["x:a".into(), "recovery:1".into()])).await.unwrap();
    let backup = keys.export().await.unwrap();
    stage(&keys, 2).await;
    let old = roots.root("recovery:1");
    // One generation on, which is as new as what is here, and without the second key.
    let rerooted = reroot(&backup, &*old, &*roots.root("y:new"), &*roots, 0).await.unwrap();
    let keys = place.rooted_keys(&roots, "y:new");
    let error = keys.examine(rerooted.document.clone(), Some(&*old)).await.err().unwrap();
    assert!(error.to_string().contains(&format!("does not hold key `{}`", kid(2))), "{error}");
    let unseen = keys.examine(rerooted.document.clone(), None).await.err().unwrap();
    assert!(unseen.to_string().contains("opens under x:a, recovery:1 only"), "{unseen}");
    // What cannot be asked at the moment is not taken for damaged.
    roots.gone.lock().unwrap().push("recovery:1".into());
    let error = keys.examine(rerooted.document.clone(), Some(&*old)).await.err().unwrap();
    assert!(error.to_string().contains("destroyed"), "{error}");
    // What is damaged has no say.
    roots.gone.lock().unwrap().clear();
    place.store.put(KEYRING_KEY, b"{}", Expect::Any, None).await.unwrap();
    std::fs::write(place.path().join("keyring.json"), "{}").unwrap();
    assert!(keys.examine(rerooted.document, Some(&*old)).await.is_ok());
}

#[tokio::test]
async fn a_process_whose_keyring_moved_keeps_one_client_of_the_new_root_key_and_looks_after_it() {
    let place = Place::empty().await;
    let roots = Arc::new(InsecureRoots::default());
    place.rooted_keys(&roots, "x:a").create(&first().with_roots(vec!["x:a".into()])).await.unwrap();
    let follower = place.rooted(&roots, "x:a", 1).await;
    let custody = place.rooted(&roots, "x:a", 2).await;
    let (moved, ()) = tokio::join!(rewrap(&custody, "x:b"), async {
        while Place::uris(&follower) != ["x:b"] {
            follower.keys.look().await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    moved.unwrap();
    // The former one is destroyed, and is of the same kind.
    roots.gone.lock().unwrap().push("x:a".into());
    roots.opened.lock().unwrap().clear();
    roots.tended.lock().unwrap().clear();
    for _ in 0..5 {
        follower.keys.check_root().await;
        assert_eq!(follower.keys.root_trouble(), None);
        place.rooted_keys(&roots, "x:b").edit(|keyring| Ok(keyring.with_roots(vec!["x:b".into()]))).await.unwrap();
        follower.keys.look().await.unwrap();
    }
    assert_eq!(*roots.opened.lock().unwrap(), Vec::<String>::new(), "a second client");
    assert_eq!(*roots.tended.lock().unwrap(), ["x:b"; 5]);
}

#[tokio::test]
async fn the_check_of_a_root_key_says_which_right_lacks_and_how_far_clocks_are_apart() {
    /// May use the key in one way only.
    struct OneWay(&'static str);

    #[async_trait]
    impl RootKey for OneWay {
        fn uri(&self) -> &str {
            "x:one-way"
        }

        async fn wrap(&self, key: &Key32, _: &[u8]) -> Result<Vec<u8>, RootError> {
            if self.0 == "decrypt" { Ok(key.expose().to_vec()) } else { Err(denied()) }
        }

        async fn unwrap(&self, _: &[u8], _: &[u8]) -> Result<Key32, RootError> {
            Err(denied())
        }
    }

    fn denied() -> RootError {
        RootError::Denied { place: "x:one-way".into(), why: "AccessDenied".into() }
    }

    for lacks in ["encrypt", "decrypt"] {
        let findings = root_findings(&OneWay(lacks), NOW.0).await;
        assert!(findings[0].message.contains(&format!("no permission: to {lacks}: AccessDenied")), "{findings:?}");
    }
    let findings = root_findings(&*InsecureRoots::default().root("x:a"), NOW.0).await;
    assert!(findings.iter().any(|finding| finding.message.contains("are 120 s apart")), "{findings:?}");
}

#[tokio::test]
async fn a_rotation_by_the_clock_promotes_its_own_key_and_none_that_somebody_else_staged() {
    let place = Place::new().await;
    let custody = place.custody(Arc::clone(&place.store) as Arc<dyn SystemStore>, 1).await;
    let imported = KeyMaterial::new(Purpose::Master, Key32::new([7; 32])).unwrap();
    let imported = custody.import_key(&manage(), imported).await.unwrap();
    let schedule = Schedule { period: Duration::ZERO, wait: Duration::ZERO };
    let mover = Inline {
        custody: &custody,
        permit: authorize(&Subject::Local { uid: 0, owner: 0 }).unwrap(),
        observer: &crate::jobs::Silent::default(),
    };
    // Another process does not follow: the key that was made waits.
    let behind = place.live(Arc::clone(&place.store) as Arc<dyn SystemStore>, 2).await;
    let steps = custody.maintain(&manage(), schedule, &mover).await.unwrap();
    let [Step::Created { kid }, Step::Waiting { .. }] = steps[..] else { panic!("{steps:?}") };
    assert_ne!(kid, imported);
    assert!(place.keys().load().await.unwrap().keyring.entry(kid).unwrap().is_scheduled(), "the document knows it");
    behind.look().await.unwrap();
    let steps = custody.maintain(&manage(), schedule, &mover).await.unwrap();
    assert!(steps.contains(&Step::Promoted { kid }), "the one that it made before: {steps:?}");
    assert_eq!(custody.keys.opening().entry(imported).unwrap().state(), State::Staged);
}

#[tokio::test]
async fn p12_a_process_that_slept_with_its_machine_looks_before_it_stores() {
    let place = Place::new().await;
    let live = place.live(Arc::clone(&place.store) as Arc<dyn SystemStore>, 1).await;
    let sealing = live.sealing().await.unwrap();
    stage(&place.keys(), 2).await;
    let retired = |keyring: &Keyring| Ok(keyring.promoted(kid(2), NOW)?.retired(kid(1), NOW)?);
    place.keys().edit(retired).await.unwrap();
    live.sleep(Duration::from_secs(60));
    assert_eq!(live.confirm(&sealing).await.unwrap_err().code(), Some(Code::KeyRetired));
}

#[tokio::test]
async fn p12_a_process_that_stands_still_is_forgotten_only_after_a_silence() {
    let place = Place::new().await;
    let system = Arc::clone(&place.store) as Arc<dyn SystemStore>;
    let custody = place.custody(Arc::clone(&system), 1).await;
    let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let stopped = std::process::Command::new("kill").args(["-STOP", &child.id().to_string()]).status().unwrap();
    assert!(stopped.success());
    let report = |reported: UnixTime| Report {
        id: WriterId([2; 16]),
        command: "test".into(),
        place: Where::of(child.id()),
        opens: 2,
        seals: 2,
        reported,
    };
    let now = system.now().await.unwrap();
    custody.keys.processes().report(&report(now)).await.unwrap();
    let early = custody.forget_process(&manage(), WriterId([2; 16])).await;
    custody.keys.processes().report(&report(UnixTime(now.0 - 20))).await.unwrap();
    let late = custody.forget_process(&manage(), WriterId([2; 16])).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(early, Err(CustodyError::Waiting { .. })), "{early:?}");
    late.unwrap();
}
