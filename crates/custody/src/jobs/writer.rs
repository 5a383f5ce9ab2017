//! What follows the scout: intents are made durable, batches are written, outcomes are told, and the cursor moves.
//!
//! The intent of the next batch is flushed while the one before it is written. A batch whose intent is out is written or said not
//! to have been; only what was written moves the cursor.

use std::{pin::pin, sync::atomic::Ordering, time::Duration};

use keyfold_core::{
    audit::{Event, Name, Word},
    error::Code,
};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::Instant,
};

use super::{
    Kind, Quarantined, Tally, Update,
    lease::{JobLease, RENEW},
    run::Run,
    scout::{Batch, Scout},
};
use crate::{error::CustodyError, store::Swapped};

/// How often the cursor is written down: what a process that is killed does again at most.
const CURSOR: Duration = Duration::from_secs(1);

/// How a pass over a partition went.
pub(super) struct Passed {
    pub(super) tally: Tally,
    pub(super) stopped: bool,
}

/// A batch that may be written.
struct Announced {
    batch: Batch,
    event: Option<Event>,
}

/// Writes what a scout finds, until its end or until somebody wants the job to stop.
pub(super) async fn follow(
    run: &Run<'_>,
    pass: u32,
    scout: Scout,
    lease: Option<&Mutex<JobLease>>,
) -> Result<Passed, CustodyError> {
    let (ready, announced) = mpsc::channel(1);
    let work = async {
        let (first, second) = futures::join!(announce(run, scout, ready), write(run, pass, announced, lease));
        // Where writing failed, announcing ended for that; the cause is what counts.
        let passed = second?;
        first?;
        Ok(passed)
    };
    let Some(lease) = lease else { return work.await };
    let (done, ended) = oneshot::channel();
    let mut renewing = pin!(renew(lease, ended));
    tokio::select! {
        passed = work => {
            // A renewal on its way is waited for: the lease must know which version of it was stored.
            drop(done);
            let renewed = renewing.await;
            let passed = passed?;
            renewed.map(|()| passed)
        }
        Err(lost) = &mut renewing => Err(lost),
    }
}

/// Says that this process lives, also while a batch takes long, until the work is done.
async fn renew(lease: &Mutex<JobLease>, mut ended: oneshot::Receiver<()>) -> Result<(), CustodyError> {
    while tokio::time::timeout(RENEW, &mut ended).await.is_err() {
        lease.lock().await.renew().await?;
    }
    Ok(())
}

async fn announce(run: &Run<'_>, mut scout: Scout, ready: mpsc::Sender<Announced>) -> Result<(), CustodyError> {
    while let Some(batch) = scout.next().await? {
        let event = if batch.planned.swaps.is_empty() || !run.job.writes() {
            None
        } else {
            let custody = run.custody;
            run.may_seal(&batch.keyring).await?;
            if let Some(kid) = batch.planned.v1.filter(|_| batch.planned.wraps > 0) {
                custody.usage.reserve(kid, batch.planned.wraps).await?;
            }
            let event = event(run, &batch)?;
            let _durable = custody.auditor.intent(&event).await?;
            Some(event)
        };
        if let Err(unsent) = ready.send(Announced { batch, event }).await {
            // Whoever wants the job to stop, or what failed, came in between.
            if let Some(event) = unsent.0.event {
                run.custody.untold(&event).await;
            }
            break;
        }
    }
    Ok(())
}

async fn write(
    run: &Run<'_>,
    pass: u32,
    mut announced: mpsc::Receiver<Announced>,
    lease: Option<&Mutex<JobLease>>,
) -> Result<Passed, CustodyError> {
    let mut tally = Tally::default();
    let mut noted = Instant::now();
    let mut stopped = false;
    while let Some(Announced { batch, event }) = announced.recv().await {
        let cursor = batch.cursor.clone();
        let done = match commit(run, batch, event).await {
            Ok(done) => done,
            Err(error) => {
                untold(run, announced).await;
                return Err(error);
            }
        };
        if let Some(lease) = lease {
            let mut lease = lease.lock().await;
            lease.advance(cursor);
            if noted.elapsed() >= CURSOR {
                lease.renew().await?;
                noted = Instant::now();
            }
        }
        let seen = run.seen.fetch_add(done.records, Ordering::Relaxed) + done.records;
        tally.add(done);
        run.observer.update(Update { collection: &run.collection.name, pass, records: seen, total: run.total });
        if run.observer.stopped() && !stopped {
            // What was announced is still written; nothing more is.
            stopped = true;
            announced.close();
        }
    }
    Ok(Passed { tally, stopped })
}

