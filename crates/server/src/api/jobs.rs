//! `/v1/jobs`: migrations, rotations and verifications that run in the service. Their state lies in the system store, so that
//! every node can tell of them; the node that runs one tells fastest.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, stream};
use keyfold_core::{
    clock::UnixTime,
    envelope::Format,
    id::to_hex,
    rewrap::How,
    rng::{self, SystemRandom},
};
use keyfold_custody::{
    access::{Permit, Place, authorize_at, op},
    error::CustodyError,
    jobs::{Ended, Job, Kind, Observer, Summary, Update},
    keys::process::{LEASE, Report},
    store::Expect,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::timeout};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{idempotency::Once, records::configured, values::FormatWord};
use crate::{
    auth::{Caller, Peer, authenticate},
    background, body,
    metrics::{Stored, Work},
    problem::Problem,
    service::Service,
};

const PREFIX: &str = "jobs/";
/// How long a job is told of.
const KEPT: Duration = Duration::from_secs(7 * 86_400);
/// A process that reported nothing for so long is gone.
const SILENT: Duration = LEASE.saturating_mul(4);
/// How often it is asked whether who follows a job still may.
const ASKED: Duration = Duration::from_secs(2);
/// How often its state is written while it runs.
const WRITTEN: Duration = Duration::from_secs(1);

pub(super) fn routes() -> OpenApiRouter<Arc<Service>> {
    OpenApiRouter::new().routes(routes!(list, start)).routes(routes!(get, stop)).routes(routes!(events))
}

/// The jobs that run here.
#[derive(Default)]
pub(crate) struct Jobs(Mutex<HashMap<String, Running>>);

struct Running {
    state: watch::Receiver<JobOut>,
    stop: Arc<AtomicBool>,
}

