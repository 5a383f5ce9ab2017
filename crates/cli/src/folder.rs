//! The data folder: made, opened and closed. The composition root of everything that keeps state.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use keyfold_core::{
    audit::{Action, VerifierKey},
    clock::Clock,
    envelope::Format,
    error::Code,
    id::{WriterId, to_hex},
    keyring::{
        Entry, KeyMaterial, Keyring, Origin, Purpose, State,
        document::{self, DocumentError},
    },
    rng::{self, SystemRandom},
    root::RootKey,
    secret::Key32,
};
use keyfold_custody::{
    access::{self, Operation, Permit, Subject, op::Manage},
    audit_log::{AuditSink, LastCheckpoint, Log, Queued},
    auditor::Auditor,
    config::{Config, ConfigError, Mistake},
    custody::Custody,
    doctor::Finding,
    error::CustodyError,
    keys::{
        Copies, KEYRING_KEY, KeyringStore, LiveKeyring, Usage, checkup,
        roots::{Rerooted, reroot},
    },
    retention::audit_key,
    store::sqlite::OpenMode,
};
use keyfold_providers::{KeyUri, RecoveryRoot, Roots};
use keyfold_server::{
    copies::Destination, oidc::settings::SessionSettings, proxy::settings::ProxySettings, settings::Settings,
};

use crate::{
    failure::Failure,
    invocation::Invocation,
    stores::Needs,
    system::{self, Audit, System},
};

