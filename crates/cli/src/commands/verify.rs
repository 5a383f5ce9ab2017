//! `keyfold verify`

use keyfold_custody::jobs::{Job, Kind};

use super::jobs::{self, JobArgs};
use crate::{
    failure::{Exit, Failure},
    invocation::Invocation,
};

#[derive(clap::Args)]
#[command(
    after_help = "Every secret is opened in memory and none is shown. The exit code is 1 if one does not open, or is in a \
                        format that its collection does not accept."
)]
pub(crate) struct Args {
    #[command(flatten)]
    job: JobArgs,
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    jobs::run(args.job, Job::new(Kind::Verify), invocation).await
}
