//! Which keys a command works with: those of the environment where they are set, else the data folder's keyring.
//!
//! Where there is a data folder, its tombstones and its audit log hold for the keys of the environment too. Without one, the
//! raw keys work alone, and nothing is logged.

use std::sync::Arc;

use keyfold_core::{
    audit::{Action, Event, Word},
    clock::UnixTime,
    envelope::{Format, OpenError},
    error::{Code, Hint},
    keyring::{
        Entry, FERNET_KEY_VARIABLE, KeyError, KeyMaterial, Keyring, MASTER_KEY_VARIABLE, Origin, Purpose, State,
    },
    root::RootError,
};
use keyfold_custody::{access::op, error::CustodyError};
use keyfold_providers::{SourceUri, fernet_keys, master_keys, source};
use tokio::sync::OnceCell;

use crate::{
    failure::Failure,
    folder::{self, Folder, Opened},
    invocation::Invocation,
};

/// The raw keys of one kind that `--master-key` or `--fernet-key` names: the first one seals, the rest open. Each place is asked
/// once in a run, so that a whole command works with the same version.
#[derive(Clone)]
pub(crate) struct Named {
    purpose: Purpose,
    uris: Vec<SourceUri>,
    read: Arc<OnceCell<Vec<Entry>>>,
}

impl Named {
    pub(crate) fn new(purpose: Purpose, uris: Vec<SourceUri>) -> Self {
        Self { purpose, uris, read: Arc::default() }
    }

    async fn entries(&self) -> Result<Vec<Entry>, Failure> {
        Ok(self.read.get_or_try_init(|| self.fetched()).await?.clone())
    }

    async fn fetched(&self) -> Result<Vec<Entry>, Failure> {
        let mut entries: Vec<Entry> = Vec::new();
        for uri in &self.uris {
            let state = if entries.is_empty() { State::Primary } else { State::Active };
            let key = material(uri, self.purpose == Purpose::Fernet).await?;
            if entries.iter().any(|entry| entry.kid() == key.kid()) {
                return Err(KeyError::Repeated { place: uri.to_string(), kid: key.kid() }.into());
            }
            let suites = match self.purpose {
                Purpose::Master => vec![Format::Kf1, Format::V1],
                Purpose::Fernet => vec![Format::Fernet],
            };
            entries.push(Entry::new(key, state, suites, UnixTime(0), Origin::Environment(uri.to_string())));
        }
        Ok(entries)
    }
}

/// The raw keys: those that the options name, else those of the environment.
pub(crate) async fn raw(invocation: &Invocation) -> Result<Vec<Entry>, Failure> {
    let mut keys = of_purpose(Purpose::Master, invocation).await?;
    keys.extend(of_purpose(Purpose::Fernet, invocation).await?);
    Ok(keys)
}

async fn of_purpose(purpose: Purpose, invocation: &Invocation) -> Result<Vec<Entry>, Failure> {
    let named = invocation.named_keys(purpose);
    match purpose {
        // On the heap: the futures of what asks for keys are deep enough.
        _ if !named.uris.is_empty() => Box::pin(named.entries()).await,
        Purpose::Master => Ok(master_keys()?),
        Purpose::Fernet => Ok(fernet_keys()?),
    }
}

/// The key that a source holds.
pub(crate) async fn material(uri: &SourceUri, fernet: bool) -> Result<KeyMaterial, Failure> {
    let fetched = source::fetch(uri).await.map_err(|error| {
        let missing = matches!(error, RootError::Missing { .. });
        let failure = Failure::from(error);
        // What is said of a root key would not help here.
        if missing { failure.hint("check the name, the version and the field") } else { failure }
    })?;
    let key = if fernet { source::fernet(uri, &fetched) } else { source::master(uri, &fetched) };
    key.map_err(|error| {
        let option = if fernet { " --fernet" } else { "" };
        let mend = error.mend().map(str::to_owned);
        Failure::from(error).hint(
            mend.unwrap_or_else(|| format!("put a key there that `keyfold keygen{option}` made, and nothing else")),
        )
    })
}

/// What a seal or an open is about, for its event.
pub(crate) struct About {
    pub(crate) action: Action,
    pub(crate) format: Format,
}

/// Runs `work` with the keyring for a format. Where there is a data folder, the intent is durable before this returns: what
/// `work` made must not leave earlier. `note` fills in the event.
pub(crate) async fn with<T>(
    invocation: &Invocation,
    about: About,
    work: impl AsyncFnOnce(&Keyring) -> Result<T, Failure>,
    note: impl FnOnce(&T, &mut Event),
) -> Result<T, Failure> {
    let purpose = Purpose::of(about.format);
    let entries = of_purpose(purpose, invocation).await?;
    // Without HOME there is no folder at all; one that cannot be looked at is an error, lest its tombstones be passed over.
    let deployed = Folder::of(invocation).map_or(Ok(false), |folder| folder.is_deployment())?;
    if !deployed {
        if entries.is_empty() {
            return Err(no_key(purpose, invocation));
        }
        return work(&Keyring::from_entries("environment", entries)?).await;
    }
    let command = about.action.as_str();
    folder::with(invocation, command, async |opened| in_folder(opened, about, entries, work, note).await).await
}

