//! `keyfold man`

use std::path::PathBuf;

use clap::CommandFactory;

use crate::{
    arguments::Cli,
    failure::{Exit, Failure},
    invocation::Invocation,
    output,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write a page for every command into this folder instead
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) async fn run(args: Args, _: &Invocation) -> Result<Exit, Failure> {
    if let Some(dir) = &args.dir {
        std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir)).map_err(|error| {
            Failure::unavailable(format!("the pages could not be written to {}: {}", dir.display(), error.kind()))
                .caused_by(&error)
        })?;
        return Ok(Exit::Done);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(|error| Failure::stdout(&error))?;
    output::data(&page)?;
    Ok(Exit::Done)
}
