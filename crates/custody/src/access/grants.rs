//! Grants: who may do what, where, until when. What no grant allows is refused; there is no rule that denies, and so no order
//! to get wrong.
//!
//! ```toml
//! [[grants]]
//! to = "agent:triage"
//! may = ["list", "use"]
//! collections = ["instances"]
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use jiff::civil::Date;
use keyfold_core::audit::Actor;
use toml::{Table, Value};

use super::{Pattern, Place, Right, RightSet};
use crate::{
    config::{Mistake, day},
    store::CollectionId,
};

/// A set of grants over this many is not written by people.
const MAX_GRANTS: usize = 10_000;
/// How many actors' grants are remembered.
const REMEMBERED: usize = 10_000;

/// To whom a grant speaks: one pattern or several.
pub type Subjects = Vec<String>;

/// Which values outside of records a grant covers.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[serde(untagged)]
pub enum Values {
    /// None.
    #[default]
    #[serde(serialize_with = "as_false")]
    None,
    /// All.
    #[serde(serialize_with = "as_true")]
    Any,
    /// Those whose context has all of these entries.
    With(BTreeMap<String, String>),
}

fn as_false<S: serde::Serializer>(s: S) -> Result<S::Ok, S::Error> {
    s.serialize_bool(false)
}

fn as_true<S: serde::Serializer>(s: S) -> Result<S::Ok, S::Error> {
    s.serialize_bool(true)
}

/// One grant as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct GrantSpec {
    /// Actors, as patterns: `agent:triage`, `agent:*`. Empty where the grant narrows a token.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to: Subjects,
    /// Rights.
    pub may: Vec<&'static str>,
    /// Collections by name, or `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub collections: Vec<String>,
    /// Records, as patterns; all where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<String>,
    /// Fields, as patterns over pointers; all where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// Values that lie in no record.
    pub values: Values,
    /// Destinations by name, or `*`: where `use` lets credentials go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<String>,
    /// The methods of calls to them, in capitals; all where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// The paths of calls to them, as patterns; all where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// The last day (UTC, inclusive).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Date>,
}

/// One grant, compiled.
#[derive(Debug, Clone)]
pub struct Grant {
    name: String,
    spec: GrantSpec,
    to: Vec<Pattern>,
    may: RightSet,
    /// `None` for all.
    collections: Option<Vec<CollectionId>>,
    records: Vec<Pattern>,
    fields: Vec<Pattern>,
    paths: Vec<Pattern>,
}

impl Grant {
    /// What explanations call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As it was written.
    #[must_use]
    pub const fn spec(&self) -> &GrantSpec {
        &self.spec
    }

    pub(super) fn may(&self, right: Right, today: Date) -> bool {
        self.may.has(right) && self.spec.until.is_none_or(|until| today <= until)
    }

    /// Whether it allows `right` in `place` today.
    #[must_use]
    pub fn covers(&self, right: Right, place: &Place<'_>, today: Date) -> bool {
        self.may(right, today) && self.reaches(right, place)
    }

    fn reaches(&self, right: Right, place: &Place<'_>) -> bool {
        // What is listed is redacted, whatever the field.
        let whole = || self.fields.is_empty() || right == Right::List;
        match *place {
            Place::Anywhere => false,
            Place::Everything => {
                self.is_everywhere() && (right != Right::Use || self.spec.destinations.iter().any(|name| name == "*"))
            }
            Place::Deployment => right.is_whole() || self.is_everywhere(),
            Place::Collection(collection) => self.collection(collection) && self.records.is_empty() && whole(),
            Place::Record(collection, record) => self.record(collection, record.as_str()) && whole(),
            Place::Field(collection, record, field) => {
                self.record(collection, record.as_str()) && (self.fields.is_empty() || any(&self.fields, field))
            }
            Place::Destination(name, call) => {
                let Self { spec: GrantSpec { destinations, methods, .. }, paths, .. } = self;
                right == Right::Use
                    && destinations.iter().any(|mine| mine == "*" || mine == name)
                    && match call {
                        None => methods.is_empty() && paths.is_empty(),
                        Some((method, path)) => {
                            (methods.is_empty() || methods.iter().any(|mine| mine == method))
                                && (paths.is_empty() || any(paths, path))
                        }
                    }
            }
            Place::Value(entries) => match &self.spec.values {
                Values::None => false,
                Values::Any => true,
                Values::With(wanted) => {
                    wanted.iter().all(|(key, value)| entries.iter().any(|(k, v)| k == key && v == value))
                }
            },
        }
    }

