//! `keyfold.toml`: parsed once, every mistake reported in one run.

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::civil::Date;
use keyfold_core::{
    accept::{Accept, AcceptError, Rule},
    envelope::{Format, Reading},
    error::Hint,
};
use toml::{Table, Value};

use crate::{
    access::Grants,
    broker::Routes,
    collection::Collection,
    layout::{
        path::FieldPath,
        place::{CellSpec, Layout},
    },
    sessions,
    store::CollectionId,
};

mod audit;
mod layout;

pub use audit::{AuditSettings, duration};

/// A configuration file over this many bytes is not one.
pub const MAX_CONFIG: usize = 1 << 20;

/// What the file says.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The URI of the root key; the data folder's `root.key` where absent.
    pub root_key: Option<String>,
    /// The address of the system store, or the place of one; the data folder's own database where absent.
    pub system: Option<String>,
    /// By display name.
    pub collections: BTreeMap<String, Collection>,
    /// Who may do what, over the service.
    pub grants: Arc<Grants>,
    /// How the audit log is kept.
    pub audit: AuditSettings,
    /// What concerns the service alone; it reads this table itself.
    pub server: Table,
    /// What concerns sessions and their issuers; the service reads this table itself.
    pub sessions: Table,
    /// Where users' credentials may go.
    pub routes: Routes,
    /// What concerns the proxy alone; it reads this table itself.
    pub proxy: Table,
}

/// One mistake: where, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The place, as a dotted path.
    pub place: String,
    /// One line.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() { f.write_str(&self.what) } else { write!(f, "{}: {}", self.place, self.what) }
    }
}

/// All mistakes of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<Mistake>);

impl Hint for ConfigError {
    fn hint(&self) -> Option<String> {
        Some("mend every line above, then run `keyfold config check`; docs/configure.md lists all keys".into())
    }
}

impl Config {
    /// The collection of that name.
    #[must_use]
    pub fn collection(&self, name: &str) -> Option<&Collection> {
        self.collections.get(name)
    }

    /// The id that grants mean by a name.
    #[must_use]
    pub fn collection_id(&self, name: &str) -> Option<CollectionId> {
        id_of(&self.collections, name)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let single = |what: String| ConfigError(vec![Mistake { place: String::new(), what }]);
        if text.len() > MAX_CONFIG {
            return Err(single("the file is over 1 MiB".into()));
        }
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let at = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            single(format!("line {at}: {}", error.message()))
        })?;
        let mut reader = Reader::default();
        let config = reader.config(&table);
        if reader.mistakes.is_empty() { Ok(config) } else { Err(ConfigError(reader.mistakes)) }
    }
}

#[derive(Default)]
struct Reader {
    mistakes: Vec<Mistake>,
}

impl Reader {
    fn mistake(&mut self, place: &str, what: impl Into<String>) {
        self.mistakes.push(Mistake { place: place.into(), what: what.into() });
    }

