//! `keyfold policy`: what the grants say, before anybody finds out the hard way.

mod learn;

use std::{fs, path::PathBuf};

use keyfold_core::{audit::Actor, clock::Clock};
use keyfold_custody::{
    access::{Grants, Known, Place, Right},
    config::Config,
    store::{CollectionId, RecordKey},
};
use keyfold_server::proxy;
use serde_json::json;

use crate::{
    failure::{Exit, Failure},
    folder::{self, Folder},
    invocation::Invocation,
    output,
};

#[derive(clap::Args)]
#[command(
    after_help = "A place is `deployment`, `value`, `value team=a`, COLLECTION, COLLECTION/RECORD, COLLECTION/RECORD#/FIELD,\n\
                        `destination NAME`, or a request as the proxy gets it: METHOD https://HOST/PATH.\n\
                        Examples:\n  keyfold policy explain agent:triage open instances/redis-1#/password\n  \
                        keyfold policy explain agent:triage use GET https://logging.googleapis.com/v2/entries\n  \
                        keyfold policy test expected.toml"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Report every mistake in the grants of keyfold.toml, and list them
    Check,
    /// Say which grant allows something, or what is missing
    Explain {
        /// Who, such as agent:triage
        actor: String,
        /// seal, open, use, list, rotate, manage or audit
        right: String,
        /// Where
        #[arg(required = true)]
        place: Vec<String>,
    },
    /// Hold the grants against a file of expected decisions
    ///
    /// One table for each: `[[expect]]` with `actor`, `may`, `place` and `allowed`.
    Test {
        /// The file
        file: PathBuf,
    },
    /// Print the smallest grants and rules that would allow what was asked, as the audit log remembers it
    ///
    /// Calls that were made and calls that were refused count alike. Paths have `*` where they had an id.
    Learn(learn::Args),
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    let config = || folder::config(invocation, &Folder::of(invocation)?);
    match args.command {
        Command::Learn(args) => learn::run(args, invocation).await,
        Command::Check => check(&config()?.grants, invocation),
        Command::Explain { actor, right, place } => {
            let config = config()?;
            let question = Question::parse(&config, (&actor, &right, &place.join(" ")))?;
            explain(&config, &question, invocation)
        }
        Command::Test { file } => test(&config()?, &file, invocation),
    }
}

fn check(grants: &Grants, invocation: &Invocation) -> Result<Exit, Failure> {
    let mut rows = Vec::new();
    for grant in grants.iter() {
        let spec = grant.spec();
        if invocation.json() {
            output::json(&json!({ "name": grant.name(), "grant": spec }))?;
        }
        let scope = [&spec.collections[..], &spec.records, &spec.fields].concat().join(" ");
        let until = spec.until.map_or_else(|| "-".to_owned(), |until| until.to_string());
        rows.push(vec![grant.name().to_owned(), spec.to.join(" "), spec.may.join(" "), scope, until]);
    }
    if !invocation.json() {
        output::table(&["GRANT", "TO", "MAY", "WHERE", "UNTIL"], &rows)?;
    }
    Ok(Exit::Done)
}

/// A place that owns its names.
enum Where {
    Deployment,
    Value(Vec<(String, String)>),
    Collection(CollectionId),
    Record(CollectionId, RecordKey),
    Field(CollectionId, RecordKey, String),
    Destination(String, Option<(String, String)>),
    /// A request that no rule of a destination lets through, and why.
    Nowhere(String),
}

struct Question {
    actor: Actor,
    right: Right,
    place: Where,
}

impl Question {
    fn parse(config: &Config, (actor, right, place): (&str, &str, &str)) -> Result<Self, Failure> {
        Ok(Self {
            actor: Actor::new(actor)
                .map_err(|_| Failure::usage("not an actor").hint("write kind:name, for example agent:triage"))?,
            right: right.parse().map_err(|_| {
                Failure::usage("not a right").hint("one of seal, open, use, list, rotate, manage, audit")
            })?,
            place: parse_place(config, place)?,
        })
    }

    /// The grant that allows it, by name.
    fn decide(&self, config: &Config, today: jiff::civil::Date) -> Option<String> {
        let grants = config.grants.of(&self.actor);
        let known = Known { actor: self.actor.clone(), grants, narrowed: None, today };
        let pairs: Vec<(&str, &str)> = match &self.place {
            Where::Value(entries) => entries.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
            _ => Vec::new(),
        };
        let place = match &self.place {
            Where::Deployment => Place::Deployment,
            Where::Value(_) => Place::Value(&pairs),
            Where::Collection(collection) => Place::Collection(collection),
            Where::Record(collection, record) => Place::Record(collection, record),
            Where::Field(collection, record, field) => Place::Field(collection, record, field),
            Where::Nowhere(_) => return None,
            Where::Destination(name, call) => {
                Place::Destination(name, call.as_ref().map(|(method, path)| (method.as_str(), path.as_str())))
            }
        };
        known.decide(self.right, &place).map(|grant| grant.name().to_owned())
    }
}

