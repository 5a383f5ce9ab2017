//! The life of a key: create, promote, retire, destroy; each step waits for whoever would lose by it.

use std::time::{Duration, Instant};

use keyfold_core::{
    audit::{Action, Event},
    clock::UnixTime,
    envelope::Format,
    error::Hint,
    id::{KeyId, WriterId},
    keyring::{Entry, KeyMaterial, Keyring, Origin, Purpose, State},
    rng::{self, SystemRandom},
    secret::Key32,
};

use super::process::{LEASE, Place, Processes, Report};
use crate::{
    access::{Permit, op::Manage},
    census::Census,
    custody::Custody,
    error::CustodyError,
};

/// What a census found holds for the keyring that it was taken under: meanwhile another process may have promoted the key
/// again, and sealed under it behind the census's back.
fn unchanged(keyring: &Keyring, generation: u64) -> Result<&Keyring, CustodyError> {
    if keyring.generation() == generation {
        return Ok(keyring);
    }
    let found = keyring.generation();
    Err(CustodyError::Conflict {
        what: format!("the keyring changed from generation {generation} to {found} meanwhile"),
    })
}

fn fresh(purpose: Purpose) -> Result<KeyMaterial, CustodyError> {
    KeyMaterial::new(purpose, Key32::new(rng::array(&SystemRandom)?))
        .map_err(|error| CustodyError::invalid(error.to_string(), error.hint().unwrap_or_default()))
}

impl Custody {
    pub(super) async fn edited(
        &self,
        mut event: Event,
        edit: impl Fn(&Keyring) -> Result<Keyring, CustodyError> + Send + Sync,
    ) -> Result<Keyring, CustodyError> {
        event.generation = Some(self.keys.opening().generation() + 1);
        let keyring = self.auditor.audited_write(event, async |_| self.keys.store().edit(edit).await).await?;
        // Our own report must not be the one that everybody waits for.
        self.keys.look().await.map_err(CustodyError::afterwards)?;
        Ok(keyring)
    }

    /// Makes a key and stages it: every process will be able to open with it before anybody seals. The first key of its kind
    /// in a keyring becomes primary at once, since nobody can be without it.
    ///
    /// # Errors
    /// Suites of both kinds; the root key, the store, the audit log.
    pub async fn create_key(&self, permit: &Permit<Manage>, suites: &[Format]) -> Result<KeyId, CustodyError> {
        let purposes: Vec<_> = suites.iter().map(|&format| Purpose::of(format)).collect();
        let Some(&purpose) = purposes.first().filter(|first| purposes.iter().all(|purpose| purpose == *first)) else {
            return Err(CustodyError::invalid(
                "a key serves kf1 and v1, or fernet, and not both kinds",
                "create one key for each: --suites kf1,v1 and --suites fernet",
            ));
        };
        let material = fresh(purpose)?;
        let entry = self.staged(material, suites);
        self.stage_key(permit, Action::KeyCreate, entry).await
    }

    /// Takes over a key that exists, as an entry under the root key. Its copy elsewhere stays what it is: rotating to a fresh
    /// key makes that useless.
    ///
    /// # Errors
    /// A key that is there already or was destroyed; the root key, the store, the audit log.
    pub async fn import_key(&self, permit: &Permit<Manage>, material: KeyMaterial) -> Result<KeyId, CustodyError> {
        let suites: &[Format] = match material {
            KeyMaterial::Master(_) => &[Format::Kf1, Format::V1],
            KeyMaterial::Fernet(_) => &[Format::Fernet],
        };
        let entry = self.staged(material, suites);
        self.stage_key(permit, Action::KeyImport, entry).await
    }

    /// As [`Custody::create_key`], for a rotation by the clock: nobody but that waits for something before the key seals.
    pub(super) async fn schedule_key(
        &self,
        permit: &Permit<Manage>,
        purpose: Purpose,
        suites: &[Format],
    ) -> Result<KeyId, CustodyError> {
        let entry = self.staged(fresh(purpose)?, suites).by_schedule();
        self.stage_key(permit, Action::KeyCreate, entry).await
    }

    fn staged(&self, material: KeyMaterial, suites: &[Format]) -> Entry {
        Entry::new(material, State::Staged, suites.to_vec(), self.auditor.clock().now(), Origin::Document)
    }

