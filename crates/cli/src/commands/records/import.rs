//! `keyfold records import`

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::PathBuf,
};

use keyfold_custody::{
    collection::Collection,
    import::Import,
    layout::{
        documents::Documents,
        json::{self, Value},
        path::FieldPath,
    },
    records::{Incoming, Intake},
    store::{Inserted, OnExisting, RecordKey},
};
use serde_json::json;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::{
    failure::{Exit, Failure},
    folder::{self, Opened},
    invocation::Invocation,
    output,
    progress::Progress,
};

/// Documents in a transaction.
const BATCH: usize = 500;

#[derive(clap::Args)]
#[command(
    after_help = "Documents that are stored stay stored if a later one is at fault; run again with --on-existing skip.\n\n\
                        Example:\n  keyfold records import instances instances.json"
)]
pub(crate) struct Args {
    /// The collection, as keyfold.toml names it
    collection: String,
    /// The file to read; stdin where left out
    file: Option<PathBuf>,
    /// Where a document holds its key: a JSON pointer
    #[arg(long, value_name = "POINTER", default_value = "/id", conflicts_with = "exported")]
    id: FieldPath,
    /// Store the declared fields as they are, if the collection accepts what they hold: for `keyfold migrate` to seal
    #[arg(long)]
    as_is: bool,
    /// Read what `keyfold records export` wrote: {"key":…,"doc":…}, stored as it is
    #[arg(long)]
    exported: bool,
    /// What to do with records that are there already
    #[arg(long, value_name = "WHAT", default_value = "fail")]
    on_existing: Existing,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Existing {
    /// Stop, and store nothing of the batch
    Fail,
    /// Leave them as they are
    Skip,
    /// Write over them
    Replace,
}

/// How many documents became what.
#[derive(Debug, Default, Clone, Copy, serde::Serialize)]
pub(crate) struct Imported {
    pub(crate) created: u64,
    pub(crate) replaced: u64,
    pub(crate) skipped: u64,
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    folder::with(invocation, "records import", async |opened| {
        let collection = opened.custody.collection(&args.collection)?;
        let on_existing = match args.on_existing {
            Existing::Fail => OnExisting::Fail,
            Existing::Skip => OnExisting::Skip,
            Existing::Replace => OnExisting::Replace,
        };
        let intake = if args.as_is || args.exported { Intake::AsIs } else { Intake::Seal };
        let key = if args.exported { Key::Exported } else { Key::At(args.id.clone()) };
        let input: Box<dyn BufRead + Send> = match &args.file {
            Some(path) => {
                let file = File::open(path).map_err(|error| {
                    Failure::unavailable(format!("{}: {}", path.display(), error.kind())).caused_by(&error)
                })?;
                Box::new(BufReader::with_capacity(1 << 16, file))
            }
            None => Box::new(BufReader::with_capacity(1 << 16, io::stdin())),
        };
        let progress = Progress::start(invocation, "import", None);
        let done = import(opened, collection, What { input, key, intake, on_existing }, &|done| progress.set(done, ""))
            .await?;
        progress.finish();
        if invocation.json() {
            output::json(&json!({ "collection": collection.name, "imported": done }))?;
        } else {
            let Imported { created, replaced, skipped } = done;
            output::line(&format!("{}: {created} created, {replaced} replaced, {skipped} skipped", collection.name))?;
        }
        Ok(Exit::Done)
    })
    .await
}

/// Where the key of a document is.
pub(crate) enum Key {
    /// Inside it.
    At(FieldPath),
    /// Beside it, as an export writes it.
    Exported,
}

/// What to import, and how.
pub(crate) struct What {
    pub(crate) input: Box<dyn BufRead + Send>,
    pub(crate) key: Key,
    pub(crate) intake: Intake,
    pub(crate) on_existing: OnExisting,
}

/// Reads, seals and stores, all three at once, in bounded memory.
pub(crate) async fn import(
    opened: &Opened,
    collection: &Collection,
    what: What,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Imported, Failure> {
    let What { input, key, intake, on_existing } = what;
    let custody = &opened.custody;
    let permit = opened.permit()?;
    let (send, batches) = mpsc::channel(2);
    let reader = std::thread::spawn(move || read(input, &key, &send));
    let mut done = Imported::default();
    let stored = |inserted: &[Inserted]| {
        for inserted in inserted {
            match inserted {
                Inserted::Created => done.created += 1,
                Inserted::Replaced => done.replaced += 1,
                Inserted::Exists => done.skipped += 1,
            }
        }
        progress(done.created + done.replaced + done.skipped);
    };
    custody.import(&permit, Import { collection, intake, on_existing }, batches, stored).await?;
    // Everything that was read is stored; now it shows whether the reading itself went to the end.
    reader.join().map_err(|_| Failure::unavailable("the reading thread failed"))??;
    Ok(done)
}

fn read(input: Box<dyn BufRead + Send>, key: &Key, send: &mpsc::Sender<Vec<Incoming>>) -> Result<(), Failure> {
    let mut batch = Vec::with_capacity(BATCH);
    let mut failed = None;
    for (number, document) in (1u64..).zip(Documents::new(input)) {
        let incoming = document
            .map_err(|error| Failure::usage(error.to_string()).hint("give JSON lines, or one JSON array of objects"))
            .and_then(|document| incoming(number, document, key));
        match incoming {
            Ok(incoming) => batch.push(incoming),
            Err(failure) => {
                failed = Some(failure);
                break;
            }
        }
        if batch.len() == BATCH && send.blocking_send(std::mem::take(&mut batch)).is_err() {
            return Ok(());
        }
    }
    if !batch.is_empty() {
        drop(send.blocking_send(batch));
    }
    failed.map_or(Ok(()), Err)
}

fn incoming(number: u64, document: Zeroizing<String>, key: &Key) -> Result<Incoming, Failure> {
    let at = |what: String| Failure::usage(format!("document {number}: {what}"));
    let paths: Vec<FieldPath> = match key {
        Key::At(path) => vec![path.clone()],
        Key::Exported => vec![pointer("/key")?, pointer("/doc")?],
    };
    let found = json::find(&document, &paths).map_err(|error| at(error.to_string()))?;
    let place = paths[0].as_str();
    let id = found
        .iter()
        .find(|found| found.path == 0)
        .ok_or_else(|| at(format!("no key at {place}")).hint("say where the key is with --id POINTER"))?;
    let text: &str = match &id.value {
        Value::Text(text) => text,
        // A number is a key as it is written.
        Value::Other(json::Kind::Number) => &document[id.span.clone()],
        _ => return Err(at(format!("the key at {place} is neither a string nor a number"))),
    };
    let record = RecordKey::own(text).map_err(|error| at(error.to_string()))?;
    let doc = match key {
        Key::At(_) => document,
        Key::Exported => {
            let doc = found.iter().find(|found| found.path == 1).ok_or_else(|| at("no document at /doc".into()))?;
            Zeroizing::new(document[doc.span.clone()].to_owned())
        }
    };
    Ok(Incoming { key: record, doc })
}

fn pointer(text: &str) -> Result<FieldPath, Failure> {
    text.parse().map_err(|error: keyfold_custody::layout::path::PathError| Failure::usage(error.to_string()))
}
