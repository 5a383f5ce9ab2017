//! `keyfold rotate`

use keyfold_core::{envelope::Format, rewrap::How};
use keyfold_custody::jobs::{Job, Kind};

use super::jobs::{self, JobArgs};
use crate::{
    arguments,
    failure::{Exit, Failure},
    invocation::Invocation,
};

#[derive(clap::Args)]
#[command(
    after_help = "A rewrap keeps each secret's data key. Where the old key may be known to somebody, use --reseal, and change \
                        the secrets themselves."
)]
pub(crate) struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// The format to end in; the one each value has where left out
    #[arg(long, value_name = "FORMAT", value_parser = arguments::format())]
    to: Option<Format>,
    /// Make everything new, data keys included, instead of wrapping anew
    #[arg(long)]
    reseal: bool,
    /// Look and count, change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    let how = if args.reseal { How::Reseal } else { How::Rewrap };
    let job = Job { to: args.to, how, dry_run: args.dry_run, ..Job::new(Kind::Rotate) };
    jobs::run(args.job, job, invocation).await
}
