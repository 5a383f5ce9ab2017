//! The commands: one file each, one line each in the list below.

mod audit;
mod ca;
mod completions;
mod config;
mod demo;
mod doctor;
mod init;
mod inspect;
mod jobs;
mod keygen;
mod keys;
mod man;
mod migrate;
mod open;
mod policy;
mod records;
mod rotate;
mod run;
mod seal;
mod serve;
mod session;
mod token;
mod verify;

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
    /// Show the main job from one end to the other, in a folder of its own
    Demo => demo;
    /// Make a data folder: root key, database, first key, configuration to start from
    Init => init;
    /// Serve the HTTP API; the first run makes what is missing
    Serve => serve;
    /// Make a key and print it
    Keygen => keygen;
    /// Seal the secret on stdin and print the envelope
    Seal => seal;
    /// Open the envelope on stdin and write the secret, and nothing else, to stdout
    Open => open;
    /// Say what a stored value is, without a key
    Inspect => inspect;
    /// Put, get, list, import, export and remove records
    Records => records;
    /// Create, promote, retire and destroy keys; back the keyring up
    Keys => keys;
    /// Seal what is plaintext, and move to another format
    Migrate => migrate;
    /// Move everything to the primary key
    Rotate => rotate;
    /// Open everything and say what does not open
    Verify => verify;
    /// Say what is wrong, or could go wrong, and what to run next
    Doctor => doctor;
    /// Read and check the audit log
    Audit => audit;
    /// Make, list and revoke the tokens that the service takes
    Token => token;
    /// List and end the sessions of people who signed in; take over those of Auto SRE
    Session => session;
    /// Run a command whose calls leave through the proxy, for the person of a handle
    Run => run;
    /// Print the certificate of the authority that the proxy's tunnels answer under
    Ca => ca;
    /// Check, explain and test who may do what
    Policy => policy;
    /// Check and apply the configuration
    Config => config;
    /// Print a completion script for a shell
    Completions => completions;
    /// Print the manual page, or write one for every command
    Man => man;
}
