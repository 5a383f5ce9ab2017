//! Errors of the crates below as Python exceptions: one class for each code, with `code` and `hint`.

use keyfold_core::{
    accept::AcceptError,
    context::ContextError,
    envelope::{OpenError, ParseFormatError, SealError},
    error::{Code, Hint},
    keyring::{FERNET_KEY_VARIABLE, KeyError, KeyringError, MASTER_KEY_VARIABLE, document::DocumentError},
    rewrap::MoveError,
    rng::RandomError,
    root::RootError,
};
use keyfold_providers::UriError;
use pyo3::{
    PyErr, Python,
    exceptions::{PyTypeError, PyValueError},
    prelude::*,
    sync::PyOnceLock,
};

/// Why a call did not do what was asked. Its texts never hold a secret, a key or an envelope.
pub(crate) enum Failure {
    /// Raised as the class of its code.
    Coded { code: Code, message: String, hint: Option<String> },
    /// The caller's mistake, as Python calls it.
    Python(PyErr),
}

impl Failure {
    pub(crate) fn coded(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Coded { code, message: message.into(), hint: Some(hint.into()) }
    }

    /// An argument of a type that the function does not take. Only the type is named.
    pub(crate) fn type_error(message: impl Into<String>) -> Self {
        Self::Python(PyTypeError::new_err(message.into()))
    }

    /// An argument with a value that the function does not take.
    pub(crate) fn value_error(message: impl Into<String>) -> Self {
        Self::Python(PyValueError::new_err(message.into()))
    }

    fn new(error: &dyn std::error::Error, code: Code, hint: Option<String>) -> Self {
        Self::Coded { code, message: error.to_string(), hint }
    }

    /// Says which item of a batch it was.
    pub(crate) fn of_item(self, index: usize) -> Self {
        match self {
            Self::Coded { code, message, hint } => {
                Self::Coded { code, message: format!("item {index}: {message}"), hint }
            }
            other => other,
        }
    }

    /// The exception, made and not raised.
    pub(crate) fn into_exception(self, py: Python<'_>) -> PyErr {
        static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let (code, message, hint) = match self {
            Self::Coded { code, message, hint } => (code, message, hint),
            Self::Python(error) => return error,
        };
        let made =
            MAKE.import(py, "keyfold._errors", "of_code").and_then(|make| make.call1((code.as_str(), message, hint)));
        made.map_or_else(|error| error, PyErr::from_value)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        Python::attach(|py| failure.into_exception(py))
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Python(error)
    }
}

macro_rules! from_errors_with_code_and_hint {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(&error, error.code(), error.hint())
            }
        }
    )*};
}

from_errors_with_code_and_hint!(DocumentError, KeyringError, RandomError, RootError, UriError);

// Where the core's hint names the command line, a caller in Python is told what to do in Python.

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        let make = |variable: &str, call: &str| {
            Some(format!("make one: export {variable}=\"$(python -c 'import keyfold; print({call})')\""))
        };
        let hint = match &error {
            _ if error.mend().is_some() => error.hint(),
            KeyError::Missing { variable: place }
            | KeyError::NotBase64 { place, .. }
            | KeyError::Length { place, .. } => {
                if place.starts_with(FERNET_KEY_VARIABLE) {
                    make(FERNET_KEY_VARIABLE, "keyfold.Fernet.generate_key().decode()")
                } else {
                    make(MASTER_KEY_VARIABLE, "keyfold.generate_key()")
                }
            }
            other => other.hint(),
        };
        Self::new(&error, error.code(), hint)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let hint = match &error {
            OpenError::NotEncrypted => {
                Some("seal it with `keyfold.seal`, or find out who stored it in plaintext".into())
            }
            OpenError::Disguised { .. } => {
                Some("strip what surrounds the envelope and store exactly what `keyfold.seal` returned".into())
            }
            OpenError::ContextMismatchOrTampered { .. } => {
                Some("was it copied from another record or field? give the same `context` it was sealed with".into())
            }
            OpenError::FormatNotAccepted { .. } => Some("add the format to `accept` if that is meant".into()),
            other => other.hint(),
        };
        Self::new(&error, error.code(), hint)
    }
}

impl From<SealError> for Failure {
    fn from(error: SealError) -> Self {
        let hint = match &error {
            SealError::NotText => Some("use format=\"kf1\", which seals any bytes".into()),
            SealError::NoPrimary { format } => Some(format!("give a keyring whose first key serves {format}")),
            other => other.hint(),
        };
        Self::new(&error, error.code(), hint)
    }
}

impl From<MoveError> for Failure {
    fn from(error: MoveError) -> Self {
        match error {
            MoveError::Open(error) => error.into(),
            MoveError::Seal(error) => error.into(),
            other => Self::new(&other, other.code(), other.hint()),
        }
    }
}

impl From<ContextError> for Failure {
    fn from(error: ContextError) -> Self {
        let hint = match &error {
            ContextError::EmptyKey => Some("give every entry of the context a name".into()),
            other => other.hint(),
        };
        Self::new(&error, error.code(), hint)
    }
}

impl From<AcceptError> for Failure {
    fn from(error: AcceptError) -> Self {
        match error {
            // What was given is not repeated, as below.
            AcceptError::UnknownFormat(_) => {
                Self::value_error("accept: the formats are \"kf1\", \"v1\", \"fernet\" and \"plaintext\"")
            }
            other => Self::value_error(format!("accept: {other}")),
        }
    }
}

impl From<ParseFormatError> for Failure {
    fn from(_: ParseFormatError) -> Self {
        // What was given is not repeated: arguments get mixed up, and one of them is the secret.
        Self::value_error("the formats are \"kf1\", \"v1\" and \"fernet\"")
    }
}
