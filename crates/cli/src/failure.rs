//! How a command ends when it does not do what was asked: what happened, what to do, a stable code, an exit code.

use std::{error::Error, io};

use keyfold_core::{
    accept::AcceptError,
    context::ContextError,
    envelope::{OpenError, SealError},
    error::{Code, Hint},
    keyring::{KeyError, KeyringError, document::DocumentError, edit::EditError},
    rewrap::MoveError,
    rng::RandomError,
    root::RootError,
};
use keyfold_custody::{error::CustodyError, store::StoreError};
use keyfold_providers::UriError;
use serde_json::json;

/// The exit codes. Scripts match on them; they never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// What was asked is done.
    Done,
    /// A job ended and left records that should have changed.
    RecordsLeft,
    /// The arguments do not make sense. Nothing was done.
    Usage,
    /// Understood, and not allowed.
    Refused,
    /// A key, a value or a document is not what it must be.
    Key,
    /// Something outside could not be reached, read or written.
    Unavailable,
    /// Ctrl-C.
    Interrupted,
    /// What a command that `keyfold run` started ended with.
    Of(u8),
}

impl Exit {
    /// As the shell sees it.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::RecordsLeft => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Key => 4,
            Self::Unavailable => 5,
            Self::Interrupted => 130,
            Self::Of(code) => code,
        }
    }
}

/// The code of an actor without the right.
const FORBIDDEN: &str = "forbidden";

/// Why a command ended early. Its texts never hold a secret, so it may be printed anywhere.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    code: &'static str,
    exit: Exit,
    causes: Vec<String>,
    quiet: bool,
}

impl Failure {
    /// A failure of any kind. The shorter constructors below set code and exit code by themselves.
    pub(crate) fn new(exit: Exit, code: &'static str, message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code, exit, causes: Vec::new(), quiet: false }
    }

    /// The arguments do not make sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    /// A file, a folder or another part of the machine did not do its part.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unavailable, "unavailable", message)
    }

    /// Ctrl-C.
    pub(crate) fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "interrupted", "interrupted")
    }

    /// One of the core's codes with a message of the command line's own.
    pub(crate) fn coded(code: Code, message: impl Into<String>) -> Self {
        Self::new(exit_of(code), code.as_str(), message)
    }

    /// An error of one of the crates below, which says by itself what happened and what to do.
    pub(crate) fn from_error(error: &dyn Error, code: Code, hint: Option<String>) -> Self {
        let failure = Self { hint, ..Self::coded(code, error.to_string()) };
        match error.source() {
            Some(source) => failure.caused_by(source),
            None => failure,
        }
    }

    /// Stdout could not be written. A reader that went away, as `head` does, is not worth a word.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { quiet: true, exit: Exit::Done, ..Self::unavailable("nobody reads the output") };
        }
        Self::unavailable("the output could not be written").caused_by(error)
    }

    /// Says what to do.
    #[must_use]
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Says it in other words.
    #[must_use]
    pub(crate) fn message(self, message: impl Into<String>) -> Self {
        Self { message: message.into(), ..self }
    }

    /// Keeps an error and everything behind it for `--verbose`.
    #[must_use]
    pub(crate) fn caused_by(mut self, error: &dyn Error) -> Self {
        let mut next = Some(error);
        while let Some(cause) = next {
            let text = cause.to_string();
            if text != self.message && self.causes.last() != Some(&text) {
                self.causes.push(text);
            }
            next = cause.source();
        }
        self
    }

    /// The core's code, where it has one.
    pub(crate) fn core_code(&self) -> Option<Code> {
        Code::ALL.into_iter().find(|code| code.as_str() == self.code)
    }

    /// Whether the actor has not the right.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.code == FORBIDDEN
    }

    /// The code to end the process with.
    pub(crate) const fn exit(&self) -> Exit {
        self.exit
    }

    /// What goes to stderr, if anything does: one line of JSON, or lines for a person.
    pub(crate) fn render(&self, how: &Rendering) -> Option<String> {
        if self.quiet {
            return None;
        }
        if how.json {
            let mut error = json!({ "code": self.code, "message": self.message, "hint": self.hint });
            if how.causes {
                error["causes"] = json!(self.causes);
            }
            return Some(format!("{}\n", json!({ "error": error })));
        }
        let (red, dim, plain) = if how.color { ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
        let mut out = format!("{red}error:{plain} {}\n", printable(&self.message));
        for cause in self.causes.iter().filter(|_| how.causes) {
            out += &format!("  {dim}cause:{plain} {}\n", printable(cause));
        }
        if let Some(hint) = &self.hint {
            out += &format!("  {dim}hint:{plain} {}\n", printable(hint));
        }
        Some(out)
    }
}

