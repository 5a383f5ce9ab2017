//! Compare-and-swap of cells, by a script: the server runs nothing else meanwhile, so a call holds few of them.
//!
//! The script changes the one field, or the value, and only what holds the very bytes that were read. What ends, the key or (since
//! Redis 7.4) the one field, ends when it would have. A script that fails leaves done what it had done.

use std::sync::LazyLock;

use redis::{Cmd, Value};

use super::{
    key,
    link::Link,
    place::{Place, Shape},
    reply,
    script::Code,
};
use crate::store::{StoreError, Swap, Swapped};

/// How many swaps a call holds: most of a call's cost is shared, and the server answers others within a fraction of a millisecond.
const TOGETHER: usize = 16;

// Another type than it was means that the record that was read is not there any more.
static FIELD: LazyLock<Code> = LazyLock::new(|| {
    Code::new(
        "local version = redis.REDIS_VERSION_NUM
-- Before Redis 7.4 no field ends, and asking costs as much as all the rest. What does not say its version is asked.
local may_end = not version or version >= 0x00070400 or redis.VALKEY_VERSION_NUM
local done = {}
for i, key in ipairs(KEYS) do
    local field, old, new = ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
    local held = redis.pcall('HGET', key, field)
    if type(held) ~= 'string' then
        done[i] = 0
    elseif held ~= old then
        done[i] = 1
    else
        local ends = -1
        if may_end then
            local asked = redis.pcall('HPEXPIRETIME', key, 'FIELDS', 1, field)
            if asked.err and not string.find(string.lower(asked.err), 'unknown') then return asked end
            ends = asked[1] or -1
        end
        -- Before as well as after: who may not say when it ends does not write it either.
        if ends > 0 then redis.call('HPEXPIREAT', key, ends, 'FIELDS', 1, field) end
        redis.call('HSET', key, field, new)
        if ends > 0 then redis.call('HPEXPIREAT', key, ends, 'FIELDS', 1, field) end
        done[i] = 2
    end
end
return done",
    )
});

static VALUE: LazyLock<Code> = LazyLock::new(|| {
    Code::new(
        "local done = {}
for i, key in ipairs(KEYS) do
    local held = redis.pcall('GET', key)
    if type(held) ~= 'string' then
        done[i] = 0
    elseif held ~= ARGV[2 * i - 1] then
        done[i] = 1
    else
        redis.call('SET', key, ARGV[2 * i], 'KEEPTTL')
        done[i] = 2
    end
end
return done",
    )
});

impl Place {
    /// Swaps in one round trip to each server, each swap judged by itself.
    pub(super) async fn swap(&self, link: &Link, batch: &[Swap]) -> Result<Vec<Swapped>, StoreError> {
        let mut results = vec![Swapped::Gone; batch.len()];
        let mut here = Vec::with_capacity(batch.len());
        for (n, swap) in batch.iter().enumerate() {
            self.has(&swap.cell)?;
            if swap.new.as_str().is_none() {
                let what = format!("`{}` of record `{}` is to become what is not UTF-8 text", swap.cell, swap.key);
                return Err(StoreError::invalid(what));
            }
            let key = key::unspell(&swap.key)?;
            // A key of another collection is not there for this one.
            if self.pattern.matches(&key) {
                here.push((key, n));
            }
        }
        // In a cluster a call is for keys of one slot. What stands in front of one and looks like a single server says so.
        let mut together = if link.is_cluster() { 1 } else { TOGETHER };
        while !here.is_empty() {
            let mut apart = Vec::new();
            let answers = self.calls(link, batch, &here, together).await?;
            for (answer, swaps) in answers.into_iter().zip(here.chunks(together)) {
                if together > 1 && reply::is_of_several_slots(&answer) {
                    apart.extend_from_slice(swaps);
                    continue;
                }
                let done = reply::array(answer).map_err(|error| link.error(error))?;
                if done.len() != swaps.len() {
                    return Err(link.error(reply::unexpected()));
                }
                for (done, (_, n)) in done.into_iter().zip(swaps) {
                    results[*n] = match reply::number(done).map_err(|error| link.error(error))? {
                        0 => Swapped::Gone,
                        1 => Swapped::Changed,
                        _ => Swapped::Done,
                    };
                }
            }
            (here, together) = (apart, 1);
        }
        Ok(results)
    }

    /// One call for so many swaps of a batch, by their keys and their places in it.
    async fn calls(
        &self,
        link: &Link,
        batch: &[Swap],
        swaps: &[(Vec<u8>, usize)],
        together: usize,
    ) -> Result<Vec<Value>, StoreError> {
        let calls: Vec<_> = swaps.chunks(together).collect();
        let firsts: Vec<_> = calls.iter().map(|swaps| swaps[0].0.clone()).collect();
        let arguments = |call: usize, command: &mut Cmd| {
            command.arg(calls[call].len());
            for (key, _) in calls[call] {
                command.arg(key);
            }
            for (_, n) in calls[call] {
                let swap = &batch[*n];
                if !matches!(self.shape, Shape::Value(_)) {
                    command.arg(swap.cell.as_str());
                }
                command.arg(swap.old.as_bytes()).arg(swap.new.as_bytes());
            }
        };
        let code = if matches!(self.shape, Shape::Value(_)) { &VALUE } else { &FIELD };
        code.run(link, &firsts, &arguments).await
    }
}
