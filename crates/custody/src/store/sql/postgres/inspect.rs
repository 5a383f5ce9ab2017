//! A table as the catalog has it, held against its layout. All mistakes are found in one go.

use sqlx::Row as _;

use super::super::table::{self, Declared, list, quote};
use crate::{
    layout::place::ColumnKind,
    store::{CellName, CollectionId, StoreError, postgres::server::Server},
};

/// A table with the statements that are made of its names.
#[derive(Clone)]
pub(super) struct Table {
    pub(super) name: String,
    /// `"schema"."table"`.
    pub(super) from: String,
    /// In the order of the layout.
    pub(super) key: Vec<KeyColumn>,
    /// Places in `key`, in the order of the index that scans follow.
    pub(super) order: Vec<usize>,
    pub(super) columns: Vec<Column>,
}

#[derive(Clone)]
pub(super) struct KeyColumn {
    pub(super) name: String,
    pub(super) quoted: String,
    /// What text is cast to, without a length, so that a cast cannot cut a value.
    pub(super) cast: String,
    /// Whether values are whole numbers.
    pub(super) number: bool,
    /// Whether any text is a value, and values may be long.
    pub(super) text: bool,
}

#[derive(Clone)]
pub(super) struct Column {
    pub(super) name: CellName,
    pub(super) quoted: String,
    pub(super) holds: Holds,
}

/// What a declared column really holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Text,
    Json,
    Jsonb,
    /// Nothing that can be read or written here; whatever is in it makes its row odd.
    Bytes,
}

/// A column of the catalog.
struct Found {
    name: String,
    /// Schema and name of the type, for casts.
    cast: String,
    /// The type that a domain is made of, or the type itself.
    base: String,
    written: String,
    generated: bool,
    not_null: bool,
}

/// Every collection's table, or everything that does not fit.
pub(super) async fn all(
    server: &Server,
    declared: Vec<(CollectionId, Declared)>,
) -> Result<std::collections::HashMap<CollectionId, Table>, StoreError> {
    let encoding: String = server.answer(sqlx::query_scalar("SHOW server_encoding").fetch_one(server.pool())).await?;
    let mut mistakes = Vec::new();
    if encoding == "SQL_ASCII" {
        mistakes.push("the database has the encoding SQL_ASCII, which says nothing about what its text means".into());
    }
    let mut tables = std::collections::HashMap::new();
    for (collection, declared) in declared {
        let mut wrong = Vec::new();
        if let Some(table) = one(server, &declared, &mut wrong).await? {
            tables.insert(collection.clone(), table);
        }
        mistakes.extend(wrong.into_iter().map(|what| format!("collection `{collection}`: {what}")));
    }
    table::refuse(server.name().into(), &mistakes)?;
    Ok(tables)
}

async fn one(server: &Server, declared: &Declared, wrong: &mut Vec<String>) -> Result<Option<Table>, StoreError> {
    let Some((oid, from)) = find(server, declared, wrong).await? else { return Ok(None) };
    let found = columns(server, oid).await?;
    let names = || list(found.iter().map(|column| column.name.as_str()));
    let column = |name: &str| found.iter().find(|column| column.name == name);

    let mut cells = Vec::new();
    let legacy = declared.only_legacy(|name| column(name).is_some());
    if let Some(name) = legacy {
        cells.push(Column { name: CellName::new(name)?, quoted: quote(name), holds: Holds::Bytes });
    }
    for (name, kind) in declared.columns.iter().filter(|_| legacy.is_none()) {
        let Some(column) = column(name) else {
            wrong.push(format!("table `{}` has no column `{name}`; it has {}", declared.written, names()));
            continue;
        };
        match holds(column, *kind) {
            Ok(holds) => cells.push(Column { name: CellName::new(name)?, quoted: quote(name), holds }),
            Err(what) => wrong.push(what),
        }
    }
    let mut key = Vec::new();
    for name in &declared.key {
        match column(name) {
            Some(column) => key.push(KeyColumn {
                name: column.name.clone(),
                quoted: quote(name),
                cast: column.cast.clone(),
                number: matches!(column.base.as_str(), "int2" | "int4" | "int8"),
                text: matches!(column.base.as_str(), "text" | "varchar" | "bpchar" | "citext"),
            }),
            None => wrong.push(format!("table `{}` has no column `{name}`; it has {}", declared.written, names())),
        }
        if declared.columns.contains_key(name) {
            wrong.push(format!("`{name}` is part of the key and cannot hold secrets"));
        }
    }
    let order = if key.len() == declared.key.len() { order(server, oid, declared, &found, wrong).await? } else { None };
    let name = declared.written.clone();
    Ok(order.map(|order| Table { name, from, key, order, columns: cells }))
}

