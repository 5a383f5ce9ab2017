//! The proxy: calls leave with the user's own credential, and the agent never sees it.
//!
//! - `service`: what comes in, and the one line it leaves in the log; `proof`: who asks, and for whom.
//! - `tunnel`: CONNECT, under certificates of our own (`authority`); `mapped`: listeners of one destination.
//! - `host`, `path`: what a request says, read in one way or refused.
//! - `forward`: the one way out, in the order that is the promise; `rules`: what leaves at all; `guard`: which addresses are dialled.
//! - `inject`, `sigv4`, `headers`: what is put in, and what goes; `upstream`: connections that know no user; `connections`: and those that
//!   know a client certificate;
//!   `breaker`: hosts that are left alone for a while.
//! - `answer`, `pipe`, `scrub`, `answers`: what comes back, as it streams.
//! - `sidecar`: what stands beside an agent that knows nothing of all this.
//! - `call`: the outcome in the audit log, however a call ends; `grounds`: what it stands on, looked at again while it goes on;
//!   `flights`: how many there may be.
//!
//! The client is taken for hostile: what was matched is what is sent, and what another reader could take for something else
//! is refused.

mod answer;
mod answers;
mod authority;
mod breaker;
mod call;
mod connections;
mod explain;
mod flights;
mod forward;
mod grounds;
mod guard;
mod headers;
mod host;
mod inject;
mod lanes;
mod mapped;
mod path;
mod pipe;
mod proof;
mod refused;
mod rules;
mod scrub;
mod service;
pub mod settings;
pub mod sidecar;
mod sigv4;
mod tunnel;
mod upstream;

use self::service::Way;
pub use self::{
    authority::authority_pem,
    explain::{Reached, Unreached, reached},
    mapped::Mapping,
    service::{Proxy, ProxyError},
};
pub(crate) use self::{mapped::Mapped, path::template};
