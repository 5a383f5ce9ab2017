//! The smallest grants that would allow what was asked, as the audit log remembers it.
//!
//! The log keeps paths without what looks like an id, so a grant has `*` there; all else is exactly what was asked: a method is
//! granted for the paths that it was used on, and a right for the records and fields that it was used on.

use std::collections::{BTreeMap, BTreeSet};

use keyfold_core::audit::{Action, Actor, Event, Kind};

use super::{GrantSpec, Right};

/// What stands in the log where a path had an id.
const HOLE: &str = "{}";

/// A call to a destination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// The destination, by name; `HOST:PORT` where none is configured there.
    pub destination: String,
    /// The method.
    pub method: String,
    /// The path, with `*` in place of ids; not known of some that were refused.
    pub path: Option<String>,
}

/// What was asked of a collection: `None` where it was all of its records, or all fields.
type Part = (Option<String>, Option<String>);

/// What one actor asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Calls through the proxy, and how often each was made.
    pub calls: BTreeMap<Call, u64>,
    /// Rights on collections, by the collection's id.
    records: BTreeMap<(String, &'static str), BTreeSet<Part>>,
    /// Rights on the deployment as a whole, and others that no place is known of.
    pub elsewhere: BTreeSet<&'static str>,
    /// How many were refused for want of a rule or a grant.
    pub refused: u64,
}

/// What each actor asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learned(BTreeMap<String, Asked>);

impl Learned {
    /// All of it, by actor.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Asked)> {
        self.0.iter().map(|(actor, asked)| (actor.as_str(), asked))
    }

    /// Takes one event in: intents, since what was asked is learned whatever came of it.
    pub fn take(&mut self, event: &Event) {
        let right = match event.action {
            Action::Use | Action::UseFallback => Right::Use,
            Action::RecordGet => Right::Open,
            Action::RecordPut | Action::RecordRemove => Right::Seal,
            Action::Refused => match event.missing.as_ref().and_then(|word| word.as_str().parse().ok()) {
                Some(right) => right,
                None => return,
            },
            _ => return,
        };
        if event.kind != Kind::Intent {
            return;
        }
        let asked = self.0.entry(event.actor.as_str().to_owned()).or_default();
        asked.refused += u64::from(event.action == Action::Refused);
        let text = |name: &Option<keyfold_core::audit::Name>| name.as_ref().map(|name| name.as_str().to_owned());
        match (right, text(&event.field), text(&event.method), text(&event.collection)) {
            (Right::Use, Some(destination), Some(method), _) => {
                let path = event.path.as_ref().map(|path| path.as_str().replace(HOLE, "*"));
                *asked.calls.entry(Call { destination, method, path }).or_default() += 1;
            }
            // Calls that were counted together: the first of them stand in the log one by one.
            (Right::Use, None, _, None) => {}
            (right, field, _, Some(collection)) => {
                let parts = asked.records.entry((collection, right.as_str())).or_default();
                parts.insert((text(&event.record), field));
            }
            (right, _, _, None) => drop(asked.elsewhere.insert(right.as_str())),
        }
    }
}

/// Sets of the same value, by that value.
fn alike<K: Ord, V: Ord>(of: impl IntoIterator<Item = (K, V)>) -> BTreeMap<V, BTreeSet<K>> {
    let mut alike: BTreeMap<V, BTreeSet<K>> = BTreeMap::new();
    for (key, value) in of {
        alike.entry(value).or_default().insert(key);
    }
    alike
}

fn grouped<K: Ord, V: Ord>(of: impl IntoIterator<Item = (K, V)>) -> BTreeMap<K, BTreeSet<V>> {
    let mut grouped: BTreeMap<K, BTreeSet<V>> = BTreeMap::new();
    for (key, value) in of {
        grouped.entry(key).or_default().insert(value);
    }
    grouped
}

fn list(of: impl IntoIterator<Item = String>) -> Vec<String> {
    of.into_iter().collect()
}

