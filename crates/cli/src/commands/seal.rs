//! `keyfold seal`

use keyfold_core::{
    audit::Action,
    envelope::{Format, SealError},
    rng::{Fresh, SystemRandom},
};
use serde_json::json;

use crate::{
    arguments::{self, ContextArgs, SourceArgs},
    failure::{Exit, Failure},
    input::{self, Wanted},
    invocation::Invocation,
    keys::{self, About},
    output,
    remote::Remote,
};

#[derive(clap::Args)]
#[command(
    after_help = "The secret is taken byte for byte, a newline at its end included. The envelope is printed with a \
                        newline after it, which `keyfold open` ignores.\n\n\
                        Keys: REDIS_SRE_MASTER_KEY (v1, kf1) or SRE_AGENT_ENCRYPTION_KEY (fernet) where set, else the \
                        data folder's keyring.\n\n\
                        Examples:\n  printf %s \"$URL\" | keyfold seal --format kf1 --context record=redis-1\n  \
                        keyfold seal --format v1 --from file:secret.txt"
)]
pub(crate) struct Args {
    /// The format to seal in: kf1 (Keyfold's own), v1 (redis-sre-agent's), fernet (Auto SRE's)
    #[arg(long, value_parser = arguments::format())]
    format: Format,
    #[command(flatten)]
    context: ContextArgs,
    /// Leave out one newline at the end of the secret
    #[arg(long)]
    trim_newline: bool,
    #[command(flatten)]
    source: SourceArgs,
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    if args.format != Format::Kf1 && !args.context.is_empty() {
        return Err(Failure::usage(format!("the {} format cannot bind a context", args.format))
            .hint("seal with --format kf1, or leave --context out"));
    }
    if let Some(remote) = Remote::of(invocation)? {
        let given = input::read(&args.source.from, Wanted::Secret).await?;
        let secret = trimmed(given.expose(), args.trim_newline, invocation);
        let sealed = remote.seal(args.format, args.context.entries(), secret).await?;
        if invocation.json() {
            output::json(&sealed)?;
        } else {
            output::line(sealed["envelope"].as_str().unwrap_or(""))?;
        }
        return Ok(Exit::Done);
    }
    let context = args.context.context()?.digest();
    let about = About { action: Action::Seal, format: args.format };
    let sealed = keys::with(
        invocation,
        about,
        async |keyring| {
            // Asked before anything is read: nobody types a secret to learn that there is no key.
            keyring.primary(args.format).ok_or(SealError::NoPrimary { format: args.format })?;
            let given = input::read(&args.source.from, Wanted::Secret).await?;
            let secret = trimmed(given.expose(), args.trim_newline, invocation);
            let fresh = Fresh { random: &SystemRandom, now: invocation.now() };
            Ok(keyring.seal(args.format, &context, secret, fresh)?)
        },
        |sealed, event| {
            event.kid = Some(sealed.kid);
            event.commitment = sealed.commitment;
        },
    )
    .await?;
    if invocation.json() {
        output::json(&json!({
            "envelope": sealed.text,
            "format": args.format,
            "kid": sealed.kid,
            "commitment": sealed.commitment,
        }))?;
    } else {
        output::line(&sealed.text)?;
    }
    Ok(Exit::Done)
}

/// What of the input is the secret; says so where that may surprise.
fn trimmed<'a>(given: &'a [u8], trim: bool, invocation: &Invocation) -> &'a [u8] {
    let secret = if trim { without_newline(given) } else { given };
    if !trim && secret.ends_with(b"\n") {
        invocation.hint("the secret ends with a newline, which is sealed with it; --trim-newline leaves it out");
    }
    if secret.is_empty() {
        invocation.warn("the secret is empty, and is sealed as such");
    }
    secret
}

fn without_newline(secret: &[u8]) -> &[u8] {
    let cut = secret.strip_suffix(b"\n").unwrap_or(secret);
    // A carriage return belongs to the newline only where there was one.
    if cut.len() < secret.len() { cut.strip_suffix(b"\r").unwrap_or(cut) } else { cut }
}