/// The table's number and its quoted name.
async fn find(
    server: &Server,
    declared: &Declared,
    wrong: &mut Vec<String>,
) -> Result<Option<(i64, String)>, StoreError> {
    let query = sqlx::query(
        "SELECT c.oid::int8, n.nspname::text, c.relkind::text,
                EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhparent = c.oid)
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relname = $1 AND CASE WHEN $2::text IS NULL THEN pg_table_is_visible(c.oid) ELSE n.nspname = $2 END
           AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
    )
    .bind(&declared.table)
    .bind(&declared.schema);
    let Some(row) = server.answer(query.fetch_optional(server.pool())).await? else {
        let visible: Vec<String> = server
            .answer(
                sqlx::query_scalar(
                    "SELECT CASE WHEN pg_table_is_visible(c.oid) THEN c.relname ELSE n.nspname || '.' || c.relname END
                     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE c.relkind IN ('r', 'p') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
                     ORDER BY NOT pg_table_is_visible(c.oid), 1 LIMIT 31",
                )
                .fetch_all(server.pool()),
            )
            .await?;
        let there = list(visible.iter().map(String::as_str));
        wrong.push(format!("there is no table `{}`; there are {there}", declared.written));
        return Ok(None);
    };
    let get = |e| server.error(e);
    let (oid, schema): (i64, String) = (row.try_get(0).map_err(get)?, row.try_get(1).map_err(get)?);
    let (kind, parent): (String, bool) = (row.try_get(2).map_err(get)?, row.try_get(3).map_err(get)?);
    match (kind.as_str(), parent) {
        ("p", _) | ("r", false) => {
            return Ok(Some((oid, format!("{}.{}", quote(&schema), quote(&declared.table)))));
        }
        ("r", true) => {
            wrong.push(format!("other tables inherit from `{}`, so its key names no single row", declared.written));
        }
        _ => wrong.push(format!("`{}` is a view or a foreign table; name the table itself", declared.written)),
    }
    Ok(None)
}

async fn columns(server: &Server, oid: i64) -> Result<Vec<Found>, StoreError> {
    let rows = server
        .answer(
            sqlx::query(
                "WITH RECURSIVE base (start, oid, typname, typtype, typbasetype) AS (
                     SELECT oid, oid, typname, typtype, typbasetype FROM pg_type
                      WHERE oid IN (SELECT atttypid FROM pg_attribute WHERE attrelid = $1::int8::oid)
                     UNION ALL
                     SELECT b.start, t.oid, t.typname, t.typtype, t.typbasetype
                       FROM base b JOIN pg_type t ON t.oid = b.typbasetype WHERE b.typtype = 'd')
                 SELECT a.attname::text, n.nspname::text, t.typname::text, b.typname::text,
                        format_type(a.atttypid, a.atttypmod), a.attgenerated <> '' OR a.attidentity = 'a', a.attnotnull
                 FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace n ON n.oid = t.typnamespace
                      JOIN base b ON b.start = t.oid AND b.typtype <> 'd'
                 WHERE a.attrelid = $1::int8::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            )
            .bind(oid)
            .fetch_all(server.pool()),
        )
        .await?;
    let found = |row: &sqlx::postgres::PgRow| -> Result<Found, sqlx::Error> {
        let (schema, name): (String, String) = (row.try_get(1)?, row.try_get(2)?);
        Ok(Found {
            name: row.try_get(0)?,
            cast: format!("{}.{}", quote(&schema), quote(&name)),
            base: row.try_get(3)?,
            written: row.try_get(4)?,
            generated: row.try_get(5)?,
            not_null: row.try_get(6)?,
        })
    };
    rows.iter().map(found).collect::<Result<_, _>>().map_err(|e| server.error(e))
}

