//! `keyfold records export`

use crate::{
    failure::{Exit, Failure},
    folder,
    invocation::Invocation,
    output,
};

#[derive(clap::Args)]
#[command(
    after_help = "Each line is {\"key\":…,\"doc\":…}, which `keyfold records import --exported` reads. Secrets stay sealed; \
                        they open under the same keyring only, so back that up too: keyfold keys backup."
)]
pub(crate) struct Args {
    /// The collection, as keyfold.toml names it
    collection: String,
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    folder::with(invocation, "records export", async |opened| {
        let permit = opened.permit()?;
        let collection = opened.custody.collection(&args.collection)?;
        let mut at = Default::default();
        loop {
            let (records, next) = opened.custody.export(&permit, collection, at).await?;
            let mut lines = String::new();
            for record in &records {
                let key = serde_json::to_string(&record.key)
                    .map_err(|error| Failure::unavailable("a key cannot be written").caused_by(&error))?;
                let doc = record.cells.first().and_then(|cell| cell.value.as_str()).unwrap_or("null");
                // A document may be spread over lines; between tokens a space means the same.
                let doc: String = doc.chars().map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }).collect();
                lines += &format!("{{\"key\":{key},\"doc\":{doc}}}\n");
            }
            output::data(lines.as_bytes())?;
            let Some(next) = next else { return Ok(Exit::Done) };
            at = next;
        }
    })
    .await
}
