//! The program whose records they are: it writes them with commands of its own.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use keyfold_custody::{
    layout::place::{Layout, VALUE_CELL},
    store::{
        CellName, CellValue, CollectionId, Page, RecordKey, RecordStore, StoreError, StoredRecord, Swap, Swapped,
        conformance::{Bench, records},
        redis::{RedisAddress, RedisStore},
    },
};
use redis::{
    Client, ClientTlsConfig, Cmd, FromRedisValue, TlsCertificates,
    aio::{ConnectionLike as _, MultiplexedConnection},
    cluster_async::ClusterConnection,
};

use crate::servers::redis::{PASSWORD, Redis};

/// A connection that may do everything.
#[derive(Clone)]
pub(crate) enum Raw {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Raw {
    pub(crate) async fn to(redis: &Redis) -> Self {
        let port = redis.servers[0].port;
        if redis.address.starts_with("redis+cluster") {
            let nodes = redis.servers.iter().map(|server| format!("redis://127.0.0.1:{}", server.port));
            let client = redis::cluster::ClusterClient::new(nodes).unwrap();
            return Self::Cluster(client.get_async_connection().await.unwrap());
        }
        let client = if redis.address.starts_with("rediss") {
            let file = |name| std::fs::read(redis.file(name)).unwrap();
            let client_tls = Some(ClientTlsConfig { client_cert: file("client.pem"), client_key: file("client.key") });
            let password = PASSWORD.replace('%', "%25").replace('@', "%40").replace('/', "%2F").replace('?', "%3F");
            let url = format!("rediss://default:{password}@127.0.0.1:{port}");
            Client::build_with_tls(url, TlsCertificates { client_tls, root_cert: Some(file("ca.pem")) }).unwrap()
        } else {
            Client::open(format!("redis://127.0.0.1:{port}")).unwrap()
        };
        Self::One(client.get_multiplexed_async_connection().await.unwrap())
    }

    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> T {
        let value = match self {
            Self::One(connection) => connection.clone().req_packed_command(command).await,
            Self::Cluster(connection) => connection.clone().req_packed_command(command).await,
        };
        redis::from_redis_value(value.unwrap()).unwrap()
    }

    /// A command made of words, whatever it answers.
    pub(crate) async fn run(&self, words: &[&[u8]]) {
        let _: redis::Value = self.ask(&command(words)).await;
    }
}

pub(crate) fn command(words: &[&[u8]]) -> Cmd {
    let mut command = Cmd::new();
    for word in words {
        command.arg(*word);
    }
    command
}

/// How records are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    HashJson,
    JsonString,
    HashField,
}

impl Kind {
    pub(crate) fn layout(self, keys: &str) -> Layout {
        let keys = keys.into();
        match self {
            Self::HashJson => Layout::RedisHashJson { keys, field: CellName::new("data").unwrap() },
            Self::JsonString => Layout::RedisJsonString { keys },
            Self::HashField => Layout::RedisHashField { keys },
        }
    }

    fn cell(self) -> CellName {
        CellName::new(if self == Self::JsonString { VALUE_CELL } else { "data" }).unwrap()
    }
}

pub(crate) struct Foreign {
    pub(crate) store: RedisStore,
    pub(crate) raw: Raw,
    pub(crate) kind: Kind,
}

impl Foreign {
    /// The store with the collections of the conformance suite, and who fills them.
    pub(crate) async fn on(redis: &Redis, kind: Kind) -> Arc<Self> {
        let layouts = records::collections().into_iter().map(|id| {
            let layout = kind.layout(&format!("{}:*", id.as_str()));
            (id, layout)
        });
        let store = connect(redis, layouts.collect()).await.unwrap();
        Arc::new(Self { store, raw: Raw::to(redis).await, kind })
    }
}

pub(crate) async fn connect(redis: &Redis, layouts: HashMap<CollectionId, Layout>) -> Result<RedisStore, StoreError> {
    let address: RedisAddress = redis.address.parse().unwrap();
    RedisStore::connect(&address, layouts).await
}

#[async_trait]
impl Bench for Foreign {
    fn store(&self) -> &dyn RecordStore {
        &self.store
    }

    fn cell(&self) -> CellName {
        self.kind.cell()
    }

    fn key(&self, collection: &CollectionId, name: &str) -> RecordKey {
        RecordKey::new(format!("{collection}:{name}")).unwrap()
    }

    async fn put(&self, _: &CollectionId, key: &RecordKey, value: &str) {
        let (key, value) = (key.as_str().as_bytes(), value.as_bytes());
        match self.kind {
            Kind::JsonString => self.raw.run(&[b"SET", key, value, b"EX", b"100000", b"NX"]).await,
            _ => self.raw.run(&[b"HSET", key, b"name", b"n", b"data", value, b"status", b"unknown"]).await,
        }
    }

    async fn remove(&self, _: &CollectionId, key: &RecordKey) {
        self.raw.run(&[b"DEL", key.as_str().as_bytes()]).await;
    }

    fn takes_any_cell(&self) -> bool {
        self.kind == Kind::HashField
    }
}

/// Everything that a scan gives, part by part.
pub(crate) async fn scan_all(store: &dyn RecordStore, c: &CollectionId, limit: usize) -> Page {
    let (mut records, mut odd) = (Vec::new(), Vec::new());
    for partition in store.partitions(c).await.unwrap() {
        let mut after = None;
        loop {
            let page = store.scan(c, &partition, after.as_ref(), limit).await.unwrap();
            records.extend(page.records);
            odd.extend(page.odd);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    Page { records, odd, next: None }
}

/// A swap of what was read for something else.
pub(crate) fn swap_for(record: StoredRecord, new: &str) -> Swap {
    let cell = record.cells.into_iter().next().unwrap();
    Swap { key: record.key, cell: cell.name, old: cell.value, new: CellValue::text(new.into()) }
}

pub(crate) fn id(name: &str) -> CollectionId {
    CollectionId::new(name).unwrap()
}

pub(crate) const DONE: Swapped = Swapped::Done;