impl Jobs {
    fn find<T>(&self, id: &str, with: impl FnOnce(&Running) -> T) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).map(with)
    }

    /// Asks all of them to stop between two batches, and waits for it as long as allowed.
    pub(crate) async fn stop_all(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let running = || {
            let jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            jobs.values().inspect(|job| job.stop.store(true, Ordering::Relaxed)).count()
        };
        while running() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What a job is to do.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct JobBody {
    /// `migrate`, `rotate` or `verify`.
    kind: KindWord,
    /// The collection's name.
    #[schema(example = "instances")]
    collection: String,
    /// The format to end in.
    to: Option<FormatWord>,
    /// Everything new instead of a new wrap.
    reseal: Option<bool>,
    /// Look and count, change nothing.
    dry_run: Option<bool>,
}

/// A kind of job.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = JobKind)]
pub(super) enum KindWord {
    Migrate,
    Rotate,
    Verify,
}

/// A job and how far it is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Job)]
pub(crate) struct JobOut {
    /// Its id.
    id: String,
    /// What it does.
    kind: String,
    /// On which collection.
    collection: String,
    /// Whether nothing is to be written.
    dry_run: bool,
    /// Who started it.
    actor: String,
    /// The process that runs it, as the keyring's processes are listed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    process: Option<String>,
    /// `running`, `done`, `stopped` or `failed`.
    state: String,
    /// Seconds since 1970.
    started: u64,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    ended: Option<u64>,
    /// The pass, from 1.
    pass: u32,
    /// Records of this pass so far.
    records: u64,
    /// Records in the collection when it began, where the store can say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    total: Option<u64>,
    /// What it did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    summary: Option<serde_json::Value>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    code: Option<String>,
}

/// Jobs, the last ones first.
#[derive(Serialize, ToSchema)]
pub(super) struct JobsOut {
    /// A page of them.
    jobs: Vec<JobOut>,
    /// Where to go on, for `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// One event of a job's stream.
#[derive(ToSchema)]
#[schema(as = JobEvent)]
#[allow(dead_code, reason = "describes what the stream writes")]
pub(super) struct EventOut {
    /// The job's state.
    event: String,
    /// The job, as JSON.
    data: String,
}

/// Which page.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct JobsQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
}

struct Watched {
    state: watch::Sender<JobOut>,
    stop: Arc<AtomicBool>,
    service: Arc<Service>,
    work: Work,
}

impl Observer for Watched {
    fn update(&self, update: Update<'_>) {
        self.state.send_modify(|job| {
            // A pass begins at nothing again.
            let seen = if job.pass == update.pass { job.records } else { 0 };
            self.service.metrics.job_records.inc_by(update.records.saturating_sub(seen));
            (job.pass, job.records, job.total) = (update.pass, update.records, update.total);
            self.service.metrics.progress(&self.work, update.records, update.total);
        });
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// List the jobs
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", params(JobsQuery), responses((status = 200, description = "A page of them", body = JobsOut)))]
async fn list(
    State(service): State<Arc<Service>>,
    caller: Caller,
    query: Result<Query<JobsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<JobsOut>, Problem> {
    let _permit = caller.permit::<op::List>(&service, &Place::Deployment).await?;
    let wrong = || Problem::bad_request("`limit` is a number from 1 to 1000, and `after` what `next` said");
    let page = query.map_err(|_| wrong())?.0;
    let limit = page.limit.unwrap_or(100);
    if !(1..=1000).contains(&limit) || page.after.as_ref().is_some_and(|after| after.len() > 64) {
        return Err(wrong());
    }
    let after = page.after.map(|after| format!("{PREFIX}{after}"));
    let docs = service.custody.system.list(PREFIX, after.as_deref(), limit).await?;
    let next =
        (docs.len() == limit).then(|| docs.last().and_then(|(key, _)| key.strip_prefix(PREFIX)).map(str::to_owned));
    let mut jobs: Vec<JobOut> = docs.iter().filter_map(|(_, doc)| serde_json::from_slice(&doc.value).ok()).collect();
    if jobs.iter().any(|job| job.state == "running") {
        let (processes, now) = live(&service).await?;
        let elsewhere = |job: &&mut JobOut| job.state == "running" && service.jobs.find(&job.id, |_| ()).is_none();
        jobs.iter_mut().filter(elsewhere).for_each(|job| job.end_with_its_process(&processes, now));
    }
    Ok(Json(JobsOut { jobs, next: next.flatten() }))
}

/// Start a job
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", request_body = JobBody, params(("idempotency-key" = Option<String>, Header)),
    responses((status = 202, description = "It runs", body = JobOut, headers(("location" = String, description = "Where it is told of")))))]
async fn start(
    State(service): State<Arc<Service>>,
    caller: Caller,
    once: Once,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.may_somewhere::<op::Rotate>(&service).await?;
    let given = body::read((&service.room, 16 << 10), &headers, body).await?;
    let asked: JobBody = body::parse(given.bytes())?;
    let (collection, permit) =
        configured::<op::Rotate>((&service, &caller), &asked.collection, Place::Collection).await?;
    let kind = match asked.kind {
        KindWord::Migrate => Kind::Migrate,
        KindWord::Rotate => Kind::Rotate,
        KindWord::Verify => Kind::Verify,
    };
    let job = Job {
        to: asked.to.map(Format::from),
        how: if asked.reseal == Some(true) { How::Reseal } else { How::Rewrap },
        dry_run: asked.dry_run == Some(true),
        ..Job::new(kind)
    };
    job.check(collection, service.custody.auditor.clock().now())?;
    let write = async {
        let out = begin(&service, permit, job, &asked.collection).await?;
        let location = HeaderValue::try_from(format!("/v1/jobs/{}", out.id));
        let location = location.map_err(|error| Problem::internal(&error))?;
        Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(out)).into_response())
    };
    once.run((&service, &caller), given.bytes(), write).await
}

/// Starts a job that nobody waits for.
pub(crate) async fn begin(
    service: &Arc<Service>,
    permit: Permit<op::Rotate>,
    job: Job,
    collection: &str,
) -> Result<JobOut, Problem> {
    Ok(launch(service, permit, job, collection).await?.borrow().clone())
}

/// As [`begin`]; what is given goes on telling of it.
async fn launch(
    service: &Arc<Service>,
    permit: Permit<op::Rotate>,
    job: Job,
    collection: &str,
) -> Result<watch::Receiver<JobOut>, Problem> {
    let now = service.custody.auditor.clock().now();
    let random: [u8; 4] = rng::array(&SystemRandom).map_err(CustodyError::from)?;
    // Ids sort by time, the last ones first.
    let id = format!("{:010x}{}", (1_u64 << 40) - 1 - now.0.min((1 << 40) - 1), to_hex(&random));
    let out = JobOut {
        id: id.clone(),
        kind: job.kind.as_str().to_owned(),
        collection: collection.to_owned(),
        dry_run: job.dry_run,
        actor: permit.actor().to_string(),
        process: Some(service.custody.keys.id().to_string()),
        state: "running".to_owned(),
        started: now.0,
        ended: None,
        pass: 0,
        records: 0,
        total: None,
        summary: None,
        code: None,
    };
    // Another node may have promoted a key a moment ago: what this one moved to the former would count as moved.
    service.custody.keys.look().await?;
    write(service, &out).await?;
    let (state, seen) = watch::channel(out);
    let stop = Arc::new(AtomicBool::new(false));
    let running = Running { state: seen.clone(), stop: Arc::clone(&stop) };
    service.jobs.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, running);
    let work = Work { kind: job.kind.as_str(), collection: collection.to_owned() };
    let watched = Watched { state, stop, service: Arc::clone(service), work };
    let name = collection.to_owned();
    let runtime = tokio::runtime::Handle::current();
    // On a thread of its own: a job opens and seals by the thousand, and calls should not wait for it.
    tokio::task::spawn_blocking(move || runtime.block_on(run(watched, permit, job, name)));
    Ok(seen)
}

