//! `keyfold doctor`

use std::{collections::BTreeMap, os::unix::fs::MetadataExt};

use keyfold_core::error::Code;
use keyfold_custody::{
    access::{Permit, op::List},
    collection::Collection,
    doctor::{Diagnosis, Finding, Weight},
    jobs::{Ended, Job, Kind, Quarantined, Silent},
};

use super::jobs::PlaceArgs;
use crate::{
    failure::{Exit, Failure, one_line},
    folder::{self, Opened},
    invocation::Invocation,
    output,
    stores::Needs,
};

#[derive(clap::Args)]
#[command(
    after_help = "Shows no secret; what lies in another program's store, and with --keys a sample of our own records, is opened in \
                  memory, to see whether it does. The exit code is 1 if there are errors: readable or lost secrets, damaged \
                  values, root keys that cannot be reached."
)]
pub(crate) struct Args {
    #[command(flatten)]
    place: PlaceArgs,
    /// Look at the root keys, the keys and what they protect, instead of at the records
    #[arg(long)]
    keys: bool,
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    if args.keys {
        // Looked at by itself first: without it the folder does not open, and this says why.
        let findings = folder::root_findings(invocation).await?;
        if findings.iter().any(|finding| finding.weight == Weight::Error) {
            return say(&Diagnosis { records: 0, findings }, invocation);
        }
    }
    let needs = if args.keys { Needs::Nothing } else { args.place.needs(Kind::Verify, invocation)? };
    args.place.folder(invocation).await?;
    folder::with_stores(invocation, "doctor", &needs, async |opened| {
        let _permit: Permit<List> = opened.permit()?;
        if args.keys {
            let mut findings = opened.custody.check_keys().await?;
            findings.sort_by_key(|finding| finding.weight);
            return say(&Diagnosis { records: 0, findings }, invocation);
        }
        let mut diagnosis = opened.custody.diagnose(&args.place.again()).await?;
        for collection in opened.custody.config.collections.values() {
            if collection.layout.is_foreign() && opened.custody.store_of(collection).is_ok() {
                diagnosis.findings.extend(opens(opened, collection).await?);
            }
        }
        diagnosis.findings.extend(folder_rights(opened));
        diagnosis.findings.sort_by_key(|finding| finding.weight);
        say(&diagnosis, invocation)
    })
    .await
}

/// What another program's records are sealed under, and what of it does not open here and why.
async fn opens(opened: &Opened, collection: &Collection) -> Result<Vec<Finding>, Failure> {
    let job = Job::new(Kind::Verify);
    let Ended::Done(summary) = opened.custody.run(&opened.permit()?, &job, collection, &Silent::default()).await?
    else {
        return Err(Failure::interrupted());
    };
    let mut findings = Vec::new();
    for found in summary.found.iter().filter(|found| found.kid.is_some()) {
        let kid = found.kid.map(|kid| kid.to_string()).unwrap_or_default();
        findings.push(Finding {
            weight: Weight::Note,
            what: "sealed",
            message: format!("{}: {} secrets are {} under key {kid}", collection.name, found.values, found.format),
            hint: None,
        });
    }
    let mut closed: BTreeMap<(&str, &str), (u64, &Quarantined)> = BTreeMap::new();
    for left in summary.quarantined.iter().filter(|left| left.code != Code::NotEncrypted.as_str()) {
        closed.entry((&left.code, &left.reason)).or_insert((0, left)).0 += 1;
    }
    for ((code, reason), (count, left)) in closed {
        let more = if summary.quarantined.len() == 1000 { " or more" } else { "" };
        findings.push(Finding {
            weight: Weight::Error,
            what: "does_not_open",
            message: format!(
                "{}: {count}{more} secrets do not open: {reason} ({code}); {}#{} for one",
                collection.name, left.record, left.field
            ),
            hint: left.hint.clone(),
        });
    }
    Ok(findings)
}

fn say(diagnosis: &Diagnosis, invocation: &Invocation) -> Result<Exit, Failure> {
    if invocation.json() {
        output::json(diagnosis)?;
    } else {
        for Finding { weight, message, hint, .. } in &diagnosis.findings {
            let weight = match weight {
                Weight::Error => "error",
                Weight::Warning => "warning",
                Weight::Note => "note",
            };
            output::line(&one_line(&format!("{weight}: {message}")))?;
            if let Some(hint) = hint {
                output::line(&one_line(&format!("  hint: {hint}")))?;
            }
        }
        output::line(&format!("{} records looked at, {} findings", diagnosis.records, diagnosis.findings.len()))?;
    }
    let errors = diagnosis.findings.iter().any(|finding| finding.weight == Weight::Error);
    Ok(if errors { Exit::RecordsLeft } else { Exit::Done })
}

/// What others on this machine could read.
fn folder_rights(opened: &Opened) -> Vec<Finding> {
    let folder = &opened.folder;
    [folder.path().to_owned(), folder.database(), folder.audit()]
        .into_iter()
        .filter(|path| std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0))
        .map(|path| Finding {
            weight: Weight::Warning,
            what: "open_rights",
            message: format!("{} can be read or written by others", path.display()),
            hint: Some(format!("chmod go= {}", path.display())),
        })
        .collect()
}
