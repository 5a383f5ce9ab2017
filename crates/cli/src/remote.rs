//! Commands that a server carries out: `--server URL` or `KEYFOLD_SERVER`, with the token in `KEYFOLD_TOKEN`.
//!
//! They print what they print on a data folder. What makes no sense over a network is refused by name.

use std::{sync::Arc, time::Duration};

use keyfold_core::{
    envelope::Format,
    error::{Code, Hint},
    rewrap::How,
    secret::Secret,
};
use keyfold_custody::jobs::Job;
use keyfold_server::{
    client::{Client, ClientError, path},
    proxy::sidecar::Holder,
};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::{
    failure::{Exit, Failure, one_line},
    invocation::Invocation,
    output,
};

pub(crate) const TOKEN_VARIABLE: &str = "KEYFOLD_TOKEN";

/// A server that commands are sent to.
pub(crate) struct Remote(Client);

impl Remote {
    /// The server that was named, if one was.
    pub(crate) fn of(invocation: &Invocation) -> Result<Option<Self>, Failure> {
        let Some(server) = invocation.server() else { return Ok(None) };
        let token = std::env::var(TOKEN_VARIABLE).map_err(|_| {
            Failure::usage(format!("{TOKEN_VARIABLE} environment variable not set"))
                .hint(format!("export {TOKEN_VARIABLE}=…; an operator makes one with `keyfold token create`"))
        })?;
        Ok(Some(Self(Client::new(server, Zeroizing::new(token.trim().to_owned()))?)))
    }

    /// The same; without TLS the token goes to a process of theirs alone.
    pub(crate) fn held_by(self, holder: Arc<Holder>) -> Self {
        Self(self.0.held_by(holder))
    }

    /// Refuses what works on a data folder only.
    pub(crate) fn refuse(invocation: &Invocation, what: &str) -> Result<(), Failure> {
        match invocation.server() {
            None => Ok(()),
            Some(_) => Err(Failure::usage(format!("`{what}` works on a data folder, not over a server"))
                .hint("run it on the server's machine, without --server and KEYFOLD_SERVER")),
        }
    }

    /// Any call that takes and gives JSON.
    pub(crate) async fn json(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        Ok(self.0.json(method, path, body).await?)
    }

    pub(crate) async fn seal(&self, format: Format, context: &[String], secret: &[u8]) -> Result<Value, Failure> {
        let body = Zeroizing::new(
            json!({
                "plaintext_base64": base64(secret), "format": format.as_str(), "context": entries(context)?,
            })
            .to_string(),
        );
        let body = Zeroizing::new(body.as_bytes().to_vec());
        value(&self.0.call("POST", "/v1/seal", Some(body), None).await?)
    }

    pub(crate) async fn open(&self, stored: &str, context: &[String], max_age: Option<u64>) -> Result<Secret, Failure> {
        let mut body = json!({ "envelope": stored, "context": entries(context)? });
        if let Some(max_age) = max_age {
            body["max_age"] = max_age.into();
        }
        let body = Zeroizing::new(body.to_string().into_bytes());
        plaintext(&value(&self.0.call("POST", "/v1/open", Some(body), None).await?)?)
    }

    pub(crate) async fn put(
        &self,
        (collection, key): (&str, &str),
        doc: &[u8],
        (replace, revision): (bool, Option<u64>),
    ) -> Result<Value, Failure> {
        let condition = match (revision, replace) {
            (Some(revision), _) => Some(("if-match", format!("\"{revision}\""))),
            (None, false) => Some(("if-none-match", "*".to_owned())),
            (None, true) => None,
        };
        let path = path(&["collections", collection, "records", key]);
        value(&self.0.call("PUT", &path, Some(Zeroizing::new(doc.to_vec())), condition).await?)
    }

    pub(crate) async fn remove(&self, (collection, key): (&str, &str), revision: Option<u64>) -> Result<(), Failure> {
        let condition = revision.map(|revision| ("if-match", format!("\"{revision}\"")));
        let path = path(&["collections", collection, "records", key]);
        self.0.call("DELETE", &path, None, condition).await?;
        Ok(())
    }

    /// The redacted document, as the store holds it.
    pub(crate) async fn get(&self, collection: &str, key: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
        Ok(self.0.call("GET", &path(&["collections", collection, "records", key]), None, None).await?)
    }

    pub(crate) async fn field(&self, collection: &str, key: &str, pointer: &str) -> Result<Secret, Failure> {
        let path = format!("{}:open", path(&["collections", collection, "records", key]));
        let body = Zeroizing::new(json!({ "field": pointer }).to_string().into_bytes());
        let opened = value(&self.0.call("POST", &path, Some(body), None).await?)?;
        opened["fields"].get(0).map_or_else(|| Err(strange()), plaintext)
    }

    pub(crate) async fn list(&self, collection: &str, json: bool) -> Result<(), Failure> {
        let base = path(&["collections", collection, "records"]);
        let mut after = String::new();
        loop {
            let page = self.json("GET", &format!("{base}?limit=1000{after}"), None).await?;
            for key in page["records"].as_array().ok_or_else(strange)?.iter().filter_map(Value::as_str) {
                if json { output::json(&json!({ "key": key }))? } else { output::line(&one_line(key))? }
            }
            let Some(next) = page["next"].as_str() else { return Ok(()) };
            // A path's encoding is as good for a query.
            after = format!("&after={}", &path(&[next])["/v1/".len()..]);
        }
    }

