//! What a request works with, put together once.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use axum::http::StatusCode;
use keyfold_core::audit::Actor;
use keyfold_custody::{
    access::Grants,
    audit_log::Log,
    custody::Custody,
    error::CustodyError,
    tokens::{BOUND, Tokens},
    vouched::Voucher,
};
use tokio::sync::{RwLock, Semaphore};

use crate::{
    api::{audit::EXPORTS, health::Readiness, jobs::Jobs},
    auth::jwt::Jwts,
    body::Room,
    copies::Destination,
    metrics::Metrics,
    people::People,
    problem::Problem,
    settings::Settings,
    traces::Traces,
};

/// Grants, as they were when the store was last looked at.
struct Followed {
    grants: Arc<Grants>,
    looked: Instant,
}

/// The service, shared by all requests.
pub struct Service {
    /// The use cases.
    pub custody: Arc<Custody>,
    /// Who callers are.
    pub tokens: Arc<Tokens>,
    /// Numbers.
    pub metrics: Metrics,
    /// What was configured.
    pub settings: Settings,
    /// The audit log, for who may read it.
    pub audit: Log,
    /// Where copies of it go.
    pub copies: Vec<Destination>,
    pub(crate) voucher: Arc<Voucher>,
    pub(crate) jwts: Jwts,
    pub(crate) rates: Rates,
    pub(crate) room: Room,
    pub(crate) jobs: Jobs,
    pub(crate) readiness: Readiness,
    pub(crate) traces: Traces,
    pub(crate) exports: Arc<Semaphore>,
    /// When the audit log was last signed.
    pub(crate) signed: Mutex<Instant>,
    /// Held by every call that may change something, until it is done.
    pub(crate) begun: Arc<RwLock<()>>,
    grants: ArcSwap<Followed>,
    people: OnceLock<Arc<People>>,
    draining: AtomicBool,
}

impl Service {
    /// Over an open deployment. Tokens are read before this returns.
    ///
    /// # Errors
    /// The store; a keyring without an audit key.
    pub async fn new(custody: Arc<Custody>, settings: Settings, audit: Log) -> Result<Arc<Self>, CustodyError> {
        let voucher = Arc::new(Voucher::of(&custody.keys.opening())?);
        let tokens = tokens(&custody, &voucher);
        tokens.look().await?;
        let service = Arc::new(Self {
            tokens,
            metrics: Metrics::default(),
            rates: Rates::new(settings.limits.rate),
            room: Room::new(settings.limits.memory),
            jwts: Jwts::new(&settings.issuers),
            jobs: Jobs::default(),
            readiness: Readiness::default(),
            traces: Traces::new(settings.traces.as_ref()),
            exports: Arc::new(Semaphore::new(EXPORTS)),
            signed: Mutex::new(Instant::now()),
            begun: Arc::default(),
            grants: ArcSwap::from_pointee(Followed {
                grants: Arc::clone(&custody.config.grants),
                looked: Instant::now(),
            }),
            people: OnceLock::new(),
            draining: AtomicBool::new(false),
            voucher,
            copies: custody.config.audit.copies.iter().filter_map(|uri| uri.parse().ok()).collect(),
            custody,
            settings,
            audit,
        });
        crate::api::grants::load(&service).await?;
        Ok(service)
    }

    /// Lets people in: from here on there are sessions. Revocations are read before this returns.
    ///
    /// # Errors
    /// The store.
    pub async fn let_in(&self, people: Arc<People>) -> Result<(), CustodyError> {
        people.sessions().ready().await?;
        people.sessions().look().await?;
        let _ = self.people.set(people);
        Ok(())
    }

    /// The same, where somebody can sign in.
    pub(crate) fn signing_in(&self) -> Option<&Arc<People>> {
        self.people().filter(|people| people.oidc.has_issuers())
    }

    /// People, where sessions are configured, or a proxy needs the broker.
    pub fn people(&self) -> Option<&Arc<People>> {
        self.people.get()
    }

    /// The grants as they are now.
    ///
    /// # Errors
    /// The store could not be looked at for longer than a change may take to be in force everywhere: nobody is let in then, whatever
    /// the proof.
    pub fn grants(&self) -> Result<Arc<Grants>, Problem> {
        let followed = self.grants.load();
        if followed.looked.elapsed() <= BOUND {
            return Ok(Arc::clone(&followed.grants));
        }
        let what = "grants cannot be checked at the moment";
        Err(Problem::busy(StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable", what, 1)
            .hint("the store that holds the grants cannot be reached; try again"))
    }

    /// Puts the grants that were stored through the API beside those of the configuration. Two looks can overtake one another; the
    /// one that began later knows more.
    pub(crate) fn set_grants(&self, stored: Option<&Grants>, began: Instant) {
        let configured = &self.custody.config.grants;
        let grants = stored.map_or_else(|| Arc::clone(configured), |stored| Arc::new(configured.with(stored)));
        let looked = Arc::new(Followed { grants, looked: began });
        self.grants.rcu(|now| if now.looked <= began { Arc::clone(&looked) } else { Arc::clone(now) });
    }

    /// Says that the grants in the store are still the same.
    pub(crate) fn same_grants(&self, began: Instant) {
        self.grants.rcu(|now| Followed { grants: Arc::clone(&now.grants), looked: now.looked.max(began) });
    }

    /// Says that the service is about to end: it is not ready any more.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether it is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// The tokens of a deployment, not looked at yet.
#[must_use]
pub fn tokens(custody: &Arc<Custody>, voucher: &Arc<Voucher>) -> Arc<Tokens> {
    let of = Arc::clone(custody);
    let id_of = move |name: &str| of.config.collection_id(name);
    Arc::new(Tokens::new(Arc::clone(&custody.system), Arc::clone(voucher), Arc::new(id_of)))
}

/// How often each actor may call: a bucket for each that fills by the second.
pub(crate) struct Rates {
    a_second: Option<u32>,
    buckets: Mutex<HashMap<Actor, (f64, Instant)>>,
}

/// Over this many actors, those whose buckets are full are forgotten.
const BUCKETS: usize = 10_000;

impl Rates {
    fn new(a_second: Option<u32>) -> Self {
        Self { a_second, buckets: Mutex::default() }
    }

    /// One call of this actor.
    pub(crate) fn take(&self, actor: &Actor) -> Result<(), Problem> {
        let Some(a_second) = self.a_second.map(f64::from) else { return Ok(()) };
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS {
            buckets.retain(|_, (_, at)| now.duration_since(*at) < Duration::from_secs(1));
        }
        let (left, at) = buckets.entry(actor.clone()).or_insert((a_second, now));
        *left = (now.duration_since(*at).as_secs_f64().mul_add(a_second, *left)).min(a_second);
        *at = now;
        if *left < 1.0 {
            return Err(Problem::busy(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                "too many calls by this actor",
                1,
            ));
        }
        *left -= 1.0;
        Ok(())
    }
}
