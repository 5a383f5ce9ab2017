//! Which keys a command works with: those of the environment where they are set, else the data folder's keyring.

use keyfold_core::keyring::{Entry, FERNET_KEY_VARIABLE, Keyring, MASTER_KEY_VARIABLE, Purpose};
use keyfold_providers::{fernet_keys, master_keys};

use crate::{failure::Failure, invocation::Invocation};

/// The keyring for one kind of key.
pub(crate) async fn load(purpose: Purpose, invocation: &Invocation) -> Result<Keyring, Failure> {
    let entries = from_environment(purpose)?;
    if entries.is_empty() {
        return from_data_dir(purpose, invocation).await;
    }
    Ok(Keyring::from_entries("environment", entries)?)
}

/// The raw keys of the two Python projects. One that is set and not right is an error, never "not set".
fn from_environment(purpose: Purpose) -> Result<Vec<Entry>, Failure> {
    Ok(match purpose {
        Purpose::Master => master_keys()?,
        Purpose::Fernet => fernet_keys()?,
    })
}

/// The keyring of the data folder.
async fn from_data_dir(purpose: Purpose, invocation: &Invocation) -> Result<Keyring, Failure> {
    let folder = invocation.data_dir()?;
    let (variable, option) = match purpose {
        Purpose::Master => (MASTER_KEY_VARIABLE, ""),
        Purpose::Fernet => (FERNET_KEY_VARIABLE, " --fernet"),
    };
    Err(Failure::coded(
        keyfold_core::error::Code::KeyInvalid,
        format!("{variable} environment variable not set, and no data folder at {}", folder.display()),
    )
    .hint(format!("make a key: export {variable}=\"$(keyfold keygen{option})\"; or a data folder: keyfold init")))
}