    /// Runs a job on every collection that is asked for, and waits for its end.
    pub(crate) async fn job(&self, job: &Job, only: Option<&str>, invocation: &Invocation) -> Result<Exit, Failure> {
        let names = match only {
            Some(name) => vec![name.to_owned()],
            None => {
                let listed = self.json("GET", "/v1/collections", None).await?;
                let listed = listed["collections"].as_array().ok_or_else(strange)?;
                listed.iter().filter_map(|collection| collection["name"].as_str()).map(str::to_owned).collect()
            }
        };
        let mut exit = Exit::Done;
        for name in names {
            let mut body = json!({ "kind": job.kind.as_str(), "collection": name, "dry_run": job.dry_run, "reseal": job.how == How::Reseal });
            if let Some(to) = job.to {
                body["to"] = to.as_str().into();
            }
            let started = self.json("POST", "/v1/jobs", Some(&body)).await?;
            let at = path(&["jobs", started["id"].as_str().ok_or_else(strange)?]);
            let ended = self.ended(&at, invocation).await?;
            let summary = &ended["summary"];
            match ended["state"].as_str() {
                Some("done") => {}
                Some("stopped") => return Err(Failure::interrupted()),
                _ => {
                    return Err(Failure::unavailable(format!("the job on {name} failed"))
                        .hint(format!("code {}; the server's log says more", ended["code"].as_str().unwrap_or("-"))));
                }
            }
            say(summary, &name, invocation)?;
            if summary["quarantined_values"].as_u64() != Some(0) {
                exit = Exit::RecordsLeft;
            }
        }
        Ok(exit)
    }

    async fn ended(&self, at: &str, invocation: &Invocation) -> Result<Value, Failure> {
        loop {
            let job = self.json("GET", at, None).await?;
            if job["state"] != "running" {
                return Ok(job);
            }
            if invocation.stop().requested() {
                drop(self.json("DELETE", at, None).await);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The certificate of the deployment's authority, in PEM.
    pub(crate) async fn authority(&self) -> Result<String, Failure> {
        let pem = self.0.call("GET", "/v1/authority", None, None).await?;
        String::from_utf8(pem.to_vec()).map_err(|_| strange())
    }

    /// What a handle is good for.
    pub(crate) async fn session_of(&self, handle: &str) -> Result<Value, Failure> {
        let shown = Some(("keyfold-session", handle.to_owned()));
        value(&self.0.call("GET", "/v1/sessions/current", None, shown).await?)
    }

    /// Prints bytes as they come.
    pub(crate) async fn print(&self, path: &str) -> Result<Exit, Failure> {
        output::data(&self.0.call("GET", path, None, None).await?)?;
        Ok(Exit::Done)
    }
}

fn say(summary: &Value, name: &str, invocation: &Invocation) -> Result<(), Failure> {
    if invocation.json() {
        return output::json(summary);
    }
    let number = |key: &str| summary[key].as_u64().unwrap_or(0);
    let mut line = format!("{name}: {} records, {} secrets", number("records"), number("values"));
    if summary["job"] != "verify" {
        let would = if summary["dry_run"] == true { "would be " } else { "" };
        line += &format!("; {} records {would}changed", number("changed"));
    }
    output::line(&line)?;
    for found in summary["found"].as_array().into_iter().flatten() {
        let (format, kid) = (found["format"].as_str().unwrap_or("-"), found["kid"].as_str().unwrap_or("-"));
        output::line(&format!("  {format:<9}  {kid:<16}  {}", found["values"].as_u64().unwrap_or(0)))?;
    }
    for left in summary["quarantined"].as_array().into_iter().flatten() {
        let text = |key: &str| left[key].as_str().unwrap_or("");
        output::line(&one_line(&format!(
            "    {}/{}#{}: {} ({})",
            text("collection"),
            text("record"),
            text("field"),
            text("reason"),
            text("code")
        )))?;
    }
    Ok(())
}

fn base64(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

fn entries(context: &[String]) -> Result<Value, Failure> {
    let mut map = Map::new();
    for entry in context {
        let (key, value) = entry.split_once('=').ok_or_else(|| Failure::usage("an entry is written key=value"))?;
        map.insert(key.to_owned(), value.into());
    }
    Ok(Value::Object(map))
}

fn plaintext(value: &Value) -> Result<Secret, Failure> {
    match (value["plaintext"].as_str(), value["plaintext_base64"].as_str()) {
        (Some(text), _) => Ok(Secret::from(text.as_bytes())),
        (None, Some(text)) => base64_simd::STANDARD.decode_to_vec(text).map(Secret::new).map_err(|_| strange()),
        (None, None) => Err(strange()),
    }
}

fn value(bytes: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(bytes).map_err(|_| strange())
}

fn strange() -> Failure {
    Failure::unavailable("what answers is not a Keyfold server, or another version of it").hint("check --server")
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let failure = match &error {
            ClientError::Problem { status, code, message, .. } => match (status, code.as_str()) {
                (403, _) => Self::new(Exit::Refused, "forbidden", message),
                (401, _) => Self::new(Exit::Refused, "unauthenticated", message),
                (_, "waiting") => Self::new(Exit::Refused, "waiting", message),
                (404, _) => Self::new(Exit::RecordsLeft, "not_found", message),
                (409 | 412, _) => Self::new(Exit::RecordsLeft, "conflict", message),
                (status, code) => match Code::ALL.into_iter().find(|known| known.as_str() == code) {
                    Some(code) => Self::coded(code, message),
                    None if *status < 500 => Self::usage(message),
                    None => Self::unavailable(message),
                },
            },
            ClientError::Address => Self::usage(error.to_string()),
            other => Self::unavailable(other.to_string()).caused_by(other),
        };
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
