//! What `keyfold.redis_sre_agent` and `keyfold.auto_sre` are made of: one format, the environment's key, text in and out.
//!
//! These are the calls that the two agents make for every secret, so nothing is built here that can be built once.

use std::sync::LazyLock;

use keyfold_core::{
    accept::Accept,
    clock::UnixTime,
    detect::{Detected, detect},
    envelope::{Format, OpenError, Reading},
    keyring::{Purpose, Reader},
    rng::{Fresh, SystemRandom},
};
use pyo3::{prelude::*, types::PyAny};

use crate::{
    arguments::{Given, NO_CONTEXT, Text},
    clock, environment,
    failure::Failure,
    operations::shown,
    unlocked::unlocked_if_large,
};

static ONLY_V1: LazyLock<Accept> = LazyLock::new(|| Accept::only(Format::V1));
static ONLY_FERNET: LazyLock<Accept> = LazyLock::new(|| Accept::only(Format::Fernet));

fn sealed(py: Python<'_>, format: Format, secret: &Text, now: UnixTime) -> Result<String, Failure> {
    let keyring = environment::keyring(Purpose::of(format))?;
    let fresh = Fresh { random: &SystemRandom, now };
    let bytes = secret.as_bytes();
    Ok(unlocked_if_large(py, bytes.len(), || keyring.seal(format, &NO_CONTEXT, bytes, fresh))?.text)
}

fn opened<'py>(
    py: Python<'py>,
    format: Format,
    accept: &Accept,
    stored: &Given,
    compat: bool,
) -> Result<Bound<'py, PyAny>, Failure> {
    let keyring = environment::keyring(Purpose::of(format))?;
    let stored = stored.as_stored()?;
    let reading = if compat { Reading::Compat } else { Reading::Strict };
    // No rule has a last day, so any day will do; no age is asked for.
    let reader = Reader { accept, today: UnixTime(0).date(), reading, max_age: None };
    let opened =
        unlocked_if_large(py, stored.len(), || keyring.open(stored, &*NO_CONTEXT, &reader)).map_err(refused)?;
    shown(py, opened.secret.expose(), true)
}

fn refused(error: OpenError) -> Failure {
    let hint = match error {
        OpenError::NotEncrypted => "seal it where it is stored, or set KEYFOLD_COMPAT=1 until that is done",
        OpenError::FormatNotAccepted { .. } => "this function reads one format; `keyfold.open` reads all of them",
        other => return other.into(),
    };
    Failure::coded(error.code(), error.to_string(), hint)
}

/// Seals text in redis-sre-agent's format under ``REDIS_SRE_MASTER_KEY``.
#[pyfunction]
pub(crate) fn v1_seal(py: Python<'_>, secret: Text) -> Result<String, Failure> {
    sealed(py, Format::V1, &secret, UnixTime(0))
}

/// Opens redis-sre-agent's format with ``REDIS_SRE_MASTER_KEY`` and its ``_PREVIOUS``.
#[pyfunction]
pub(crate) fn v1_open<'py>(py: Python<'py>, stored: Given, compat: bool) -> Result<Bound<'py, PyAny>, Failure> {
    opened(py, Format::V1, &ONLY_V1, &stored, compat)
}

/// Makes a Fernet token under ``SRE_AGENT_ENCRYPTION_KEY``.
#[pyfunction]
pub(crate) fn fernet_seal(py: Python<'_>, secret: Text) -> Result<String, Failure> {
    sealed(py, Format::Fernet, &secret, clock::now())
}

/// Opens a Fernet token with ``SRE_AGENT_ENCRYPTION_KEY`` and its ``_PREVIOUS``.
#[pyfunction]
pub(crate) fn fernet_open<'py>(py: Python<'py>, stored: Given, compat: bool) -> Result<Bound<'py, PyAny>, Failure> {
    opened(py, Format::Fernet, &ONLY_FERNET, &stored, compat)
}

/// Whether a stored value is, or was once, an envelope or somebody's ciphertext. What is neither text nor bytes is not.
#[pyfunction]
pub(crate) fn looks_sealed(stored: &Bound<'_, PyAny>) -> bool {
    Given::of(stored).is_ok_and(|given| given.as_stored().is_ok_and(|text| detect(text) != Detected::Plaintext))
}
