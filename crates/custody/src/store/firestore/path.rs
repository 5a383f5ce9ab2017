//! The documents of a collection: which paths they have, and how a path is spelled as a record key.
//!
//! The key of a record is the id of its document, after the ids that stand where the collection's path has `*`, with `/`
//! between them; no id holds a `/`. NUL in an id becomes `%00`, and a `%` that two hex digits follow becomes `%25`, so that
//! no two documents share a spelling.

use crate::store::{RecordKey, StoreError};

/// The path of a collection: names of collections, with ids of documents or `*` between them.
#[derive(Debug, Clone)]
pub(super) struct Place {
    segments: Vec<Box<str>>,
}

impl Place {
    /// # Errors
    /// A path that does not end with the name of a collection, and names that Firestore does not take.
    pub(super) fn new(path: &str) -> Result<Self, StoreError> {
        let segments: Vec<Box<str>> = path.split('/').map(Into::into).collect();
        let wrong = |what: &str| {
            Err(StoreError::invalid(format!("the path `{path}` of a Firestore collection {what}, as `users/*/tokens`")))
        };
        if segments.len().is_multiple_of(2) {
            return wrong("has the names of collections and the ids of documents in turn, and a collection last");
        }
        if segments.iter().any(|segment| segment.is_empty() || matches!(&**segment, "." | "..")) {
            return wrong("has neither empty parts nor . and ..");
        }
        if segments.iter().step_by(2).any(|name| name.contains('*')) {
            return wrong("may have `*` only in the place of a document's id");
        }
        Ok(Self { segments })
    }

    /// The name of the collection itself.
    pub(super) fn collection(&self) -> &str {
        self.segments.last().map_or("", |name| name)
    }

    /// Whether there is one collection, and not one below each of several documents.
    pub(super) fn is_one(&self) -> bool {
        !self.segments.iter().any(|segment| &**segment == "*")
    }

    /// The document above the collection, or nothing; where there are several collections, what is above the first `*`.
    pub(super) fn parent(&self) -> String {
        let fixed = self.segments.iter().position(|segment| &**segment == "*").unwrap_or(self.segments.len());
        // A query starts at a document or at the root, so not at the collection that the first `*` is in.
        self.segments[..fixed - 1].join("/")
    }

    /// The path of a document with that id in the one collection.
    pub(super) fn edge(&self, id: &str) -> String {
        format!("{}/{id}", self.segments.join("/"))
    }

    /// The ids in a document's path below the root that make its key; `None` for another collection's document.
    pub(super) fn ids<'a>(&self, path: &'a str) -> Option<Vec<&'a str>> {
        let parts: Vec<&str> = path.split('/').collect();
        if parts.len() != self.segments.len() + 1 {
            return None;
        }
        let mut ids = Vec::new();
        for (segment, part) in self.segments.iter().zip(&parts) {
            match &**segment {
                "*" => ids.push(*part),
                fixed if fixed == *part => {}
                _ => return None,
            }
        }
        ids.push(parts[parts.len() - 1]);
        Some(ids)
    }

    /// The path below the root of the document with that key; `None` where no document can have it.
    pub(super) fn path(&self, key: &RecordKey) -> Option<String> {
        let ids: Vec<String> = key.as_str().split('/').map(unspell).collect();
        let valid = |id: &String| {
            let reserved = id.len() >= 4 && id.starts_with("__") && id.ends_with("__") && !is_number(id);
            (1..=1500).contains(&id.len()) && !matches!(id.as_str(), "." | "..") && !reserved
        };
        if !ids.iter().all(valid) || spell(&ids) != key.as_str() {
            return None;
        }
        let mut ids = ids.iter();
        let mut path = String::new();
        for segment in &self.segments {
            path.push_str(if &**segment == "*" { ids.next()? } else { segment });
            path.push('/');
        }
        path.push_str(ids.next()?);
        ids.next().is_none().then_some(path)
    }
}

