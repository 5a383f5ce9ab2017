//! What runs ahead of a job's writes: it reads pages and plans them, a few at a time and in order.

use std::{sync::Arc, time::Duration};

use futures::future::{AbortHandle, Abortable};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use super::plan::{Plan, Planned};
use crate::{
    error::CustodyError,
    keys::{LiveKeyring, Sealing},
    store::{Partition, RecordStore, ScanCursor},
};

/// Pages that are read and planned while others are written. Each is planned on a thread of its own.
const AHEAD: usize = 2;

/// A page that was planned.
pub(super) struct Batch {
    pub(super) planned: Planned,
    /// What it was planned with; held until it is stored, since until then this process still seals under it.
    pub(super) keyring: Sealing,
    /// Where the page ended; `None` after the last one.
    pub(super) cursor: Option<ScanCursor>,
}

type Planning = Result<(JoinHandle<Planned>, Sealing, Option<ScanCursor>), CustodyError>;

/// The batches of a pass, as they become ready.
pub(super) struct Scout {
    batches: mpsc::Receiver<Planning>,
    reading: AbortHandle,
    ended: bool,
}

/// Where a scout goes.
pub(super) struct Route {
    pub(super) store: Arc<dyn RecordStore>,
    pub(super) keys: Arc<LiveKeyring>,
    pub(super) plan: Plan,
    pub(super) partition: Partition,
    pub(super) from: Option<ScanCursor>,
}

impl Scout {
    /// Sends one ahead. It stops reading when this is dropped.
    pub(super) fn send(route: Route) -> Self {
        let (found, batches) = mpsc::channel(AHEAD);
        let (reading, registration) = AbortHandle::new_pair();
        tokio::spawn(Abortable::new(read(route, found), registration));
        Self { batches, reading, ended: false }
    }

    /// The next batch; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Batch>, CustodyError> {
        let Some(planning) = self.batches.recv().await else {
            // Reading that broke off is not the end of what there is to read.
            return if self.ended {
                Ok(None)
            } else {
                Err(CustodyError::invalid("reading the store broke off", "run again"))
            };
        };
        let (planning, keyring, cursor) = planning?;
        self.ended = cursor.is_none();
        let planned = planning.await.map_err(|_| CustodyError::invalid("a planning thread failed", "run again"))?;
        Ok(Some(Batch { planned, keyring, cursor }))
    }
}

impl Drop for Scout {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

async fn read(mut route: Route, found: mpsc::Sender<Planning>) {
    let mut from = Some(route.from.take());
    let mut pace = Pace::of(route.plan.job.rate);
    while let Some(after) = from.take() {
        let planning = page(&route, after.as_ref(), &mut pace).await;
        if let Ok((_, _, cursor)) = &planning {
            from = cursor.clone().map(Some);
        }
        if found.send(planning).await.is_err() {
            return;
        }
    }
}

async fn page(route: &Route, after: Option<&ScanCursor>, pace: &mut Option<Pace>) -> Planning {
    let plan = &route.plan;
    let batch = pace.as_ref().map_or(plan.job.batch, |pace| plan.job.batch.min(pace.rate as usize));
    let page = route.store.scan(&plan.collection.id, &route.partition, after, batch).await?;
    if let Some(pace) = pace {
        pace.keep(page.records.len()).await;
    }
    let keyring = route.keys.sealing().await?;
    let work = {
        let (plan, keyring) = (plan.clone(), Arc::clone(&keyring));
        tokio::task::spawn_blocking(move || plan.page(&keyring, page.records, page.odd))
    };
    Ok((work, keyring, page.next))
}

/// Records in a second, and no more.
struct Pace {
    rate: u32,
    next: Instant,
}

impl Pace {
    fn of(rate: Option<std::num::NonZeroU32>) -> Option<Self> {
        rate.map(|rate| Self { rate: rate.get(), next: Instant::now() })
    }

    async fn keep(&mut self, records: usize) {
        tokio::time::sleep_until(self.next).await;
        let now = Instant::now().max(self.next);
        #[expect(clippy::cast_precision_loss, reason = "a page has at most ten thousand records")]
        let due = records as f64 / f64::from(self.rate);
        self.next = now + Duration::from_secs_f64(due);
    }
}