impl Asked {
    /// The grants: over the destinations and collections that are `known` (a collection's name by its id), and no others.
    #[must_use]
    pub fn grants(
        &self,
        actor: &Actor,
        destination: &dyn Fn(&str) -> bool,
        collection: &dyn Fn(&str) -> Option<String>,
    ) -> Vec<GrantSpec> {
        let to = vec![actor.as_str().to_owned()];
        let mut grants = Vec::new();
        let calls = self.calls.keys().filter(|call| destination(&call.destination));
        let calls =
            calls.filter_map(|call| Some(((call.destination.clone(), call.path.clone()?), call.method.clone())));
        // Paths of a destination that the same methods were used on, and then destinations that agree in both.
        let paths = alike(grouped(calls)).into_iter().flat_map(|(methods, places)| {
            grouped(places).into_iter().map(move |(destination, paths)| (destination, (methods.clone(), paths)))
        });
        for ((methods, paths), destinations) in alike(paths) {
            grants.push(GrantSpec {
                to: to.clone(),
                may: vec![Right::Use.as_str()],
                destinations: list(destinations),
                methods: list(methods),
                paths: list(paths),
                ..GrantSpec::default()
            });
        }
        let known = self.records.iter().filter_map(|((id, right), parts)| Some(((collection(id)?, *right), parts)));
        let records = known.flat_map(|((collection, right), parts)| {
            let whole = parts.iter().any(|(record, _)| record.is_none());
            let of = grouped(parts.iter().filter_map(|(record, field)| Some((record.clone()?, field.clone()))));
            let of = alike(of).into_iter().map(|(fields, records)| (fields, Some(records)));
            let all = whole.then(|| (BTreeSet::from([None]), None));
            let parts = if whole { all.into_iter().collect() } else { of.collect::<Vec<_>>() };
            parts.into_iter().map(move |(fields, records)| {
                // Where one of them was the whole record, so are they all.
                let fields = if fields.contains(&None) { BTreeSet::new() } else { fields };
                (right, (collection.clone(), records, fields))
            })
        });
        for ((collection, records, fields), rights) in alike(records) {
            grants.push(GrantSpec {
                to: to.clone(),
                may: rights.into_iter().collect(),
                collections: vec![collection],
                records: list(records.into_iter().flatten()),
                fields: list(fields.into_iter().flatten()),
                ..GrantSpec::default()
            });
        }
        grants
    }
}

