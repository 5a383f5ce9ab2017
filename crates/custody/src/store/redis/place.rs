//! Where the records of a collection lie among the keys, and how one is read.

use redis::{Cmd, RedisError, Value};

use super::{
    key::{self, Pattern},
    link::Link,
    node::Effect,
    reply,
};
use crate::{
    layout::place::{Layout, VALUE_CELL},
    store::{Cell, CellName, CellValue, Odd, StoreError, StoredRecord},
};

/// A collection's layout, as far as this store goes.
pub(super) struct Place {
    pub(super) pattern: Pattern,
    pub(super) shape: Shape,
}

/// What a record is.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// A hash, of which one field is the cell.
    Field(CellName),
    /// A string, which is the cell.
    Value(CellName),
    /// A hash, of which each field is a cell.
    Fields,
}

/// What was found under a key.
pub(super) enum Found {
    Record(StoredRecord),
    Odd(Odd),
    /// The key went away since it was scanned.
    Nothing,
}

impl Place {
    pub(super) fn of(layout: &Layout) -> Result<Self, StoreError> {
        let (keys, shape) = match layout {
            Layout::RedisHashJson { keys, field } => (keys, Shape::Field(field.clone())),
            Layout::RedisJsonString { keys } => (keys, Shape::Value(CellName::new(VALUE_CELL)?)),
            Layout::RedisHashField { keys } => (keys, Shape::Fields),
            other => {
                return Err(StoreError::invalid(format!("the layout {} does not lie in a Redis", other.as_str())));
            }
        };
        Ok(Self { pattern: Pattern::new(keys)?, shape })
    }

    /// Whether records here have such a cell.
    pub(super) fn has(&self, cell: &CellName) -> Result<(), StoreError> {
        match &self.shape {
            Shape::Field(only) | Shape::Value(only) if only != cell => {
                Err(StoreError::invalid(format!("a record here has one cell, `{only}`, and no `{cell}`")))
            }
            _ => Ok(()),
        }
    }

    fn command(&self, key: &[u8]) -> Cmd {
        let mut command = Cmd::new();
        match &self.shape {
            Shape::Field(field) => command.arg("HGET").arg(key).arg(field.as_str()),
            Shape::Value(_) => command.arg("GET").arg(key),
            Shape::Fields => command.arg("HGETALL").arg(key),
        };
        command
    }

    /// What lies under each of these keys, in their order.
    pub(super) async fn fetch(&self, link: &Link, keys: &[Vec<u8>]) -> Result<Vec<Found>, StoreError> {
        let values = link.each(keys, &|n| self.command(&keys[n]), Effect::None).await?;
        let mut found = Vec::with_capacity(keys.len());
        // Those of which another question must tell what they are.
        let mut unclear = Vec::new();
        for (key, value) in keys.iter().zip(values) {
            let here = match value {
                value if reply::is_wrong_type(&value) => None,
                value => self.record(key, value).map_err(|error| link.error(error))?,
            };
            if here.is_none() {
                unclear.push(found.len());
            }
            found.push(here.unwrap_or(Found::Nothing));
        }
        if !unclear.is_empty() {
            let asked: Vec<_> = unclear.iter().map(|n| keys[*n].clone()).collect();
            let types = link.each(&asked, &|n| type_of(&asked[n]), Effect::None).await?;
            for ((n, key), answer) in unclear.into_iter().zip(asked).zip(types) {
                let kind = reply::text(answer).map_err(|error| link.error(error))?;
                found[n] = self.unclear(&key, &kind);
            }
        }
        Ok(found)
    }

    /// `None` where nothing was there.
    fn record(&self, key: &[u8], value: Value) -> Result<Option<Found>, RedisError> {
        let name = match key::name(key) {
            Ok(name) => name,
            Err(odd) => return Ok(Some(Found::Odd(odd))),
        };
        let cells = match &self.shape {
            Shape::Field(cell) | Shape::Value(cell) => {
                let Some(bytes) = reply::bytes(value)? else { return Ok(None) };
                match String::from_utf8(bytes) {
                    Ok(text) => vec![Cell { name: cell.clone(), value: CellValue::text(text) }],
                    Err(error) => {
                        drop(CellValue::bytes(error.into_bytes()));
                        return Ok(Some(Found::Odd(not_text(key, cell))));
                    }
                }
            }
            Shape::Fields => {
                let fields = reply::pairs(value)?;
                if fields.is_empty() {
                    return Ok(None);
                }
                // A field whose name no configuration can hold is not a declared one.
                fields
                    .into_iter()
                    .filter_map(|(field, value)| {
                        let name = CellName::new(String::from_utf8(field).ok()?).ok()?;
                        let value = match String::from_utf8(value) {
                            Ok(text) => CellValue::text(text),
                            Err(error) => CellValue::bytes(error.into_bytes()),
                        };
                        Some(Cell { name, value })
                    })
                    .collect()
            }
        };
        Ok(Some(Found::Record(StoredRecord { key: name, cells, revision: 0 })))
    }

    /// A key that did not answer as a record would, by the type it has now.
    fn unclear(&self, key: &[u8], kind: &str) -> Found {
        let expected = if matches!(self.shape, Shape::Value(_)) { "string" } else { "hash" };
        if kind == "none" {
            return Found::Nothing;
        }
        if kind == expected {
            // A hash without the field; or it became what it should be only now, and the next pass sees it.
            return match key::name(key) {
                Ok(key) => Found::Record(StoredRecord { key, cells: Vec::new(), revision: 0 }),
                Err(odd) => Found::Odd(odd),
            };
        }
        Found::Odd(Odd {
            record: key::abridged(&key::spell(key)),
            what: format!("it is a {kind}, where the records of this collection are of type {expected}"),
            hint: "narrow the pattern `keys` of the collection, or give it the layout that this key has".into(),
        })
    }
}

fn type_of(key: &[u8]) -> Cmd {
    let mut command = Cmd::new();
    command.arg("TYPE").arg(key);
    command
}

fn not_text(key: &[u8], cell: &CellName) -> Odd {
    Odd {
        record: key::abridged(&key::spell(key)),
        what: format!("`{cell}` is not UTF-8 text"),
        hint: "it may be compressed or pickled by its program; only JSON text can be worked on".into(),
    }
}
