//! Rows in PostgreSQL.

mod inspect;
mod partition;
mod scan;
mod swap;

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;

use self::inspect::Table;
use super::{key::Part, table};
use crate::{
    layout::place::Layout,
    store::{
        CollectionId, Page, Partition, RecordKey, RecordStore, ScanCursor, StoreError, StoredRecord, Swap, Swapped,
        postgres::{PostgresAddress, server::Server},
    },
};

/// Tables of a PostgreSQL database as records. Clones share the connections.
#[derive(Clone)]
pub struct PostgresRows {
    server: Server,
    tables: HashMap<CollectionId, Table>,
}

impl PostgresRows {
    /// Connects, and checks every layout against the database.
    ///
    /// # Errors
    /// The server cannot be used, or a table, a column or a key is not what a layout says.
    pub async fn connect(
        address: &PostgresAddress,
        layouts: HashMap<CollectionId, Layout>,
    ) -> Result<Self, StoreError> {
        let declared = table::Declared::all(layouts)?;
        let server = Server::connect(address).await?;
        let tables = inspect::all(&server, declared).await?;
        Ok(Self { server, tables })
    }

    fn table(&self, collection: &CollectionId) -> Result<&Table, StoreError> {
        self.tables.get(collection).ok_or_else(|| table::unknown(collection))
    }
}

#[async_trait]
impl RecordStore for PostgresRows {
    fn describe(&self) -> String {
        self.server.name().into()
    }

    async fn partitions(&self, collection: &CollectionId) -> Result<Vec<Partition>, StoreError> {
        partition::partitions(&self.server, self.table(collection)?).await
    }

    async fn estimate(&self, collection: &CollectionId) -> Result<Option<u64>, StoreError> {
        partition::estimate(&self.server, self.table(collection)?).await.map(Some)
    }

    async fn scan(
        &self,
        collection: &CollectionId,
        partition: &Partition,
        after: Option<&ScanCursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        scan::scan(&self.server, self.table(collection)?, partition, after, limit).await
    }

    async fn read(&self, collection: &CollectionId, key: &RecordKey) -> Result<Option<StoredRecord>, StoreError> {
        scan::read(&self.server, self.table(collection)?, key).await
    }

    async fn swap(&self, collection: &CollectionId, batch: Vec<Swap>) -> Result<Vec<Swapped>, StoreError> {
        swap::swap(&self.server, self.table(collection)?, &batch).await
    }
}

/// A statement made of quoted names and of nothing that anybody typed.
fn sql(text: &str) -> AssertSqlSafe<&str> {
    AssertSqlSafe(text)
}

/// The texts that go to the server for the parts of a key.
fn texts(parts: &[Part]) -> Vec<String> {
    parts.iter().map(|part| String::from_utf8(super::key::unescape(part.as_str())).unwrap_or_default()).collect()
}
