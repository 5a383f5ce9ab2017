//! `Keyring`: the keys that open, and the ones that seal.

use std::{fs, io, path::PathBuf, sync::Arc};

use keyfold_core::{
    clock::UnixTime,
    envelope::Format,
    error::Code,
    keyring::{
        self, Entry, KeyMaterial, Origin, State,
        document::{self, MAX_DOCUMENT},
        master_to_text, parse_fernet, parse_master,
    },
    rng::{SystemRandom, array},
    secret::Key32,
};
use keyfold_providers::{KeyUri, raw_keys};
use pyo3::prelude::*;

use crate::{arguments::Text, failure::Failure, unlocked::unlocked};

/// A set of keys that never changes.
///
/// Values sealed under any of its keys open; new ones are sealed under the primary key of their kind. Get one with
/// ``Keyring.from_env()``, ``Keyring.from_keys(...)`` or ``Keyring.open(...)``.
#[pyclass(frozen, module = "keyfold")]
pub(crate) struct Keyring(pub(crate) Arc<keyring::Keyring>);

#[pymethods]
impl Keyring {
    /// The keys of the environment, as they are now.
    ///
    /// ``REDIS_SRE_MASTER_KEY`` seals kf1 and v1, ``SRE_AGENT_ENCRYPTION_KEY`` seals Fernet tokens; older keys in the same
    /// names with ``_PREVIOUS``, comma-separated, open. Raises KeyInvalidError where neither is set or one is not a key.
    #[staticmethod]
    fn from_env() -> Result<Self, Failure> {
        let entries = raw_keys()?;
        if entries.is_empty() {
            return Err(Failure::coded(
                Code::KeyInvalid,
                "neither REDIS_SRE_MASTER_KEY nor SRE_AGENT_ENCRYPTION_KEY is set",
                "set the one that your values are sealed with; `keyfold.generate_key()` makes a new one",
            ));
        }
        Self::of(entries)
    }

    /// Keys as text: ``master`` ones in base64 (kf1, v1), ``fernet`` ones in base64url. The first of each list seals.
    #[staticmethod]
    #[pyo3(signature = (*, master=Vec::new(), fernet=Vec::new()))]
    fn from_keys(master: Vec<Text>, fernet: Vec<Text>) -> Result<Self, Failure> {
        let mut entries = Vec::with_capacity(master.len() + fernet.len());
        for (index, text) in master.iter().enumerate() {
            let key = parse_master(&format!("master[{index}]"), text)
                .map_err(|error| no_key(&error, "keyfold.generate_key()"))?;
            entries.push(entry(index, KeyMaterial::Master(Box::new(key)), vec![Format::Kf1, Format::V1]));
        }
        for (index, text) in fernet.iter().enumerate() {
            let key = parse_fernet(&format!("fernet[{index}]"), text)
                .map_err(|error| no_key(&error, "keyfold.Fernet.generate_key()"))?;
            entries.push(entry(index, KeyMaterial::Fernet(Box::new(key)), vec![Format::Fernet]));
        }
        if entries.is_empty() {
            return Err(Failure::coded(Code::KeyInvalid, "no key is given", "give master=[...] or fernet=[...]"));
        }
        Self::of(entries)
    }

