//! Another program's tables: made, filled and looked at the way that program does it.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use keyfold_custody::{
    layout::place::{ColumnKind, Layout},
    store::{
        Cell, CellName, CellValue, CollectionId, Page, RecordKey, RecordStore, StoreError, Swap,
        conformance::{self, Bench},
        sql::{self, SqlAddress},
    },
};
use sqlx::{AssertSqlSafe, PgPool, SqlitePool};

pub(crate) fn id(name: &str) -> CollectionId {
    CollectionId::new(name).unwrap()
}

/// A layout with text columns, or of the kind that follows `:`, as in `state:jsonb`.
pub(crate) fn layout(table: &str, key: &[&str], columns: &[&str]) -> Layout {
    let columns = columns.iter().map(|column| match column.split_once(':') {
        Some((name, "json")) => (name.into(), ColumnKind::Json),
        Some((name, _)) => (name.into(), ColumnKind::Jsonb),
        None => ((*column).into(), ColumnKind::Text),
    });
    Layout::SqlColumns {
        table: table.into(),
        key: key.iter().map(|name| Box::from(*name)).collect(),
        columns: columns.collect(),
        legacy: None,
    }
}

/// One collection called `c`.
pub(crate) async fn open(address: &str, layout: Layout) -> Result<Arc<dyn RecordStore>, StoreError> {
    let address: SqlAddress = address.parse().unwrap();
    sql::connect(&address, HashMap::from([(id("c"), layout)])).await
}

/// Everything in a collection, in pages of `limit`.
pub(crate) async fn scan_all(store: &dyn RecordStore, c: &CollectionId, limit: usize) -> Page {
    let mut all = Page { records: Vec::new(), odd: Vec::new(), next: None };
    for partition in store.partitions(c).await.unwrap() {
        let mut after = None;
        loop {
            let page = store.scan(c, &partition, after.as_ref(), limit).await.unwrap();
            all.records.extend(page.records);
            all.odd.extend(page.odd);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    all
}

/// The keys of records, and what is odd, as text.
pub(crate) fn keys_and_oddities(page: &Page) -> (Vec<&str>, Vec<String>) {
    let keys = page.records.iter().map(|record| record.key.as_str()).collect();
    (keys, page.odd.iter().map(|odd| format!("{}: {}", odd.record, odd.what)).collect())
}

/// The cells of a record as `name=value`.
pub(crate) fn cells(cells: &[Cell]) -> Vec<String> {
    cells.iter().map(|cell| format!("{}={}", cell.name, cell.value.as_str().unwrap())).collect()
}

pub(crate) fn swap(key: &str, cell: &str, old: &str, new: &str) -> Swap {
    let (old, new) = (CellValue::text(old.into()), CellValue::text(new.into()));
    Swap { key: RecordKey::new(key).unwrap(), cell: CellName::new(cell).unwrap(), old, new }
}

/// Who owns the tables of the conformance checks.
pub(crate) enum Owner {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

/// A table for each collection of the conformance checks. With `composite`, the key has two columns.
pub(crate) struct Tables {
    store: Arc<dyn RecordStore>,
    owner: Owner,
    composite: bool,
}

impl Tables {
    /// Makes the tables. `column` says the types of the key and of the cell.
    pub(crate) async fn make(address: &str, owner: Owner, column: &str, cell: &str, composite: bool) -> Arc<dyn Bench> {
        let mut layouts = HashMap::new();
        for c in conformance::records::collections() {
            let table = format!("\"{c}\"");
            let other = if composite { "tenant bigint NOT NULL," } else { "" };
            let key = if composite { "id, tenant" } else { "id" };
            let text = format!(
                "CREATE TABLE {table} ({other} id {column} NOT NULL, note text, doc {cell}, PRIMARY KEY ({key}))"
            );
            owner.run(&text, &[]).await;
            let key: &[&str] = if composite { &["tenant", "id"] } else { &["id"] };
            layouts.insert(c, layout(&table, key, &["doc"]));
        }
        let address: SqlAddress = address.parse().unwrap();
        let store = sql::connect(&address, layouts).await.unwrap();
        Arc::new(Self { store, owner, composite })
    }

    fn id_of(&self, key: &RecordKey) -> String {
        if !self.composite {
            return String::from_utf8(unescape(key.as_str())).unwrap();
        }
        let (tenant, id): (i64, String) = serde_json::from_str(key.as_str()).unwrap();
        assert_eq!(tenant, 7);
        String::from_utf8(unescape(&id)).unwrap()
    }
}

impl Owner {
    async fn run(&self, text: &str, values: &[&str]) {
        match self {
            Self::Postgres(pool) => {
                let mut query = sqlx::query(AssertSqlSafe(text));
                for value in values {
                    query = query.bind(*value);
                }
                query.execute(pool).await.unwrap();
            }
            Self::Sqlite(pool) => {
                let mut query = sqlx::query(AssertSqlSafe(text));
                for value in values {
                    query = query.bind(*value);
                }
                query.execute(pool).await.unwrap();
            }
        }
    }
}

/// What `%25` before two digits stands for; other escapes do not occur in these names.
fn unescape(text: &str) -> Vec<u8> {
    text.replace("%25", "%").into_bytes()
}

#[async_trait]
impl Bench for Tables {
    fn store(&self) -> &dyn RecordStore {
        &*self.store
    }

    fn cell(&self) -> CellName {
        CellName::new("doc").unwrap()
    }

    fn key(&self, _: &CollectionId, name: &str) -> RecordKey {
        if self.composite { RecordKey::new(serde_json::json!([7, name]).to_string()) } else { RecordKey::new(name) }
            .unwrap()
    }

    async fn put(&self, collection: &CollectionId, key: &RecordKey, value: &str) {
        let columns = if self.composite { "tenant, id, doc) VALUES (7, $1, $2" } else { "id, doc) VALUES ($1, $2" };
        let text = format!("INSERT INTO \"{collection}\" ({columns})");
        self.owner.run(&text, &[&self.id_of(key), value]).await;
    }

    async fn remove(&self, collection: &CollectionId, key: &RecordKey) {
        self.owner.run(&format!("DELETE FROM \"{collection}\" WHERE id = $1"), &[&self.id_of(key)]).await;
    }
}
