//! A cluster: which master has which slots, and commands sent to them in one pipeline each.
//!
//! What a node did not run because a slot is being moved (`MOVED`, `ASK`, `TRYAGAIN`) goes through the driver's own cluster
//! connection, which follows redirections. Everything else does not: the driver repeats a command whose connection broke
//! off, and a compare-and-swap done twice would say that somebody else had won.

use std::sync::{Arc, PoisonError, RwLock};

use futures::future::{join_all, try_join_all};
use redis::{
    Cmd, Pipeline, RedisError, TlsCertificates, Value, aio::ConnectionLike as _, cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
};
use tokio::sync::OnceCell;

use super::{
    address::RedisAddress,
    key::{SLOTS, slot},
    node::{ANSWER, CONNECT, Effect, Node},
    reply,
};

/// How often a command follows a redirection, or waits for a slot to have moved.
const REDIRECTIONS: u32 = 12;

pub(super) struct Cluster {
    address: RedisAddress,
    certificates: Option<TlsCertificates>,
    map: RwLock<Arc<SlotMap>>,
    redirecting: OnceCell<ClusterConnection>,
}

/// Which master has which slots.
#[derive(Default)]
pub(super) struct SlotMap {
    /// In order and without overlaps.
    ranges: Vec<Range>,
}

struct Range {
    first: u16,
    last: u16,
    master: Arc<Master>,
}

/// A master, by the id that it keeps for its life.
pub(super) struct Master {
    pub(super) id: String,
    place: (String, u16),
    pub(super) node: Node,
}

impl SlotMap {
    /// The masters that have any of these slots, in the order of their ids.
    pub(super) fn masters(&self, first: u16, last: u16) -> Vec<Arc<Master>> {
        let mut found: Vec<_> = self
            .ranges
            .iter()
            .filter(|range| range.first <= last && range.last >= first)
            .map(|range| Arc::clone(&range.master))
            .collect();
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found.dedup_by(|a, b| a.id == b.id);
        found
    }

    pub(super) fn all(&self) -> Vec<Arc<Master>> {
        self.masters(0, SLOTS - 1)
    }

    /// Ranges of slots for one worker each: those of the masters, or equal ones where these are torn to pieces.
    pub(super) fn parts(&self) -> Vec<(u16, u16)> {
        let masters = self.all().len();
        if self.ranges.len() <= masters * 2 {
            return self.ranges.iter().map(|range| (range.first, range.last)).collect();
        }
        equal_parts(u16::try_from(masters).unwrap_or(u16::MAX))
    }

    /// Whether every slot has a master.
    fn is_whole(&self) -> bool {
        self.ranges.iter().map(|range| u32::from(range.last - range.first) + 1).sum::<u32>() == u32::from(SLOTS)
    }

    /// The map in one line.
    pub(super) fn text(&self) -> String {
        let ranges: Vec<_> =
            self.ranges.iter().map(|range| format!("{}-{}={}", range.first, range.last, range.master.id)).collect();
        ranges.join(",")
    }

    fn master_of(&self, slot: u16) -> Option<&Master> {
        let at = self.ranges.partition_point(|range| range.last < slot);
        self.ranges.get(at).filter(|range| range.first <= slot).map(|range| &*range.master)
    }
}

/// All slots, in so many parts.
pub(super) fn equal_parts(parts: u16) -> Vec<(u16, u16)> {
    let parts = u32::from(parts.clamp(1, SLOTS));
    let edge = |n: u32| u16::try_from(n * u32::from(SLOTS) / parts).unwrap_or(SLOTS);
    (0..parts).map(|n| (edge(n), edge(n + 1) - 1)).collect()
}

impl Cluster {
    pub(super) async fn connect(
        address: RedisAddress,
        certificates: Option<TlsCertificates>,
    ) -> Result<Self, RedisError> {
        let map = RwLock::default();
        let cluster = Self { address, certificates, map, redirecting: OnceCell::new() };
        cluster.refresh().await?;
        Ok(cluster)
    }