    /// Opens a keyring document (``keyring.json`` of a data folder, or a backup of it) with the root key that ``root``
    /// names.
    ///
    /// ``file:PATH`` and ``env:NAME`` hold base64 of 32 bytes. ``hcvault://HOST:PORT/transit/keys/NAME`` is a key of OpenBao or
    /// Vault; BAO_TOKEN, BAO_ROLE_ID with BAO_SECRET_ID_FILE, or BAO_K8S_ROLE let the process in. ``pkcs11:``, ``aws-kms://``
    /// and ``gcp-kms://`` need a wheel that was built with them (``maturin build --features full``). A remote root key is
    /// asked once, here, within about fifteen seconds and without the GIL; sealing and opening never ask it.
    ///
    /// A document of a generation below ``seen`` is refused. With ``environment=True`` the keys of the environment open
    /// too. The keyring does not follow later changes of the document: open it again for that. Raises
    /// ProviderUnavailableError where the root key cannot be reached or may not be used, KeyInvalidError where it is missing
    /// or disabled, and DocumentRefusedError or WrongKeyOrTamperedError where the document is not what it should be.
    #[staticmethod]
    #[pyo3(signature = (document, root, *, seen=0, environment=false))]
    fn open(py: Python<'_>, document: PathBuf, root: Text, seen: u64, environment: bool) -> Result<Self, Failure> {
        let root: KeyUri = root.parse::<KeyUri>()?;
        reachable(&root)?;
        let extra = if environment { raw_keys()? } else { Vec::new() };
        let opened = unlocked(py, || -> Result<_, Failure> {
            let bytes = read(&document)?;
            let root = keyfold_providers::open(&root)?;
            // A runtime of this call alone, on this thread: nothing of it is left for a fork to inherit.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
                Failure::coded(
                    Code::ProviderUnavailable,
                    format!("no runtime: {error}"),
                    "check the limits of the process",
                )
            })?;
            let opened = runtime.block_on(document::open(&root, &bytes, seen));
            // The library of a token may never come back from a call.
            runtime.shutdown_background();
            Ok(opened?)
        })?;
        Ok(Self(Arc::new(opened.with_environment(extra).0)))
    }

    /// The id of the key that seals ``format``, or None.
    #[pyo3(signature = (format="kf1"))]
    fn primary(&self, format: &str) -> Result<Option<String>, Failure> {
        Ok(self.0.primary(format.parse::<Format>()?).map(|entry| entry.kid().to_string()))
    }

    /// The ids of all keys, in order.
    #[getter]
    fn kids(&self) -> Vec<String> {
        self.0.entries().iter().map(|entry| entry.kid().to_string()).collect()
    }

    /// Grows by one with every change of the document; 0 for keys without one.
    #[getter]
    fn generation(&self) -> u64 {
        self.0.generation()
    }

    /// The deployment, which is part of the context of every record's field.
    #[getter]
    fn deployment(&self) -> &str {
        self.0.deployment()
    }

    fn __len__(&self) -> usize {
        self.0.entries().len()
    }

    fn __repr__(&self) -> String {
        let keys: Vec<_> = self.0.entries().iter().map(|entry| format!("{} {}", entry.kid(), entry.state())).collect();
        format!("<Keyring {}, generation {}: {}>", self.0.id(), self.0.generation(), keys.join(", "))
    }
}

impl Keyring {
    fn of(entries: Vec<Entry>) -> Result<Self, Failure> {
        Ok(Self(Arc::new(keyring::Keyring::from_entries("keys", entries)?)))
    }
}

fn entry(index: usize, key: KeyMaterial, suites: Vec<Format>) -> Entry {
    let state = if index == 0 { State::Primary } else { State::Active };
    Entry::new(key, state, suites, UnixTime(0), Origin::Environment("given".into()))
}

/// Says what to do where this wheel was built without the part that a root key needs.
fn reachable(root: &KeyUri) -> Result<(), Failure> {
    let feature = match root {
        KeyUri::Vault(_) if !cfg!(feature = "hcvault") => "hcvault",
        KeyUri::AwsKms(_) if !cfg!(feature = "aws") => "aws",
        KeyUri::GcpKms(_) if !cfg!(feature = "gcp") => "gcp",
        KeyUri::Pkcs11(_) if !cfg!(feature = "pkcs11") => "pkcs11",
        _ => return Ok(()),
    };
    let hint = format!("build the wheel with it: `maturin build --release --features {feature}` in crates/python");
    Err(Failure::coded(Code::KeyInvalid, format!("{root}: this build of keyfold cannot reach it"), hint))
}

fn no_key(error: &keyring::KeyError, maker: &str) -> Failure {
    let hint = error.mend().map_or_else(|| format!("`{maker}` makes one"), str::to_owned);
    Failure::coded(error.code(), error.to_string(), hint)
}

fn read(path: &PathBuf) -> Result<Vec<u8>, Failure> {
    let unreadable = |error: io::Error| {
        let hint = "name the keyring.json of a data folder, or a backup of it";
        Failure::coded(Code::ProviderUnavailable, format!("{}: {error}", path.display()), hint)
    };
    // Looked at before it is read: a document is small, and this may be any file.
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > u64::try_from(MAX_DOCUMENT).unwrap_or(u64::MAX) {
        return Err(document::DocumentError::Malformed("over 4 MiB").into());
    }
    fs::read(path).map_err(unreadable)
}

/// A new master key: base64 of 32 random bytes, as ``REDIS_SRE_MASTER_KEY`` and ``Keyring.from_keys`` take it.
#[pyfunction]
pub(crate) fn generate_key() -> Result<String, Failure> {
    Ok(master_to_text(&Key32::new(array(&SystemRandom)?)))
}

/// A keyring that was given, or none.
pub(crate) type Chosen<'a, 'py> = Option<&'a Bound<'py, Keyring>>;
