//! The proxy as a service: requests come in on its own listener, in addressed mode or through a tunnel, and leave by one path.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header, request::Parts},
};
use futures::FutureExt as _;
use hyper::body::Incoming;
use keyfold_core::{
    error::Hint,
    id::to_hex,
    rng::{self, SystemRandom},
};
use keyfold_custody::config::{ConfigError, Mistake};
use tokio::sync::watch;

use super::{
    Mapped,
    answer::Watchers,
    authority::{Authority, AuthorityError},
    connections::Connections,
    flights::Flights,
    forward::{Target, forward},
    grounds::Asker,
    guard::Guard,
    host::Host,
    proof::Proof,
    refused,
    settings::{ProxySettings, Reach, Reaches},
    tunnel::{self, Tunnel},
    upstream::system_roots,
};
use crate::{
    auth::{Caller, Peer},
    people::People,
    problem::Problem,
    request::REQUEST_ID,
    service::Service,
};

/// Where addressed mode begins.
const ADDRESSED: &str = "/proxy/";
/// What a request that opens a tunnel is called in logs and metrics.
const CONNECT: &str = "proxy:connect";
/// The code of what is no call to anywhere.
const NOTHING_HERE: &str = "not_found";
/// Where the authority's certificate is had. It is nobody's secret.
const CERTIFICATE: &str = "/ca.pem";

/// A destination, and its connections.
pub(super) struct Way {
    pub(super) reach: Arc<Reach>,
    pub(super) connections: Arc<Connections>,
}

/// The proxy.
pub struct Proxy {
    pub(super) service: Arc<Service>,
    pub(super) people: Arc<People>,
    pub(super) settings: ProxySettings,
    pub(super) authority: Authority,
    pub(super) flights: Arc<Flights>,
    pub(super) watchers: Arc<Watchers>,
    /// Becomes true once the service is told to end.
    pub(super) closing: watch::Sender<bool>,
    ways: HashMap<String, Arc<Way>>,
}

/// Why there is no proxy where one was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The authority.
    #[error("{0}")]
    Authority(String, Option<String>),
}

impl From<AuthorityError> for ProxyError {
    fn from(error: AuthorityError) -> Self {
        Self::Authority(error.to_string(), error.hint())
    }
}

impl Hint for ProxyError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Config(error) => error.hint(),
            Self::Authority(_, hint) => hint.clone(),
        }
    }
}

impl Proxy {
    /// Over a service that people sign in at. Nothing is dialled yet.
    ///
    /// # Errors
    /// Certificates that cannot be read or made; the store.
    pub async fn new(
        service: Arc<Service>,
        people: Arc<People>,
        settings: ProxySettings,
    ) -> Result<Arc<Self>, ProxyError> {
        let reaches = Reaches::of(people.broker.routes()).map_err(ConfigError)?;
        let (guard, roots) = (Arc::new(Guard::default()), Arc::new(system_roots()));
        let mut ways = HashMap::new();
        let mut mistakes = Vec::new();
        for (name, reach) in reaches.0 {
            match Connections::new(&reach, &guard, &roots) {
                Ok(connections) => drop(ways.insert(name, Arc::new(Way { reach, connections }))),
                Err((key, what)) => mistakes.push(Mistake { place: format!("destinations.{name}.{key}"), what }),
            }
        }
        if !mistakes.is_empty() {
            return Err(ConfigError(mistakes).into());
        }
        let authority = Authority::open(&service.custody, people.clock()).await?;
        let (flights, watchers) = (Flights::new(settings.in_flight), Watchers::start());
        let closing = watch::Sender::new(false);
        Ok(Arc::new(Self { service, people, settings, authority, flights, watchers, closing, ways }))
    }

    /// The way to a destination.
    pub(super) fn way(&self, name: &str) -> Result<&Arc<Way>, Problem> {
        // Both come from one configuration; a destination without a way would be a fault of ours.
        self.ways.get(name).ok_or_else(|| Problem::internal(&"a destination without connections"))
    }

    /// Says that the service ends: tunnels close, streams have a moment left.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Answers one request on the proxy's own listener.
    pub(crate) async fn serve(self: Arc<Self>, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let route = if request.method() == Method::CONNECT { CONNECT } else { "proxy:addressed" };
        let proxy = Arc::clone(&self);
        self.logged(route, async move {
            let (parts, body) = request.into_parts();
            if parts.method == Method::CONNECT {
                return tunnel::open(&proxy, parts, body, peer).await;
            }
            let one = one_host(&parts);
            if one.is_ok() && parts.method == Method::GET && parts.uri.path() == CERTIFICATE {
                return Ok(certificate(proxy.authority.pem()));
            }
            let target = match one.and_then(|()| addressed(&parts)) {
                Err(problem) if problem.code() == NOTHING_HERE => return Err(problem),
                target => target,
            };
            let asker = Asker::of(&proxy, Proof::of(&parts.headers)?, peer).await?;
            let target = or_noted(&proxy, &asker.caller, &parts, target).await?;
            forward(asker, &proxy, target, (parts, body)).await
        })
        .await
    }

