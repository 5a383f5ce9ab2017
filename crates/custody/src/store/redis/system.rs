//! Our small documents in a Redis.
//!
//! All of them share one hash slot, so that a script can change a document, its place in the index of keys and the log of
//! changes at once, on a cluster too. One counter numbers all changes, as in [`super::super::sqlite`]: a document's version is
//! the number of its last change, a deleted one leaves its number behind for a day, and the highest number that was dropped
//! is kept. Documents with an end are expired by the server; their traces are dropped by later writes.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `{keyfold}:doc:KEY` | hash | the value `v` and the version `n` |
//! | `{keyfold}:n` | number | the last change |
//! | `{keyfold}:keys` | sorted set | keys, by their bytes |
//! | `{keyfold}:log` | sorted set | keys, by the number of their last change |
//! | `{keyfold}:ends` | sorted set | keys, by when their trace may be dropped |
//! | `{keyfold}:forgotten` | number | the highest change of which the trace was dropped |

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use keyfold_core::clock::UnixTime;
use redis::{Cmd, Value};
use tokio::sync::Notify;

use super::{address::RedisAddress, durable, key::slot, link::Link, node::Effect, reply, script::Code};
use crate::store::{
    ChangeMark, Doc, Expect, Put, StoreError, SystemStore, check_key, check_prefix,
    system::{POLL, check_list, check_put, wait_for_change},
};

/// How often, in writes of this process, the traces of what is gone are dropped.
const FORGET_EVERY: u32 = 64;

/// Documents fetched in one round trip.
const PAGE: usize = 500;

const COUNTER: &str = "{keyfold}:n";
const KEYS: &str = "{keyfold}:keys";
const LOG: &str = "{keyfold}:log";
const ENDS: &str = "{keyfold}:ends";
const FORGOTTEN: &str = "{keyfold}:forgotten";

/// Key, value, what is expected of the version, and the time to live in milliseconds or nothing.
static PUT: LazyLock<Code> = LazyLock::new(|| {
    Code::new(
        "local held = redis.call('HGET', KEYS[1], 'n')
if ARGV[3] == 'absent' then
  if held then return 0 end
elseif ARGV[3] ~= 'any' and held ~= ARGV[3] then
  return 0
end
local n = redis.call('INCR', KEYS[2])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'v', ARGV[2], 'n', n)
redis.call('ZADD', KEYS[3], 0, ARGV[1])
redis.call('ZADD', KEYS[4], n, ARGV[1])
if ARGV[4] == '' then
  redis.call('ZREM', KEYS[5], ARGV[1])
else
  local now = redis.call('TIME')
  local ends = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[4]
  redis.call('PEXPIREAT', KEYS[1], ends)
  redis.call('ZADD', KEYS[5], ends, ARGV[1])
end
return n",
    )
});

/// Key and what is expected of the version.
static DELETE: LazyLock<Code> = LazyLock::new(|| {
    Code::new(
        "local held = redis.call('HGET', KEYS[1], 'n')
if not held or (ARGV[2] ~= 'any' and held ~= ARGV[2]) then return 0 end
local n = redis.call('INCR', KEYS[2])
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[4], n, ARGV[1])
redis.call('ZADD', KEYS[5], redis.call('TIME')[1] * 1000 + 86400000, ARGV[1])
return 1",
    )
});

/// Since when, and the prefix: the number of the last change, and whether one of them lies under the prefix.
static LOOK: LazyLock<Code> = LazyLock::new(|| {
    Code::new(
        "local n = tonumber(redis.call('GET', KEYS[1]) or '0')
local since = tonumber(ARGV[1])
if n <= since then return {n, 0} end
if tonumber(redis.call('GET', KEYS[3]) or '0') > since then return {n, 1} end
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf')) do
  if string.sub(key, 1, #ARGV[2]) == ARGV[2] then return {n, 1} end
end
return {n, 0}",
    )
});

static FORGET: LazyLock<Code> = LazyLock::new(|| {
    Code::new(
        "local now = redis.call('TIME')[1] * 1000
local forgotten = tonumber(redis.call('GET', KEYS[4]) or '0')
for _, key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '(' .. now, 'LIMIT', 0, 1000)) do
  forgotten = math.max(forgotten, tonumber(redis.call('ZSCORE', KEYS[2], key) or '0'))
  redis.call('ZREM', KEYS[1], key)
  redis.call('ZREM', KEYS[2], key)
  redis.call('ZREM', KEYS[3], key)
end
redis.call('SET', KEYS[4], forgotten)
return forgotten",
    )
});

