//! Going through the keys of a part, page by page.
//!
//! `SCAN` gives about as many keys as it likes, and its cursor means something only to the very server process that gave it.
//! So a cursor of ours names the server and its run, and starts over where that run has ended. Keys that came in and did not
//! fit a page are kept in memory under a token; who comes with a token of another process gets them scanned again. Records
//! are thus repeated at times, and never missed.

use std::{
    collections::VecDeque,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use keyfold_core::rng::{self, SystemRandom};
use redis::{Pipeline, Value};

use super::{key::Pattern, link::Link, node::Effect, reply, sweep::Position};
use crate::store::{Partition, ScanCursor, StoreError};

/// The most keys that the server goes through in one command, which nothing else interrupts.
const MOST_KEYS: usize = 4096;
/// The least: a bucket of its table holds a few anyway.
const LEAST_KEYS: usize = 64;
/// How often a page asks the server before it comes back with what it has.
const ROUNDS: usize = 32;
/// How many pages' leftovers are kept.
const KEPT: usize = 64;

/// Text that no other call of this function, in any process, gave or gives.
pub(super) fn unique() -> String {
    static PROCESS: LazyLock<u64> =
        LazyLock::new(|| rng::array(&SystemRandom).map_or_else(|_| u64::from(std::process::id()), u64::from_le_bytes));
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{:x}.{:x}", *PROCESS, COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A range of hash slots, as a partition's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) first: u16,
    pub(super) last: u16,
}

impl Part {
    pub(super) fn partition(self) -> Result<Partition, StoreError> {
        Ok(Partition::new(format!("slots-{}-{}", self.first, self.last))?)
    }

    pub(super) fn parse(partition: &Partition) -> Option<Self> {
        let (first, last) = partition.as_str().strip_prefix("slots-")?.split_once('-')?;
        let part = Self { first: first.parse().ok()?, last: last.parse().ok()? };
        (part.first <= part.last && part.last < super::key::SLOTS).then_some(part)
    }
}

/// A key, and where the command that brought it began.
pub(super) type Found = (Arc<Position>, Vec<u8>);

/// What is still to be visited of a part: keys that are there, and where to ask for more.
pub(super) struct Walk {
    keys: VecDeque<Found>,
    /// `None` once everything was asked for.
    then: Option<Position>,
    /// When it began. Answers that are older say nothing about it.
    since: Instant,
}

impl Walk {
    /// The next keys, at most `most`.
    pub(super) fn take(&mut self, most: usize) -> Vec<Found> {
        self.keys.drain(..most.min(self.keys.len())).collect()
    }

    /// Keys that were taken last and are not done with.
    pub(super) fn give_back(&mut self, keys: impl DoubleEndedIterator<Item = Found>) {
        keys.rev().for_each(|key| self.keys.push_front(key));
    }
}

/// Leftovers of pages, by token; the oldest go first.
#[derive(Default)]
pub(super) struct Leftovers(Mutex<VecDeque<(String, Walk)>>);

impl Leftovers {
    fn keep(&self, walk: Walk) -> String {
        let token = unique();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((token.clone(), walk));
        token
    }

    fn take(&self, token: &str) -> Option<Walk> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(held, _)| held == token)?;
        kept.remove(at).map(|(_, walk)| walk)
    }
}

/// How many keys make a page of at most `wanted`. For the last few nobody asks again: an answer brings about as many keys as a page
/// takes, so every other page would wait for one more of them, and everything with it.
pub(super) fn enough(wanted: usize) -> usize {
    wanted.div_ceil(2)
}

impl Walk {
    fn at(position: Position) -> Self {
        Self { keys: VecDeque::new(), then: Some(position), since: Instant::now() }
    }

    /// Goes on where a cursor says.
    pub(super) fn resume(after: Option<&ScanCursor>, leftovers: &Leftovers) -> Result<Self, StoreError> {
        let Some(after) = after else {
            return Ok(Self::at(Position::default()));
        };
        let wrong = || StoreError::invalid("a scan cursor of another store was given to a Redis");
        let parts: Vec<&str> = after.as_str().split(' ').collect();
        let &[server, run, cursor, token] = parts.as_slice() else { return Err(wrong()) };
        let cursor = cursor.parse().map_err(|_| wrong())?;
        let position = Position { server: server.into(), run: run.into(), cursor };
        Ok(leftovers.take(token).unwrap_or_else(|| Self::at(position)))
    }