    /// Answers one request on a listener of one destination.
    pub(crate) async fn serve_mapped(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
        (mapping, asked): Mapped,
    ) -> Response<Body> {
        let proxy = Arc::clone(&self);
        self.logged("proxy:mapped", async move {
            let (parts, body) = request.into_parts();
            let asker = Asker::of(&proxy, Proof::of(&parts.headers)?, peer).await?;
            let target = one_host(&parts).and_then(|()| mapping.target(asked.as_ref(), &parts));
            let target = or_noted(&proxy, &asker.caller, &parts, target).await?;
            forward(asker, &proxy, target, (parts, body)).await
        })
        .await
    }

    /// Answers one request within a tunnel.
    pub(super) async fn serve_within(
        self: Arc<Self>,
        request: Request<Incoming>,
        tunnel: Arc<Tunnel>,
    ) -> Response<Body> {
        let proxy = Arc::clone(&self);
        self.logged("proxy:tunnel", async move {
            let (parts, body) = request.into_parts();
            let proof = tunnel.proof.within(&parts.headers)?;
            let asker = Asker::of(&proxy, proof, tunnel.peer.clone()).await?;
            let target = one_host(&parts).and_then(|()| tunnel.target(&parts));
            let target = or_noted(&proxy, &asker.caller, &parts, target).await?;
            forward(asker, &proxy, target, (parts, body)).await
        })
        .await
    }

    /// Writes problems out, and one line of every request: no path, no query, no header, no body.
    async fn logged(
        &self,
        route: &'static str,
        answered: impl Future<Output = Result<Response<Body>, Problem>>,
    ) -> Response<Body> {
        let began = Instant::now();
        let id = rng::array::<8>(&SystemRandom).map_or_else(|_| String::new(), |bytes| to_hex(&bytes));
        let answered = AssertUnwindSafe(answered).catch_unwind().await;
        let answered = answered.unwrap_or_else(|_| Err(Problem::internal(&format!("request {id} panicked"))));
        let code = answered.as_ref().err().map(Problem::code);
        let mut response = answered.unwrap_or_else(|problem| {
            let mut response = problem.response(Some(&id));
            let headers = response.headers_mut();
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            if route == CONNECT && response.status() == axum::http::StatusCode::UNAUTHORIZED {
                // What a client of a proxy understands.
                *response.status_mut() = axum::http::StatusCode::PROXY_AUTHENTICATION_REQUIRED;
                let ask = HeaderValue::from_static("Basic realm=\"keyfold\"");
                response.headers_mut().remove(header::WWW_AUTHENTICATE);
                response.headers_mut().insert(header::PROXY_AUTHENTICATE, ask);
            }
            response
        });
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        let (status, took) = (response.status().as_u16(), began.elapsed());
        self.service.metrics.request(route, "", status, took);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        tracing::info!(target: "keyfold_server::requests", request = id, route, status, code, micros);
        response
    }
}

fn certificate(pem: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(pem.to_owned()));
    let kind = HeaderValue::from_static("application/x-pem-file");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// What was read of where a request wants to go; where it is refused, after that was written down.
pub(super) async fn or_noted<T>(
    proxy: &Proxy,
    caller: &Caller,
    parts: &Parts,
    read: Result<T, Problem>,
) -> Result<T, Problem> {
    match read {
        Ok(read) => Ok(read),
        Err(problem) => {
            let named = refused::written(&named(parts));
            Err(refused::noted(proxy, caller, (&named, parts.method.as_str(), None), problem).await)
        }
    }
}

/// The host that a request names, unlooked at.
fn named(parts: &Parts) -> String {
    if let Some(rest) = parts.uri.path().strip_prefix(ADDRESSED) {
        return rest.split('/').next().unwrap_or_default().to_owned();
    }
    let host = parts.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    parts.uri.authority().map_or_else(|| host.unwrap_or_default().to_owned(), ToString::to_string)
}

/// Two readers of two hosts may choose two of them.
pub(super) fn one_host(parts: &Parts) -> Result<(), Problem> {
    let hosts = parts.headers.get_all(header::HOST).iter().count();
    let fits = match parts.version {
        Version::HTTP_2 => hosts <= 1,
        Version::HTTP_11 => hosts == 1,
        // Python's own client opens tunnels like that.
        Version::HTTP_10 if parts.method == Method::CONNECT => hosts <= 1,
        _ => return Err(Problem::bad_request("the proxy speaks HTTP/1.1 and HTTP/2")),
    };
    if fits { Ok(()) } else { Err(Problem::bad_request("a request has exactly one Host header")) }
}

