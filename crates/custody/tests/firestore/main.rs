//! Stores on Google's emulator of Firestore.

#![allow(clippy::unwrap_used, reason = "a step that fails ends the test")]

mod foreign;
mod own;
mod records;
#[path = "../servers/mod.rs"]
mod servers;
mod streamed;
#[path = "../suites/audit.rs"]
mod suite;
