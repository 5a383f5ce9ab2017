//! The arguments: global options, and the ones that several commands share.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use keyfold_core::{context::Context, envelope::Format};
use keyfold_providers::SourceUri;

use crate::{
    commands::Command,
    failure::Failure,
    input::{NotASource, Source},
    location::Location,
};

/// Keeps the credentials that SRE agents work with: sealed at rest, rotated without loss.
#[derive(clap::Parser)]
#[command(
    name = "keyfold",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 records left that should have changed, 2 usage, 3 refused by policy, 4 key or \
                  format, 5 unavailable, 130 interrupted.\n\
                  Secrets come from stdin, a file, the environment or a prompt, never from arguments."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(clap::Args)]
pub(crate) struct Global {
    /// Write for programs: JSON on stdout where a command prints something, JSON lines on stderr
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,

    /// The folder that holds keyring, records and audit log
    ///
    /// Default: $XDG_DATA_HOME/keyfold, else ~/.local/share/keyfold.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "KEYFOLD_DATA_DIR",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub(crate) data_dir: Option<PathBuf>,

    /// Where keyring, records of our own, tokens and cursors lie, instead of the data folder: redis://…, postgres://…; one whose
    /// address holds a password as env:NAME or file:PATH, or in KEYFOLD_SYSTEM
    #[arg(long, global = true, value_name = "ADDRESS", help_heading = "Global options")]
    pub(crate) system: Option<Location>,

    /// The configuration file
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "KEYFOLD_CONFIG",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub(crate) config: Option<PathBuf>,

    /// Where the master key of redis-sre-agent is, instead of REDIS_SRE_MASTER_KEY; given again, older ones that only open
    ///
    /// file:PATH, env:NAME, aws-secrets-manager://, gcp-secret-manager:// or hcvault-kv://
    #[arg(long, global = true, value_name = "URI", help_heading = "Global options")]
    pub(crate) master_key: Vec<SourceUri>,

    /// Where the Fernet key of Auto SRE is, instead of SRE_AGENT_ENCRYPTION_KEY; given again, older ones that only open
    ///
    /// As for --master-key.
    #[arg(long, global = true, value_name = "URI", help_heading = "Global options")]
    pub(crate) fernet_key: Vec<SourceUri>,

    /// Send the command to a server instead of working on the data folder; the token is in KEYFOLD_TOKEN
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "KEYFOLD_SERVER",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub(crate) server: Option<String>,

    /// Say more: the causes of an error, and logs (twice: debug logs); KEYFOLD_LOG takes a filter
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,

    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Global options")]
    pub(crate) quiet: bool,

    /// Whether to colour what is said
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = "Global options")]
    pub(crate) color: Color,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Reads the name of a sealed format, and lists them where it is not one.
pub(crate) fn format() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.map(Format::as_str)).try_map(|text| text.parse::<Format>())
}

/// `--context`, as often as there are entries.
#[derive(clap::Args)]
pub(crate) struct ContextArgs {
    /// The place the secret belongs to, one entry each time; kf1 only
    #[arg(long = "context", value_name = "KEY=VALUE", value_parser = context_entry)]
    entries: Vec<String>,
}

/// Not `key=value`. What was given is not repeated: it may be a secret in the wrong place.
#[derive(Debug, thiserror::Error)]
#[error("an entry is written key=value")]
struct NotAnEntry;

fn context_entry(text: &str) -> Result<String, NotAnEntry> {
    if text.contains('=') { Ok(text.to_owned()) } else { Err(NotAnEntry) }
}

impl ContextArgs {
    /// As they were given.
    pub(crate) fn entries(&self) -> &[String] {
        &self.entries
    }

    /// Whether none was given.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The context they make.
    pub(crate) fn context(&self) -> Result<Context, Failure> {
        Context::parse_entries(&self.entries).map_err(|error| {
            use keyfold_core::error::Hint;
            Failure::usage(error.to_string()).hint(error.hint().unwrap_or_default())
        })
    }
}

/// `--from`, for what otherwise comes on stdin.
#[derive(clap::Args)]
pub(crate) struct SourceArgs {
    /// Read from file:PATH or env:NAME instead of stdin
    #[arg(long, value_name = "SOURCE", default_value = "-", hide_default_value = true, value_parser = source)]
    pub(crate) from: Source,
}

fn source(text: &str) -> Result<Source, NotASource> {
    text.parse()
}
