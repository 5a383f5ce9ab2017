//! One event: who did what to which record under which key. There is no field that could hold a secret.
//!
//! Two events tell one story and share an id: the [`Kind::Intent`], durable before plaintext leaves or a write happens,
//! and the [`Kind::Outcome`]. An event is stored as one RFC 8785 line; see [`crate::audit::chain`] for how lines join.
//!
//! Reading tolerates members that this version does not know, since the hash covers them and a newer process may share
//! the folder; a known member that is repeated, of another type or out of bounds is refused.

use std::{fmt, str::FromStr};

use crate::{
    audit::text::{Actor, Name, Word},
    clock::UnixTime,
    id::{Commitment, KeyId, from_hex, hex_in},
};

/// The longest stored line, in bytes, without its newline. What an [`Event`] can hold always fits.
pub const MAX_LINE: usize = 16 * 1024;
/// The largest integer that every JSON reader keeps (RFC 8785 writes numbers as doubles).
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Why an event could not be written or read.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The line is longer than any event.
    #[error("an audit line of {len} bytes, the limit is {MAX_LINE}")]
    TooLong {
        /// Its length.
        len: usize,
    },

    /// Not a JSON object with the members of an event. The cause names a position and no content.
    #[error("not an audit event (column {column})")]
    Malformed {
        /// Where reading stopped.
        column: usize,
    },

    /// A number above 2^53 - 1.
    #[error("`{member}` is above 2^53 - 1")]
    Integer {
        /// Which member.
        member: &'static str,
    },
}

