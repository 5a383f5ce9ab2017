//! Where two programs that exist keep their secrets: the fields that their own readers open, and nothing else.
//!
//! Their readers hold one key each. Sealing under another one makes every value unreadable to them until they hold a list of
//! keys, so a rotation that stays in their format needs to be told that they do.

use jiff::civil::Date;
use keyfold_core::{
    accept::{Accept, Rule},
    envelope::{Format, Reading},
};

use crate::{
    collection::Collection,
    jobs::Kind,
    layout::place::{ColumnKind, Layout},
    store::{CellName, CollectionId},
};

/// A program whose data is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// redis-sre-agent: instances, clusters and the copies that threads hold, in Redis, as v1.
    RedisSreAgent,
    /// Auto SRE: the sessions of its agent framework, in SQLite or PostgreSQL, as Fernet.
    AutoSre,
}

/// What a run may do besides.
#[derive(Debug, Clone, Copy)]
pub struct Wishes {
    /// Today: plaintext is accepted by a migration, today.
    pub today: Date,
    /// Seal redis-sre-agent's `extension_secrets` too, which its reader takes for the secrets themselves.
    pub extension_secrets: bool,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::RedisSreAgent, Self::AutoSre];

    /// The word on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RedisSreAgent => "redis-sre-agent",
            Self::AutoSre => "auto-sre",
        }
    }

    /// The preset of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.as_str() == name)
    }

    /// The format that its readers open.
    #[must_use]
    pub const fn format(self) -> Format {
        match self {
            Self::RedisSreAgent => Format::V1,
            Self::AutoSre => Format::Fernet,
        }
    }

    /// The variable that its readers take their key from.
    #[must_use]
    pub const fn variable(self) -> &'static str {
        match self {
            Self::RedisSreAgent => "REDIS_SRE_MASTER_KEY",
            Self::AutoSre => "SRE_AGENT_ENCRYPTION_KEY",
        }
    }

    /// Its collections, as a job sees them.
    #[must_use]
    pub fn collections(self, kind: Kind, wishes: Wishes) -> Vec<Collection> {
        let collections = match self {
            Self::RedisSreAgent => redis_sre_agent(wishes.extension_secrets),
            Self::AutoSre => auto_sre(),
        };
        collections.into_iter().map(|part| self.collection(part, kind, wishes.today)).collect()
    }

    #[expect(clippy::expect_used, reason = "names and paths are constants, and tested")]
    fn collection(self, part: Part, kind: Kind, today: Date) -> Collection {
        let path = |text: &&str| text.parse().expect("a field path");
        let fields: Vec<_> = part.fields.iter().map(path).collect();
        let mut accept = vec![
            Rule::new(self.format().as_str(), None).expect("a format"),
            Rule::new(Format::Kf1.as_str(), None).expect("a format"),
        ];
        if kind == Kind::Migrate {
            accept.push(Rule::new("plaintext", Some(today)).expect("plaintext, until today"));
        }
        Collection {
            name: part.name.into(),
            id: CollectionId::new(format!("{}.{}", self.as_str(), part.name)).expect("a collection id"),
            cells: part.layout.cells(&fields).expect("fields that the layout holds"),
            layout: part.layout,
            store: None,
            fields,
            reported: part.reported.iter().map(path).collect(),
            format: self.format(),
            accept: Accept::new(accept).expect("a policy"),
            reading: Reading::Strict,
            tenant: None,
        }
    }
}

struct Part {
    name: &'static str,
    layout: Layout,
    fields: Vec<&'static str>,
    reported: Vec<&'static str>,
}

fn redis_sre_agent(extension_secrets: bool) -> Vec<Part> {
    #[expect(clippy::expect_used, reason = "a constant")]
    let hash = |keys: &str| Layout::RedisHashJson { keys: keys.into(), field: CellName::new("data").expect("a name") };
    let mut parts = vec![
        Part {
            name: "instances",
            layout: hash("sre_instances:*"),
            fields: vec!["/connection_url", "/admin_password"],
            reported: vec!["/extension_secrets/*", "/extension_secrets/*/*"],
        },
        Part {
            name: "clusters",
            layout: hash("sre_clusters:*"),
            fields: vec!["/admin_password"],
            reported: Vec::new(),
        },
        Part {
            name: "threads",
            layout: Layout::RedisJsonString { keys: "sre:thread:*:instances".into() },
            fields: vec!["/*/connection_url", "/*/admin_password"],
            reported: vec!["/*/extension_secrets/*", "/*/extension_secrets/*/*"],
        },
    ];
    if extension_secrets {
        for part in parts.iter_mut().filter(|part| !part.reported.is_empty()) {
            // The map's own values; what lies deeper is still only looked at.
            let first = part.reported.remove(0);
            part.fields.push(first);
        }
    }
    parts
}

fn auto_sre() -> Vec<Part> {
    // The framework stores `jsonb` in PostgreSQL and text in SQLite. Its first versions pickled the actions of an event.
    let rows = |table: &str, key: &[&str], column: &str, legacy: Option<&str>| Layout::SqlColumns {
        table: table.into(),
        key: key.iter().map(|column| Box::from(*column)).collect(),
        columns: [(Box::from(column), ColumnKind::Jsonb)].into(),
        legacy: legacy.map(Box::from),
    };
    vec![
        Part {
            name: "sessions",
            layout: rows("sessions", &["app_name", "user_id", "id"], "state", None),
            fields: vec!["/state/_user_access_token"],
            reported: Vec::new(),
        },
        Part {
            name: "events",
            layout: rows("events", &["id", "app_name", "user_id", "session_id"], "event_data", Some("actions")),
            fields: vec![
                "/event_data/actions/state_delta/_user_access_token",
                "/event_data/actions/stateDelta/_user_access_token",
            ],
            reported: Vec::new(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use keyfold_core::accept::Accepted;

    use super::*;

    const TODAY: Date = Date::constant(2027, 1, 31);

    #[test]
    fn plaintext_is_taken_by_a_migration_only() {
        for preset in Preset::ALL {
            for kind in [Kind::Migrate, Kind::Rotate, Kind::Verify] {
                let wishes = Wishes { today: TODAY, extension_secrets: false };
                for collection in preset.collections(kind, wishes) {
                    let takes = collection.accept.allows(Accepted::Plaintext, TODAY);
                    assert_eq!(takes, kind == Kind::Migrate);
                    assert_eq!(collection.format, preset.format());
                    assert!(collection.layout.is_foreign() && !collection.cells.is_empty());
                }
            }
        }
    }

    #[test]
    fn p07_extension_secrets_are_looked_at_and_sealed_only_when_asked_for() {
        for wanted in [false, true] {
            let wishes = Wishes { today: TODAY, extension_secrets: wanted };
            let collections = Preset::RedisSreAgent.collections(Kind::Migrate, wishes);
            let instances = collections.iter().find(|collection| collection.name == "instances").unwrap();
            let fields: Vec<_> = instances.fields.iter().map(ToString::to_string).collect();
            assert_eq!(fields.contains(&"/extension_secrets/*".to_owned()), wanted);
            assert_ne!(instances.reported.iter().any(|path| path.as_str() == "/extension_secrets/*"), wanted);
        }
    }
}
