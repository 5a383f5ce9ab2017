//! Records of our own layout in a Redis.
//!
//! A collection lies in one hash slot, so that a script can make a batch of records, their places in the index and their
//! revision at once, on a cluster too. One collection is therefore as large as one master can hold; several spread.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `{keyfold/COLLECTION}:doc:KEY` | hash | the document `d` and the revision `n` |
//! | `{keyfold/COLLECTION}:keys` | sorted set | keys, by their bytes |
//! | `{keyfold/COLLECTION}:n` | number | the last revision |
//! | `{keyfold}:collections` | set | collections that ever held a record |

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use redis::{Cmd, Value};

use super::{
    PAGE_BYTES, address::RedisAddress, durable, link::Link, node::Effect, reply, script::Code, system::Losses,
};
use crate::store::{
    Cell, CellName, CellValue, CollectionId, DOC_CELL, Inserted, KeyPage, NewRecord, OnExisting, OwnRecords, Page,
    Partition, RecordKey, RecordStore, ScanCursor, StoreError, StoredRecord, Swap, Swapped, check_doc, check_limit,
    not_text,
};

const COLLECTIONS: &str = "{keyfold}:collections";

/// Documents fetched in one round trip.
const FETCH: usize = 500;

/// What to do with records that are there, then key and document of each. The first two keys are the counter and the index.
static INSERT: LazyLock<Code> = LazyLock::new(|| {
    Code::new(
        "if ARGV[1] == 'fail' then
  local named = {}
  for i = 3, #KEYS do
    if named[KEYS[i]] or redis.call('EXISTS', KEYS[i]) == 1 then return {-1, i - 3} end
    named[KEYS[i]] = true
  end
end
local n = redis.call('INCR', KEYS[1])
local results = {}
for i = 3, #KEYS do
  local there = redis.call('EXISTS', KEYS[i])
  if there == 1 and ARGV[1] == 'skip' then
    results[i - 2] = 0
  else
    local name = ARGV[2 * (i - 2)]
    redis.call('HSET', KEYS[i], 'd', ARGV[2 * (i - 2) + 1], 'n', n)
    redis.call('ZADD', KEYS[2], 0, name)
    results[i - 2] = 1 + there
  end
end
return results",
    )
});

/// Old and new.
static SWAP: LazyLock<Code> = LazyLock::new(|| {
    Code::new(
        "local held = redis.call('HGET', KEYS[1], 'd')
if not held then return 0 end
if held ~= ARGV[1] then return 1 end
redis.call('HSET', KEYS[1], 'd', ARGV[2], 'n', redis.call('INCR', KEYS[2]))
return 2",
    )
});

