//! `keyfold records put`

use keyfold_custody::{
    records::{Incoming, PutMode},
    store::Inserted,
};
use serde_json::json;
use zeroize::Zeroizing;

use super::RecordArgs;
use crate::{
    arguments::SourceArgs,
    failure::{Exit, Failure},
    folder,
    input::{self, Wanted},
    invocation::Invocation,
    output,
    remote::Remote,
};

#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  echo '{\"connection_url\": \"redis://u:p@h:6379\"}' | keyfold records put instances redis-1"
)]
pub(crate) struct Args {
    #[command(flatten)]
    record: RecordArgs,
    /// Also write over a record that is there
    #[arg(long, conflicts_with = "if_revision")]
    replace: bool,
    /// Write over the record only if it still has this revision
    #[arg(long, value_name = "N")]
    if_revision: Option<u64>,
    #[command(flatten)]
    source: SourceArgs,
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    let mode = match (args.replace, args.if_revision) {
        (_, Some(revision)) => PutMode::IfRevision(revision),
        (true, None) => PutMode::Replace,
        (false, None) => PutMode::Create,
    };
    if let Some(remote) = Remote::of(invocation)? {
        let given = input::read(&args.source.from, Wanted::Secret).await?;
        let (place, how) = ((&*args.record.collection, &*args.record.key), (args.replace, args.if_revision));
        let put = remote.put(place, given.expose().trim_ascii(), how).await?;
        let what = put["result"].as_str().unwrap_or("");
        if invocation.json() {
            output::json(&json!({ "collection": place.0, "key": place.1, "result": what }))?;
        } else {
            output::line(&format!("{what} {}/{}", place.0, place.1))?;
        }
        return Ok(Exit::Done);
    }
    folder::with(invocation, "records put", async |opened| {
        let permit = opened.permit()?;
        let (collection, key) = args.record.resolve(opened)?;
        let given = input::read(&args.source.from, Wanted::Secret).await?;
        let doc = std::str::from_utf8(given.expose())
            .map(|text| Zeroizing::new(text.trim().to_owned()))
            .map_err(|_| Failure::usage("the document is not UTF-8"))?;
        let inserted = opened.custody.put(&permit, collection, Incoming { key, doc }, mode).await?;
        let what = if inserted == Inserted::Created { "created" } else { "replaced" };
        if invocation.json() {
            output::json(&json!({ "collection": collection.name, "key": args.record.key, "result": what }))?;
        } else {
            output::line(&format!("{what} {}/{}", collection.name, args.record.key))?;
        }
        Ok(Exit::Done)
    })
    .await
}
