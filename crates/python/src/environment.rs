//! The keyrings that the environment makes, kept for as long as its variables stay the same.
//!
//! The variables are looked at on every call, since that is when the two Python projects read theirs: a key that is set
//! later, or changed by a test, counts at once. Parsing and key schedules happen only when a value is another one.

use std::{
    os::unix::ffi::OsStringExt,
    sync::{Arc, Mutex, PoisonError},
};

use keyfold_core::{
    envelope::fernet,
    keyring::{FERNET_KEY_VARIABLE, KeyError, Keyring, MASTER_KEY_VARIABLE, Purpose},
    secret::Secret,
};
use keyfold_providers::{fernet_keys, master_keys, raw_keys};

use crate::failure::Failure;

struct Source {
    purpose: Purpose,
    variables: [&'static str; 2],
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    values: [Option<Secret>; 2],
    keyring: Arc<Keyring>,
}

static MASTER: Source = Source {
    purpose: Purpose::Master,
    variables: [MASTER_KEY_VARIABLE, "REDIS_SRE_MASTER_KEY_PREVIOUS"],
    kept: Mutex::new(None),
};
static FERNET: Source = Source {
    purpose: Purpose::Fernet,
    variables: [FERNET_KEY_VARIABLE, "SRE_AGENT_ENCRYPTION_KEY_PREVIOUS"],
    kept: Mutex::new(None),
};

/// The keyring of one kind of key.
///
/// # Errors
/// The variable is not set, or holds no key.
pub(crate) fn keyring(purpose: Purpose) -> Result<Arc<Keyring>, Failure> {
    match purpose {
        Purpose::Master => &MASTER,
        Purpose::Fernet => &FERNET,
    }
    .keyring()
}

/// The keyring that opens what keys of one kind sealed, and seals with the other kind.
///
/// Where the kinds differ it is made anew, since few values change their format, and each of them once.
///
/// # Errors
/// As [`keyring`], for both.
pub(crate) fn both(opens: Purpose, seals: Purpose) -> Result<Arc<Keyring>, Failure> {
    let keys = keyring(opens)?;
    if opens == seals {
        return Ok(keys);
    }
    keyring(seals)?;
    Ok(Arc::new(Keyring::from_entries("environment", raw_keys()?)?))
}

/// The kind of key that may open `stored`, by rule 2 of detection.
pub(crate) fn purpose_for(stored: &str) -> Purpose {
    if stored.starts_with(fernet::PREFIX) { Purpose::Fernet } else { Purpose::Master }
}

impl Source {
    fn keyring(&self) -> Result<Arc<Keyring>, Failure> {
        let values = self.variables.map(read);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept.as_ref().filter(|kept| kept.holds(&values)) {
            return Ok(Arc::clone(&kept.keyring));
        }
        *kept = None;
        let entries = match self.purpose {
            Purpose::Master => master_keys()?,
            Purpose::Fernet => fernet_keys()?,
        };
        if entries.is_empty() {
            return Err(KeyError::Missing { variable: self.variables[0].into() }.into());
        }
        let keyring = Arc::new(Keyring::from_entries("environment", entries)?);
        *kept = Some(Kept { values, keyring: Arc::clone(&keyring) });
        Ok(keyring)
    }
}

impl Kept {
    fn holds(&self, values: &[Option<Secret>; 2]) -> bool {
        self.values.iter().zip(values).all(|(kept, now)| match (kept, now) {
            (Some(kept), Some(now)) => kept.expose() == now.expose(),
            (None, None) => true,
            _ => false,
        })
    }
}

fn read(variable: &str) -> Option<Secret> {
    std::env::var_os(variable).map(|value| Secret::new(value.into_vec()))
}
