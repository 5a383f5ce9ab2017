//! Stores on a real Redis: one server, one over TLS with a user of few rights, and a cluster.

#![allow(clippy::unwrap_used, reason = "a step that fails ends the test")]

mod audit;
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod foreign;
mod jobs;
mod own;
mod records;
mod sentinel;
#[path = "../servers/mod.rs"]
mod servers;
#[path = "../suites/audit.rs"]
mod suite;
mod system;