fn holds(column: &Found, kind: ColumnKind) -> Result<Holds, String> {
    let Found { name, written, .. } = column;
    if column.generated {
        return Err(format!("column `{name}` is computed by the database and cannot be written"));
    }
    match (column.base.as_str(), kind) {
        ("bytea", _) => Ok(Holds::Bytes),
        ("text" | "varchar" | "bpchar" | "citext", _) => Ok(Holds::Text),
        ("json", ColumnKind::Json | ColumnKind::Jsonb) => Ok(Holds::Json),
        ("jsonb", ColumnKind::Jsonb) => Ok(Holds::Jsonb),
        ("jsonb", ColumnKind::Json) => {
            Err(format!("column `{name}` is jsonb, which keeps values and no bytes; declare it as \"jsonb\""))
        }
        ("json" | "jsonb", ColumnKind::Text) => {
            Err(format!("column `{name}` is {written}; declare it as \"{}\" and name the place inside", column.base))
        }
        _ => Err(format!("column `{name}` is {written}; secrets are text, json or jsonb")),
    }
}

/// The order of a unique index over exactly the columns of the key, none of which can be null.
async fn order(
    server: &Server,
    oid: i64,
    declared: &Declared,
    found: &[Found],
    wrong: &mut Vec<String>,
) -> Result<Option<Vec<usize>>, StoreError> {
    // An index under another collation than its column's could hold keys that the column's own order takes for equal.
    let indexes: Vec<(bool, Vec<String>)> = server
        .answer(
            sqlx::query_as(
                "SELECT i.indisprimary,
                        array(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, at)
                              JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                              WHERE k.at <= i.indnkeyatts ORDER BY k.at)
                 FROM pg_index i
                 WHERE i.indrelid = $1::int8::oid AND i.indisunique AND i.indisvalid
                   AND i.indpred IS NULL AND i.indexprs IS NULL
                   AND NOT EXISTS (SELECT 1 FROM unnest(i.indcollation::oid[]) WITH ORDINALITY AS c (coll, at)
                        JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, at) USING (at)
                        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                        WHERE a.attcollation <> c.coll)
                 ORDER BY NOT i.indisprimary",
            )
            .bind(oid)
            .fetch_all(server.pool()),
        )
        .await?;
    let key = &declared.key;
    for (_, columns) in &indexes {
        let places: Option<Vec<usize>> =
            columns.iter().map(|name| key.iter().position(|column| **column == **name)).collect();
        let Some(places) = places.filter(|places| places.len() == key.len()) else { continue };
        let nullable: Vec<_> = found
            .iter()
            .filter(|column| !column.not_null && columns.contains(&column.name))
            .map(|column| column.name.as_str())
            .collect();
        if nullable.is_empty() {
            return Ok(Some(places));
        }
        wrong.push(format!("key column `{}` may be null, so it does not name every row", nullable.join("`, `")));
        return Ok(None);
    }
    let there =
        list(indexes.iter().map(|(_, columns)| columns.join("+")).collect::<Vec<_>>().iter().map(String::as_str));
    wrong.push(format!(
        "no primary or unique key of `{}` is ({}); there are: {there}",
        declared.written,
        declared.key.join(", ")
    ));
    Ok(None)
}
