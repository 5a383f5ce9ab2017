//! Sealing, keyrings, formats and the audit chain of Keyfold.
//!
//! Nothing in this crate reads a file, a socket, a clock or an environment variable: bytes, time and randomness come in
//! as arguments, so that every construction here can be checked against known answers.
//!
//! - [`secret`], [`id`], [`context`]: what is sealed, under which name, for which place.
//! - [`envelope`]: the three formats, `kf1`, `v1` (redis-sre-agent) and Fernet (Auto SRE).
//! - [`detect`] and [`accept`]: what a stored value is, and whether a reader may take it; [`mod@inspect`] says what can be
//!   said of it without a key.
//! - [`keyring`]: the keys that open, and the one that seals; [`keyring::document`] is how they are stored, [`root`] what
//!   wraps them there.
//! - [`rewrap`]: moving a value to another key, checked before anything is written.
//! - [`audit`]: events, the hash chain over them, and the verdict on a chain.
//!
//! Not promised: protection against whoever reads this process's memory, against rollback of a whole record to an older
//! envelope of the same context, and of the length of a secret.

pub mod accept;
pub mod audit;
pub mod clock;
pub mod context;
pub mod dek;
pub mod detect;
pub mod envelope;
pub mod error;
pub mod id;
pub mod inspect;
pub mod keyring;
pub mod mac;
pub mod rewrap;
pub mod rng;
pub mod root;
pub mod secret;
