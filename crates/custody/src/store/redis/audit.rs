//! The audit log in Redis Streams, of a server that flushes each write before it answers.
//!
//! Line N of a writer is the entry `1-(N+1)` of its stream, so that a number is given once. All keys share one hash slot.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `{keyfold-audit}:lines:WRITER` | stream | its lines |
//! | `{keyfold-audit}:writer:WRITER` | hash | how many `lines`, the `tip` of its chain, and the `cut` that stands for its oldest lines |
//! | `{keyfold-audit}:writers` | sorted set | writers, by when they last wrote |
//! | `{keyfold-audit}:open` | sorted set | writers that may still write, by when they count as dead |
//! | `{keyfold-audit}:notes` | stream | the notes |

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use keyfold_core::{audit::Tip, id::WriterId};
use redis::{Cmd, Value};
use tokio::sync::Mutex;

use super::{address::RedisAddress, durable, key::slot, link::Link, reply, script::Code};
use crate::{
    audit_log::{
        Stored, StoredLog,
        stored::{AT_ONCE, Append, Known, Lines, SILENCE},
    },
    store::StoreError,
};

const WRITERS: &str = "{keyfold-audit}:writers";
const OPEN: &str = "{keyfold-audit}:open";
const NOTES: &str = "{keyfold-audit}:notes";

/// The writer, the number of the first line, the tip, the silence that is death, and the lines.
static APPEND: LazyLock<Code> = LazyLock::new(|| {
    Code::new(
        "if (redis.call('HGET', KEYS[2], 'lines') or '0') ~= ARGV[2] then return 0 end
local first = tonumber(ARGV[2])
for i = 5, #ARGV do
  redis.call('XADD', KEYS[1], string.format('1-%d', first + i - 4), 'l', ARGV[i])
end
redis.call('HSET', KEYS[2], 'lines', string.format('%d', first + #ARGV - 4), 'tip', ARGV[3])
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZADD', KEYS[3], ms, ARGV[1])
redis.call('ZADD', KEYS[4], ms + ARGV[4], ARGV[1])
return 1",
    )
});

/// The writer and the silence.
static BEAT: LazyLock<Code> = LazyLock::new(|| {
    Code::new("return redis.call('ZADD', KEYS[1], 'XX', redis.call('TIME')[1] * 1000 + ARGV[2], ARGV[1])")
});

static DEAD: LazyLock<Code> = LazyLock::new(|| {
    Code::new("return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', redis.call('TIME')[1] * 1000, 'LIMIT', 0, ARGV[1])")
});

/// The writer, and how many lines it must have.
static CLOSE: LazyLock<Code> = LazyLock::new(|| {
    Code::new("return redis.call('HGET', KEYS[2], 'lines') == ARGV[2] and redis.call('ZREM', KEYS[1], ARGV[1]) or 0")
});

/// What line 1 is, and the cut to stand for it and others. An entry of a stream cannot be replaced.
static CUT: LazyLock<Code> = LazyLock::new(|| {
    Code::new(
        "local first = redis.call('HGET', KEYS[2], 'cut')
if not first then
  local entry = redis.call('XRANGE', KEYS[1], '1-2', '1-2')[1]
  first = entry and entry[2][2]
end
if first ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], 'cut', ARGV[2])
return 1",
    )
});

/// The number and the note. Where the last note was taken away, the stream gives its number to no other.
static ADD_NOTE: LazyLock<Code> = LazyLock::new(|| {
    Code::new(
        "local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local number = last and tonumber(string.match(last[1], '-(%d+)$')) or 0
local next = tonumber(ARGV[1])
if number ~= next - 1 then return 0 end
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
for i = 1, info.err and 0 or #info, 2 do
  if info[i] == 'last-generated-id' then next = math.max(next, tonumber(string.match(info[i + 1], '-(%d+)$')) + 1) end
end
redis.call('XADD', KEYS[1], string.format('1-%d', next), 'l', ARGV[2])
return 1",
    )
});

/// A place for the audit log in a Redis.
struct RedisAudit {
    link: Link,
    /// The server that was found to keep what it acknowledges. A failover or a slot that moves brings another one.
    fit: Mutex<Option<String>>,
}

/// Connects, for the audit log.
///
/// # Errors
/// A server that cannot be reached, refuses, or does not flush each write before it answers.
pub async fn audit(address: &RedisAddress) -> Result<Stored, StoreError> {
    let audit = RedisAudit { link: Link::connect(address).await?, fit: Mutex::new(None) };
    audit.check(false).await?;
    Ok(Stored(Arc::new(audit)))
}

/// Connects to read the audit log, whatever the server does with new lines.
///
/// # Errors
/// A server that cannot be reached or refuses.
pub async fn audit_to_read(address: &RedisAddress) -> Result<StoredLog, StoreError> {
    let audit = RedisAudit { link: Link::connect(address).await?, fit: Mutex::new(None) };
    Ok(Stored(Arc::new(audit)).log())
}

