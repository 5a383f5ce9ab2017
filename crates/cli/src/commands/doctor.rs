//! `keyfold doctor`

use std::os::unix::fs::MetadataExt;

use keyfold_custody::{
    access::{Permit, op::List},
    doctor::{Finding, Weight},
};

use crate::{
    failure::{Exit, Failure, one_line},
    folder::{self, Opened},
    invocation::Invocation,
    output,
};

#[derive(clap::Args)]
#[command(
    after_help = "Opens nothing. The exit code is 1 if there are errors: readable or lost secrets, damaged values."
)]
pub(crate) struct Args {}

pub(crate) async fn run(_: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    folder::with(invocation, "doctor", async |opened| {
        let _permit: Permit<List> = opened.permit()?;
        let mut diagnosis = opened.custody.diagnose().await?;
        diagnosis.findings.extend(folder_rights(opened));
        diagnosis.findings.sort_by_key(|finding| finding.weight);
        if invocation.json() {
            output::json(&diagnosis)?;
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
    })
    .await
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
