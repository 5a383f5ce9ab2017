//! Compare-and-swap, many rows to a statement.
//!
//! As in our own SQLite store: a batch in which some row did not match is done again row by row, in a new transaction, to
//! tell which and why. Values are compared as bytes, since a column may have a collation that takes unequal text for equal.

use std::collections::{BTreeMap, HashMap};

use sqlx::{Connection, Sqlite, SqliteConnection, Transaction};

use super::{SqliteRows, inspect::Table, sql, value::Value};
use crate::store::{MAX_CELL, StoreError, Swap, Swapped};

/// Rows to a statement. More gain nothing: the cost of binding and of SQLite's own list of them grows.
const CHUNK: usize = 32;

/// A swap whose values were checked.
struct Text<'a> {
    key: Vec<Value>,
    column: usize,
    old: &'a str,
    new: &'a str,
}

/// Swaps of one record, by the columns that they change: places in the batch.
type Groups = BTreeMap<Vec<usize>, Vec<Vec<usize>>>;

pub(super) async fn swap(store: &SqliteRows, table: &Table, batch: &[Swap]) -> Result<Vec<Swapped>, StoreError> {
    let swaps = batch.iter().map(|swap| check(table, swap)).collect::<Result<Vec<_>, _>>()?;
    if swaps.is_empty() {
        return Ok(Vec::new());
    }
    let groups = groups(batch, &swaps);
    let mut connection = store.writer().await?;
    let done = write(&mut connection, table, &swaps, groups.as_ref()).await;
    if done.is_err() {
        // SQLite ends a transaction by itself where the disk is full, and the driver goes on believing in it.
        connection.close_on_drop();
    }
    done.map_err(|e| store.error(e))
}

async fn write(
    connection: &mut SqliteConnection,
    table: &Table,
    swaps: &[Text<'_>],
    groups: Option<&Groups>,
) -> Result<Vec<Swapped>, sqlx::Error> {
    if let Some(groups) = groups {
        let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
        if together(&mut tx, table, swaps, groups).await? {
            tx.commit().await?;
            return Ok(vec![Swapped::Done; swaps.len()]);
        }
        tx.rollback().await?;
    }
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    let results = one_by_one(&mut tx, table, swaps).await?;
    tx.commit().await?;
    Ok(results)
}

fn check<'a>(table: &Table, swap: &'a Swap) -> Result<Text<'a>, StoreError> {
    let column = table
        .columns
        .iter()
        .position(|column| column.name == swap.cell)
        .ok_or_else(|| StoreError::invalid(format!("`{}` has no declared column `{}`", table.name, swap.cell)))?;
    let bad = |what: &str| StoreError::invalid(format!("the new `{}` of record `{}` {what}", swap.cell, swap.key));
    if swap.new.len() > MAX_CELL {
        return Err(bad(&format!("has {} bytes, at most {MAX_CELL} are allowed", swap.new.len())));
    }
    let new = swap.new.as_str().ok_or_else(|| bad("is not UTF-8 text"))?;
    let old = swap.old.as_str().ok_or_else(|| bad("is to replace what is not UTF-8 text"))?;
    Ok(Text { key: table.key_values(&swap.key)?, column, old, new })
}

