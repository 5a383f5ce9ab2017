//! OTLP logs over HTTP in JSON: one record for each line of the log.

use std::sync::Arc;

use keyfold_custody::audit_log::follow::{Chunk, Message, Source};
use serde_json::{Value, json};

use super::CopyError;
use crate::otlp::{self, headers};

pub(super) struct Collector {
    url: String,
    http: Option<reqwest::Client>,
}

impl Collector {
    pub(super) fn new(url: &str) -> Self {
        Self { url: format!("{url}/v1/logs"), http: otlp::client().ok() }
    }

    pub(super) async fn send(&self, chunk: &Arc<Chunk>) -> Result<(), CopyError> {
        let there = |what: String| CopyError::There(what);
        let http = self.http.as_ref().ok_or_else(|| there("no HTTP client".into()))?;
        let mut request = http.post(&self.url).json(&body(chunk));
        for (name, value) in headers() {
            request = request.header(name, value);
        }
        let answer = request.send().await.map_err(|error| there(error.without_url().to_string()))?;
        if !answer.status().is_success() {
            return Err(there(format!("it answered {}", answer.status())));
        }
        Ok(())
    }
}

fn body(chunk: &Chunk) -> Value {
    let writer = match chunk.source {
        Source::Segment(writer, _) => writer.to_string(),
        Source::Notes => "-".into(),
    };
    let records: Vec<Value> = chunk.messages().iter().map(|message| record(message, &writer)).collect();
    json!({ "resourceLogs": [{
        "resource": { "attributes": [text("service.name", "keyfold")] },
        "scopeLogs": [{ "scope": { "name": "keyfold.audit" }, "logRecords": records }],
    }]})
}

fn record(message: &Message, writer: &str) -> Value {
    let nanos = message.time.map_or(0, |time| u128::from(time.0) * 1_000_000_000);
    // 9 is "info" and 13 "warn". Numbers of 64 bits are texts in this JSON.
    json!({
        "timeUnixNano": nanos.to_string(),
        "severityNumber": if message.refused { 13 } else { 9 },
        "eventName": message.kind,
        "body": { "stringValue": message.line },
        "attributes": [text("keyfold.audit.kind", message.kind), text("keyfold.audit.writer", writer)],
    })
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}