    pub(super) fn map(&self) -> Arc<SlotMap> {
        Arc::clone(&self.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks for the map: the masters that are known, then the nodes that the address names.
    pub(super) async fn refresh(&self) -> Result<Arc<SlotMap>, RedisError> {
        let mut last = None;
        let held = self.map();
        for master in held.all() {
            match self.ask_map(&master.node, &master.place.0, &held).await {
                Ok(map) => return Ok(self.keep(map)),
                Err(error) => last = Some(error),
            }
        }
        for (host, port) in &self.address.hosts {
            let named = Node::at(&self.address, host, *port, self.certificates.as_ref())?;
            match self.ask_map(&named, host, &held).await {
                Ok(map) => return Ok(self.keep(map)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(reply::unexpected))
    }

    fn keep(&self, map: SlotMap) -> Arc<SlotMap> {
        let map = Arc::new(map);
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&map);
        map
    }

    async fn ask_map(&self, node: &Node, asked: &str, held: &SlotMap) -> Result<SlotMap, RedisError> {
        let mut command = Cmd::new();
        command.arg("CLUSTER").arg("SLOTS");
        let mut masters = held.all();
        let mut map = SlotMap::default();
        for range in reply::array(node.ask_one(command).await?)? {
            let mut parts = reply::array(range)?.into_iter();
            let mut part = || parts.next().ok_or_else(reply::unexpected);
            let bound = |value| u16::try_from(reply::number(value)?).map_err(|_| reply::unexpected());
            let (first, last) = (bound(part()?)?, bound(part()?)?);
            let mut master = reply::array(part()?)?.into_iter();
            let mut part = || master.next().ok_or_else(reply::unexpected);
            // No name means the one that was asked.
            let host = reply::bytes(part()?)?.filter(|host| !host.is_empty() && host != b"?");
            let host = host.map_or_else(|| Ok(asked.into()), String::from_utf8).map_err(|_| reply::unexpected())?;
            let port = bound(part()?)?;
            let id = reply::text(part()?)?;
            let master = match masters.iter().find(|known| known.id == id && known.place == (host.clone(), port)) {
                Some(known) => Arc::clone(known),
                None => {
                    let node = Node::at(&self.address, &host, port, self.certificates.as_ref())?;
                    let master = Arc::new(Master { id, place: (host, port), node });
                    masters.push(Arc::clone(&master));
                    master
                }
            };
            map.ranges.push(Range { first, last, master });
        }
        map.ranges.sort_by_key(|range| range.first);
        if map.is_whole() { Ok(map) } else { Err(down()) }
    }

    /// A command for each key, each answered in its place. Commands for the same key run in order, each at most once.
    pub(super) async fn each(
        &self,
        keys: &[Vec<u8>],
        command: &(dyn Fn(usize) -> Cmd + Sync),
        effect: Effect,
    ) -> Result<Vec<Value>, RedisError> {
        let map = self.map();
        let mut shares: Vec<(&Master, Vec<usize>, Pipeline)> = Vec::new();
        for (n, key) in keys.iter().enumerate() {
            let master = map.master_of(slot(key)).ok_or_else(down)?;
            let at = shares.iter().position(|(known, ..)| std::ptr::eq(*known, master)).unwrap_or_else(|| {
                shares.push((master, Vec::new(), Pipeline::new()));
                shares.len() - 1
            });
            shares[at].1.push(n);
            shares[at].2.add_command(command(n));
        }
        let sent = shares.into_iter().map(|(master, places, pipeline)| async move {
            master.node.each(&pipeline, effect).await.map(|answers| (places, answers))
        });
        // All are waited for, so that nothing goes on in the background after an error.
        let (mut values, mut failed) = (vec![Value::Nil; keys.len()], None);
        for answered in join_all(sent).await {
            match answered {
                Ok((places, answers)) => places.into_iter().zip(answers).for_each(|(n, answer)| values[n] = answer),
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            // Whatever it was, the map may be of yesterday. What this finds out is for the next call.
            let _ = self.refresh().await;
            return Err(error);
        }
        let redirected: Vec<_> = (0..keys.len()).filter(|n| reply::is_redirected(&values[*n])).collect();
        if !redirected.is_empty() {
            for n in redirected {
                values[n] = self.redirect(command(n)).await?;
            }
            let _ = self.refresh().await;
        }
        Ok(values)
    }

    /// A command that follows wherever its slot goes.
    async fn redirect(&self, command: Cmd) -> Result<Value, RedisError> {
        let connection = self.redirecting.get_or_try_init(|| self.redirecting()).await?;
        match connection.clone().req_packed_command(&command).await {
            Ok(value) => Ok(value),
            // An answer like any other, for the caller to judge.
            Err(error) => match error.clone().into_server_errors() {
                Some(errors) if errors.len() == 1 => Ok(Value::ServerError(errors[0].1.clone())),
                _ => Err(error),
            },
        }
    }

    async fn redirecting(&self) -> Result<ClusterConnection, RedisError> {
        let nodes: Result<Vec<_>, _> =
            self.address.hosts.iter().map(|(host, port)| self.address.server(host, *port)).collect();
        let mut builder = ClusterClientBuilder::new(nodes?)
            .connection_timeout(CONNECT)
            .response_timeout(ANSWER)
            .retries(REDIRECTIONS);
        if let Some(certificates) = &self.certificates {
            builder = builder.certs(certificates.clone());
        }
        builder.build()?.get_async_connection().await
    }

    /// What each master says to a command that changes nothing.
    pub(super) async fn ask_all(&self, masters: &[Arc<Master>], command: &Cmd) -> Result<Vec<Value>, RedisError> {
        try_join_all(masters.iter().map(|master| master.node.ask_one(command.clone()))).await
    }
}

fn down() -> RedisError {
    (redis::ServerErrorKind::ClusterDown.into(), "not every hash slot has a master").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_slots_once() {
        for parts in [1, 3, 4, 7, SLOTS] {
            let made = equal_parts(parts);
            assert_eq!(made.len(), usize::from(parts));
            assert_eq!((made[0].0, made[made.len() - 1].1), (0, SLOTS - 1));
            assert!(made.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0));
        }
    }
}
