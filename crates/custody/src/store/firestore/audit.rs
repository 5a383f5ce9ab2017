//! The audit log in a Firestore: an append is one commit, of the writer's document and one or more with its lines.
//!
//! | path | holds |
//! |---|---|
//! | `keyfold-audit/WRITER` | how many `lines`, the `tip` of its chain, when it last wrote and when it counts as dead; or `closed` |
//! | `keyfold-audit/WRITER/lines/NUMBER` | lines from that number on, each with a newline |
//! | `keyfold-audit-notes/NUMBER` | a note |

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use base64_simd::STANDARD;
use keyfold_core::{audit::Tip, id::WriterId};
use serde_json::json;

use super::{
    client::{Change, Document, Expected, Query},
    held,
    system::{FirestoreSystem, all},
    value::{Fields, Value},
};
use crate::{
    audit_log::{
        Stored,
        stored::{AT_ONCE, Append, Known, Lines, SILENCE},
    },
    store::StoreError,
};

const WRITERS: &str = "keyfold-audit";
const NOTES: &str = "keyfold-audit-notes";

/// The most bytes of lines in one document.
const WHOLE: usize = 600 << 10;

/// A number in the order of texts.
fn numbered(n: u64) -> String {
    format!("n{n:016}")
}

fn writer_path(writer: WriterId) -> String {
    format!("{WRITERS}/{writer}")
}

fn lines_of(writer: WriterId) -> Query<'static> {
    Query { parent: writer_path(writer), collection: "lines", descendants: false, from: None, to: None, limit: 300 }
}

/// One of the fields that we write, without its type.
fn plain(fields: &Fields, name: &str) -> Option<String> {
    match fields.get(name)? {
        Value::Text(text) => Some(text.to_string()),
        Value::Other(_, raw) => Some(raw.get().trim_matches('"').to_owned()),
        _ => None,
    }
}

fn number(fields: &Fields, name: &str) -> Option<u64> {
    plain(fields, name)?.parse().ok()
}

fn integer(n: u64) -> Result<Value, StoreError> {
    held::integer(i64::try_from(n).unwrap_or(i64::MAX))
}

/// The last documents first, by a number in them.
fn backwards(field: &str) -> serde_json::Value {
    json!({ "orderBy": [{ "field": { "fieldPath": field }, "direction": "DESCENDING" }] })
}

impl FirestoreSystem {
    /// A place for the audit log there.
    #[must_use]
    pub fn audit(&self) -> Stored {
        Stored(Arc::new(self.clone()))
    }

    fn damaged(&self, what: &str) -> StoreError {
        StoreError::Corrupt { store: self.client().name.clone(), what: what.into(), source: None }
    }

    /// A writer's document, and the time in milliseconds.
    async fn audit_writer(&self, writer: WriterId) -> Result<(Option<Document>, u64), StoreError> {
        let (mut found, time) = self.client().get_at(&[&writer_path(writer)]).await?;
        Ok((found.pop().flatten(), held::micros(self.client(), &time)? / 1000))
    }

    fn unpacked(&self, document: &Document) -> Result<Vec<Vec<u8>>, StoreError> {
        let packed = plain(&document.fields, "v").and_then(|text| STANDARD.decode_to_vec(text).ok());
        let packed = packed.ok_or_else(|| self.damaged("a document of audit lines is not readable"))?;
        Ok(packed
            .split_inclusive(|b| *b == b'\n')
            .map(|line| line.strip_suffix(b"\n").unwrap_or(line).to_vec())
            .collect())
    }

    fn note(&self, document: &Document) -> Result<(u64, String), StoreError> {
        let said = number(&document.fields, "n").zip(plain(&document.fields, "note"));
        said.ok_or_else(|| self.damaged("an audit checkpoint is not readable"))
    }
}

/// A writer's document: it lives until `ends`, or is closed.
fn writer_fields(lines: u64, tip: &str, written: u64, ends: Option<u64>) -> Result<Fields, StoreError> {
    let mut fields = Fields::from([
        ("lines".into(), integer(lines)?),
        ("tip".into(), held::text_value(tip)),
        ("written".into(), integer(written)?),
    ]);
    match ends {
        Some(ends) => fields.insert("ends".into(), integer(ends)?),
        None => fields.insert("closed".into(), integer(1)?),
    };
    Ok(fields)
}

