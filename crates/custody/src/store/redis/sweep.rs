//! Single `SCAN` commands, and their answers for the parts that come by a little later.
//!
//! Each part of a single server goes through all of its keys. Parts that are worked on side by side ask for the same stretches
//! at about the same time, so each answer is kept for a while. An answer serves a walk only if it was given after the walk
//! began: then every key that is there during the whole walk was there for the answer too.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use redis::{Pipeline, RedisError};
use tokio::sync::OnceCell;

use super::{
    key::{Pattern, slot},
    node::{Live, Node},
    reply,
};

/// How many answers are kept, of some thousand keys at most.
const KEPT: usize = 32;

/// Where a server's own scan stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Position {
    /// Empty at the beginning of a part.
    pub(super) server: String,
    pub(super) run: String,
    pub(super) cursor: u64,
}

/// What one command brought.
pub(super) struct Step {
    /// Where it began.
    pub(super) from: Position,
    /// Keys and their slots.
    pub(super) keys: Vec<(u16, Vec<u8>)>,
    /// The server's cursor; 0 at the end.
    pub(super) next: u64,
}

/// A command, and what it brought once it is answered.
struct Asked {
    pattern: Box<str>,
    /// When somebody first wanted it; it was sent then or later.
    at: Instant,
    from: Position,
    step: OnceCell<Arc<Step>>,
}

/// The answers of one server.
#[derive(Default)]
pub(super) struct Sweep(Mutex<VecDeque<Arc<Asked>>>);

impl Sweep {
    /// The keys after a position, or from the beginning where that is of another server or run. Who wants what somebody else has
    /// just asked for waits for that answer, and who wants another waits for nobody.
    #[expect(clippy::too_many_arguments, reason = "one caller, which has all of them at hand")]
    pub(super) async fn step(
        &self,
        node: &Node,
        server: &str,
        pattern: &Pattern,
        at: &Position,
        (count, since): (usize, Instant),
    ) -> Result<Arc<Step>, RedisError> {
        let mut again = false;
        loop {
            let live = node.live().await?;
            let known = at.server == server && at.run == live.server.run;
            let cursor = if known { at.cursor } else { 0 };
            let from = Position { server: server.into(), run: live.server.run.clone(), cursor };
            let asked = self.asked(pattern, from, since);
            match asked.step.get_or_try_init(|| ask(node, live, &asked, count)).await {
                Ok(step) => return Ok(Arc::clone(step)),
                // Behind a new connection there may be another run, with cursors of its own.
                Err(error) if error.is_connection_dropped() && !again => again = true,
                Err(error) => return Err(error),
            }
        }
    }

    /// A command that was given no earlier than `since`, or is to be given now.
    fn asked(&self, pattern: &Pattern, from: Position, since: Instant) -> Arc<Asked> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |asked: &&Arc<Asked>| asked.from == from && *asked.pattern == *pattern.as_str() && asked.at >= since;
        if let Some(asked) = kept.iter().find(same) {
            return Arc::clone(asked);
        }
        let (at, step) = (Instant::now(), OnceCell::new());
        let asked = Arc::new(Asked { pattern: pattern.as_str().into(), at, from, step });
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(&asked));
        asked
    }
}

async fn ask(node: &Node, mut live: Live, asked: &Asked, count: usize) -> Result<Arc<Step>, RedisError> {
    let mut command = Pipeline::with_capacity(1);
    command.cmd("SCAN").arg(asked.from.cursor).arg("MATCH").arg(&*asked.pattern).arg("COUNT").arg(count);
    let mut answers = node.run(&mut live, &command).await?;
    let mut answer = reply::array(answers.pop().unwrap_or_default())?.into_iter();
    let (Some(next), Some(keys)) = (answer.next(), answer.next()) else { return Err(reply::unexpected()) };
    let next = reply::text(next)?.parse().map_err(|_| reply::unexpected())?;
    let keys = reply::array(keys)?.into_iter().map(|key| {
        let key = reply::bytes(key)?.ok_or_else(reply::unexpected)?;
        Ok((slot(&key), key))
    });
    let keys = keys.collect::<Result<_, RedisError>>()?;
    Ok(Arc::new(Step { from: asked.from.clone(), keys, next }))
}
