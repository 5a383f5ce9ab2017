//! What Python hands in: text or bytes, contexts, accept lists. Checked once, here.
//!
//! A conversion that fails names the type it found and never the value: an argument may be the secret.

use std::sync::LazyLock;

use keyfold_core::{
    accept::{Accept, Accepted, Rule},
    clock::UnixTime,
    context::{Context, ContextDigest},
    envelope::{Format, Reading, fernet::MaxAge},
    error::Code,
    keyring::Reader,
};
use pyo3::{
    prelude::*,
    pybacked::{PyBackedBytes, PyBackedStr},
    types::{PyBytes, PyDict, PyMapping, PyString},
};

use crate::failure::Failure;

/// A `str` or `bytes`, looked at where it lies. It may be used without the GIL and is dropped with it.
pub(crate) enum Given {
    Text(PyBackedStr),
    Bytes(PyBackedBytes),
}

impl Given {
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> Result<Self, Failure> {
        if let Ok(text) = object.cast::<PyString>() {
            // Python's own error would hold the whole text, which may be the secret.
            return PyBackedStr::try_from(text.clone()).map(Self::Text).map_err(|_| not_unicode());
        }
        if let Ok(bytes) = object.cast::<PyBytes>() {
            return Ok(Self::Bytes(bytes.clone().into()));
        }
        Err(Failure::type_error(format!("str or bytes is needed, not {}", type_name(object))))
    }

    pub(crate) fn value(&self) -> Value<'_> {
        match self {
            Self::Text(text) => Value::Text(text),
            Self::Bytes(bytes) => Value::Bytes(bytes),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.value().as_bytes()
    }

    /// As what a store holds, which is text.
    pub(crate) fn as_stored(&self) -> Result<&str, Failure> {
        self.value().as_stored()
    }
}

/// What is in a `str` or `bytes`.
#[derive(Clone, Copy)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub(crate) fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    /// As what a store holds, which is text.
    pub(crate) fn as_stored(self) -> Result<&'a str, Failure> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Bytes(bytes) => std::str::from_utf8(bytes).map_err(|_| {
                Failure::coded(
                    Code::Malformed,
                    "malformed: the value is not text",
                    "envelopes are text; give it as it was sealed",
                )
            }),
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for Given {
    type Error = Failure;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> Result<Self, Failure> {
        Self::of(&object)
    }
}

/// A `str`.
pub(crate) struct Text(PyBackedStr);

impl std::ops::Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'py> FromPyObject<'_, 'py> for Text {
    type Error = Failure;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> Result<Self, Failure> {
        match Given::of(&object) {
            Ok(Given::Text(text)) => Ok(Self(text)),
            Err(failure @ Failure::Coded { .. }) => Err(failure),
            _ => Err(Failure::type_error(format!("str is needed, not {}", type_name(&object)))),
        }
    }
}

pub(crate) fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or_else(|_| "something else".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn not_unicode() -> Failure {
    Failure::coded(
        Code::Malformed,
        "malformed: the text has a lone surrogate, which no encoding holds",
        "read it from where it came with the right encoding, or give bytes",
    )
}

/// The digest of the context without entries.
pub(crate) static NO_CONTEXT: LazyLock<ContextDigest> = LazyLock::new(|| Context::empty().digest());

/// The digest of a mapping of names to `str` or `bytes`.
pub(crate) struct Place(pub(crate) ContextDigest);

impl<'py> FromPyObject<'_, 'py> for Place {
    type Error = Failure;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> Result<Self, Failure> {
        if let Ok(dict) = object.cast::<PyDict>() {
            return digest(dict.iter());
        }
        let mapping = object
            .cast::<PyMapping>()
            .map_err(|_| Failure::type_error(format!("context: a dict is needed, not {}", type_name(&object))))?;
        let items = mapping.items()?;
        let pairs = items.iter().map(|item| item.extract::<(Bound<'py, PyAny>, Bound<'py, PyAny>)>());
        digest(pairs.collect::<PyResult<Vec<_>>>()?.into_iter())
    }
}

fn digest<'py>(items: impl Iterator<Item = (Bound<'py, PyAny>, Bound<'py, PyAny>)>) -> Result<Place, Failure> {
    let mut context = Context::empty();
    for (name, value) in items {
        context = context.with(Given::of(&name)?.as_bytes(), Given::of(&value)?.as_bytes())?;
    }
    Ok(Place(context.digest()))
}

/// How a call reads what it is given.
pub(crate) struct How {
    accept: Accept,
    now: UnixTime,
    reading: Reading,
    max_age: Option<u64>,
}

impl How {
    /// `accept` names formats; plaintext is accepted for this call alone. An age is something that only Fernet has.
    pub(crate) fn new(
        accept: Option<Vec<Text>>,
        compat: bool,
        max_age: Option<u64>,
        now: UnixTime,
    ) -> Result<Self, Failure> {
        let accept = match (accept, max_age) {
            (Some(names), _) => {
                let rule = |name: &Text| Rule::new(name, (&**name == "plaintext").then(|| now.date()));
                Accept::new(names.iter().map(rule).collect::<Result<Vec<_>, _>>()?)?
            }
            (None, Some(_)) => Accept::only(Format::Fernet),
            (None, None) => Accept::any_sealed(),
        };
        if max_age.is_some() && accept.rules().iter().any(|rule| rule.what != Accepted::Sealed(Format::Fernet)) {
            return Err(Failure::value_error("max_age asks for an age, and only fernet holds a time"));
        }
        Ok(Self { accept, now, reading: if compat { Reading::Compat } else { Reading::Strict }, max_age })
    }

    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader {
            accept: &self.accept,
            today: self.now.date(),
            reading: self.reading,
            max_age: self.max_age.map(|ttl| MaxAge { ttl, now: self.now }),
        }
    }
}