fn parse_place(config: &Config, text: &str) -> Result<Where, Failure> {
    let mut words = text.split(' ');
    match words.next() {
        Some("deployment") => return Ok(Where::Deployment),
        Some("value") => {
            let entries = words.map(|word| {
                let (key, value) =
                    word.split_once('=').ok_or_else(|| Failure::usage("write a value's context as key=value"))?;
                Ok::<_, Failure>((key.to_owned(), value.to_owned()))
            });
            return Ok(Where::Value(entries.collect::<Result<_, _>>()?));
        }
        Some("destination") => {
            let name = words.next().filter(|name| config.routes.named(name).is_some());
            let known: Vec<_> = config.routes.iter().map(|destination| destination.name.as_str()).collect();
            let name = name.ok_or_else(|| {
                Failure::usage("no such destination is configured").hint(format!("configured: {}", known.join(", ")))
            })?;
            return Ok(Where::Destination(name.to_owned(), None));
        }
        Some(method) if text.contains("://") => {
            let url = words.next().unwrap_or_default();
            return Ok(match proxy::reached(&config.routes, method, url) {
                Ok(reached) => Where::Destination(reached.destination, Some((method.to_owned(), reached.path))),
                Err(error) => Where::Nowhere(error.to_string()),
            });
        }
        _ => {}
    }
    let (name, rest) = text.split_once('/').map_or((text, None), |(name, rest)| (name, Some(rest)));
    let collection = config.collection(name).ok_or_else(|| {
        let known: Vec<_> = config.collections.keys().map(String::as_str).collect();
        Failure::usage("no such collection is configured").hint(format!("configured: {}", known.join(", ")))
    })?;
    let id = collection.id.clone();
    let Some(rest) = rest else { return Ok(Where::Collection(id)) };
    let (record, field) = rest.split_once('#').map_or((rest, None), |(record, field)| (record, Some(field)));
    let record = RecordKey::new(record).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(match field {
        None => Where::Record(id, record),
        Some(field) => Where::Field(id, record, field.to_owned()),
    })
}

fn explain(config: &Config, question: &Question, invocation: &Invocation) -> Result<Exit, Failure> {
    let granted = question.decide(config, invocation.clock().now().date());
    if invocation.json() {
        output::json(&json!({ "allowed": granted.is_some(), "grant": granted }))?;
    } else {
        match (&granted, &question.place) {
            (Some(grant), _) => output::line(&format!("allowed by {grant}"))?,
            (None, Where::Nowhere(why)) => output::line(&format!("refused: {why}"))?,
            (None, _) => {
                let (actor, right) = (&question.actor, question.right);
                output::line(&format!("refused: no grant gives {actor} `{right}` there"))?;
            }
        }
    }
    Ok(if granted.is_some() { Exit::Done } else { Exit::Refused })
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    expect: Vec<Expect>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    actor: String,
    may: String,
    place: String,
    allowed: bool,
}

fn test(config: &Config, file: &std::path::Path, invocation: &Invocation) -> Result<Exit, Failure> {
    let failed = |what: String| Failure::usage(format!("{}: {what}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| failed(error.kind().to_string()).caused_by(&error))?;
    let expected: Expected = toml::from_str(&text).map_err(|error| {
        failed(error.message().to_owned()).hint("write [[expect]] with `actor`, `may`, `place` and `allowed`")
    })?;
    let today = invocation.clock().now().date();
    let mut wrong = 0;
    for (i, expect) in expected.expect.iter().enumerate() {
        let question = Question::parse(config, (&expect.actor, &expect.may, &expect.place))
            .map_err(|failure| failure.hint(format!("in expect[{i}] of {}", file.display())))?;
        let granted = question.decide(config, today);
        if granted.is_some() != expect.allowed {
            wrong += 1;
            let is = granted.map_or_else(|| "refused".to_owned(), |grant| format!("allowed by {grant}"));
            output::line(&format!("expect[{i}]: {} {} {}: {is}", expect.actor, expect.may, expect.place))?;
        }
    }
    output::line(&format!("{} of {} decisions are as expected", expected.expect.len() - wrong, expected.expect.len()))?;
    Ok(if wrong == 0 { Exit::Done } else { Exit::RecordsLeft })
}
