//! Root keys: where the key that wraps a keyring comes from.
//!
//! | URI | the key |
//! |---|---|
//! | `file:PATH` | base64 of 32 bytes in a file that only its owner can read |
//! | `env:NAME` | base64 of 32 bytes in an environment variable |
//!
//! [`open`] turns a URI into a [`RootKey`](keyfold_core::root::RootKey). A root key never wraps with itself but under a key
//! derived from it, so that the same 32 bytes used elsewhere by mistake do not meet the same cipher key.

mod environment;
mod file;
mod local;
mod uri;

pub use self::{
    environment::{fernet_keys, master_keys, raw_keys},
    file::{create as create_file, open as open_file},
    local::LocalRoot,
    uri::{KeyUri, UriError},
};

/// Opens the root key that a URI names.
///
/// # Errors
/// The key is missing, readable by others, or not 32 bytes of base64.
pub fn open(uri: &KeyUri) -> Result<LocalRoot, keyfold_core::root::RootError> {
    match uri {
        KeyUri::File(path) => file::open(path),
        KeyUri::Environment(name) => environment::open(name),
    }
}
