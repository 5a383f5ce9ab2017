//! `keyfold records`: the records of our own layout.

mod export;
mod get;
pub(crate) mod import;
mod list;
mod put;
mod rm;

use keyfold_custody::{
    collection::Collection,
    store::{RecordKey, StoreError},
};

use crate::{
    failure::{Exit, Failure},
    folder::Opened,
    invocation::Invocation,
    remote::Remote,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Store the JSON document on stdin, its declared fields sealed
    Put(put::Args),
    /// Print a record: redacted, or with its secrets for who may see them
    Get(get::Args),
    /// List collections, or the records of one
    List(list::Args),
    /// Store many documents: JSON lines or one JSON array
    Import(import::Args),
    /// Write all records of a collection as JSON lines, sealed as they are stored
    Export(export::Args),
    /// Remove a record
    Rm(rm::Args),
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    match args.command {
        Command::Put(args) => put::run(args, invocation).await,
        Command::Get(args) => get::run(args, invocation).await,
        Command::List(args) => list::run(args, invocation).await,
        Command::Import(args) => {
            Remote::refuse(invocation, "records import")?;
            import::run(args, invocation).await
        }
        Command::Export(args) => {
            Remote::refuse(invocation, "records export")?;
            export::run(args, invocation).await
        }
        Command::Rm(args) => rm::run(args, invocation).await,
    }
}

/// One record, as arguments name it.
#[derive(clap::Args)]
struct RecordArgs {
    /// The collection, as keyfold.toml names it
    pub(super) collection: String,
    /// The record's key: 1 to 512 bytes
    pub(super) key: String,
}

impl RecordArgs {
    fn resolve<'a>(&self, opened: &'a Opened) -> Result<(&'a Collection, RecordKey), Failure> {
        let collection = opened.custody.collection(&self.collection)?;
        let key = RecordKey::own(&self.key).map_err(StoreError::from)?;
        Ok((collection, key))
    }
}
