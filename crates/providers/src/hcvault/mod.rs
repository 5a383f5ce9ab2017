//! OpenBao and HashiCorp Vault: the transit engine as a root key.

mod client;
mod kv;
mod login;
mod transit;

pub(crate) use self::{kv::Kv, transit::Transit};
