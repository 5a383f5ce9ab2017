//! The calls: Firestore's interface over HTTP and JSON, version 1, at Google or in its emulator.

use std::time::Duration;

use google_cloud_auth::credentials::{AccessTokenCredentials, Builder};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    address::FirestoreAddress,
    error::{self, Status},
    value::Fields,
};
use crate::store::StoreError;

const GOOGLE: &str = "https://firestore.googleapis.com";
const SCOPE: &str = "https://www.googleapis.com/auth/datastore";
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(60);

/// A list is asked for again with fewer documents where its answer is longer than this, in bytes. Any one document fits.
const LONG: usize = 24 << 20;

/// What stands in a URL for itself.
const PLAIN: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'/').remove(b'(').remove(b')');

/// A document as it was read.
#[derive(Deserialize)]
pub(super) struct Document {
    name: String,
    #[serde(default)]
    pub(super) fields: Fields,
    #[serde(rename = "updateTime")]
    pub(super) updated: String,
}

/// A change of some fields of one document, which must not have changed since it was read.
pub(super) struct Write {
    pub(super) path: String,
    pub(super) mask: Vec<String>,
    pub(super) fields: Fields,
    pub(super) updated: String,
}

/// A whole document of our own: made, replaced or deleted.
pub(super) struct Change {
    pub(super) path: String,
    /// What it holds from then on; `None` deletes it.
    pub(super) fields: Option<Fields>,
    pub(super) expect: Expected,
}

/// What a document must be for a [`Change`].
pub(super) enum Expected {
    Anything,
    Absent,
    /// Written last at that time.
    At(String),
}

impl Change {
    fn on_the_wire(&self, client: &Client) -> serde_json::Value {
        let mut write = match &self.fields {
            Some(fields) => json!({ "update": { "name": client.full(&self.path), "fields": fields } }),
            None => json!({ "delete": client.full(&self.path) }),
        };
        match &self.expect {
            Expected::Anything => {}
            Expected::Absent => write["currentDocument"] = json!({ "exists": false }),
            Expected::At(updated) => write["currentDocument"] = json!({ "updateTime": updated }),
        }
        write
    }
}

/// The documents that a query asks for, in the order of their names.
pub(super) struct Query<'a> {
    /// The document that they are below, or nothing.
    pub(super) parent: String,
    /// The name of their collection.
    pub(super) collection: &'a str,
    /// Whether collections of that name further down are meant too.
    pub(super) descendants: bool,
    /// Where they begin: a path, and whether the document there is one of them.
    pub(super) from: Option<(String, bool)>,
    /// The path before which they end.
    pub(super) to: Option<String>,
    pub(super) limit: usize,
}

enum Access {
    /// The emulator lets everybody in who says so.
    Emulator,
    Google(AccessTokenCredentials),
}

pub(super) struct Client {
    /// The store, for messages.
    pub(super) name: String,
    root: String,
    base: String,
    http: reqwest::Client,
    access: Access,
}

impl Client {
    /// # Errors
    /// No credentials where Google's own are wanted.
    pub(super) fn new(address: &FirestoreAddress) -> Result<Self, StoreError> {
        let name = address.to_string();
        let builder = reqwest::Client::builder().connect_timeout(CONNECT).timeout(ANSWER);
        let (base, access, builder) = match address.emulator() {
            Some(host) => (format!("http://{host}"), Access::Emulator, builder.no_proxy()),
            None => {
                let credentials = Builder::default().with_scopes([SCOPE]).build_access_token_credentials();
                let credentials = credentials.map_err(|error| StoreError::Refused {
                    store: name.clone(),
                    what:
                        "there are no credentials for it: set GOOGLE_APPLICATION_CREDENTIALS to the file of a service \
                           account, or run `gcloud auth application-default login`"
                            .into(),
                    source: Some(error.into()),
                })?;
                (GOOGLE.to_owned(), Access::Google(credentials), builder.https_only(true))
            }
        };
        let http = builder.build().map_err(|error| error::no_answer(&name, error, ANSWER))?;
        Ok(Self { name, root: address.root(), base, http, access })
    }

    async fn token(&self) -> Result<String, StoreError> {
        let Access::Google(credentials) = &self.access else { return Ok("owner".into()) };
        let unavailable = |what: &str, retry, source| StoreError::Unavailable {
            store: self.name.clone(),
            what: what.into(),
            retry,
            source,
        };
        match tokio::time::timeout(ANSWER, credentials.access_token()).await {
            Ok(Ok(token)) => Ok(token.token),
            Ok(Err(error)) => {
                // What the service says about a refused credential may repeat it.
                Err(unavailable("Google gives no access token for the credentials", error.is_transient(), None))
            }
            Err(_) => Err(unavailable("Google gave no access token in time", true, None)),
        }
    }

    async fn post<T: DeserializeOwned>(&self, at: &str, body: &impl Serialize) -> Result<T, StoreError> {
        self.post_for(at, body, usize::MAX).await?.ok_or_else(|| error::not_understood(&self.name))
    }

