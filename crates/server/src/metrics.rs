//! What `/metrics` tells: numbers, and labels out of closed vocabularies. No name of a record, an actor or a key's holder is
//! ever a label.

use std::{
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// A request's labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Route {
    /// The route's template, never the path.
    pub route: String,
    /// The method.
    pub method: &'static str,
    /// The status.
    pub status: u16,
}

/// What was done to values and records.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Operation {
    /// `seal`, `open`, `rewrap`, …
    pub operation: &'static str,
    /// `done`, or an error's code.
    pub outcome: &'static str,
}

/// Whose credential left.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Credential {
    /// `user`, `service_account`, or `refused`.
    pub source: &'static str,
}

/// A key's labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Key {
    /// The key.
    pub kid: String,
    /// Its state.
    pub state: &'static str,
}

/// How much is stored under what.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Stored {
    /// The collection's name.
    pub collection: String,
    /// `kf1`, `v1`, `fernet` or `plaintext`.
    pub format: String,
    /// The key, where it was sealed.
    pub kid: String,
}

/// A copy of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Copy {
    /// Its name: the kind, and a part of the hash of where it goes.
    pub copy: String,
}

/// A job's labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Work {
    /// `migrate`, `rotate` or `verify`.
    pub kind: &'static str,
    /// The collection's name.
    pub collection: String,
}

/// A collection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Collected {
    /// Its id.
    pub collection: String,
}

