//! Reading rows, page by page in the order of the key.
//!
//! The server cuts a page where its cells become too large, so that what does not fit is never sent.

use std::fmt::Write as _;

use sqlx::{Row as _, postgres::PgRow};

use super::{
    super::{
        PAGE_BYTES,
        key::{self, Part, abridge},
    },
    inspect::{Holds, Table},
    partition::{self, End},
    sql,
};
use crate::store::{
    Cell, CellValue, MAX_CELL, Odd, Page, Partition, RecordKey, ScanCursor, StoreError, StoredRecord, check_limit,
    postgres::server::Server,
};

/// Longer keys than this have no record key or no cursor. The server cannot index them either unless it compresses them.
const LONGEST_KEY: usize = 2700;

pub(super) async fn scan(
    server: &Server,
    table: &Table,
    partition: &Partition,
    after: Option<&ScanCursor>,
    limit: usize,
) -> Result<Page, StoreError> {
    let most = check_limit(limit)?;
    let (from, to) = partition::ends(server, table, partition)?;
    let mut odd = Vec::new();
    let mut range = Range::new(table);
    match after {
        None => {
            range.bound(">=", &from);
            range.bound("<", &to);
            odd.extend(long_keys(server, table, &range).await?);
        }
        Some(cursor) => {
            let parts = key::parse_cursor(cursor, table.key.len())?;
            range.bound(">", &partition::in_order(table, &parts));
            range.bound("<", &to);
        }
    }
    let text = page_statement(table, &range.wheres(false));
    let mut query = sqlx::query(sql(&text)).bind(most);
    for value in &range.values {
        query = query.bind(value);
    }
    let rows = server.answer(query.fetch_all(server.pool())).await?;
    let total: i64 = match rows.first() {
        Some(row) => row.try_get("total").map_err(|e| server.error(e))?,
        None => 0,
    };
    let mut records = Vec::with_capacity(rows.len());
    let mut last = None;
    for row in &rows {
        let parts = parts(table, row).map_err(|e| server.error(e))?;
        match record(table, row, &parts).map_err(|e| server.error(e))? {
            Ok(record) => records.push(record),
            Err(what) => odd.push(what),
        }
        last = Some(parts);
    }
    let cut = i64::try_from(rows.len()).is_ok_and(|found| found < total);
    let next = match last {
        Some(parts) if cut || total >= most => Some(key::cursor(&parts)?),
        _ => None,
    };
    Ok(Page { records, odd, next })
}

pub(super) async fn read(server: &Server, table: &Table, key: &RecordKey) -> Result<Option<StoredRecord>, StoreError> {
    let parts = table.parts(key)?;
    let mut range = Range::new(table);
    range.bound("=", &partition::in_order(table, &parts));
    let text = page_statement(table, &range.wheres(false));
    let mut query = sqlx::query(sql(&text)).bind(1i64);
    for value in &range.values {
        query = query.bind(value);
    }
    let Some(row) =
        server.patient(query.fetch_optional(server.pool())).await.map_err(|e| table.bad_key(server, key, e))?
    else {
        return Ok(None);
    };
    let found = self::parts(table, &row).map_err(|e| server.error(e))?;
    match record(table, &row, &found).map_err(|e| server.error(e))? {
        // Two spellings of one value, such as `07` for 7, are not two records.
        Ok(record) => Ok((record.key == *key).then_some(record)),
        Err(odd) => Err(server.corrupt(format!("record `{}`: {}", odd.record, odd.what))),
    }
}

/// Conditions on the key and the values that go with them, from `$2` on.
struct Range<'a> {
    table: &'a Table,
    conditions: Vec<String>,
    values: Vec<String>,
}

impl<'a> Range<'a> {
    const fn new(table: &'a Table) -> Self {
        Self { table, conditions: Vec::new(), values: Vec::new() }
    }

    /// Holds the first columns, in the order of the scan, against an end.
    fn bound(&mut self, operator: &str, end: &End) {
        if end.is_empty() {
            return;
        }
        let columns: Vec<_> = self.table.order.iter().map(|n| &self.table.key[*n]).take(end.len()).collect();
        let names: Vec<_> = columns.iter().map(|column| format!("t.{}", column.quoted)).collect();
        let values: Vec<_> = columns
            .iter()
            .enumerate()
            .map(|(n, column)| format!("${}::text::{}", 2 + self.values.len() + n, column.cast))
            .collect();
        self.conditions.push(format!("({}) {operator} ({})", names.join(", "), values.join(", ")));
        self.values.extend(end.iter().cloned());
    }

    /// The conditions, with only the keys that are too long, or only the others.
    fn wheres(&self, long: bool) -> String {
        let mut conditions = self.conditions.clone();
        let texts: Vec<_> = self.table.key.iter().filter(|column| column.text).collect();
        if !texts.is_empty() {
            let sizes: Vec<_> = texts.iter().map(|column| format!("octet_length(t.{})", column.quoted)).collect();
            conditions.push(format!("{} {} {LONGEST_KEY}", sizes.join(" + "), if long { ">" } else { "<=" }));
        }
        if conditions.is_empty() { "true".into() } else { conditions.join(" AND ") }
    }
}