    /// `None` where the answer has more than `most` bytes.
    async fn post_for<T: DeserializeOwned>(
        &self,
        at: &str,
        body: &impl Serialize,
        most: usize,
    ) -> Result<Option<T>, StoreError> {
        let (status, body) = self.call(at, body, most).await?;
        let Some(body) = body else { return Ok(None) };
        if !status.is_success() {
            return Err(error::refused(&self.name, status.as_u16(), &body));
        }
        serde_json::from_slice(&body).map(Some).map_err(|_| error::not_understood(&self.name))
    }

    /// The status, and what was answered unless it has more than `most` bytes.
    async fn call(
        &self,
        at: &str,
        body: &impl Serialize,
        most: usize,
    ) -> Result<(reqwest::StatusCode, Option<Vec<u8>>), StoreError> {
        let body = serde_json::to_vec(body).map_err(|_| StoreError::invalid("a request cannot be written as JSON"))?;
        let request = self
            .http
            .post(format!("{}/v1/{at}", self.base))
            .bearer_auth(self.token().await?)
            .header("content-type", "application/json")
            .body(body);
        let no_answer = |error| error::no_answer(&self.name, error, ANSWER);
        let mut response = request.send().await.map_err(no_answer)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
            if body.len() + chunk.len() > most {
                return Ok((status, None));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((status, Some(body)))
    }

    fn full(&self, path: &str) -> String {
        format!("{}/{path}", self.root)
    }

    /// The path of a document below the root.
    pub(super) fn path<'a>(&self, document: &'a Document) -> Result<&'a str, StoreError> {
        let path = document.name.strip_prefix(&self.root).and_then(|rest| rest.strip_prefix('/'));
        path.ok_or_else(|| error::not_understood(&self.name))
    }

    fn query(&self, query: &Query<'_>) -> (String, serde_json::Value) {
        let edge = |path: &str, before| json!({"values": [{"referenceValue": self.full(path)}], "before": before});
        let mut text = json!({
            "from": [{"collectionId": query.collection, "allDescendants": query.descendants}],
            "orderBy": [{"field": {"fieldPath": "__name__"}}],
        });
        if let Some((path, including)) = &query.from {
            text["startAt"] = edge(path, *including);
        }
        if let Some(path) = &query.to {
            text["endAt"] = edge(path, true);
        }
        let at = if query.parent.is_empty() { self.root.clone() } else { self.full(&query.parent) };
        (utf8_percent_encode(&at, PLAIN).to_string(), text)
    }

    /// The first documents that a query finds. Its limit is lowered where they are large.
    pub(super) async fn list(&self, query: &mut Query<'_>) -> Result<Vec<Document>, StoreError> {
        Ok(self.list_at(query, json!({})).await?.0)
    }

    /// As [`Client::list`], with more words of the query, and when it was answered.
    pub(super) async fn list_at(
        &self,
        query: &mut Query<'_>,
        more: serde_json::Value,
    ) -> Result<(Vec<Document>, String), StoreError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Row {
            document: Option<Document>,
            error: Option<Status>,
            read_time: Option<String>,
        }
        let (at, mut text) = self.query(query);
        if let (Some(text), serde_json::Value::Object(more)) = (text.as_object_mut(), more) {
            text.extend(more);
        }
        loop {
            text["limit"] = query.limit.into();
            let most = if query.limit > 1 { LONG } else { usize::MAX };
            let body = json!({"structuredQuery": &text});
            let rows: Option<Vec<Row>> = self.post_for(&format!("{at}:runQuery"), &body, most).await?;
            let Some(rows) = rows else {
                query.limit = (query.limit / 8).max(1);
                continue;
            };
            let (mut documents, mut time) = (Vec::with_capacity(rows.len()), String::new());
            for Row { document, error, read_time } in rows {
                // What came before an error is no whole answer, and a row that says nothing hides something.
                if let Some(error) = error {
                    return Err(error::in_between(&self.name, &error));
                }
                time = read_time.ok_or_else(|| error::not_understood(&self.name))?;
                documents.extend(document);
            }
            return Ok((documents, time));
        }
    }

    /// How many documents a query finds.
    pub(super) async fn count(&self, query: &Query<'_>) -> Result<u64, StoreError> {
        let (at, text) = self.query(query);
        let body = json!({"structuredAggregationQuery": {
            "structuredQuery": text, "aggregations": [{"alias": "n", "count": {}}],
        }});
        let rows: Vec<serde_json::Value> = self.post(&format!("{at}:runAggregationQuery"), &body).await?;
        if let Some(error) = rows.iter().find_map(|row| Status::deserialize(row.get("error")?).ok()) {
            return Err(error::in_between(&self.name, &error));
        }
        let number = rows.iter().find_map(|row| row["result"]["aggregateFields"]["n"]["integerValue"].as_str());
        number.and_then(|text| text.parse().ok()).ok_or_else(|| error::not_understood(&self.name))
    }

    /// Documents by their paths, in the same order; `None` where there is none.
    pub(super) async fn get(&self, paths: &[&str]) -> Result<Vec<Option<Document>>, StoreError> {
        Ok(self.get_at(paths).await?.0)
    }

    /// As [`Client::get`], with the server's time of reading.
    pub(super) async fn get_at(&self, paths: &[&str]) -> Result<(Vec<Option<Document>>, String), StoreError> {
        self.get_of(paths, json!({})).await
    }

    /// As [`Client::get_at`], only these fields of them.
    pub(super) async fn get_only(
        &self,
        paths: &[&str],
        fields: &[&str],
    ) -> Result<(Vec<Option<Document>>, String), StoreError> {
        self.get_of(paths, json!({"mask": {"fieldPaths": fields}})).await
    }

    async fn get_of(
        &self,
        paths: &[&str],
        mut body: serde_json::Value,
    ) -> Result<(Vec<Option<Document>>, String), StoreError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Row {
            found: Option<Document>,
            missing: Option<String>,
            error: Option<Status>,
            #[serde(default)]
            read_time: String,
        }
        let names: Vec<String> = paths.iter().map(|path| self.full(path)).collect();
        let at = utf8_percent_encode(&self.root, PLAIN);
        body["documents"] = json!(names);
        let rows: Vec<Row> = self.post(&format!("{at}:batchGet"), &body).await?;
        let time = rows.last().map(|row| row.read_time.clone()).unwrap_or_default();
        // Answers come in any order, and every document has one.
        let mut answers = std::collections::HashMap::with_capacity(rows.len());
        for row in rows {
            match row {
                Row { error: Some(error), .. } => return Err(error::in_between(&self.name, &error)),
                Row { found: Some(document), .. } => answers.insert(document.name.clone(), Some(document)),
                Row { missing: Some(name), .. } => answers.insert(name, None),
                Row { .. } => None,
            };
        }
        let answer = |name: &String| answers.remove(name).ok_or_else(|| error::not_understood(&self.name));
        Ok((names.iter().map(answer).collect::<Result<_, _>>()?, time))
    }

    /// Writes all or nothing, and gives when each document was written; `None` where one was not what its write expected.
    pub(super) async fn commit(&self, writes: &[Change]) -> Result<Option<Vec<String>>, StoreError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            #[serde(default)]
            write_results: Vec<Written>,
            #[serde(default)]
            commit_time: String,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Written {
            // Of a document that was deleted there is none.
            update_time: Option<String>,
        }
        let at = format!("{}:commit", utf8_percent_encode(&self.root, PLAIN));
        let writes: Vec<_> = writes.iter().map(|write| write.on_the_wire(self)).collect();
        let (status, body) = self.call(&at, &json!({ "writes": writes }), usize::MAX).await?;
        let body = body.unwrap_or_default();
        if !status.is_success() {
            return match error::is_conflict(status.as_u16(), &body) {
                true => Ok(None),
                false => Err(error::refused(&self.name, status.as_u16(), &body)),
            };
        }
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| error::not_understood(&self.name))?;
        if answer.write_results.len() != writes.len() {
            return Err(error::not_understood(&self.name));
        }
        let commit = answer.commit_time;
        Ok(Some(answer.write_results.into_iter().map(|w| w.update_time.unwrap_or_else(|| commit.clone())).collect()))
    }

    /// Writes of different documents, each judged by itself, with an answer for each.
    pub(super) async fn write(&self, writes: &[Write]) -> Result<Vec<Status>, StoreError> {
        #[derive(Deserialize)]
        struct Answers {
            #[serde(default)]
            status: Vec<Status>,
        }
        let updates: Vec<_> = writes
            .iter()
            .map(|write| Update {
                update: Target { name: self.full(&write.path), fields: &write.fields },
                update_mask: Mask { field_paths: &write.mask },
                current_document: Precondition { update_time: &write.updated },
            })
            .collect();
        let at = format!("{}:batchWrite", utf8_percent_encode(&self.root, PLAIN));
        let (status, body) = self.call(&at, &Batch { writes: &updates }, usize::MAX).await?;
        let body = body.unwrap_or_default();
        if error::is_invalid(status.as_u16(), &body) {
            // One that no document may hold keeps all of them from being looked at; which one it is, only halves tell.
            let [_] = writes else {
                let (first, second) = writes.split_at(writes.len() / 2);
                let mut answers = Box::pin(self.write(first)).await?;
                answers.extend(Box::pin(self.write(second)).await?);
                return Ok(answers);
            };
            return Ok(vec![Status::invalid()]);
        }
        if !status.is_success() {
            return Err(error::refused(&self.name, status.as_u16(), &body));
        }
        let answers: Answers = serde_json::from_slice(&body).map_err(|_| error::not_understood(&self.name))?;
        if answers.status.len() == writes.len() { Ok(answers.status) } else { Err(error::not_understood(&self.name)) }
    }
}

#[derive(Serialize)]
struct Batch<'a> {
    writes: &'a [Update<'a>],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Update<'a> {
    update: Target<'a>,
    update_mask: Mask<'a>,
    current_document: Precondition<'a>,
}

#[derive(Serialize)]
struct Target<'a> {
    name: String,
    fields: &'a Fields,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Mask<'a> {
    field_paths: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Precondition<'a> {
    update_time: &'a str,
}