/// Where everything lies.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// The folder that the invocation names.
    pub(crate) fn of(invocation: &Invocation) -> Result<Self, Failure> {
        Ok(Self(invocation.data_dir()?.to_owned()))
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The default place of the root key.
    fn root_key(&self) -> PathBuf {
        self.0.join("root.key")
    }

    /// Records and system documents.
    pub(crate) fn database(&self) -> PathBuf {
        self.0.join("keyfold.db")
    }

    /// The audit log of this folder's processes.
    pub(crate) fn audit(&self) -> PathBuf {
        self.0.join("audit")
    }

    /// The configuration file, where none was named.
    pub(crate) fn config(&self) -> PathBuf {
        self.0.join("keyfold.toml")
    }

    /// Whether there is a deployment, or what is left of one. A folder that cannot be looked at is not one without: its
    /// tombstones and its audit log hold also where this process may not read them.
    pub(crate) fn is_deployment(&self) -> Result<bool, Failure> {
        for path in [self.database(), self.copies().document_path()] {
            let there = path.try_exists().map_err(|error| {
                Failure::unavailable(format!("{}: the data folder cannot be looked at", self.0.display()))
                    .hint("run it as the folder's owner, or name another with --data-dir DIR")
                    .caused_by(&error)
            })?;
            if there {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn copies(&self) -> Copies {
        Copies::in_folder(&self.0)
    }
}

/// Reads `keyfold.toml`: the one that was named, else the folder's, else none.
pub(crate) fn config(invocation: &Invocation, folder: &Folder) -> Result<Config, Failure> {
    let (path, named) = match invocation.config() {
        Some(path) => (path.to_owned(), true),
        None => (folder.config(), false),
    };
    match fs::read_to_string(&path) {
        Ok(text) => parsed(&text).map_err(|error| {
            use keyfold_core::error::Hint;
            let failure = Failure::usage(format!("{}:\n{error}", path.display()));
            failure.hint(error.hint().unwrap_or_default())
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => Ok(Config::default()),
        Err(error) => {
            Err(Failure::usage(format!("{}: the configuration cannot be read", path.display())).caused_by(&error))
        }
    }
}

/// Every mistake at once, those in what only the service or this program reads included.
fn parsed(text: &str) -> Result<Config, ConfigError> {
    let config = Config::parse(text);
    let whole = text.parse::<toml::Table>().unwrap_or_default();
    let part = |name: &str| whole.get(name).and_then(toml::Value::as_table).cloned();
    let mut more = part("server").and_then(|server| Settings::parse(&server).err()).unwrap_or_default();
    more.extend(part("sessions").and_then(|sessions| SessionSettings::parse(&sessions).err()).unwrap_or_default());
    if let Ok(config) = &config {
        more.extend(ProxySettings::parse(&config.proxy, &config.routes).err().unwrap_or_default());
    }
    let copies = config.as_ref().map(|config| &config.audit.copies[..]).unwrap_or_default();
    for (i, uri) in copies.iter().enumerate() {
        if let Err(what) = uri.parse::<Destination>() {
            more.push(Mistake { place: format!("audit.copies[{i}]"), what });
        }
    }
    match config {
        Ok(config) => {
            more.extend(system::mistakes(&config));
            if more.is_empty() { Ok(config) } else { Err(ConfigError(more)) }
        }
        Err(ConfigError(mistakes)) => Err(ConfigError(mistakes.into_iter().chain(more).collect())),
    }
}

/// The root key: `KEYFOLD_ROOT_KEY`, else the configuration's, else the folder's own file.
fn root_uri(folder: &Folder, config: &Config) -> Result<KeyUri, Failure> {
    let named = match std::env::var("KEYFOLD_ROOT_KEY") {
        Ok(uri) => Some(uri),
        Err(std::env::VarError::NotPresent) => config.root_key.clone(),
        Err(error) => return Err(Failure::usage("KEYFOLD_ROOT_KEY is not text").caused_by(&error)),
    };
    let Some(uri) = named else { return Ok(KeyUri::File(folder.root_key())) };
    Ok(match uri.parse()? {
        KeyUri::File(path) if path.is_relative() => KeyUri::File(folder.path().join(path)),
        uri => uri,
    })
}

/// What is wrong with the root key that a command would open the keyring with.
pub(crate) async fn root_findings(invocation: &Invocation) -> Result<Vec<Finding>, Failure> {
    let folder = Folder::of(invocation)?;
    let config = config(invocation, &folder)?;
    Ok(match keyfold_providers::open(&root_uri(&folder, &config)?) {
        Ok(root) => checkup::root_findings(&root, invocation.now().0).await,
        Err(error) => vec![checkup::failed(&error)],
    })
}

/// What `init` found and made.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Made {
    pub(crate) folder: String,
    pub(crate) root_key: String,
    /// The system store, where it is another than the folder's database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) system: Option<String>,
    pub(crate) deployment: String,
    pub(crate) kid: String,
    pub(crate) existed: bool,
    /// Whether the deployment was there already, and this folder is new to it.
    pub(crate) joined: bool,
}

/// Makes a deployment: folder, root key, database, first key, configuration to start from. Where the system store is shared and has
/// a deployment already, the folder joins it. Run again it changes nothing, and ends what an earlier run left half-done.
pub(crate) async fn init(invocation: &Invocation) -> Result<Made, Failure> {
    let folder = Folder::of(invocation)?;
    make_folder(folder.path())?;
    let config = config(invocation, &folder)?;
    let uri = root_uri(&folder, &config)?;
    let place = system::place(invocation, &config)?;
    // A shared store is looked into before a root key is made that would not open what is there, and so is the audit log's.
    let shared = match &place {
        Some(place) => Some(System::open(Some(place), &folder, OpenMode::Create).await?),
        None => None,
    };
    Audit::open(&config, &folder, OpenMode::Create).await?;
    let root: Arc<dyn RootKey> = match &uri {
        KeyUri::File(path) if !path.exists() => {
            let joins = match &shared {
                Some(system) => system.documents.get(KEYRING_KEY).await?.is_some(),
                None => false,
            };
            if joins || folder.is_deployment()? {
                return Err(Failure::coded(
                    Code::KeyInvalid,
                    format!("{}: the root key of this deployment is missing", path.display()),
                )
                .hint(if joins {
                    "copy it from a machine that has it (0600), or name a root key that all share: KEYFOLD_ROOT_KEY"
                } else {
                    "put it back; a new one would not open what is there"
                }));
            }
            Arc::new(keyfold_providers::create_file(path)?)
        }
        uri => Arc::new(keyfold_providers::open(uri)?),
    };
    let system = match shared {
        Some(system) => system,
        None => System::open(None, &folder, OpenMode::Create).await?,
    };
    let keyrings = KeyringStore::new(Arc::clone(&system.documents), root, folder.copies(), Vec::new());
    if invocation.config().is_none() {
        starter_config(&folder.config())?;
    }
    let copied = folder.copies().document_path().exists();
    let existed = keyrings.version().await?.is_some();
    if !existed {
        if copied {
            return Err(Failure::coded(
                Code::DocumentRefused,
                format!("the folder has a copy of a keyring, and {} has none", system.records.describe()),
            )
            .hint(format!("keyfold keys restore {}", folder.copies().document_path().display())));
        }
        keyrings.create(&first_keyring(invocation)?).await?;
    }
    let loaded = keyrings.load().await?;
    let kid = loaded.keyring.primary_of(Purpose::Master).map(|entry| entry.kid().to_string()).unwrap_or_default();
    let made = Made {
        folder: folder.path().display().to_string(),
        root_key: uri.to_string(),
        system: system.is_shared().then(|| system.records.describe()),
        deployment: loaded.keyring.deployment().to_owned(),
        kid,
        existed,
        joined: existed && !copied,
    };
    system.close().await;
    if !existed {
        with(invocation, "init", async |opened| {
            let mut event = opened.custody.auditor.event(&opened.subject.actor(), Action::KeyCreate)?;
            event.kid = made.kid.parse().ok();
            event.generation = Some(opened.custody.keys.opening().generation());
            Ok(opened.custody.auditor.audited(event, async |_| Ok(())).await?)
        })
        .await?;
    }
    Ok(made)
}

fn first_keyring(invocation: &Invocation) -> Result<Keyring, Failure> {
    let id = to_hex(&rng::array::<8>(&SystemRandom)?);
    let keyring = Keyring::first(&format!("kr-{id}"), &format!("kf-{id}"), Key32::new(rng::array(&SystemRandom)?));
    let material = KeyMaterial::new(Purpose::Master, Key32::new(rng::array(&SystemRandom)?))?;
    let kid = material.kid();
    let now = invocation.now();
    let entry = Entry::new(material, State::Staged, vec![Format::Kf1, Format::V1], now, Origin::Document);
    Ok(keyring.staged(entry)?.promoted(kid, now)?)
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::unavailable(format!("{}: the data folder cannot be made", path.display()))
            .hint("choose another with --data-dir DIR")
            .caused_by(&error)
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => {
            Err(Failure::usage(format!("{}: not a folder", path.display())).hint("choose another with --data-dir DIR"))
        }
        Err(_) => DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed),
    }
}

/// What a new folder's `keyfold.toml` says.
pub(crate) const STARTER: &str = "\
# Keyfold's configuration; `keyfold config check` says what is wrong with it.

# One table for each collection of records. `fields` are JSON pointers; `*` stands for any index or key.
[collections.instances]
fields = [\"/connection_url\", \"/admin_password\", \"/extension_secrets/*\"]
";

fn starter_config(path: &Path) -> Result<(), Failure> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(STARTER.as_bytes()));
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Failure::unavailable(format!("{}: cannot be written", path.display())).caused_by(&error))
        }
        _ => Ok(()),
    }
}

