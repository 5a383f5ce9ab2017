//! The metadata endpoint of a Google Cloud machine, as far as client libraries ask it for an account: the access token is the handle.
//!
//! As on a real machine, a request must carry `Metadata-Flavor: Google`, which no browser sends across origins, and no
//! `X-Forwarded-For`; `Host` must be this very address, so that no name was rebound to it.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpStream;

use super::Identity;

/// How long the head of a request may take, and a connection may idle.
const HEAD: Duration = Duration::from_secs(30);
const ROOT: &str = "/computeMetadata/v1";
/// What a handle's reach is in scopes: the proxy's rules say which calls it is good for.
const SCOPES: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Serves one connection.
pub(super) async fn serve(stream: TcpStream, address: SocketAddr, identity: Arc<Identity>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&identity, address, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(16 << 10);
    drop(builder.serve_connection(TokioIo::new(stream), service).await);
}

fn text(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert("metadata-flavor", HeaderValue::from_static("Google"));
    headers.insert("server", HeaderValue::from_static("Metadata Server for VM"));
    headers.insert("cache-control", HeaderValue::from_static("no-store"));
    response
}

fn refused(headers: &HeaderMap, address: SocketAddr, root: bool) -> Option<&'static str> {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
    if !is(HOST.as_str(), &address.to_string()) && !is(HOST.as_str(), &address.ip().to_string()) {
        return Some("ask 127.0.0.1, by this address");
    }
    if headers.contains_key("x-forwarded-for") {
        return Some("a request that was forwarded is not answered");
    }
    (!root && !is("metadata-flavor", "Google")).then_some("the header `Metadata-Flavor: Google` is missing")
}

fn answer(identity: &Identity, address: SocketAddr, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    route(identity, address, (request.method(), request.uri().path(), request.uri().query()), request.headers())
}

type Asked<'a> = (&'a Method, &'a str, Option<&'a str>);

/// What is answered to a request.
pub(super) fn route(
    identity: &Identity,
    address: SocketAddr,
    (method, path, query): Asked<'_>,
    headers: &HeaderMap,
) -> Response<Full<Bytes>> {
    let plain = |body: String| text(StatusCode::OK, "application/text", body);
    let as_json = |value: serde_json::Value| text(StatusCode::OK, "application/json", value.to_string());
    if let Some(what) = refused(headers, address, path == "/") {
        return text(StatusCode::FORBIDDEN, "text/plain", format!("{what}\n"));
    }
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is answered\n".into());
    }
    let missing = || text(StatusCode::NOT_FOUND, "text/plain", "there is no such metadata here\n".into());
    let path = path.trim_end_matches('/');
    let Some(rest) = path.strip_prefix(ROOT) else {
        return if path.is_empty() { plain("computeMetadata/\n".into()) } else { missing() };
    };
    let recursive = query.is_some_and(|query| query.split('&').any(|pair| pair.eq_ignore_ascii_case("recursive=true")));
    let accounts = "/instance/service-accounts";
    let account = rest.strip_prefix(accounts).and_then(|rest| {
        let (name, rest) = rest.strip_prefix('/')?.split_once('/').unwrap_or((rest.strip_prefix('/')?, ""));
        (name == "default" || name == identity.email).then_some(rest)
    });
    let whole = || json!({ "aliases": ["default"], "email": identity.email, "scopes": [SCOPES] });
    match (rest, account) {
        ("" | "/instance", _) => plain("service-accounts/\n".into()),
        ("/project/project-id", _) => identity.project.clone().map_or_else(missing, plain),
        ("/universe/universe-domain" | "/universe/universe_domain", _) => plain("googleapis.com".into()),
        (rest, _) if rest == accounts && recursive => as_json(json!({ "default": whole() })),
        (rest, _) if rest == accounts => plain("default/\n".into()),
        (_, Some("")) if recursive => as_json(whole()),
        (_, Some("")) => plain("aliases\nemail\nscopes\ntoken\n".into()),
        (_, Some("aliases")) => plain("default\n".into()),
        (_, Some("email")) => plain(identity.email.clone()),
        (_, Some("scopes")) => plain(format!("{SCOPES}\n")),
        (_, Some("token")) => token(identity),
        _ => missing(),
    }
}

/// The handle, for as long as it lasts and no longer.
fn token(identity: &Identity) -> Response<Full<Bytes>> {
    let left = identity.until.0.saturating_sub(identity.clock.now().0);
    let handle = std::str::from_utf8(identity.handle.expose()).unwrap_or_default();
    if left == 0 {
        return text(StatusCode::NOT_FOUND, "text/plain", "the session is over; somebody must sign in again\n".into());
    }
    let body = json!({ "access_token": handle, "expires_in": left, "token_type": "Bearer" });
    text(StatusCode::OK, "application/json", body.to_string())
}
