//! Reading rows in the order of the key.
//!
//! SQLite makes rows as they are asked for, so a page ends where its cells become too large or there are enough of them.

use std::fmt::Write as _;

use futures::TryStreamExt as _;
use sqlx::{Row as _, sqlite::SqliteRow};
use zeroize::Zeroizing;

use super::{
    super::{
        PAGE_BYTES,
        key::{self, Part, abridge},
    },
    SqliteRows,
    inspect::{Column, KeyColumn, Table},
    sql,
    value::{self, Value},
};
use crate::store::{
    Cell, CellValue, MAX_CELL, Odd, Page, RecordKey, ScanCursor, StoreError, StoredRecord, check_limit, sqlite::error,
};

pub(super) async fn scan(
    store: &SqliteRows,
    table: &Table,
    after: Option<&ScanCursor>,
    limit: usize,
) -> Result<Page, StoreError> {
    check_limit(limit)?;
    let mut page = Page { records: Vec::new(), odd: Vec::new(), next: None };
    let arms = match after {
        None => {
            page.odd.extend(nameless(store, table).await?);
            vec![Vec::new()]
        }
        Some(cursor) => {
            let parts = key::parse_cursor(cursor, table.key.len())?;
            let values = table.values(&parts, false);
            arms(table, &values.ok_or_else(|| StoreError::invalid("a cursor of another collection was given"))?)
        }
    };
    let (mut seen, mut bytes) = (0, 0);
    for arm in arms {
        let mut wheres: Vec<_> = table.key.iter().filter(|column| column.nullable).map(KeyColumn::is_there).collect();
        wheres.extend(arm.iter().enumerate().map(|(n, bound)| bound.condition(n + 1)));
        let text = format!("{} ORDER BY {}", table.select(&wheres), table.sorted().join(", "));
        let mut query = sqlx::query(sql(&text));
        for bound in arm {
            query = bound.value.bind(query);
        }
        let mut rows = query.fetch(store.readers()?);
        while let Some(row) = rows.try_next().await.map_err(|e| store.error(e))? {
            let (parts, read) = record(table, &row).map_err(|e| store.error(e))?;
            match read {
                Ok(record) => {
                    bytes += record.cells.iter().map(|cell| cell.value.len()).sum::<usize>();
                    page.records.push(record);
                }
                Err(what) => page.odd.push(what),
            }
            seen += 1;
            // A row that no cursor can name does not end a page; it is no record either.
            if seen >= limit || bytes >= PAGE_BYTES {
                page.next = parts.and_then(|parts| key::cursor(&parts).ok());
                if page.next.is_some() {
                    return Ok(page);
                }
            }
        }
    }
    Ok(page)
}

/// A condition on one column of the key.
struct Bound {
    column: String,
    operator: &'static str,
    value: Value,
}

impl Bound {
    fn condition(&self, n: usize) -> String {
        format!("{} {} {}", self.column, self.operator, self.value.placeholder(n))
    }
}

/// What comes after a key, as queries one after the other: SQLite does not always look up `(a, b) > (1, 2)` in an index,
/// and always does `a = 1 AND b > 2`, and then `a > 1`.
fn arms(table: &Table, values: &[Value]) -> Vec<Vec<Bound>> {
    let sorted = table.sorted();
    let bound = |place: usize, operator| Bound {
        column: sorted[place].clone(),
        operator,
        value: values[table.order[place]].clone(),
    };
    (0..sorted.len())
        .rev()
        .map(|last| (0..last).map(|place| bound(place, "=")).chain([bound(last, ">")]).collect())
        .collect()
}

pub(super) async fn read(
    store: &SqliteRows,
    table: &Table,
    key: &RecordKey,
) -> Result<Option<StoredRecord>, StoreError> {
    let values = table.key_values(key)?;
    let matches: Vec<_> = table.matches(|n| values[n].placeholder(n + 1));
    let text = table.select(&matches);
    let mut query = sqlx::query(sql(&text));
    for value in values {
        query = value.bind(query);
    }
    let row = query.fetch_optional(store.readers()?).await.map_err(|e| store.error(e))?;
    let Some(row) = row else { return Ok(None) };
    match record(table, &row).map_err(|e| store.error(e))?.1 {
        // Under a collation that does not tell case, the row may have another spelling.
        Ok(record) => Ok((record.key == *key).then_some(record)),
        Err(odd) => Err(StoreError::Corrupt {
            store: error::name(&store.inner.path),
            what: format!("record `{}`: {}", odd.record, odd.what),
            source: None,
        }),
    }
}

/// Rows without a key, which SQLite allows where a column is not declared `NOT NULL`.
async fn nameless(store: &SqliteRows, table: &Table) -> Result<Option<Odd>, StoreError> {
    let nulls: Vec<_> =
        table.key.iter().filter(|column| column.nullable).map(|c| format!("NOT {}", c.is_there())).collect();
    if nulls.is_empty() {
        return Ok(None);
    }
    let text = format!("SELECT count(*) FROM {} AS t WHERE {}", table.from, nulls.join(" OR "));
    let count: i64 = sqlx::query_scalar(sql(&text)).fetch_one(store.readers()?).await.map_err(|e| store.error(e))?;
    Ok((count > 0).then(|| Odd {
        record: "null".into(),
        what: format!("{count} rows of `{}` have no key", table.name),
        hint: "give them keys; they are left as they are".into(),
    }))
}

