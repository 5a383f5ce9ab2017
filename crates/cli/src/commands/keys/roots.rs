//! `keyfold keys import`, `rewrap-root`, `add-root`, `remove-root`, `add-recovery`, `publish`: where keys come from, and what
//! wraps them.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use keyfold_core::{audit::Action, id::KeyId, keyring, root::RootKey, secret::Secret};
use keyfold_custody::access::{Permit, op::Manage};
use keyfold_providers::{KeyUri, RecoveryKey, RecoveryRoot, SourceUri, UriError, source};
use serde_json::json;

use super::Wait;
use crate::{
    failure::{Exit, Failure},
    folder::Opened,
    invocation::Invocation,
    keys::material,
    output,
};

/// Reads the URI of a root key. A relative path is taken from where the command runs, since the keyring is read elsewhere too.
pub(super) fn root(text: &str) -> Result<KeyUri, UriError> {
    Ok(match text.parse()? {
        KeyUri::File(path) => KeyUri::File(std::path::absolute(&path).unwrap_or(path)),
        uri => uri,
    })
}

/// Takes over a key from where another program has it.
pub(super) async fn import(
    opened: &Opened,
    from: &SourceUri,
    fernet: bool,
    invocation: &Invocation,
) -> Result<Exit, Failure> {
    let permit: Permit<Manage> = opened.permit()?;
    let kid = opened.custody.import_key(&permit, material(from, fernet).await?).await?;
    let state = opened.custody.keys.opening().entry(kid).map_or("staged", |entry| entry.state().as_str());
    if invocation.json() {
        output::json(&json!({ "kid": kid, "state": state }))?;
    } else {
        output::line(&format!("{kid}  {state}"))?;
        invocation
            .hint(&format!("whoever has {from} still has the key; rotate to a fresh one, and it opens nothing here"));
    }
    Ok(Exit::Done)
}

/// Moves the keyring to other root keys.
pub(super) async fn rewrap(
    opened: &Opened,
    to: &[KeyUri],
    wait: &Wait,
    invocation: &Invocation,
) -> Result<Exit, Failure> {
    let uris: Vec<String> = to.iter().map(KeyUri::to_string).collect();
    opened.custody.rewrap_root(&opened.permit()?, &uris, wait.duration()).await?;
    if invocation.json() {
        return said(&json!({ "roots": opened.custody.keys.opening().roots() }));
    }
    for uri in opened.custody.keys.opening().roots() {
        output::line(uri)?;
    }
    invocation.hint(&format!(
        "from now on start with it: root_key = \"{}\" in keyfold.toml, or KEYFOLD_ROOT_KEY; backups made before open with the \
         old root key only",
        uris[0]
    ));
    Ok(Exit::Done)
}

/// Lets one more root key open the keyring.
pub(super) async fn add(opened: &Opened, uri: &KeyUri, invocation: &Invocation) -> Result<Exit, Failure> {
    opened.custody.add_root(&opened.permit()?, &uri.to_string()).await?;
    if invocation.json() {
        return said(&json!({ "roots": opened.custody.keys.opening().roots() }));
    }
    output::line(&format!("added {uri}"))?;
    invocation.hint(&format!("where the first one is gone, start with KEYFOLD_ROOT_KEY={uri}"));
    Ok(Exit::Done)
}

/// Takes one off.
pub(super) async fn remove(
    opened: &Opened,
    uri: &KeyUri,
    wait: &Wait,
    invocation: &Invocation,
) -> Result<Exit, Failure> {
    opened.custody.remove_root(&opened.permit()?, &uri.to_string(), wait.duration()).await?;
    if invocation.json() {
        return said(&json!({ "roots": opened.custody.keys.opening().roots() }));
    }
    output::line(&format!("removed {uri}"))?;
    invocation.hint("it still opens the backups made before: make a new one, and destroy those that are not needed");
    Ok(Exit::Done)
}

/// Makes a recovery key, writes it where it was asked for, and lets it open the keyring from now on.
pub(super) async fn add_recovery(
    opened: &Opened,
    file: Option<&Path>,
    invocation: &Invocation,
) -> Result<Exit, Failure> {
    let permit: Permit<Manage> = opened.permit()?;
    let key = RecoveryKey::generate()?;
    let uri = RecoveryRoot::new(key.public()?).uri().to_owned();
    let text = key.to_text();
    // Written before the keyring depends on it: a key that nobody has is worse than one that opens nothing.
    match file {
        None => output::data(&[text.expose(), b"\n"].concat())?,
        Some(path) => write_new(path, &text)?,
    }
    opened.custody.add_root(&permit, &uri).await?;
    invocation.hint("keep it offline, away from this machine; it opens every backup of this keyring made from now on");
    if invocation.json() && file.is_some() {
        return said(&json!({ "root": uri }));
    }
    Ok(Exit::Done)
}

/// Writes an entry's key, as it is, to where other programs read it.
pub(super) async fn publish(
    opened: &Opened,
    kid: KeyId,
    to: &SourceUri,
    invocation: &Invocation,
) -> Result<Exit, Failure> {
    let permit: Permit<Manage> = opened.permit()?;
    let keyring = opened.custody.keys.opening();
    let entry = keyring.entry(kid).ok_or_else(|| Failure::from(keyring::edit::EditError::Unknown(kid)))?;
    let text = match entry.purpose() {
        keyring::Purpose::Master => keyring::master_to_text(entry.material().raw()),
        keyring::Purpose::Fernet => keyring::fernet_to_text(entry.material().raw()),
    };
    let text = Secret::from(text);
    let auditor = &opened.custody.auditor;
    let mut event = auditor.event(permit.actor(), Action::KeyPublish)?;
    event.kid = Some(kid);
    event.record = Some(keyfold_core::audit::Name::abridge(&to.to_string()));
    let version = auditor.audited(event, async |_| Ok(source::store(to, &text).await?)).await?;
    if invocation.json() {
        return said(&json!({ "kid": kid, "version": version }));
    }
    output::line(&format!("{kid}  version {version}"))?;
    Ok(Exit::Done)
}

fn said(value: &serde_json::Value) -> Result<Exit, Failure> {
    output::json(value)?;
    Ok(Exit::Done)
}

fn write_new(path: &Path, text: &Secret) -> Result<(), Failure> {
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
        file.write_all(text.expose())?;
        file.write_all(b"\n")?;
        file.sync_all()
    });
    written.map_err(|error| {
        Failure::unavailable(format!("{}: {}", path.display(), error.kind()))
            .hint("name a new file; a recovery key is never written over another one")
            .caused_by(&error)
    })
}

/// The recovery key, from a file or stdin.
pub(super) async fn recovery(from: &crate::input::Source) -> Result<RecoveryRoot, Failure> {
    let text = crate::input::read(from, crate::input::Wanted::Secret).await?;
    Ok(RecoveryKey::parse(&from.to_string(), &text)?.into_root()?)
}
