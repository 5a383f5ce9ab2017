//! `keyfold demo`: the main job from one end to the other, in a folder of its own.

use std::{
    fs,
    io::BufReader,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::ToSpan;
use keyfold_core::{envelope::Format, keyring::Purpose};
use keyfold_custody::{
    collection::Collection,
    jobs::{Job, Kind},
    layout::json::{self, Value},
    records::Intake,
    store::{OnExisting, sqlite::Scrub},
};
use zeroize::Zeroizing;

use super::{
    audit, jobs,
    records::import::{self, Key, What},
};
use crate::{
    failure::{Exit, Failure},
    folder::{self, Opened},
    invocation::Invocation,
    output,
};

const INSTANCES: &str = include_str!("../../../../examples/instances.json");
const CONFIG: &str = include_str!("../../../../examples/keyfold.toml");
const COLLECTION: &str = "instances";

#[derive(clap::Args)]
#[command(
    after_help = "Twenty Redis instances with made-up secrets are stored in plaintext, sealed, rotated to a new key and verified, \
                        in a temporary folder that is removed at the end."
)]
pub(crate) struct Args {
    /// Work in this new folder, and keep it
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    let temporary;
    let path = match args.keep {
        Some(path) if path.exists() => {
            return Err(Failure::usage(format!("{}: exists already", path.display())).hint("name a new folder"));
        }
        Some(path) => path,
        None => {
            temporary = tempfile::Builder::new()
                .prefix("keyfold-demo-")
                .tempdir()
                .map_err(|error| Failure::unavailable("no temporary folder could be made").caused_by(&error))?;
            temporary.path().join("data")
        }
    };
    let demo = invocation.in_folder(path.clone());
    let exit = steps(&demo, &path).await?;
    if !invocation.json() {
        output::line("")?;
        output::line("Next: `keyfold init` makes a data folder of your own; `keyfold --help` lists the commands.")?;
    }
    Ok(exit)
}

fn step(invocation: &Invocation, title: &str) -> Result<(), Failure> {
    if invocation.json() { Ok(()) } else { output::line(&format!("\n== {title}")) }
}

async fn steps(invocation: &Invocation, path: &Path) -> Result<Exit, Failure> {
    step(invocation, "a new data folder, with a root key and a first key")?;
    let made = folder::init(invocation).await?;
    output::line(&format!("{}, first key {}", made.folder, made.kid))?;
    // Plaintext is accepted until tomorrow: every migration has a last day.
    let tomorrow = invocation.now().date().saturating_add(1.day());
    let accept = format!("accept = [\"kf1\", {{ format = \"plaintext\", until = {tomorrow} }}]\n");
    fs::write(path.join("keyfold.toml"), format!("{CONFIG}{accept}"))
        .map_err(|error| Failure::unavailable("the configuration could not be written").caused_by(&error))?;
    folder::with(invocation, "demo", async |opened| in_folder(opened, invocation).await).await
}

async fn in_folder(opened: &Opened, invocation: &Invocation) -> Result<Exit, Failure> {
    let custody = &opened.custody;
    let collection = custody.collection(COLLECTION)?;
    let planted = planted(collection)?;

    step(invocation, "import: twenty instances, in plaintext as their agent kept them")?;
    let input = Box::new(BufReader::new(INSTANCES.as_bytes()));
    let id = "/id".parse().map_err(|_| Failure::usage("the key's place is not a path"))?;
    let what = What { input, key: Key::At(id), intake: Intake::AsIs, on_existing: OnExisting::Fail };
    let done = import::import(opened, collection, what, &|_| {}).await?;
    let readable = readable(opened.folder.path(), &planted)?;
    output::line(&format!(
        "{} records; {readable} of {} secrets are readable in the folder",
        done.created,
        planted.len()
    ))?;

    step(invocation, "migrate: every secret is sealed, opened again, compared, and only then written")?;
    jobs::one(opened, &Job::new(Kind::Migrate), collection, invocation).await?;
    opened.system.scrub(Scrub::File).await?;
    let left = self::readable(opened.folder.path(), &planted)?;
    output::line(&format!("{left} of {} secrets are readable in the folder", planted.len()))?;

    step(invocation, "rotate: a new key is staged, promoted, and everything moves to it")?;
    let manage = opened.permit()?;
    let old = custody.keys.opening().primary_of(Purpose::Master).map(keyfold_core::keyring::Entry::kid);
    let new = custody.create_key(&manage, &[Format::Kf1, Format::V1]).await?;
    custody.promote_key(&manage, new, Duration::from_secs(30)).await?;
    jobs::one(opened, &Job::new(Kind::Rotate), collection, invocation).await?;
    if let Some(old) = old {
        custody.retire_key(&manage, old, Duration::from_secs(30)).await?;
        output::line(&format!("key {old} is retired; {new} seals"))?;
    }

    step(invocation, "verify: every secret opens")?;
    let verified = jobs::one(opened, &Job::new(Kind::Verify), collection, invocation).await?;

    step(invocation, "audit: who did what, chained and signed")?;
    custody
        .auditor
        .sink()
        .checkpoint(custody.keys.opening().generation())
        .await
        .map_err(keyfold_custody::error::CustodyError::from)?;
    let report = audit::verify(&opened.audit, &audit::verifier_key(opened)?).await?;
    output::line(&report.verdict().to_string())?;

    let good = left == 0 && verified.is_clean() && !report.verdict().is_tampering();
    Ok(if good { Exit::Done } else { Exit::RecordsLeft })
}

/// The secrets of the example, to be looked for.
fn planted(collection: &Collection) -> Result<Vec<Zeroizing<String>>, Failure> {
    let mut planted = Vec::new();
    for document in keyfold_custody::layout::documents::Documents::new(INSTANCES.as_bytes()) {
        let document = document.map_err(|error| Failure::usage(error.to_string()))?;
        let found = json::find(&document, &collection.fields).map_err(|error| Failure::usage(error.to_string()))?;
        planted.extend(found.into_iter().filter_map(|found| match found.value {
            Value::Text(text) => Some(Zeroizing::new(text.to_owned())),
            _ => None,
        }));
    }
    Ok(planted)
}

/// How many of the secrets stand in any file below a folder, byte for byte.
fn readable(folder: &Path, planted: &[Zeroizing<String>]) -> Result<usize, Failure> {
    let failed = |error: std::io::Error| Failure::unavailable("the folder could not be searched").caused_by(&error);
    let mut folders = vec![folder.to_owned()];
    let mut seen = vec![false; planted.len()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let content = Zeroizing::new(fs::read(path).map_err(failed)?);
            for (seen, secret) in seen.iter_mut().zip(planted) {
                *seen |= content.windows(secret.len()).any(|window| window == secret.as_bytes());
            }
        }
    }
    Ok(seen.into_iter().filter(|seen| *seen).count())
}
