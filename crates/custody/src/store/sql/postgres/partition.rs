//! Ranges of keys that can be scanned side by side.
//!
//! A range says its own ends, so any process can scan it, whatever the table has become meanwhile. All ranges of one list
//! together are the table; two lists, made at different times, may differ.

use sqlx::Row as _;

use super::{
    super::key::{Part, abridge, escape, unescape},
    inspect::Table,
    sql,
};
use crate::store::{Partition, StoreError, postgres::server::Server};

/// Fewer records than this are not split.
const WORTH: u64 = 20_000;

/// Records to a range, about.
const RANGE: u64 = 10_000;

/// The most ranges.
const MOST: u64 = 16;

/// Rows to look at for where to split.
const SAMPLE: u64 = 2_000;

/// The longest end of a range, as it is written in its name, of which there are two.
const END: usize = 120;

/// What separates the ends.
const DOTS: &str = "..";

/// One end: values of the first columns in the order of the scan. Empty: no end.
pub(super) type End = Vec<String>;

/// What the planner expects, from the size that the table has now.
pub(super) async fn estimate(server: &Server, table: &Table) -> Result<u64, StoreError> {
    let text = format!("EXPLAIN (FORMAT JSON) SELECT 1 FROM {}", table.from);
    let plan: String =
        server.answer(async { sqlx::raw_sql(sql(&text)).fetch_one(server.pool()).await?.try_get_unchecked(0) }).await?;
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap_or_default();
    let rows = plan.pointer("/0/Plan/Plan Rows").and_then(serde_json::Value::as_u64);
    rows.ok_or_else(|| server.corrupt("the planner's answer cannot be read"))
}

pub(super) async fn partitions(server: &Server, table: &Table) -> Result<Vec<Partition>, StoreError> {
    let rows = estimate(server, table).await?;
    if rows < WORTH {
        return Ok(vec![Partition::whole()]);
    }
    let mut ends: Vec<String> = vec![String::new()];
    let sample = sample(server, table, rows).await?;
    let ranges = usize::try_from((rows / RANGE).clamp(2, MOST)).unwrap_or(2);
    for n in 1..ranges {
        let Some(row) = sample.get(n * sample.len() / ranges) else { continue };
        let end = write(table, row);
        if !end.is_empty() && ends.last() != Some(&end) {
            ends.push(end);
        }
    }
    if ends.len() == 1 {
        return Ok(vec![Partition::whole()]);
    }
    ends.push(String::new());
    ends.windows(2).map(|pair| Ok(Partition::new(format!("{}{DOTS}{}", pair[0], pair[1]))?)).collect()
}

/// Keys of some blocks of the table, in order.
async fn sample(server: &Server, table: &Table, rows: u64) -> Result<Vec<End>, StoreError> {
    let per_mille = (SAMPLE * 1000 / rows).clamp(1, 1000);
    let ordered: Vec<_> = table.order.iter().map(|n| table.key[*n].quoted.clone()).collect();
    let texts: Vec<_> = ordered.iter().map(|name| format!("{name}::text")).collect();
    let text = format!(
        "SELECT {} FROM {} TABLESAMPLE SYSTEM ({}) REPEATABLE (1) ORDER BY {} LIMIT 50000",
        texts.join(", "),
        table.from,
        f64::from(u32::try_from(per_mille).unwrap_or(1000)) / 10.0,
        ordered.join(", ")
    );
    let rows = server.answer(sqlx::query(sql(&text)).fetch_all(server.pool())).await?;
    let end = |row: &sqlx::postgres::PgRow| (0..ordered.len()).map(|n| row.try_get(n)).collect::<Result<End, _>>();
    rows.iter().map(end).collect::<Result<_, _>>().map_err(|e| server.error(e))
}

/// As many columns as fit. A text that does not fit is cut: any text at all divides the table in two.
fn write(table: &Table, end: &[String]) -> String {
    let mut out = String::new();
    for (value, n) in end.iter().zip(&table.order) {
        let comma = if out.is_empty() { "" } else { "," };
        let room = END.saturating_sub(out.len() + comma.len() + 1);
        let mut written = String::new();
        for c in value.chars() {
            let c = plain(c);
            if written.len() + c.len() > room {
                break;
            }
            written.push_str(&c);
        }
        let whole = unescape(&written) == value.as_bytes();
        if !whole && (!table.key[*n].text || written.is_empty()) {
            break;
        }
        // A mark in front, so that an empty text is something.
        out = format!("{out}{comma}={written}");
        if !whole {
            break;
        }
    }
    out
}

/// A character as a partition's name may have it.
fn plain(c: char) -> String {
    if c.is_ascii_alphanumeric() || "-_@:/+".contains(c) {
        return c.into();
    }
    c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Both ends of a range.
pub(super) fn ends(server: &Server, table: &Table, partition: &Partition) -> Result<(End, End), StoreError> {
    if *partition == Partition::whole() {
        return Ok((End::new(), End::new()));
    }
    let read = |text: &str| -> Option<End> {
        if text.is_empty() {
            return Some(End::new());
        }
        let parts = text.split(',').map(|part| String::from_utf8(unescape(part.strip_prefix('=')?)).ok());
        parts.collect::<Option<End>>().filter(|end| end.len() <= table.order.len())
    };
    partition.as_str().split_once(DOTS).and_then(|(from, to)| Some((read(from)?, read(to)?))).ok_or_else(|| {
        StoreError::invalid(format!("{} has no partition `{}`", server.name(), abridge(partition.as_str())))
    })
}

/// A key as the texts that the server compares, in the order of the scan.
pub(super) fn in_order(table: &Table, parts: &[Part]) -> End {
    let texts = super::texts(parts);
    table.order.iter().map(|n| texts[*n].clone()).collect()
}

/// A value of a row as a part of its record key.
pub(super) fn part(number: bool, value: String) -> Part {
    if number { Part::Number(value) } else { Part::Text(escape(value.as_bytes())) }
}