    /// The cursor to go on from; `None` where nothing is left.
    pub(super) fn suspend(self, leftovers: &Leftovers) -> Result<Option<ScanCursor>, StoreError> {
        let from = self.keys.front().map(|(from, _)| Position::clone(from));
        let Some(Position { server, run, cursor }) = from.or_else(|| self.then.clone()) else { return Ok(None) };
        let token = leftovers.keep(self);
        Ok(Some(ScanCursor::new(format!("{server} {run} {cursor} {token}"))?))
    }

    /// Asks until there is enough for a page of `wanted` keys, nothing is left, or it took too long.
    pub(super) async fn fill(
        &mut self,
        link: &Link,
        part: Part,
        pattern: &Pattern,
        wanted: usize,
    ) -> Result<(), StoreError> {
        for _ in 0..ROUNDS {
            if self.keys.len() >= enough(wanted) || self.then.is_none() {
                break;
            }
            self.more(link, part, pattern, wanted).await?;
        }
        Ok(())
    }

    /// Asks for keys of the next page where it would have to, while the values of this one are on their way.
    pub(super) async fn look_ahead(
        &mut self,
        link: &Link,
        part: Part,
        pattern: &Pattern,
        wanted: usize,
    ) -> Result<(), StoreError> {
        if self.keys.len() < wanted { self.more(link, part, pattern, wanted).await } else { Ok(()) }
    }

    async fn more(&mut self, link: &Link, part: Part, pattern: &Pattern, wanted: usize) -> Result<(), StoreError> {
        let Some(position) = self.then.clone() else { return Ok(()) };
        let count = (wanted * link.waste(part.first, part.last)).clamp(LEAST_KEYS, MOST_KEYS);
        let (keys, next) = step(link, part, pattern, &position, (count, self.since)).await?;
        self.then = next;
        self.keys.extend(keys);
        Ok(())
    }
}

/// One command: the keys it brought to this part, where it really began, and where to go on.
async fn step(
    link: &Link,
    part: Part,
    pattern: &Pattern,
    at: &Position,
    (count, since): (usize, Instant),
) -> Result<(Vec<Found>, Option<Position>), StoreError> {
    let sources = link.sources(part.first, part.last);
    let source = sources.iter().find(|source| source.id() == at.server).unwrap_or(&sources[0]);
    let step = source.node().sweep.step(source.node(), source.id(), pattern, at, (count, since)).await;
    let step = step.map_err(|error| link.error(error))?;
    let from = Arc::new(step.from.clone());
    let own = step.keys.iter().filter(|(slot, _)| (part.first..=part.last).contains(slot));
    let keys = own.map(|(_, key)| (Arc::clone(&from), key.clone())).collect();
    let next = if step.next == 0 {
        let other = sources.iter().find(|other| other.id() > source.id());
        other.map(|other| Position { server: other.id().into(), ..Position::default() })
    } else {
        Some(Position { cursor: step.next, ..step.from.clone() })
    };
    Ok((keys, next))
}

/// How many keys are sampled for an estimate.
const SAMPLE: usize = 2000;

/// How many keys match: exact where all fit a sample, else by the share of a sample that does. Hashing makes any stretch of
/// keys a fair sample.
pub(super) async fn estimate(link: &Link, pattern: &Pattern) -> Result<Option<u64>, StoreError> {
    let mut total = 0;
    for source in link.sources(0, super::key::SLOTS - 1) {
        let mut commands = Pipeline::with_capacity(2);
        commands.cmd("DBSIZE").cmd("SCAN").arg(0).arg("COUNT").arg(SAMPLE);
        let answers = source.node().each(&commands, Effect::None).await;
        let mut answers = answers.map_err(|error| link.error(error))?.into_iter();
        let mut answer = || answers.next().ok_or_else(reply::unexpected);
        let (size, sample) =
            (|| Ok((reply::number(answer()?)?, reply::array(answer()?)?)))().map_err(|e| link.error(e))?;
        let sample =
            sample.into_iter().nth(1).map(reply::array).transpose().map_err(|e| link.error(e))?.unwrap_or_default();
        let seen = sample.len() as u64;
        let matching =
            sample.into_iter().filter(|key| matches!(key, Value::BulkString(key) if pattern.matches(key))).count()
                as u64;
        let size = u64::try_from(size).unwrap_or(0);
        if matching == 0 && seen < size {
            // Few among many; how few, a sample cannot say.
            return Ok(None);
        }
        total += if seen >= size { matching } else { matching * size / seen.max(1) };
    }
    Ok(Some(total))
}
