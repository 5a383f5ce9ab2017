//! Work without the GIL, and why `fork()` waits for it.
//!
//! The cryptographic library takes locks of its own for moments, for instance when it draws randomness. A thread that works
//! without the GIL could be inside one while another thread forks, and the child would wait for that lock for ever. So a
//! fork through Python (`os.fork`, `multiprocessing`, a pre-forking server) first waits until no work is done without the
//! GIL, and keeps new work from beginning without it until it is over. Work that holds the GIL needs no gate: the forking
//! thread has the GIL then.
//!
//! Others ask Python to call them around a fork too, before us and after us, and what they call may wait for a lock that a
//! thread holds which comes here. So nobody waits here for a fork to be over: work that finds the gate closed for longer
//! than a moment is done with the GIL.

use std::{
    cell::RefCell,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError},
    thread,
    time::Duration,
};

use pyo3::{prelude::*, types::PyDict};

/// Open for reading while there is no fork.
static GATE: RwLock<()> = RwLock::new(());

/// Closes the gate for as long as it is there.
struct Closed {
    _gate: RwLockWriteGuard<'static, ()>,
    /// What is called around a fork may fork.
    forks: u32,
}

thread_local! {
    /// Set where this thread closed the gate: it is about to fork, or just has.
    static CLOSED: RefCell<Option<Closed>> = const { RefCell::new(None) };
}

/// Below this many bytes a call is over before another thread could make use of the GIL.
const WORTH_A_RELEASE: usize = 16 << 10;
/// How often a closed gate is looked at again, and when.
const LOOKS: u32 = 50;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// Runs `work` without the GIL; with it, where somebody forks.
pub(crate) fn unlocked<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    let done = py.detach(|| match pass() {
        Some(_open) => Ok(work()),
        None => Err(work),
    });
    done.unwrap_or_else(|work| work())
}

/// Runs `work` on a value of so many bytes, without the GIL where it is large.
pub(crate) fn unlocked_if_large<T: Send>(py: Python<'_>, size: usize, work: impl FnOnce() -> T + Send) -> T {
    if size < WORTH_A_RELEASE { work() } else { unlocked(py, work) }
}

fn pass() -> Option<RwLockReadGuard<'static, ()>> {
    // This thread would wait for itself.
    if CLOSED.with_borrow(Option::is_some) {
        return None;
    }
    for _ in 0..LOOKS {
        match GATE.try_read() {
            Ok(open) => return Some(open),
            Err(TryLockError::Poisoned(open)) => return Some(open.into_inner()),
            Err(TryLockError::WouldBlock) => thread::sleep(BETWEEN_LOOKS),
        }
    }
    None
}

#[pyfunction]
fn before_fork(py: Python<'_>) {
    // Without the GIL: another thread that forks needs it to open the gate again.
    py.detach(|| {
        CLOSED.with_borrow_mut(|closed| match closed {
            Some(closed) => closed.forks += 1,
            None => *closed = Some(Closed { _gate: GATE.write().unwrap_or_else(PoisonError::into_inner), forks: 1 }),
        });
    });
}

#[pyfunction]
fn after_fork() {
    CLOSED.with_borrow_mut(|closed| match closed {
        Some(Closed { forks, .. }) if *forks > 1 => *forks -= 1,
        _ => *closed = None,
    });
}

/// Asks Python to call the two above around every fork.
pub(crate) fn register(py: Python<'_>) -> PyResult<()> {
    let hooks = PyDict::new(py);
    hooks.set_item("before", wrap_pyfunction!(before_fork, py)?)?;
    for after in ["after_in_parent", "after_in_child"] {
        hooks.set_item(after, wrap_pyfunction!(after_fork, py)?)?;
    }
    py.import("os")?.getattr("register_at_fork")?.call((), Some(&hooks))?;
    Ok(())
}