    fn is_everywhere(&self) -> bool {
        self.collections.is_none()
            && self.records.is_empty()
            && self.fields.is_empty()
            && self.spec.values == Values::Any
    }

    fn collection(&self, collection: &CollectionId) -> bool {
        self.collections.as_ref().is_none_or(|mine| mine.contains(collection))
    }

    fn record(&self, collection: &CollectionId, record: &str) -> bool {
        self.collection(collection) && (self.records.is_empty() || any(&self.records, record))
    }
}

fn any(patterns: &[Pattern], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

impl GrantSpec {
    /// Reads the grant that narrows a token: everything but `to`.
    ///
    /// # Errors
    /// Every mistake.
    pub fn parse_one(table: &Table) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let spec = read(table, "", false, &mut mistakes);
        if mistakes.is_empty() { Ok(spec) } else { Err(mistakes) }
    }

    /// Compiles it against the collections that there are.
    ///
    /// # Errors
    /// A collection that is not configured.
    pub fn compile(self, collection: &dyn Fn(&str) -> Option<CollectionId>) -> Result<Grant, Vec<Mistake>> {
        compile(self, "", "the token".into(), collection)
    }
}

const KEYS: [&str; 10] =
    ["to", "may", "collections", "records", "fields", "values", "destinations", "methods", "paths", "until"];

fn read(table: &Table, place: &str, with_subjects: bool, mistakes: &mut Vec<Mistake>) -> GrantSpec {
    let at = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
    let mut wrong = |key: &str, what: String| mistakes.push(Mistake { place: at(key), what });
    for key in table.keys().filter(|key| !KEYS.contains(&key.as_str()) || (!with_subjects && *key == "to")) {
        wrong(key, format!("unknown key; known here: {}", KEYS[usize::from(!with_subjects)..].join(", ")));
    }
    let mut list = |key: &str| -> Vec<String> {
        match table.get(key) {
            None => Vec::new(),
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(many)) if many.iter().all(Value::is_str) => {
                many.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            Some(_) => {
                wrong(key, "must be a string or a list of strings".into());
                Vec::new()
            }
        }
    };
    let (to, may, collections) = (list("to"), list("may"), list("collections"));
    let (records, fields) = (list("records"), list("fields"));
    let (destinations, methods, paths) = (list("destinations"), list("methods"), list("paths"));
    if with_subjects && to.is_empty() && !table.get("to").is_some_and(|to| !to.is_str() && !to.is_array()) {
        wrong("to", "say to whom, for example \"agent:triage\" or \"service:*\"".into());
    }
    for (i, to) in to.iter().enumerate() {
        if !to.split_once(':').is_some_and(|(kind, id)| !kind.is_empty() && !kind.contains('*') && !id.is_empty()) {
            wrong(&format!("to[{i}]"), "an actor is kind:id, for example \"agent:triage\" or \"agent:*\"".into());
        }
    }
    let mut rights = Vec::new();
    for (i, text) in may.iter().enumerate() {
        match (text.as_str(), text.parse::<Right>()) {
            ("*", _) => rights.extend(Right::ALL),
            (_, Ok(right)) => rights.push(right),
            (_, Err(error)) => wrong(&format!("may[{i}]"), error.to_string()),
        }
    }
    if may.is_empty() {
        wrong("may", "say what, for example [\"list\", \"use\"]".into());
    }
    let values = match table.get("values") {
        None | Some(Value::Boolean(false)) => Values::None,
        Some(Value::Boolean(true)) => Values::Any,
        Some(Value::Table(entries)) if !entries.is_empty() && entries.values().all(Value::is_str) => Values::With(
            entries.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
        ),
        Some(_) => {
            wrong(
                "values",
                "must be true, or the context entries a value must have, for example { team = \"a\" }".into(),
            );
            Values::None
        }
    };
    let until = table.get("until").and_then(|value| {
        let day = day(value);
        if day.is_none() {
            wrong("until", "must be a day, for example 2027-01-31".into());
        }
        day
    });
    let scoped = !records.is_empty() || !fields.is_empty();
    if scoped && collections.is_empty() {
        wrong("collections", "`records` and `fields` need the collections that they are in".into());
    }
    if destinations.is_empty() && !(methods.is_empty() && paths.is_empty()) {
        wrong("destinations", "`methods` and `paths` need the destinations that they are of".into());
    }
    if methods.iter().any(|method| method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase())) {
        wrong("methods", "are HTTP methods in capitals, for example [\"GET\"]".into());
    }
    if paths.iter().any(|path| !path.starts_with(['/', '*'])) {
        wrong("paths", "begin with `/`, for example [\"/v2/entries:list\", \"/v2/projects/*\"]".into());
    }
    if !destinations.is_empty() && !rights.contains(&Right::Use) {
        wrong("destinations", "are for the right `use`, which the grant does not give".into());
    }
    let everywhere = collections.iter().any(|name| name == "*") && values == Values::Any && !scoped;
    let nowhere = collections.is_empty() && values == Values::None && destinations.is_empty();
    for right in rights.iter().filter(|right| right.is_whole()) {
        if !everywhere && !nowhere {
            wrong("may", format!("`{right}` is about the whole deployment; give it in a grant without collections"));
        }
    }
    if nowhere && rights.iter().any(|right| !right.is_whole()) {
        let what = "say where: collections = [\"NAME\"] or [\"*\"], values = true, or destinations = [\"NAME\"]";
        wrong("collections", what.into());
    }
    let may = rights.into_iter().map(Right::as_str).collect();
    GrantSpec { to, may, collections, records, fields, values, destinations, methods, paths, until }
}

