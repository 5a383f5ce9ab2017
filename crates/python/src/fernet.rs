//! `Fernet` and `MultiFernet`, with the methods, arguments and results of those in Python's `cryptography`.
//!
//! Different on purpose: what does not open raises `keyfold.InvalidToken`, which says why; secrets end at 1 MiB; one spelling
//! of a key and of a token is taken, unless `compat=True` asks for Python's looser reading of tokens.

use std::sync::Arc;

use keyfold_core::{
    clock::UnixTime,
    envelope::{
        Format, OpenError, Reading,
        fernet::{FernetKey, MaxAge, Token, seal},
    },
    keyring::{fernet_to_text, parse_fernet},
    rng::{SystemRandom, array},
    secret::{Key32, Secret},
};
use pyo3::{
    exceptions::PyTypeError,
    prelude::*,
    sync::PyOnceLock,
    types::{PyBytes, PyTuple},
};

use crate::{
    arguments::{Given, type_name},
    clock,
    failure::Failure,
    unlocked::unlocked_if_large,
};

/// Seals bytes under one key, as ``cryptography.fernet.Fernet`` does. The cipher is AES-128.
#[pyclass(frozen, module = "keyfold")]
pub(crate) struct Fernet {
    key: Arc<FernetKey>,
    reading: Reading,
}

/// Several Fernet keys: the first seals, all open, as ``cryptography.fernet.MultiFernet`` does.
#[pyclass(frozen, module = "keyfold")]
pub(crate) struct MultiFernet {
    keys: Vec<Arc<FernetKey>>,
    reading: Reading,
}

/// What both classes do.
struct Keys<'a> {
    keys: &'a [Arc<FernetKey>],
    reading: Reading,
}

impl Keys<'_> {
    fn encrypt<'py>(&self, data: &Bound<'py, PyAny>, now: UnixTime) -> PyResult<Bound<'py, PyBytes>> {
        let py = data.py();
        let Ok(data) = data.cast::<PyBytes>() else {
            return Err(PyTypeError::new_err(format!("data must be bytes, not {}", type_name(data))));
        };
        let (key, bytes) = (&self.keys[0], data.as_bytes());
        let token =
            unlocked_if_large(py, bytes.len(), || seal(key, &SystemRandom, bytes, now)).map_err(Failure::from)?;
        Ok(PyBytes::new(py, token.as_bytes()))
    }

    fn open(&self, py: Python<'_>, token: &Bound<'_, PyAny>, age: Option<MaxAge>) -> PyResult<(Secret, UnixTime)> {
        let token = match Given::of(token) {
            Ok(token) => token,
            Err(Failure::Coded { .. }) => return Err(invalid(py, malformed())),
            Err(_) => {
                return Err(PyTypeError::new_err(format!("token must be bytes or str, not {}", type_name(token))));
            }
        };
        let Ok(text) = token.as_stored() else { return Err(invalid(py, malformed())) };
        unlocked_if_large(py, text.len(), || self.try_each(text, age)).map_err(|error| invalid(py, error.into()))
    }

    fn try_each(&self, text: &str, age: Option<MaxAge>) -> Result<(Secret, UnixTime), OpenError> {
        let token = Token::parse(text, self.reading)?;
        for key in self.keys {
            if let Some(secret) = token.open(key, age)? {
                return Ok((secret, token.timestamp()));
            }
        }
        let tried = self.keys.iter().map(|key| key.kid()).collect();
        Err(OpenError::WrongKeyOrTampered { format: Format::Fernet, tried })
    }

    fn decrypt<'py>(&self, token: &Bound<'py, PyAny>, age: Option<MaxAge>) -> PyResult<Bound<'py, PyBytes>> {
        let py = token.py();
        Ok(PyBytes::new(py, self.open(py, token, age)?.0.expose()))
    }
}

fn malformed() -> Failure {
    OpenError::Malformed { format: Format::Fernet, offset: 0, what: "not text" }.into()
}

/// `InvalidToken`, caused by the error of the code.
fn invalid(py: Python<'_>, failure: Failure) -> PyErr {
    static INVALID: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let cause = failure.into_exception(py);
    let made = INVALID.import(py, "keyfold._errors", "invalid_token").and_then(|make| make.call1((cause.value(py),)));
    made.map_or_else(|error| error, PyErr::from_value)
}

fn age(ttl: Option<u64>, now: UnixTime) -> Option<MaxAge> {
    ttl.map(|ttl| MaxAge { ttl, now })
}

fn needed_age(ttl: Option<u64>, current_time: u64) -> PyResult<Option<MaxAge>> {
    match ttl {
        Some(_) => Ok(age(ttl, UnixTime(current_time))),
        None => Err(Failure::value_error("decrypt_at_time() can only be used with a non-None ttl").into()),
    }
}

const fn reading(compat: bool) -> Reading {
    if compat { Reading::Compat } else { Reading::Strict }
}

#[pymethods]
impl Fernet {
    /// Takes a key as ``generate_key`` makes it: base64url of 32 bytes.
    #[new]
    #[pyo3(signature = (key, *, compat=false))]
    fn new(key: &Bound<'_, PyAny>, compat: bool) -> Result<Self, Failure> {
        let given = Given::of(key)?;
        let text = given.as_stored().unwrap_or_default();
        let key = parse_fernet("key", text).map_err(|error| {
            let message = format!("Fernet key must be 32 url-safe base64-encoded bytes: {error}");
            Failure::coded(error.code(), message, "`keyfold.Fernet.generate_key()` makes one")
        })?;
        Ok(Self { key: Arc::new(key), reading: reading(compat) })
    }