/// Says of batches whose intent is out that they were not written.
async fn untold(run: &Run<'_>, mut announced: mpsc::Receiver<Announced>) {
    announced.close();
    while let Some(Announced { event, .. }) = announced.recv().await {
        if let Some(event) = event {
            run.custody.untold(&event).await;
        }
    }
}

/// Writes a batch between its intent and its outcome. What another writer changed in between is left to it.
async fn commit(run: &Run<'_>, batch: Batch, event: Option<Event>) -> Result<Tally, CustodyError> {
    let Batch { planned, keyring, .. } = batch;
    let mut tally = planned.tally;
    let Some(event) = event else { return Ok(tally) };
    let custody = run.custody;
    // A record with several cells is one record.
    let records: Vec<_> = planned.swaps.iter().map(|swap| swap.key.clone()).collect();
    let swapped = async {
        custody.keys.confirm(&keyring).await?;
        let given = run.swaps.read().await;
        given.fetch_add(1, Ordering::Relaxed);
        Ok(run.store.swap(&run.collection.id, planned.swaps).await?)
    };
    let swapped = swapped.await;
    let told = custody.auditor.outcome(&event, &swapped).await;
    let swapped = swapped?;
    told?;
    drop(keyring);
    for chunk in records.iter().zip(&swapped).collect::<Vec<_>>().chunk_by(|(a, _), (b, _)| a == b) {
        if chunk.iter().all(|(_, swapped)| **swapped == Swapped::Done) {
            continue;
        }
        if chunk.iter().all(|(_, swapped)| **swapped != Swapped::Done) {
            tally.changed = tally.changed.saturating_sub(1);
        }
        tally.overtaken += u64::from(chunk.iter().any(|(_, swapped)| **swapped == Swapped::Changed));
        if let Some((key, _)) = chunk.iter().find(|(_, swapped)| **swapped == Swapped::Refused) {
            tally.quarantine(Quarantined {
                collection: run.collection.name.clone(),
                record: key.to_string(),
                field: String::new(),
                code: Code::TooLarge.as_str().into(),
                reason: "the store does not take the record with its sealed values, which are longer".into(),
                hint: Some(
                    "make the record smaller, or move part of it elsewhere; a Firestore document has at most 1 MiB"
                        .into(),
                ),
            });
        }
    }
    let lost = swapped.iter().filter(|swapped| **swapped != Swapped::Done).count();
    tally.changed_values = tally.changed_values.saturating_sub(u64::try_from(lost).unwrap_or(u64::MAX));
    Ok(tally)
}

fn event(run: &Run<'_>, batch: &Batch) -> Result<Event, CustodyError> {
    let swaps = &batch.planned.swaps;
    let action = if run.job.kind == Kind::Migrate {
        keyfold_core::audit::Action::MigrateBatch
    } else {
        keyfold_core::audit::Action::RotateBatch
    };
    let mut event = run.custody.auditor.about(run.permit.actor(), action, &run.collection)?;
    event.job = Some(Name::abridge(&run.name));
    event.first = swaps.first().map(|swap| Name::abridge(swap.key.as_str()));
    event.last = swaps.last().map(|swap| Name::abridge(swap.key.as_str()));
    event.count = u64::try_from(swaps.chunk_by(|a, b| a.key == b.key).count()).ok();
    event.generation = Some(batch.keyring.generation());
    let format = run.job.to.unwrap_or(run.collection.format);
    event.format = Word::new(format.as_str()).ok();
    event.kid = batch.planned.kid;
    Ok(event)
}