async fn in_folder<T>(
    opened: &Opened,
    about: About,
    entries: Vec<Entry>,
    work: impl AsyncFnOnce(&Keyring) -> Result<T, Failure>,
    note: impl FnOnce(&T, &mut Event),
) -> Result<T, Failure> {
    match about.action {
        Action::Seal => drop(opened.permit::<op::Seal>()?),
        _ => drop(opened.permit::<op::Open>()?),
    }
    let auditor = &opened.custody.auditor;
    let mut event = auditor.event(&opened.subject.actor(), about.action)?;
    event.format = Word::new(about.format.as_str()).ok();
    let stored = opened.custody.keys.sealing().await?;
    let keyring = if about.action == Action::Seal { sealing(&stored, entries)? } else { Arc::clone(&stored) };
    if about.action == Action::Seal
        && about.format == Format::V1
        && let Some(entry) = keyring.primary(Format::V1)
    {
        opened.custody.usage.reserve_just(entry.kid(), 1).await?;
    }
    match work(&keyring).await {
        Ok(value) => {
            note(&value, &mut event);
            Ok(auditor.audited(event, async |_| Ok(value)).await?)
        }
        Err(failure) => {
            // Somebody tried, and did not succeed: that is an event too.
            let _ = auditor.intent(&event).await?;
            let refused = CustodyError::Invalid { what: String::new(), hint: String::new(), code: failure.core_code() };
            auditor.outcome::<()>(&event, &Err(refused)).await?;
            Err(failure)
        }
    }
}

/// The keyring that seals: the environment's where it is set, unless the deployment has taken that key out of use.
fn sealing(stored: &Arc<Keyring>, entries: Vec<Entry>) -> Result<Arc<Keyring>, Failure> {
    let Some(primary) = entries.iter().find(|entry| entry.state() == State::Primary) else {
        return Ok(Arc::clone(stored));
    };
    if let Some(tombstone) = stored.tombstone(primary.kid()) {
        let kid = primary.kid();
        let error = OpenError::KeyDestroyed { kid, at: tombstone.destroyed };
        let failure = Failure::from_error(&error, error.code(), None);
        return Err(
            failure.hint("unset the variable, or put a living key into it; the destroyed one seals nothing more")
        );
    }
    if stored.entry(primary.kid()).is_some_and(|entry| entry.state() == State::Retired) {
        let failure = Failure::from(OpenError::KeyRetired { kid: primary.kid() });
        return Err(failure.hint("unset the variable, or put the new key into it; a retired one seals nothing more"));
    }
    Ok(Arc::new(Keyring::from_entries("environment", entries)?))
}

fn no_key(purpose: Purpose, invocation: &Invocation) -> Failure {
    let (variable, option) = match purpose {
        Purpose::Master => (MASTER_KEY_VARIABLE, ""),
        Purpose::Fernet => (FERNET_KEY_VARIABLE, " --fernet"),
    };
    let folder = invocation.data_dir().map_or_else(|_| "-".to_owned(), |folder| folder.display().to_string());
    let missing = keyfold_core::keyring::KeyError::Missing { variable: variable.into() };
    Failure::coded(Code::KeyInvalid, format!("{missing}, and no data folder at {folder}")).hint(format!(
        "{}; or make a data folder: keyfold init",
        missing.hint().unwrap_or_else(|| format!("export {variable}=\"$(keyfold keygen{option})\""))
    ))
}

#[cfg(test)]
mod tests {
    use keyfold_core::secret::Key32;

    use super::*;

    fn entry(byte: u8, state: State, origin: Origin) -> Entry {
        let material = KeyMaterial::new(Purpose::Master, Key32::new([byte; 32])).unwrap();
        Entry::new(material, state, vec![Format::Kf1, Format::V1], UnixTime(0), origin)
    }

    #[test]
    fn a_key_that_the_deployment_took_out_of_use_does_not_seal_from_the_environment() {
        let environment = || vec![entry(1, State::Primary, Origin::Environment("X".into()))];
        let kid = environment()[0].kid();
        let staged = Keyring::first("kr", "d", Key32::new([9; 32]))
            .staged(entry(1, State::Staged, Origin::Document))
            .and_then(|keyring| keyring.staged(entry(2, State::Staged, Origin::Document)));
        let staged = staged.unwrap();
        let retired = staged.retired(kid, UnixTime(1)).unwrap();
        let destroyed = retired.destroyed(kid, UnixTime(2)).unwrap();
        assert_eq!(sealing(&Arc::new(staged), environment()).unwrap().id(), "environment");
        for (keyring, code) in [(retired, Code::KeyRetired), (destroyed, Code::KeyDestroyed)] {
            let refused = sealing(&Arc::new(keyring), environment()).unwrap_err();
            assert_eq!(refused.core_code(), Some(code));
        }
    }
}