/// Whether a server that may lose what it acknowledged is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Losses {
    /// Only with `noeviction` and an append-only file.
    Refused,
    /// For tests and for trying things out: a restart may lose keys, and with them everything sealed under them.
    AcceptedInsecurely,
}

/// Small documents in a Redis. Clones share its connections.
#[derive(Clone)]
pub struct RedisSystem {
    inner: Arc<Inner>,
}

struct Inner {
    link: Link,
    written: Notify,
    puts: AtomicU32,
}

impl RedisSystem {
    /// Connects.
    ///
    /// # Errors
    /// A server that cannot be reached, refuses, or may lose what it acknowledged.
    pub async fn connect(address: &RedisAddress, losses: Losses) -> Result<Self, StoreError> {
        let link = Link::connect(address).await?;
        if losses == Losses::Refused {
            durable::check(&link, slot(COUNTER.as_bytes())).await?;
        }
        Ok(Self { inner: Arc::new(Inner { link, written: Notify::new(), puts: AtomicU32::new(0) }) })
    }

    async fn wrote(&self) {
        self.inner.written.notify_waiters();
        if self.inner.puts.fetch_add(1, Ordering::Relaxed).is_multiple_of(FORGET_EVERY) {
            // The write is done whatever comes of this; what is not dropped now is dropped by a later one.
            let _ = FORGET.run_one(&self.inner.link, &keys(&[KEYS, LOG, ENDS, FORGOTTEN]), |_| {}).await;
        }
    }

    fn number(&self, value: Value) -> Result<u64, StoreError> {
        let number = reply::number(value).map_err(|error| self.inner.link.error(error))?;
        Ok(u64::try_from(number).unwrap_or(0))
    }

    /// A document out of its two fields; `None` where there is none.
    fn doc(&self, fields: Value) -> Result<Option<Doc>, StoreError> {
        let failed = |error| self.inner.link.error(error);
        let mut fields = reply::array(fields).map_err(failed)?.into_iter();
        let (value, version) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let Some(value) = reply::bytes(value).map_err(failed)? else { return Ok(None) };
        Ok(Some(Doc { value, version: self.number(version)? }))
    }

    /// The number of the last change, and whether one after `seen` lies under `prefix`.
    async fn look(&self, prefix: &str, seen: u64) -> Result<(u64, bool), StoreError> {
        let link = &self.inner.link;
        // Mostly nothing changed, and the number alone says so.
        match link.ask(COUNTER.as_bytes(), redis::cmd("GET").arg(COUNTER)).await? {
            Value::Nil => return Ok((0, false)),
            latest => {
                let latest = self.number(latest)?;
                if latest <= seen {
                    return Ok((latest, false));
                }
            }
        }
        let touched = keys(&[COUNTER, LOG, FORGOTTEN]);
        let looked = LOOK.run_one(link, &touched, |command| {
            command.arg(seen).arg(prefix);
        });
        let mut looked = reply::array(looked.await?).map_err(|error| link.error(error))?.into_iter();
        let (latest, changed) = (looked.next().unwrap_or_default(), looked.next().unwrap_or_default());
        Ok((self.number(latest)?, self.number(changed)? != 0))
    }
}

