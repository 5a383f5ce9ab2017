//! Compare-and-swap of one cell, by a script: the server runs nothing else meanwhile.
//!
//! The script changes the one field, or the value, and only what holds the very bytes that were read. What ends, the key or (since
//! Redis 7.4) the one field, ends when it would have.

use std::sync::LazyLock;

use redis::Cmd;

use super::{
    key,
    link::Link,
    place::{Place, Shape},
    reply,
    script::Code,
};
use crate::store::{StoreError, Swap, Swapped};

// Another type than it was means that the record that was read is not there any more.
static FIELD: LazyLock<Code> = LazyLock::new(|| {
    Code::new(
        "local held = redis.pcall('HGET', KEYS[1], ARGV[1])
if type(held) ~= 'string' then return 0 end
if held ~= ARGV[2] then return 1 end
local asked = redis.pcall('HPEXPIRETIME', KEYS[1], 'FIELDS', 1, ARGV[1])
if asked.err and not string.find(string.lower(asked.err), 'unknown') then return asked end
local ends = asked[1] or -1
-- Before as well as after: who may not say when it ends does not write it either.
if ends > 0 then redis.call('HPEXPIREAT', KEYS[1], ends, 'FIELDS', 1, ARGV[1]) end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
if ends > 0 then redis.call('HPEXPIREAT', KEYS[1], ends, 'FIELDS', 1, ARGV[1]) end
return 2",
    )
});

static VALUE: LazyLock<Code> = LazyLock::new(|| {
    Code::new(
        "local held = redis.pcall('GET', KEYS[1])
if type(held) ~= 'string' then return 0 end
if held ~= ARGV[1] then return 1 end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
return 2",
    )
});

impl Place {
    /// Swaps in one round trip to each server, each swap judged by itself.
    pub(super) async fn swap(&self, link: &Link, batch: &[Swap]) -> Result<Vec<Swapped>, StoreError> {
        let mut results = vec![Swapped::Gone; batch.len()];
        let (mut keys, mut at) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for (n, swap) in batch.iter().enumerate() {
            self.has(&swap.cell)?;
            if swap.new.as_str().is_none() {
                let what = format!("`{}` of record `{}` is to become what is not UTF-8 text", swap.cell, swap.key);
                return Err(StoreError::invalid(what));
            }
            let key = key::unspell(&swap.key)?;
            // A key of another collection is not there for this one.
            if self.pattern.matches(&key) {
                keys.push(key);
                at.push(n);
            }
        }
        let arguments = |n: usize, command: &mut Cmd| {
            let swap = &batch[at[n]];
            command.arg(1).arg(&keys[n]);
            if !matches!(self.shape, Shape::Value(_)) {
                command.arg(swap.cell.as_str());
            }
            command.arg(swap.old.as_bytes()).arg(swap.new.as_bytes());
        };
        let code = if matches!(self.shape, Shape::Value(_)) { &VALUE } else { &FIELD };
        for (answer, n) in code.run(link, &keys, &arguments).await?.into_iter().zip(&at) {
            results[*n] = match reply::number(answer).map_err(|error| link.error(error))? {
                0 => Swapped::Gone,
                1 => Swapped::Changed,
                _ => Swapped::Done,
            };
        }
        Ok(results)
    }
}
