//! What `keyfold migrate`, `rotate` and `verify` share: which collections, how a job is watched, and what is said at the end.

use keyfold_custody::{
    collection::Collection,
    jobs::{Ended, Job, Observer, Summary, Update},
};

use crate::{
    failure::{Exit, Failure},
    folder::{self, Opened},
    invocation::Invocation,
    output,
    progress::Progress,
};

/// Which collections.
#[derive(clap::Args)]
pub(crate) struct JobArgs {
    /// Only this collection; all configured ones where left out
    #[arg(long, value_name = "NAME")]
    pub(crate) collection: Option<String>,
}

struct Watched<'a> {
    progress: Progress,
    invocation: &'a Invocation,
}

impl Observer for Watched<'_> {
    fn update(&self, update: Update<'_>) {
        let note = if update.pass > 1 { format!("pass {}", update.pass) } else { String::new() };
        self.progress.set(update.records, &note);
    }

    fn stopped(&self) -> bool {
        self.invocation.stop().requested()
    }
}

/// Runs a job on the collections that the arguments name, and says how it went.
pub(crate) async fn run(args: JobArgs, job: Job, invocation: &Invocation) -> Result<Exit, Failure> {
    let _graceful = invocation.stop().graceful();
    folder::with(invocation, job.kind.as_str(), async |opened| {
        let summaries = run_all(opened, &args, &job, invocation).await?;
        let clean = summaries.iter().all(Summary::is_clean);
        Ok(if clean { Exit::Done } else { Exit::RecordsLeft })
    })
    .await
}

async fn run_all(opened: &Opened, args: &JobArgs, job: &Job, invocation: &Invocation) -> Result<Vec<Summary>, Failure> {
    let custody = &opened.custody;
    let collections: Vec<&Collection> = match &args.collection {
        Some(name) => vec![custody.collection(name)?],
        None => {
            let names = custody.config.collections.keys();
            names.map(|name| custody.collection(name)).collect::<Result<_, _>>()?
        }
    };
    if collections.is_empty() {
        return Err(Failure::usage("no collection is configured").hint("add [collections.NAME] to keyfold.toml"));
    }
    for collection in &collections {
        job.check(collection, invocation.now())?;
    }
    let mut summaries = Vec::new();
    for collection in collections {
        summaries.push(one(opened, job, collection, invocation).await?);
    }
    if job.kind == keyfold_custody::jobs::Kind::Migrate && !job.dry_run {
        // What was plaintext a moment ago must not linger in the write-ahead log.
        opened.store.scrub(keyfold_custody::store::sqlite::Scrub::Log).await?;
    }
    Ok(summaries)
}

/// Runs a job on one collection, and says how it went.
pub(crate) async fn one(
    opened: &Opened,
    job: &Job,
    collection: &Collection,
    invocation: &Invocation,
) -> Result<Summary, Failure> {
    let custody = &opened.custody;
    let total = custody.records.count(&collection.id).await?;
    let title = format!("{} {}", job.kind.as_str(), collection.name);
    let watched = Watched { progress: Progress::start(invocation, &title, Some(total)), invocation };
    let ended = custody.run(&opened.permit()?, job, collection, &watched).await?;
    watched.progress.finish();
    match ended {
        Ended::Done(summary) => {
            say(&summary, invocation)?;
            Ok(summary)
        }
        Ended::Stopped(summary) => {
            say(&summary, invocation)?;
            Err(Failure::interrupted().hint(format!(
                "stopped between two batches, nothing is half-done; run `keyfold {}` again to go on from there",
                job.kind.as_str()
            )))
        }
    }
}

fn say(summary: &Summary, invocation: &Invocation) -> Result<(), Failure> {
    if invocation.json() {
        return output::json(summary);
    }
    let would = if summary.dry_run { "would be " } else { "" };
    let mut line = format!("{}: {} records, {} secrets", summary.collection, summary.records, summary.values);
    if summary.job != keyfold_custody::jobs::Kind::Verify {
        line += &format!("; {} records {would}changed", summary.changed);
    }
    if summary.overtaken > 0 {
        line += &format!("; {} were overtaken by other writers and visited again", summary.overtaken);
    }
    output::line(&line)?;
    for found in &summary.found {
        let kid = found.kid.map_or_else(|| "-".to_owned(), |kid| kid.to_string());
        output::line(&format!("  {:<9}  {kid:<16}  {}", found.format, found.values))?;
    }
    if summary.quarantined_values > 0 {
        output::line(&format!("  left as they are: {}", summary.quarantined_values))?;
        for left in &summary.quarantined {
            let place = format!("{}/{}#{}", left.collection, left.record, left.field);
            output::line(&crate::failure::one_line(&format!("    {place}: {} ({})", left.reason, left.code)))?;
            if let Some(hint) = &left.hint {
                output::line(&format!("      hint: {hint}"))?;
            }
        }
    }
    Ok(())
}
