//! `Idempotency-Key`: a write that was sent twice happens once, and is answered twice alike.
//!
//! Only handlers that ask for [`Once`] take the header, and they do so after they permitted the call: an answer is repeated to nobody who
//! could not ask for it anew. Kept for a day, for each actor by itself, under a keyed hash of the request. What is kept holds no
//! secret: an answer that is [`ShownOnce`] is not repeated. A key is free again only where it is certain that nothing was done.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::FromRequestParts,
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use http_body_util::{BodyExt as _, Limited};
use keyfold_core::{audit::Actor, clock::UnixTime, id::to_hex, mac::sha256};
use keyfold_custody::{
    store::{Expect, Put, SystemStore},
    vouched::Voucher,
};
use serde::{Deserialize, Serialize};

use crate::{auth::Caller, problem::Problem, service::Service, wiped::Wiped};

const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
const PREFIX: &str = "writes/";
/// Where earlier versions kept answers, some of them with secrets.
const FORMER: &str = "idempotency/";
const KEPT: Duration = Duration::from_secs(86_400);
/// A write that began this long ago and has not ended does not end any more: its process died, and how far it came is not known.
const RUNNING: u64 = 300;
const MAX_KEY: usize = 200;
/// An answer over this many bytes is not kept.
const MAX_ANSWER: usize = 64 << 10;

#[derive(Serialize, Deserialize)]
struct Kept {
    request: String,
    state: State,
}

#[derive(Serialize, Deserialize)]
enum State {
    /// When, in seconds since 1970.
    Began(u64),
    /// It failed at a point where it may have happened.
    InDoubt,
    Ended(Answer),
}

#[derive(Serialize, Deserialize)]
struct Answer {
    status: u16,
    kind: Option<String>,
    etag: Option<String>,
    location: Option<String>,
    /// `None` where it was shown once.
    body: Option<String>,
}

/// Marks a response that holds a secret.
#[derive(Debug, Clone)]
pub(super) struct ShownOnce;

/// A response that holds a secret, of about so many bytes: wiped once it is sent, and never kept.
pub(super) fn shown_once(status: StatusCode, value: &impl Serialize, room: usize) -> Result<Response, Problem> {
    let mut json = Wiped::with_capacity(room);
    serde_json::to_writer(&mut json, value).map_err(|error| Problem::internal(&error))?;
    let mut response = Response::new(Body::from(Bytes::from_owner(json)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.extensions_mut().insert(ShownOnce);
    Ok(response)
}

/// What a request says of being sent again.
pub(super) struct Once {
    key: Option<HeaderValue>,
    request: String,
}

impl<S: Sync> FromRequestParts<S> for Once {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // Not the whole URI: over HTTP/2 it has a scheme and a host.
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let conditions = [header::IF_MATCH, header::IF_NONE_MATCH].map(|name| parts.headers.get(name));
        let request = format!("{} {target} {conditions:?}", parts.method);
        Ok(Self { key: parts.headers.get(&HEADER).cloned(), request })
    }
}

impl Once {
    /// Does what was asked for, or answers as it did when it was done. The caller has been permitted to do it.
    pub(super) async fn run(
        &self,
        (service, caller): (&Service, &Caller),
        body: &[u8],
        write: impl Future<Output = Result<Response, Problem>> + Send,
    ) -> Result<Response, Problem> {
        let Some(key) = &self.key else { return write.await };
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(Problem::bad_request(format!("`idempotency-key` has 1 to {MAX_KEY} bytes")));
        }
        let now = service.custody.auditor.clock().now();
        let fingerprint = service.voucher.fingerprint(&self.request, body);
        let (system, voucher) = (&*service.custody.system, &*service.voucher);
        let claim = Claim { system, voucher, place: place(&caller.actor, key), fingerprint };
        match claim.begin(now).await? {
            Begun::Before(answer) => Ok(answer),
            Begun::Now(version) => claim.end(version, write.await).await,
        }
    }
}

fn place(actor: &Actor, key: &HeaderValue) -> String {
    let place = sha256(&[actor.as_str().as_bytes(), b"\0", key.as_bytes()]);
    format!("{PREFIX}{}", to_hex(&place[..16]))
}

/// One actor's key, and the request that came with it.
struct Claim<'a> {
    system: &'a dyn SystemStore,
    voucher: &'a Voucher,
    place: String,
    fingerprint: String,
}