/// Starts a job and waits for it: how many records changed and how many values were left, or `None` where it was stopped or
/// failed, which its state tells.
pub(crate) async fn run_to_its_end(
    service: &Arc<Service>,
    permit: Permit<op::Rotate>,
    job: Job,
    collection: &str,
) -> Result<Option<(u64, u64)>, Problem> {
    let mut state = launch(service, permit, job, collection).await?;
    // Ends also where the sender is gone.
    let ended = state.wait_for(|job| job.state != "running").await.ok().map(|job| job.clone());
    let Some(summary) = ended.filter(|job| job.state == "done").and_then(|job| job.summary) else { return Ok(None) };
    let count = |name: &str| summary[name].as_u64().unwrap_or_default();
    Ok(Some((count("changed"), count("quarantined_values"))))
}

async fn run(watched: Watched, permit: Permit<op::Rotate>, job: Job, collection: String) {
    let service = Arc::clone(&watched.service);
    let mut seen = watched.state.subscribe();
    let writer = {
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            while seen.changed().await.is_ok() {
                let now = seen.borrow_and_update().clone();
                if let Err(error) = write(&service, &now).await {
                    tracing::warn!(%error, "a job's state could not be written");
                }
                tokio::time::sleep(WRITTEN).await;
            }
        })
    };
    let ended = async {
        let collection = service.custody.collection(&collection)?;
        service.custody.run(&permit, &job, collection, &watched).await
    };
    let ended = ended.await;
    writer.abort();
    service.metrics.no_progress(&watched.work);
    let (word, summary, code) = match ended {
        Ok(Ended::Done(summary)) => ("done", Some(summary), None),
        Ok(Ended::Stopped(summary)) => ("stopped", Some(summary), None),
        Err(error) => {
            tracing::error!(%error, "a job failed");
            ("failed", None, Some(Problem::from(error).code().to_owned()))
        }
    };
    if let Some(summary) = &summary {
        tell(&service, &collection, summary).await;
    }
    watched.state.send_modify(|out| {
        out.state = word.to_owned();
        out.ended = Some(service.custody.auditor.clock().now().0);
        out.summary = summary.map(|summary| serde_json::json!(summary));
        out.code = code;
    });
    let last = watched.state.borrow().clone();
    if let Err(error) = write(&service, &last).await {
        tracing::error!(%error, "a job's end could not be written");
    }
    service.jobs.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&last.id);
}

/// Brings the numbers of what is stored up to date: counted anew where a job may have told what it found before it moved it.
async fn tell(service: &Service, collection: &str, summary: &Summary) {
    let foreign = service.custody.config.collection(collection).is_some_and(|known| known.layout.is_foreign());
    if !foreign && summary.changed > 0 && !summary.dry_run {
        if let Err(error) = background::count(service).await {
            tracing::warn!(%error, "what is stored could not be counted");
        }
        return;
    }
    let lines = summary.found.iter().map(|line| {
        let kid = line.kid.map(|kid| kid.to_string()).unwrap_or_default();
        (Stored { collection: collection.to_owned(), format: line.format.to_string(), kid }, line.values)
    });
    service.metrics.found(collection, lines);
}

async fn write(service: &Service, job: &JobOut) -> Result<(), CustodyError> {
    let json = serde_json::to_vec(job).map_err(|_| CustodyError::invalid("a job that cannot be stored", ""))?;
    service.custody.system.put(&format!("{PREFIX}{}", job.id), &json, Expect::Any, Some(KEPT)).await?;
    Ok(())
}

