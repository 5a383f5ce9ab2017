//! `keyfold audit`: the log, read back and judged.

use std::time::Duration;

use keyfold_core::{
    audit::{Verdict, VerifierKey, verify::Report},
    clock::UnixTime,
};
use keyfold_custody::{
    access::{Permit, op::Audit},
    audit_log::{Entry, Log},
    error::CustodyError,
};
use keyfold_server::copies::Destination;
use serde_json::json;

use crate::{
    failure::{Exit, Failure, one_line},
    folder::{self, Folder, Opened},
    invocation::Invocation,
    output,
    remote::Remote,
    system,
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
    /// Take old events out of the log; what is left still verifies, and the checkpoints stay
    Prune {
        /// Older than this, such as 400d
        #[arg(long, value_name = "TIME", value_parser = super::token::duration)]
        older_than: Duration,
    },
    /// Print the deployment's verifier key, to check the log elsewhere without the keyring
    Key,
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    if let Some(remote) = Remote::of(invocation)? {
        return over(&remote, args.command, invocation).await;
    }
    match args.command {
        // With the key at hand nothing is opened and nothing is written: an auditor needs the files and no rights.
        Command::Verify { key: Some(key) } => {
            let key = key.parse().map_err(|_| {
                Failure::usage("not a verifier key").hint("it is printed by `keyfold audit key`: NAME+ID+BASE64")
            })?;
            let folder = Folder::of(invocation)?;
            let log = system::Audit::to_read(&folder::config(invocation, &folder)?, &folder).await?;
            judged(&verify(&log, &key).await?, invocation)
        }
        command => {
            folder::with(invocation, "audit", async |opened| {
                let _permit: Permit<Audit> = opened.permit()?;
                match command {
                    Command::Tail { lines } => tail(opened, lines, invocation).await,
                    Command::Verify { .. } => judged(&verify(&opened.audit, &verifier_key(opened)?).await?, invocation),
                    Command::Export => export(opened).await,
                    Command::Prune { older_than } => prune(opened, older_than, invocation).await,
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

/// What of it a server carries out.
async fn over(remote: &Remote, command: Command, invocation: &Invocation) -> Result<Exit, Failure> {
    match command {
        Command::Tail { lines } => {
            let tail = remote.json("GET", &format!("/v1/audit?limit={lines}"), None).await?;
            for event in tail["events"].as_array().into_iter().flatten() {
                output::json(event)?;
            }
            Ok(Exit::Done)
        }
        Command::Export => remote.print("/v1/audit/export").await,
        Command::Verify { .. } => {
            let report = remote.json("GET", "/v1/audit/verify", None).await?;
            let ok = report["verdict"] == "ok";
            if invocation.json() {
                output::json(&report)?;
            } else {
                let number = |key: &str| report[key].as_u64().unwrap_or(0);
                output::line(&format!(
                    "{}: {} events in {} chains",
                    report["verdict"].as_str().unwrap_or("-"),
                    number("events"),
                    number("chains")
                ))?;
                for finding in report["findings"].as_array().into_iter().flatten().filter_map(|f| f.as_str()) {
                    output::line(&one_line(finding))?;
                }
            }
            Ok(if ok { Exit::Done } else { Exit::Key })
        }
        Command::Prune { .. } => {
            Remote::refuse(invocation, "audit prune")?;
            Ok(Exit::Done)
        }
        Command::Key => {
            Remote::refuse(invocation, "audit key")?;
            Ok(Exit::Done)
        }
    }
}

/// The deployment's verifier key.
pub(crate) fn verifier_key(opened: &Opened) -> Result<VerifierKey, Failure> {
    folder::verifier_key(&opened.custody.keys.opening())
}

/// Judges a log.
pub(crate) async fn verify(log: &Log, key: &VerifierKey) -> Result<Report, Failure> {
    Ok(log.verify(key).await.map_err(CustodyError::from)?)
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
            "pruned": report.pruned, "findings": findings, "omitted": report.omitted,
        }))?;
    } else {
        output::line(&report.verdict().to_string())?;
        if report.pruned > 0 {
            output::line(&format!("{} earlier events were taken out by retention", report.pruned))?;
        }
        for finding in report.findings.iter().skip(1) {
            output::line(&finding.to_string())?;
        }
        if let Some(hint) = report.findings.first().and_then(Hint::hint) {
            invocation.hint(&hint);
        }
    }
    Ok(if tampered { Exit::Key } else { Exit::Done })
}

async fn prune(opened: &Opened, older_than: Duration, invocation: &Invocation) -> Result<Exit, Failure> {
    let before = UnixTime(invocation.now().0.saturating_sub(older_than.as_secs()));
    let copies = &opened.custody.config.audit.copies;
    let names: Vec<_> = copies.iter().filter_map(|uri| Some(uri.parse::<Destination>().ok()?.name())).collect();
    let pruned = opened.custody.prune_audit(&opened.permit()?, &opened.audit, before, &names).await?;
    if invocation.json() {
        output::json(&pruned)?;
    } else {
        output::line(&format!("{} events of {} chains taken out", pruned.events, pruned.chains))?;
    }
    Ok(Exit::Done)
}

async fn tail(opened: &Opened, lines: usize, invocation: &Invocation) -> Result<Exit, Failure> {
    let entries = opened.audit.tail(lines).await.map_err(CustodyError::from)?;
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

async fn export(opened: &Opened) -> Result<Exit, Failure> {
    let mut failed = None;
    opened
        .audit
        .export(async |entry| {
            let written = output::line(&entry.line);
            failed = written.err();
            failed.is_none()
        })
        .await
        .map_err(CustodyError::from)?;
    failed.map_or(Ok(Exit::Done), Err)
}
