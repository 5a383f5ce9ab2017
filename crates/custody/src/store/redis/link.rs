//! A single server or a cluster, so that what works on keys need not know which.

use std::sync::Arc;

use redis::{Cmd, Pipeline, RedisError, Value};

use super::{
    address::{Kind, RedisAddress},
    cluster::{Cluster, Master, equal_parts},
    error::classify,
    node::{Effect, Node},
};
use crate::store::StoreError;

/// Into how many parts the keys of a single server are split, so that several nodes can share a job. Each part goes through
/// all keys, so more of them cost more.
pub(super) const PARTS: u16 = 4;

/// The oldest server that keeps a key's end when its value is set.
const OLDEST: (u32, u32) = (6, 0);

pub(super) struct Link {
    pub(super) name: String,
    to: To,
}

enum To {
    One(Node),
    Cluster(Box<Cluster>),
}

/// Somewhere keys are scanned: a server, by the id under which cursors know it.
pub(super) enum Source<'a> {
    One(&'a Node),
    Master(Arc<Master>),
}

impl Source<'_> {
    pub(super) fn id(&self) -> &str {
        match self {
            Self::One(_) => "-",
            Self::Master(master) => &master.id,
        }
    }

    pub(super) fn node(&self) -> &Node {
        match self {
            Self::One(node) => node,
            Self::Master(master) => &master.node,
        }
    }
}

impl Link {
    pub(super) async fn connect(address: &RedisAddress) -> Result<Self, StoreError> {
        let name = format!("the Redis at {address}");
        let certificates = address.certificates()?;
        let failed = |error| classify(&name, error);
        let to = match &address.kind {
            Kind::Cluster => {
                let cluster = Cluster::connect(address.clone(), certificates).await.map_err(failed)?;
                To::Cluster(Box::new(cluster))
            }
            Kind::Sentinel { .. } => To::One(Node::behind_sentinels(address, certificates.as_ref()).map_err(failed)?),
            Kind::Single => {
                let (host, port) = &address.hosts[0];
                To::One(Node::at(address, host, *port, certificates.as_ref()).map_err(failed)?)
            }
        };
        let link = Self { name, to };
        link.check_servers().await?;
        Ok(link)
    }

    async fn check_servers(&self) -> Result<(), StoreError> {
        for source in self.sources(0, super::key::SLOTS - 1) {
            let live = source.node().live().await.map_err(|error| self.error(error))?;
            if live.server.version < OLDEST {
                let (major, minor) = live.server.version;
                let what = format!("it is a Redis {major}.{minor}");
                let hint = "use Redis 6.0 or later: older ones drop a key's expiry when its value is set";
                return Err(StoreError::Unsuitable { store: self.name.clone(), what, hint });
            }
            if live.server.is_cluster && matches!(self.to, To::One(_)) {
                let what = "it is one node of a cluster, which holds only a part of the keys".into();
                let hint = "name the cluster, with redis+cluster:// in front";
                return Err(StoreError::Unsuitable { store: self.name.clone(), what, hint });
            }
        }
        Ok(())
    }

    pub(super) fn error(&self, error: RedisError) -> StoreError {
        classify(&self.name, error)
    }

    /// A command for each key, each answered in its place. Commands for the same key run in order. Values may be errors.
    pub(super) async fn each(
        &self,
        keys: &[Vec<u8>],
        command: &(dyn Fn(usize) -> Cmd + Sync),
        effect: Effect,
    ) -> Result<Vec<Value>, StoreError> {
        let values = match &self.to {
            To::One(node) => {
                let mut pipeline = Pipeline::with_capacity(keys.len());
                for n in 0..keys.len() {
                    pipeline.add_command(command(n));
                }
                node.each(&pipeline, effect).await
            }
            To::Cluster(cluster) => cluster.each(keys, command, effect).await,
        };
        values.map_err(|error| self.error(error))
    }

    /// A command for a key that changes nothing.
    pub(super) async fn ask(&self, key: &[u8], command: &Cmd) -> Result<Value, StoreError> {
        let mut values = self.each(&[key.to_vec()], &|_| command.clone(), Effect::None).await?;
        values.pop().unwrap_or_default().extract_error().map_err(|error| self.error(error))
    }

    /// Ranges of hash slots that can be scanned side by side; together they are all.
    pub(super) async fn parts(&self) -> Result<Vec<(u16, u16)>, StoreError> {
        match &self.to {
            To::One(_) => Ok(equal_parts(PARTS)),
            To::Cluster(cluster) => Ok(cluster.refresh().await.map_err(|error| self.error(error))?.parts()),
        }
    }

    pub(super) const fn is_cluster(&self) -> bool {
        matches!(self.to, To::Cluster(_))
    }

    /// How many times the keys of a part are on each of its servers.
    pub(super) fn waste(&self, first: u16, last: u16) -> usize {
        match &self.to {
            To::One(_) => usize::from(super::key::SLOTS / (last - first + 1)).max(1),
            To::Cluster(_) => 1,
        }
    }

    /// The servers that have keys of these slots.
    pub(super) fn sources(&self, first: u16, last: u16) -> Vec<Source<'_>> {
        match &self.to {
            To::One(node) => vec![Source::One(node)],
            To::Cluster(cluster) => cluster.map().masters(first, last).into_iter().map(Source::Master).collect(),
        }
    }

    /// What cursors and parts depend on. While a slot is being moved it is never twice the same.
    pub(super) async fn topology(&self) -> Result<String, StoreError> {
        let failed = |error| self.error(error);
        match &self.to {
            To::One(node) => {
                // The connection alone would not tell that the server behind it is gone.
                node.ask_one(redis::cmd("PING")).await.map_err(failed)?;
                Ok(node.live().await.map_err(failed)?.server.run.clone())
            }
            To::Cluster(cluster) => {
                let map = cluster.refresh().await.map_err(failed)?;
                let masters = map.all();
                let mut command = redis::cmd("CLUSTER");
                command.arg("NODES");
                let mut text = map.text();
                for (master, nodes) in masters.iter().zip(cluster.ask_all(&masters, &command).await.map_err(failed)?) {
                    let nodes = super::reply::text(nodes).map_err(failed)?;
                    let run = &master.node.live().await.map_err(failed)?.server.run;
                    text.push_str(&format!(" {run}"));
                    if let Some(moving) = moving(&nodes) {
                        text.push_str(&format!(" moving {moving} {}", super::scan::unique()));
                    }
                }
                Ok(text)
            }
        }
    }
}

/// The slots that a node is giving away or taking over, as it says of itself.
fn moving(nodes: &str) -> Option<&str> {
    let own = nodes.lines().find(|line| line.split(' ').nth(2).is_some_and(|flags| flags.contains("myself")))?;
    own.find(" [").map(|at| &own[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_says_which_slots_it_gives_away() {
        let line = "a 127.0.0.1:1@2 myself,master - 0 0 1 connected 0-5460 [93->-b]\nb 127.0.0.1:3@4 master - 0 0 2 connected 5461-16383\n";
        assert_eq!(moving(line), Some("[93->-b]"));
        assert_eq!(moving(&line.replace(" [93->-b]", "")), None);
    }
}
