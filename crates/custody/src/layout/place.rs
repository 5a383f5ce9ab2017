//! Where the records of a collection lie, and which of their cells hold secrets.
//!
//! A store cuts a record into *cells*: a column, a hash field, a whole document. A declared field is a JSON pointer; what of
//! it names the cell and what goes on inside depends on the layout:
//!
//! | layout | a record | `fields` are pointers into |
//! |---|---|---|
//! | `keyfold` | a document of our own | the document |
//! | `redis-hash-json` | a hash with JSON text in one field | that JSON text |
//! | `redis-json-string` | a string key that holds JSON text, object or array | that JSON text |
//! | `redis-hash-field` | a hash | the hash: `/password` is its field `password` |
//! | `sql-columns` | a row | the row: `/token` is a text column, `/settings/smtp/password` a place inside a JSON column |
//! | `firestore-document` | a document | the document |

use std::collections::BTreeMap;

use super::path::FieldPath;
use crate::store::{CellName, DOC_CELL};

/// The one cell of `redis-json-string`.
pub const VALUE_CELL: &str = "value";

/// How a collection's records are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Our own records.
    Keyfold,
    /// Hashes whose field `field` holds JSON text.
    RedisHashJson {
        /// A pattern in which `*` stands for anything, as `SCAN … MATCH` has it.
        keys: Box<str>,
        /// The hash field with the JSON text: the one cell.
        field: CellName,
    },
    /// Strings that hold JSON text; the one cell is [`VALUE_CELL`].
    RedisJsonString {
        /// As above.
        keys: Box<str>,
    },
    /// Hashes of which some fields are secrets; each is a cell.
    RedisHashField {
        /// As above.
        keys: Box<str>,
    },
    /// Rows; each declared column is a cell.
    SqlColumns {
        /// The table, with its schema where it has one: `public.users`.
        table: Box<str>,
        /// The columns of its primary key, in order. One gives record keys as they stand; several, a JSON array of them.
        key: Vec<Box<str>>,
        /// The declared columns.
        columns: BTreeMap<Box<str>, ColumnKind>,
        /// Where an older version of the program kept the same as bytes. A table that has this column and none of the declared
        /// ones is only reported.
        legacy: Option<Box<str>>,
    },
    /// Documents of a Firestore collection; the one cell is [`DOC_CELL`], what the store reads as JSON text.
    FirestoreDocument {
        /// The path of the collection: `agents`, or with `*` for document ids on the way: `users/*/tokens`.
        path: Box<str>,
    },
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// The secret itself.
    Text,
    /// JSON text, kept byte for byte: `json` in PostgreSQL, any text column.
    Json,
    /// PostgreSQL's `jsonb`, which keeps values and no bytes.
    Jsonb,
}

impl Layout {
    /// The word in `keyfold.toml`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Keyfold => "keyfold",
            Self::RedisHashJson { .. } => "redis-hash-json",
            Self::RedisJsonString { .. } => "redis-json-string",
            Self::RedisHashField { .. } => "redis-hash-field",
            Self::SqlColumns { .. } => "sql-columns",
            Self::FirestoreDocument { .. } => "firestore-document",
        }
    }

    /// Whether somebody else's program keeps these records.
    #[must_use]
    pub const fn is_foreign(&self) -> bool {
        !matches!(self, Self::Keyfold)
    }

    /// The cells that the fields lie in, in the order of the fields.
    ///
    /// # Errors
    /// A field that no cell of this layout can hold, in one line.
    pub fn cells(&self, fields: &[FieldPath]) -> Result<Vec<CellSpec>, String> {
        let whole =
            |name: CellName| Ok(vec![CellSpec { name, at: "".into(), content: Content::Json(fields.to_vec()) }]);
        let named = |name: &str| CellName::new(name).map_err(|error| error.to_string());
        match self {
            Self::Keyfold | Self::FirestoreDocument { .. } => whole(named(DOC_CELL)?),
            Self::RedisHashJson { field, .. } => whole(field.clone()),
            Self::RedisJsonString { .. } => whole(named(VALUE_CELL)?),
            Self::RedisHashField { .. } => each(fields, |_| Some(ColumnKind::Text)),
            Self::SqlColumns { columns, .. } => each(fields, |column| columns.get(column).copied()),
        }
    }
}

