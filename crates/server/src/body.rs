//! Bodies on their way in: bounded in size, in time and in how much of them is held at once; and JSON out of them, without a
//! word of theirs in an error.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
};
use http_body_util::BodyExt as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{problem::Problem, wiped::Wiped};

/// How long a body may take to come in.
const TIME: Duration = Duration::from_secs(30);
/// Bodies up to this size are not counted: every connection may hold one.
const SMALL: usize = 64 << 10;
/// The unit in which held memory is counted.
const UNIT: usize = 1 << 10;

/// How much of large bodies is held at once, over all connections.
pub(crate) struct Room(Arc<Semaphore>);

impl Room {
    /// Room for so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / UNIT)))
    }
}

/// A body, wiped and its room given back when it is dropped.
pub(crate) struct Given {
    bytes: Wiped,
    _held: Option<OwnedSemaphorePermit>,
}

impl Given {
    /// All of it.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl AsRef<[u8]> for Given {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

/// Reads a JSON body of at most `limit` bytes.
pub(crate) async fn read(limits: (&Room, usize), headers: &HeaderMap, body: Body) -> Result<Given, Problem> {
    let json = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
        value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    });
    if !json {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "the body must be application/json",
        ));
    }
    whole(limits, headers, body).await
}

/// Reads a body of at most `limit` bytes, whatever it is.
pub(crate) async fn whole(
    (room, limit): (&Room, usize),
    headers: &HeaderMap,
    mut body: Body,
) -> Result<Given, Problem> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    // Without a length, a body that outgrows the small ones counts as the largest there can be.
    let expected = length.unwrap_or(limit);
    let mut held = None;
    if length.is_some_and(|length| length > SMALL) {
        held = Some(room_for(room, expected)?);
    }
    let mut bytes = Wiped::with_capacity(length.unwrap_or(4096));
    let read = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Problem::bad_request("the body broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            let len = bytes.as_ref().len() + data.len();
            if len > limit {
                return Err(too_large(limit));
            }
            if held.is_none() && len > SMALL {
                held = Some(room_for(room, expected)?);
            }
            bytes.extend(&data);
        }
        Ok(())
    };
    timeout(TIME, read)
        .await
        .map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not come in within 30 s"))??;
    Ok(Given { bytes, _held: held })
}

fn room_for(room: &Room, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
    let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
    Arc::clone(&room.0)
        .try_acquire_many_owned(units)
        .map_err(|_| Problem::busy(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many large requests at once", 1))
}

fn too_large(limit: usize) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("the body is over {limit} bytes"))
        .hint("send it in parts, or raise `server.limits.body`")
}

/// Reads JSON. What does not fit is said by its place only: the text may be a secret.
pub(crate) fn parse<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        use serde_json::error::Category;
        let what = match error.classify() {
            Category::Syntax | Category::Eof => "the body is not JSON",
            Category::Data | Category::Io => "the body is not what this route takes",
        };
        Problem::bad_request(format!("{what} (line {}, column {})", error.line(), error.column()))
            .hint("/openapi.json describes every route's body")
    })
}