enum Begun {
    /// Under this version of the document.
    Now(u64),
    /// And answered.
    Before(Response),
}

impl Claim<'_> {
    async fn begin(&self, now: UnixTime) -> Result<Begun, Problem> {
        match self.put(State::Began(now.0), Expect::Absent).await? {
            Put::Stored { version } => Ok(Begun::Now(version)),
            Put::Conflict => self.again(now).await.map(Begun::Before),
        }
    }

    async fn put(&self, state: State, expect: Expect) -> Result<Put, Problem> {
        let kept = Kept { request: self.fingerprint.clone(), state };
        let json = serde_json::to_vec(&kept).map_err(|error| Problem::internal(&error))?;
        let doc = self.voucher.vouch(&self.place, &json);
        Ok(self.system.put(&self.place, &doc, expect, Some(KEPT)).await?)
    }

    async fn again(&self, now: UnixTime) -> Result<Response, Problem> {
        let running = || {
            Problem::busy(
                StatusCode::CONFLICT,
                "in_progress",
                "a request with this idempotency key is being worked on",
                1,
            )
        };
        let in_doubt = || {
            Problem::new(
                StatusCode::CONFLICT,
                "in_doubt",
                "that was begun before, and whether it was done is not known",
            )
            .hint("look what is there; then send it with a new key, if it is still wanted")
        };
        // Gone in between: it was freed.
        let Some(doc) = self.system.get(&self.place).await? else { return Err(running()) };
        let kept =
            self.voucher.check(&self.place, &doc.value).and_then(|json| serde_json::from_slice::<Kept>(json).ok());
        let kept = kept.ok_or_else(in_doubt)?;
        if kept.request != self.fingerprint {
            return Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "this idempotency key came with another request",
            )
            .hint("make a new key for every request"));
        }
        let answer = match kept.state {
            State::Began(at) if now.0.saturating_sub(at) < RUNNING => return Err(running()),
            State::Began(_) | State::InDoubt => return Err(in_doubt()),
            State::Ended(answer) => answer,
        };
        let Some(body) = answer.body else {
            return Err(Problem::new(StatusCode::CONFLICT, "already_done", "that was done; its answer is shown once")
                .hint("revoke what was made and make another"));
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
        let headers =
            [(header::CONTENT_TYPE, answer.kind), (header::ETAG, answer.etag), (header::LOCATION, answer.location)];
        for (name, value) in headers {
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                response.headers_mut().insert(name, value);
            }
        }
        Ok(response)
    }

    /// Keeps what was answered, or that nobody knows. Where nothing was done the key is free again.
    async fn end(&self, version: u64, ended: Result<Response, Problem>) -> Result<Response, Problem> {
        let (state, answered) = match ended {
            Ok(response) => match self.answer(response).await {
                Ok((answer, response)) => (State::Ended(answer), Ok(response)),
                Err(problem) => (State::InDoubt, Err(problem)),
            },
            Err(problem) if problem.status() == StatusCode::INTERNAL_SERVER_ERROR => (State::InDoubt, Err(problem)),
            Err(problem) => {
                if let Err(error) = self.system.delete(&self.place, Expect::Version(version)).await {
                    tracing::warn!(%error, "an idempotency key could not be freed");
                }
                return Err(problem);
            }
        };
        // Where this fails the key stays as it is: begun, and soon in doubt.
        if let Err(problem) = self.put(state, Expect::Version(version)).await {
            tracing::warn!(code = problem.code(), "an answer could not be kept for its idempotency key");
        }
        answered
    }

    async fn answer(&self, response: Response) -> Result<(Answer, Response), Problem> {
        let (parts, body) = response.into_parts();
        let text = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut answer = Answer {
            status: parts.status.as_u16(),
            kind: text(header::CONTENT_TYPE),
            etag: text(header::ETAG),
            location: text(header::LOCATION),
            body: None,
        };
        if parts.extensions.get::<ShownOnce>().is_some() {
            return Ok((answer, Response::from_parts(parts, body)));
        }
        let bytes = Limited::new(body, MAX_ANSWER).collect().await;
        let bytes = bytes.map_err(|_| Problem::internal(&"an answer that is too long to be kept"))?.to_bytes();
        answer.body = Some(String::from_utf8_lossy(&bytes).into_owned());
        Ok((answer, Response::from_parts(parts, Body::from(bytes))))
    }
}