/// A string as TOML has it. What the log holds has no control characters, and JSON escapes the rest alike.
#[must_use]
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl GrantSpec {
    /// As it is written in keyfold.toml.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let texts = |key: &str, texts: &[&str]| {
            let quoted: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
            if texts.is_empty() { String::new() } else { format!("{key} = [{}]\n", quoted.join(", ")) }
        };
        let all = [
            ("to", &self.to),
            ("collections", &self.collections),
            ("records", &self.records),
            ("fields", &self.fields),
            ("destinations", &self.destinations),
            ("methods", &self.methods),
            ("paths", &self.paths),
        ];
        let mut text = "[[grants]]\n".to_owned();
        for (i, (key, values)) in all.into_iter().enumerate() {
            text += &texts(key, &values.iter().map(String::as_str).collect::<Vec<_>>());
            if i == 0 {
                text += &texts("may", &self.may);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use keyfold_core::{
        audit::{EventId, Name, Word},
        clock::UnixTime,
    };

    use super::*;
    use crate::{
        access::{Grants, Place},
        store::{CollectionId, RecordKey},
    };

    fn event(actor: &str, action: Action) -> Event {
        Event::intent(UnixTime(1_800_000_000), EventId([1; 8]), Actor::new(actor).unwrap(), action)
    }

    fn call(action: Action, method: &str, destination: &str, path: &str) -> Event {
        let mut event = event("agent:a", action);
        event.missing = (action == Action::Refused).then(|| Word::new("use").unwrap());
        event.field = Some(Name::abridge(destination));
        event.method = Some(Name::abridge(method));
        event.path = (!path.is_empty()).then(|| Name::abridge(path));
        event
    }

    fn record(action: Action, record: &str, field: &str) -> Event {
        let mut event = event("agent:a", action);
        event.collection = Some(Name::abridge("id-c"));
        event.record = Some(Name::abridge(record));
        event.field = (!field.is_empty()).then(|| Name::abridge(field));
        event
    }

    fn learned(events: &[Event]) -> (String, Grants) {
        let mut learned = Learned::default();
        events.iter().for_each(|event| learned.take(event));
        let named = |id: &str| (id == "id-c").then(|| "c".to_owned());
        let grants = learned.iter().flat_map(|(actor, asked)| {
            asked.grants(&Actor::new(actor).unwrap(), &|name| name != "evil.test:443", &named)
        });
        let text: String = grants.map(|grant| grant.to_toml()).collect();
        let table = format!("default_grants = []\n{text}").parse().unwrap();
        let id = |name: &str| (name == "c").then(|| CollectionId::new("id-c").unwrap());
        (text, Grants::parse(&table, &id).unwrap())
    }

    #[test]
    fn what_was_asked_is_granted_and_nothing_else() {
        let outcome = {
            let one = call(Action::Use, "PUT", "logs", "/outcome");
            one.outcome(UnixTime(1_800_000_001), Word::done())
        };
        let (text, grants) = learned(&[
            call(Action::Use, "GET", "logs", "/v2/{}/x"),
            call(Action::Use, "GET", "logs", "/v2/{}/x"),
            call(Action::Use, "GET", "logs", "/v2/y"),
            call(Action::Refused, "POST", "logs", "/v2/entries:list"),
            call(Action::UseFallback, "GET", "other", "/v2/y"),
            call(Action::Refused, "GET", "logs", ""),
            call(Action::Refused, "GET", "evil.test:443", "/x"),
            outcome,
            record(Action::RecordGet, "r-1", "/password"),
            record(Action::RecordGet, "r-2", "/password"),
            record(Action::RecordPut, "r-3", ""),
            event("agent:a", Action::KeyPromote),
        ]);
        let today = "2026-11-30".parse().unwrap();
        let of = grants.of(&Actor::new("agent:a").unwrap());
        let may = |right: Right, place: &Place<'_>| of.iter().any(|grant| grant.covers(right, place, today));
        let call =
            |name: &str, method: &str, path: &str| may(Right::Use, &Place::Destination(name, Some((method, path))));
        for (name, method, path, allowed) in [
            ("logs", "GET", "/v2/17/x", true),
            ("logs", "GET", "/v2/y", true),
            ("logs", "POST", "/v2/entries:list", true),
            ("other", "GET", "/v2/y", true),
            ("logs", "POST", "/v2/y", false),
            ("logs", "GET", "/v2/entries:list", false),
            ("logs", "PUT", "/outcome", false),
            ("other", "GET", "/v2/17/x", false),
            ("evil.test:443", "GET", "/x", false),
        ] {
            assert_eq!(call(name, method, path), allowed, "{name} {method} {path}\n{text}");
        }
        let id = CollectionId::new("id-c").unwrap();
        let key = |name: &str| RecordKey::new(name).unwrap();
        assert!(may(Right::Open, &Place::Field(&id, &key("r-1"), "/password")));
        assert!(may(Right::Seal, &Place::Record(&id, &key("r-3"))));
        assert!(!may(Right::Open, &Place::Field(&id, &key("r-1"), "/user")), "{text}");
        assert!(!may(Right::Open, &Place::Field(&id, &key("r-3"), "/password")), "{text}");
        assert!(!may(Right::List, &Place::Record(&id, &key("r-1"))), "{text}");
        assert!(!may(Right::Manage, &Place::Deployment), "{text}");
        assert!(grants.of(&Actor::new("agent:b").unwrap()).is_empty());
    }

    #[test]
    fn what_goes_together_is_one_grant() {
        let get = |name: &str, path: &str| call(Action::Use, "GET", name, path);
        let (text, _) = learned(&[get("a", "/x"), get("a", "/y"), get("b", "/x"), get("b", "/y")]);
        assert_eq!(
            text,
            "[[grants]]\nto = [\"agent:a\"]\nmay = [\"use\"]\ndestinations = [\"a\", \"b\"]\nmethods = [\"GET\"]\npaths = [\"/x\", \"/y\"]\n"
        );
        let (text, _) = learned(&[record(Action::RecordGet, "r", "/a\"b"), record(Action::RecordGet, "r", "")]);
        assert_eq!(
            text,
            "[[grants]]\nto = [\"agent:a\"]\nmay = [\"open\"]\ncollections = [\"c\"]\nrecords = [\"r\"]\n"
        );
    }

    #[test]
    fn refusals_that_were_counted_together_name_no_place_and_teach_nothing() {
        let mut counted = event("agent:a", Action::Refused);
        counted.missing = Some(Word::new("use").unwrap());
        let mut learned = Learned::default();
        learned.take(&counted);
        let (_, asked) = learned.iter().next().unwrap();
        assert_eq!((asked.refused, asked.calls.len(), asked.elsewhere.len()), (1, 0, 0));
    }
}