macro_rules! hex_text {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(hex_in(&self.0, &mut [0; $len * 2]))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = NotHex;

            fn from_str(text: &str) -> Result<Self, NotHex> {
                from_hex(text).map(Self).ok_or(NotHex { digits: $len * 2 })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(hex_in(&self.0, &mut [0; $len * 2]))
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// Not the right number of hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not {digits} hex digits")]
pub struct NotHex {
    digits: usize,
}

hex_text!(
    /// Joins an intent to its outcome; random, given by the caller.
    EventId,
    8
);
hex_text!(
    /// The running hash of a chain after some event, or of a note.
    Head,
    32
);
hex_text!(
    /// The first bytes of the previous [`Head`], inside the next event.
    Link,
    8
);

/// Which half of the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Written before.
    Intent,
    /// Written after.
    Outcome,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Outcome => "outcome",
        }
    }
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What was done. The words are stable.
        #[non_exhaustive]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum Action {
            $($(#[$doc])* #[serde(rename = $word)] $name,)*
        }

        impl Action {
            /// The word as it stands in the log.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

actions! {
    /// A secret was sealed.
    Seal = "seal",
    /// A secret was opened.
    Open = "open",
    /// A credential was put into a request by the proxy.
    Use = "use",
    /// An envelope got a new wrap.
    Rewrap = "rewrap",
    /// A record was written.
    RecordPut = "record_put",
    /// A record was read, its secrets opened.
    RecordGet = "record_get",
    /// A record was taken over from elsewhere.
    RecordImport = "record_import",
    /// A record left, sealed or opened.
    RecordExport = "record_export",
    /// A record of our own was removed on request.
    RecordRemove = "record_remove",
    /// A batch of a migration was committed.
    MigrateBatch = "migrate_batch",
    /// A batch of a rotation was committed.
    RotateBatch = "rotate_batch",
    /// Everything was opened to see that it opens.
    VerifyRun = "verify_run",
    /// A key was staged.
    KeyCreate = "key_create",
    /// A key from elsewhere was staged.
    KeyImport = "key_import",
    /// A key became the one that seals.
    KeyPromote = "key_promote",
    /// A retired key was put back.
    KeyActivate = "key_activate",
    /// A key was retired.
    KeyRetire = "key_retire",
    /// A key was destroyed.
    KeyDestroy = "key_destroy",
    /// The keyring was exported.
    KeyBackup = "key_backup",
    /// A keyring came back from a backup.
    KeyRestore = "key_restore",
    /// A key was written to where other programs read it.
    KeyPublish = "key_publish",
    /// The keyring got other root keys.
    RootChange = "root_change",
    /// A process that no longer reports was struck off.
    ProcessForgotten = "process_forgotten",
    /// What was known of another program's store was struck out.
    StoreForgotten = "store_forgotten",
    /// The accept policy was changed.
    AcceptChanged = "accept_changed",
    /// A session began.
    SessionCreate = "session_create",
    /// A session was revoked.
    SessionRevoke = "session_revoke",
    /// A session's token was refreshed.
    SessionRefresh = "session_refresh",
    /// A session of another program was taken over.
    SessionImport = "session_import",
    /// A session that was taken over became usable.
    SessionVouch = "session_vouch",
    /// A handle of a session was made.
    HandleCreate = "handle_create",
    /// A handle of a session was ended.
    HandleRevoke = "handle_revoke",
    /// A service account's credential was used where no user's came with the call.
    UseFallback = "use_fallback",
    /// A token for an actor was made.
    TokenCreate = "token_create",
    /// A token for an actor was revoked.
    TokenRevoke = "token_revoke",
    /// The grants of the deployment were changed.
    GrantsChanged = "grants_changed",
    /// The audit log was read.
    AuditRead = "audit_read",
    /// Events past their time were taken out of the audit log.
    AuditPrune = "audit_prune",
    /// A call was refused by policy.
    Refused = "refused",
    /// The demonstration ran; its secrets are made up.
    Demo = "demo",
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One event. Members are declared in the order in which RFC 8785 sorts them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Event {
    /// What was done.
    pub action: Action,
    /// Who did it.
    pub actor: Actor,
    /// How much went out or was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collection: Option<Name>,
    /// The envelope's lasting id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commitment: Option<Commitment>,
    /// How many records a batch had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Which field of the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<Name>,
    /// The first record of a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<Name>,
    /// The envelope's format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Word>,
    /// The keyring's generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Shared by intent and outcome.
    pub id: EventId,
    /// The job that acted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Name>,
    /// The key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<KeyId>,
    /// Before or after.
    pub kind: Kind,
    /// The last record of a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Name>,
    /// The HTTP method of a call to a destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Name>,
    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub millis: Option<u64>,
    /// The right that a refused call lacked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Word>,
    /// The rule that the path of a call to a destination matched; never the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prev: Option<Link>,
    /// Which record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Name>,
    /// `done`, or an error code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    /// What a destination answered, as an HTTP status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u64>,
    /// When.
    pub time: UnixTime,
}

impl Event {
    /// What is about to happen. The other members are public and start empty.
    #[must_use]
    pub fn intent(time: UnixTime, id: EventId, actor: Actor, action: Action) -> Self {
        Self {
            action,
            actor,
            bytes: None,
            collection: None,
            commitment: None,
            count: None,
            field: None,
            first: None,
            format: None,
            generation: None,
            id,
            job: None,
            kid: None,
            kind: Kind::Intent,
            last: None,
            method: None,
            millis: None,
            missing: None,
            path: None,
            prev: None,
            record: None,
            result: None,
            seq: None,
            status: None,
            time,
        }
    }

    /// How it went: the same event, with a result.
    #[must_use]
    pub fn outcome(&self, time: UnixTime, result: Word) -> Self {
        Self { kind: Kind::Outcome, result: Some(result), time, ..self.clone() }
    }

    /// The stored line, without a newline: the event with its place in a chain.
    ///
    /// # Errors
    /// A number is above 2^53 - 1.
    pub fn encode(&self, prev: Link, seq: u64) -> Result<Vec<u8>, EventError> {
        let mut line = Vec::with_capacity(512);
        self.encode_to(&mut line, prev, seq)?;
        Ok(line)
    }

    /// [`Event::encode`] behind what is in `lines` already, which is unchanged where the event does not encode.
    ///
    /// # Errors
    /// As there.
    pub fn encode_to(&self, lines: &mut Vec<u8>, prev: Link, seq: u64) -> Result<(), EventError> {
        self.bounded()?;
        let from = lines.len();
        lines.push(b'{');
        let mut line = Members(lines);
        // In the order in which RFC 8785 sorts them.
        line.word("action", Some(self.action.as_str()));
        line.text("actor", Some(self.actor.as_str()));
        line.number("bytes", self.bytes);
        line.text("collection", self.collection.as_ref().map(Name::as_str));
        line.hex("commitment", self.commitment.as_ref().map(|id| &id.0[..]));
        line.number("count", self.count);
        line.text("field", self.field.as_ref().map(Name::as_str));
        line.text("first", self.first.as_ref().map(Name::as_str));
        line.word("format", self.format.as_ref().map(Word::as_str));
        line.number("generation", self.generation);
        line.hex("id", Some(&self.id.0));
        line.text("job", self.job.as_ref().map(Name::as_str));
        line.hex("kid", self.kid.as_ref().map(|id| &id.0[..]));
        line.word("kind", Some(self.kind.as_str()));
        line.text("last", self.last.as_ref().map(Name::as_str));
        line.text("method", self.method.as_ref().map(Name::as_str));
        line.number("millis", self.millis);
        line.word("missing", self.missing.as_ref().map(Word::as_str));
        line.text("path", self.path.as_ref().map(Name::as_str));
        line.hex("prev", Some(&prev.0));
        line.text("record", self.record.as_ref().map(Name::as_str));
        line.word("result", self.result.as_ref().map(Word::as_str));
        line.number("seq", Some(seq));
        line.number("status", self.status);
        line.number("time", Some(self.time.0));
        line.end();
        let len = lines.len() - from;
        if len > MAX_LINE {
            lines.truncate(from);
            return Err(EventError::TooLong { len });
        }
        Ok(())
    }

    /// Reads a stored line. Its place is left out: only a chain can say whether it is right.
    ///
    /// # Errors
    /// The line is too long, no event, or holds a number above 2^53 - 1.
    pub fn parse(line: &[u8]) -> Result<Self, EventError> {
        if line.len() > MAX_LINE {
            return Err(EventError::TooLong { len: line.len() });
        }
        let mut event: Self =
            serde_json::from_slice(line).map_err(|error| EventError::Malformed { column: error.column() })?;
        (event.prev, event.seq) = (None, None);
        event.bounded()?;
        Ok(event)
    }

    fn bounded(&self) -> Result<(), EventError> {
        let numbers = [
            ("bytes", self.bytes),
            ("count", self.count),
            ("generation", self.generation),
            ("millis", self.millis),
            ("status", self.status),
            ("time", Some(self.time.0)),
        ];
        match numbers.into_iter().find(|(_, number)| number.is_some_and(|n| n > MAX_INTEGER)) {
            Some((member, _)) => Err(EventError::Integer { member }),
            None => Ok(()),
        }
    }
}

/// Writes the members of one object. A log has a line for each value of each batch, and what is general about a serializer
/// would be most of its cost.
struct Members<'a>(&'a mut Vec<u8>);

impl Members<'_> {
    /// The name of a member that is there, behind the comma of the one before.
    fn name(&mut self, name: &str) {
        self.0.extend_from_slice(b"\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    /// Text that has nothing to escape.
    fn word(&mut self, name: &str, word: Option<&str>) {
        if let Some(word) = word {
            self.name(name);
            self.0.push(b'"');
            self.0.extend_from_slice(word.as_bytes());
            self.0.extend_from_slice(b"\",");
        }
    }

    fn text(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.name(name);
            // RFC 8785 and serde_json escape the same. A vector takes everything.
            let _ = serde_json::to_writer(&mut *self.0, text);
            self.0.push(b',');
        }
    }

    fn hex(&mut self, name: &str, bytes: Option<&[u8]>) {
        if let Some(bytes) = bytes {
            self.name(name);
            self.0.push(b'"');
            let from = self.0.len();
            self.0.resize(from + 2 * bytes.len(), 0);
            hex_in(bytes, &mut self.0[from..]);
            self.0.extend_from_slice(b"\",");
        }
    }

    fn number(&mut self, name: &str, number: Option<u64>) {
        if let Some(number) = number {
            self.name(name);
            let _ = serde_json::to_writer(&mut *self.0, &number);
            self.0.push(b',');
        }
    }

    /// In the place of the last comma.
    fn end(self) {
        self.0.pop();
        self.0.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Event {
        let name = |text: &str| Some(Name::new(text).unwrap());
        Event {
            bytes: Some(7),
            collection: name("instances"),
            commitment: Some(Commitment([1; 32])),
            count: Some(2),
            field: name("/connection_url"),
            first: name("a"),
            format: Some(Word::new("kf1").unwrap()),
            generation: Some(3),
            job: name("j"),
            kid: Some(KeyId([2; 8])),
            last: name("b"),
            method: name("GET"),
            millis: Some(4),
            path: name("/v1/**"),
            status: Some(200),
            record: name("ü\"\\/"),
            result: Some(Word::done()),
            ..Event::intent(UnixTime(1), EventId([3; 8]), Actor::new("local:0").unwrap(), Action::Open)
        }
    }

    #[test]
    fn the_line_is_canonical_json_and_reads_back() {
        let line = full().encode(Link([4; 8]), 1).unwrap();
        let sorted: std::collections::BTreeMap<String, serde_json::Value> = serde_json::from_slice(&line).unwrap();
        assert_eq!(serde_json::to_vec(&sorted).unwrap(), line, "members are sorted, no spaces");
        let linked = Event { prev: Some(Link([4; 8])), seq: Some(1), ..full() };
        assert_eq!(serde_json::to_vec(&linked).unwrap(), line, "what is read is what is written");
        assert_eq!(sorted.len(), 24, "every member is in the test");
        assert_eq!(Event::parse(&line).unwrap(), full());
    }

    #[test]
    fn an_unknown_member_is_read_over_and_a_repeated_one_is_not() {
        let line = String::from_utf8(full().encode(Link([4; 8]), 1).unwrap()).unwrap();
        assert_eq!(Event::parse(line.replacen('{', r#"{"aaa":[1],"#, 1).as_bytes()).unwrap(), full());
        assert!(Event::parse(line.replacen('{', r#"{"action":"open","#, 1).as_bytes()).is_err());
    }

    #[test]
    fn bounds_hold_in_both_directions() {
        let big = Event { bytes: Some(MAX_INTEGER + 1), ..full() };
        assert_eq!(big.encode(Link([0; 8]), 1), Err(EventError::Integer { member: "bytes" }));
        assert!(matches!(Event::parse(&vec![b' '; MAX_LINE + 1]), Err(EventError::TooLong { .. })));
        assert!(Event::parse(b"").is_err() && Event::parse(b"[]").is_err() && Event::parse(b"{}").is_err());
    }

    #[test]
    fn the_longest_event_fits() {
        let long = || Some(Name::new("\\".repeat(crate::audit::text::MAX_NAME)).unwrap());
        let actor = Actor::new(format!("a:{}", "\"".repeat(254))).unwrap();
        let event = Event {
            collection: long(),
            record: long(),
            field: long(),
            first: long(),
            last: long(),
            job: long(),
            path: long(),
            actor,
            ..full()
        };
        assert!(event.encode(Link([0; 8]), 1).unwrap().len() < MAX_LINE);
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_the_reader_panic(line: Vec<u8>) {
            let _ = Event::parse(&line);
        }
    }
}
