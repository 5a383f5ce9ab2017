//! Rotation by the clock: stage, promote, move what is stored, retire; never destroy.
//!
//! Each call does what is due and says what it did. Killed in between, the next one goes on: what a step needs to know stands
//! in the keyring itself.

use std::{fmt, pin::pin, time::Duration};

use async_trait::async_trait;
use keyfold_core::{
    id::KeyId,
    keyring::{Entry, Origin, Purpose, State},
};
use tokio::time::timeout;

use crate::{
    access::{
        Permit,
        op::{Manage, Rotate},
    },
    collection::Collection,
    custody::Custody,
    error::CustodyError,
    jobs::{Ended, Job, Kind, Observer},
    store::{Expect, Put},
};

/// When keys are changed.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// How long a key seals.
    pub period: Duration,
    /// How long other processes are waited for, at each step.
    pub wait: Duration,
}

impl Schedule {
    /// How long until the next look: a tenth of the period, between a second and an hour.
    #[must_use]
    pub fn pause(&self) -> Duration {
        (self.period / 10).clamp(Duration::from_secs(1), Duration::from_secs(3600))
    }
}

/// Moves what a collection holds to the key that seals.
#[async_trait]
pub trait Mover: Sync {
    /// The [`Step::Rotated`] that was made, or `None` where somebody stopped it.
    ///
    /// # Errors
    /// What keeps the job from running.
    async fn rotate(&self, collection: &Collection) -> Result<Option<Step>, CustodyError>;
}

/// A job that runs here, while [`Custody::maintain`] waits for it.
pub struct Inline<'a> {
    /// Whose records.
    pub custody: &'a Custody,
    /// The right to move them.
    pub permit: Permit<Rotate>,
    /// Told of its progress.
    pub observer: &'a dyn Observer,
}

#[async_trait]
impl Mover for Inline<'_> {
    async fn rotate(&self, collection: &Collection) -> Result<Option<Step>, CustodyError> {
        let ended = self.custody.run(&self.permit, &Job::new(Kind::Rotate), collection, self.observer).await?;
        let Ended::Done(summary) = ended else { return Ok(None) };
        Ok(Some(Step::Rotated {
            collection: collection.name.clone(),
            changed: summary.changed,
            left: summary.quarantined_values,
        }))
    }
}

/// What was done, or what keeps it from being done.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum Step {
    /// A key was made and staged.
    Created {
        /// Which.
        kid: KeyId,
    },
    /// It seals from now on.
    Promoted {
        /// Which.
        kid: KeyId,
    },
    /// What was stored moved to it.
    Rotated {
        /// Where.
        collection: String,
        /// Records that changed.
        changed: u64,
        /// Values that could not be moved.
        left: u64,
    },
    /// A former key is refused from now on.
    Retired {
        /// Which.
        kid: KeyId,
    },
    /// A step waits; the next call tries again.
    Waiting {
        /// For what.
        message: String,
        /// What helps.
        hint: String,
    },
}

impl Step {
    /// Whether everything that was due is done.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        !matches!(self, Self::Waiting { .. } | Self::Rotated { left: 1.., .. })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created { kid } => write!(f, "{kid}  staged"),
            Self::Promoted { kid } => write!(f, "{kid}  primary"),
            Self::Rotated { collection, changed, left } => {
                write!(f, "{collection}: {changed} records changed, {left} left")
            }
            Self::Retired { kid } => write!(f, "{kid}  retired"),
            Self::Waiting { message, hint } => write!(f, "waiting: {message}; {hint}"),
        }
    }
}

/// The process that rotates by the clock; the others leave it to it.
const LEASE: &str = "rotation/lease";
/// How long a silent one is believed to go on.
const HELD: Duration = Duration::from_secs(120);

impl Custody {
    /// Does what is due, in one process at a time.
    ///
    /// # Errors
    /// The store, the root key, the audit log. What must wait for others is no error, but a [`Step::Waiting`].
    pub async fn maintain(
        &self,
        manage: &Permit<Manage>,
        schedule: Schedule,
        mover: &dyn Mover,
    ) -> Result<Vec<Step>, CustodyError> {
        let mine = self.keys.id().to_string();
        let held = self.system.put(LEASE, mine.as_bytes(), Expect::Absent, Some(HELD)).await?;
        let Put::Stored { mut version } = held else {
            let hint = "the next look goes on, at the latest two minutes after that process ended".into();
            return Ok(vec![Step::Waiting { message: "another process is rotating".into(), hint }]);
        };
        let mut work = pin!(self.maintained(manage, schedule, mover));
        let steps = loop {
            if let Ok(steps) = timeout(HELD / 4, &mut work).await {
                break steps;
            }
            // Two at work do nothing twice, since each step is taken on condition; they are only in each other's way.
            match self.system.put(LEASE, mine.as_bytes(), Expect::Version(version), Some(HELD)).await {
                Ok(Put::Stored { version: next }) => version = next,
                Ok(Put::Conflict) => tracing::warn!("the lease of the rotation went to another process"),
                Err(error) => tracing::warn!(%error, "the lease of the rotation could not be renewed"),
            }
        };
        if let Err(error) = self.system.delete(LEASE, Expect::Version(version)).await {
            tracing::warn!(%error, "the lease of the rotation could not be given back; it ends by itself");
        }
        steps
    }