/// The ids that Datastore gave: `__id7__`.
fn is_number(id: &str) -> bool {
    let digits = id.strip_prefix("__id").and_then(|id| id.strip_suffix("__"));
    digits.is_some_and(|digits| digits.parse::<i64>().is_ok())
}

/// Ids as a record key.
pub(super) fn spell<T: AsRef<str>>(ids: &[T]) -> String {
    let mut out = String::new();
    for (n, id) in ids.iter().map(AsRef::as_ref).enumerate() {
        if n > 0 {
            out.push('/');
        }
        for (at, c) in id.char_indices() {
            let rest = &id.as_bytes()[at + c.len_utf8()..];
            match c {
                '\0' => out.push_str("%00"),
                '%' if rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_hexdigit) => out.push_str("%25"),
                c => out.push(c),
            }
        }
    }
    out
}

/// A document's path as a cursor.
pub(super) fn cursor(path: &str) -> String {
    spell(&path.split('/').collect::<Vec<_>>())
}

/// The path that a cursor stands for.
pub(super) fn parse_cursor(text: &str) -> String {
    unspell(text)
}

fn unspell(text: &str) -> String {
    // Only these two are ever written; what else looks like an escape is not the spelling of anything.
    text.replace("%00", "\0").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> RecordKey {
        RecordKey::new(text).unwrap()
    }

    #[test]
    fn a_key_is_the_ids_below_the_path_and_leads_back_to_the_document() {
        let agents = Place::new("agents").unwrap();
        assert_eq!((agents.collection(), agents.parent().as_str(), agents.is_one()), ("agents", "", true));
        assert_eq!(agents.ids("agents/a"), Some(vec!["a"]));
        assert_eq!(agents.path(&key("a")).unwrap(), "agents/a");
        for other in ["agents", "others/a", "agents/a/tokens/t", "agents/a/b"] {
            assert_eq!(agents.ids(other), None, "{other}");
        }
        let tokens = Place::new("tenants/x/users/*/tokens").unwrap();
        assert_eq!((tokens.collection(), tokens.parent().as_str(), tokens.is_one()), ("tokens", "tenants/x", false));
        assert_eq!(tokens.ids("tenants/x/users/u/tokens/t"), Some(vec!["u", "t"]));
        assert_eq!(tokens.ids("tenants/y/users/u/tokens/t"), None);
        assert_eq!(tokens.path(&key("u/t")).unwrap(), "tenants/x/users/u/tokens/t");
        for no_document in ["u", "u/t/x", "u/", "/t", "u/..", "./t", "__x__/t"] {
            assert_eq!(tokens.path(&key(no_document)), None, "{no_document}");
        }
        assert_eq!(agents.path(&key("__id7__")).unwrap(), "agents/__id7__");
    }

    #[test]
    fn every_id_has_one_spelling_that_no_other_id_has() {
        let agents = Place::new("agents").unwrap();
        for (id, spelling) in
            [("a\0b", "a%00b"), ("a%00b", "a%2500b"), ("a%2500b", "a%252500b"), ("100%", "100%"), ("%zz", "%zz")]
        {
            assert_eq!(spell(&[id]), spelling);
            assert_eq!(agents.path(&key(spelling)).unwrap(), format!("agents/{id}"));
        }
        for nothing in ["%41", "a%2", "%25"] {
            let leads = agents.path(&key(nothing));
            assert_eq!(leads.is_some(), nothing == "a%2", "{nothing}");
        }
    }

    #[test]
    fn a_path_ends_with_a_collection_and_has_wildcards_for_ids_only() {
        for good in ["agents", "users/*/tokens", "users/u1/tokens"] {
            assert!(Place::new(good).is_ok(), "{good}");
        }
        for bad in ["", "users/*", "users//tokens", "/users", "*", "users/*/*", "us*/x/tokens", "users/../tokens"] {
            assert!(Place::new(bad).is_err(), "{bad}");
        }
    }
}
