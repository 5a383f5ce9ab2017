//! What a server does beside answering: follow tokens, grants and keys, sign the audit log and keep it in bounds, count what is
//! stored, rotate when it is time.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use keyfold_core::clock::UnixTime;
use keyfold_custody::{
    access::{
        Permit,
        op::{Manage, Rotate},
    },
    audit_log::Log,
    collection::Collection,
    error::CustodyError,
    jobs::{Job, Kind},
    keys::maintain::{Mover, Schedule, Step},
};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    api, copies,
    metrics::{Collected, Stored},
    service::Service,
};

/// How long a scheduled promotion waits for other processes to follow.
const WAIT: Duration = Duration::from_secs(60);
/// How often retention looks for what is past its time.
const RETENTION: Duration = Duration::from_secs(3600);
/// What part of its time an event in a store may stay longer.
const LITTLE: u32 = 64;

/// How often refusals that were counted are looked at.
const REFUSALS: Duration = Duration::from_secs(5);

/// What is done without anybody asking for it.
#[derive(Debug)]
pub struct Scheduled {
    /// Keys are made and promoted, old events taken out.
    pub manage: Permit<Manage>,
    /// Values are moved.
    pub rotate: Permit<Rotate>,
}

/// Starts all of it; it ends with the set.
#[must_use]
pub fn start(service: &Arc<Service>, scheduled: Scheduled) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&service.tokens).follow());
    tasks.spawn(api::grants::follow(Arc::clone(service)));
    tasks.spawn(sign(Arc::clone(service)));
    tasks.spawn(tell_refusals(Arc::clone(service)));
    if let Some(people) = service.people() {
        tasks.spawn(Arc::clone(people.sessions()).follow());
    }
    tasks.spawn(api::idempotency::forget_former(Arc::clone(service)));
    tasks.spawn(keep_counting(Arc::clone(service)));
    for destination in &service.copies {
        tasks.spawn(copies::ship(Arc::clone(service), destination.clone()));
    }
    if let Some(keep) = service.custody.config.audit.keep {
        tasks.spawn(retain(Arc::clone(service), scheduled.manage.clone(), keep));
    }
    if let Some(period) = service.settings.rotate {
        tasks.spawn(rotate(Arc::clone(service), scheduled, period));
    }
    tasks
}

async fn sign(service: Arc<Service>) {
    loop {
        sleep(service.settings.checkpoint).await;
        let generation = service.custody.keys.opening().generation();
        match service.custody.auditor.sink().checkpoint(generation).await {
            Ok(()) => *service.signed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now(),
            Err(error) => tracing::error!(%error, "the audit log could not be signed"),
        }
    }
}

/// Writes how many calls were refused beyond those that are written one by one.
async fn tell_refusals(service: Arc<Service>) {
    loop {
        sleep(REFUSALS).await;
        // What cannot be written is said where it fails.
        let _ = service.custody.auditor.tell_refusals(false).await;
    }
}

/// Takes events past their time out of the log, where they were copied to everywhere they go.
async fn retain(service: Arc<Service>, manage: Permit<Manage>, keep: Duration) {
    loop {
        match retain_once(&service, &manage, keep).await {
            Ok(0) => {}
            Ok(events) => {
                service.metrics.audit_pruned.inc_by(events);
                tracing::info!(events, "old events were taken out of the audit log");
            }
            Err(error) => tracing::error!(%error, "the audit log could not be kept in bounds"),
        }
        sleep(RETENTION.min(keep)).await;
    }
}

/// How many events went.
async fn retain_once(service: &Service, manage: &Permit<Manage>, keep: Duration) -> Result<u64, CustodyError> {
    let ago = |time: Duration| UnixTime(service.custody.auditor.clock().now().0.saturating_sub(time.as_secs()));
    // A log in a store is read whole before anything goes, and each moment something in it passes its time: not for so little.
    if let Log::Stored(log) = &service.audit
        && !log.is_due(ago(keep + keep / LITTLE)).await?
    {
        return Ok(0);
    }
    let copies: Vec<String> = service.copies.iter().map(copies::Destination::name).collect();
    Ok(service.custody.prune_audit(manage, &service.audit, ago(keep), &copies).await?.events)
}

async fn keep_counting(service: Arc<Service>) {
    loop {
        if let Err(error) = count(&service).await {
            tracing::warn!(%error, "what is stored could not be counted");
        }
        sleep(service.settings.census).await;
    }
}

/// Counts what is stored under which key, and what is plaintext, for the numbers.
pub(crate) async fn count(service: &Service) -> Result<(), CustodyError> {
    let census = service.custody.census().await?;
    for (name, collection) in &service.custody.config.collections {
        if collection.layout.is_foreign() {
            continue;
        }
        let id = collection.id.as_str();
        let of = |kid: String, format: &str| Stored { collection: name.clone(), format: format.to_owned(), kid };
        let lines = census.values.iter().filter(|count| count.collection == id);
        service.metrics.found(name, lines.map(|count| (of(count.kid.to_string(), count.format), count.values)));
        let plaintext = census.plaintext.get(id).copied().unwrap_or(0);
        let label = Collected { collection: name.clone() };
        service.metrics.plaintext.get_or_create(&label).set(i64::try_from(plaintext).unwrap_or(i64::MAX));
    }
    let now = service.custody.auditor.clock().now().0;
    service.metrics.census.set(i64::try_from(now).unwrap_or(i64::MAX));
    Ok(())
}

async fn rotate(service: Arc<Service>, scheduled: Scheduled, period: Duration) {
    let schedule = Schedule { period, wait: WAIT };
    let mover = ByJob { service: Arc::clone(&service), permit: scheduled.rotate };
    loop {
        match service.custody.maintain(&scheduled.manage, schedule, &mover).await {
            Ok(steps) => steps.iter().for_each(|step| tracing::warn!(%step, "the scheduled rotation")),
            Err(error) => tracing::error!(%error, "the scheduled rotation did not happen; it is tried again"),
        }
        sleep(schedule.pause()).await;
    }
}

/// Moves records by jobs like those that callers start, so that `/v1/jobs` tells of them.
struct ByJob {
    service: Arc<Service>,
    permit: Permit<Rotate>,
}

#[async_trait]
impl Mover for ByJob {
    async fn rotate(&self, collection: &Collection) -> Result<Option<Step>, CustodyError> {
        let job = Job::new(Kind::Rotate);
        match api::jobs::run_to_its_end(&self.service, self.permit.clone(), job, &collection.name).await {
            Ok(Some((changed, left))) => Ok(Some(Step::Rotated { collection: collection.name.clone(), changed, left })),
            Ok(None) => Ok(None),
            Err(problem) => Err(CustodyError::Waiting {
                what: format!("the rotation of {} did not start ({})", collection.name, problem.code()),
                hint: "the next look tries again".into(),
            }),
        }
    }
}
