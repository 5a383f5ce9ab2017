//! Several processes share a job: each works on the partitions that it holds a lease of.
//!
//! Two kinds of documents in the system store. `job/{collection}` names the run that is going on (in another program's store
//! `job/{collection}@{store}`, since the same collection may lie in several), and the partitions that it has: a store may part itself
//! otherwise each time that it is asked, and all processes must mean the same parts. `job/{collection}/{partition}` is the lease of
//! a partition, with the cursor of what was committed and, once a whole pass found nothing to do, with what was
//! seen. A process that ended, or that was silent for too long, loses its leases; whoever takes one over goes on from its
//! cursor. Leases are forgotten after two days, runs after a month: one that were forgotten while it goes on would get another
//! beside it.

use std::{sync::Arc, time::Duration};

use keyfold_core::{
    clock::UnixTime,
    id::{WriterId, to_hex},
    rng::{self, SystemRandom},
};

use super::Summary;
use crate::{
    error::CustodyError,
    keys::process::Place,
    store::{Expect, MAX_DOC, Pages, Partition, Put, ScanCursor, SystemStore},
};

/// How long a silent holder is believed to live, in seconds. One that is known to have ended is not waited for.
const LEASE: u64 = 30;
/// How often a holder says that it lives.
pub(super) const RENEW: Duration = Duration::from_secs(5);
/// How long a cursor is gone on from.
const KEPT: Duration = Duration::from_secs(24 * 3600);

#[derive(serde::Serialize, serde::Deserialize)]
struct Run {
    /// What the job was to do; another job does not go on from its cursors.
    job: String,
    id: String,
    #[serde(flatten)]
    parts: Parts,
}

/// How a store is parted, as one process saw it.
#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Parts {
    /// What the partitions depend on.
    #[serde(default)]
    pub(super) topology: String,
    #[serde(default)]
    pub(super) partitions: Vec<Partition>,
}

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Held {
    run: String,
    job: String,
    holder: WriterId,
    place: Place,
    until: UnixTime,
    cursor: Option<ScanCursor>,
    /// Where the store's parts were when its holder set out.
    #[serde(default)]
    topology: String,
    /// What a whole pass saw that found nothing to do.
    quiet: Option<Summary>,
}

/// One process's part in a run.
pub(super) struct Share {
    system: Arc<dyn SystemStore>,
    collection: String,
    job: String,
    run: String,
    holder: WriterId,
    place: Place,
    parts: Parts,
}

/// What there is to do next.
pub(super) enum Next {
    /// This partition, with its lease.
    Work(Partition, Box<JobLease>),
    /// Others work on all that is left.
    Wait,
    /// A whole pass over every partition found nothing: what each of them saw.
    Done(Vec<Summary>),
}

fn failed(error: &serde_json::Error) -> CustodyError {
    CustodyError::invalid(format!("a lease cannot be written: {error}"), "report this")
}