/// An open data folder.
pub(crate) struct Opened {
    pub(crate) custody: Arc<Custody>,
    pub(crate) subject: Subject,
    pub(crate) system: System,
    pub(crate) audit: Log,
    pub(crate) folder: Folder,
}

impl Opened {
    /// A permit for one operation, or a refusal.
    pub(crate) fn permit<O: Operation>(&self) -> Result<Permit<O>, Failure> {
        Ok(access::authorize(&self.subject).map_err(CustodyError::from)?)
    }

    /// Notes that somebody was refused. The refusal stands whether or not it can be written down.
    async fn refused(&self) {
        let auditor = &self.custody.auditor;
        let noted = async {
            let event = auditor.event(&self.subject.actor(), Action::Refused)?;
            let _ = auditor.intent(&event).await?;
            let refusal = access::authorize::<access::op::Open>(&self.subject).map(drop).map_err(CustodyError::from);
            auditor.outcome(&event, &refusal).await
        };
        if let Err(error) = noted.await {
            tracing::warn!(%error, "a refusal could not be written to the audit log");
        }
    }
}

/// Opens the folder, runs `work` while the keyring is followed, and closes whatever happened: the last checkpoint is signed and
/// the process struck off the list, also when `work` failed.
pub(crate) async fn with<T>(
    invocation: &Invocation,
    command: &str,
    work: impl AsyncFnOnce(&Opened) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_stores(invocation, command, &Needs::Nothing, work).await
}

