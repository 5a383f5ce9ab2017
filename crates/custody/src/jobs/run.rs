//! Running a job: scan, plan, commit, until a pass finds nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::try_join_all;
use keyfold_core::{
    audit::{Action, Name},
    envelope::Format,
    id::to_hex,
    keyring::{Entry, Keyring},
    mac,
    rewrap::How,
};
use tokio::{
    sync::{Mutex, Notify, RwLock},
    time::timeout,
};

use super::{
    Job, Summary,
    lease::{JobLease, Next, Parts, Share},
    plan::Plan,
    scout::{Route, Scout},
    writer::{self, Passed},
};
use crate::{
    access::{Permit, Place, op::Rotate},
    collection::Collection,
    custody::Custody,
    error::CustodyError,
    store::{Partition, RecordStore, ScanCursor, Writes},
};

/// Partitions of a shared job that one process takes at once, so that others find some too.
const SIDE_BY_SIDE: usize = 2;
/// How long a job waits for another one on the same collection.
const WAIT: Duration = Duration::from_secs(60);
/// How often a process looks whether there is something left to do while others work.
const LOOK: Duration = Duration::from_millis(250);
/// After so many passes that a moving store made worthless, somebody should look.
const MAX_LOOKS: u32 = 10;
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
    /// Records in the collection when the job began, about, where the store can say.
    pub total: Option<u64>,
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

/// One job on one collection, with what its parts share.
pub(super) struct Run<'a> {
    pub(super) custody: &'a Custody,
    pub(super) store: Arc<dyn RecordStore>,
    pub(super) job: Arc<Job>,
    pub(super) collection: Arc<Collection>,
    pub(super) observer: &'a dyn Observer,
    pub(super) permit: &'a Permit<Rotate>,
    pub(super) name: String,
    /// The collection in its store, as leases name it.
    lies: String,
    pub(super) total: Option<u64>,
    /// Records that this process went through, for whoever watches.
    pub(super) seen: AtomicU64,
    /// Batches that the store was given. Held shared while one is on its way, so that whoever holds it against the store's own count
    /// comes between two.
    pub(super) swaps: RwLock<AtomicU64>,
    /// Tells the other workers that a partition is done.
    finished: Notify,
    /// The generation of the keyring whose keys the store is noted to need.
    noted: AtomicU64,
}

/// What a job is called, and the place that its leases are for.
///
/// The name holds what the job aims at: a cursor of another aim, of another generation, or of other fields is not gone on from. In
/// another program's store the same collection may lie many times, and the environment's keys may be others in each process.
fn names(job: &Job, collection: &Collection, keyring: &Keyring, place: &str) -> (String, String) {
    let how = if job.how == How::Reseal { "reseal" } else { "rewrap" };
    let to = job.to.map_or("same", Format::as_str);
    let mut name = format!("{}/{how}/{to}/{}", job.kind.as_str(), keyring.generation());
    if !collection.layout.is_foreign() {
        return (name, collection.id.as_str().to_owned());
    }
    let short = |of: &str| to_hex(&mac::sha256(&[of.as_bytes()])[..8]);
    let led = keyring.led_by_environment();
    let primaries: Vec<_> = Format::ALL.iter().map(|format| led.primary(*format).map(Entry::kid)).collect();
    let aim = format!("{place}\n{:?}\n{primaries:?}", collection.cells);
    name = format!("{name}/{}", short(&aim));
    (name, format!("{}@{}", collection.id.as_str(), short(place)))
}

impl Custody {
    /// Runs a job on a collection. Other processes that run the same one at the same time share it.
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
        permit.check(&Place::Collection(&collection.id))?;
        self.within_floor(collection)?;
        let store = self.store_of(collection)?;
        let total = store.estimate(&collection.id).await?;
        let keyring = self.keys.opening();
        let place = store.describe();
        let (name, lies) = names(job, collection, &keyring, &place);
        let noted = keyring.generation();
        drop(keyring);
        let run = Run {
            custody: self,
            store,
            job: Arc::new(job.clone()),
            collection: Arc::new(collection.clone()),
            observer,
            permit,
            name,
            lies,
            total,
            seen: AtomicU64::new(0),
            swaps: RwLock::default(),
            finished: Notify::new(),
            noted: AtomicU64::new(noted),
        };
        if job.writes() {
            self.may_seal_there(collection, &place, &self.keys.opening()).await?;
        }
        let known = self.noted_there(collection).await?;
        let ended = if job.writes() {
            run.shared().await
        } else {
            let auditor = &self.auditor;
            let mut event = auditor.about(permit.actor(), Action::VerifyRun, collection)?;
            event.job = Some(Name::abridge(&run.name));
            event.count = run.total;
            auditor.audited(event, async |_| run.look().await).await
        }?;
        if let Ended::Done(summary) = &ended
            && !job.dry_run
        {
            self.seen_there(collection, &place, summary, known).await?;
        }
        Ok(ended)
    }
}