impl Share {
    /// Joins the run of this job that is going on, with its parts, or begins one. One that begins where the same job was broken off
    /// keeps the parts that its cursors are of, unless the store moved meanwhile. Waits for another job on the collection, at most `wait`.
    ///
    /// # Errors
    /// Another job holds it.
    pub(super) async fn join(
        system: &Arc<dyn SystemStore>,
        collection: &str,
        job: &str,
        (holder, parts): (WriterId, Parts),
        wait: Duration,
    ) -> Result<Self, CustodyError> {
        let mut share = Self {
            system: Arc::clone(system),
            collection: collection.into(),
            job: job.into(),
            run: String::new(),
            holder,
            place: Place::here(),
            parts,
        };
        let began = std::time::Instant::now();
        loop {
            let now = system.now().await?;
            let leases = share.leases().await?;
            let live =
                || leases.iter().filter_map(|(_, _, held)| held.as_ref()).filter(|held| share.is_live(held, now));
            if let Some(other) = live().find(|held| held.job != job) {
                if began.elapsed() >= wait {
                    return Err(CustodyError::Waiting {
                        what: format!(
                            "another job works on this collection: process {} on {}",
                            other.place.pid, other.place.host
                        ),
                        hint: "wait until it is done; a job that died is recognised within half a minute".into(),
                    });
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
            let doc = system.get(&share.key()).await?;
            let going = doc.as_ref().and_then(|doc| serde_json::from_slice::<Run>(&doc.value).ok());
            if let Some(going) = going.filter(|going| going.job == job && !going.parts.partitions.is_empty()) {
                let still = going.parts.topology == share.parts.topology;
                // One that somebody has only just begun has no leases yet. Two that ran side by side would undo each other's marks.
                let untouched =
                    !leases.iter().any(|(_, _, held)| held.as_ref().is_some_and(|held| held.run == going.id));
                if live().any(|held| held.run == going.id) || untouched && still {
                    share.run = going.id;
                    share.parts = going.parts;
                    return Ok(share);
                }
                if still {
                    share.parts = going.parts;
                }
            }
            if share.begin(doc.map_or(Expect::Absent, |doc| Expect::Version(doc.version))).await? {
                return Ok(share);
            }
        }
    }

    /// Begins a run of its own, in which no partition is done yet. Says whether nobody else was faster.
    async fn begin(&mut self, expect: Expect) -> Result<bool, CustodyError> {
        let id = to_hex(&rng::array::<8>(&SystemRandom)?);
        let run = Run { job: self.job.clone(), id, parts: self.parts.clone() };
        let value = serde_json::to_vec(&run).map_err(|error| failed(&error))?;
        let stored = self.system.put(&self.key(), &value, expect, Some(30 * KEPT)).await?;
        self.run = run.id;
        Ok(stored != Put::Conflict)
    }

    /// Begins anew in other parts: what is known to be done no longer counts. Joins who did so already: two runs side by side
    /// would undo each other's marks.
    pub(super) async fn again(&mut self, parts: Parts) -> Result<(), CustodyError> {
        let left = std::mem::take(&mut self.run);
        loop {
            let doc = self.system.get(&self.key()).await?;
            let going = doc.as_ref().and_then(|doc| serde_json::from_slice::<Run>(&doc.value).ok());
            let anew = |run: &Run| run.job == self.job && run.id != left && run.parts.topology == parts.topology;
            if let Some(going) = going.filter(anew) {
                self.run = going.id;
                self.parts = going.parts;
                return Ok(());
            }
            self.parts = parts.clone();
            if self.begin(doc.map_or(Expect::Absent, |doc| Expect::Version(doc.version))).await? {
                return Ok(());
            }
        }
    }

    /// The parts that the run has.
    pub(super) const fn parts(&self) -> &Parts {
        &self.parts
    }

    fn key(&self) -> String {
        format!("job/{}", self.collection)
    }

    /// Partition, version, and the lease, where the document is one.
    async fn leases(&self) -> Result<Vec<(String, u64, Option<Held>)>, CustodyError> {
        let prefix = format!("{}/", self.key());
        let mut leases = Vec::new();
        let mut pages = Pages::under(&prefix, &*self.system);
        while let Some(page) = pages.next().await? {
            leases.extend(page.into_iter().map(|(key, doc)| {
                (key[prefix.len()..].to_owned(), doc.version, serde_json::from_slice(&doc.value).ok())
            }));
        }
        Ok(leases)
    }

    fn is_live(&self, held: &Held, now: UnixTime) -> bool {
        held.until > now && !held.place.ended(&self.place)
    }

    /// Takes a partition that nobody holds and that is not done.
    pub(super) async fn next(&self) -> Result<Next, CustodyError> {
        let (partitions, topology) = (&self.parts.partitions, self.parts.topology.as_str());
        let now = self.system.now().await?;
        let leases = self.leases().await?;
        let mut done = Vec::new();
        let mut waiting = false;
        // Not all processes begin with the same one.
        let first = usize::from(self.holder.0[0]) % partitions.len().max(1);
        for partition in partitions[first..].iter().chain(&partitions[..first]) {
            let found = leases.iter().find(|(name, _, _)| name == partition.as_str());
            let held = found.and_then(|(_, _, held)| held.as_ref());
            if let Some(held) = held {
                // What was gone through before the store moved its parts is not done.
                if held.run == self.run
                    && held.topology == topology
                    && let Some(summary) = &held.quiet
                {
                    done.push(summary.clone());
                    continue;
                }
                if self.is_live(held, now) {
                    waiting = true;
                    continue;
                }
            }
            let expect = found.map_or(Expect::Absent, |(_, version, _)| Expect::Version(*version));
            if let Some(lease) = self.take((partition, topology), held, expect, now).await? {
                return Ok(Next::Work(partition.clone(), Box::new(lease)));
            }
            waiting = true;
        }
        Ok(if waiting { Next::Wait } else { Next::Done(done) })
    }

    async fn take(
        &self,
        (partition, topology): (&Partition, &str),
        former: Option<&Held>,
        expect: Expect,
        now: UnixTime,
    ) -> Result<Option<JobLease>, CustodyError> {
        let fresh = |held: &&Held| held.job == self.job && held.until.0 + KEPT.as_secs() > now.0;
        let held = Held {
            run: self.run.clone(),
            job: self.job.clone(),
            holder: self.holder,
            place: self.place.clone(),
            until: UnixTime(now.0 + LEASE),
            cursor: former.filter(fresh).and_then(|former| former.cursor.clone()),
            topology: topology.to_owned(),
            quiet: None,
        };
        let key = format!("{}/{}", self.key(), partition.as_str());
        let mut lease = JobLease { system: Arc::clone(&self.system), key, version: 0, held };
        Ok(lease.write(expect).await?.then_some(lease))
    }
}

/// The right to work on a partition.
pub(super) struct JobLease {
    system: Arc<dyn SystemStore>,
    key: String,
    version: u64,
    held: Held,
}

impl JobLease {
    async fn write(&mut self, expect: Expect) -> Result<bool, CustodyError> {
        let value = serde_json::to_vec(&self.held).map_err(|error| failed(&error))?;
        match self.system.put(&self.key, &value, expect, Some(2 * KEPT)).await? {
            Put::Stored { version } => {
                self.version = version;
                Ok(true)
            }
            Put::Conflict => Ok(false),
        }
    }

    /// Where the last committed batch ended; `None` where a whole pass begins.
    #[must_use]
    pub(super) const fn cursor(&self) -> Option<&ScanCursor> {
        self.held.cursor.as_ref()
    }

    /// Notes how far the pass is; `None` starts the next one. Told with the next [`JobLease::renew`].
    pub(super) fn advance(&mut self, cursor: Option<ScanCursor>) {
        self.held.cursor = cursor;
    }

    /// Renews the lease and writes down how far the pass is.
    ///
    /// # Errors
    /// Somebody took it: this job was thought dead, and must stop.
    pub(super) async fn renew(&mut self) -> Result<(), CustodyError> {
        self.held.until = UnixTime(self.system.now().await?.0 + LEASE);
        if self.write(Expect::Version(self.version)).await? {
            return Ok(());
        }
        Err(CustodyError::Conflict { what: "another process took over this job".into() })
    }

    /// Gives the partition back, to be gone on with from its cursor.
    ///
    /// # Errors
    /// The store; the lease then runs out by itself.
    pub(super) async fn release(mut self) -> Result<(), CustodyError> {
        self.held.until = UnixTime(0);
        self.write(Expect::Version(self.version)).await.map(drop)
    }

    /// Gives the partition back: a whole pass found nothing to do, and saw this.
    ///
    /// # Errors
    /// The store.
    pub(super) async fn finish(mut self, mut summary: Summary) -> Result<(), CustodyError> {
        self.held.cursor = None;
        // Long names of many records would not fit: then fewer are named, and all are counted.
        while serde_json::to_vec(&summary).map_err(|error| failed(&error))?.len() > MAX_DOC / 2 {
            summary.quarantined.truncate(summary.quarantined.len() / 2);
            summary.reported.truncate(summary.reported.len() / 2);
        }
        self.held.quiet = Some(summary);
        self.release().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        jobs::Kind,
        store::sqlite::{OpenMode, SqliteStore},
    };

    #[tokio::test]
    async fn who_comes_before_the_first_lease_joins_and_who_comes_after_the_last_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("keyfold.db"), OpenMode::Create).await.unwrap();
        let system: Arc<dyn SystemStore> = Arc::new(store);
        let join = async |id: u8, topology: &str| {
            let parts = Parts { topology: topology.into(), partitions: vec![Partition::whole()] };
            Share::join(&system, "apps", "rotate", (WriterId([id; 16]), parts), Duration::ZERO).await.unwrap()
        };
        let first = join(1, "here").await;
        assert_eq!(join(2, "here").await.run, first.run);
        let Next::Work(_, lease) = first.next().await.unwrap() else { panic!("nobody holds it") };
        let second = join(3, "here").await;
        assert_eq!(second.run, first.run);
        assert!(matches!(second.next().await.unwrap(), Next::Wait));
        lease.finish(Summary::of(Kind::Rotate, "apps", false)).await.unwrap();
        assert!(matches!(second.next().await.unwrap(), Next::Done(_)));
        let later = join(4, "here").await;
        assert_ne!(later.run, first.run);
        assert_ne!(join(5, "moved").await.run, later.run);
    }

    #[tokio::test]
    async fn of_two_that_begin_anew_where_the_store_moved_the_second_joins_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("keyfold.db"), OpenMode::Create).await.unwrap();
        let system: Arc<dyn SystemStore> = Arc::new(store);
        let parts = |topology: &str| Parts { topology: topology.into(), partitions: vec![Partition::whole()] };
        let join = async |id: u8| {
            let who = (WriterId([id; 16]), parts("here"));
            Share::join(&system, "apps", "rotate", who, Duration::ZERO).await.unwrap()
        };
        let (mut one, mut two) = (join(1).await, join(2).await);
        one.again(parts("there")).await.unwrap();
        let Next::Work(_, lease) = one.next().await.unwrap() else { panic!("nobody holds it") };
        lease.finish(Summary::of(Kind::Rotate, "apps", false)).await.unwrap();
        two.again(parts("there")).await.unwrap();
        assert_eq!(two.run, one.run);
        assert!(matches!(two.next().await.unwrap(), Next::Done(_)));
        two.again(parts("elsewhere")).await.unwrap();
        assert_ne!(two.run, one.run);
    }
}