    async fn stage_key(&self, permit: &Permit<Manage>, action: Action, entry: Entry) -> Result<KeyId, CustodyError> {
        let (kid, now, purpose) = (entry.kid(), entry.created(), entry.purpose());
        let mut event = self.auditor.event(permit.actor(), action)?;
        event.kid = Some(kid);
        self.edited(event, |keyring| {
            let next = keyring.staged(entry.clone())?;
            Ok(if next.primary_of(purpose).is_none() { next.promoted(kid, now)? } else { next })
        })
        .await?;
        Ok(kid)
    }

    /// Makes a staged or active key the one that seals, once every live process can open with it.
    ///
    /// # Errors
    /// Processes that did not follow within `wait`, by name; a key that cannot be promoted.
    pub async fn promote_key(&self, permit: &Permit<Manage>, kid: KeyId, wait: Duration) -> Result<(), CustodyError> {
        let keyring = self.keys.opening();
        let now = self.auditor.clock().now();
        // Asked first, so that nobody waits for what would be refused.
        keyring.promoted(kid, now)?;
        let generation = keyring.generation();
        self.wait_for(wait, "open the staged key", |report| report.opens >= generation).await?;
        let mut event = self.auditor.event(permit.actor(), Action::KeyPromote)?;
        event.kid = Some(kid);
        self.edited(event, |keyring| Ok(keyring.promoted(kid, now)?)).await.map(|_| ())
    }

    /// Refuses a key from now on, once nobody seals under it and nothing stored needs it.
    ///
    /// # Errors
    /// Processes that may still seal under it, records that still need it, by name and number.
    pub async fn retire_key(
        &self,
        permit: &Permit<Manage>,
        kid: KeyId,
        wait: Duration,
    ) -> Result<Census, CustodyError> {
        self.keys.look().await?;
        let keyring = self.keys.opening();
        let now = self.auditor.clock().now();
        keyring.retired(kid, now)?;
        let generation = keyring.generation();
        drop(keyring);
        self.wait_for(wait, "stop sealing under the key", |report| report.seals >= generation).await?;
        let census = self.unused(kid).await?;
        let mut event = self.auditor.event(permit.actor(), Action::KeyRetire)?;
        event.kid = Some(kid);
        self.edited(event, |keyring| Ok(unchanged(keyring, generation)?.retired(kid, now)?)).await?;
        Ok(census)
    }

    /// Puts a retired key back.
    ///
    /// # Errors
    /// A key that is not retired.
    pub async fn activate_key(&self, permit: &Permit<Manage>, kid: KeyId) -> Result<(), CustodyError> {
        let now = self.auditor.clock().now();
        let mut event = self.auditor.event(permit.actor(), Action::KeyActivate)?;
        event.kid = Some(kid);
        self.edited(event, |keyring| Ok(keyring.activated(kid, now)?)).await.map(|_| ())
    }

    /// Leaves a tombstone where a key was, if it has been retired for `min_age` and a second census finds nothing under it.
    ///
    /// # Errors
    /// Too young, still needed, not retired.
    pub async fn destroy_key(
        &self,
        permit: &Permit<Manage>,
        kid: KeyId,
        min_age: Duration,
    ) -> Result<(), CustodyError> {
        self.keys.look().await?;
        let keyring = self.keys.opening();
        let now = self.auditor.clock().now();
        keyring.destroyed(kid, now)?;
        let generation = keyring.generation();
        let retired_for = keyring.entry(kid).map_or(0, |entry| now.0.saturating_sub(entry.since().0));
        if retired_for < min_age.as_secs() {
            return Err(CustodyError::Waiting {
                what: format!(
                    "key `{kid}` has been retired for {retired_for} s, {} s are asked for",
                    min_age.as_secs()
                ),
                hint: "wait, so that a forgotten record or backup can still show up, or give a shorter --min-age"
                    .into(),
            });
        }
        self.unused(kid).await?;
        let mut event = self.auditor.event(permit.actor(), Action::KeyDestroy)?;
        event.kid = Some(kid);
        self.edited(event, |keyring| Ok(unchanged(keyring, generation)?.destroyed(kid, now)?)).await.map(|_| ())
    }

    /// Records the configured accept policies as floors; gives the new generation.
    ///
    /// # Errors
    /// A policy beyond its floor, where `loosen` does not allow it.
    pub async fn apply_floors(&self, permit: &Permit<Manage>, loosen: bool) -> Result<u64, CustodyError> {
        let floors = || self.config.collections.values().map(|c| (c.id.as_str(), &c.accept));
        let event = self.auditor.event(permit.actor(), Action::AcceptChanged)?;
        Ok(self.edited(event, |keyring| Ok(keyring.with_floors(floors(), loosen)?)).await?.generation())
    }

