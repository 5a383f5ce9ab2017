//! What `keyfold migrate`, `rotate` and `verify` share: which collections, how a job is watched, and what is said at the end.

use std::num::NonZeroU32;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use keyfold_core::{
    envelope::Format,
    keyring::{Entry, FERNET_KEY_VARIABLE, KeyError, MASTER_KEY_VARIABLE, Purpose},
};
use keyfold_custody::{
    collection::Collection,
    jobs::{Ended, Job, Kind, Observer, Summary, Update},
    preset::{Preset, Wishes},
};

use crate::{
    failure::{Exit, Failure},
    folder::{self, Folder, Opened},
    invocation::Invocation,
    location::Location,
    output,
    progress::Progress,
    remote::Remote,
    stores::Needs,
};

/// Which collections, and where they lie.
#[derive(clap::Args)]
pub(crate) struct PlaceArgs {
    /// Only this collection; all of them where left out
    #[arg(long, value_name = "NAME")]
    pub(crate) collection: Option<String>,
    /// The data of a program that is known, where it keeps it: redis-sre-agent or auto-sre
    #[arg(long, value_name = "NAME", value_parser = preset(), requires = "store")]
    pub(crate) preset: Option<Preset>,
    /// The store that the records lie in: redis://…, postgres://…, sqlite:PATH; one whose address holds a password as env:NAME
    /// or file:PATH
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) store: Option<Location>,
    /// Count redis-sre-agent's extension_secrets among the secrets; its reader takes what is stored there for the secret itself
    #[arg(long, requires = "preset")]
    pub(crate) extension_secrets: bool,
}

/// Which collections, and how.
#[derive(clap::Args)]
pub(crate) struct JobArgs {
    #[command(flatten)]
    pub(crate) place: PlaceArgs,
    /// All programs that read these values hold the new key too, or are stopped
    #[arg(long, requires = "preset")]
    pub(crate) readers_ready: bool,
    /// At most so many records in a second, on each partition of the store
    #[arg(long, value_name = "RECORDS")]
    pub(crate) rate: Option<NonZeroU32>,
}

fn preset() -> impl TypedValueParser<Value = Preset> {
    PossibleValuesParser::new(Preset::ALL.map(Preset::as_str)).try_map(|name| Preset::parse(&name).ok_or("no preset"))
}

impl PlaceArgs {
    /// The same place, for another command.
    pub(crate) fn again(&self) -> String {
        let mut arguments = String::new();
        if let Some(preset) = self.preset {
            arguments += &format!(" --preset {}", preset.as_str());
        }
        if let Some(store) = &self.store {
            arguments += &format!(" --store {}", store.as_written());
        }
        arguments
    }

    /// Makes the data folder where there is none, for a preset: whoever has data in another program's store needs not know of it.
    pub(crate) async fn folder(&self, invocation: &Invocation) -> Result<(), Failure> {
        if self.preset.is_some() && !Folder::of(invocation)?.is_deployment()? {
            let made = folder::init(invocation).await?;
            invocation.hint(&format!("made {} for keys, cursors and the audit log", made.folder));
        }
        Ok(())
    }

    /// The stores and collections that are needed.
    pub(crate) fn needs(&self, kind: Kind, invocation: &Invocation) -> Result<Needs, Failure> {
        let Some(preset) = self.preset else {
            return Ok(Needs::Configured { only: self.collection.clone(), store: self.store.clone() });
        };
        let store = self.store.clone().ok_or_else(|| Failure::usage("--preset needs --store"))?;
        let wishes = Wishes { today: invocation.now().date(), extension_secrets: self.extension_secrets };
        let mut collections = preset.collections(kind, wishes);
        if let Some(name) = &self.collection {
            let known: Vec<_> = collections.iter().map(|collection| collection.name.clone()).collect();
            collections.retain(|collection| collection.name == *name);
            if collections.is_empty() {
                return Err(Failure::usage(format!("{} has no collection `{name}`", preset.as_str()))
                    .hint(format!("it has {}", known.join(", "))));
            }
        }
        Ok(Needs::Preset { collections, store })
    }
}

impl JobArgs {
    /// Programs that hold one key cannot read what is sealed under another.
    fn readers(&self, job: &Job, invocation: &Invocation) -> Result<(), Failure> {
        let Some(preset) = self.place.preset.filter(|_| !self.readers_ready && !job.dry_run) else { return Ok(()) };
        let (name, variable) = (preset.as_str(), preset.variable());
        match job.kind {
            Kind::Rotate => Err(Failure::new(
                Exit::Refused,
                "readers_not_ready",
                format!(
                    "{name} holds one key: as soon as a value is sealed under another one, it cannot read it any more"
                ),
            )
            .hint(format!(
                "give every reader both keys first (the Python module keyfold takes the former ones from \
                 {variable}_PREVIOUS), or stop them; then run it again with --readers-ready"
            ))),
            Kind::Migrate if job.to.is_some_and(|to| to != preset.format()) => {
                invocation
                    .warn(&format!("{name} itself cannot read what this makes; its readers need the keyfold module"));
                Ok(())
            }
            _ => Ok(()),
        }
    }
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
    if let Some(remote) = Remote::of(invocation)? {
        if args.place.preset.is_some() || args.place.store.is_some() || args.rate.is_some() {
            Remote::refuse(invocation, "--preset, --store and --rate")?;
        }
        let _graceful = invocation.stop().graceful();
        return remote.job(&job, args.place.collection.as_deref(), invocation).await;
    }
    let _graceful = invocation.stop().graceful();
    let job = Job { rate: args.rate, ..job };
    args.readers(&job, invocation)?;
    let needs = args.place.needs(job.kind, invocation)?;
    if let Some(preset) = args.place.preset {
        has_key(preset, &job, invocation).await?;
    }
    args.place.folder(invocation).await?;
    folder::with_stores(invocation, job.kind.as_str(), &needs, async |opened| {
        let summaries = run_all(opened, &args, &job, invocation).await?;
        let clean = summaries.iter().all(Summary::is_clean);
        Ok(if clean { Exit::Done } else { Exit::RecordsLeft })
    })
    .await
}

