//! Records, jobs, stores and the audit log of Keyfold: the use cases between the sealing core and the interfaces.
//!
//! - [`custody`]: one process's hold on a deployment; the use cases are its methods, each in the module of its noun:
//!   [`records`], [`jobs`], [`keys`], [`census`], [`doctor`].
//! - [`config`] and [`collection`]: where secrets are, and what a reader accepts.
//! - [`values`]: what is sealed and opened for who keeps it elsewhere.
//! - [`tokens`]: how callers of the service prove who they are; [`vouched`]: what decides over access, kept under a MAC.
//! - [`sessions`] and [`broker`]: people who signed in, and which of their credentials leaves for which call.
//! - [`access`]: who may, as a permit in the type of every function that touches plaintext or keys.
//! - [`auditor`] and [`audit_log`]: intent before, outcome after, durable.
//! - [`store`] and [`layout`]: the traits that storage implements, and how records map to what is stored.

pub mod access;
pub mod audit_log;
pub mod auditor;
pub mod broker;
pub mod census;
pub mod collection;
pub mod config;
pub mod custody;
pub mod doctor;
mod elsewhere;
pub mod error;
pub mod import;
pub mod jobs;
pub mod keys;
pub mod layout;
mod own;
pub mod preset;
pub mod records;
mod refusals;
pub mod retention;
pub mod sessions;
pub mod store;
pub mod tokens;
pub mod values;
pub mod vouched;