    fn unknown(&mut self, table: &Table, place: &str, known: &[&str]) {
        for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
            let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
            self.mistake(&place, format!("unknown key; known here: {}", known.join(", ")));
        }
    }

    fn text<'a>(&mut self, table: &'a Table, place: &str, key: &str) -> Option<&'a str> {
        let value = table.get(key)?;
        let text = value.as_str();
        if text.is_none() {
            self.mistake(&format!("{place}{key}"), "must be a string");
        }
        text
    }

    fn config(&mut self, table: &Table) -> Config {
        self.unknown(
            table,
            "",
            &[
                "root_key",
                "system",
                "collections",
                "grants",
                "default_grants",
                "audit",
                "server",
                "sessions",
                "enforcement",
                "destinations",
                "proxy",
            ],
        );
        let root_key = self.text(table, "", "root_key").map(str::to_owned);
        let system = self.address(table, "system", "uri");
        let mut collections: BTreeMap<String, Collection> = BTreeMap::new();
        match table.get("collections") {
            None => {}
            Some(Value::Table(listed)) => {
                for (name, value) in listed {
                    let place = format!("collections.{name}");
                    let Some(value) = value.as_table() else {
                        self.mistake(&place, "must be a table");
                        continue;
                    };
                    if let Some(collection) = self.collection(name, &place, value) {
                        if let Some(other) = collections.values().find(|other| other.id == collection.id) {
                            let what = format!("has the id of collection `{}`", other.name);
                            self.mistake(&format!("{place}.id"), what);
                        }
                        collections.insert(name.clone(), collection);
                    }
                }
            }
            Some(_) => self.mistake("collections", "must be a table of tables, [collections.NAME]"),
        }
        let id_of = |name: &str| id_of(&collections, name);
        let grants = Grants::parse(table, &id_of).unwrap_or_else(|mistakes| {
            self.mistakes.extend(mistakes);
            Grants::default()
        });
        let server = self.table(table, "server");
        let sessions = self.table(table, "sessions");
        let routes = Routes::parse(table).unwrap_or_else(|mistakes| {
            self.mistakes.extend(mistakes);
            Routes::default()
        });
        for destination in routes.iter() {
            let lent = destination.secret.as_ref().map(|lent| lent.collection.as_str());
            if lent.is_some_and(|name| collections.get(name).is_none_or(|found| found.layout.is_foreign())) {
                let what = "names a collection that is not configured, or whose records are another program's";
                self.mistake(&format!("destinations.{}.secret", destination.name), what);
            }
        }
        self.mistakes.extend(grants.strangers(&|name| routes.named(name).is_some()));
        let proxy = self.table(table, "proxy");
        let audit = self.audit(table);
        Config { root_key, system, collections, grants: Arc::new(grants), audit, server, sessions, routes, proxy }
    }

    /// A table that somebody else reads.
    fn table(&mut self, table: &Table, key: &str) -> Table {
        match table.get(key) {
            None => Table::new(),
            Some(Value::Table(found)) => found.clone(),
            Some(_) => {
                self.mistake(key, format!("must be a table, [{key}]"));
                Table::new()
            }
        }
    }

    /// The one text of a table of that name, such as `[system] uri`.
    fn address(&mut self, table: &Table, name: &str, key: &str) -> Option<String> {
        let Some(inner) = table.get(name)?.as_table() else {
            self.mistake(name, format!("must be a table, [{name}]"));
            return None;
        };
        self.unknown(inner, name, &[key]);
        let text = self.text(inner, &format!("{name}."), key);
        if inner.get(key).is_none() {
            self.mistake(&format!("{name}.{key}"), "must be given");
        }
        text.map(str::to_owned)
    }

    fn collection(&mut self, name: &str, place: &str, table: &Table) -> Option<Collection> {
        let before = self.mistakes.len();
        let mut known = vec!["id", "fields", "format", "accept", "reading", "tenant", "layout", "store", "report"];
        let layout = self.layout(place, table, &mut known);
        self.unknown(table, place, &known);
        let dotted = format!("{place}.");
        let id = self.text(table, &dotted, "id").unwrap_or(name);
        let id = CollectionId::new(id).map_err(|error| self.mistake(&format!("{place}.id"), error.to_string())).ok();
        if [Some(name), id.as_ref().map(CollectionId::as_str)].contains(&Some(sessions::COLLECTION)) {
            self.mistake(place, "is the name of what sessions are sealed for; choose another");
        }
        let fields = self.fields(&format!("{place}.fields"), table.get("fields"));
        let reported = table.get("report").map(|listed| self.fields(&format!("{place}.report"), Some(listed)));
        let store = self.text(table, &dotted, "store").map(str::to_owned);
        let cells = layout.as_ref().and_then(|layout| {
            layout.cells(&fields).map_err(|what| self.mistake(&format!("{place}.fields"), what)).ok()
        });
        if let (Some(layout), Some(cells), Some(reported)) = (&layout, &cells, &reported) {
            self.reported(place, (layout, cells), reported);
        }
        let foreign = layout.as_ref().is_some_and(Layout::is_foreign);
        if store.is_some() && !foreign {
            self.mistake(
                &format!("{place}.store"),
                "belongs to a collection with a `layout`; records of our own lie in the data folder",
            );
        }
        let format = self.text(table, &dotted, "format").unwrap_or("kf1").parse::<Format>();
        // What stands there is not repeated, here and below: a secret in the wrong place would be in every log.
        let format = format.map_err(|_| self.mistake(&format!("{place}.format"), "must be \"kf1\" or \"v1\"")).ok();
        // Readers of foreign records open Fernet by themselves; ours would have to trust where a token lies.
        if format == Some(Format::Fernet) && !foreign {
            let what = "new secrets of a collection are sealed as kf1 or v1; Fernet has no binding to a place";
            self.mistake(&format!("{place}.format"), what);
        }
        let reading = match self.text(table, &dotted, "reading") {
            None | Some("strict") => Reading::Strict,
            Some("compat") => Reading::Compat,
            Some(_) => {
                self.mistake(&format!("{place}.reading"), "must be \"strict\" or \"compat\"");
                Reading::Strict
            }
        };
        let tenant = self.text(table, &dotted, "tenant").map(str::to_owned);
        let accept = match table.get("accept") {
            None => format.map(Accept::only),
            Some(value) => self.accept(&format!("{place}.accept"), value),
        };
        if let (Some(format), Some(accept)) = (format, &accept)
            && !accept.rules().iter().any(|rule| rule.what.as_str() == format.as_str() && rule.until.is_none())
        {
            self.mistake(&format!("{place}.accept"), format!("must list `{format}`, which the collection seals in"));
        }
        if self.mistakes.len() > before {
            return None;
        }
        Some(Collection {
            name: name.into(),
            id: id?,
            layout: layout?,
            store,
            fields,
            cells: cells?,
            reported: reported.unwrap_or_default(),
            format: format?,
            accept: accept?,
            reading,
            tenant,
        })
    }

    /// Checks that what is to be reported lies in JSON that is read for secrets anyway.
    fn reported(&mut self, place: &str, (layout, cells): (&Layout, &[CellSpec]), reported: &[FieldPath]) {
        let place = format!("{place}.report");
        for path in reported {
            match layout.cells(std::slice::from_ref(path)) {
                Err(what) => self.mistake(&place, what),
                Ok(at)
                    if at.iter().all(|at| cells.iter().any(|cell| cell.name == at.name && cell.paths().is_some())) => {}
                Ok(_) => self.mistake(&place, format!("`{path}` lies where `fields` reads nothing, or no JSON")),
            }
        }
    }

    fn fields(&mut self, place: &str, value: Option<&Value>) -> Vec<FieldPath> {
        let Some(listed) = value.and_then(Value::as_array).filter(|listed| !listed.is_empty()) else {
            self.mistake(place, "list the fields that hold secrets, for example [\"/password\", \"/nodes/*/token\"]");
            return Vec::new();
        };
        let mut fields: Vec<FieldPath> = Vec::new();
        for (i, value) in listed.iter().enumerate() {
            let place = format!("{place}[{i}]");
            match value.as_str().map(str::parse::<FieldPath>) {
                None => self.mistake(&place, "must be a string"),
                Some(Err(error)) => self.mistake(&place, error.to_string()),
                Some(Ok(path)) if fields.contains(&path) => self.mistake(&place, "is listed twice"),
                Some(Ok(path)) => fields.push(path),
            }
        }
        fields
    }

    fn accept(&mut self, place: &str, value: &Value) -> Option<Accept> {
        let Some(listed) = value.as_array() else {
            self.mistake(place, "must be a list, for example [\"kf1\"]");
            return None;
        };
        let mut rules = Vec::new();
        for (i, value) in listed.iter().enumerate() {
            match self.rule(&format!("{place}[{i}]"), value) {
                Some(Ok(rule)) => rules.push(rule),
                Some(Err((what, hint))) => self.mistake(&format!("{place}[{i}]"), format!("{what}; {hint}")),
                None => {}
            }
        }
        if rules.len() < listed.len() {
            return None;
        }
        let accept = Accept::new(rules);
        accept.map_err(|error| self.mistake(place, error.to_string())).ok()
    }

    fn rule(&mut self, place: &str, value: &Value) -> Option<Result<Rule, (String, String)>> {
        let (format, until) = match value {
            Value::String(format) => (format.as_str(), None),
            Value::Table(table) => {
                self.unknown(table, place, &["format", "until"]);
                let Some(format) = table.get("format").and_then(Value::as_str) else {
                    self.mistake(&format!("{place}.format"), "must be given");
                    return None;
                };
                let until = match table.get("until").map(day) {
                    Some(None) => {
                        self.mistake(&format!("{place}.until"), "must be a day, for example 2027-01-31");
                        return None;
                    }
                    Some(day) => day,
                    None => None,
                };
                (format, until)
            }
            _ => {
                self.mistake(place, "must be a format or { format = …, until = YYYY-MM-DD }");
                return None;
            }
        };
        Some(Rule::new(format, until).map_err(|error| match error {
            AcceptError::UnknownFormat(_) => ("not a format".into(), error.hint().unwrap_or_default()),
            error => (error.to_string(), error.hint().unwrap_or_default()),
        }))
    }
}

