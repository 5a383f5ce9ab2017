//! `keyfold`, the command line: arguments in, one command, an exit code out.
//!
//! Data goes to stdout and nothing else does; notes, errors, progress and logs go to stderr. Secrets come from stdin, a
//! file, the environment or a prompt, never from arguments, and an argument that may be one is not repeated in a message.

mod arguments;
mod clock;
mod commands;
mod failure;
mod folder;
mod input;
mod invocation;
mod keys;
mod location;
mod logging;
mod output;
mod people;
mod progress;
mod remote;
mod stores;
mod system;
mod usage;

use std::{ffi::OsString, process::ExitCode, time::Duration};

use clap::Parser;

use crate::{
    arguments::Cli,
    failure::{Exit, Failure},
    invocation::Invocation,
};

/// The only place where the process ends: every command returns here.
fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(usage::report(&error, &arguments).code()),
    };
    let invocation = Invocation::new(cli.global);
    let exit = match run(cli.command, &invocation) {
        Ok(exit) => exit,
        Err(failure) => {
            invocation.report(&failure);
            failure.exit()
        }
    };
    ExitCode::from(exit.code())
}

/// Runs one command until it ends or somebody presses Ctrl-C.
fn run(command: commands::Command, invocation: &Invocation) -> Result<Exit, Failure> {
    logging::start(invocation)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::unavailable("the process could not start its threads").caused_by(&error))?;
    let ended = runtime.block_on(async {
        let mut command = std::pin::pin!(command.run(invocation));
        loop {
            tokio::select! {
                ended = &mut command => return ended,
                // A job stops between two batches when asked once; asked again, or anything else, it ends here.
                Ok(()) = tokio::signal::ctrl_c() => if !invocation.stop().request() {
                    return Err(Failure::interrupted());
                },
            }
        }
    });
    if matches!(&ended, Err(failure) if failure.exit() == Exit::Interrupted) {
        // A read from a pipe or a prompt may wait for ever. It is left behind.
        runtime.shutdown_background();
        input::restore_terminal();
    } else {
        // So may the library of a token.
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
    ended
}
