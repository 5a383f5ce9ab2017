//! Which root keys wrap a keyring: moved, several at once, and one for recovery.

use std::time::Duration;

use keyfold_core::{
    audit::{Action, Name},
    keyring::{
        Keyring,
        document::{self, MAX_ROOTS},
    },
    rng::{self, SystemRandom},
    root::{OpenRoot, RootError, RootKey},
    secret::Key32,
};

use super::process::Report;
use crate::{
    access::{Permit, op::Manage},
    custody::Custody,
    error::CustodyError,
};

/// How the URI of a recovery key begins. Its public half wraps and opens nothing.
pub(super) const RECOVERY: &str = "recovery:";

/// Shows that a root key wraps, opens what it wrapped, and nothing with other associated data. A recovery key can only show
/// the first.
///
/// # Errors
/// Whatever it fails in.
pub async fn prove(root: &dyn RootKey) -> Result<(), RootError> {
    let place = root.uri().to_owned();
    let random =
        |error: rng::RandomError| RootError::Unavailable { place: place.clone(), why: error.to_string(), retry: false };
    let probe = Key32::new(rng::array(&SystemRandom).map_err(random)?);
    let wrapped = root.wrap(&probe, b"keyfold probe").await.map_err(|error| denied_to("encrypt", error))?;
    if root.uri().starts_with(RECOVERY) {
        return Ok(());
    }
    let invalid = |why: &str| RootError::Invalid {
        place: root.uri().into(),
        why: why.into(),
        hint: "use another kind of key; this one would lose or expose the keyring".into(),
    };
    let opened = root.unwrap(&wrapped, b"keyfold probe").await.map_err(|error| denied_to("decrypt", error))?;
    if opened.expose() != probe.expose() {
        return Err(invalid("it opened what it wrapped to something else"));
    }
    match root.unwrap(&wrapped, b"keyfold other probe").await {
        Ok(_) => Err(invalid("it does not bind associated data")),
        Err(RootError::Authentication { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Says which right lacks.
fn denied_to(what: &str, error: RootError) -> RootError {
    match error {
        RootError::Denied { place, why } => RootError::Denied { place, why: format!("to {what}: {why}") },
        other => other,
    }
}

/// The root keys that were asked for, and the recovery keys that a keyring has.
fn with_recovery(to: &[String], keyring: &Keyring) -> Vec<String> {
    let mut roots: Vec<String> = Vec::new();
    for uri in to.iter().chain(keyring.roots().iter().filter(|uri| uri.starts_with(RECOVERY))) {
        if !roots.contains(uri) {
            roots.push(uri.clone());
        }
    }
    roots
}

impl Custody {
    /// Moves the keyring to other root keys, without touching a record; recovery keys stay. First both wrap it, until every
    /// live process holds a keyring that names the new ones, and only then the old ones are left out: so a process that
    /// follows can open every later document too. Where the keyring has the new ones already, an old one is not asked: it may
    /// be gone.
    ///
    /// # Errors
    /// A root key that does not prove itself, processes that did not follow within `wait`, the store, the audit log.
    pub async fn rewrap_root(
        &self,
        permit: &Permit<Manage>,
        to: &[String],
        wait: Duration,
    ) -> Result<(), CustodyError> {
        self.keys.look().await?;
        let keyring = self.keys.opening();
        let wanted = with_recovery(to, &keyring);
        self.prove_all(&wanted).await?;
        let mut generation = keyring.generation();
        if !wanted.iter().all(|uri| keyring.roots().contains(uri)) {
            let both = |keyring: &Keyring| {
                let mut roots = keyring.roots().to_vec();
                roots.extend(wanted.iter().filter(|uri| !keyring.roots().contains(uri)).cloned());
                within_limit(&roots)?;
                Ok(keyring.with_roots(roots))
            };
            let mut event = self.auditor.event(permit.actor(), Action::RootChange)?;
            event.record = Some(Name::abridge(&wanted.join(" ")));
            generation = self.edited(event, both).await?.generation();
        }
        drop(keyring);
        self.narrow(permit, &wanted.join(" "), (generation, wait), |keyring| Ok(with_recovery(to, keyring))).await
    }

    /// Takes a root key or a recovery key off the keyring, without asking it: it opens no later document.
    ///
    /// # Errors
    /// One that is not there; the last one that a process can start with; others that do not prove themselves; processes that
    /// did not follow within `wait`; the store, the audit log.
    pub async fn remove_root(&self, permit: &Permit<Manage>, uri: &str, wait: Duration) -> Result<(), CustodyError> {
        self.keys.look().await?;
        let keyring = self.keys.opening();
        let others = |keyring: &Keyring| -> Result<Vec<String>, CustodyError> {
            if keyring.roots().iter().any(|root| root == uri) {
                return Ok(keyring.roots().iter().filter(|root| *root != uri).cloned().collect());
            }
            Err(CustodyError::NotFound {
                what: format!("{uri} is no root key of the keyring"),
                hint: format!("it has {}", keyring.roots().join(", ")),
            })
        };
        self.prove_all(&others(&keyring)?).await?;
        let generation = keyring.generation();
        drop(keyring);
        self.narrow(permit, uri, (generation, wait), others).await
    }

    /// Shows that root keys do what they must, and that a process can start with one of them.
    async fn prove_all(&self, roots: &[String]) -> Result<(), CustodyError> {
        if roots.iter().all(|uri| uri.starts_with(RECOVERY)) {
            return Err(CustodyError::invalid(
                "no root key would be left that a process can start with",
                "name one: keyfold keys rewrap-root --to URI",
            ));
        }
        for uri in roots {
            prove(&*self.keys.store().other_root(uri)?).await?;
        }
        Ok(())
    }

    /// Leaves the keyring the root keys that `stay`, which it has, once every live process opens the generation that names
    /// them. What another command did meanwhile counts too.
    async fn narrow(
        &self,
        permit: &Permit<Manage>,
        name: &str,
        (generation, wait): (u64, Duration),
        stay: impl Fn(&Keyring) -> Result<Vec<String>, CustodyError> + Send + Sync,
    ) -> Result<(), CustodyError> {
        let follows = |report: &Report| report.opens >= generation;
        self.wait_for(wait, "hold the keyring that names the root keys which stay", follows).await?;
        let mut event = self.auditor.event(permit.actor(), Action::RootChange)?;
        event.record = Some(Name::abridge(name));
        let leave = |keyring: &Keyring| {
            let roots = stay(keyring)?;
            let usable = |uri: &String| !uri.starts_with(RECOVERY);
            if !roots.iter().all(|uri| keyring.roots().contains(uri)) || !roots.iter().any(usable) {
                return Err(CustodyError::Conflict { what: "the root keys of the keyring changed meanwhile".into() });
            }
            Ok(keyring.with_roots(roots))
        };
        self.edited(event, leave).await.map(|_| ())
    }

    /// Lets one more root key open the keyring: a second place, or a recovery key.
    ///
    /// # Errors
    /// One that is there already, or does not prove itself; the store, the audit log.
    pub async fn add_root(&self, permit: &Permit<Manage>, uri: &str) -> Result<(), CustodyError> {
        prove(&*self.keys.store().other_root(uri)?).await?;
        let mut event = self.auditor.event(permit.actor(), Action::RootChange)?;
        event.record = Some(Name::abridge(uri));
        self.edited(event, |keyring| {
            if keyring.roots().iter().any(|root| root == uri) {
                return Err(CustodyError::invalid(
                    format!("{uri} opens the keyring already"),
                    "see `keyfold doctor --keys`",
                ));
            }
            let mut roots = keyring.roots().to_vec();
            roots.push(uri.to_owned());
            within_limit(&roots)?;
            Ok(keyring.with_roots(roots))
        })
        .await
        .map(|_| ())
    }
}

fn within_limit(roots: &[String]) -> Result<(), CustodyError> {
    if roots.len() <= MAX_ROOTS {
        return Ok(());
    }
    Err(CustodyError::invalid(
        format!("a keyring has at most {MAX_ROOTS} root keys"),
        "take one off with `keyfold keys remove-root URI`",
    ))
}

/// A backup under another root key.
pub struct Rerooted {
    /// The keyring document.
    pub document: Vec<u8>,
    /// The root keys that wrapped the backup and do not wrap this.
    pub left_out: Vec<String>,
}

/// What becomes of a backup that only `old` opens: the same keyring, one generation on, under `new`. Recovery keys keep their
/// place, since their public halves suffice; other root keys may be gone, and are named.
///
/// # Errors
/// See [`document::DocumentError`].
pub async fn reroot(
    backup: &[u8],
    old: &dyn RootKey,
    new: &dyn RootKey,
    others: &dyn OpenRoot,
    seen: u64,
) -> Result<Rerooted, CustodyError> {
    let keyring = document::open(old, backup, seen).await?;
    let (recovery, left_out): (Vec<_>, Vec<_>) =
        keyring.roots().iter().filter(|uri| *uri != new.uri()).partition(|uri| uri.starts_with(RECOVERY));
    let recovery = recovery.into_iter().map(|uri| others.open_root(uri)).collect::<Result<Vec<_>, _>>()?;
    let mut roots = vec![new];
    roots.extend(recovery.iter().map(|root| &**root));
    let uris = roots.iter().map(|root| root.uri().to_owned()).collect();
    let document = document::seal(&roots, &SystemRandom, &keyring.with_roots(uris)).await?;
    Ok(Rerooted { document, left_out: left_out.into_iter().cloned().collect() })
}