fn keys(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

fn place(key: &str) -> Vec<u8> {
    format!("{{keyfold}}:doc:{key}").into_bytes()
}

fn fields(key: &[u8]) -> Cmd {
    let mut command = Cmd::new();
    command.arg("HMGET").arg(key).arg("v").arg("n");
    command
}

fn expected(expect: Expect) -> String {
    match expect {
        Expect::Any => "any".into(),
        Expect::Absent => "absent".into(),
        Expect::Version(version) => version.to_string(),
    }
}

/// The bounds of the keys that start with `prefix` and come after `after`. No UTF-8 text contains the byte FF.
fn bounds(prefix: &str, after: Option<&str>) -> (Vec<u8>, Vec<u8>) {
    let from = match after {
        Some(after) if after >= prefix => [b"(", after.as_bytes()].concat(),
        _ => [b"[", prefix.as_bytes()].concat(),
    };
    (from, [b"(", prefix.as_bytes(), b"\xff"].concat())
}

#[async_trait]
impl SystemStore for RedisSystem {
    async fn get(&self, key: &str) -> Result<Option<Doc>, StoreError> {
        check_key(key)?;
        let place = place(key);
        self.doc(self.inner.link.ask(&place, &fields(&place)).await?)
    }

    async fn put(&self, key: &str, value: &[u8], expect: Expect, ttl: Option<Duration>) -> Result<Put, StoreError> {
        let ttl = check_put(key, value, ttl)?.map(|ttl| ttl.to_string()).unwrap_or_default();
        let touched = [vec![place(key)], keys(&[COUNTER, KEYS, LOG, ENDS])].concat();
        let put = PUT.run_one(&self.inner.link, &touched, |command| {
            command.arg(key).arg(value).arg(expected(expect)).arg(&ttl);
        });
        match self.number(put.await?)? {
            0 => Ok(Put::Conflict),
            version => {
                self.wrote().await;
                Ok(Put::Stored { version })
            }
        }
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<bool, StoreError> {
        check_key(key)?;
        if expect == Expect::Absent {
            return Err(StoreError::invalid("a document cannot be deleted on condition that it is absent"));
        }
        let touched = [vec![place(key)], keys(&[COUNTER, KEYS, LOG, ENDS])].concat();
        let delete = DELETE.run_one(&self.inner.link, &touched, |command| {
            command.arg(key).arg(expected(expect));
        });
        let there = self.number(delete.await?)? != 0;
        if there {
            self.wrote().await;
        }
        Ok(there)
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Doc)>, StoreError> {
        check_list(prefix, after, limit)?;
        let link = &self.inner.link;
        let (mut found, mut after) = (Vec::new(), after.map(str::to_owned));
        loop {
            let wanted = (limit - found.len()).min(PAGE);
            let (from, to) = bounds(prefix, after.as_deref());
            let mut command = redis::cmd("ZRANGEBYLEX");
            command.arg(KEYS).arg(from).arg(to).arg("LIMIT").arg(0).arg(wanted);
            let names = reply::array(link.ask(KEYS.as_bytes(), &command).await?).map_err(|error| link.error(error))?;
            let names: Vec<String> =
                names.into_iter().map(reply::text).collect::<Result<_, _>>().map_err(|error| link.error(error))?;
            let places: Vec<_> = names.iter().map(|name| place(name)).collect();
            let docs = link.each(&places, &|n| fields(&places[n]), Effect::None).await?;
            let last = names.len() < wanted;
            after = names.last().cloned().or(after);
            for (name, doc) in names.into_iter().zip(docs) {
                // What expired is still in the index until a later write drops it.
                if let Some(doc) = self.doc(doc)? {
                    found.push((name, doc));
                }
            }
            if last || found.len() == limit {
                return Ok(found);
            }
        }
    }

    async fn now(&self) -> Result<UnixTime, StoreError> {
        // The key only says which server of a cluster is asked: the one that judges expiry.
        let time = self.inner.link.ask(COUNTER.as_bytes(), &redis::cmd("TIME")).await?;
        let time = reply::array(time).map_err(|error| self.inner.link.error(error))?;
        self.number(time.into_iter().next().unwrap_or_default()).map(UnixTime)
    }

    async fn changed(&self, prefix: &str, since: &ChangeMark, wait: Duration) -> Result<ChangeMark, StoreError> {
        check_prefix(prefix)?;
        wait_for_change(&self.inner.link.name, since, wait, (&self.inner.written, POLL), |seen| self.look(prefix, seen))
            .await
    }
}