fn compile(
    spec: GrantSpec,
    place: &str,
    name: String,
    collection: &dyn Fn(&str) -> Option<CollectionId>,
) -> Result<Grant, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let all = spec.collections.iter().any(|name| name == "*");
    let mut ids = Vec::new();
    for name in spec.collections.iter().filter(|name| *name != "*") {
        match collection(name) {
            Some(id) => ids.push(id),
            None => {
                let dot = if place.is_empty() { "" } else { "." };
                let what = format!("no collection `{}` is configured", name.chars().take(64).collect::<String>());
                mistakes.push(Mistake { place: format!("{place}{dot}collections"), what });
            }
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::new(text)).collect::<Vec<_>>();
    Ok(Grant {
        name,
        to: patterns(&spec.to),
        may: spec.may.iter().filter_map(|word| word.parse().ok()).collect(),
        collections: (!all).then_some(ids),
        records: patterns(&spec.records),
        fields: patterns(&spec.fields),
        paths: patterns(&spec.paths),
        spec,
    })
}

const KINDS: [(&str, &[Right]); 3] = [
    ("operator", &Right::ALL),
    ("service", &[Right::Seal, Right::Open, Right::Use, Right::List]),
    ("agent", &[Right::Use, Right::List]),
];

fn default_of(kind: &str) -> Option<Grant> {
    let (_, rights) = KINDS.iter().find(|(known, _)| *known == kind)?;
    let spec = GrantSpec {
        to: vec![format!("{kind}:*")],
        may: rights.iter().map(|right| right.as_str()).collect(),
        collections: vec!["*".into()],
        values: Values::Any,
        destinations: if rights.contains(&Right::Use) { vec!["*".into()] } else { Vec::new() },
        ..GrantSpec::default()
    };
    compile(spec, "", format!("the default for every {kind}"), &|_| None).ok()
}

/// All grants of a deployment, compiled.
#[derive(Debug)]
pub struct Grants {
    all: Vec<Arc<Grant>>,
    of: RwLock<HashMap<Actor, Arc<[Arc<Grant>]>>>,
}

impl Default for Grants {
    /// The defaults of every kind.
    fn default() -> Self {
        Self::of_all(KINDS.iter().filter_map(|(kind, _)| default_of(kind)).collect())
    }
}

impl Grants {
    fn of_all(all: Vec<Grant>) -> Self {
        Self { all: all.into_iter().map(Arc::new).collect(), of: RwLock::default() }
    }

