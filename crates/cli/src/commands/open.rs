//! `keyfold open`

use clap::builder::PossibleValuesParser;
use keyfold_core::{
    accept::{Accept, Accepted, Rule},
    audit::Action,
    clock::UnixTime,
    detect::{Detected, detect},
    envelope::{Format, OpenError, Reading, fernet::MaxAge},
    error::Code,
    keyring::{Found, Reader},
};

use crate::{
    arguments::{ContextArgs, SourceArgs},
    failure::{Exit, Failure},
    input::{self, Wanted},
    invocation::Invocation,
    keys::{self, About},
    output,
    remote::Remote,
};

#[derive(clap::Args)]
#[command(
    after_help = "White space around the envelope is ignored; the secret is written as it is, with no newline added, \
                        and with --json too.\n\n\
                        Keys: REDIS_SRE_MASTER_KEY (v1, kf1) or SRE_AGENT_ENCRYPTION_KEY (fernet) where set, older ones \
                        in the same name with _PREVIOUS (comma-separated), else the data folder's keyring.\n\n\
                        Examples:\n  keyfold open --context record=redis-1 < envelope > secret\n  \
                        redis-cli HGET sre_instances:1 data | jq -r .connection_url | keyfold open --accept v1"
)]
pub(crate) struct Args {
    #[command(flatten)]
    context: ContextArgs,
    /// What to open: kf1, v1, fernet, plaintext, comma-separated; every sealed format, and never plaintext, by default
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        hide_possible_values = true,
        value_parser = PossibleValuesParser::new(["kf1", "v1", "fernet", "plaintext"])
    )]
    accept: Vec<String>,
    /// Also take spellings that only the Python originals take (white space inside, other JSON spacing)
    #[arg(long)]
    compat: bool,
    /// How old a Fernet token may be; no other format holds a time, so no other is opened then
    #[arg(long, value_name = "SECONDS")]
    max_age: Option<u64>,
    #[command(flatten)]
    source: SourceArgs,
}

impl Args {
    /// The policy that the arguments make. Plaintext is allowed for this call: its last day is today.
    fn accept(&self, now: UnixTime) -> Result<Accept, Failure> {
        if self.max_age.is_some() {
            if self.accept.iter().any(|name| name != Format::Fernet.as_str()) {
                return Err(Failure::usage("--max-age asks for an age, and only fernet holds a time")
                    .hint("leave out --max-age, or accept fernet alone"));
            }
            return Ok(Accept::only(Format::Fernet));
        }
        if self.accept.is_empty() {
            return Ok(Accept::any_sealed());
        }
        let rule = |name: &String| Rule::new(name, (name == Accepted::Plaintext.as_str()).then(|| now.date()));
        let rules = self.accept.iter().map(rule).collect::<Result<Vec<_>, _>>();
        rules.and_then(Accept::new).map_err(|error| Failure::usage(format!("--accept: {error}")))
    }

    /// The policy is the caller's own, so the hint names the option and not a configuration file.
    fn not_accepted(&self, error: OpenError) -> Failure {
        let code = error.code();
        let failure = Failure::from(error);
        match (code, self.max_age) {
            (Code::FormatNotAccepted, Some(_)) => failure.hint("only fernet holds a time; leave out --max-age"),
            (Code::FormatNotAccepted, None) => failure.hint("add the format to --accept if that is meant"),
            _ => failure,
        }
    }
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    let now = invocation.now();
    let context = args.context.context()?.digest();
    let accept = args.accept(now)?;
    let given = input::read(&args.source.from, Wanted::Envelope).await?;
    let stored = input::envelope_text(&given)?;
    let detected = detect(&stored);
    if detected == Detected::Plaintext {
        accept.check(Accepted::Plaintext, now.date()).map_err(|error| args.not_accepted(error))?;
        output::data(given.expose())?;
        return Ok(Exit::Done);
    }
    let format = detected.sealed()?;
    accept.check(Accepted::Sealed(format), now.date()).map_err(|error| args.not_accepted(error))?;
    if let Some(remote) = Remote::of(invocation)? {
        let opened = remote.open(&stored, args.context.entries(), args.max_age).await?;
        output::data(opened.expose())?;
        return Ok(Exit::Done);
    }
    if format != Format::Kf1 && !args.context.is_empty() {
        invocation.warn(&format!("the {format} format binds no context; --context was not checked"));
    }
    let reader = Reader {
        accept: &accept,
        today: now.date(),
        reading: if args.compat { Reading::Compat } else { Reading::Strict },
        max_age: args.max_age.map(|ttl| MaxAge { ttl, now }),
    };
    let opened = keys::with(
        invocation,
        About { action: Action::Open, format },
        async |keyring| Ok(keyring.open(&stored, &context, &reader)?),
        |opened, event| {
            event.kid = opened.found.kid();
            event.bytes = u64::try_from(opened.secret.len()).ok();
            if let Found::Sealed { commitment, .. } = opened.found {
                event.commitment = commitment;
            }
        },
    )
    .await?;
    output::data(opened.secret.expose())?;
    Ok(Exit::Done)
}