/// Records by the columns that change; `None` where a cell is swapped twice, which only goes one after the other.
fn groups(batch: &[Swap], swaps: &[Text<'_>]) -> Option<Groups> {
    let mut records: HashMap<&str, Vec<usize>> = HashMap::with_capacity(batch.len());
    let mut order = Vec::with_capacity(batch.len());
    for (n, swap) in batch.iter().enumerate() {
        let of_record = records.entry(swap.key.as_str()).or_default();
        if of_record.is_empty() {
            order.push(swap.key.as_str());
        }
        of_record.push(n);
    }
    let mut groups = Groups::new();
    for key in order {
        let mut places = records.remove(key)?;
        places.sort_by_key(|n| swaps[*n].column);
        let columns: Vec<_> = places.iter().map(|n| swaps[*n].column).collect();
        if columns.windows(2).any(|pair| pair[0] == pair[1]) {
            return None;
        }
        groups.entry(columns).or_default().push(places);
    }
    Some(groups)
}

/// One row in `VALUES` is the key, then old and new of each column.
fn statement(table: &Table, columns: &[usize], rows: &[Vec<usize>], swaps: &[Text<'_>]) -> String {
    let keys = table.key.len();
    let mut hole = 0;
    let mut next = || {
        hole += 1;
        hole
    };
    let values: Vec<_> = rows
        .iter()
        .map(|places| {
            let mut row: Vec<_> = swaps[places[0]].key.iter().map(|value| value.placeholder(next())).collect();
            row.extend((0..columns.len() * 2).map(|_| format!("?{}", next())));
            format!("({})", row.join(", "))
        })
        .collect();
    let (mut sets, mut wheres) = (Vec::new(), table.matches(|n| format!("v.column{}", n + 1)));
    for (n, column) in columns.iter().enumerate() {
        let quoted = &table.columns[*column].quoted;
        let (old, new) = (keys + n * 2 + 1, keys + n * 2 + 2);
        sets.push(format!("{quoted} = v.column{new}"));
        wheres.push(holds(quoted, &format!("v.column{old}")));
    }
    format!(
        "UPDATE {} AS t SET {} FROM (VALUES {}) AS v WHERE {}",
        table.from,
        sets.join(", "),
        values.join(", "),
        wheres.join(" AND ")
    )
}

/// Text, and this very text.
fn holds(quoted: &str, old: &str) -> String {
    format!("typeof(t.{quoted}) = 'text' AND CAST(t.{quoted} AS BLOB) = CAST({old} AS BLOB)")
}

/// All of them, many to a statement; `false` as soon as one did not match.
async fn together(
    tx: &mut Transaction<'_, Sqlite>,
    table: &Table,
    swaps: &[Text<'_>],
    groups: &Groups,
) -> Result<bool, sqlx::Error> {
    for (columns, records) in groups {
        for rows in records.chunks(CHUNK) {
            let text = statement(table, columns, rows, swaps);
            let mut query = sqlx::query(sql(&text));
            for places in rows {
                for value in &swaps[places[0]].key {
                    query = value.clone().bind(query);
                }
                for n in places {
                    query = query.bind(swaps[*n].old).bind(swaps[*n].new);
                }
            }
            if query.execute(&mut **tx).await?.rows_affected() != rows.len() as u64 {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// One after the other, so that each can be judged, and can see what an earlier one of the batch stored.
async fn one_by_one(
    tx: &mut Transaction<'_, Sqlite>,
    table: &Table,
    swaps: &[Text<'_>],
) -> Result<Vec<Swapped>, sqlx::Error> {
    let mut results = Vec::with_capacity(swaps.len());
    for swap in swaps {
        let quoted = &table.columns[swap.column].quoted;
        let find = table.matches(|n| swap.key[n].placeholder(n + 3)).join(" AND ");
        let text = format!("UPDATE {} AS t SET {quoted} = ?2 WHERE {find} AND {}", table.from, holds(quoted, "?1"));
        let mut query = sqlx::query(sql(&text)).bind(swap.old).bind(swap.new);
        for value in &swap.key {
            query = value.clone().bind(query);
        }
        if query.execute(&mut **tx).await?.rows_affected() == 1 {
            results.push(Swapped::Done);
            continue;
        }
        let find = table.matches(|n| swap.key[n].placeholder(n + 1)).join(" AND ");
        let text = format!("SELECT 1 FROM {} AS t WHERE {find} AND t.{quoted} IS NOT NULL", table.from);
        let mut query = sqlx::query(sql(&text));
        for value in &swap.key {
            query = value.clone().bind(query);
        }
        let there = query.fetch_optional(&mut **tx).await?.is_some();
        results.push(if there { Swapped::Changed } else { Swapped::Gone });
    }
    Ok(results)
}
