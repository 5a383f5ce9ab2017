//! `keyfold records rm`

use super::RecordArgs;
use crate::{
    failure::{Exit, Failure},
    folder,
    invocation::Invocation,
    output,
    remote::Remote,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    record: RecordArgs,
    /// Remove the record only if it still has this revision
    #[arg(long, value_name = "N")]
    if_revision: Option<u64>,
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    if let Some(remote) = Remote::of(invocation)? {
        remote.remove((&args.record.collection, &args.record.key), args.if_revision).await?;
        if !invocation.json() {
            output::line(&format!("removed {}/{}", args.record.collection, args.record.key))?;
        }
        return Ok(Exit::Done);
    }
    folder::with(invocation, "records rm", async |opened| {
        let (collection, key) = args.record.resolve(opened)?;
        opened.custody.remove(&opened.permit()?, collection, &key, args.if_revision).await?;
        if !invocation.json() {
            output::line(&format!("removed {}/{key}", collection.name))?;
        }
        Ok(Exit::Done)
    })
    .await
}
