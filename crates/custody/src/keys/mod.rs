//! The keyring of a deployment: where its document lies, who has it open, and how it changes.
//!
//! The document is kept in the system store and copied to every data folder. Every live process reports the generation it
//! opens and the one it still seals under, so that a key is promoted only when all can open it and retired only when nobody
//! seals under it any more.

pub mod checkup;
mod copies;
mod document;
pub mod life;
mod live;
pub mod maintain;
mod preflight;
pub mod process;
pub mod roots;
#[cfg(test)]
mod tests;
mod usage;

pub use self::{
    copies::Copies,
    document::{KEYRING_KEY, KeyringStore, Restorable},
    live::{LiveKeyring, Sealing},
    preflight::Preflight,
    usage::Usage,
};