fn each(fields: &[FieldPath], kind: impl Fn(&str) -> Option<ColumnKind>) -> Result<Vec<CellSpec>, String> {
    let mut cells: Vec<CellSpec> = Vec::new();
    for field in fields {
        let Some((column, rest)) = field.split_first() else {
            return Err(format!("`{field}` names no single column or hash field first"));
        };
        let name = CellName::new(column).map_err(|error| error.to_string())?;
        let inner = !rest.as_str().is_empty();
        match (kind(column), inner) {
            (Some(ColumnKind::Text), false) => {
                cells.push(CellSpec { name, at: field.as_str().into(), content: Content::Text });
            }
            (Some(ColumnKind::Json | ColumnKind::Jsonb), true) => {
                match cells.iter_mut().find(|cell| cell.name == name) {
                    Some(CellSpec { content: Content::Json(paths), .. }) => paths.push(rest),
                    _ => {
                        let at = &field.as_str()[..field.as_str().len() - rest.as_str().len()];
                        cells.push(CellSpec { name, at: at.into(), content: Content::Json(vec![rest]) });
                    }
                }
            }
            (Some(ColumnKind::Text), true) => {
                return Err(format!("`{field}` goes into `{column}`, which holds no JSON"));
            }
            (Some(_), false) => {
                return Err(format!("`{column}` holds JSON; name the place inside, as `/{column}/password`"));
            }
            (None, _) => return Err(format!("`{column}` is not listed under `columns`")),
        }
    }
    Ok(cells)
}

/// A cell with secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellSpec {
    /// Which.
    pub name: CellName,
    /// What comes before a pointer inside the cell, to make it one of the record: empty, or `/settings`.
    pub at: Box<str>,
    /// Where in it.
    pub content: Content,
}

impl CellSpec {
    /// The paths inside of it, where it is JSON.
    #[must_use]
    pub fn paths(&self) -> Option<&[FieldPath]> {
        match &self.content {
            Content::Json(paths) => Some(paths),
            Content::Text => None,
        }
    }
}

/// Where in a cell the secrets are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The cell is the secret.
    Text,
    /// It is JSON text with secrets at these paths.
    Json(Vec<FieldPath>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[&str]) -> Vec<FieldPath> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_row_has_a_cell_for_each_column_and_pointers_go_on_inside_json() {
        let columns = BTreeMap::from([("token".into(), ColumnKind::Text), ("settings".into(), ColumnKind::Json)]);
        let layout = Layout::SqlColumns { table: "users".into(), key: vec!["id".into()], columns, legacy: None };
        let cells = layout.cells(&fields(&["/settings/smtp/password", "/token", "/settings/keys/*"])).unwrap();
        assert_eq!(cells.len(), 2);
        assert_eq!((cells[0].name.as_str(), &*cells[0].at), ("settings", "/settings"));
        assert_eq!(cells[0].content, Content::Json(fields(&["/smtp/password", "/keys/*"])));
        assert_eq!((cells[1].name.as_str(), &*cells[1].at, &cells[1].content), ("token", "/token", &Content::Text));
        for bad in ["/token/x", "/settings", "/other", "", "/*"] {
            assert!(layout.cells(&fields(&[bad])).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_document_is_one_cell() {
        let cells = Layout::Keyfold.cells(&fields(&["/a", "/b/*"])).unwrap();
        assert_eq!((cells.len(), cells[0].name.as_str(), &*cells[0].at), (1, DOC_CELL, ""));
    }
}