const BUCKETS: [f64; 12] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// All of them.
pub struct Metrics {
    registry: Registry,
    requests: Family<Route, Counter>,
    latency: Histogram,
    operations: Family<Operation, Counter>,
    /// Refused for want of a right.
    pub denied: Counter,
    /// Refused for want of a proof.
    pub unauthenticated: Counter,
    /// Calls for a user's credential.
    pub credentials: Family<Credential, Counter>,
    /// Users' tokens that this node refreshed.
    pub refreshed: Counter,
    /// Open connections.
    pub connections: Gauge,
    /// Ages of keys.
    pub keys: Family<Key, Gauge>,
    /// What the last job or census found.
    pub stored: Family<Stored, Gauge>,
    seen: std::sync::Mutex<Vec<Stored>>,
    /// Records that the jobs of this process went through.
    pub job_records: Counter,
    /// How long intents took to be durable.
    audit_intents: Histogram,
    /// How long ago the audit log was signed.
    pub audit_unsigned: Gauge<f64, AtomicU64>,
    /// Bytes of the audit log that a copy does not have yet.
    pub copy_behind: Family<Copy, Gauge>,
    /// How long a copy has not had everything.
    pub copy_lag: Family<Copy, Gauge<f64, AtomicU64>>,
    /// Attempts to bring a copy up to date that failed.
    pub copy_failures: Family<Copy, Counter>,
    /// Events that retention took out of the audit log.
    pub audit_pruned: Counter,
    /// Jobs that run here: the records of the pass so far.
    job_done: Family<Work, Gauge>,
    /// Jobs that run here: the records there are, where the store can say.
    job_total: Family<Work, Gauge>,
    /// Values in declared fields that lie in plaintext, by the last census.
    pub plaintext: Family<Collected, Gauge>,
    /// When the last census ended, in seconds since 1970.
    pub census: Gauge,
    /// The keyring's generation here.
    pub generation: Gauge,
    /// 1 where the root key opened the keyring when it was last asked, 0 where a start would fail.
    pub root_key: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("keyfold");
        let metrics = Self {
            requests: Family::default(),
            latency: Histogram::new(BUCKETS),
            operations: Family::default(),
            denied: Counter::default(),
            unauthenticated: Counter::default(),
            credentials: Family::default(),
            refreshed: Counter::default(),
            connections: Gauge::default(),
            keys: Family::default(),
            stored: Family::default(),
            seen: std::sync::Mutex::default(),
            job_records: Counter::default(),
            audit_intents: Histogram::new(BUCKETS),
            audit_unsigned: Gauge::default(),
            copy_behind: Family::default(),
            copy_lag: Family::default(),
            copy_failures: Family::default(),
            audit_pruned: Counter::default(),
            job_done: Family::default(),
            job_total: Family::default(),
            plaintext: Family::default(),
            census: Gauge::default(),
            generation: Gauge::default(),
            root_key: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("requests", "Requests by route, method and status", metrics.requests.clone());
        registry.register("request_seconds", "How long requests took", metrics.latency.clone());
        registry.register("operations", "Operations on values and records, by outcome", metrics.operations.clone());
        registry.register("denied", "Calls refused for want of a right", metrics.denied.clone());
        registry.register("unauthenticated", "Calls refused for want of a proof", metrics.unauthenticated.clone());
        registry.register("credentials", "Credentials by whose they were", metrics.credentials.clone());
        registry.register("tokens_refreshed", "Users' tokens that this node refreshed", metrics.refreshed.clone());
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register("key_age_seconds", "How old each key is", metrics.keys.clone());
        registry.register("stored_values", "Values as the last job or census found them", metrics.stored.clone());
        registry.register("job_records", "Records that jobs went through", metrics.job_records.clone());
        registry.register("root_key_reachable", "Whether a start could open the keyring", metrics.root_key.clone());
        let intents = metrics.audit_intents.clone();
        registry.register("audit_intent_seconds", "How long intents took to be durable", intents);
        let unsigned = metrics.audit_unsigned.clone();
        registry.register("audit_unsigned_seconds", "How long ago the audit log was signed", unsigned);
        let behind = metrics.copy_behind.clone();
        registry.register("audit_copy_behind_bytes", "What a copy of the audit log does not have yet", behind);
        let lag = metrics.copy_lag.clone();
        registry.register("audit_lag_seconds", "How long a copy of the audit log has not had everything", lag);
        let failures = metrics.copy_failures.clone();
        registry.register("audit_copy_failures", "Attempts to bring a copy up to date that failed", failures);
        registry.register("audit_pruned_events", "Events that retention took out", metrics.audit_pruned.clone());
        registry.register("job_pass_records", "Records of a running job's pass so far", metrics.job_done.clone());
        registry.register("job_expected_records", "Records that a running job expects", metrics.job_total.clone());
        let plaintext = metrics.plaintext.clone();
        registry.register("plaintext_values", "Declared values that the last census found in plaintext", plaintext);
        registry.register("census_time_seconds", "When the last census ended", metrics.census.clone());
        registry.register("keyring_generation", "The keyring's generation here", metrics.generation.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Counts a request.
    pub fn request(&self, route: &str, method: &'static str, status: u16, took: Duration) {
        self.requests.get_or_create(&Route { route: route.to_owned(), method, status }).inc();
        self.latency.observe(took.as_secs_f64());
    }

    /// Counts operations.
    pub fn operation(&self, operation: &'static str, outcome: &'static str, count: u64) {
        self.operations.get_or_create(&Operation { operation, outcome }).inc_by(count);
    }

    /// Notes how long an intent took.
    pub fn audited(&self, since: Instant) {
        self.audit_intents.observe(since.elapsed().as_secs_f64());
    }

    /// Says how far a job is.
    pub fn progress(&self, work: &Work, records: u64, total: Option<u64>) {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.job_done.get_or_create(work).set(number(records));
        if let Some(total) = total {
            self.job_total.get_or_create(work).set(number(total));
        }
    }

    /// A job ended, or another one of its kind goes on.
    pub fn no_progress(&self, work: &Work) {
        self.job_done.remove(work);
        self.job_total.remove(work);
    }

    /// The text that Prometheus reads.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Metrics {
    /// Takes over what a job found in a collection, in the place of what the one before found there.
    pub fn found(&self, collection: &str, values: impl Iterator<Item = (Stored, u64)>) {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.retain(|stored| {
            if stored.collection == collection {
                self.stored.remove(stored);
            }
            stored.collection != collection
        });
        for (stored, values) in values {
            self.stored.get_or_create(&stored).set(i64::try_from(values).unwrap_or(i64::MAX));
            seen.push(stored);
        }
    }
}
