//! A table as the file has it, held against its layout. All mistakes are found in one go.

use std::{collections::HashMap, path::Path};

use sqlx::{SqliteConnection, SqlitePool};

use super::{
    super::table::{self, Declared, list, quote},
    sql,
    value::Affinity,
};
use crate::store::{CellName, CollectionId, StoreError, sqlite::error};

/// A table with the names that statements are made of.
pub(super) struct Table {
    pub(super) name: String,
    pub(super) from: String,
    /// In the order of the layout.
    pub(super) key: Vec<KeyColumn>,
    /// Places in `key`, in the order of the index that scans follow.
    pub(super) order: Vec<usize>,
    pub(super) columns: Vec<Column>,
}

pub(super) struct KeyColumn {
    pub(super) name: String,
    pub(super) quoted: String,
    pub(super) affinity: Affinity,
    /// The collation under which its values are unique.
    pub(super) collation: String,
    pub(super) nullable: bool,
}

pub(super) struct Column {
    pub(super) name: CellName,
    pub(super) quoted: String,
}

/// A column of the file: its name, its declared type, whether it cannot be null, whether it is computed.
struct Found {
    name: String,
    declared: String,
    not_null: bool,
    generated: bool,
}

/// A unique index: its columns with their collations.
type Unique = Vec<(String, String)>;

pub(super) async fn all(
    path: &Path,
    readers: &SqlitePool,
    declared: Vec<(CollectionId, Declared)>,
) -> Result<HashMap<CollectionId, Table>, StoreError> {
    let failed = |e| error::classify(path, e);
    let mut connection = readers.acquire().await.map_err(failed)?;
    if crate::store::sqlite::is_ours(&mut connection).await.map_err(failed)? {
        let what = "it is a data folder's own file, and was named as another program's".into();
        return Err(StoreError::Layout { store: error::name(path), what });
    }
    let mut mistakes = Vec::new();
    let encoding: String = sqlx::query_scalar("PRAGMA encoding").fetch_one(&mut *connection).await.map_err(failed)?;
    if encoding != "UTF-8" {
        mistakes.push(format!("its text is {encoding}, and only UTF-8 is read"));
    }
    let mut tables = HashMap::new();
    for (collection, declared) in declared {
        let mut wrong = Vec::new();
        if let Some(table) = one(&mut connection, &declared, &mut wrong).await.map_err(failed)? {
            tables.insert(collection.clone(), table);
        }
        mistakes.extend(wrong.into_iter().map(|what| format!("collection `{collection}`: {what}")));
    }
    table::refuse(error::name(path), &mistakes)?;
    Ok(tables)
}