    async fn maintained(
        &self,
        manage: &Permit<Manage>,
        schedule: Schedule,
        mover: &dyn Mover,
    ) -> Result<Vec<Step>, CustodyError> {
        let mut steps = Vec::new();
        for purpose in [Purpose::Master, Purpose::Fernet] {
            self.keys.look().await?;
            if self.renew(manage, purpose, schedule, &mut steps).await? {
                steps.extend(self.leave_former(manage, purpose, schedule, mover).await?);
            }
        }
        Ok(steps)
    }

    /// A new primary key where the old one has sealed for long enough. Says whether the way is free for the next step.
    async fn renew(
        &self,
        manage: &Permit<Manage>,
        purpose: Purpose,
        schedule: Schedule,
        steps: &mut Vec<Step>,
    ) -> Result<bool, CustodyError> {
        let keyring = self.keys.opening();
        let Some(primary) = keyring.primary_of(purpose).filter(|entry| *entry.origin() == Origin::Document) else {
            return Ok(false);
        };
        let now = self.auditor.clock().now();
        if now.0.saturating_sub(primary.since().0) < schedule.period.as_secs() {
            return Ok(true);
        }
        let suites = primary.suites().to_vec();
        let staged = keyring.entries().iter().find(|entry| {
            let serves = suites.iter().all(|suite| entry.suites().contains(suite));
            // Somebody else's staged key waits for something, as an imported one does that another program has too.
            entry.is_scheduled() && entry.state() == State::Staged && entry.purpose() == purpose && serves
        });
        let staged = staged.map(Entry::kid);
        drop(keyring);
        let kid = match staged {
            Some(kid) => kid,
            None => {
                let kid = self.schedule_key(manage, purpose, &suites).await?;
                steps.push(Step::Created { kid });
                kid
            }
        };
        let promoted = self.promote_key(manage, kid, schedule.wait).await;
        Ok(done(promoted, steps)?.is_some_and(|()| {
            steps.push(Step::Promoted { kid });
            true
        }))
    }

    /// Moves what is stored to the primary key, and retires the keys that nothing needs any more.
    async fn leave_former(
        &self,
        manage: &Permit<Manage>,
        purpose: Purpose,
        schedule: Schedule,
        mover: &dyn Mover,
    ) -> Result<Vec<Step>, CustodyError> {
        let mut steps = Vec::new();
        let keyring = self.keys.opening();
        let is_former = |entry: &&Entry| {
            entry.state() == State::Active && entry.purpose() == purpose && *entry.origin() == Origin::Document
        };
        let former: Vec<KeyId> = keyring.entries().iter().filter(is_former).map(Entry::kid).collect();
        drop(keyring);
        if former.is_empty() {
            return Ok(steps);
        }
        self.renew_own().await?;
        let census = self.census().await?;
        if former.iter().any(|kid| census.under(*kid) > 0) {
            // Other programs' records are moved by whoever knows that their readers are ready.
            for collection in self.config.collections.values().filter(|collection| !collection.layout.is_foreign()) {
                let Some(step) = mover.rotate(collection).await? else { return Ok(steps) };
                steps.push(step);
            }
        }
        for kid in former {
            if done(self.retire_key(manage, kid, schedule.wait).await.map(|_| ()), &mut steps)?.is_some() {
                steps.push(Step::Retired { kid });
            }
        }
        Ok(steps)
    }
}

/// Tells what must wait from what went wrong.
fn done<T>(result: Result<T, CustodyError>, steps: &mut Vec<Step>) -> Result<Option<T>, CustodyError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(CustodyError::Waiting { what, hint }) => {
            steps.push(Step::Waiting { message: what, hint });
            Ok(None)
        }
        Err(CustodyError::Conflict { what }) => {
            steps.push(Step::Waiting { message: what, hint: "the next look tries again".into() });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
