//! `keyfold audit`: the log, read back and judged.

use keyfold_core::audit::{Verdict, VerifierKey, verify::Report};
use keyfold_custody::{
    access::{Permit, op::Audit},
    audit_log::{AuditLog, Entry},
    error::CustodyError,
};
use serde_json::json;

use crate::{
    failure::{Exit, Failure, one_line},
    folder::{self, Folder, Opened},
    invocation::Invocation,
    output,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Print the last events of all writers, by time
    Tail {
        /// How many
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: usize,
    },
    /// Check every event against the chains and the signed checkpoints, and say what is wrong where
    Verify {
        /// The deployment's verifier key, as `keyfold audit key` printed it; else the keyring is asked
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
    },
    /// Write all events to stdout, as they are stored: one JSON line each
    Export,
    /// Print the deployment's verifier key, to check the log elsewhere without the keyring
    Key,
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    match args.command {
        // With the key at hand nothing is opened and nothing is written: an auditor needs the files and no rights.
        Command::Verify { key: Some(key) } => {
            let key = key.parse().map_err(|_| {
                Failure::usage("not a verifier key").hint("it is printed by `keyfold audit key`: NAME+ID+BASE64")
            })?;
            let folder = Folder::of(invocation)?;
            judged(&verify(&folder, &key)?, invocation)
        }
        command => {
            folder::with(invocation, "audit", async |opened| {
                let _permit: Permit<Audit> = opened.permit()?;
                match command {
                    Command::Tail { lines } => tail(opened, lines, invocation),
                    Command::Verify { .. } => judged(&verify(&opened.folder, &verifier_key(opened)?)?, invocation),
                    Command::Export => export(opened),
                    Command::Key => {
                        output::line(&verifier_key(opened)?.to_string())?;
                        Ok(Exit::Done)
                    }
                }
            })
            .await
        }
    }
}

/// The deployment's verifier key.
pub(crate) fn verifier_key(opened: &Opened) -> Result<VerifierKey, Failure> {
    folder::verifier_key(&opened.custody.keys.opening())
}

/// Judges the log of a folder.
pub(crate) fn verify(folder: &Folder, key: &VerifierKey) -> Result<Report, Failure> {
    Ok(AuditLog::at(&folder.audit()).verify(key).map_err(CustodyError::from)?)
}

fn judged(report: &Report, invocation: &Invocation) -> Result<Exit, Failure> {
    use keyfold_core::error::Hint;
    let tampered = report.findings.iter().any(Verdict::is_tampering);
    if invocation.json() {
        let findings: Vec<_> = report
            .findings
            .iter()
            .map(|verdict| json!({ "verdict": verdict.as_str(), "message": verdict.to_string(), "hint": verdict.hint() }))
            .collect();
        output::json(&json!({
            "verdict": report.verdict().as_str(), "events": report.events, "chains": report.chains, "notes": report.notes,
            "findings": findings, "omitted": report.omitted,
        }))?;
    } else {
        output::line(&report.verdict().to_string())?;
        for finding in report.findings.iter().skip(1) {
            output::line(&finding.to_string())?;
        }
        if let Some(hint) = report.findings.first().and_then(Hint::hint) {
            invocation.hint(&hint);
        }
    }
    Ok(if tampered { Exit::Key } else { Exit::Done })
}

fn tail(opened: &Opened, lines: usize, invocation: &Invocation) -> Result<Exit, Failure> {
    let entries = AuditLog::at(&opened.folder.audit()).tail(lines).map_err(CustodyError::from)?;
    for entry in &entries {
        if invocation.json() {
            output::line(&entry.line)?;
        } else {
            output::line(&one_line(&described(entry)))?;
        }
    }
    Ok(Exit::Done)
}

/// One event in one line for a person.
fn described(entry: &Entry) -> String {
    let Some(event) = &entry.event else { return "(a line that is not an event)".into() };
    let mut line = format!("{}  {}  {}", event.time, event.actor, event.action);
    if let Some(collection) = &event.collection {
        line += &format!("  {collection}");
        if let Some(record) = &event.record {
            line += &format!("/{record}");
        }
        if let Some(field) = &event.field {
            line += &format!("#{field}");
        }
    }
    if let Some(count) = event.count {
        line += &format!("  {count} records");
    }
    if let Some(kid) = event.kid {
        line += &format!("  key {kid}");
    }
    match &event.result {
        Some(result) => line + &format!("  {result}"),
        None => line + "  intent",
    }
}

fn export(opened: &Opened) -> Result<Exit, Failure> {
    let mut failed = None;
    AuditLog::at(&opened.folder.audit())
        .export(|entry| {
            let written = output::line(&entry.line);
            failed = written.err();
            failed.is_none()
        })
        .map_err(CustodyError::from)?;
    failed.map_or(Ok(Exit::Done), Err)
}