async fn one(
    connection: &mut SqliteConnection,
    declared: &Declared,
    wrong: &mut Vec<String>,
) -> Result<Option<Table>, sqlx::Error> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
    )
    .fetch_all(&mut *connection)
    .await?;
    // SQLite itself does not tell upper from lower case here.
    let name = tables.iter().find(|name| {
        name.eq_ignore_ascii_case(&declared.table)
            && declared.schema.as_ref().is_none_or(|schema| schema.eq_ignore_ascii_case("main"))
    });
    let Some(name) = name else {
        let there = list(tables.iter().map(String::as_str));
        wrong.push(format!("there is no table `{}`; there are {there}", declared.written));
        return Ok(None);
    };
    let found = columns(connection, name).await?;
    let names = || list(found.iter().map(|column| column.name.as_str()));
    let column = |name: &str| found.iter().find(|column| column.name.eq_ignore_ascii_case(name));
    let mut cells = Vec::new();
    let legacy = declared.only_legacy(|name| column(name).is_some());
    for column_name in
        legacy.into_iter().chain(declared.columns.keys().filter(|_| legacy.is_none()).map(|name| &**name))
    {
        match column(column_name) {
            None => wrong.push(format!("table `{name}` has no column `{column_name}`; it has {}", names())),
            Some(column) if column.generated => {
                wrong.push(format!("column `{column_name}` is computed by the database and cannot be written"));
            }
            Some(column) => match CellName::new(column_name) {
                Ok(cell) => cells.push(Column { name: cell, quoted: quote(&column.name) }),
                Err(error) => wrong.push(error.to_string()),
            },
        }
    }
    let mut key = Vec::new();
    for column_name in &declared.key {
        let Some(column) = column(column_name) else {
            wrong.push(format!("table `{name}` has no column `{column_name}`; it has {}", names()));
            continue;
        };
        if declared.columns.keys().any(|other| other.eq_ignore_ascii_case(column_name)) {
            wrong.push(format!("`{column_name}` is part of the key and cannot hold secrets"));
        }
        key.push(KeyColumn {
            name: column.name.clone(),
            quoted: quote(&column.name),
            affinity: Affinity::of(&column.declared),
            collation: String::new(),
            nullable: !column.not_null,
        });
    }
    if key.len() != declared.key.len() {
        return Ok(None);
    }
    let uniques = uniques(connection, name).await?;
    for unique in &uniques {
        let places: Option<Vec<usize>> =
            unique.iter().map(|(name, _)| key.iter().position(|column| column.name == *name)).collect();
        let Some(order) = places.filter(|places| places.len() == key.len()) else { continue };
        for (place, (_, collation)) in order.iter().zip(unique) {
            key[*place].collation = quote(collation);
        }
        return Ok(Some(Table { name: name.clone(), from: quote(name), key, order, columns: cells }));
    }
    let there: Vec<String> = uniques
        .iter()
        .map(|unique| unique.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join("+"))
        .collect();
    wrong.push(format!(
        "no primary or unique key of `{name}` is ({}); there are: {}",
        declared.key.join(", "),
        list(there.iter().map(String::as_str))
    ));
    Ok(None)
}

async fn columns(connection: &mut SqliteConnection, table: &str) -> Result<Vec<Found>, sqlx::Error> {
    let rows: Vec<(String, String, bool, i64, i64)> =
        sqlx::query_as(r#"SELECT name, type, "notnull", pk, hidden FROM pragma_table_xinfo(?1) WHERE hidden <> 1"#)
            .bind(table)
            .fetch_all(connection)
            .await?;
    // An `INTEGER PRIMARY KEY` is the row's number, which is never null.
    let single = rows.iter().filter(|row| row.3 > 0).count() == 1;
    let found = |(name, declared, not_null, pk, hidden): (String, String, bool, i64, i64)| Found {
        not_null: not_null || (single && pk > 0 && declared.eq_ignore_ascii_case("INTEGER")),
        name,
        declared,
        generated: hidden > 1,
    };
    Ok(rows.into_iter().map(found).collect())
}

/// The unique indexes over whole columns of all rows, the primary key first.
async fn uniques(connection: &mut SqliteConnection, table: &str) -> Result<Vec<Unique>, sqlx::Error> {
    let mut uniques: Vec<Unique> = Vec::new();
    let indexes: Vec<String> = sqlx::query_scalar(
        r#"SELECT name FROM pragma_index_list(?1) WHERE "unique" AND NOT partial ORDER BY origin <> 'pk'"#,
    )
    .bind(table)
    .fetch_all(&mut *connection)
    .await?;
    for index in indexes {
        let columns: Vec<(Option<String>, String)> =
            sqlx::query_as("SELECT name, coll FROM pragma_index_xinfo(?1) WHERE key ORDER BY seqno")
                .bind(index)
                .fetch_all(&mut *connection)
                .await?;
        // An expression has no name.
        uniques
            .extend(columns.into_iter().map(|(name, collation)| Some((name?, collation))).collect::<Option<Unique>>());
    }
    // The row's number has no index of its own.
    let text = r#"SELECT name FROM pragma_table_info(?1) WHERE pk > 0 AND upper(type) = 'INTEGER'
                  AND (SELECT count(*) FROM pragma_table_info(?1) WHERE pk > 0) = 1"#;
    let number: Option<String> = sqlx::query_scalar(sql(text)).bind(table).fetch_optional(connection).await?;
    uniques.extend(number.map(|name| vec![(name, "BINARY".into())]));
    Ok(uniques)
}
