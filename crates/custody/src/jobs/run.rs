//! Running a job: scan, plan, commit, until a pass finds nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use keyfold_core::{
    audit::{Action, Event, Name, Word},
    keyring::Keyring,
    rewrap::How,
};

use super::{Job, JobLease, Kind, Planned, Summary, Tally, plan_record};
use crate::{
    access::{Permit, op::Rotate},
    auditor::Auditor,
    collection::Collection,
    custody::Custody,
    error::CustodyError,
    store::{Partition, Swapped},
};

/// Batches that are planned while another is committed.
const AHEAD: usize = 2;
/// How long a job waits for another one on the same collection.
const WAIT: Duration = Duration::from_secs(60);
/// After so many passes, writers are faster than the job and somebody should look.
const MAX_PASSES: u32 = 100;

/// How far a job is.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// The collection's name.
    pub collection: &'a str,
    /// The pass, from 1.
    pub pass: u32,
    /// Records of this pass so far.
    pub records: u64,
    /// Records in the collection when the job began.
    pub total: u64,
}

/// Somebody who watches a job, and may stop it between two batches.
pub trait Observer: Send + Sync {
    /// After every batch.
    fn update(&self, update: Update<'_>);

    /// Whether to stop before the next batch.
    fn stopped(&self) -> bool {
        false
    }
}

/// Nobody watches.
#[derive(Debug, Default)]
pub struct Silent(pub Arc<AtomicBool>);

impl Observer for Silent {
    fn update(&self, _: Update<'_>) {}

    fn stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a run ended.
pub enum Ended {
    /// The last pass found nothing to do.
    Done(Summary),
    /// Stopped between two batches; a rerun goes on from there.
    Stopped(Summary),
}

/// One job on one collection, with what its batches share.
struct Run<'a> {
    custody: &'a Custody,
    job: Arc<Job>,
    collection: Arc<Collection>,
    observer: &'a dyn Observer,
    permit: &'a Permit<Rotate>,
    name: String,
    total: u64,
}

impl Custody {
    /// Runs a job on a collection.
    ///
    /// # Errors
    /// The store, the audit log, the keyring. What was committed stays; a rerun goes on.
    pub async fn run(
        &self,
        permit: &Permit<Rotate>,
        job: &Job,
        collection: &Collection,
        observer: &dyn Observer,
    ) -> Result<Ended, CustodyError> {
        self.within_floor(collection)?;
        let total = self.records.count(&collection.id).await?;
        let keyring = self.keys.opening();
        let how = if job.how == How::Reseal { "reseal" } else { "rewrap" };
        let to = job.to.map_or("same", keyfold_core::envelope::Format::as_str);
        // The name holds what the job aims at: a cursor of another aim, or of another generation, is not gone on from.
        let name = format!("{}/{how}/{to}/{}", job.kind.as_str(), keyring.generation());
        drop(keyring);
        let run = Run {
            custody: self,
            job: Arc::new(job.clone()),
            collection: Arc::new(collection.clone()),
            observer,
            permit,
            name,
            total,
        };
        run.run().await
    }
}

impl Run<'_> {
    async fn run(mut self) -> Result<Ended, CustodyError> {
        let mut summary = Summary::of(self.job.kind, &self.collection.name, self.job.dry_run);
        let auditor = &self.custody.auditor;
        if !self.job.writes() {
            let mut event = auditor.about(self.permit.actor(), Action::VerifyRun, &self.collection)?;
            event.job = Some(Name::abridge(&self.name));
            event.count = Some(self.total);
            let mut leases = Vec::new();
            let tally = auditor.audited(event, async |_| self.pass(1, &mut leases).await).await?;
            let stopped = tally.1;
            summary.pass(tally.0);
            return Ok(if stopped { Ended::Stopped(summary) } else { Ended::Done(summary) });
        }
        let mut leases = self.leases().await?;
        for pass in 1..=MAX_PASSES {
            // A pass that goes on where another process left off says nothing about what lies before.
            let whole = leases.iter().all(|(_, lease)| lease.cursor().is_none());
            let result = self.pass(pass, &mut leases).await;
            let (tally, stopped) = match result {
                Ok(done) => done,
                Err(error) => {
                    release(leases, false).await;
                    return Err(error);
                }
            };
            let overtaken = tally.overtaken > 0;
            let quiet = tally.changed == 0 && !overtaken;
            summary.pass(tally);
            if stopped {
                release(leases, false).await;
                return Ok(Ended::Stopped(summary));
            }
            if quiet && whole {
                release(leases, true).await;
                return Ok(Ended::Done(summary));
            }
            // Once everything was made new, what is left to find are values that writers stored under former keys. A record
            // that was overtaken may hold a whole document from before, old data keys and all: then everything again.
            if !overtaken {
                self.job = Arc::new(Job { how: How::Rewrap, ..(*self.job).clone() });
            }
        }
        release(leases, true).await;
        Err(CustodyError::Waiting {
            what: format!(
                "{}: writers keep storing values that must move, after {MAX_PASSES} passes",
                self.collection.name
            ),
            hint: "find who still seals under a former key: `keyfold keys census`, then run again".into(),
        })
    }