/// How a failure is written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rendering {
    /// As JSON.
    pub(crate) json: bool,
    /// With the errors behind the error.
    pub(crate) causes: bool,
    /// In colour.
    pub(crate) color: bool,
}

/// Replaces control characters, so that a path or a name cannot write to the terminal more than it looks like.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// As [`printable`], for what must stay on one line: a name with a line break in it cannot look like two.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Which exit code a stable code ends in.
const fn exit_of(code: Code) -> Exit {
    match code {
        Code::FormatNotAccepted => Exit::Refused,
        Code::ProviderUnavailable | Code::AuditUnavailable => Exit::Unavailable,
        // A value, a key or a document: whoever called has another one to bring.
        _ => Exit::Key,
    }
}

macro_rules! from_errors_with_code_and_hint {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::from_error(&error, error.code(), error.hint())
            }
        }
    )*};
}

from_errors_with_code_and_hint!(
    AcceptError,
    ContextError,
    DocumentError,
    EditError,
    KeyError,
    KeyringError,
    MoveError,
    OpenError,
    RandomError,
    RootError,
    SealError,
    UriError,
);

impl From<CustodyError> for Failure {
    fn from(error: CustodyError) -> Self {
        let exit = match &error {
            CustodyError::Refused(_) => Exit::Refused,
            // Somebody else must act first, or nothing of that name is there: nothing was done, and nothing is broken.
            CustodyError::Waiting { .. } => Exit::Refused,
            CustodyError::Edit(EditError::Loosens { .. }) => Exit::Refused,
            CustodyError::NotFound { .. } | CustodyError::Conflict { .. } => Exit::RecordsLeft,
            CustodyError::Store(StoreError::Exists { .. }) => Exit::RecordsLeft,
            other => other.code().map_or(Exit::Usage, exit_of),
        };
        let code = match &error {
            CustodyError::Refused(_) => FORBIDDEN,
            CustodyError::Waiting { .. } => "waiting",
            CustodyError::NotFound { .. } => "not_found",
            CustodyError::Conflict { .. } => "conflict",
            CustodyError::Store(StoreError::Exists { .. }) => "exists",
            other => other.code().map_or("invalid", Code::as_str),
        };
        let failure = Self { hint: error.hint(), ..Self::new(exit, code, error.to_string()) };
        let cause = match &error {
            CustodyError::InDoubt { error, .. } => error.source(),
            error => error.source(),
        };
        match cause {
            Some(source) => failure.caused_by(source),
            None => failure,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        CustodyError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_core_ends_in_the_exit_code_that_was_promised() {
        for (code, exit) in [
            (Code::NotEncrypted, 4),
            (Code::Malformed, 4),
            (Code::UnknownKey, 4),
            (Code::WrongKeyOrTampered, 4),
            (Code::Expired, 4),
            (Code::KeyInvalid, 4),
            (Code::TooLarge, 4),
            (Code::DocumentRefused, 4),
            (Code::FormatNotAccepted, 3),
            (Code::ProviderUnavailable, 5),
            (Code::AuditUnavailable, 5),
        ] {
            assert_eq!(exit_of(code).code(), exit, "{code}");
        }
    }

    #[test]
    fn a_failure_says_what_happened_what_to_do_and_with_verbose_why() {
        let cause = io::Error::other("disk on fire");
        let failure = Failure::unavailable("no record was read").hint("put it out").caused_by(&cause);
        let plain = failure.render(&Rendering::default());
        assert_eq!(plain.as_deref(), Some("error: no record was read\n  hint: put it out\n"));
        let verbose = failure.render(&Rendering { causes: true, ..Rendering::default() }).unwrap();
        assert_eq!(verbose, "error: no record was read\n  cause: disk on fire\n  hint: put it out\n");
        let json = failure.render(&Rendering { json: true, ..Rendering::default() }).unwrap();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&json).unwrap(),
            json!({ "error": { "code": "unavailable", "message": "no record was read", "hint": "put it out" } })
        );
    }

    #[test]
    fn a_message_cannot_move_the_cursor() {
        let failure = Failure::usage("no \x1b[2Jsuch file");
        assert!(!failure.render(&Rendering::default()).unwrap().contains('\x1b'));
    }
}