/// As [`with`], connected to the stores that the command needs.
pub(crate) async fn with_stores<T>(
    invocation: &Invocation,
    command: &str,
    needs: &Needs,
    work: impl AsyncFnOnce(&Opened) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let opened = open(invocation, command, needs).await?;
    let follower = tokio::spawn(Arc::clone(&opened.custody.keys).follow());
    let result = work(&opened).await;
    if result.as_ref().is_err_and(Failure::is_forbidden) {
        opened.refused().await;
    }
    follower.abort();
    let closed = opened.custody.close().await;
    opened.system.close().await;
    let value = result?;
    closed?;
    Ok(value)
}

async fn open(invocation: &Invocation, command: &str, needs: &Needs) -> Result<Opened, Failure> {
    let folder = Folder::of(invocation)?;
    if !folder.is_deployment()? {
        return Err(Failure::unavailable(format!("no data folder at {}", folder.path().display()))
            .hint("make one with `keyfold init`, or name another with --data-dir DIR"));
    }
    let mut config = config(invocation, &folder)?;
    needs.apply(&mut config);
    let subject = subject(folder.path())?;
    let foreign = needs.connect(&config, folder.path()).await?;
    let root: Arc<dyn RootKey> = Arc::new(keyfold_providers::open(&root_uri(&folder, &config)?)?);
    let system = System::open(system::place(invocation, &config)?.as_ref(), &folder, OpenMode::Existing).await?;
    let environment = crate::keys::raw(invocation).await?;
    let keyrings = KeyringStore::new(Arc::clone(&system.documents), root, folder.copies(), environment)
        .with_roots(Arc::new(Roots));
    // The first half is this process's id, on the list of processes and in the audit log alike.
    let random: [u8; 48] = rng::array(&SystemRandom)?;
    let mut id = [0; 16];
    id.copy_from_slice(&random[..16]);
    let audit = Audit::open(&config, &folder, OpenMode::Existing).await?;
    let checkpoint = checkpoint(&audit).await?;
    let keys = LiveKeyring::open(keyrings, Arc::clone(&system.documents), WriterId(id), command).await?;
    not_before(checkpoint.as_ref(), &keys.opening())?;
    let clock: Arc<dyn Clock> = Arc::new(invocation.clock());
    let sink = sink(&audit, &keys.opening(), random, &clock)?;
    let audit = audit.log();
    let custody = Arc::new(Custody {
        records: Arc::clone(&system.records),
        foreign,
        usage: Usage::new(Arc::clone(&system.documents)),
        system: Arc::clone(&system.documents),
        keys,
        auditor: Auditor::new(Arc::new(sink), clock).waiting(config.audit.wait),
        config,
    });
    Ok(Opened { custody, subject, system, audit, folder })
}

/// What a restore put in place.
pub(crate) struct Restored {
    pub(crate) keyring: Keyring,
    /// Root keys of the backup that do not open it any more.
    pub(crate) left_out: Vec<String>,
}