    /// Strikes a process off the list of those that are waited for.
    ///
    /// # Errors
    /// No such process; one that still reports, and would seal on under a key that is then retired.
    pub async fn forget_process(&self, permit: &Permit<Manage>, id: WriterId) -> Result<(), CustodyError> {
        let (now, here) = (self.system.now().await?, Place::here());
        // One that stands still is no exception: what it sealed a moment ago it would store as soon as it goes on, and only
        // after a longer silence does it look at the keyring first.
        if let Some(report) = self.keys.processes().get(id).await?
            && now.0.saturating_sub(report.reported.0) <= LEASE.as_secs()
            && !report.place.ended(&here)
        {
            return Err(CustodyError::Waiting {
                what: format!("process {} still reports", Processes::name(std::slice::from_ref(&report))),
                hint: format!(
                    "let it finish or end it; one that has been silent for {} s can be forgotten",
                    LEASE.as_secs()
                ),
            });
        }
        let mut event = self.auditor.event(permit.actor(), Action::ProcessForgotten)?;
        event.record = Some(keyfold_core::audit::Name::abridge(&id.to_string()));
        self.auditor
            .audited_write(event, async |_| {
                if self.keys.processes().strike(id).await? {
                    return Ok(());
                }
                Err(CustodyError::NotFound {
                    what: format!("no process `{id}` is on the list"),
                    hint: "see `keyfold keys list`".into(),
                })
            })
            .await
    }

    /// Counts what is stored under the key, and refuses where that is not nothing.
    async fn unused(&self, kid: KeyId) -> Result<Census, CustodyError> {
        self.renew_own().await?;
        let census = self.census().await?;
        let under = census.under(kid);
        if under > 0 {
            return Err(CustodyError::Waiting {
                what: format!("{under} stored values are still sealed under key `{kid}`"),
                hint: "run `keyfold rotate`, then try again; `keyfold keys census` shows where they are".into(),
            });
        }
        if let Some(note) = self.needed_elsewhere(kid).await?.first() {
            return Err(CustodyError::Waiting {
                what: format!(
                    "values of `{}` in {} were sealed under key `{kid}` when they were last looked at",
                    note.collection, note.store
                ),
                hint: "run `keyfold rotate` there, with the --preset and --store of that time or the configured collection; when \
                       it finds nothing more under the key, try again; a store that is gone for good is forgotten with \
                       `keyfold keys forget-store STORE`, named as here"
                    .into(),
            });
        }
        if census.unreadable > 0 {
            return Err(CustodyError::Waiting {
                what: format!(
                    "{} stored values do not open, and may need key `{kid}`; the first is {}",
                    census.unreadable,
                    census.first_unreadable.as_deref().unwrap_or("not known")
                ),
                hint: "mend or remove them first; `keyfold verify` names those in declared fields".into(),
            });
        }
        Ok(census)
    }

    /// Waits until every live process meets `ready`.
    pub(super) async fn wait_for(
        &self,
        wait: Duration,
        to: &str,
        ready: impl Fn(&Report) -> bool,
    ) -> Result<(), CustodyError> {
        let until = Instant::now() + wait;
        loop {
            self.keys.look().await?;
            let live = self.keys.processes().live().await?;
            let late: Vec<Report> = live.into_iter().filter(|report| !ready(report)).collect();
            if late.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                let silent = self.silent(&late).await?;
                let mut hint = "let it finish or stop it, then try again".to_owned();
                if let Some(report) = silent.first() {
                    hint = format!(
                        "process {} has not reported for {} s; if it is gone for good, `keyfold keys forget-process {}`",
                        report.id,
                        LEASE.as_secs(),
                        report.id
                    );
                }
                return Err(CustodyError::Waiting {
                    what: format!("waiting for processes to {to}: {}", Processes::name(&late)),
                    hint,
                });
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Those whose last report is older than the lease.
    async fn silent(&self, reports: &[Report]) -> Result<Vec<Report>, CustodyError> {
        let now: UnixTime = self.system.now().await?;
        let old = |report: &&Report| now.0.saturating_sub(report.reported.0) > LEASE.as_secs();
        Ok(reports.iter().filter(old).cloned().collect())
    }
}
