//! Compare-and-swap, a batch to a statement.
//!
//! Records whose same cells are swapped go together in one `UPDATE` that says which rows it changed; usually that is the
//! whole batch, in one round trip and one transaction. What it did not change is tried cell by cell and then told apart.
//! All conditions are on the very values, so a batch that another session's transaction stood in the way of is done again.

use std::collections::{BTreeMap, HashMap};

use sqlx::{Connection, PgConnection};

use super::{
    inspect::{Column, Holds, Table},
    sql, texts,
};
use crate::store::{
    MAX_CELL, RecordKey, StoreError, Swap, Swapped,
    postgres::{error::is_conflict, server::Server},
};

/// How often a batch is done again after a deadlock.
const TRIES: u32 = 5;

/// A swap whose values were checked.
struct Text<'a> {
    key: &'a RecordKey,
    parts: Vec<String>,
    column: usize,
    old: &'a str,
    new: &'a str,
}

/// Swaps of one record that are done together or not: places in the batch, by column.
type Together = Vec<usize>;

pub(super) async fn swap(server: &Server, table: &Table, batch: &[Swap]) -> Result<Vec<Swapped>, StoreError> {
    let swaps = batch.iter().map(|swap| check(table, swap)).collect::<Result<Vec<_>, _>>()?;
    if swaps.is_empty() {
        return Ok(Vec::new());
    }
    let mut tries = 1;
    loop {
        let mut connection = server.acquire().await?;
        match server.patient(all(&mut connection, table, &swaps)).await {
            Err(e) if is_conflict(&e) && tries < TRIES => tries += 1,
            // Keys come from scans; one that the type does not take can only be named as the first of the batch.
            done => return done.map_err(|e| table.bad_key(server, swaps[0].key, e)),
        }
    }
}

fn check<'a>(table: &Table, swap: &'a Swap) -> Result<Text<'a>, StoreError> {
    let column = table
        .columns
        .iter()
        .position(|column| column.name == swap.cell)
        .ok_or_else(|| StoreError::invalid(format!("`{}` has no declared column `{}`", table.name, swap.cell)))?;
    let bad = |what: &str| StoreError::invalid(format!("the new `{}` of record `{}` {what}", swap.cell, swap.key));
    if table.columns[column].holds == Holds::Bytes {
        return Err(bad("cannot be written: the column holds bytes"));
    }
    if swap.new.len() > MAX_CELL {
        return Err(bad(&format!("has {} bytes, at most {MAX_CELL} are allowed", swap.new.len())));
    }
    let new = swap.new.as_str().ok_or_else(|| bad("is not UTF-8 text"))?;
    let old = swap.old.as_str().ok_or_else(|| bad("is to replace what is not UTF-8 text"))?;
    if new.contains('\0') || old.contains('\0') {
        return Err(bad("has a NUL byte, which PostgreSQL does not keep"));
    }
    Ok(Text { key: &swap.key, parts: texts(&table.parts(&swap.key)?), column, old, new })
}

