//! A Redis: one server, one behind sentinels, or a cluster.
//!
//! [`RedisStore`] works on records of other programs. A scan uses `SCAN`, pages are fetched and swaps are done in pipelines of one round trip, and each swap is a script on the
//! server that changes one cell if it holds what was read. Time to live, other fields and other keys stay as they are.
//! It never creates or deletes anything. [`RedisOwn`] keeps records of our own layout, [`RedisSystem`] our small documents;
//! both refuse a server that may lose what it acknowledged.
//!
//! The user that Keyfold connects as needs `+info +ping +scan +type +dbsize`, `+hget`, `+hgetall` or `+get`, `+hset` or
//! `+set`, `+evalsha +eval`, where single fields expire (Redis 7.4) `+hpexpiretime +hpexpireat`, on a cluster `+cluster|slots +cluster|nodes +asking`, and the keys of the collections. An audit sink: `+info +ping +evalsha
//! +eval +config|get`, by its scripts `+time +xadd +xinfo +xrange +xrevrange +hget +hset +zadd +zrem +zrangebyscore`, itself `+xrange +xrevrange +zrange
//! +hget`, for retention `+xdel`, and the keys `{keyfold-audit}:*`.
//!
//! A job that finds by a single server's own count of changes that nobody else wrote ends with that pass. Whatever else writes there, to any
//! key of any database, costs it another one; so do a cluster, a server before 7.0 and one that saved meanwhile.
//!
//! Not promised: that plaintext in the driver's buffers is wiped; that a swap is told as done where its slot was moving and the connection broke off at that very
//! moment: it may then be told as changed by somebody else, and the job looks again.

mod address;
mod audit;
mod changes;
mod cluster;
mod durable;
mod error;
mod key;
mod link;
mod node;
mod own;
mod place;
mod reply;
mod scan;
mod script;
mod swap;
mod sweep;
mod system;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use tokio::sync::RwLock;

pub use self::{
    address::RedisAddress,
    audit::{audit, audit_to_read},
    own::RedisOwn,
    system::{Losses, RedisSystem},
};

use self::{
    link::Link,
    place::{Found, Place},
    scan::{Leftovers, Part, Walk},
};
use super::{
    CollectionId, Page, Partition, RecordKey, RecordStore, ScanCursor, StoreError, StoredRecord, Swap, Swapped, Writes,
    check_limit,
};
use crate::layout::place::Layout;

/// A page ends early once its values take this much memory.
const PAGE_BYTES: usize = 8 << 20;

/// Records that are taken to be this large until some were seen.
const LARGE: usize = 1 << 20;

/// Somebody's records in a Redis. Clones share its connections.
#[derive(Clone)]
pub struct RedisStore {
    inner: Arc<Inner>,
}

struct Inner {
    link: Link,
    places: HashMap<CollectionId, Place>,
    leftovers: Leftovers,
    /// Calls of `swap`, less the swaps that they did: what turns the server's count of changes into one of calls. Held shared during
    /// a call, so that whoever asks the server comes between two.
    own: RwLock<AtomicU64>,
    /// The largest record of late, for guessing how many fit a page.
    largest: AtomicUsize,
}

impl RedisStore {
    /// Connects, for collections that lie there.
    ///
    /// # Errors
    /// A server that cannot be reached or refuses, or is older than 6.0; a layout that is not one of Redis.
    pub async fn connect(address: &RedisAddress, layouts: HashMap<CollectionId, Layout>) -> Result<Self, StoreError> {
        let places = layouts.iter().map(|(id, layout)| Ok((id.clone(), Place::of(layout)?)));
        let places = places.collect::<Result<_, StoreError>>()?;
        let link = Link::connect(address).await?;
        let (leftovers, own, largest) = (Leftovers::default(), RwLock::default(), AtomicUsize::new(LARGE));
        let inner = Inner { link, places, leftovers, own, largest };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn place(&self, collection: &CollectionId) -> Result<&Place, StoreError> {
        self.inner.places.get(collection).ok_or_else(|| {
            StoreError::invalid(format!("{} was opened without the collection `{collection}`", self.inner.link.name))
        })
    }

    /// How many keys to fetch at once, so that their values fit the page.
    fn chunk(&self, bytes: usize, limit: usize) -> usize {
        let largest = self.inner.largest.load(Ordering::Relaxed).max(1);
        (PAGE_BYTES.saturating_sub(bytes) / largest).clamp(1, limit)
    }

    /// Remembers a size at once where it is larger, and forgets it by and by.
    fn seen(&self, largest: usize) {
        let held = self.inner.largest.load(Ordering::Relaxed);
        self.inner.largest.store(largest.max(held / 8), Ordering::Relaxed);
    }
}

#[async_trait]
impl RecordStore for RedisStore {
    fn describe(&self) -> String {
        self.inner.link.name.clone()
    }