fn lines_of(writer: WriterId) -> String {
    format!("{{keyfold-audit}}:lines:{writer}")
}

fn writer_key(writer: WriterId) -> String {
    format!("{{keyfold-audit}}:writer:{writer}")
}

impl RedisAudit {
    /// Refuses a server that loses what it acknowledged: one not looked at yet, or `again`, since settings change.
    async fn check(&self, again: bool) -> Result<(), StoreError> {
        let place = slot(NOTES.as_bytes());
        let mut fit = self.fit.lock().await;
        let now = durable::who(&self.link, place).await?;
        if again || *fit != now || now.is_none() {
            *fit = None;
            durable::check(&self.link, place).await?;
            durable::check_flushes(&self.link, place).await?;
            *fit = now;
        }
        Ok(())
    }

    /// What stands for the oldest lines of a writer.
    async fn cut_of(&self, writer: WriterId) -> Result<Option<Vec<u8>>, StoreError> {
        let key = writer_key(writer);
        let found = self.ask(&key, &["HGET", &key, "cut"]).await?;
        self.understood(reply::bytes(found))
    }

    async fn ask(&self, key: &str, command: &[&str]) -> Result<Value, StoreError> {
        let mut asked = Cmd::new();
        for word in command {
            asked.arg(*word);
        }
        self.link.ask(key.as_bytes(), &asked).await
    }

    async fn run(&self, code: &Code, keys: &[String], arguments: &[&[u8]]) -> Result<Value, StoreError> {
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| key.clone().into_bytes()).collect();
        let add = |command: &mut Cmd| {
            for word in arguments {
                command.arg(*word);
            }
        };
        code.run_one(&self.link, &keys, add).await
    }

    fn understood<T>(&self, answer: Result<T, redis::RedisError>) -> Result<T, StoreError> {
        answer.map_err(|error| self.link.error(error))
    }

    fn array(&self, value: Value) -> Result<Vec<Value>, StoreError> {
        self.understood(reply::array(value))
    }

    /// The numbers and contents of a stream's entries.
    fn entries(&self, value: Value) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let mut entries = Vec::new();
        for entry in self.array(value)? {
            let mut entry = self.array(entry)?.into_iter();
            let (id, fields) = (entry.next().unwrap_or_default(), entry.next().unwrap_or_default());
            let id = self.understood(reply::text(id))?;
            let number = id.rsplit_once('-').and_then(|(_, number)| number.parse().ok());
            let number = number.ok_or_else(|| self.link.error(reply::unexpected()))?;
            let content = self.array(fields)?.into_iter().nth(1).unwrap_or_default();
            entries.push((number, self.understood(reply::bytes(content))?.unwrap_or_default()));
        }
        Ok(entries)
    }
}

fn silence() -> String {
    SILENCE.as_millis().to_string()
}

#[async_trait]
impl Lines for RedisAudit {
    fn name(&self) -> String {
        self.link.name.clone()
    }

    async fn append(&self, append: &Append<'_>) -> Result<bool, StoreError> {
        let tip =
            serde_json::to_string(&append.tip).map_err(|_| StoreError::invalid("a chain's end cannot be written"))?;
        let (writer, first, silence) = (append.writer.to_string(), append.first.to_string(), silence());
        let keys = [lines_of(append.writer), writer_key(append.writer), WRITERS.into(), OPEN.into()];
        let mut arguments: Vec<&[u8]> = vec![writer.as_bytes(), first.as_bytes(), tip.as_bytes(), silence.as_bytes()];
        arguments.extend(append.lines.iter().map(Vec::as_slice));
        self.check(false).await?;
        let done = self.run(&APPEND, &keys, &arguments).await?;
        // It may have gone to a server that took over just now.
        self.check(false).await?;
        Ok(self.understood(reply::number(done))? == 1)
    }

    async fn lines(&self, writer: WriterId, from: u64, limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let (key, first, most) = (lines_of(writer), format!("1-{}", from.saturating_add(1)), limit.to_string());
        let cut = match from {
            0 | 1 => self.cut_of(writer).await?,
            _ => None,
        };
        let found = self.ask(&key, &["XRANGE", &key, &first, "+", "COUNT", &most]).await?;
        let mut entries = self.entries(found)?;
        if let Some(cut) = cut {
            // Entry 2 holds line 1.
            entries.retain(|(number, _)| *number != 2);
            entries.insert(entries.iter().take_while(|(number, _)| *number < 2).count(), (2, cut));
            entries.truncate(limit);
        }
        Ok(entries.into_iter().map(|(_, line)| line).collect())
    }

