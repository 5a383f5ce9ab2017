//! The keys of a collection that say how its records are stored.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::Reader;
use crate::{
    layout::place::{ColumnKind, Layout},
    store::CellName,
};

const LAYOUTS: &str = "keyfold, redis-hash-json, redis-json-string, redis-hash-field, sql-columns, firestore-document";

impl Reader {
    /// The layout of a collection, `keyfold` where none is named; the keys that it reads are added to `known`.
    pub(super) fn layout(&mut self, place: &str, table: &Table, known: &mut Vec<&'static str>) -> Option<Layout> {
        let dotted = format!("{place}.");
        match self.text(table, &dotted, "layout").unwrap_or("keyfold") {
            "keyfold" => Some(Layout::Keyfold),
            "redis-hash-json" => {
                known.extend(["keys", "field"]);
                let keys = self.keys(place, table);
                let field = self.name(place, table, "field", "the hash field that holds JSON, for example \"data\"");
                Some(Layout::RedisHashJson { keys: keys?, field: field? })
            }
            "redis-json-string" => {
                known.push("keys");
                Some(Layout::RedisJsonString { keys: self.keys(place, table)? })
            }
            "redis-hash-field" => {
                known.push("keys");
                Some(Layout::RedisHashField { keys: self.keys(place, table)? })
            }
            "sql-columns" => {
                known.extend(["table", "key", "columns"]);
                let name = self.required(place, table, "table", "the table, for example \"users\" or \"public.users\"");
                let key = self.key(place, table);
                let columns = self.columns(place, table);
                Some(Layout::SqlColumns { table: name?.into(), key: key?, columns: columns?, legacy: None })
            }
            "firestore-document" => {
                known.push("path");
                let what = "the collection's path, for example \"agents\" or \"users/*/tokens\"";
                Some(Layout::FirestoreDocument { path: self.required(place, table, "path", what)?.into() })
            }
            _ => {
                self.mistake(&format!("{place}.layout"), format!("must be one of {LAYOUTS}"));
                None
            }
        }
    }

    fn required<'a>(&mut self, place: &str, table: &'a Table, key: &str, what: &str) -> Option<&'a str> {
        match table.get(key).map(Value::as_str) {
            Some(Some(text)) if !text.is_empty() => Some(text),
            _ => {
                self.mistake(&format!("{place}.{key}"), format!("must be given: {what}"));
                None
            }
        }
    }

    fn name(&mut self, place: &str, table: &Table, key: &str, what: &str) -> Option<CellName> {
        let text = self.required(place, table, key, what)?;
        CellName::new(text).map_err(|error| self.mistake(&format!("{place}.{key}"), error.to_string())).ok()
    }

    /// A pattern of keys. One that starts with `*` would go through everything that lies in the store.
    fn keys(&mut self, place: &str, table: &Table) -> Option<Box<str>> {
        let keys = self.required(place, table, "keys", "the keys of the records, for example \"sre_instances:*\"")?;
        if keys.starts_with('*') || keys.contains(['?', '[', ']', '\\']) {
            let what =
                "must start with a name, and may have `*` and no other wildcard, for example \"sre_instances:*\"";
            self.mistake(&format!("{place}.keys"), what);
            return None;
        }
        Some(keys.into())
    }

    fn key(&mut self, place: &str, table: &Table) -> Option<Vec<Box<str>>> {
        let columns = table.get("key").and_then(Value::as_array).map(|listed| {
            listed.iter().map(|value| value.as_str().filter(|text| !text.is_empty()).map(Box::from)).collect()
        });
        match columns {
            Some(Some(columns)) if !Vec::is_empty(&columns) => Some(columns),
            _ => {
                self.mistake(&format!("{place}.key"), "list the columns of the primary key, for example [\"id\"]");
                None
            }
        }
    }

    fn columns(&mut self, place: &str, table: &Table) -> Option<BTreeMap<Box<str>, ColumnKind>> {
        let place = format!("{place}.columns");
        let Some(listed) = table.get("columns").and_then(Value::as_table).filter(|listed| !listed.is_empty()) else {
            self.mistake(
                &place,
                "say what the columns with secrets hold, for example { token = \"text\", state = \"json\" }",
            );
            return None;
        };
        let mut columns = BTreeMap::new();
        for (name, kind) in listed {
            let kind = match kind.as_str() {
                Some("text") => ColumnKind::Text,
                Some("json") => ColumnKind::Json,
                Some("jsonb") => ColumnKind::Jsonb,
                _ => {
                    self.mistake(&format!("{place}.{name}"), "must be \"text\", \"json\" or \"jsonb\"");
                    continue;
                }
            };
            columns.insert(name.as_str().into(), kind);
        }
        Some(columns)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn each_layout_takes_its_own_keys_and_no_other() {
        let config = Config::parse(
            "[collections.users]\nlayout = \"sql-columns\"\nstore = \"env:USERS_DB\"\ntable = \"users\"\nkey = [\"tenant\", \"id\"]\n\
             columns = { token = \"text\", settings = \"json\" }\nfields = [\"/token\", \"/settings/smtp/password\"]\n\
             [collections.hashes]\nlayout = \"redis-hash-json\"\nkeys = \"app:*\"\nfield = \"data\"\nfields = [\"/password\"]\n\
             format = \"fernet\"\n",
        )
        .unwrap();
        let users = config.collection("users").unwrap();
        assert_eq!((users.layout.as_str(), users.cells.len()), ("sql-columns", 2));
        let error = Config::parse(
            "[collections.a]\nlayout = \"redis-hash-json\"\nkeys = \"*\"\ntable = \"x\"\nfields = [\"/p\"]\n\
             [collections.b]\nlayout = \"sql-columns\"\nfields = [\"/p\"]\n[collections.c]\nlayout = \"tape\"\nfields = [\"/p\"]\n\
             [collections.d]\nstore = \"redis://x\"\nfields = [\"/p\"]\nkeys = \"x\"\n",
        )
        .unwrap_err()
        .to_string();
        for says in [
            "collections.a.keys: must start",
            "collections.a.field: must be given",
            "collections.a.table: unknown key",
            "collections.b.table: must be given",
            "collections.b.key: list",
            "collections.b.columns: say",
            "collections.c.layout: must be one of keyfold, redis-hash-json",
            "collections.d.store: belongs",
            "collections.d.keys: unknown key",
        ] {
            assert!(error.contains(says), "{says}\n---\n{error}");
        }
    }
}
