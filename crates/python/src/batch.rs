//! `seal_many` and `open_many`: lists, without the GIL, on as many threads as are worth it.
//!
//! The threads live for one call. A pool would be faster to start and would not survive `fork()`.

use std::{
    num::NonZero,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use keyfold_core::{
    context::ContextDigest,
    envelope::{Format, OpenError},
    error::Code,
    keyring::{self, Purpose},
    rng::{Fresh, SystemRandom},
};
use pyo3::{
    prelude::*,
    types::{PyList, PyMapping, PyString},
};

use crate::{
    arguments::{Given, How, Place, Text},
    clock, environment,
    failure::Failure,
    keyring::Chosen,
    operations::{place, sealing, shown},
    unlocked::unlocked,
};

/// Fewer items than this take less time than starting a thread for them.
const WORTH_A_THREAD: usize = 128;
const MOST_THREADS: usize = 16;
/// What a thread takes at a time.
const SHARE: usize = 32;

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
    fn of(keyring: Chosen<'_, '_>, items: &[Result<Given, Failure>]) -> Result<Self, Failure> {
        if let Some(given) = keyring {
            let given = &given.get().0;
            return Ok(Self { fernet: Some(Ok(Arc::clone(given))), other: Some(Ok(Arc::clone(given))) });
        }
        let needed = |purpose: Purpose| {
            let mut stored = items.iter().flatten().filter_map(|item| item.as_stored().ok());
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

/// Each item as what it is, or why it is none.
fn given(items: &Bound<'_, PyAny>) -> Result<Vec<Result<Given, Failure>>, Failure> {
    // A single str or bytes is a sequence to Python, and never what is meant.
    if Given::of(items).is_ok() {
        return Err(Failure::type_error("a list of str or bytes is needed, not a single one"));
    }
    items.try_iter()?.map(|item| Ok(Given::of(&item?))).collect()
}

/// Runs `work` on every item, without the GIL; the results are in the order of the items.
fn each<T: Send>(
    py: Python<'_>,
    items: &[Result<Given, Failure>],
    work: impl Fn(usize, &Given) -> Result<T, Failure> + Sync,
) -> Vec<Option<Result<T, Failure>>> {
    let one = |index: usize, item: &Result<Given, Failure>| item.as_ref().ok().map(|given| work(index, given));
    let threads = threads_for(items.len());
    unlocked(py, || {
        if threads == 1 {
            return items.iter().enumerate().map(|(index, item)| one(index, item)).collect();
        }
        // Each takes the next share when it is done with one, so that a thread that has to wait for a core holds nobody up.
        let (next, shares) = (AtomicUsize::new(0), items.chunks(SHARE).enumerate());
        let take = || {
            let mut done = Vec::new();
            while let Some((share, items)) = shares.clone().nth(next.fetch_add(1, Ordering::Relaxed)) {
                let results = items.iter().enumerate().map(|(at, item)| one(share * SHARE + at, item));
                done.push((share, results.collect::<Vec<_>>()));
            }
            done
        };
        let mut done = thread::scope(|scope| {
            // Where the system gives no more threads, those that there are do it all.
            let start = |_| thread::Builder::new().spawn_scoped(scope, take).ok();
            let others: Vec<_> = (1..threads).map_while(start).collect();
            let mut done = take();
            for other in others {
                done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            done
        });
        done.sort_unstable_by_key(|&(share, _)| share);
        done.into_iter().flat_map(|(_, results)| results).collect()
    })
}

/// How many threads are worth starting. The cores are counted once: it takes as long as sealing twenty secrets.
fn threads_for(items: usize) -> usize {
    static CORES: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get).min(MOST_THREADS));
    match items / WORTH_A_THREAD {
        0 | 1 => 1,
        worth => worth.min(*CORES),
    }
}

/// The results as a list: the first failure is raised, or each stands in its item's place.
fn collected<'py, T>(
    py: Python<'py>,
    items: Vec<Result<Given, Failure>>,
    results: Vec<Option<Result<T, Failure>>>,
    return_exceptions: bool,
    show: impl Fn(T) -> Result<Bound<'py, PyAny>, Failure>,
) -> Result<Bound<'py, PyList>, Failure> {
    let list = PyList::empty(py);
    for (index, (item, result)) in items.into_iter().zip(results).enumerate() {
        let shown = match (item, result) {
            (Err(failure), _) => Err(failure),
            (Ok(_), Some(result)) => result.and_then(&show),
            (Ok(_), None) => continue,
        };
        match shown {
            Ok(shown) => list.append(shown)?,
            Err(failure) if return_exceptions => list.append(failure.into_exception(py).into_value(py))?,
            Err(failure) => return Err(failure.of_item(index)),
        }
    }
    Ok(list)
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
    let secrets = given(secrets)?;
    let (keyring, places) = (sealing(keyring, format)?, Places::of(context, secrets.len())?);
    let fresh = Fresh { random: &SystemRandom, now: clock::now() };
    let sealed =
        each(py, &secrets, |index, secret| Ok(keyring.seal(format, places.at(index), secret.as_bytes(), fresh)?.text));
    collected(py, secrets, sealed, return_exceptions, |text| Ok(PyString::new(py, &text).into_any()))
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
    let stored = given(stored)?;
    let places = Places::of(context, stored.len())?;
    let keyrings = Keyrings::of(keyring, &stored)?;
    let reader = how.reader();
    let opened = each(py, &stored, |index, value| {
        let value = value.as_stored()?;
        Ok(keyrings.of_value(value)?.open(value, places.at(index), &reader)?.secret)
    });
    collected(py, stored, opened, return_exceptions, |secret| shown(py, &secret, text))
}
