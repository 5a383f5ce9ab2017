//! `keyfold keys`: the life of the keys that seal.

mod maintain;
mod roots;

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use keyfold_core::{
    audit::Action,
    envelope::Format,
    id::{KeyId, WriterId},
    keyring::{Entry, Origin},
};
use keyfold_custody::{
    access::{
        Permit,
        op::{List, Manage},
    },
    census::Census,
};
use keyfold_providers::{KeyUri, SourceUri};
use serde_json::json;

use crate::{
    arguments,
    failure::{Exit, Failure},
    folder::{self, Folder, Opened},
    input::Source,
    invocation::Invocation,
    output,
    remote::Remote,
};

#[derive(clap::Args)]
#[command(
    after_help = "A rotation in four steps:\n  keyfold keys create              a new key, staged: everybody can open with it\n  \
                        keyfold keys promote KID         it seals from now on\n  keyfold rotate                   what is stored moves to it\n  \
                        keyfold keys retire OLD-KID      the old one is refused from now on"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List the keys, and the processes that have them open
    List,
    /// Make a key and stage it; it opens, and does not seal yet
    Create {
        /// The formats it may serve: kf1,v1 or fernet
        #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "kf1,v1", value_parser = arguments::format())]
        suites: Vec<Format>,
    },
    /// Make a staged or active key the one that seals, once every live process can open with it
    Promote {
        /// The key's id
        kid: KeyId,
        #[command(flatten)]
        wait: Wait,
    },
    /// Refuse a key from now on, once nobody seals under it and nothing stored needs it
    Retire {
        /// The key's id
        kid: KeyId,
        #[command(flatten)]
        wait: Wait,
    },
    /// Put a retired key back
    Activate {
        /// The key's id
        kid: KeyId,
    },
    /// Leave a tombstone where a retired key was; what only it opens, in backups too, is lost
    Destroy {
        /// The key's id
        kid: KeyId,
        /// Seconds for which it must have been retired
        #[arg(long, value_name = "SECONDS", default_value_t = 86_400)]
        min_age: u64,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
    /// Count what is stored under each key, declared or not
    Census,
    /// Write the keyring, every key wrapped by the root key, to a file or stdout
    Backup {
        /// A new file, made 0600; stdout where left out
        file: Option<PathBuf>,
    },
    /// Put a backup in the place of the keyring, here or on a new machine; needs the same root key
    Restore {
        /// The backup
        file: PathBuf,
        /// Open it with the recovery key, from file:PATH or - for stdin, and wrap it anew with this machine's root key
        #[arg(long, value_name = "SOURCE")]
        recovery_key: Option<Source>,
    },
    /// Take over a key that another program has; staged, and under the root key from now on
    Import {
        /// Where it is: file:PATH, env:NAME, aws-secrets-manager://, gcp-secret-manager:// or hcvault-kv://
        #[arg(long, value_name = "URI")]
        from: SourceUri,
        /// It is a Fernet key
        #[arg(long)]
        fernet: bool,
    },
    /// Write a key, as it is, to where other programs read it
    Publish {
        /// The key's id
        kid: KeyId,
        /// A new version there: aws-secrets-manager://, gcp-secret-manager:// or hcvault-kv://
        #[arg(long, value_name = "URI")]
        to: SourceUri,
    },
    /// Move the keyring to another root key; no record is touched
    RewrapRoot {
        /// The new root key; given again, several open it: file:, env:, pkcs11:, aws-kms://, gcp-kms:// or hcvault://
        #[arg(long, value_name = "URI", required = true, value_parser = roots::root)]
        to: Vec<KeyUri>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let one more root key open the keyring
    AddRoot {
        /// The root key
        #[arg(value_name = "URI", value_parser = roots::root)]
        uri: KeyUri,
    },
    /// Take a root key or a recovery key off the keyring; it opens nothing that is written from then on
    RemoveRoot {
        /// The root key, as `keyfold doctor --keys` names it
        #[arg(value_name = "URI", value_parser = roots::root)]
        uri: KeyUri,
        #[command(flatten)]
        wait: Wait,
    },
    /// Make a recovery key, to be kept offline, and print it once
    AddRecovery {
        /// A new file, made 0600; stdout where left out
        file: Option<PathBuf>,
    },
    /// Rotate by the clock: stage, promote, move what is stored, retire
    Maintain(maintain::Args),
    /// Forget another program's store that is gone for good, so that the keys its values needed can be retired
    ForgetStore {
        /// The store, as the refusal to retire names it
        store: String,
    },
    /// Strike a process that is gone for good off the list of those that are waited for
    ForgetProcess {
        /// The process's id, as `keyfold keys list` and the refusals name it
        id: WriterId,
    },
}

#[derive(clap::Args)]
struct Wait {
    /// Seconds to wait for other processes
    #[arg(long = "wait", value_name = "SECONDS", default_value_t = 30)]
    seconds: u64,
}

impl Wait {
    const fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    if let Some(remote) = Remote::of(invocation)? {
        return over(&remote, args.command, invocation).await;
    }
    match args.command {
        Command::Restore { file, recovery_key } => restore(&file, recovery_key.as_ref(), invocation).await,
        command => folder::with(invocation, "keys", async |opened| dispatch(command, opened, invocation).await).await,
    }
}

/// What of it a server carries out.
async fn over(remote: &Remote, command: Command, invocation: &Invocation) -> Result<Exit, Failure> {
    let keys = "/v1/keyrings/current/keys";
    let changed = match command {
        Command::Create { suites } => remote.json("POST", keys, Some(&json!({ "suites": suites }))).await?,
        Command::Promote { kid, .. } => remote.json("POST", &format!("{keys}/{kid}:promote"), None).await?,
        Command::Retire { kid, .. } => remote.json("POST", &format!("{keys}/{kid}:retire"), None).await?,
        Command::Activate { kid } => remote.json("POST", &format!("{keys}/{kid}:activate"), None).await?,
        Command::List => {
            let listed = remote.json("GET", "/v1/keyrings", None).await?;
            output::json(&listed["keyrings"][0])?;
            return Ok(Exit::Done);
        }
        Command::Census => {
            output::json(&remote.json("GET", "/v1/keyrings/current/census", None).await?)?;
            return Ok(Exit::Done);
        }
        _ => {
            Remote::refuse(invocation, "keys commands other than list, census, create, promote, retire and activate")?;
            return Ok(Exit::Done);
        }
    };
    if invocation.json() {
        output::json(&changed)?;
    } else {
        let text = |key: &str| changed[key].as_str().unwrap_or("").to_owned();
        output::line(&format!("{}  {}", text("kid"), text("state")))?;
    }
    Ok(Exit::Done)
}

async fn dispatch(command: Command, opened: &Opened, invocation: &Invocation) -> Result<Exit, Failure> {
    let custody = &opened.custody;
    match command {
        Command::List => return list(opened, invocation).await,
        Command::Census => {
            let _permit: Permit<List> = opened.permit()?;
            return census(&custody.census().await?, invocation);
        }
        Command::Backup { file } => return backup(opened, file.as_deref(), invocation).await,
        Command::Create { suites } => {
            let kid = custody.create_key(&opened.permit()?, &suites).await?;
            let state = custody.keys.opening().entry(kid).map_or("staged", |entry| entry.state().as_str());
            if invocation.json() {
                output::json(&json!({ "kid": kid, "state": state }))?;
            } else {
                output::line(&format!("{kid}  {state}"))?;
                if state == "staged" {
                    invocation.hint(&format!("let it seal with `keyfold keys promote {kid}`"));
                }
            }
            return Ok(Exit::Done);
        }
        Command::Promote { kid, wait } => {
            custody.promote_key(&opened.permit()?, kid, wait.duration()).await?;
            said(invocation, kid, "primary")?;
            invocation.hint("move what is stored to it with `keyfold rotate`");
        }
        Command::Retire { kid, wait } => {
            custody.retire_key(&opened.permit()?, kid, wait.duration()).await?;
            said(invocation, kid, "retired")?;
        }
        Command::Activate { kid } => {
            custody.activate_key(&opened.permit()?, kid).await?;
            said(invocation, kid, "active")?;
        }
        Command::Destroy { kid, min_age, yes } => {
            if !yes {
                return Err(Failure::usage(format!("destroying key `{kid}` cannot be undone"))
                    .hint("backups and exports that it sealed will never open again; if that is meant, add --yes"));
            }
            custody.destroy_key(&opened.permit()?, kid, Duration::from_secs(min_age)).await?;
            said(invocation, kid, "destroyed")?;
        }
        Command::ForgetProcess { id } => {
            custody.forget_process(&opened.permit()?, id).await?;
            if !invocation.json() {
                output::line(&format!("forgot process {id}"))?;
            }
        }
        Command::ForgetStore { store } => {
            custody.forget_store(&opened.permit()?, &store).await?;
            if !invocation.json() {
                output::line("forgotten; what only its values needed may be retired now")?;
            }
        }
        Command::Import { from, fernet } => return roots::import(opened, &from, fernet, invocation).await,
        Command::Publish { kid, to } => return roots::publish(opened, kid, &to, invocation).await,
        Command::RewrapRoot { to, wait } => return roots::rewrap(opened, &to, &wait, invocation).await,
        Command::AddRoot { uri } => return roots::add(opened, &uri, invocation).await,
        Command::RemoveRoot { uri, wait } => return roots::remove(opened, &uri, &wait, invocation).await,
        Command::AddRecovery { file } => return roots::add_recovery(opened, file.as_deref(), invocation).await,
        Command::Maintain(args) => return maintain::run(&args, opened, invocation).await,
        Command::Restore { .. } => {}
    }
    Ok(Exit::Done)
}

fn said(invocation: &Invocation, kid: KeyId, state: &str) -> Result<(), Failure> {
    if invocation.json() {
        return output::json(&json!({ "kid": kid, "state": state }));
    }
    output::line(&format!("{kid}  {state}"))
}

async fn list(opened: &Opened, invocation: &Invocation) -> Result<Exit, Failure> {
    let _permit: Permit<List> = opened.permit()?;
    let keyring = opened.custody.keys.opening();
    let processes = opened.custody.keys.processes().live().await?;
    let suites = |entry: &Entry| entry.suites().iter().map(|suite| suite.as_str()).collect::<Vec<_>>().join(",");
    let origin = |entry: &Entry| match entry.origin() {
        Origin::Document => "keyring".to_owned(),
        Origin::Environment(variable) => variable.clone(),
    };
    if invocation.json() {
        let keys: Vec<_> = keyring
            .entries()
            .iter()
            .map(|entry| {
                json!({
                    "kid": entry.kid(), "state": entry.state(), "suites": entry.suites(), "created": entry.created(),
                    "since": entry.since(), "origin": origin(entry),
                })
            })
            .collect();
        output::json(&json!({
            "keyring": keyring.id(), "deployment": keyring.deployment(), "generation": keyring.generation(),
            "keys": keys, "tombstones": keyring.tombstones(), "processes": processes,
        }))?;
        return Ok(Exit::Done);
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    for entry in keyring.entries() {
        let since = if entry.since().0 == 0 { "-".to_owned() } else { entry.since().to_string() };
        rows.push(vec![entry.kid().to_string(), entry.state().to_string(), suites(entry), since, origin(entry)]);
    }
    for tombstone in keyring.tombstones() {
        let at = tombstone.destroyed.to_string();
        rows.push(vec![tombstone.kid.to_string(), "destroyed".into(), "-".into(), at, "keyring".into()]);
    }
    output::table(&["KEY", "STATE", "SUITES", "SINCE", "FROM"], &rows)?;
    let own = opened.custody.keys.id();
    let others: Vec<Vec<String>> = processes
        .iter()
        .filter(|report| report.id != own)
        .map(|report| {
            let place = format!("{} on {}", report.place.pid, report.place.host);
            vec![
                report.id.to_string(),
                report.command.clone(),
                place,
                report.opens.to_string(),
                report.seals.to_string(),
            ]
        })
        .collect();
    if !others.is_empty() {
        output::line("")?;
        output::table(&["PROCESS", "COMMAND", "WHERE", "OPENS", "SEALS"], &others)?;
    }
    Ok(Exit::Done)
}

fn census(census: &Census, invocation: &Invocation) -> Result<Exit, Failure> {
    if invocation.json() {
        output::json(census)?;
        return Ok(Exit::Done);
    }
    let row = |count: &keyfold_custody::census::Count| {
        vec![count.collection.clone(), count.format.to_owned(), count.kid.to_string(), count.values.to_string()]
    };
    output::table(&["COLLECTION", "FORMAT", "KEY", "VALUES"], &census.values.iter().map(row).collect::<Vec<_>>())?;
    if census.unreadable > 0 {
        invocation.warn(&format!(
            "{} values look sealed and open under no key here; the first is {}",
            census.unreadable,
            census.first_unreadable.as_deref().unwrap_or("not known")
        ));
    }
    Ok(Exit::Done)
}

async fn backup(opened: &Opened, file: Option<&Path>, invocation: &Invocation) -> Result<Exit, Failure> {
    let permit: Permit<Manage> = opened.permit()?;
    let auditor = &opened.custody.auditor;
    let mut event = auditor.event(permit.actor(), Action::KeyBackup)?;
    event.generation = Some(opened.custody.keys.opening().generation());
    let document = auditor.audited(event, async |_| opened.custody.keys.store().export().await).await?;
    let Some(file) = file else {
        output::data(&document)?;
        return Ok(Exit::Done);
    };
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).and_then(|mut out| {
        out.write_all(&document)?;
        out.sync_all()
    });
    written.map_err(|error| {
        Failure::unavailable(format!("{}: {}", file.display(), error.kind()))
            .hint("name a new file; a backup is never written over another one")
            .caused_by(&error)
    })?;
    invocation.hint("the backup opens with the root key only; keep a copy of that elsewhere");
    if !invocation.json() {
        output::line(&format!("wrote {}", file.display()))?;
    }
    Ok(Exit::Done)
}

async fn restore(file: &Path, recovery_key: Option<&Source>, invocation: &Invocation) -> Result<Exit, Failure> {
    let backup = std::fs::read(file)
        .map_err(|error| Failure::unavailable(format!("{}: {}", file.display(), error.kind())).caused_by(&error))?;
    let before = Folder::of(invocation)?.is_deployment()?;
    let recovery = match recovery_key {
        Some(source) => Some(roots::recovery(source).await?),
        None => None,
    };
    let folder::Restored { keyring, left_out } = folder::restore(invocation, backup, recovery.as_ref()).await?;
    if invocation.json() {
        let (id, generation) = (keyring.id(), keyring.generation());
        output::json(
            &json!({ "keyring": id, "generation": generation, "roots": keyring.roots(), "left_out": left_out }),
        )?;
    } else {
        for uri in &left_out {
            invocation.warn(&format!(
                "{uri} does not open it any more; `keyfold keys add-root` lets it, if it is still there"
            ));
        }
        output::line(&format!("restored keyring {} at generation {}", keyring.id(), keyring.generation()))?;
        if !before {
            invocation.hint("bring the records back with `keyfold records import --exported COLLECTION FILE`");
        }
    }
    Ok(Exit::Done)
}