/// Puts a backup of the keyring in the place of the stored one, also where none is stored or none opens. What signs the
/// intent is therefore the audit key of the backup itself, once it has proved to be this deployment's.
///
/// With a recovery key the backup is opened by that, and wrapped anew by this machine's root key.
pub(crate) async fn restore(
    invocation: &Invocation,
    backup: Vec<u8>,
    recovery: Option<&RecoveryRoot>,
) -> Result<Restored, Failure> {
    let folder = Folder::of(invocation)?;
    make_folder(folder.path())?;
    let config = config(invocation, &folder)?;
    let permit: Permit<Manage> = access::authorize(&subject(folder.path())?).map_err(CustodyError::from)?;
    let uri = root_uri(&folder, &config)?;
    let seen = folder.copies().seen()?;
    let root: Arc<dyn RootKey> = match (&uri, recovery) {
        // What is no backup, or opens under another recovery key, leaves no root key behind.
        (KeyUri::File(path), Some(recovery)) if !path.exists() => {
            document::open(recovery, &backup, seen).await?;
            Arc::new(keyfold_providers::create_file(path)?)
        }
        _ => Arc::new(keyfold_providers::open(&uri)?),
    };
    let Rerooted { document: backup, left_out } = match recovery {
        Some(recovery) => reroot(&backup, recovery, &*root, &Roots, seen).await?,
        None => Rerooted { document: backup, left_out: Vec::new() },
    };
    // What is no backup, or opens under another root key, leaves nothing behind.
    document::open(&*root, &backup, seen).await?;
    let system = System::open(system::place(invocation, &config)?.as_ref(), &folder, OpenMode::Create).await?;
    let documents = Arc::clone(&system.documents);
    let keyrings = KeyringStore::new(documents, root, folder.copies(), Vec::new()).with_roots(Arc::new(Roots));
    let audit = Audit::open(&config, &folder, OpenMode::Create).await?;
    let checkpoint = checkpoint(&audit).await?;
    let backup = keyrings.examine(backup, recovery.map(|root| root as &dyn RootKey)).await?;
    not_before(checkpoint.as_ref(), backup.keyring()).map_err(|failure| {
        let audit = config.audit.sink.clone().unwrap_or_else(|| folder.audit().display().to_string());
        failure.hint(format!("restore a newer backup; if there is none, move {audit} away first"))
    })?;
    let clock: Arc<dyn Clock> = Arc::new(invocation.clock());
    let sink = Arc::new(sink(&audit, backup.keyring(), rng::array(&SystemRandom)?, &clock)?);
    let auditor = Auditor::new(Arc::clone(&sink) as Arc<dyn AuditSink>, clock);
    let mut event = auditor.event(permit.actor(), Action::KeyRestore)?;
    let generation = backup.keyring().generation();
    event.generation = Some(generation);
    let restored = auditor.audited(event, async |_| keyrings.restore(backup).await).await;
    let closed = sink.close(generation).await;
    system.close().await;
    let keyring = restored?;
    closed.map_err(CustodyError::from)?;
    if invocation.config().is_none() {
        starter_config(&folder.config())?;
    }
    Ok(Restored { keyring, left_out })
}

/// The last checkpoint of the audit log, read before the keyring: one that another process signs after it changed a key must
/// not make the keyring that was read before look old. Files that cannot be read are left to who needs them: nothing is
/// opened, sealed or changed without. A store that does not answer now may do so in a moment, and then the old keyring would be in use.
async fn checkpoint(audit: &Audit) -> Result<Option<LastCheckpoint>, Failure> {
    let last = audit.log().last_checkpoint().await;
    match audit {
        Audit::Folder(_) => Ok(last.unwrap_or_default()),
        Audit::Stored(_) => Ok(last.map_err(CustodyError::from)?),
    }
}

/// Refuses a keyring older than one that a checkpoint knew, also where what the folder had seen went with the newer one.
fn not_before(checkpoint: Option<&LastCheckpoint>, keyring: &Keyring) -> Result<(), Failure> {
    let Some(checkpoint) = checkpoint else { return Ok(()) };
    let key = verifier_key(keyring)?;
    match checkpoint.generation(&key) {
        Some(seen) if seen > keyring.generation() => {
            Err(DocumentError::Older { found: keyring.generation(), seen }.into())
        }
        _ => Ok(()),
    }
}

/// The public half of the deployment's audit key, from the authenticated keyring document.
pub(crate) fn verifier_key(keyring: &Keyring) -> Result<VerifierKey, Failure> {
    Ok(audit_key(keyring)?.1)
}

/// The audit log's writer of this process.
fn sink(audit: &Audit, keyring: &Keyring, random: [u8; 48], clock: &Arc<dyn Clock>) -> Result<Queued, Failure> {
    let seed = keyring
        .audit_seed()
        .ok_or_else(|| Failure::coded(Code::DocumentRefused, "the keyring document has no audit key"))?;
    audit.sink(keyring, seed.expose(), random, clock)
}

/// Who runs this, and who owns the folder. The system is asked and not `/proc`, where a process whose program its user may
/// not read belongs to root.
fn subject(folder: &Path) -> Result<Subject, Failure> {
    let owner = fs::metadata(folder)
        .map_err(|error| Failure::unavailable(format!("{}: cannot be read", folder.display())).caused_by(&error))?
        .uid();
    Ok(Subject::Local { uid: rustix::process::geteuid().as_raw(), owner })
}