    async fn last(&self, writer: WriterId, count: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let (key, count) = (lines_of(writer), count.to_string());
        let found = self.ask(&key, &["XREVRANGE", &key, "+", "-", "COUNT", &count]).await?;
        Ok(self.entries(found)?.into_iter().rev().map(|(_, line)| line).collect())
    }

    async fn writers(&self) -> Result<Vec<Known>, StoreError> {
        let listed = self.array(self.ask(WRITERS, &["ZRANGE", WRITERS, "0", "-1", "WITHSCORES"]).await?)?;
        let mut listed = listed.into_iter();
        let mut writers = Vec::new();
        while let (Some(writer), Some(written)) = (listed.next(), listed.next()) {
            let writer = self.understood(reply::text(writer))?;
            let written = self.understood(reply::text(written))?;
            let writer = writer.parse().map_err(|_| self.link.error(reply::unexpected()))?;
            #[expect(clippy::cast_possible_truncation, reason = "milliseconds fit for a very long time")]
            let written = written.parse::<f64>().unwrap_or(0.0) as i64;
            writers.push(Known { writer, written });
        }
        Ok(writers)
    }

    async fn beat(&self, writer: WriterId) -> Result<(), StoreError> {
        let (writer, silence) = (writer.to_string(), silence());
        self.run(&BEAT, &[OPEN.into()], &[writer.as_bytes(), silence.as_bytes()]).await.map(drop)
    }

    async fn dead(&self) -> Result<Vec<Tip>, StoreError> {
        let most = AT_ONCE.to_string();
        let mut tips = Vec::new();
        for writer in self.array(self.run(&DEAD, &[OPEN.into()], &[most.as_bytes()]).await?)? {
            let writer = self.understood(reply::text(writer))?;
            let writer: WriterId = writer.parse().map_err(|_| self.link.error(reply::unexpected()))?;
            let key = writer_key(writer);
            let tip = self.understood(reply::bytes(self.ask(&key, &["HGET", &key, "tip"]).await?))?;
            let tip = tip.and_then(|tip| serde_json::from_slice(&tip).ok());
            tips.push(tip.ok_or_else(|| StoreError::Corrupt {
                store: self.link.name.clone(),
                what: format!("the end of the audit chain {writer} is not readable"),
                source: None,
            })?);
        }
        Ok(tips)
    }

    async fn close(&self, tips: &[Tip]) -> Result<(), StoreError> {
        for tip in tips {
            let (writer, lines) = (tip.writer.to_string(), (tip.size + 1).to_string());
            self.run(&CLOSE, &[OPEN.into(), writer_key(tip.writer)], &[writer.as_bytes(), lines.as_bytes()]).await?;
        }
        Ok(())
    }

    async fn cut(&self, writer: WriterId, was: &[u8], cut: &[u8]) -> Result<bool, StoreError> {
        self.check(true).await?;
        let done = self.run(&CUT, &[lines_of(writer), writer_key(writer)], &[was, cut]).await?;
        Ok(self.understood(reply::number(done))? == 1)
    }

    async fn forget(&self, writer: WriterId, last: u64) -> Result<(), StoreError> {
        let (key, last) = (lines_of(writer), format!("1-{}", last.saturating_add(1)));
        loop {
            let found = self.ask(&key, &["XRANGE", &key, "1-2", &last, "COUNT", "1000"]).await?;
            let ids: Vec<String> = self.entries(found)?.iter().map(|(number, _)| format!("1-{number}")).collect();
            if ids.is_empty() {
                return Ok(());
            }
            let words: Vec<&str> = ["XDEL", &key].into_iter().chain(ids.iter().map(String::as_str)).collect();
            self.ask(&key, &words).await?;
        }
    }

    async fn notes(&self, from: u64, limit: usize) -> Result<Vec<(u64, String)>, StoreError> {
        let (from, limit) = (format!("1-{from}"), limit.to_string());
        let found = self.ask(NOTES, &["XRANGE", NOTES, &from, "+", "COUNT", &limit]).await?;
        let text = |(number, note): (u64, Vec<u8>)| (number, String::from_utf8_lossy(&note).into_owned());
        Ok(self.entries(found)?.into_iter().map(text).collect())
    }

    async fn last_note(&self) -> Result<Option<(u64, String)>, StoreError> {
        let found = self.ask(NOTES, &["XREVRANGE", NOTES, "+", "-", "COUNT", "1"]).await?;
        let last = self.entries(found)?.pop();
        Ok(last.map(|(number, note)| (number, String::from_utf8_lossy(&note).into_owned())))
    }

    async fn add_note(&self, number: u64, note: &str) -> Result<bool, StoreError> {
        let number = number.to_string();
        self.check(true).await?;
        let added = self.run(&ADD_NOTE, &[NOTES.into()], &[number.as_bytes(), note.as_bytes()]).await?;
        Ok(self.understood(reply::number(added))? == 1)
    }
}
