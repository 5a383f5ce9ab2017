//! Taking old events out of the audit log: for who may manage, as an event of its own, and never what a copy still needs.

use keyfold_core::{
    audit::{Action, Deployment, Name, SigningKey, VerifierKey},
    clock::UnixTime,
    keyring::Keyring,
};
use tokio::task::spawn_blocking;

use crate::{
    access::{Permit, Place, op::Manage},
    audit_log::{AuditError, Log, Pruned, Pruner, follow::not_copied},
    custody::Custody,
    error::CustodyError,
};

/// The deployment's audit key, both halves.
///
/// # Errors
/// A keyring without one.
pub fn audit_key(keyring: &Keyring) -> Result<(SigningKey, VerifierKey), CustodyError> {
    let missing = || CustodyError::invalid("the keyring document has no audit key", "restore one that has");
    let seed = keyring.audit_seed().ok_or_else(missing)?;
    let key = SigningKey::from_seed(seed.expose()).map_err(AuditError::from)?;
    let deployment = Deployment::new(keyring.deployment()).map_err(AuditError::from)?;
    let of = VerifierKey::of(&deployment, key.public());
    Ok((key, of))
}

impl Custody {
    /// Takes out of the log what happened before a moment. What the copies of these names do not have yet stays; copies are of
    /// segment files.
    ///
    /// # Errors
    /// A log that does not verify: then nothing is taken out. The log's files, or its store.
    pub async fn prune_audit(
        &self,
        permit: &Permit<Manage>,
        log: &Log,
        before: UnixTime,
        copies: &[String],
    ) -> Result<Pruned, CustodyError> {
        permit.check(&Place::Deployment)?;
        let died = || CustodyError::Conflict { what: "retention died; the log says why".into() };
        let due = match log {
            Log::Folder(folder) => {
                let folder = folder.clone();
                spawn_blocking(move || Pruner::is_due(&folder, before)).await.map_err(|_| died())??
            }
            Log::Stored(log) => log.is_due(before).await?,
        };
        if !due {
            return Ok(Pruned::default());
        }
        let (key, of) = audit_key(&self.keys.opening())?;
        let mut event = self.auditor.event(permit.actor(), Action::AuditPrune)?;
        event.record = Some(Name::abridge(&format!("before {before}")));
        let _durable = self.auditor.intent(&event).await?;
        let times = (before, self.auditor.clock().now());
        let pruned = match log {
            Log::Folder(folder) => {
                let (folder, copies) = (folder.clone(), copies.to_vec());
                let pruned = spawn_blocking(move || {
                    let kept: Vec<_> = copies.iter().map(|name| not_copied(&folder, name)).collect::<Result<_, _>>()?;
                    let kept = |writer, number| kept.iter().any(|missing| missing(writer, number));
                    Pruner { key: &key, of: &of }.prune(&folder, times, kept)
                });
                pruned.await.map_err(|_| died())?
            }
            Log::Stored(log) => Pruner { key: &key, of: &of }.prune_stored(log, times).await,
        };
        let pruned = pruned.map_err(CustodyError::from);
        event.count = pruned.as_ref().ok().map(|pruned| pruned.events);
        self.auditor.outcome(&event, &pruned).await?;
        pruned
    }
}