    async fn leases(&self) -> Result<Vec<(Partition, JobLease)>, CustodyError> {
        let custody = self.custody;
        let mut leases = Vec::new();
        for partition in custody.records.partitions(&self.collection.id).await? {
            let place = format!("{}/{}", self.collection.id.as_str(), partition.as_str());
            let lease = JobLease::take(&custody.system, &place, &self.name, custody.keys.id(), WAIT).await?;
            leases.push((partition, lease));
        }
        Ok(leases)
    }

    /// One pass over all partitions; says whether it was stopped.
    async fn pass(&self, pass: u32, leases: &mut [(Partition, JobLease)]) -> Result<(Tally, bool), CustodyError> {
        let mut tally = Tally::default();
        if leases.is_empty() {
            for partition in self.custody.records.partitions(&self.collection.id).await? {
                if self.partition(pass, &partition, None, &mut tally).await? {
                    return Ok((tally, true));
                }
            }
        }
        for (partition, lease) in leases {
            if self.partition(pass, partition, Some(lease), &mut tally).await? {
                return Ok((tally, true));
            }
        }
        Ok((tally, false))
    }

    async fn partition(
        &self,
        pass: u32,
        partition: &Partition,
        mut lease: Option<&mut JobLease>,
        tally: &mut Tally,
    ) -> Result<bool, CustodyError> {
        let from = lease.as_deref().and_then(|lease| lease.cursor().cloned());
        let pages = stream::try_unfold(Some(from), |from| async {
            let Some(after) = from else { return Ok::<_, CustodyError>(None) };
            let page =
                self.custody.records.scan(&self.collection.id, partition, after.as_ref(), self.job.batch).await?;
            let keyring = self.custody.keys.sealing().await?;
            let cursor = page.next.clone();
            Ok(Some(((page.records, keyring, cursor), page.next.map(Some))))
        });
        let planned = pages
            .map_ok(|(records, keyring, cursor)| {
                let (job, collection) = (Arc::clone(&self.job), Arc::clone(&self.collection));
                let now = self.custody.auditor.clock().now();
                async move {
                    let work = tokio::task::spawn_blocking(move || {
                        let mut planned = Planned::default();
                        for record in records {
                            plan_record(&mut planned, &job, &keyring, &collection, (record, now));
                        }
                        (planned, keyring)
                    });
                    let (planned, keyring) =
                        work.await.map_err(|_| CustodyError::invalid("a planning thread failed", "run again"))?;
                    Ok((planned, keyring, cursor))
                }
            })
            .try_buffered(AHEAD);
        let mut planned = std::pin::pin!(planned);
        while let Some(batch) = planned.next().await {
            let (batch, keyring, cursor) = batch?;
            let done = self.commit(batch, &keyring).await?;
            drop(keyring);
            if let Some(lease) = lease.as_deref_mut() {
                lease.advance(cursor).await?;
            }
            tally.add(done);
            let (collection, total) = (self.collection.name.as_str(), self.total);
            self.observer.update(Update { collection, pass, records: tally.records, total });
            if self.observer.stopped() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes a batch between its intent and its outcome. What another writer changed in between is left to it.
    async fn commit(&self, batch: Planned, keyring: &Keyring) -> Result<Tally, CustodyError> {
        let Planned { swaps, mut tally, wraps } = batch;
        if swaps.is_empty() || !self.job.writes() {
            return Ok(tally);
        }
        let custody = self.custody;
        if let Some(entry) = keyring.primary(keyfold_core::envelope::Format::V1).filter(|_| wraps > 0) {
            custody.usage.reserve(entry.kid(), wraps).await?;
        }
        let event = self.batch_event(&custody.auditor, keyring, &swaps)?;
        let swapped = custody
            .auditor
            .audited(event, async |_| {
                custody.keys.confirm(keyring).await?;
                Ok(custody.records.swap(&self.collection.id, swaps).await?)
            })
            .await?;
        let lost = swapped.iter().filter(|swapped| **swapped != Swapped::Done).count();
        let overtaken = swapped.iter().filter(|swapped| **swapped == Swapped::Changed).count();
        tally.changed = tally.changed.saturating_sub(u64::try_from(lost).unwrap_or(u64::MAX));
        tally.overtaken += u64::try_from(overtaken).unwrap_or(u64::MAX);
        Ok(tally)
    }

    fn batch_event(
        &self,
        auditor: &Auditor,
        keyring: &Keyring,
        swaps: &[crate::store::Swap],
    ) -> Result<Event, CustodyError> {
        let action = if self.job.kind == Kind::Migrate { Action::MigrateBatch } else { Action::RotateBatch };
        let mut event = auditor.about(self.permit.actor(), action, &self.collection)?;
        event.job = Some(Name::abridge(&self.name));
        event.first = swaps.first().map(|swap| Name::abridge(swap.key.as_str()));
        event.last = swaps.last().map(|swap| Name::abridge(swap.key.as_str()));
        event.count = u64::try_from(swaps.len()).ok();
        event.generation = Some(keyring.generation());
        let format = self.job.to.unwrap_or(self.collection.format);
        event.format = Word::new(format.as_str()).ok();
        event.kid = keyring.primary(format).map(keyfold_core::keyring::Entry::kid);
        Ok(event)
    }
}

async fn release(leases: Vec<(Partition, JobLease)>, finished: bool) {
    for (_, lease) in leases {
        // A lease that cannot be given back runs out by itself; the work is done or will be gone on with.
        if let Err(error) = lease.release(finished).await {
            tracing::warn!(%error, "a job's lease could not be given back");
        }
    }
}
