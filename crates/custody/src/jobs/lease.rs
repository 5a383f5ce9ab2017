//! One job at a time on one partition: a lease in the system store, with the cursor of what was committed.

use std::{sync::Arc, time::Duration};

use keyfold_core::{clock::UnixTime, id::WriterId};

use crate::{
    error::CustodyError,
    keys::process::Place,
    store::{Expect, Put, ScanCursor, SystemStore},
};

/// How long a silent holder is believed to live, in seconds. One that is known to have ended is not waited for.
const LEASE: u64 = 30;

#[derive(serde::Serialize, serde::Deserialize)]
struct Held {
    holder: WriterId,
    place: Place,
    until: UnixTime,
    /// What the job was to do; another job does not go on from its cursor.
    job: String,
    cursor: Option<ScanCursor>,
}

/// The right to work on a partition.
pub struct JobLease {
    system: Arc<dyn SystemStore>,
    key: String,
    version: u64,
    held: Held,
}

impl JobLease {
    /// Takes the lease of a partition, waiting for a live holder for at most `wait`. Goes on from the cursor that the same
    /// job left.
    ///
    /// # Errors
    /// Somebody else holds it.
    pub async fn take(
        system: &Arc<dyn SystemStore>,
        partition: &str,
        job: &str,
        holder: WriterId,
        wait: Duration,
    ) -> Result<Self, CustodyError> {
        let key = format!("job/{partition}");
        let place = Place::here();
        let began = std::time::Instant::now();
        loop {
            let now = system.now().await?;
            let doc = system.get(&key).await?;
            let former: Option<Held> = doc.as_ref().and_then(|doc| serde_json::from_slice(&doc.value).ok());
            let free = former.as_ref().is_none_or(|former| former.until <= now || former.place.ended(&place));
            if free {
                let cursor = former.filter(|former| former.job == job).and_then(|former| former.cursor);
                let until = UnixTime(now.0 + LEASE);
                let held = Held { holder, place: place.clone(), until, job: job.into(), cursor };
                let expect = doc.map_or(Expect::Absent, |doc| Expect::Version(doc.version));
                let mut lease = Self { system: Arc::clone(system), key: key.clone(), version: 0, held };
                if lease.write(expect).await? {
                    return Ok(lease);
                }
            } else if began.elapsed() >= wait {
                let by = former.map(|former| format!("process {} on {}", former.place.pid, former.place.host));
                return Err(CustodyError::Waiting {
                    what: format!("another job works on this collection: {}", by.unwrap_or_default()),
                    hint: "wait until it is done; a job that died is recognised within half a minute".into(),
                });
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn write(&mut self, expect: Expect) -> Result<bool, CustodyError> {
        let value = serde_json::to_vec(&self.held)
            .map_err(|error| CustodyError::invalid(format!("a lease cannot be written: {error}"), "report this"))?;
        match self.system.put(&self.key, &value, expect, None).await? {
            Put::Stored { version } => {
                self.version = version;
                Ok(true)
            }
            Put::Conflict => Ok(false),
        }
    }

    /// Where the last committed batch ended; `None` where a whole pass begins.
    #[must_use]
    pub const fn cursor(&self) -> Option<&ScanCursor> {
        self.held.cursor.as_ref()
    }

    /// Renews the lease and notes how far the pass is; `None` starts the next one.
    ///
    /// # Errors
    /// Somebody took it: this job was thought dead, and must stop.
    pub async fn advance(&mut self, cursor: Option<ScanCursor>) -> Result<(), CustodyError> {
        self.held.cursor = cursor;
        self.held.until = UnixTime(self.system.now().await?.0 + LEASE);
        if self.write(Expect::Version(self.version)).await? {
            return Ok(());
        }
        Err(CustodyError::Conflict { what: "another process took over this job".into() })
    }

    /// Gives the partition back. A finished job leaves no cursor.
    ///
    /// # Errors
    /// The store; the lease then runs out by itself.
    pub async fn release(mut self, finished: bool) -> Result<(), CustodyError> {
        if finished {
            self.system.delete(&self.key, Expect::Version(self.version)).await?;
        } else {
            self.held.until = UnixTime(0);
            self.write(Expect::Version(self.version)).await?;
        }
        Ok(())
    }
}
