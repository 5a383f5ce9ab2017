//! `keyfold keys`: the life of the keys that seal.

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
use serde_json::json;

use crate::{
    arguments,
    failure::{Exit, Failure},
    folder::{self, Folder, Opened},
    invocation::Invocation,
    output,
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
    match args.command {
        Command::Restore { file } => restore(&file, invocation).await,
        command => folder::with(invocation, "keys", async |opened| dispatch(command, opened, invocation).await).await,
    }
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

async fn restore(file: &Path, invocation: &Invocation) -> Result<Exit, Failure> {
    let backup = std::fs::read(file)
        .map_err(|error| Failure::unavailable(format!("{}: {}", file.display(), error.kind())).caused_by(&error))?;
    let before = Folder::of(invocation)?.is_deployment()?;
    let keyring = folder::restore(invocation, backup).await?;
    if invocation.json() {
        output::json(&json!({ "keyring": keyring.id(), "generation": keyring.generation() }))?;
    } else {
        output::line(&format!("restored keyring {} at generation {}", keyring.id(), keyring.generation()))?;
        if !before {
            invocation.hint("bring the records back with `keyfold records import --exported COLLECTION FILE`");
        }
    }
    Ok(Exit::Done)
}
