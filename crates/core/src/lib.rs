//! Sealing, keyrings, formats and the audit chain of Keyfold.
//!
//! Nothing in this crate reads a file, a socket, a clock or an environment variable: bytes, time and randomness come in
//! as arguments, so that every construction here can be checked against known answers.
//!
//! - [`secret`], [`id`], [`context`]: what is sealed, under which name, for which place.
//! - [`audit`]: events, the hash chain over them, and the verdict on a chain.
//!
//! Not promised: protection against whoever reads this process's memory, against rollback of a whole record to an older
//! envelope of the same context, and of the length of a secret.

pub mod audit;
pub mod clock;
pub mod error;
pub mod id;
pub mod secret;