async fn find(service: &Service, id: &str) -> Result<JobOut, Problem> {
    if let Some(job) = service.jobs.find(id, |running| running.state.borrow().clone()) {
        return Ok(job);
    }
    let unknown = || Problem::not_found("there is no such job");
    if id.len() > 64 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(unknown());
    }
    let doc = service.custody.system.get(&format!("{PREFIX}{id}")).await?.ok_or_else(unknown)?;
    let mut job: JobOut = serde_json::from_slice(&doc.value).map_err(|error| Problem::internal(&error))?;
    if job.state == "running" {
        let (processes, now) = live(service).await?;
        job.end_with_its_process(&processes, now);
    }
    Ok(job)
}

/// The processes that there are, and the store's time.
async fn live(service: &Service) -> Result<(Vec<Report>, UnixTime), CustodyError> {
    Ok((service.custody.keys.processes().live().await?, service.custody.system.now().await?))
}

impl JobOut {
    /// A job whose process is gone does not run, whatever its process wrote last.
    fn end_with_its_process(&mut self, processes: &[Report], now: UnixTime) {
        let Some(process) = &self.process else { return };
        let lives = |report: &Report| {
            report.id.to_string() == *process && now.0.saturating_sub(report.reported.0) < SILENT.as_secs()
        };
        if !processes.iter().any(lives) {
            self.state = "failed".to_owned();
            self.code = Some("abandoned".to_owned());
        }
    }
}

/// Say how far a job is
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path)), responses((status = 200, description = "The job", body = JobOut)))]
async fn get(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<JobOut>, Problem> {
    let _permit = caller.permit::<op::List>(&service, &Place::Deployment).await?;
    Ok(Json(find(&service, &id).await?))
}

/// Stop a job between two batches; nothing is half-done
#[utoipa::path(delete, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path)),
    responses((status = 202, description = "It was told to", body = JobOut)))]
async fn stop(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<JobOut>), Problem> {
    caller.may_somewhere::<op::Rotate>(&service).await?;
    let job = find(&service, &id).await?;
    let collection = service.custody.config.collection(&job.collection);
    let place = collection.map_or(Place::Everything, |collection| Place::Collection(&collection.id));
    let _permit = caller.permit::<op::Rotate>(&service, &place).await?;
    if service.jobs.find(&id, |running| running.stop.store(true, Ordering::Relaxed)).is_none() && job.state == "running"
    {
        return Err(Problem::new(StatusCode::CONFLICT, "conflict", "the job runs on another node")
            .hint("send it to the node that started the job"));
    }
    Ok((StatusCode::ACCEPTED, Json(job)))
}

/// Follow a job
///
/// One event for every change, each with the job as its data; the last one says that it ended. It ends too once the caller would no
/// longer be told.
#[utoipa::path(get, path = "/v1/jobs/{id}/events", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, description = "Server-sent events", content_type = "text/event-stream", body = EventOut)))]
async fn events(
    State(service): State<Arc<Service>>,
    caller: Caller,
    peer: Option<Extension<Peer>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let _permit = caller.permit::<op::List>(&service, &Place::Deployment).await?;
    let first = find(&service, &id).await?;
    let seen = service.jobs.find(&id, |running| running.state.clone());
    let proof = Arc::new((headers, peer.map(|Extension(peer)| peer).unwrap_or_default()));
    let told = stream::unfold((Some(first), seen), move |(job, mut seen)| {
        let (service, proof) = (Arc::clone(&service), Arc::clone(&proof));
        async move {
            let job = job?;
            let event = Event::default().event(&job.state).data(serde_json::to_string(&job).unwrap_or_default());
            if job.state != "running" || service.is_draining() {
                return Some((Ok(event), (None, seen)));
            }
            // Not every batch is worth a line.
            tokio::time::sleep(Duration::from_millis(200)).await;
            let next = match &mut seen {
                Some(state) => loop {
                    match timeout(ASKED, state.changed()).await {
                        Err(_) if service.is_draining() || !may_still(&service, &proof).await => break None,
                        Err(_) => {}
                        Ok(changed) => {
                            let next = state.borrow_and_update().clone();
                            break (changed.is_ok() || next.state != "running").then_some(next);
                        }
                    }
                },
                None => {
                    tokio::time::sleep(WRITTEN).await;
                    find(&service, &job.id).await.ok()
                }
            };
            // The caller may not be who he was.
            let next = if may_still(&service, &proof).await { next } else { None };
            Some((Ok(event), (next, seen)))
        }
    });
    Ok(Sse::new(told).keep_alive(KeepAlive::default()))
}

async fn may_still(service: &Service, (headers, peer): &(HeaderMap, Peer)) -> bool {
    let Ok(caller) = authenticate(service, headers, peer).await else { return false };
    authorize_at::<op::List>(&caller.subject, &Place::Deployment).is_ok()
}
