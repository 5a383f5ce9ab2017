//! `keyfold inspect`

use keyfold_core::inspect::inspect;

use crate::{
    arguments::SourceArgs,
    failure::{Exit, Failure},
    input::{self, Wanted},
    invocation::Invocation,
    output,
};

#[derive(clap::Args)]
#[command(
    after_help = "Prints JSON: the format, the key id and commitment (kf1), the time (fernet, as claimed), the sizes, \
                        and the problem where a strict reader would refuse the value. Of plaintext only its size is said. \
                        Nothing of this is authenticated: that takes the key."
)]
pub(crate) struct Args {
    #[command(flatten)]
    source: SourceArgs,
}

pub(crate) async fn run(args: Args, _: &Invocation) -> Result<Exit, Failure> {
    let given = input::read(&args.source.from, Wanted::Envelope).await?;
    let stored = input::envelope_text(&given)?;
    output::json(&inspect(&stored))?;
    Ok(Exit::Done)
}