impl Run<'_> {
    /// One pass over everything that writes nothing.
    async fn look(&self) -> Result<Ended, CustodyError> {
        for _ in 0..MAX_LOOKS {
            // Where the store moves its parts meanwhile (the slots of a cluster), a record may have been passed by.
            let topology = self.store.topology(&self.collection.id).await?;
            let ended = self.look_once().await?;
            if matches!(ended, Ended::Stopped(_)) || self.store.topology(&self.collection.id).await? == topology {
                return Ok(ended);
            }
            self.moved();
            self.seen.store(0, Ordering::Relaxed);
        }
        Err(CustodyError::Waiting {
            what: format!("{}: the store keeps moving its parts, after {MAX_LOOKS} passes", self.collection.name),
            hint: "run again when the cluster has been rebalanced".into(),
        })
    }

    fn moved(&self) {
        tracing::info!(
            collection = self.collection.name,
            "the store moved its parts; everything is gone through again"
        );
    }

    async fn look_once(&self) -> Result<Ended, CustodyError> {
        let partitions = self.store.partitions(&self.collection.id).await?;
        let queue = Mutex::new(partitions.into_iter());
        let worker = async || {
            let mut summary = self.summary();
            loop {
                let Some(partition) = queue.lock().await.next() else { return Ok::<_, CustodyError>((summary, false)) };
                let passed = self.pass(1, Look::All, &partition, (None, None)).await?;
                let mut seen = self.summary();
                seen.pass(passed.tally);
                summary.merge(seen);
                if passed.stopped {
                    return Ok((summary, true));
                }
            }
        };
        let done = try_join_all((0..self.store.side_by_side()).map(|_| worker())).await?;
        let stopped = done.iter().any(|(_, stopped)| *stopped);
        let mut summary = self.summary();
        done.into_iter().for_each(|(part, _)| summary.merge(part));
        Ok(if stopped { Ended::Stopped(summary) } else { Ended::Done(summary) })
    }

    /// Works on partitions until all are done, by whomever.
    async fn shared(&self) -> Result<Ended, CustodyError> {
        let (system, keys) = (&self.custody.system, &self.custody.keys);
        let who = (keys.id(), self.parts().await?);
        let mut share = Share::join(system, &self.lies, &self.name, who, WAIT).await?;
        let mut stopped = self.summary();
        loop {
            let workers = SIDE_BY_SIDE.min(share.parts().partitions.len());
            let done = try_join_all((0..workers).map(|_| self.worker(&share))).await?;
            let (mut all, mut ended) = (Vec::new(), false);
            for worker in done {
                match worker {
                    Worked::Stopped(summary) => {
                        stopped.merge(summary);
                        ended = true;
                    }
                    Worked::Done(summaries) => all = summaries,
                }
            }
            if ended {
                return Ok(Ended::Stopped(stopped));
            }
            // Where the store moved its parts meanwhile (the slots of a cluster), what was seen does not count.
            if self.store.topology(&self.collection.id).await? == share.parts().topology {
                let mut summary = self.summary();
                all.into_iter().for_each(|part| summary.merge(part));
                return Ok(Ended::Done(summary));
            }
            self.moved();
            share.again(self.parts().await?).await?;
        }
    }

    /// How the store is parted now.
    async fn parts(&self) -> Result<Parts, CustodyError> {
        let topology = self.store.topology(&self.collection.id).await?;
        Ok(Parts { topology, partitions: self.store.partitions(&self.collection.id).await? })
    }

    async fn worker(&self, share: &Share) -> Result<Worked, CustodyError> {
        let mut mine = self.summary();
        loop {
            match share.next().await? {
                Next::Done(summaries) => return Ok(Worked::Done(summaries)),
                Next::Wait if self.observer.stopped() => return Ok(Worked::Stopped(mine)),
                Next::Wait => {
                    let _elapsed = timeout(LOOK, self.finished.notified()).await;
                }
                Next::Work(_, lease) if self.observer.stopped() => {
                    given_back(*lease).await;
                    return Ok(Worked::Stopped(mine));
                }
                Next::Work(partition, lease) => {
                    let lease = Mutex::new(*lease);
                    match self.until_quiet(&partition, &lease).await {
                        Ok((summary, false)) => {
                            mine.merge(summary.clone());
                            lease.into_inner().finish(summary).await?;
                            self.finished.notify_one();
                        }
                        Ok((summary, true)) => {
                            given_back(lease.into_inner()).await;
                            mine.merge(summary);
                            return Ok(Worked::Stopped(mine));
                        }
                        Err(error) => {
                            given_back(lease.into_inner()).await;
                            return Err(error);
                        }
                    }
                }
            }
        }
    }

    /// Passes over a partition until a whole one finds nothing; says whether it was stopped.
    async fn until_quiet(
        &self,
        partition: &Partition,
        lease: &Mutex<JobLease>,
    ) -> Result<(Summary, bool), CustodyError> {
        let mut summary = self.summary();
        let mut look = Look::All;
        for pass in 1..=MAX_PASSES {
            let from = lease.lock().await.cursor().cloned();
            // A pass that goes on where another process left off says nothing about what lies before.
            let whole = from.is_none();
            let before = self.writes_of_others().await?;
            let Passed { mut tally, stopped } = self.pass(pass, look, partition, (from, Some(lease))).await?;
            let overtaken = tally.overtaken > 0;
            // Where the store can say that nobody else wrote meanwhile, there is nothing that another pass could find.
            let alone = before.is_some() && before == self.writes_of_others().await?;
            let quiet = whole && !overtaken && (tally.changed == 0 || alone);
            // Once everything was made new, what is left to find are values that writers stored under former keys. A record
            // that was overtaken may hold a whole document from before, old data keys and all: then everything again.
            look = match (overtaken, whole && tally.quarantined_values == 0) {
                (true, _) => Look::All,
                (false, false) => Look::Settled,
                // What this run opened needs no second look; what it could not open does, to be told.
                (false, true) => Look::Glance,
            };
            let records = tally.records;
            if quiet {
                tally.found = std::mem::take(&mut tally.left);
            }
            summary.pass(tally);
            if stopped || quiet {
                return Ok((summary, stopped));
            }
            self.seen.fetch_sub(records, Ordering::Relaxed);
        }
        Err(CustodyError::Waiting {
            what: format!(
                "{}: writers keep storing values that must move, after {MAX_PASSES} passes",
                self.collection.name
            ),
            hint: "find who still seals under a former key: `keyfold keys census`, then run again".into(),
        })
    }

    /// How often somebody else wrote to the store, where it counts that.
    async fn writes_of_others(&self) -> Result<Option<Writes>, CustodyError> {
        let own = self.swaps.write().await;
        let writes = self.store.writes(&self.collection.id).await?;
        let own = own.load(Ordering::Relaxed);
        Ok(writes.map(|Writes { since, count }| Writes { since, count: count.wrapping_sub(own) }))
    }

    async fn pass(
        &self,
        pass: u32,
        look: Look,
        partition: &Partition,
        (from, lease): (Option<ScanCursor>, Option<&Mutex<JobLease>>),
    ) -> Result<Passed, CustodyError> {
        let plan = Plan {
            job: Arc::clone(&self.job),
            collection: Arc::clone(&self.collection),
            now: self.custody.auditor.clock().now(),
            settled: look != Look::All,
            glance: look == Look::Glance,
        };
        let scout = Scout::send(Route {
            store: Arc::clone(&self.store),
            keys: Arc::clone(&self.custody.keys),
            plan,
            partition: partition.clone(),
            from,
        });
        writer::follow(self, pass, scout, lease).await
    }

    /// Notes, before anything is written under it, what a newer keyring may seal under than the one the job began with.
    pub(super) async fn may_seal(&self, keyring: &Keyring) -> Result<(), CustodyError> {
        if self.noted.load(Ordering::Relaxed) != keyring.generation() {
            self.custody.may_seal_there(&self.collection, &self.store.describe(), keyring).await?;
            self.noted.store(keyring.generation(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn summary(&self) -> Summary {
        Summary::of(self.job.kind, &self.collection.name, self.job.dry_run)
    }
}

/// How closely a pass looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// At everything, as the job says.
    All,
    /// What is under the primary key was made by this run, and stays.
    Settled,
    /// And needs not even be opened.
    Glance,
}

/// How one worker's part ended.
enum Worked {
    /// Every partition is done: what was seen in each.
    Done(Vec<Summary>),
    /// Somebody wanted it to stop; this is what it did until then.
    Stopped(Summary),
}

async fn given_back(lease: JobLease) {
    // A lease that cannot be given back runs out by itself; the work is done or will be gone on with.
    if let Err(error) = lease.release().await {
        tracing::warn!(%error, "a job's lease could not be given back");
    }
}