/// `$1` is the limit. Row by row: key, cells, sizes of cells (null where the cell is), and how many rows there were before
/// the cut.
fn page_statement(table: &Table, wheres: &str) -> String {
    let (mut inner, mut outer, mut sizes, mut keys) = (String::new(), String::new(), Vec::new(), Vec::new());
    for (n, column) in table.key.iter().enumerate() {
        let _ = write!(inner, "t.{}::text AS k{n}, ", column.quoted);
        let _ = write!(outer, "k{n}, ");
    }
    for (n, column) in table.columns.iter().enumerate() {
        let value = if column.holds == Holds::Bytes { "" } else { "::text" };
        let _ = write!(inner, "t.{}{value} AS c{n}, ", column.quoted);
        // Bytes are not even sent.
        match column.holds {
            Holds::Bytes => outer.push_str("NULL::text, "),
            _ => {
                let _ = write!(outer, "CASE WHEN octet_length(c{n}) <= {MAX_CELL} THEN c{n} END, ");
                sizes.push(format!("CASE WHEN octet_length(c{n}) <= {MAX_CELL} THEN octet_length(c{n}) ELSE 0 END"));
            }
        }
    }
    for n in 0..table.columns.len() {
        let _ = write!(outer, "octet_length(c{n}), ");
    }
    for n in &table.order {
        keys.push(format!("t.{}", table.key[*n].quoted));
    }
    let size = if sizes.is_empty() { "0".into() } else { sizes.join(" + ") };
    format!(
        "SELECT {outer}total FROM (
             SELECT *, count(*) OVER () AS total, row_number() OVER () AS at,
                    sum({size}) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
             FROM (SELECT {inner}true FROM {from} AS t WHERE {wheres} ORDER BY {keys} LIMIT $1) AS page) AS sized
         WHERE coalesce(before, 0) < {PAGE_BYTES} ORDER BY at",
        from = table.from,
        keys = keys.join(", ")
    )
}

/// Rows whose key is too long to be named: how many, and how the first ones begin.
async fn long_keys(server: &Server, table: &Table, range: &Range<'_>) -> Result<Option<Odd>, StoreError> {
    let Some(text) = table.key.iter().find(|column| column.text) else { return Ok(None) };
    let statement = format!(
        "SELECT count(*), min(left(t.{}, 60)) FROM {} AS t WHERE $1::int8 > 0 AND {}",
        text.quoted,
        table.from,
        range.wheres(true)
    );
    let mut query = sqlx::query_as(sql(&statement)).bind(1i64);
    for value in &range.values {
        query = query.bind(value);
    }
    let (count, begins): (i64, Option<String>) = server.answer(query.fetch_one(server.pool())).await?;
    let odd = |begins: String| Odd {
        record: format!("{}…", abridge(&begins)),
        what: format!(
            "{count} rows of `{}` have keys of more than {LONGEST_KEY} bytes, the first like this",
            table.name
        ),
        hint: "give such rows shorter keys; they are left as they are".into(),
    };
    Ok(begins.filter(|_| count > 0).map(odd))
}

fn parts(table: &Table, row: &PgRow) -> Result<Vec<Part>, sqlx::Error> {
    table.key.iter().enumerate().map(|(n, column)| Ok(partition::part(column.number, row.try_get(n)?))).collect()
}

/// The record in a row, or what is odd about it.
fn record(table: &Table, row: &PgRow, parts: &[Part]) -> Result<Result<StoredRecord, Odd>, sqlx::Error> {
    let named = || abridge(&parts.iter().map(Part::as_str).collect::<Vec<_>>().join(","));
    let odd = |what: String, hint: &str| Ok(Err(Odd { record: named(), what, hint: hint.into() }));
    let key = match key::spell(parts) {
        Ok(key) => key,
        Err(what) => return odd(what, "give the row another key; it is left as it is"),
    };
    let mut cells = Vec::with_capacity(table.columns.len());
    for (n, column) in table.columns.iter().enumerate() {
        let at = table.key.len() + n;
        let size: Option<i32> = row.try_get(at + table.columns.len())?;
        let value: Option<String> = row.try_get(at)?;
        match (value, size) {
            (_, None) => {}
            (Some(text), _) => {
                cells.push(Cell { name: column.name.clone(), value: CellValue::text(text) });
            }
            (None, Some(_)) if column.holds == Holds::Bytes => {
                let what = format!("column `{}` holds bytes, such as a pickled object, and no text", column.name);
                return odd(what, "look at it with the program that wrote it; it is left as it is");
            }
            (None, Some(size)) => {
                let what = format!("column `{}` holds {size} bytes, at most {MAX_CELL} are read", column.name);
                return odd(what, "store such a value elsewhere; it is left as it is");
            }
        }
    }
    Ok(Ok(StoredRecord { key, cells, revision: 0 }))
}

impl Table {
    /// The parts of a record key of this table.
    pub(super) fn parts(&self, key: &RecordKey) -> Result<Vec<Part>, StoreError> {
        let parts = key::parse(key, self.key.len()).filter(|parts| {
            self.key.len() == 1
                || parts.iter().zip(&self.key).all(|(part, column)| matches!(part, Part::Number(_)) == column.number)
        });
        parts.ok_or_else(|| self.no_key(key))
    }

    fn no_key(&self, key: &RecordKey) -> StoreError {
        let columns: Vec<_> = self.key.iter().map(|column| column.name.as_str()).collect();
        let form = if columns.len() == 1 {
            format!("a value of `{}`", columns[0])
        } else {
            format!("a JSON array of {}", columns.join(", "))
        };
        StoreError::invalid(format!("`{}` is no key of `{}`, which is {form}", abridge(key.as_str()), self.name))
    }

    /// A value that the key's type does not take is the caller's mistake and not the server's.
    pub(super) fn bad_key(&self, server: &Server, key: &RecordKey, e: sqlx::Error) -> StoreError {
        match crate::store::postgres::error::sql_state(&e) {
            Some(code) if code.starts_with("22") && code != "22001" => self.no_key(key),
            _ => server.error(e),
        }
    }
}
