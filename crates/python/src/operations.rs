//! `seal`, `open`, `rewrap` and `inspect`, one value at a time.

use std::sync::Arc;

use keyfold_core::{
    context::ContextDigest,
    envelope::Format,
    error::Code,
    inspect as look,
    keyring::{self, Purpose},
    rewrap::{How as Extent, Move, Mover, Target},
    rng::{Fresh, SystemRandom},
};
use pyo3::{
    prelude::*,
    types::{PyBytes, PyString},
};

use crate::{
    arguments::{Given, How, NO_CONTEXT, Place, Text},
    clock, environment,
    failure::Failure,
    keyring::Chosen,
    unlocked::unlocked_if_large,
};

/// The context that was given, or the one without entries.
pub(crate) fn place(context: Option<Place>) -> ContextDigest {
    context.map_or(*NO_CONTEXT, |place| place.0)
}

/// The keyring that was given, or the environment's.
pub(crate) fn sealing(keyring: Chosen<'_, '_>, format: Format) -> Result<Arc<keyring::Keyring>, Failure> {
    keyring.map_or_else(|| environment::keyring(Purpose::of(format)), |given| Ok(Arc::clone(&given.get().0)))
}

/// As [`sealing`], for a stored value.
fn opening(keyring: Chosen<'_, '_>, stored: &str) -> Result<Arc<keyring::Keyring>, Failure> {
    let of_environment = || environment::keyring(environment::purpose_for(stored));
    keyring.map_or_else(of_environment, |given| Ok(Arc::clone(&given.get().0)))
}

/// A result, for instance an opened secret, as Python sees it.
pub(crate) fn shown<'py>(py: Python<'py>, bytes: &[u8], text: bool) -> Result<Bound<'py, PyAny>, Failure> {
    if !text {
        return Ok(PyBytes::new(py, bytes).into_any());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| {
        let hint = "open it without text=True, as bytes";
        Failure::coded(Code::Malformed, "malformed: the secret opened, and is not UTF-8 text", hint)
    })?;
    Ok(PyString::new(py, text).into_any())
}

/// Seals a secret and returns the text to store.
///
/// ``format`` is "kf1" (the default), "v1" (redis-sre-agent's) or "fernet" (Auto SRE's). A kf1 envelope opens only with the
/// same ``context``, a dict that names the place the value belongs to; the other formats bind none. Without a keyring, the
/// environment's key is used.
#[pyfunction]
#[pyo3(signature = (secret, keyring=None, *, format="kf1", context=None))]
pub(crate) fn seal(
    py: Python<'_>,
    secret: Given,
    keyring: Chosen<'_, '_>,
    format: &str,
    context: Option<Place>,
) -> Result<String, Failure> {
    let format: Format = format.parse()?;
    let (keyring, place) = (sealing(keyring, format)?, place(context));
    let fresh = Fresh { random: &SystemRandom, now: clock::now() };
    let bytes = secret.as_bytes();
    Ok(unlocked_if_large(py, bytes.len(), || keyring.seal(format, &place, bytes, fresh))?.text)
}

/// Opens what ``seal`` returned, as bytes, or with ``text=True`` as str.
///
/// ``accept`` lists the formats to take ("kf1", "v1", "fernet", "plaintext"); by default every sealed one, and never
/// plaintext. ``max_age`` is in seconds and for Fernet only. ``compat`` also takes spellings that only the Python originals
/// take. Raises a subclass of KeyfoldError, and returns nothing, where the value does not open.
#[pyfunction]
#[pyo3(signature = (stored, keyring=None, *, context=None, accept=None, compat=false, max_age=None, text=false))]
pub(crate) fn open<'py>(
    py: Python<'py>,
    stored: Given,
    keyring: Chosen<'_, 'py>,
    context: Option<Place>,
    accept: Option<Vec<Text>>,
    compat: bool,
    max_age: Option<u64>,
    text: bool,
) -> Result<Bound<'py, PyAny>, Failure> {
    let how = How::new(accept, compat, max_age, clock::now())?;
    let stored = stored.as_stored()?;
    let (keyring, place) = (opening(keyring, stored)?, place(context));
    let opened = unlocked_if_large(py, stored.len(), || keyring.open(stored, &place, &how.reader()))?;
    shown(py, opened.secret.expose(), text)
}

/// Moves a sealed value to the keyring's primary key, and with ``to`` to another format, and returns the text to store.
///
/// The old value is opened and the new one opened again before anything is returned; a value that is where it should be
/// comes back as it is. The data key stays the same unless ``reseal=True``; a Fernet token keeps its timestamp.
#[pyfunction]
#[pyo3(signature = (stored, keyring=None, *, context=None, to=None, reseal=false, accept=None, compat=false))]
pub(crate) fn rewrap(
    py: Python<'_>,
    stored: Given,
    keyring: Chosen<'_, '_>,
    context: Option<Place>,
    to: Option<&str>,
    reseal: bool,
    accept: Option<Vec<Text>>,
    compat: bool,
) -> Result<String, Failure> {
    let now = clock::now();
    let how = How::new(accept, compat, None, now)?;
    let stored = stored.as_stored()?;
    let format: Option<Format> = to.map(str::parse).transpose()?;
    let keyring = match (keyring, format) {
        (None, Some(format)) => environment::both(environment::purpose_for(stored), Purpose::of(format))?,
        _ => opening(keyring, stored)?,
    };
    let place = place(context);
    let extent = if reseal { Extent::Reseal } else { Extent::Rewrap };
    let target = Target { format, plaintext_to: Format::Kf1, how: extent, stays: extent.stays(), now };
    let mover = Mover { keyring: &keyring, random: &SystemRandom, reader: how.reader(), target };
    Ok(match unlocked_if_large(py, stored.len(), || mover.plan(stored, &place))? {
        Move::Stay(_) => stored.to_owned(),
        Move::To { text, .. } => text,
    })
}

/// What a stored value shows to whoever holds no key. Nothing of the secret is in it, except its length.
#[pyclass(frozen, get_all, module = "keyfold")]
pub(crate) struct Inspection {
    /// "kf1", "v1", "fernet", "plaintext", "malformed", "malformed_v1", "unsupported_format" or "foreign".
    format: &'static str,
    /// The key that wraps it, where the format says so (kf1).
    kid: Option<String>,
    /// What stays the same through every rewrap (kf1).
    commitment: Option<String>,
    /// Seconds since the epoch, as the token claims (Fernet).
    timestamp: Option<u64>,
    /// Bytes of the stored value.
    size: usize,
    /// Bytes of the secret inside; for Fernet the most it can be.
    secret_size: Option<usize>,
    /// What is wrong with it, where it would be refused.
    problem: Option<String>,
}

#[pymethods]
impl Inspection {
    fn __repr__(&self) -> String {
        let kid = self.kid.as_ref().map_or(String::new(), |kid| format!(" under {kid}"));
        let problem = self.problem.as_ref().map_or(String::new(), |problem| format!(": {problem}"));
        format!("<Inspection {}{kid}, {} bytes{problem}>", self.format, self.size)
    }
}

/// Says what a stored value is. Needs no key and opens nothing.
#[pyfunction]
pub(crate) fn inspect(stored: Given) -> Result<Inspection, Failure> {
    let seen = look::inspect(stored.as_stored()?);
    Ok(Inspection {
        format: seen.format,
        kid: seen.kid.map(|kid| kid.to_string()),
        commitment: seen.commitment.map(|commitment| commitment.to_string()),
        timestamp: seen.timestamp.map(|time| time.0),
        size: seen.size,
        secret_size: seen.secret_size,
        problem: seen.problem,
    })
}