/// The text of the one Host header, or of `:authority`; both where both are there, and alike.
pub(super) fn authority(parts: &Parts) -> Result<String, Problem> {
    let host = header_text(&parts.headers)?;
    let own = parts.uri.authority().map(ToString::to_string);
    match (host, own) {
        (Some(host), Some(own)) if !host.eq_ignore_ascii_case(&own) => {
            Err(Problem::bad_request("the Host header and the target name two hosts"))
        }
        (host, own) => own.or(host).ok_or_else(|| Problem::bad_request("the request names no host")),
    }
}

fn header_text(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let wrong = |_| Problem::bad_request("the Host header is not text");
    headers.get(header::HOST).map(|value| value.to_str().map(str::to_owned).map_err(wrong)).transpose()
}

/// `/proxy/HOST[:PORT]/PATH`
fn addressed(parts: &Parts) -> Result<Target, Problem> {
    let elsewhere = || {
        Problem::not_found("there is nothing here but /proxy/HOST/PATH, CONNECT and /ca.pem")
            .hint("call https://HOST/PATH as /proxy/HOST/PATH, or set HTTPS_PROXY to this address")
    };
    if parts.version == Version::HTTP_11 && parts.uri.scheme().is_some() {
        return Err(Problem::bad_request("a URL of http:// would send a credential in the clear")
            .hint("call https:// URLs through HTTPS_PROXY, or /proxy/HOST/PATH"));
    }
    let raw = parts.uri.path_and_query().map_or("", axum::http::uri::PathAndQuery::as_str);
    let rest = raw.strip_prefix(ADDRESSED).ok_or_else(elsewhere)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, port) = read_host(authority)?;
    let raw = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok(Target { host, port, raw })
}

/// A host as it is written in a request.
pub(super) fn read_host(authority: &str) -> Result<(Host, u16), Problem> {
    Host::with_port(authority, 443).map_err(|error| {
        let problem = Problem::new(axum::http::StatusCode::BAD_REQUEST, "host_refused", error.to_string());
        problem.hint(error.hint().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(version: Version, uri: &str, hosts: &[&str]) -> Parts {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn p30_a_request_names_one_host() {
        let one = |version, hosts: &[&str]| one_host(&parts(version, "/", hosts)).is_ok();
        assert!(one(Version::HTTP_11, &["a"]) && one(Version::HTTP_2, &[]) && one(Version::HTTP_2, &["a"]));
        assert!(
            !one(Version::HTTP_11, &["a", "a"]) && !one(Version::HTTP_11, &[]) && !one(Version::HTTP_2, &["a", "b"])
        );
        assert!(!one(Version::HTTP_10, &["a"]));
        let both = parts(Version::HTTP_2, "https://a.example/x", &["b.example"]);
        assert!(authority(&both).is_err());
        let both = parts(Version::HTTP_2, "https://a.example/x", &["A.example"]);
        assert_eq!(authority(&both).unwrap(), "a.example");
    }

    #[test]
    fn p31_the_path_behind_the_host_is_kept_byte_for_byte() {
        let read = |uri| addressed(&parts(Version::HTTP_11, uri, &["p"])).map(|t| (t.host.to_string(), t.port, t.raw));
        let is = |host: &str, port, raw: &str| (host.to_owned(), port, raw.to_owned());
        assert_eq!(read("/proxy/a.example/b/%7E?c=%2F").unwrap(), is("a.example", 443, "/b/%7E?c=%2F"));
        assert_eq!(read("/proxy/A.example:8443").unwrap(), is("a.example", 8443, "/"));
        assert_eq!(read("/proxy/a.example?x").unwrap(), is("a.example", 443, "/?x"));
        assert_eq!(read("/proxy/a.example//b").unwrap(), is("a.example", 443, "//b"));
        for (uri, code) in [
            ("/proxy/", "host_refused"),
            ("/proxy//a", "host_refused"),
            ("/proxy/a.example./x", "host_refused"),
            ("/proxy/a@b.example/x", "host_refused"),
            ("/proxy/%61.example/x", "host_refused"),
            ("/proxy/2130706433/x", "host_refused"),
            ("/Proxy/a.example/x", "not_found"),
            ("/v1/tokens", "not_found"),
            ("http://a.example/x", "invalid_request"),
        ] {
            assert_eq!(read(uri).unwrap_err().code(), code, "{uri}");
        }
    }
}
