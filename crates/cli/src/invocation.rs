//! What one run of the program was told by its global options and by its surroundings.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use keyfold_core::{
    clock::{Clock, UnixTime},
    keyring::Purpose,
};
use serde_json::json;

use crate::{
    arguments::{Color, Global},
    clock::SystemClock,
    failure::{Failure, Rendering, printable},
    keys::Named,
    location::Location,
    output,
};

/// The global options, resolved. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Invocation {
    json: bool,
    quiet: bool,
    verbose: u8,
    color: bool,
    data_dir: Option<PathBuf>,
    config: Option<PathBuf>,
    master_keys: Named,
    fernet_keys: Named,
    system: Option<Location>,
    server: Option<String>,
    stop: Stop,
}

/// Ctrl-C, for commands that can stop between two steps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    requested: Arc<AtomicBool>,
    graceful: Arc<AtomicBool>,
    passed_on: Arc<AtomicBool>,
}

/// While it lives, the first Ctrl-C is a request; the second one ends the command.
pub(crate) struct Graceful(Arc<AtomicBool>);

impl Drop for Graceful {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Stop {
    /// Whether somebody asked to stop.
    pub(crate) fn requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// Declares that the command looks at [`Stop::requested`].
    pub(crate) fn graceful(&self) -> Graceful {
        self.graceful.store(true, Ordering::Relaxed);
        Graceful(Arc::clone(&self.graceful))
    }

    /// Declares that another program is told of every Ctrl-C, and that this one ends with it.
    pub(crate) fn pass_on(&self) {
        self.passed_on.store(true, Ordering::Relaxed);
    }

    /// Asks to stop; says whether the command will do so by itself.
    pub(crate) fn request(&self) -> bool {
        if self.passed_on.load(Ordering::Relaxed) {
            return true;
        }
        self.graceful.load(Ordering::Relaxed) && !self.requested.swap(true, Ordering::Relaxed)
    }
}

impl Invocation {
    /// Resolves the global options.
    pub(crate) fn new(global: Global) -> Self {
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        };
        Self {
            json: global.json,
            quiet: global.quiet,
            verbose: global.verbose,
            color,
            data_dir: global.data_dir.or_else(default_data_dir),
            config: global.config,
            master_keys: Named::new(Purpose::Master, global.master_key),
            fernet_keys: Named::new(Purpose::Fernet, global.fernet_key),
            system: global.system.or_else(|| Location::variable("KEYFOLD_SYSTEM")),
            server: global.server.filter(|server| !server.is_empty()),
            stop: Stop::default(),
        }
    }

    /// Whether programs read what is said.
    pub(crate) const fn json(&self) -> bool {
        self.json
    }

    /// Whether notes and progress are unwanted.
    pub(crate) const fn quiet(&self) -> bool {
        self.quiet
    }

    /// How often `-v` was given.
    pub(crate) const fn verbose(&self) -> u8 {
        self.verbose
    }

    /// Whether stderr takes colours.
    pub(crate) const fn color(&self) -> bool {
        self.color
    }

    /// The data folder, whether it exists or not.
    pub(crate) fn data_dir(&self) -> Result<&Path, Failure> {
        self.data_dir.as_deref().ok_or_else(|| {
            Failure::usage("no data folder: neither KEYFOLD_DATA_DIR nor HOME is set")
                .hint("name one with --data-dir DIR")
        })
    }

    /// The configuration file, where one was named.
    pub(crate) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Where the raw keys of a kind are, where the environment does not hold them.
    pub(crate) const fn named_keys(&self, purpose: Purpose) -> &Named {
        match purpose {
            Purpose::Master => &self.master_keys,
            Purpose::Fernet => &self.fernet_keys,
        }
    }

    /// The system store, where another than the data folder was named.
    pub(crate) const fn system(&self) -> Option<&Location> {
        self.system.as_ref()
    }

    /// The server that commands are sent to, where one was named.
    pub(crate) fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// Ctrl-C, for commands that can stop between two steps.
    pub(crate) const fn stop(&self) -> &Stop {
        &self.stop
    }

    /// The same invocation with another data folder, the folder's own configuration and everything in it.
    pub(crate) fn in_folder(&self, folder: PathBuf) -> Self {
        Self { data_dir: Some(folder), config: None, system: None, server: None, ..self.clone() }
    }

    /// Where the time comes from.
    pub(crate) const fn clock(&self) -> SystemClock {
        SystemClock
    }

    /// The time now.
    pub(crate) fn now(&self) -> UnixTime {
        self.clock().now()
    }

    /// Says something that the person may not know. Nothing is wrong.
    pub(crate) fn hint(&self, text: &str) {
        self.note("hint", text);
    }

    /// Says something that was probably not meant.
    pub(crate) fn warn(&self, text: &str) {
        self.note("warning", text);
    }

    fn note(&self, kind: &str, text: &str) {
        if self.quiet {
            return;
        }
        if self.json {
            output::say(&format!("{}\n", json!({ kind: { "message": text } })));
        } else {
            output::say(&format!("{kind}: {}\n", printable(text)));
        }
    }

    /// Says how the command failed.
    pub(crate) fn report(&self, failure: &Failure) {
        let how = Rendering { json: self.json, causes: self.verbose > 0, color: self.color };
        if let Some(text) = failure.render(&how) {
            output::say(&text);
        }
    }
}

/// `$XDG_DATA_HOME/keyfold`, else `~/.local/share/keyfold`. As that standard says, a relative path counts as not set.
fn default_data_dir() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|folder| folder.join("keyfold"))
}