/// The id of a collection by its name: those that are configured, and the one of sessions.
fn id_of(collections: &BTreeMap<String, Collection>, name: &str) -> Option<CollectionId> {
    if name == sessions::COLLECTION {
        return Some(sessions::collection());
    }
    collections.get(name).map(|collection| collection.id.clone())
}

/// A day, as TOML or as text.
pub(crate) fn day(value: &Value) -> Option<Date> {
    match value {
        Value::Datetime(at) if at.time.is_none() => at.date?.to_string().parse().ok(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_needs_its_fields_and_nothing_else() {
        let config = Config::parse("[collections.instances]\nfields = [\"/password\", \"/extra/*\"]\n").unwrap();
        let collection = config.collection("instances").unwrap();
        assert_eq!(collection.id.as_str(), "instances");
        assert_eq!(collection.format, Format::Kf1);
        assert_eq!(collection.accept.to_string(), "kf1");
    }

    #[test]
    fn every_mistake_is_reported_in_one_run_with_its_place() {
        let error = Config::parse(
            "rot_key = 1\n[collections.a]\nfields = [\"password\", 3]\nformat = \"rot13\"\n[collections.b]\nfields = \
             [\"/x\"]\naccept = [\"kf1\", \"plaintext\", { format = \"v1\", until = 3 }]\n[collections.c]\nfields = [\"/x\", \
             \"/x\"]\nid = \"b b\"\nreading = \"loose\"\ncolour = \"red\"\n[collections.d]\nfields = [\"/x\"]\naccept = [\"v1\"]",
        )
        .unwrap_err()
        .to_string();
        for says in [
            "rot_key: unknown key",
            "collections.a.fields[0]",
            "collections.a.fields[1]: must be a string",
            "collections.a.format: must be",
            "collections.b.accept[1]: plaintext is accepted without a last day",
            "collections.b.accept[2].until",
            "collections.c.fields[1]: is listed twice",
            "collections.c.id",
            "collections.c.reading",
            "collections.c.colour: unknown key",
            "collections.d.accept: must list `kf1`",
        ] {
            assert!(error.contains(says), "{says}\n---\n{error}");
        }
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let error = Config::parse("[collections.a]\nfields = [\n\"/x\"\n= 3").unwrap_err().to_string();
        assert!(error.contains("line "), "{error}");
    }

    #[test]
    fn two_collections_never_share_an_id() {
        let error = Config::parse(
            "[collections.a]\nfields=[\"/x\"]\nid=\"same\"\n[collections.b]\nfields=[\"/x\"]\nid=\"same\"",
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("has the id of collection `a`"), "{error}");
    }
}