    /// A new key, to be kept somewhere safe.
    #[staticmethod]
    fn generate_key(py: Python<'_>) -> Result<Bound<'_, PyBytes>, Failure> {
        Ok(PyBytes::new(py, fernet_to_text(&Key32::new(array(&SystemRandom)?)).as_bytes()))
    }

    /// The token of ``data``, with the present time in it.
    fn encrypt<'py>(&self, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        self.keys().encrypt(data, clock::now())
    }

    /// The token of ``data``, made at ``current_time`` (seconds since the epoch).
    fn encrypt_at_time<'py>(&self, data: &Bound<'py, PyAny>, current_time: u64) -> PyResult<Bound<'py, PyBytes>> {
        self.keys().encrypt(data, UnixTime(current_time))
    }

    /// What is in ``token``; with ``ttl``, only if it is not older than so many seconds. Raises InvalidToken.
    #[pyo3(signature = (token, ttl=None))]
    fn decrypt<'py>(&self, token: &Bound<'py, PyAny>, ttl: Option<u64>) -> PyResult<Bound<'py, PyBytes>> {
        self.keys().decrypt(token, age(ttl, clock::now()))
    }

    /// As ``decrypt`` would at ``current_time``.
    fn decrypt_at_time<'py>(
        &self,
        token: &Bound<'py, PyAny>,
        ttl: Option<u64>,
        current_time: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.keys().decrypt(token, needed_age(ttl, current_time)?)
    }

    /// When ``token`` was made, in seconds since the epoch. Raises InvalidToken where it does not authenticate.
    fn extract_timestamp(&self, py: Python<'_>, token: &Bound<'_, PyAny>) -> PyResult<u64> {
        Ok(self.keys().open(py, token, None)?.1.0)
    }

    /// The id by which errors name this key.
    #[getter]
    fn kid(&self) -> String {
        self.key.kid().to_string()
    }

    fn __repr__(&self) -> String {
        format!("<Fernet {}>", self.key.kid())
    }
}

impl Fernet {
    fn keys(&self) -> Keys<'_> {
        Keys { keys: std::slice::from_ref(&self.key), reading: self.reading }
    }
}

#[pymethods]
impl MultiFernet {
    /// Takes ``Fernet`` objects, the one that seals first.
    #[new]
    fn new(fernets: &Bound<'_, PyAny>) -> Result<Self, Failure> {
        let mut keys = Vec::new();
        let mut reading = Reading::Strict;
        for fernet in fernets.try_iter()? {
            let fernet = fernet?;
            let fernet = fernet
                .cast::<Fernet>()
                .map_err(|_| Failure::type_error(format!("Fernet objects are needed, not {}", type_name(&fernet))))?;
            keys.push(Arc::clone(&fernet.get().key));
            if fernet.get().reading == Reading::Compat {
                reading = Reading::Compat;
            }
        }
        if keys.is_empty() {
            return Err(Failure::value_error("MultiFernet requires at least one Fernet instance"));
        }
        Ok(Self { keys, reading })
    }

    /// The token of ``msg`` under the first key.
    fn encrypt<'py>(&self, msg: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        self.keys().encrypt(msg, clock::now())
    }

    /// The token of ``msg`` under the first key, made at ``current_time``.
    fn encrypt_at_time<'py>(&self, msg: &Bound<'py, PyAny>, current_time: u64) -> PyResult<Bound<'py, PyBytes>> {
        self.keys().encrypt(msg, UnixTime(current_time))
    }

    /// What is in ``msg``, whichever key sealed it. Raises InvalidToken.
    #[pyo3(signature = (msg, ttl=None))]
    fn decrypt<'py>(&self, msg: &Bound<'py, PyAny>, ttl: Option<u64>) -> PyResult<Bound<'py, PyBytes>> {
        self.keys().decrypt(msg, age(ttl, clock::now()))
    }

    /// As ``decrypt`` would at ``current_time``.
    fn decrypt_at_time<'py>(
        &self,
        msg: &Bound<'py, PyAny>,
        ttl: Option<u64>,
        current_time: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.keys().decrypt(msg, needed_age(ttl, current_time)?)
    }

    /// The same content under the first key, with the timestamp it had.
    fn rotate<'py>(&self, py: Python<'py>, msg: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let (secret, made) = self.keys().open(py, msg, None)?;
        let bytes = secret.expose();
        let token = unlocked_if_large(py, bytes.len(), || seal(&self.keys[0], &SystemRandom, bytes, made))
            .map_err(Failure::from)?;
        Ok(PyBytes::new(py, token.as_bytes()))
    }

    /// When ``msg`` was made, in seconds since the epoch. Raises InvalidToken where it does not authenticate.
    fn extract_timestamp(&self, py: Python<'_>, msg: &Bound<'_, PyAny>) -> PyResult<u64> {
        Ok(self.keys().open(py, msg, None)?.1.0)
    }

    /// The ids of the keys, the one that seals first.
    #[getter]
    fn kids<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.keys.iter().map(|key| key.kid().to_string()))
    }

    fn __repr__(&self) -> String {
        let kids: Vec<_> = self.keys.iter().map(|key| key.kid().to_string()).collect();
        format!("<MultiFernet {}>", kids.join(", "))
    }
}

impl MultiFernet {
    fn keys(&self) -> Keys<'_> {
        Keys { keys: &self.keys, reading: self.reading }
    }
}
