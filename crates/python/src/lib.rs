//! The Python module of Keyfold: `keyfold._keyfold`, which the package `keyfold` in `python/` wraps.
//!
//! Python objects stay on this side: the core sees bytes, and what it answers becomes a Python object or an exception in
//! `failure`. Work on many values, and on large ones, runs without the GIL.
//!
//! - `operations`: `seal`, `open`, `rewrap`, `inspect`; `batch` has them for lists, which `items` reads and
//!   `shares` gives to threads.
//! - `keyring`: `Keyring`; `environment` is the one that the environment's variables make, kept until they change.
//! - `fernet`: `Fernet` and `MultiFernet`, as in Python's `cryptography`.
//! - `drop_ins`: what `keyfold.redis_sre_agent` and `keyfold.auto_sre` are made of.
//!
//! Locks are held for moments, by threads that hold the GIL, and never across a call into Python; no thread outlives the
//! call that started it; a fork waits for work that runs without the GIL, and no work waits for a fork (`unlocked`). So a
//! child finds every lock free. The module serves one interpreter of a process: another one is refused when it imports. A
//! free-threaded interpreter turns its GIL on for it.

#![allow(clippy::needless_pass_by_value, reason = "PyO3 hands over what it took out of Python's arguments")]
#![allow(clippy::too_many_arguments, reason = "they are keywords in Python")]

mod arguments;
mod batch;
mod clock;
mod drop_ins;
mod environment;
mod failure;
mod fernet;
mod items;
mod keyring;
mod operations;
mod shares;
mod unlocked;

use pyo3::pymodule;

#[pymodule(gil_used = true)]
mod _keyfold {
    use pyo3::{Bound, PyResult, prelude::PyModuleMethods, pymodule, types::PyModule};

    #[pymodule_export]
    use crate::{
        batch::{open_many, seal_many},
        drop_ins::{fernet_open, fernet_seal, looks_sealed, v1_open, v1_seal},
        fernet::{Fernet, MultiFernet},
        keyring::{Keyring, generate_key},
        operations::{Inspection, inspect, open, rewrap, seal},
    };

    /// Never looked at. PyO3 checks for modules inside a module, and for these alone, that they are imported into one
    /// interpreter only; an import into a second one fails here, with a message that says so.
    #[pymodule]
    mod one_interpreter {}

    #[pymodule_init]
    fn prepare(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::unlocked::register(module.py())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
