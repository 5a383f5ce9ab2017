//! `keyfold completions`

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{
    arguments::Cli,
    failure::{Exit, Failure},
    invocation::Invocation,
    output,
};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  keyfold completions bash > ~/.local/share/bash-completion/completions/keyfold\n  \
                        keyfold completions fish > ~/.config/fish/completions/keyfold.fish"
)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) async fn run(args: Args, _: &Invocation) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "keyfold", &mut script);
    output::data(&script)?;
    Ok(Exit::Done)
}
