//! `seal_many` and `open_many`.

use std::sync::Arc;

use keyfold_core::{
    context::ContextDigest,
    envelope::{Format, OpenError},
    error::Code,
    keyring::{self, Purpose},
    rng::{Fresh, SystemRandom},
};
use pyo3::{
    prelude::*,
    types::{PyList, PyMapping},
};

use crate::{
    arguments::{How, Place, Text},
    clock, environment,
    failure::Failure,
    items::Items,
    keyring::Chosen,
    operations::{place, sealing},
    shares::{Shown, each},
};

/// One context for all items, or one for each.
enum Places {
    Same(ContextDigest),
    Each(Vec<ContextDigest>),
}

impl Places {
    fn of(context: Option<&Bound<'_, PyAny>>, items: usize) -> Result<Self, Failure> {
        let Some(context) = context else { return Ok(Self::Same(place(None))) };
        if context.cast::<PyMapping>().is_ok() {
            return Ok(Self::Same(context.extract::<Place>()?.0));
        }
        let each = context.try_iter()?.map(|one| Ok(place(one?.extract::<Option<Place>>()?)));
        let each = each.collect::<Result<Vec<_>, Failure>>()?;
        if each.len() != items {
            return Err(Failure::value_error(format!("{} contexts for {items} items", each.len())));
        }
        Ok(Self::Each(each))
    }

    fn at(&self, index: usize) -> &ContextDigest {
        match self {
            Self::Same(place) => place,
            Self::Each(places) => &places[index],
        }
    }
}

/// The keyrings that a list needs, found before the GIL is released: nothing looks at the environment without it.
struct Keyrings {
    fernet: Option<Found>,
    other: Option<Found>,
}

/// A keyring, or why there is none, which every item hears that needs it.
type Found = Result<Arc<keyring::Keyring>, (Code, String, Option<String>)>;

impl Keyrings {
    fn of(keyring: Chosen<'_, '_>, items: &Items) -> Result<Self, Failure> {
        if let Some(given) = keyring {
            let given = &given.get().0;
            return Ok(Self { fernet: Some(Ok(Arc::clone(given))), other: Some(Ok(Arc::clone(given))) });
        }
        let needed = |purpose: Purpose| {
            let mut stored = items.iter().filter_map(|item| item.as_stored().ok());
            if !stored.any(|stored| environment::purpose_for(stored) == purpose) {
                return Ok(None);
            }
            match environment::keyring(purpose) {
                Ok(keyring) => Ok(Some(Ok(keyring))),
                Err(Failure::Coded { code, message, hint }) => Ok(Some(Err((code, message, hint)))),
                Err(other) => Err(other),
            }
        };
        Ok(Self { fernet: needed(Purpose::Fernet)?, other: needed(Purpose::Master)? })
    }

    fn of_value(&self, stored: &str) -> Result<&keyring::Keyring, Failure> {
        let found = match environment::purpose_for(stored) {
            Purpose::Fernet => &self.fernet,
            Purpose::Master => &self.other,
        };
        match found {
            Some(Ok(keyring)) => Ok(keyring),
            Some(Err((code, message, hint))) => {
                Err(Failure::Coded { code: *code, message: message.clone(), hint: hint.clone() })
            }
            // Every item was looked at in `of`, so this is never so.
            None => Err(OpenError::NotEncrypted.into()),
        }
    }
}

/// The results as a list: the first failure is raised, or each stands in its item's place.
fn collected(
    py: Python<'_>,
    items: Items,
    results: Vec<Shown>,
    return_exceptions: bool,
) -> Result<Bound<'_, PyList>, Failure> {
    let mut list = Vec::with_capacity(results.len());
    for (index, (refused, result)) in items.refused().zip(results).enumerate() {
        match refused.map(Err).or(result) {
            Some(Ok(shown)) => list.push(shown),
            Some(Err(failure)) if return_exceptions => list.push(failure.into_exception(py).into_value(py).into_any()),
            Some(Err(failure)) => return Err(failure.of_item(index)),
            None => {}
        }
    }
    Ok(PyList::new(py, list)?)
}

/// Seals a list of secrets, as ``seal`` does each, without the GIL.
///
/// ``context`` is one dict for all or a list with one for each. The first failure is raised and names its item, or with
/// ``return_exceptions=True`` every failure stands in the list where its result would.
#[pyfunction]
#[pyo3(signature = (secrets, keyring=None, *, format="kf1", context=None, return_exceptions=false))]
pub(crate) fn seal_many<'py>(
    py: Python<'py>,
    secrets: &Bound<'py, PyAny>,
    keyring: Chosen<'_, 'py>,
    format: &str,
    context: Option<&Bound<'py, PyAny>>,
    return_exceptions: bool,
) -> Result<Bound<'py, PyList>, Failure> {
    let format: Format = format.parse()?;
    let secrets = Items::of(secrets)?;
    let (keyring, places) = (sealing(keyring, format)?, Places::of(context, secrets.len())?);
    let fresh = Fresh { random: &SystemRandom, now: clock::now() };
    let sealed = each(py, &secrets, true, |index, secret, out| {
        let sealed = keyring.seal(format, places.at(index), secret.as_bytes(), fresh)?;
        out.extend_from_slice(sealed.text.as_bytes());
        Ok(())
    });
    collected(py, secrets, sealed, return_exceptions)
}

/// Opens a list of stored values, as ``open`` does each, without the GIL.
///
/// ``context`` and ``return_exceptions`` are as for ``seal_many``, everything else as for ``open``.
#[pyfunction]
#[pyo3(signature = (
    stored, keyring=None, *, context=None, accept=None, compat=false, max_age=None, text=false, return_exceptions=false
))]
pub(crate) fn open_many<'py>(
    py: Python<'py>,
    stored: &Bound<'py, PyAny>,
    keyring: Chosen<'_, 'py>,
    context: Option<&Bound<'py, PyAny>>,
    accept: Option<Vec<Text>>,
    compat: bool,
    max_age: Option<u64>,
    text: bool,
    return_exceptions: bool,
) -> Result<Bound<'py, PyList>, Failure> {
    let how = How::new(accept, compat, max_age, clock::now())?;
    let stored = Items::of(stored)?;
    let places = Places::of(context, stored.len())?;
    let keyrings = Keyrings::of(keyring, &stored)?;
    let reader = how.reader();
    let opened = each(py, &stored, text, |index, value, out| {
        let value = value.as_stored()?;
        let opened = keyrings.of_value(value)?.open(value, places.at(index), &reader)?;
        out.extend_from_slice(opened.secret.expose());
        Ok(())
    });
    collected(py, stored, opened, return_exceptions)
}