/// The record's name and the revision that it must have, or nothing.
static REMOVE: LazyLock<Code> = LazyLock::new(|| {
    Code::new(
        "local held = redis.call('HGET', KEYS[1], 'n')
if not held or (ARGV[2] ~= '' and held ~= ARGV[2]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1",
    )
});

/// Records of our own in a Redis. Clones share its connections.
#[derive(Clone)]
pub struct RedisOwn {
    link: Arc<Link>,
    doc: CellName,
}

/// The keys of a collection.
struct Names(String);

impl Names {
    fn of(collection: &CollectionId) -> Self {
        Self(format!("{{keyfold/{collection}}}"))
    }

    fn counter(&self) -> Vec<u8> {
        format!("{}:n", self.0).into_bytes()
    }

    fn index(&self) -> Vec<u8> {
        format!("{}:keys", self.0).into_bytes()
    }

    fn doc(&self, key: &str) -> Vec<u8> {
        format!("{}:doc:{key}", self.0).into_bytes()
    }
}

impl RedisOwn {
    /// Connects.
    ///
    /// # Errors
    /// A server that cannot be reached, refuses, or may lose what it acknowledged.
    pub async fn connect(address: &RedisAddress, losses: Losses) -> Result<Self, StoreError> {
        let link = Link::connect(address).await?;
        if losses == Losses::Refused {
            for slot in link.parts().await?.into_iter().map(|(first, _)| first) {
                durable::check(&link, slot).await?;
            }
        }
        Ok(Self { link: Arc::new(link), doc: CellName::new(DOC_CELL)? })
    }

    fn failed(&self, error: redis::RedisError) -> StoreError {
        self.link.error(error)
    }

    fn number(&self, value: Value) -> Result<u64, StoreError> {
        let number = reply::number(value).map_err(|error| self.failed(error))?;
        Ok(u64::try_from(number).unwrap_or(0))
    }

    fn key(&self, name: &str) -> Result<RecordKey, StoreError> {
        RecordKey::new(name).map_err(|error| StoreError::Corrupt {
            store: self.link.name.clone(),
            what: format!("it holds a record that it cannot: {error}"),
            source: None,
        })
    }

    /// The names after `after`, in the order of their bytes.
    async fn names(&self, names: &Names, after: Option<&str>, most: usize) -> Result<Vec<String>, StoreError> {
        let from = after.map_or_else(|| b"-".to_vec(), |after| [b"(", after.as_bytes()].concat());
        let mut command = redis::cmd("ZRANGEBYLEX");
        command.arg(names.index()).arg(from).arg("+").arg("LIMIT").arg(0).arg(most);
        let found = reply::array(self.link.ask(&names.index(), &command).await?).map_err(|error| self.failed(error))?;
        found.into_iter().map(reply::text).collect::<Result<_, _>>().map_err(|error| self.failed(error))
    }

    async fn fetch(&self, names: &Names, keys: &[String]) -> Result<Vec<Option<StoredRecord>>, StoreError> {
        let places: Vec<_> = keys.iter().map(|key| names.doc(key)).collect();
        let answers = self.link.each(&places, &|n| fields(&places[n]), Effect::None).await?;
        keys.iter().zip(answers).map(|(key, answer)| self.record(key, answer)).collect()
    }

    fn record(&self, key: &str, fields: Value) -> Result<Option<StoredRecord>, StoreError> {
        let mut fields = reply::array(fields).map_err(|error| self.failed(error))?.into_iter();
        let (doc, revision) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let Some(doc) = reply::bytes(doc).map_err(|error| self.failed(error))? else { return Ok(None) };
        let key = self.key(key)?;
        let value = String::from_utf8(doc).map_or_else(|error| CellValue::bytes(error.into_bytes()), CellValue::text);
        let cells = vec![Cell { name: self.doc.clone(), value }];
        Ok(Some(StoredRecord { key, cells, revision: self.number(revision)? }))
    }
}

fn fields(place: &[u8]) -> Cmd {
    let mut command = Cmd::new();
    command.arg("HMGET").arg(place).arg("d").arg("n");
    command
}

#[async_trait]
impl RecordStore for RedisOwn {
    fn describe(&self) -> String {
        self.link.name.clone()
    }

    async fn partitions(&self, _: &CollectionId) -> Result<Vec<Partition>, StoreError> {
        Ok(vec![Partition::whole()])
    }

    async fn estimate(&self, collection: &CollectionId) -> Result<Option<u64>, StoreError> {
        self.count(collection).await.map(Some)
    }

    async fn scan(
        &self,
        collection: &CollectionId,
        partition: &Partition,
        after: Option<&ScanCursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        if *partition != Partition::whole() {
            return Err(StoreError::invalid(format!("{} has no partition `{partition}`", self.link.name)));
        }
        check_limit(limit)?;
        let collection = Names::of(collection);
        let names = self.names(&collection, after.map(ScanCursor::as_str), limit).await?;
        let (mut records, mut bytes, mut done) = (Vec::new(), 0, 0);
        // A few first, to see how large they are.
        let mut few = 8;
        while done < names.len() && bytes < PAGE_BYTES {
            let chunk = &names[done..names.len().min(done + few)];
            for record in self.fetch(&collection, chunk).await? {
                if bytes >= PAGE_BYTES {
                    break;
                }
                done += 1;
                // `None` was removed since its name was read.
                let Some(record) = record else { continue };
                bytes += record.cells[0].value.len() + record.key.as_str().len();
                records.push(record);
            }
            few = (PAGE_BYTES.saturating_sub(bytes) * done / bytes.max(1)).clamp(1, FETCH);
        }
        let last = done == names.len() && names.len() < limit;
        let next = names[..done].last().filter(|_| !last).map(ScanCursor::new).transpose()?;
        Ok(Page { records, odd: Vec::new(), next })
    }

    async fn read(&self, collection: &CollectionId, key: &RecordKey) -> Result<Option<StoredRecord>, StoreError> {
        let place = Names::of(collection).doc(key.as_str());
        self.record(key.as_str(), self.link.ask(&place, &fields(&place)).await?)
    }

    async fn swap(&self, collection: &CollectionId, batch: Vec<Swap>) -> Result<Vec<Swapped>, StoreError> {
        for swap in &batch {
            if swap.cell != self.doc {
                let what = format!("a record here has one cell, `{DOC_CELL}`, and no `{}`", swap.cell);
                return Err(StoreError::invalid(what));
            }
            swap.old.as_str().ok_or_else(|| not_text(&swap.key))?;
            check_doc(&swap.key, &swap.new)?;
        }
        let names = Names::of(collection);
        let places: Vec<_> = batch.iter().map(|swap| names.doc(swap.key.as_str())).collect();
        let arguments = |n: usize, command: &mut Cmd| {
            command.arg(2).arg(&places[n]).arg(names.counter());
            command.arg(batch[n].old.as_bytes()).arg(batch[n].new.as_bytes());
        };
        let answers = SWAP.run(&self.link, &places, &arguments).await?;
        let results = answers.into_iter().map(|answer| match self.number(answer)? {
            0 => Ok(Swapped::Gone),
            1 => Ok(Swapped::Changed),
            _ => Ok(Swapped::Done),
        });
        results.collect()
    }
}

#[async_trait]
impl OwnRecords for RedisOwn {
    async fn insert(
        &self,
        collection: &CollectionId,
        batch: Vec<NewRecord>,
        on_existing: OnExisting,
    ) -> Result<Vec<Inserted>, StoreError> {
        for new in &batch {
            check_doc(&new.key, &new.doc)?;
        }
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        // First, so that no record can be in a collection that is not listed. Twice does no harm.
        let mut listed = redis::cmd("SADD");
        listed.arg(COLLECTIONS).arg(collection.as_str());
        self.link.ask(COLLECTIONS.as_bytes(), &listed).await?;
        let names = Names::of(collection);
        let docs = batch.iter().map(|new| names.doc(new.key.as_str()));
        let keys: Vec<_> = [names.counter(), names.index()].into_iter().chain(docs).collect();
        let mode = match on_existing {
            OnExisting::Skip => "skip",
            OnExisting::Replace => "replace",
            OnExisting::Fail => "fail",
        };
        let answer = INSERT.run_one(&self.link, &keys, |command| {
            command.arg(mode);
            for new in &batch {
                command.arg(new.key.as_str()).arg(new.doc.as_bytes());
            }
        });
        let answer = reply::array(answer.await?).map_err(|error| self.failed(error))?;
        let answer: Vec<i64> =
            answer.into_iter().map(reply::number).collect::<Result<_, _>>().map_err(|e| self.failed(e))?;
        if let [-1, at] = answer[..] {
            let at = usize::try_from(at).unwrap_or(0).min(batch.len() - 1);
            return Err(StoreError::Exists { key: batch[at].key.clone() });
        }
        let result = |n| match n {
            0 => Inserted::Exists,
            1 => Inserted::Created,
            _ => Inserted::Replaced,
        };
        Ok(answer.into_iter().map(result).collect())
    }

    async fn remove(
        &self,
        collection: &CollectionId,
        key: &RecordKey,
        expect: Option<u64>,
    ) -> Result<bool, StoreError> {
        let names = Names::of(collection);
        let touched = [names.doc(key.as_str()), names.index()];
        let removed = REMOVE.run_one(&self.link, &touched, |command| {
            command.arg(key.as_str()).arg(expect.map(|revision| revision.to_string()).unwrap_or_default());
        });
        Ok(self.number(removed.await?)? == 1)
    }

    async fn count(&self, collection: &CollectionId) -> Result<u64, StoreError> {
        let index = Names::of(collection).index();
        self.number(self.link.ask(&index, redis::cmd("ZCARD").arg(&index)).await?)
    }

    async fn keys(
        &self,
        collection: &CollectionId,
        after: Option<&ScanCursor>,
        limit: usize,
    ) -> Result<KeyPage, StoreError> {
        check_limit(limit)?;
        let names = self.names(&Names::of(collection), after.map(ScanCursor::as_str), limit).await?;
        let next = names.last().filter(|_| names.len() == limit).map(ScanCursor::new).transpose()?;
        Ok(KeyPage { keys: names.iter().map(|name| self.key(name)).collect::<Result<_, _>>()?, next })
    }

    async fn collections(&self) -> Result<Vec<CollectionId>, StoreError> {
        let members = self.link.ask(COLLECTIONS.as_bytes(), redis::cmd("SMEMBERS").arg(COLLECTIONS)).await?;
        let mut found = Vec::new();
        for member in reply::array(members).map_err(|error| self.failed(error))? {
            let collection = CollectionId::new(reply::text(member).map_err(|error| self.failed(error))?)?;
            if self.count(&collection).await? > 0 {
                found.push(collection);
            }
        }
        found.sort();
        Ok(found)
    }
}
