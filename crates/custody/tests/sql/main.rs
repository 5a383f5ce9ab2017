//! Rows of other programs' tables, on a real PostgreSQL server and in SQLite files.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a step that fails ends the test")]

mod audit;
#[path = "../common/mod.rs"]
mod common;
mod foreign;
mod jobs;
mod own;
mod postgres;
mod records;
#[path = "../servers/mod.rs"]
mod servers;
mod sqlite;
#[path = "../suites/audit.rs"]
mod suite;