/// Whoever seals for another program needs the key that it holds.
async fn has_key(preset: Preset, job: &Job, invocation: &Invocation) -> Result<(), Failure> {
    let seals = match job.kind {
        Kind::Verify => return Ok(()),
        _ => job.to.unwrap_or(preset.format()),
    };
    let keys = crate::keys::raw(invocation).await?;
    if seals == Format::Kf1 || keys.iter().any(|key| key.suites().contains(&seals)) {
        return Ok(());
    }
    let missing: Failure = KeyError::Missing { variable: preset.variable().into() }.into();
    let option = if preset.format() == Format::Fernet { "--fernet-key" } else { "--master-key" };
    Err(missing.hint(format!(
        "set it to the key that {} holds, or say with {option} URI where that is; sealed under another, it could not read it",
        preset.as_str()
    )))
}

async fn run_all(opened: &Opened, args: &JobArgs, job: &Job, invocation: &Invocation) -> Result<Vec<Summary>, Failure> {
    let custody = &opened.custody;
    let collections: Vec<&Collection> = match &args.place.collection {
        Some(name) => vec![custody.collection(name)?],
        None => {
            let names = custody.config.collections.keys();
            names.map(|name| custody.collection(name)).collect::<Result<_, _>>()?
        }
    };
    if collections.is_empty() {
        return Err(Failure::usage("no collection is configured").hint("add [collections.NAME] to keyfold.toml"));
    }
    let given = crate::keys::raw(invocation).await?;
    for collection in &collections {
        job.check(collection, invocation.now())?;
        if args.place.preset.is_none() {
            tell_of_own_key(opened, &given, job, collection, invocation);
        }
    }
    let own = collections.iter().any(|collection| !collection.layout.is_foreign());
    let mut summaries = Vec::new();
    for collection in collections {
        summaries.push(one(opened, job, collection, invocation).await?);
    }
    if own && job.kind == Kind::Migrate && !job.dry_run {
        // What was plaintext a moment ago must not linger in the write-ahead log.
        opened.system.scrub(keyfold_custody::store::sqlite::Scrub::Log).await?;
    }
    Ok(summaries)
}

/// Readers of another program's records that hold a raw key cannot read what is sealed under one of the data folder's. Whether
/// they hold the keyring, nobody here knows.
fn tell_of_own_key(opened: &Opened, given: &[Entry], job: &Job, collection: &Collection, invocation: &Invocation) {
    let format = job.to.unwrap_or(collection.format);
    let raw = given.iter().any(|key| key.suites().contains(&format));
    if job.kind == Kind::Verify || format == Format::Kf1 || raw || !collection.layout.is_foreign() {
        return;
    }
    let keyring = opened.custody.keys.opening();
    let Some(primary) = keyring.primary(format) else { return };
    let (variable, option) = match Purpose::of(format) {
        Purpose::Master => (MASTER_KEY_VARIABLE, "--master-key"),
        Purpose::Fernet => (FERNET_KEY_VARIABLE, "--fernet-key"),
    };
    invocation.warn(&format!(
        "{}: {format} values are sealed under key `{}` of this data folder; readers that hold a raw key cannot read them: set \
         {variable}, or name it with {option} URI, where they do",
        collection.name,
        primary.kid()
    ));
}

/// Runs a job on one collection, and says how it went.
pub(crate) async fn one(
    opened: &Opened,
    job: &Job,
    collection: &Collection,
    invocation: &Invocation,
) -> Result<Summary, Failure> {
    let custody = &opened.custody;
    let total = custody.store_of(collection)?.estimate(&collection.id).await?;
    let title = format!("{} {}", job.kind.as_str(), collection.name);
    let watched = Watched { progress: Progress::start(invocation, &title, total), invocation };
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
    if summary.job != Kind::Verify {
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
    if summary.reported_values > 0 {
        output::line(&format!("  to be looked at, not changed: {}", summary.reported_values))?;
        for reported in &summary.reported {
            let place = format!("{}/{}#{}", reported.collection, reported.record, reported.field);
            let what = match &*reported.what {
                "masked" => "asterisks stand where the secret was: enter it anew",
                "sealed" => "sealed, in a field whose readers take the ciphertext for the secret",
                _ => "plaintext that its readers take as it is",
            };
            output::line(&crate::failure::one_line(&format!("    {place}: {what}")))?;
        }
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
