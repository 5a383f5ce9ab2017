//! `keyfold records get`

use serde_json::json;

use super::RecordArgs;
use crate::{
    failure::{Exit, Failure},
    folder,
    invocation::Invocation,
    output,
    remote::Remote,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  keyfold records get instances redis-1\n  \
                        keyfold records get instances redis-1 --field /admin_password")]
pub(crate) struct Args {
    #[command(flatten)]
    record: RecordArgs,
    /// Print the document with its secrets in plaintext
    #[arg(long, conflicts_with = "field")]
    reveal: bool,
    /// Write one secret, and nothing else, to stdout: a JSON pointer such as /admin_password
    #[arg(long, value_name = "POINTER")]
    field: Option<String>,
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    if let Some(remote) = Remote::of(invocation)? {
        if args.reveal {
            Remote::refuse(invocation, "records get --reveal")?;
        }
        let (collection, key) = (&*args.record.collection, &*args.record.key);
        match &args.field {
            Some(pointer) => output::data(remote.field(collection, key, pointer).await?.expose())?,
            None => {
                output::data(&remote.get(collection, key).await?)?;
                output::line("")?;
            }
        }
        return Ok(Exit::Done);
    }
    folder::with(invocation, "records get", async |opened| {
        let (collection, key) = args.record.resolve(opened)?;
        let custody = &opened.custody;
        if let Some(pointer) = &args.field {
            let fields = custody.open(&opened.permit()?, collection, &key, Some(pointer)).await?;
            for field in &fields {
                output::data(field.secret.expose())?;
            }
        } else if args.reveal {
            let doc = custody.reveal(&opened.permit()?, collection, &key).await?;
            output::data(doc.as_bytes())?;
            output::line("")?;
        } else {
            let redacted = custody.get(&opened.permit()?, collection, &key).await?;
            if invocation.json() {
                let doc: serde_json::Value = serde_json::from_str(&redacted.doc).unwrap_or(serde_json::Value::Null);
                output::json(&json!({ "key": redacted.key, "revision": redacted.revision, "doc": doc }))?;
            } else {
                output::line(&redacted.doc)?;
            }
        }
        Ok(Exit::Done)
    })
    .await
}
