//! Logs: on stderr, warnings and worse unless more is asked for.

use tracing_subscriber::EnvFilter;

use crate::{failure::Failure, invocation::Invocation};

const FILTER_VARIABLE: &str = "KEYFOLD_LOG";
const OURS: [&str; 5] = ["keyfold", "keyfold_core", "keyfold_custody", "keyfold_providers", "keyfold_server"];

/// Starts logging as `KEYFOLD_LOG` says, else as `--verbose` and `--quiet` do; in JSON with `--json`.
pub(crate) fn start(invocation: &Invocation) -> Result<(), Failure> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|error| {
            Failure::usage(format!("{FILTER_VARIABLE} is not a log filter"))
                .hint(format!("for example {FILTER_VARIABLE}=info, or {FILTER_VARIABLE}=keyfold_custody=debug"))
                .caused_by(&error)
        })?,
        _ => EnvFilter::new(default_filter(invocation)),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started =
        if invocation.json() { builder.json().try_init() } else { builder.with_ansi(invocation.color()).try_init() };
    started.map_err(|error| Failure::unavailable("logging could not start").caused_by(&*error))
}

fn default_filter(invocation: &Invocation) -> String {
    let level = match (invocation.quiet(), invocation.verbose()) {
        (true, _) => return "error".into(),
        (false, 0) => return "warn".into(),
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    // The libraries below stay at warnings: what they log has not been looked through for secrets.
    OURS.iter().fold("warn".to_owned(), |filter, name| format!("{filter},{name}={level}"))
}