/// Everything in one transaction, which a single statement is by itself.
async fn all(connection: &mut PgConnection, table: &Table, swaps: &[Text<'_>]) -> Result<Vec<Swapped>, sqlx::Error> {
    let layers = layers(swaps);
    if let [only] = layers.as_slice()
        && only.len() == 1
        && let Some((columns, records)) = only.iter().next()
    {
        let mut results = vec![None; swaps.len()];
        let missed = update(&mut *connection, table, swaps, (columns, records), &mut results).await?;
        if missed.is_empty() {
            return Ok(finish(results));
        }
        // What was swapped is committed; the rest is judged after it.
        let mut tx = Connection::begin(&mut *connection).await?;
        cell_by_cell(&mut tx, table, swaps, missed, &mut results).await?;
        tx.commit().await?;
        return Ok(finish(results));
    }
    let mut results = vec![None; swaps.len()];
    let mut tx = Connection::begin(connection).await?;
    for layer in &layers {
        for (columns, records) in layer {
            let missed = update(&mut tx, table, swaps, (columns, records), &mut results).await?;
            if !missed.is_empty() {
                cell_by_cell(&mut tx, table, swaps, missed, &mut results).await?;
            }
        }
    }
    tx.commit().await?;
    Ok(finish(results))
}

fn finish(results: Vec<Option<Swapped>>) -> Vec<Swapped> {
    results.into_iter().map(|result| result.unwrap_or(Swapped::Gone)).collect()
}

/// What can be done at once: records by the columns that change. A second swap of the same cell comes in the next layer.
fn layers(swaps: &[Text<'_>]) -> Vec<BTreeMap<Vec<usize>, Vec<Together>>> {
    let mut records: HashMap<&str, Vec<Together>> = HashMap::with_capacity(swaps.len());
    let mut order: Vec<(&str, usize)> = Vec::with_capacity(swaps.len());
    for (n, swap) in swaps.iter().enumerate() {
        let key = swap.key.as_str();
        let of_record = records.entry(key).or_default();
        // In the layer after the last one that swaps this cell.
        let layer = of_record
            .iter()
            .rposition(|together| together.iter().any(|m| swaps[*m].column == swap.column))
            .map_or(0, |last| last + 1);
        if of_record.len() == layer {
            of_record.push(Vec::new());
            order.push((key, layer));
        }
        of_record[layer].push(n);
    }
    let mut layers: Vec<BTreeMap<Vec<usize>, Vec<Together>>> = Vec::new();
    for (key, layer) in order {
        let mut together = std::mem::take(&mut records.entry(key).or_default()[layer]);
        together.sort_by_key(|n| swaps[*n].column);
        let columns: Vec<_> = together.iter().map(|n| swaps[*n].column).collect();
        if layers.len() <= layer {
            layers.resize_with(layer + 1, BTreeMap::new);
        }
        layers[layer].entry(columns).or_default().push(together);
    }
    layers
}

/// `$1` to the number of key columns are their values, then old and new of each column. Gives the places of what it changed.
fn update_statement(table: &Table, columns: &[usize]) -> String {
    let keys = table.key.len();
    let mut sets = Vec::new();
    let mut wheres = key_matches(table);
    for (n, column) in columns.iter().map(|n| &table.columns[*n]).enumerate() {
        let Column { quoted, holds, .. } = column;
        let (old, new) = (format!("v.o{n}"), format!("v.n{n}"));
        sets.push(match holds {
            Holds::Json => format!("{quoted} = {new}::json"),
            Holds::Jsonb => format!("{quoted} = {new}::jsonb"),
            Holds::Text | Holds::Bytes => format!("{quoted} = {new}"),
        });
        wheres.push(match holds {
            Holds::Jsonb => format!("t.{quoted} = {old}::jsonb"),
            _ => format!("t.{quoted}::text COLLATE \"C\" = {old}"),
        });
    }
    let names: Vec<_> = (0..keys)
        .map(|n| format!("k{n}"))
        .chain((0..columns.len()).flat_map(|n| [format!("o{n}"), format!("n{n}")]))
        .collect();
    format!(
        "UPDATE {from} AS t SET {sets} FROM unnest({arrays}) WITH ORDINALITY AS v ({names}, at) WHERE {wheres} RETURNING v.at",
        from = table.from,
        sets = sets.join(", "),
        arrays = arrays(names.len()),
        names = names.join(", "),
        wheres = wheres.join(" AND ")
    )
}

fn key_matches(table: &Table) -> Vec<String> {
    table.key.iter().enumerate().map(|(n, column)| format!("t.{} = v.k{n}::{}", column.quoted, column.cast)).collect()
}

fn arrays(count: usize) -> String {
    (1..=count).map(|n| format!("${n}::text[]")).collect::<Vec<_>>().join(", ")
}

/// Swaps records whose same columns change; gives those that it did not change.
async fn update(
    connection: &mut PgConnection,
    table: &Table,
    swaps: &[Text<'_>],
    (columns, records): (&[usize], &[Together]),
    results: &mut [Option<Swapped>],
) -> Result<Vec<Together>, sqlx::Error> {
    let text = update_statement(table, columns);
    let mut query = sqlx::query_scalar(sql(&text));
    for n in 0..table.key.len() {
        query = query.bind(records.iter().map(|record| swaps[record[0]].parts[n].as_str()).collect::<Vec<_>>());
    }
    for n in 0..columns.len() {
        query = query.bind(records.iter().map(|record| swaps[record[n]].old).collect::<Vec<_>>());
        query = query.bind(records.iter().map(|record| swaps[record[n]].new).collect::<Vec<_>>());
    }
    let done: Vec<i64> = query.fetch_all(connection).await?;
    for at in done {
        let record = usize::try_from(at - 1).ok().and_then(|at| records.get(at));
        for swap in record.into_iter().flatten() {
            results[*swap] = Some(Swapped::Done);
        }
    }
    let missed = records.iter().filter(|record| record.iter().any(|n| results[*n].is_none()));
    Ok(missed.cloned().collect())
}

/// Each cell by itself, then which of the cells that did not match are there at all.
async fn cell_by_cell(
    connection: &mut PgConnection,
    table: &Table,
    swaps: &[Text<'_>],
    missed: Vec<Together>,
    results: &mut [Option<Swapped>],
) -> Result<(), sqlx::Error> {
    let mut alone: BTreeMap<usize, Vec<Together>> = BTreeMap::new();
    for n in missed.into_iter().flatten() {
        alone.entry(swaps[n].column).or_default().push(vec![n]);
    }
    for (column, records) in alone {
        let missed = update(&mut *connection, table, swaps, (&[column], &records), results).await?;
        if missed.is_empty() {
            continue;
        }
        let text = format!(
            "SELECT v.at FROM unnest({arrays}) WITH ORDINALITY AS v ({names}, at) JOIN {from} AS t ON {matches}
             WHERE t.{quoted} IS NOT NULL",
            arrays = arrays(table.key.len()),
            names = (0..table.key.len()).map(|n| format!("k{n}")).collect::<Vec<_>>().join(", "),
            from = table.from,
            matches = key_matches(table).join(" AND "),
            quoted = table.columns[column].quoted
        );
        let mut query = sqlx::query_scalar(sql(&text));
        for n in 0..table.key.len() {
            query = query.bind(missed.iter().map(|record| swaps[record[0]].parts[n].as_str()).collect::<Vec<_>>());
        }
        let there: Vec<i64> = query.fetch_all(&mut *connection).await?;
        for record in &missed {
            results[record[0]] = Some(Swapped::Gone);
        }
        for at in there {
            if let Some(record) = usize::try_from(at - 1).ok().and_then(|at| missed.get(at)) {
                results[record[0]] = Some(Swapped::Changed);
            }
        }
    }
    Ok(())
}