/// Removes what earlier versions kept.
pub(crate) async fn forget_former(service: Arc<Service>) {
    let system = &service.custody.system;
    loop {
        let removed = async {
            let page = system.list(FORMER, None, 500).await?;
            for (key, _) in &page {
                system.delete(key, Expect::Any).await?;
            }
            Ok::<_, keyfold_custody::store::StoreError>(page.is_empty())
        };
        match removed.await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "answers that an earlier version kept could not be removed; it is tried again");
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Json, response::IntoResponse as _};
    use keyfold_core::{keyring::Keyring, secret::Key32};
    use keyfold_custody::store::sqlite::{OpenMode, SqliteStore};
    use tempfile::TempDir;

    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    struct Place {
        store: SqliteStore,
        voucher: Voucher,
        _folder: TempDir,
    }

    impl Place {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = SqliteStore::open(folder.path().join("keyfold.db"), OpenMode::Create).await.unwrap();
            let voucher = Voucher::of(&Keyring::first("kr", "kf", Key32::new([9; 32]))).unwrap();
            Self { store, voucher, _folder: folder }
        }

        fn claim(&self, body: &str) -> Claim<'_> {
            let place = place(&Actor::new("operator:x").unwrap(), &HeaderValue::from_static("a"));
            let fingerprint = self.voucher.fingerprint("POST /x", body.as_bytes());
            Claim { system: &self.store, voucher: &self.voucher, place, fingerprint }
        }

        async fn begun(&self) -> u64 {
            match self.claim("1").begin(NOW).await.unwrap() {
                Begun::Now(version) => version,
                Begun::Before(_) => panic!("it was answered before it was done"),
            }
        }

        async fn refused(&self, later: u64) -> &'static str {
            match self.claim("1").begin(UnixTime(NOW.0 + later)).await {
                Err(problem) => problem.code(),
                Ok(_) => panic!("it is done again"),
            }
        }

        async fn kept(&self) -> String {
            let all = self.store.list("", None, 10).await.unwrap();
            all.iter().map(|(_, doc)| String::from_utf8_lossy(&doc.value).into_owned()).collect()
        }
    }

    #[tokio::test]
    async fn a_write_that_takes_long_or_whose_process_died_is_not_done_again_under_its_key() {
        let place = Place::new().await;
        let version = place.begun().await;
        assert_eq!(place.refused(61).await, "in_progress");
        assert_eq!(place.refused(3600).await, "in_doubt");
        // It ended after all.
        let done = Ok(Json("done").into_response());
        place.claim("1").end(version, done).await.unwrap();
        let Ok(Begun::Before(answer)) = place.claim("1").begin(NOW).await else { panic!("it is done again") };
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "\"done\"");
        let other = place.claim("2").begin(NOW).await.map(drop).unwrap_err();
        assert_eq!(other.code(), "idempotency_key_reused");
    }

    #[tokio::test]
    async fn a_key_is_free_again_only_where_nothing_was_done() {
        let place = Place::new().await;
        for status in [StatusCode::CONFLICT, StatusCode::SERVICE_UNAVAILABLE, StatusCode::PRECONDITION_FAILED] {
            let version = place.begun().await;
            let _ = place.claim("1").end(version, Err(Problem::new(status, "x", "x"))).await;
        }
        let version = place.begun().await;
        let after = keyfold_custody::error::CustodyError::Conflict { what: "x".into() }.afterwards();
        let told = place.claim("1").end(version, Err(after.into())).await.map(drop).unwrap_err();
        assert_eq!(told.code(), "in_doubt");
        assert_eq!(place.refused(1).await, "in_doubt");
    }

    #[tokio::test]
    async fn p38_an_answer_that_holds_a_secret_is_not_kept() {
        let place = Place::new().await;
        let version = place.begun().await;
        let secret = shown_once(StatusCode::CREATED, &"hunter2", 16).unwrap();
        let shown = place.claim("1").end(version, Ok(secret)).await.unwrap();
        assert_eq!(shown.into_body().collect().await.unwrap().to_bytes(), "\"hunter2\"");
        assert_eq!(place.refused(1).await, "already_done");
        assert!(!place.kept().await.contains("hunter2"), "{}", place.kept().await);
    }
}
