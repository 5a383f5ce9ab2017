//! Where something is done: what a grant speaks of, and what a permit is bound to.

use std::fmt;

use crate::store::{CollectionId, RecordKey};

/// Entries of a context that only Keyfold itself may write: they bind a value to an end user.
pub const RESERVED: [&str; 3] = ["user_iss", "user_sub", "holder"];

/// A place, as it is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// Some place or other: only ever in a refusal.
    Anywhere,
    /// All collections, all records, all values.
    Everything,
    /// The deployment: keys, tokens, grants, the audit log.
    Deployment,
    /// A whole collection.
    Collection(&'a CollectionId),
    /// A record with all its fields.
    Record(&'a CollectionId, &'a RecordKey),
    /// One field of a record, as a pointer with real indices.
    Field(&'a CollectionId, &'a RecordKey, &'a str),
    /// A value that lies in no record, with the entries of its context.
    Value(&'a [(&'a str, &'a str)]),
    /// A destination by its name, and one call to it: the method in capitals, and the path. Without them, every call to it.
    Destination(&'a str, Option<(&'a str, &'a str)>),
}

impl Place<'_> {
    /// To be kept in a permit. Values are not told apart, nor are the paths of calls: each is decided by itself, and their permits
    /// live no longer.
    pub(super) fn scope(&self) -> Scope {
        match *self {
            Self::Anywhere => Scope::Nowhere,
            Self::Everything => Scope::Everything,
            Self::Deployment => Scope::Deployment,
            Self::Collection(collection) => Scope::Collection(collection.clone()),
            Self::Record(collection, record) => Scope::Record(collection.clone(), record.clone()),
            Self::Field(collection, record, field) => Scope::Field(collection.clone(), record.clone(), field.into()),
            Self::Value(_) => Scope::Value,
            Self::Destination(name, call) => Scope::Destination(name.into(), call.map(|(method, _)| method.into())),
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anywhere => f.write_str("anywhere"),
            Self::Everything => f.write_str("everywhere"),
            Self::Deployment => f.write_str("in this deployment"),
            Self::Collection(collection) => write!(f, "in collection `{collection}`"),
            Self::Record(collection, record) => write!(f, "record `{record}` of collection `{collection}`"),
            Self::Field(collection, record, field) => {
                write!(f, "field `{field}` of record `{record}` of collection `{collection}`")
            }
            Self::Value(_) => f.write_str("values of this context"),
            Self::Destination(name, None) => write!(f, "destination `{name}`"),
            Self::Destination(name, Some((method, _))) => write!(f, "this {method} call to destination `{name}`"),
        }
    }
}

/// A place, as a permit keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Nothing.
    Nowhere,
    /// See [`Place::Everything`].
    Everything,
    /// See [`Place::Deployment`].
    Deployment,
    /// See [`Place::Collection`].
    Collection(CollectionId),
    /// See [`Place::Record`].
    Record(CollectionId, RecordKey),
    /// See [`Place::Field`].
    Field(CollectionId, RecordKey, Box<str>),
    /// See [`Place::Value`].
    Value,
    /// See [`Place::Destination`]; the method of the one call it is for.
    Destination(Box<str>, Option<Box<str>>),
}

impl Scope {
    /// Whether the place lies within.
    pub(super) fn covers(&self, place: &Place<'_>) -> bool {
        match (self, *place) {
            (Self::Everything, _) | (Self::Deployment, Place::Deployment) | (Self::Value, Place::Value(_)) => true,
            (
                Self::Collection(mine),
                Place::Collection(asked) | Place::Record(asked, _) | Place::Field(asked, _, _),
            ) => mine == asked,
            (Self::Record(mine, record), Place::Record(asked, key) | Place::Field(asked, key, _)) => {
                mine == asked && record == key
            }
            (Self::Field(mine, record, field), Place::Field(asked, key, pointer)) => {
                mine == asked && record == key && **field == *pointer
            }
            (Self::Destination(mine, method), Place::Destination(asked, call)) => {
                **mine == *asked
                    && method.as_ref().is_none_or(|method| call.is_some_and(|(asked, _)| **method == *asked))
            }
            _ => false,
        }
    }
}
