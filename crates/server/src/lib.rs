//! The HTTP service of Keyfold. HTTP lives in this crate and nowhere else.
//!
//! - [`settings`]: what `[server]` in `keyfold.toml` says.
//! - [`service`]: what a request works with; [`auth`]: request → actor; [`problem`]: what is answered instead.
//! - [`api`]: the routes under `/v1`, and the OpenAPI document made from them.
//! - [`listen`] and [`tls`]: sockets, connections and their limits, certificates that are read anew.
//! - [`proxy`]: calls leave with the user's own credential, and the agent never sees it.
//! - [`background`]: what is done without being asked; [`copies`]: the audit log elsewhere; [`traces`]: what a collector gets.
//! - [`client`]: the other side, for the command line.
//!
//! Every request under `/v1` passes [`auth`] before anything it sent is parsed. Nothing here holds key material, and nothing
//! here writes to a store: the use cases of `keyfold-custody` do, behind permits.

pub mod api;
pub mod auth;
pub mod background;
mod body;
pub mod client;
pub mod copies;
pub mod listen;
pub mod metrics;
pub mod oidc;
mod otlp;
pub mod people;
pub mod problem;
mod prompt;
pub mod proxy;
mod request;
pub mod service;
pub mod settings;
pub mod tls;
pub mod traces;
mod whole;
mod wiped;
