//! `keyfold config`

use keyfold_custody::access::{Permit, op::Manage};
use serde_json::json;

use crate::{
    failure::{Exit, Failure},
    folder::{self, Folder, Opened},
    invocation::Invocation,
    output,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Report every mistake in keyfold.toml, and what would accept more than the recorded floor
    Check,
    /// Record the accept policies in the keyring: from then on they only tighten
    Apply {
        /// Allow a weaker format, or a later last day, again
        #[arg(long)]
        loosen: bool,
    },
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    match args.command {
        Command::Check => check(invocation).await,
        Command::Apply { loosen } => {
            folder::with(invocation, "config apply", async |opened| apply(opened, loosen, invocation).await).await
        }
    }
}

async fn check(invocation: &Invocation) -> Result<Exit, Failure> {
    let folder = Folder::of(invocation)?;
    let config = folder::config(invocation, &folder)?;
    if folder.is_deployment()? {
        folder::with(invocation, "config check", async |opened| {
            let collections = opened.custody.config.collections.values();
            let beyond: Vec<_> =
                collections.filter_map(|collection| opened.custody.within_floor(collection).err()).collect();
            let message = beyond.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            match beyond.into_iter().next() {
                Some(first) => Err(Failure::from(first).message(message)),
                None => Ok(()),
            }
        })
        .await?;
    }
    if invocation.json() {
        output::json(&json!({ "collections": config.collections.keys().collect::<Vec<_>>() }))?;
        return Ok(Exit::Done);
    }
    let rows: Vec<Vec<String>> = config
        .collections
        .values()
        .map(|collection| {
            vec![
                collection.name.clone(),
                collection.id.to_string(),
                collection.format.to_string(),
                collection.accept.to_string(),
                collection.fields.len().to_string(),
            ]
        })
        .collect();
    output::table(&["COLLECTION", "ID", "FORMAT", "ACCEPTS", "FIELDS"], &rows)?;
    Ok(Exit::Done)
}

async fn apply(opened: &Opened, loosen: bool, invocation: &Invocation) -> Result<Exit, Failure> {
    let permit: Permit<Manage> = opened.permit()?;
    let custody = &opened.custody;
    let generation = custody.apply_floors(&permit, loosen).await?;
    let floors = custody.config.collections.values().map(|c| (c.name.clone(), c.accept.to_string()));
    if invocation.json() {
        let floors: serde_json::Map<_, _> = floors.map(|(name, accept)| (name, accept.into())).collect();
        output::json(&json!({ "generation": generation, "floors": floors }))?;
    } else {
        output::table(&["COLLECTION", "FLOOR"], &floors.map(|(name, accept)| vec![name, accept]).collect::<Vec<_>>())?;
    }
    Ok(Exit::Done)
}
