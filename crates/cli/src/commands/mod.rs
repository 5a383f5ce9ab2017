//! The commands: one file each, one line each in the list below.

mod completions;
mod inspect;
mod keygen;
mod man;
mod open;
mod seal;

use crate::{
    failure::{Exit, Failure},
    invocation::Invocation,
};

/// Makes the enum that clap reads and the one call that each variant stands for. Order and text are those of `--help`.
macro_rules! commands {
    ($($(#[doc = $about:literal])+ $name:ident => $module:ident;)*) => {
        /// What to do.
        #[derive(clap::Subcommand)]
        pub(crate) enum Command {
            $($(#[doc = $about])+ $name($module::Args),)*
        }

        impl Command {
            /// Does it.
            pub(crate) async fn run(self, invocation: &Invocation) -> Result<Exit, Failure> {
                match self {
                    $(Self::$name(args) => $module::run(args, invocation).await,)*
                }
            }
        }
    };
}

commands! {
    /// Make a key and print it
    Keygen => keygen;
    /// Seal the secret on stdin and print the envelope
    Seal => seal;
    /// Open the envelope on stdin and write the secret, and nothing else, to stdout
    Open => open;
    /// Say what a stored value is, without a key
    Inspect => inspect;
    /// Print a completion script for a shell
    Completions => completions;
    /// Print the manual page, or write one for every command
    Man => man;
}
