//! `keyfold records list`

use keyfold_custody::access::{Permit, op::List};
use serde_json::json;

use crate::{
    failure::{Exit, Failure, one_line},
    folder,
    invocation::Invocation,
    output,
    remote::Remote,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The collection, as keyfold.toml names it; all collections where left out
    collection: Option<String>,
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    if let Some(remote) = Remote::of(invocation)? {
        match &args.collection {
            Some(name) => remote.list(name, invocation.json()).await?,
            None => {
                let listed = remote.json("GET", "/v1/collections", None).await?;
                for collection in listed["collections"].as_array().into_iter().flatten() {
                    match (invocation.json(), collection["name"].as_str()) {
                        (false, Some(name)) => output::line(&one_line(name))?,
                        _ => output::json(collection)?,
                    }
                }
            }
        }
        return Ok(Exit::Done);
    }
    folder::with(invocation, "records list", async |opened| {
        let _permit: Permit<List> = opened.permit()?;
        let records = &opened.custody.records;
        let Some(name) = &args.collection else {
            let mut rows = Vec::new();
            for collection in opened.custody.config.collections.values() {
                let count = records.count(&collection.id).await?;
                if invocation.json() {
                    output::json(&json!({ "collection": collection.name, "id": collection.id, "records": count }))?;
                }
                rows.push(vec![collection.name.clone(), collection.id.to_string(), count.to_string()]);
            }
            if !invocation.json() {
                output::table(&["COLLECTION", "ID", "RECORDS"], &rows)?;
            }
            return Ok(Exit::Done);
        };
        let collection = opened.custody.collection(name)?;
        let mut after = None;
        loop {
            let page = records.keys(&collection.id, after.as_ref(), 1000).await?;
            for key in &page.keys {
                if invocation.json() {
                    output::json(&json!({ "key": key }))?;
                } else {
                    output::line(&one_line(key.as_str()))?;
                }
            }
            let Some(next) = page.next else { return Ok(Exit::Done) };
            after = Some(next);
        }
    })
    .await
}