fn silence() -> u64 {
    u64::try_from(SILENCE.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl Lines for FirestoreSystem {
    fn name(&self) -> String {
        self.client().name.clone()
    }

    async fn append(&self, append: &Append<'_>) -> Result<bool, StoreError> {
        let tip =
            serde_json::to_string(&append.tip).map_err(|_| StoreError::invalid("a chain's end cannot be written"))?;
        let (found, now) = self.audit_writer(append.writer).await?;
        let lines = found.as_ref().map_or(Some(0), |document| number(&document.fields, "lines"));
        if lines != Some(append.first) {
            return Ok(false);
        }
        let expect = found.map_or(Expected::Absent, |document| Expected::At(document.updated));
        let path = writer_path(append.writer);
        let fields = writer_fields(append.first + append.lines.len() as u64, &tip, now, Some(now + silence()))?;
        let mut changes = vec![Change { path: path.clone(), fields: Some(fields), expect }];
        let (mut first, mut packed) = (append.first, Vec::new());
        for (at, line) in append.lines.iter().enumerate() {
            packed.extend_from_slice(line);
            packed.push(b'\n');
            if packed.len() >= WHOLE || at + 1 == append.lines.len() {
                let fields = Fields::from([
                    ("first".into(), integer(first)?),
                    ("v".into(), held::bytes_value(&std::mem::take(&mut packed))?),
                ]);
                let path = format!("{path}/lines/{}", numbered(first));
                changes.push(Change { path, fields: Some(fields), expect: Expected::Absent });
                first = append.first + at as u64 + 1;
            }
        }
        Ok(self.client().commit(&changes).await?.is_some())
    }

    async fn lines(&self, writer: WriterId, from: u64, limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut query = lines_of(writer);
        query.from = Some((format!("{}/lines/{}", writer_path(writer), numbered(from)), true));
        query.limit = limit.min(300);
        let mut lines = Vec::new();
        for document in self.client().list(&mut query).await? {
            if lines.len() >= limit {
                break;
            }
            lines.append(&mut self.unpacked(&document)?);
        }
        Ok(lines)
    }

    async fn last(&self, writer: WriterId, count: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut lines = VecDeque::new();
        let mut query = lines_of(writer);
        let mut from = json!({});
        while lines.len() < count {
            query.limit = (count - lines.len()).min(300);
            let mut question = backwards("first");
            if let (Some(all), Some(more)) = (question.as_object_mut(), from.as_object_mut()) {
                all.append(more);
            }
            let documents = self.client().list_at(&mut query, question).await?.0;
            for document in &documents {
                self.unpacked(document)?.into_iter().rev().for_each(|line| lines.push_front(line));
            }
            let Some(first) = documents.last().filter(|_| documents.len() == query.limit) else { break };
            let first = number(&first.fields, "first").ok_or_else(|| self.damaged("audit lines have no number"))?;
            from = json!({ "startAt": { "values": [{ "integerValue": first.to_string() }], "before": false } });
        }
        lines.drain(..lines.len().saturating_sub(count));
        Ok(lines.into())
    }

    async fn writers(&self) -> Result<Vec<Known>, StoreError> {
        let mut query = all(WRITERS, "");
        let mut writers = Vec::new();
        loop {
            query.limit = 1000;
            let documents = self.client().list(&mut query).await?;
            let last = documents.len() < query.limit;
            for document in documents {
                let path = self.client().path(&document)?.to_owned();
                let writer = path.rsplit_once('/').and_then(|(_, id)| id.parse().ok());
                let writer = writer.ok_or_else(|| self.damaged("an audit writer's id is not one"))?;
                let written = number(&document.fields, "written").and_then(|ms| i64::try_from(ms).ok());
                writers.push(Known { writer, written: written.unwrap_or(0) });
                query.from = Some((path, false));
            }
            if last {
                return Ok(writers);
            }
        }
    }

    async fn beat(&self, writer: WriterId) -> Result<(), StoreError> {
        let (Some(document), now) = self.audit_writer(writer).await? else { return Ok(()) };
        let mut fields = document.fields;
        fields.insert("ends".into(), integer(now + silence())?);
        let expect = Expected::At(document.updated);
        // Who was faster gave a word of life too.
        self.client().commit(&[Change { path: writer_path(writer), fields: Some(fields), expect }]).await.map(drop)
    }

    async fn dead(&self) -> Result<Vec<Tip>, StoreError> {
        let mut query = all(WRITERS, "");
        query.limit = AT_ONCE;
        let (_, now) = self.client().get_at(&["keyfold/connects"]).await?;
        let now = held::micros(self.client(), &now)? / 1000;
        let ended = json!({
            "where": {"fieldFilter": {"field": {"fieldPath": "ends"}, "op": "LESS_THAN_OR_EQUAL", "value": {"integerValue": now.to_string()}}},
            "orderBy": [{"field": {"fieldPath": "ends"}}],
        });
        let documents = self.client().list_at(&mut query, ended).await?.0;
        let tip = |document: &Document| {
            let tip = plain(&document.fields, "tip").and_then(|text| serde_json::from_str(&text).ok());
            tip.ok_or_else(|| self.damaged("the end of an audit chain is not readable"))
        };
        documents.iter().map(tip).collect()
    }

    async fn close(&self, tips: &[Tip]) -> Result<(), StoreError> {
        for tip in tips {
            for attempt in 0..held::TRIES {
                let (Some(mut document), _) = self.audit_writer(tip.writer).await? else { break };
                if number(&document.fields, "lines") != Some(tip.size + 1) {
                    break;
                }
                document.fields.remove("ends");
                document.fields.insert("closed".into(), integer(1)?);
                let (path, expect) = (writer_path(tip.writer), Expected::At(document.updated));
                let change = Change { path, fields: Some(document.fields), expect };
                if self.client().commit(&[change]).await?.is_some() {
                    break;
                }
                held::pause(attempt).await;
            }
        }
        Ok(())
    }

    async fn cut(&self, writer: WriterId, was: &[u8], cut: &[u8]) -> Result<bool, StoreError> {
        let path = format!("{}/lines/{}", writer_path(writer), numbered(1));
        let Some(document) = self.client().get(&[&path]).await?.pop().flatten() else { return Ok(false) };
        if self.unpacked(&document)?.first().is_none_or(|line| line != was) {
            return Ok(false);
        }
        let packed = held::bytes_value(&[cut, b"\n"].concat())?;
        let fields = Fields::from([("first".into(), integer(1)?), ("v".into(), packed)]);
        let change = Change { path, fields: Some(fields), expect: Expected::At(document.updated) };
        Ok(self.client().commit(&[change]).await?.is_some())
    }

    async fn forget(&self, writer: WriterId, last: u64) -> Result<(), StoreError> {
        let edge = |number| format!("{}/lines/{}", writer_path(writer), numbered(number));
        let mut query = lines_of(writer);
        (query.from, query.to) = (Some((edge(2), true)), Some(edge(last.saturating_add(1))));
        loop {
            let names = json!({ "select": { "fields": [{ "fieldPath": "first" }] } });
            let documents = self.client().list_at(&mut query, names).await?.0;
            let gone = |document: &Document| {
                let path = self.client().path(document)?.to_owned();
                Ok(Change { path, fields: None, expect: Expected::Anything })
            };
            let changes: Vec<Change> = documents.iter().map(gone).collect::<Result<_, StoreError>>()?;
            if changes.is_empty() {
                return Ok(());
            }
            self.client().commit(&changes).await?;
        }
    }

    async fn notes(&self, from: u64, limit: usize) -> Result<Vec<(u64, String)>, StoreError> {
        let mut query = all(NOTES, "");
        query.from = Some((format!("{NOTES}/{}", numbered(from)), true));
        query.limit = limit.min(300);
        let documents = self.client().list(&mut query).await?;
        documents.iter().map(|document| self.note(document)).collect()
    }

    async fn last_note(&self) -> Result<Option<(u64, String)>, StoreError> {
        let mut query = all(NOTES, "");
        query.limit = 1;
        let documents = self.client().list_at(&mut query, backwards("n")).await?.0;
        documents.first().map(|document| self.note(document)).transpose()
    }

    async fn add_note(&self, place: u64, note: &str) -> Result<bool, StoreError> {
        let fields = Fields::from([("n".into(), integer(place)?), ("note".into(), held::text_value(note))]);
        let path = format!("{NOTES}/{}", numbered(place));
        Ok(self.client().commit(&[Change { path, fields: Some(fields), expect: Expected::Absent }]).await?.is_some())
    }
}