/// The parts of a row's key where they can be said, and the record or what is odd about the row.
#[allow(clippy::type_complexity, reason = "it is taken apart at once")]
fn record(table: &Table, row: &SqliteRow) -> Result<(Option<Vec<Part>>, Result<StoredRecord, Odd>), sqlx::Error> {
    let mut values = Vec::with_capacity(table.key.len());
    for n in 0..table.key.len() {
        values.push(Value::read(row, n * value::SELECTED)?);
    }
    let named = || {
        let shown: Vec<_> = values.iter().map(|value| value.as_ref().map_or("?".into(), Value::show)).collect();
        abridge(&shown.join(","))
    };
    let odd = |what: String, hint: &str| Err(Odd { record: named(), what, hint: hint.into() });
    let fraction = || String::from("a value of the key is a number with a fraction");
    let parts: Result<Vec<Part>, String> = (values.iter().zip(&table.key))
        .map(|(value, column)| value.as_ref().ok_or_else(fraction)?.part(column.affinity))
        .collect();
    let parts = match parts {
        Ok(parts) => parts,
        Err(what) => return Ok((None, odd(what, "give the row another key; it is left as it is"))),
    };
    let key = match key::spell(&parts) {
        Ok(key) => key,
        Err(what) => return Ok((Some(parts), odd(what, "give the row another key; it is left as it is"))),
    };
    let mut cells = Vec::with_capacity(table.columns.len());
    for (n, column) in table.columns.iter().enumerate() {
        let at = table.key.len() * value::SELECTED + n * 3;
        let (kind, size): (&str, Option<i64>) = (row.try_get(at)?, row.try_get(at + 1)?);
        let what = match kind {
            "null" => continue,
            "text" => match row.try_get::<Option<Vec<u8>>, _>(at + 2)?.map(String::from_utf8) {
                Some(Ok(text)) => {
                    cells.push(Cell { name: column.name.clone(), value: CellValue::text(text) });
                    continue;
                }
                Some(Err(error)) => {
                    drop(Zeroizing::new(error.into_bytes()));
                    "text that is not UTF-8".into()
                }
                None => format!("{} bytes, at most {MAX_CELL} are read", size.unwrap_or_default()),
            },
            "blob" => "bytes, such as a pickled object, and no text".into(),
            _ => "a number and no text".into(),
        };
        let what = format!("column `{}` holds {what}", column.name);
        return Ok((Some(parts), odd(what, "look at it with the program that wrote it; it is left as it is")));
    }
    Ok((Some(parts), Ok(StoredRecord { key, cells, revision: 0 })))
}

impl KeyColumn {
    /// The column as its unique index compares it.
    fn sorted(&self) -> String {
        format!("t.{} COLLATE {}", self.quoted, self.collation)
    }

    fn is_there(&self) -> String {
        format!("(t.{} IS NOT NULL)", self.quoted)
    }
}

impl Table {
    fn sorted(&self) -> Vec<String> {
        self.order.iter().map(|n| self.key[*n].sorted()).collect()
    }

    /// Key columns, then type, size and bytes of each cell; the bytes only where they are text of a bearable size.
    fn select(&self, wheres: &[String]) -> String {
        let mut text = String::from("SELECT ");
        for column in &self.key {
            let _ = write!(text, "{}, ", value::select(&column.quoted));
        }
        for Column { quoted, .. } in &self.columns {
            let size = format!("length(CAST(t.{quoted} AS BLOB))");
            let _ = write!(
                text,
                "typeof(t.{quoted}), {size}, CASE WHEN typeof(t.{quoted}) = 'text' AND {size} <= {MAX_CELL}
                 THEN CAST(t.{quoted} AS BLOB) END, "
            );
        }
        let wheres = if wheres.is_empty() { "true".into() } else { wheres.join(" AND ") };
        let _ = write!(text, "1 FROM {} AS t WHERE {wheres}", self.from);
        text
    }

    /// The key's values, in the order of the layout; `None` where no row can have them.
    fn values(&self, parts: &[Part], alone: bool) -> Option<Vec<Value>> {
        parts.iter().zip(&self.key).map(|(part, column)| Value::of(column.affinity, part, alone)).collect()
    }

    /// The key's values of a record of this table.
    pub(super) fn key_values(&self, key: &RecordKey) -> Result<Vec<Value>, StoreError> {
        let parts = key::parse(key, self.key.len());
        parts.and_then(|parts| self.values(&parts, self.key.len() == 1)).ok_or_else(|| {
            let columns: Vec<_> = self.key.iter().map(|column| column.name.as_str()).collect();
            let form = match columns.as_slice() {
                [one] => format!("a value of `{one}`"),
                several => format!("a JSON array of {}", several.join(", ")),
            };
            StoreError::invalid(format!("`{}` is no key of `{}`, which is {form}", abridge(key.as_str()), self.name))
        })
    }

    /// The conditions that find one row.
    pub(super) fn matches(&self, value: impl Fn(usize) -> String) -> Vec<String> {
        self.key.iter().enumerate().map(|(n, column)| format!("{} = {}", column.sorted(), value(n))).collect()
    }
}
