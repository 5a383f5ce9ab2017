//! What comes in: from stdin, a file, the environment or a prompt. Never from arguments, which every process can read.

use std::{
    borrow::Cow,
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    io::{self, IsTerminal, Read},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use keyfold_core::{
    detect::{Detected, detect_bytes},
    envelope::{Format, OpenError, kf1},
    error::Code,
    secret::{MAX_SECRET, Secret, wipe},
};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::failure::Failure;

/// The longest thing that is read: the longest secret in the format that adds most to it, with white space to spare.
pub(crate) const MAX_INPUT: usize = 2 * MAX_SECRET;

/// What is asked for, so that a person at a terminal is asked in the right way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A secret: typed without echo.
    Secret,
    /// A sealed value: may be seen.
    Envelope,
}

impl Wanted {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Envelope => "envelope",
        }
    }
}

/// Where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// `-`: stdin, or a prompt where stdin is a terminal.
    Stdin,
    /// `file:PATH`
    File(PathBuf),
    /// `env:NAME`
    Environment(OsString),
}

/// Not a source. What was given is not repeated: it may be the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write file:PATH, env:NAME, or - for stdin; a secret itself never belongs on a command line")]
pub(crate) struct NotASource;

impl FromStr for Source {
    type Err = NotASource;

    fn from_str(text: &str) -> Result<Self, NotASource> {
        match (text, text.split_once(':')) {
            ("-", _) => Ok(Self::Stdin),
            (_, Some(("file", path))) if !path.is_empty() => Ok(Self::File(path.into())),
            (_, Some(("env", name))) if !name.is_empty() && !name.contains('=') => Ok(Self::Environment(name.into())),
            _ => Err(NotASource),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("stdin"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Environment(name) => write!(f, "env:{}", name.display()),
        }
    }
}

/// Reads all of it. Waiting for stdin does not hold up Ctrl-C.
pub(crate) async fn read(source: &Source, wanted: Wanted) -> Result<Secret, Failure> {
    let source = source.clone();
    tokio::task::spawn_blocking(move || match source {
        Source::Stdin => from_stdin(wanted),
        Source::File(ref path) => from_file(path).map_err(|error| error.at(&source.to_string())),
        Source::Environment(ref name) => from_environment(name),
    })
    .await
    .map_err(|error| Failure::unavailable("the input could not be read").caused_by(&error))?
}

fn from_stdin(wanted: Wanted) -> Result<Secret, Failure> {
    let mut stdin = io::stdin().lock();
    if stdin.is_terminal() {
        drop(stdin);
        return from_prompt(wanted);
    }
    bounded(&mut stdin).map_err(|error| error.at("stdin"))
}

/// Asks at the terminal. A secret is one line without echo; so is an envelope, since a terminal's own line editing would
/// cut it at 4,095 bytes.
fn from_prompt(wanted: Wanted) -> Result<Secret, Failure> {
    *lock(&TERMINAL) = tcgetattr(io::stdin()).ok();
    let prompt = format!("{} (not shown): ", wanted.as_str());
    rpassword::prompt_password(prompt).map(Secret::from).map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => Failure::interrupted(),
        _ => Failure::unavailable("the terminal could not be read").caused_by(&error),
    })
}

/// The terminal's settings from before a prompt switched its echo off.
static TERMINAL: Mutex<Option<Termios>> = Mutex::new(None);

/// Gives the terminal its echo back, for a process that ends while a prompt waits.
pub(crate) fn restore_terminal() {
    if let Some(settings) = lock(&TERMINAL).take() {
        // Nobody is left to tell if the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &settings);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn from_file(path: &Path) -> Result<Secret, ReadError> {
    File::open(path).map_err(ReadError::Io).and_then(|mut file| bounded(&mut file))
}

fn from_environment(name: &OsStr) -> Result<Secret, Failure> {
    match std::env::var_os(name) {
        Some(value) => Ok(Secret::new(value.into_vec())),
        None => Err(Failure::usage(format!("env:{}: the variable is not set", name.display()))
            .hint("export it, or name another source")),
    }
}

enum ReadError {
    Io(io::Error),
    TooLarge,
}

impl ReadError {
    fn at(self, place: &str) -> Failure {
        match self {
            Self::Io(error) => Failure::unavailable(format!("{place}: {}", error.kind())).caused_by(&error),
            Self::TooLarge => Failure::coded(Code::TooLarge, format!("{place}: over {MAX_INPUT} bytes"))
                .hint("a secret has at most 1 MiB"),
        }
    }
}

/// What was read, as a reader of stored values takes it: without the white space around it, and in text.
///
/// # Errors
/// Nothing but white space, and bytes that are neither text nor a `kf1` envelope in its binary form.
pub(crate) fn envelope_text(given: &Secret) -> Result<Cow<'_, str>, Failure> {
    let trimmed = given.expose().trim_ascii();
    if trimmed.is_empty() {
        return Err(Failure::from(OpenError::NotEncrypted).hint("nothing but white space came in; is the file empty?"));
    }
    std::str::from_utf8(trimmed).map(Cow::Borrowed).or_else(|error| match detect_bytes(given.expose()) {
        Detected::Sealed(Format::Kf1) if given.expose().first() == Some(&0xF6) => {
            Ok(Cow::Owned(kf1::Envelope::from_bytes(given.expose().to_vec())?.to_text()))
        }
        detected => {
            let format = detected.sealed()?;
            Err(OpenError::Malformed { format, offset: error.valid_up_to(), what: "a byte that is not text" }.into())
        }
    })
}

/// Reads to the end, at most [`MAX_INPUT`] bytes. A buffer that was outgrown is wiped, and none of the chunks asked for is
/// small enough to pass through the buffer of [`io::Stdin`], which nobody wipes.
fn bounded(reader: &mut impl Read) -> Result<Secret, ReadError> {
    const CHUNK: usize = 16 << 10;
    let mut buffer = vec![0; 2 * CHUNK];
    let mut filled = 0;
    loop {
        if buffer.len() - filled < CHUNK {
            let mut larger = vec![0; 2 * buffer.len()];
            larger[..filled].copy_from_slice(&buffer[..filled]);
            wipe(&mut buffer);
            buffer = larger;
        }
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                wipe(&mut buffer);
                return Err(ReadError::Io(error));
            }
        }
        if filled > MAX_INPUT {
            wipe(&mut buffer);
            return Err(ReadError::TooLarge);
        }
    }
    buffer.truncate(filled);
    Ok(Secret::new(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_named_and_never_the_secret_itself() {
        assert_eq!("-".parse(), Ok(Source::Stdin));
        assert_eq!("file:/a:b".parse(), Ok(Source::File("/a:b".into())));
        assert_eq!("env:NAME".parse(), Ok(Source::Environment("NAME".into())));
        for text in ["", "hunter2", "file:", "env:", "env:A=b", "File:/x"] {
            let error = text.parse::<Source>().unwrap_err();
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn reading_ends_at_the_limit_and_not_after_all_memory() {
        assert_eq!(bounded(&mut &b"abc"[..]).ok().unwrap().expose(), b"abc");
        let long = vec![7; MAX_INPUT];
        assert!(bounded(&mut &long[..]).ok().unwrap().expose() == long);
        assert!(matches!(bounded(&mut io::repeat(7)), Err(ReadError::TooLarge)));
    }
}
