//! `keyfold migrate`

use keyfold_core::envelope::Format;
use keyfold_custody::jobs::{Job, Kind};

use super::jobs::{self, JobArgs};
use crate::{
    arguments,
    failure::{Exit, Failure},
    invocation::Invocation,
};

#[derive(clap::Args)]
#[command(
    after_help = "A value is written only after the old one was opened and the new one was opened again, in memory, to the \
                        same secret. What does not open is left as it is and listed; the exit code is 1 then."
)]
pub(crate) struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// The format to end in; the collection's own where left out
    #[arg(long, value_name = "FORMAT", value_parser = arguments::format())]
    to: Option<Format>,
    /// Look and count, change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    jobs::run(args.job, Job { to: args.to, dry_run: args.dry_run, ..Job::new(Kind::Migrate) }, invocation).await
}
