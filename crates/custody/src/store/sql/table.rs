//! What a layout says about a table, and what is wrong with it.

use std::collections::{BTreeMap, HashMap};

use crate::{
    layout::place::{ColumnKind, Layout},
    store::{CollectionId, StoreError},
};

/// The part of a layout that is about SQL.
pub(super) struct Declared {
    /// The table's schema, where one is named.
    pub(super) schema: Option<String>,
    /// The table's name.
    pub(super) table: String,
    /// As it was written, for messages.
    pub(super) written: String,
    /// The columns of the key.
    pub(super) key: Vec<Box<str>>,
    /// The columns with secrets.
    pub(super) columns: BTreeMap<Box<str>, ColumnKind>,
    /// The column that stands for them in a table of an older version, as bytes.
    pub(super) legacy: Option<Box<str>>,
}

impl Declared {
    fn of(collection: &CollectionId, layout: Layout) -> Result<Self, StoreError> {
        let Layout::SqlColumns { table: written, key, columns, legacy } = layout else {
            return Err(StoreError::invalid(format!(
                "collection `{collection}` has the layout {}, and a database holds sql-columns",
                layout.as_str()
            )));
        };
        let mut names = parts(&written).filter(|names| names.len() <= 2).ok_or_else(|| {
            StoreError::invalid(format!("collection `{collection}`: `{written}` is not TABLE or SCHEMA.TABLE"))
        })?;
        let table = names.pop().unwrap_or_default();
        Ok(Self { schema: names.pop(), table, written: written.into(), key, columns, legacy })
    }

    /// The legacy column, if the table has it and none of the declared ones.
    pub(super) fn only_legacy(&self, has: impl Fn(&str) -> bool) -> Option<&str> {
        let legacy = self.legacy.as_deref().filter(|name| has(name))?;
        (!self.columns.keys().any(|name| has(name))).then_some(legacy)
    }

    /// All collections of a store.
    pub(super) fn all(layouts: HashMap<CollectionId, Layout>) -> Result<Vec<(CollectionId, Self)>, StoreError> {
        layouts
            .into_iter()
            .map(|(collection, layout)| Ok((collection.clone(), Self::of(&collection, layout)?)))
            .collect()
    }
}

/// `schema.table` as its names. A name with a dot in it stands in double quotes, as in SQL.
fn parts(written: &str) -> Option<Vec<String>> {
    let mut names = vec![String::new()];
    let (mut quoted, mut chars) = (false, written.chars().peekable());
    while let Some(c) = chars.next() {
        let name = names.last_mut()?;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                name.push('"');
            }
            '"' => quoted = !quoted,
            '.' if !quoted => names.push(String::new()),
            c => name.push(c),
        }
    }
    (!quoted && names.iter().all(|name| !name.is_empty() && !name.contains('\0'))).then_some(names)
}

/// An identifier, exactly as it is in the catalog.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names for a message.
pub(super) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const MOST: usize = 30;
    let names: Vec<_> = names.into_iter().collect();
    if names.is_empty() {
        return "none".into();
    }
    let more = if names.len() > MOST { ", …" } else { "" };
    format!("{}{more}", names[..names.len().min(MOST)].join(", "))
}

/// The mistakes of all collections as one error.
pub(super) fn refuse(store: String, mistakes: &[String]) -> Result<(), StoreError> {
    if mistakes.is_empty() {
        return Ok(());
    }
    Err(StoreError::Layout { store, what: mistakes.join("; ") })
}

pub(super) fn unknown(collection: &CollectionId) -> StoreError {
    StoreError::invalid(format!("collection `{collection}` has no table in this database"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_may_have_a_schema_and_odd_names_in_quotes() {
        assert_eq!(parts("users").unwrap(), ["users"]);
        assert_eq!(parts("public.Users").unwrap(), ["public", "Users"]);
        assert_eq!(parts(r#"my."odd.""na me""#).unwrap(), ["my", "odd.\"na me"]);
        for bad in ["", ".users", "a..b", "\"open", "a."] {
            assert_eq!(parts(bad), None, "{bad}");
        }
        assert_eq!(quote("it\"s"), "\"it\"\"s\"");
    }
}