    async fn partitions(&self, collection: &CollectionId) -> Result<Vec<Partition>, StoreError> {
        self.place(collection)?;
        let parts = self.inner.link.parts().await?;
        parts.into_iter().map(|(first, last)| Part { first, last }.partition()).collect()
    }

    fn side_by_side(&self) -> usize {
        // Parts of one server that go side by side are scanned for with one command.
        usize::from(link::PARTS)
    }

    async fn estimate(&self, collection: &CollectionId) -> Result<Option<u64>, StoreError> {
        let place = self.place(collection)?;
        scan::estimate(&self.inner.link, &place.pattern).await
    }

    async fn topology(&self, collection: &CollectionId) -> Result<String, StoreError> {
        self.place(collection)?;
        self.inner.link.topology().await
    }

    async fn writes(&self, collection: &CollectionId) -> Result<Option<Writes>, StoreError> {
        self.place(collection)?;
        let own = self.inner.own.write().await;
        let changes = changes::count(&self.inner.link).await?;
        Ok(changes
            .map(|Writes { since, count }| Writes { since, count: count.wrapping_add(own.load(Ordering::Relaxed)) }))
    }

    async fn scan(
        &self,
        collection: &CollectionId,
        partition: &Partition,
        after: Option<&ScanCursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let place = self.place(collection)?;
        check_limit(limit)?;
        let link = &self.inner.link;
        let part = Part::parse(partition)
            .ok_or_else(|| StoreError::invalid(format!("{} has no partition `{partition}`", link.name)))?;
        let mut walk = Walk::resume(after, &self.inner.leftovers)?;
        walk.fill(link, part, &place.pattern, limit).await?;
        let (mut records, mut odd, mut bytes) = (Vec::new(), Vec::new(), 0);
        while records.len() < scan::enough(limit) && bytes < PAGE_BYTES {
            let (from, keys): (Vec<_>, Vec<_>) =
                walk.take(self.chunk(bytes, limit - records.len())).into_iter().unzip();
            if keys.is_empty() {
                break;
            }
            let ahead = walk.look_ahead(link, part, &place.pattern, limit);
            let (found, ()) = futures::try_join!(place.fetch(link, &keys), ahead)?;
            let (mut largest, mut done) = (0, 0);
            for found in found {
                if bytes >= PAGE_BYTES {
                    break;
                }
                done += 1;
                match found {
                    Found::Record(record) => {
                        let size =
                            record.cells.iter().map(|cell| cell.value.len()).sum::<usize>() + record.key.as_str().len();
                        largest = largest.max(size);
                        bytes += size;
                        records.push(record);
                    }
                    Found::Odd(what) => odd.push(what),
                    Found::Nothing => {}
                }
            }
            self.seen(largest);
            walk.give_back(from.into_iter().zip(keys).skip(done));
        }
        Ok(Page { records, odd, next: walk.suspend(&self.inner.leftovers)? })
    }

    async fn read(&self, collection: &CollectionId, key: &RecordKey) -> Result<Option<StoredRecord>, StoreError> {
        let place = self.place(collection)?;
        let raw = key::unspell(key)?;
        if !place.pattern.matches(&raw) {
            return Ok(None);
        }
        match place.fetch(&self.inner.link, &[raw]).await?.pop() {
            Some(Found::Record(record)) => Ok(Some(record)),
            Some(Found::Odd(odd)) => Err(StoreError::invalid(format!("`{}` cannot be read: {}", odd.record, odd.what))),
            Some(Found::Nothing) | None => Ok(None),
        }
    }

    async fn swap(&self, collection: &CollectionId, batch: Vec<Swap>) -> Result<Vec<Swapped>, StoreError> {
        let place = self.place(collection)?;
        let own = self.inner.own.read().await;
        let swapped = place.swap(&self.inner.link, &batch).await?;
        let done = swapped.iter().filter(|swapped| **swapped == Swapped::Done).count() as u64;
        own.fetch_add(u64::from(!batch.is_empty()).wrapping_sub(done), Ordering::Relaxed);
        Ok(swapped)
    }
}
