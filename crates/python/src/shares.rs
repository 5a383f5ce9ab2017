//! Work on the items of a list, by the share, without the GIL, on as many threads as are worth it.
//!
//! The threads live for one call. A pool would be faster to start and would not survive `fork()`.

use std::{
    collections::BTreeMap,
    iter,
    num::NonZero,
    ops::Range,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use keyfold_core::secret::wipe;
use pyo3::prelude::*;

use crate::{arguments::Value, failure::Failure, items::Items, operations, unlocked::unlocked};

/// Fewer items than this take less time than starting a thread for them.
const WORTH_A_THREAD: usize = 128;
const MOST_THREADS: usize = 16;
/// What a thread takes at a time.
const SHARE: usize = 32;
/// How often at most the GIL is taken for results, and how many shares are done at least in between.
const TURNS: usize = 32;
const LEAST_TURN: usize = 3;

/// A result as Python sees it; `None` for what was no item.
pub(crate) type Shown = Option<Result<Py<PyAny>, Failure>>;

/// The results of a share: one buffer, since memory that one thread allocates and another frees costs them both.
struct Done {
    bytes: Vec<u8>,
    /// Where each result lies, or why there is none.
    results: Vec<Option<Result<Range<usize>, Failure>>>,
}

impl Drop for Done {
    fn drop(&mut self) {
        wipe(&mut self.bytes);
    }
}

impl Done {
    fn of(
        items: &Items,
        share: Range<usize>,
        work: impl Fn(usize, Value<'_>, &mut Vec<u8>) -> Result<(), Failure>,
    ) -> Self {
        // A secret is never longer than what it was sealed in. So a buffer of secrets does not grow, which would leave copies
        // behind that nobody wipes.
        let size = share.clone().filter_map(|index| items.at(index)).map(|item| item.as_bytes().len()).sum();
        let mut done = Self { bytes: Vec::with_capacity(size), results: Vec::with_capacity(share.len()) };
        for index in share {
            let start = done.bytes.len();
            let result = items.at(index).map(|item| work(index, item, &mut done.bytes));
            let end = done.bytes.len();
            done.results.push(result.map(|result| result.map(|()| start..end)));
        }
        done
    }

    /// Runs no Python code, which could fork, and wait for the threads of this very call.
    fn show(mut self, py: Python<'_>, text: bool, shown: &mut Vec<Shown>) {
        let results = std::mem::take(&mut self.results).into_iter();
        let show = |place: Range<usize>| Ok(operations::shown(py, &self.bytes[place], text)?.unbind());
        shown.extend(results.map(|one| one.map(|result| result.and_then(show))));
    }
}

/// Runs `work`, which appends the result of an item, on every item; the results are in the order of the items.
pub(crate) fn each(
    py: Python<'_>,
    items: &Items,
    text: bool,
    work: impl Fn(usize, Value<'_>, &mut Vec<u8>) -> Result<(), Failure> + Sync,
) -> Vec<Shown> {
    let mut shown = Vec::with_capacity(items.len());
    let threads = threads_for(items.len());
    let share = |first: usize| Done::of(items, first..items.len().min(first + SHARE), &work);
    if threads == 1 {
        let done: Vec<_> = unlocked(py, || (0..items.len()).step_by(SHARE).map(share).collect());
        done.into_iter().for_each(|done| done.show(py, text, &mut shown));
        return shown;
    }
    unlocked(py, || {
        // Each takes the next share when it is done with one, so that a thread that has to wait for a core holds nobody up.
        let next = AtomicUsize::new(0);
        let take = || {
            let first = next.fetch_add(SHARE, Ordering::Relaxed);
            (first < items.len()).then(|| (first, share(first)))
        };
        let (send, finished) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 1..threads {
                let send = send.clone();
                let others = move || while take().is_some_and(|done| send.send(done).is_ok()) {};
                // Where the system gives no more threads, those that there are do it all.
                if thread::Builder::new().spawn_scoped(scope, others).is_err() {
                    break;
                }
            }
            drop(send);
            // Results become Python's while the others work on, and soon their memory is used again: fresh memory costs
            // more than what is put into it.
            let mut waiting = BTreeMap::new();
            let turn = (items.len() / SHARE / TURNS).max(LEAST_TURN);
            let mut show = |waiting: &mut BTreeMap<usize, Done>| {
                Python::attach(|py| {
                    while let Some(done) = waiting.remove(&shown.len()) {
                        done.show(py, text, &mut shown);
                    }
                });
            };
            loop {
                let own: Vec<_> = iter::from_fn(take).take(turn).collect();
                let last = own.len() < turn;
                waiting.extend(own.into_iter().chain(finished.try_iter()));
                show(&mut waiting);
                if last {
                    break;
                }
            }
            waiting.extend(finished.iter());
            show(&mut waiting);
        });
    });
    shown
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