    /// Reads `grants` and `default_grants` of a configuration.
    ///
    /// # Errors
    /// Every mistake, collections that are not configured among them.
    pub fn parse(table: &Table, collection: &dyn Fn(&str) -> Option<CollectionId>) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let mut wrong = |place: &str, what: String| mistakes.push(Mistake { place: place.into(), what });
        let mut all = Vec::new();
        match table.get("default_grants") {
            None => all.extend(KINDS.iter().filter_map(|(kind, _)| default_of(kind))),
            Some(Value::Array(kinds)) => {
                for (i, kind) in kinds.iter().enumerate() {
                    match kind.as_str().and_then(default_of) {
                        Some(grant) => all.push(grant),
                        None => wrong(&format!("default_grants[{i}]"), "must be operator, service or agent".into()),
                    }
                }
            }
            Some(_) => wrong("default_grants", "must be a list of operator, service and agent".into()),
        }
        let listed = match table.get("grants") {
            None => &[][..],
            Some(Value::Array(listed)) => &listed[..],
            Some(_) => {
                wrong("grants", "must be a list of tables, [[grants]]".into());
                &[]
            }
        };
        if listed.len() > MAX_GRANTS {
            wrong("grants", format!("at most {MAX_GRANTS} can be listed"));
        }
        for (i, value) in listed.iter().take(MAX_GRANTS).enumerate() {
            let place = format!("grants[{i}]");
            let Some(table) = value.as_table() else {
                mistakes.push(Mistake { place, what: "must be a table".into() });
                continue;
            };
            let before = mistakes.len();
            let spec = read(table, &place, true, &mut mistakes);
            if mistakes.len() == before {
                match compile(spec, &place, place.clone(), collection) {
                    Ok(grant) => all.push(grant),
                    Err(more) => mistakes.extend(more),
                }
            }
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Self::of_all(all))
    }

    /// The same with the grants of another set added.
    #[must_use]
    pub fn with(&self, more: &Self) -> Self {
        Self { all: self.all.iter().chain(&more.all).cloned().collect(), of: RwLock::default() }
    }

    /// All of them, the defaults first.
    pub fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.all.iter().map(|grant| &**grant)
    }

    /// What they say of destinations that are not configured.
    #[must_use]
    pub fn strangers(&self, known: &dyn Fn(&str) -> bool) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        for grant in self.iter() {
            for name in grant.spec.destinations.iter().filter(|name| *name != "*" && !known(name)) {
                let name: String = name.chars().take(64).collect();
                let what = format!("no destination `{name}` is configured");
                mistakes.push(Mistake { place: format!("{}.destinations", grant.name), what });
            }
        }
        mistakes
    }

    /// Those that speak of an actor.
    #[must_use]
    pub fn of(&self, actor: &Actor) -> Arc<[Arc<Grant>]> {
        if let Some(known) = self.of.read().unwrap_or_else(PoisonError::into_inner).get(actor) {
            return Arc::clone(known);
        }
        let mine = |grant: &&Arc<Grant>| any(&grant.to, actor.as_str());
        let grants: Arc<[Arc<Grant>]> = self.all.iter().filter(mine).cloned().collect();
        let mut of = self.of.write().unwrap_or_else(PoisonError::into_inner);
        if of.len() < REMEMBERED {
            of.insert(actor.clone(), Arc::clone(&grants));
        }
        grants
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::RecordKey;

    fn a(name: &str) -> Option<CollectionId> {
        (name == "a").then(|| CollectionId::new("id-a").unwrap())
    }

    fn parse(text: &str) -> Result<Grants, Vec<Mistake>> {
        Grants::parse(&text.parse().unwrap(), &a)
    }

    fn decide(grants: &Grants, actor: &str, right: Right, place: &Place<'_>) -> bool {
        let today = "2026-11-22".parse().unwrap();
        grants.of(&Actor::new(actor).unwrap()).iter().any(|grant| grant.covers(right, place, today))
    }

    #[test]
    fn the_defaults_let_an_agent_use_and_list_and_nothing_else() {
        let grants = parse("").unwrap();
        let id = CollectionId::new("id-a").unwrap();
        let place = Place::Collection(&id);
        for (actor, rights) in [
            ("operator:o", &Right::ALL[..]),
            ("service:s", &[Right::Seal, Right::Open, Right::Use, Right::List]),
            ("agent:a", &[Right::Use, Right::List]),
            ("user:u", &[]),
        ] {
            for right in Right::ALL {
                let place = if right.is_whole() { &Place::Deployment } else { &place };
                assert_eq!(decide(&grants, actor, right, place), rights.contains(&right), "{actor} {right}");
            }
        }
        let none = parse("default_grants = []").unwrap();
        assert!(!decide(&none, "operator:o", Right::List, &place));
    }

    #[test]
    fn a_grant_reaches_as_far_as_it_says() {
        let grants = parse(
            "default_grants = []\n[[grants]]\nto = \"agent:x\"\nmay = \"open\"\ncollections = \"a\"\nrecords = \
             \"redis-*\"\nfields = [\"/password\"]\nuntil = 2026-11-22\n[[grants]]\nto = [\"agent:v\"]\nmay = [\"seal\"]\n\
             values = { team = \"t\" }\n",
        )
        .unwrap();
        let (id, other) = (CollectionId::new("id-a").unwrap(), CollectionId::new("b").unwrap());
        let (redis, sql) = (RecordKey::new("redis-1").unwrap(), RecordKey::new("sql-1").unwrap());
        let open = |place: &Place<'_>| decide(&grants, "agent:x", Right::Open, place);
        assert!(open(&Place::Field(&id, &redis, "/password")));
        assert!(!open(&Place::Field(&id, &redis, "/user")));
        assert!(!open(&Place::Field(&id, &sql, "/password")));
        assert!(!open(&Place::Field(&other, &redis, "/password")));
        assert!(!open(&Place::Record(&id, &redis)), "all its fields are more than one");
        assert!(!open(&Place::Collection(&id)));
        assert!(!decide(&grants, "agent:y", Right::Open, &Place::Field(&id, &redis, "/password")));
        let seal = |entries: &[(&str, &str)]| decide(&grants, "agent:v", Right::Seal, &Place::Value(entries));
        assert!(seal(&[("team", "t"), ("x", "y")]));
        assert!(!seal(&[("team", "u")]));
        assert!(!seal(&[]));
        let tomorrow = "2026-11-23".parse().unwrap();
        let ended = grants.of(&Actor::new("agent:x").unwrap());
        assert!(!ended[0].covers(Right::Open, &Place::Field(&id, &redis, "/password"), tomorrow));
    }

    #[test]
    fn a_grant_to_use_a_destination_reaches_the_calls_that_it_names() {
        let grants = parse(
            "default_grants = []\n[[grants]]\nto = \"agent:x\"\nmay = \"use\"\ndestinations = [\"logs\"]\nmethods = [\"GET\"]\npaths = \
             [\"/v2/*\"]\n[[grants]]\nto = \"agent:y\"\nmay = \"use\"\ndestinations = [\"*\"]\n[[grants]]\nto = \"agent:z\"\nmay = \
             [\"use\"]\ncollections = [\"*\"]\nvalues = true\n",
        )
        .unwrap();
        let uses = |actor: &str, name: &str, call| decide(&grants, actor, Right::Use, &Place::Destination(name, call));
        assert!(uses("agent:x", "logs", Some(("GET", "/v2/a/b"))));
        for (name, call) in [
            ("logs", Some(("POST", "/v2/a"))),
            ("logs", Some(("GET", "/v1/a"))),
            ("logs", None),
            ("other", Some(("GET", "/v2/a"))),
        ] {
            assert!(!uses("agent:x", name, call), "{name} {call:?}");
            assert!(uses("agent:y", name, call), "{name} {call:?}");
            assert!(!uses("agent:z", name, call), "collections are no destinations");
        }
        assert!(!decide(&grants, "agent:y", Right::Open, &Place::Destination("logs", None)));
        let strangers = grants.strangers(&|name| name == "log");
        assert_eq!(strangers.len(), 1);
        assert_eq!(strangers[0].to_string(), "grants[0].destinations: no destination `logs` is configured");
    }

    #[test]
    fn every_mistake_in_grants_is_said_with_its_place() {
        let mistakes = parse(
            "default_grants = [\"boss\"]\n[[grants]]\nmay = [\"fly\"]\ncollections = [\"b\"]\n[[grants]]\nto = \
             \"triage\"\nmay = [\"manage\"]\ncollections = [\"a\"]\ncolour = 1\n[[grants]]\nto = \"agent:x\"\nmay = \
             \"list\"\n[[grants]]\nto = \"agent:x\"\nmay = \"list\"\ncollections = [\"b\"]\nuntil = \"soon\"\nvalues = 3\n[[grants]]\n\
             to = \"agent:x\"\nmay = \"list\"\ncollections = [\"b\"]",
        )
        .unwrap_err();
        let all: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        let all = all.join("\n");
        for says in [
            "default_grants[0]: must be",
            "grants[0].to: say to whom",
            "grants[0].may[0]: must be one of",
            "grants[1].colour: unknown key",
            "grants[1].to[0]: an actor is kind:id",
            "grants[1].may: `manage` is about the whole deployment",
            "grants[2].collections: say where",
            "grants[3].until: must be a day",
            "grants[3].values: must be true",
            "grants[4].collections: no collection `b`",
        ] {
            assert!(all.contains(says), "{says}\n---\n{all}");
        }
    }
}
