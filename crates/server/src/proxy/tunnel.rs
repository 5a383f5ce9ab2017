//! CONNECT: for tools that know nothing of the proxy but `HTTPS_PROXY`. TLS ends here, under the deployment's own authority, and
//! every request within goes the way of all others.
//!
//! The host that CONNECT names is the only one: what TLS asks for, `Host` and `:authority` must be the same.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    http::{Request, Response, StatusCode, request::Parts},
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::time::{sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;

use super::{
    Proxy,
    flights::Flight,
    forward::Target,
    host::Host,
    proof::Proof,
    refused,
    service::{authority, one_host, or_noted, read_host},
};
use crate::{
    auth::Peer,
    listen::{HANDSHAKE, HEAD, Origin, speaking},
    problem::Problem,
    prompt::Prompt,
};

/// How long a tunnel's connection may stay without TLS being spoken on it.
const OPEN: Duration = Duration::from_secs(10);

/// A tunnel: where it leads, and who opened it.
pub(super) struct Tunnel {
    host: Host,
    port: u16,
    pub(super) proof: Proof,
    pub(super) peer: Peer,
    /// How many requests came through.
    requests: AtomicU64,
    _flight: Flight,
    /// The connection that CONNECT came on is taken for as long as the tunnel is there.
    _origin: Option<Origin>,
}

impl Tunnel {
    /// Where a request within goes: nowhere else.
    pub(super) fn target(&self, parts: &Parts) -> Result<Target, Problem> {
        let (host, port) = read_host(&authority(parts)?)?;
        if host != self.host || port != self.port {
            return Err(differs("the request names another host than the tunnel was opened to"));
        }
        let raw = parts.uri.path_and_query().map_or("/", axum::http::uri::PathAndQuery::as_str).to_owned();
        Ok(Target { host, port, raw })
    }
}

fn differs(what: &str) -> Problem {
    Problem::new(StatusCode::MISDIRECTED_REQUEST, "host_differs", what).hint("open a tunnel for each host")
}

/// Answers CONNECT, and serves what comes through.
pub(super) async fn open(
    proxy: &Arc<Proxy>,
    mut parts: Parts,
    body: Incoming,
    peer: Peer,
) -> Result<Response<Body>, Problem> {
    let proof = Proof::of(&parts.headers)?;
    let caller = proof.caller(proxy, &peer).await?;
    let read = one_host(&parts).and_then(|()| read_host(&authority(&parts)?));
    let (host, port) = or_noted(proxy, &caller, &parts, read).await?;
    if proxy.people.broker.routes().at(host.as_str(), port).is_none() {
        return Err(refused::unknown(proxy, &caller, (&host, port, "CONNECT")).await);
    }
    // Apart from the calls within, which would otherwise have no room left by it.
    let flight = proxy.flights.take(format!("connect {}", proof.whose(proxy, &caller).await))?;
    let origin = parts.extensions.remove::<Origin>();
    let tls = proxy.authority.config(&host).map_err(|error| Problem::internal(&error))?;
    let mut request = Request::from_parts(parts, body);
    let upgraded = hyper::upgrade::on(&mut request);
    let requests = AtomicU64::new(0);
    let tunnel = Arc::new(Tunnel { host, port, proof, peer, requests, _flight: flight, _origin: origin });
    let proxy = Arc::clone(proxy);
    tokio::spawn(async move {
        let mut closing = proxy.closing.subscribe();
        let serve = async {
            let Ok(Ok(upgraded)) = timeout(OPEN, upgraded).await else { return };
            serve(proxy, tunnel, TokioIo::new(upgraded), tls).await;
        };
        tokio::select! {
            () = serve => {}
            // Calls within have a moment left; they end with their own word.
            _ = async {
                let _ = closing.wait_for(|closing| *closing).await;
                tokio::time::sleep(OPEN).await;
            } => {}
        }
    });
    Ok(Response::new(Body::empty()))
}

async fn serve(
    proxy: Arc<Proxy>,
    tunnel: Arc<Tunnel>,
    stream: TokioIo<hyper::upgrade::Upgraded>,
    tls: Arc<ServerConfig>,
) {
    let handshake = async {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await.ok()?;
        let named = start.client_hello().server_name().map(str::to_ascii_lowercase);
        // An address has no name to ask for; a name is asked for by exactly itself.
        let fits = match (&named, tunnel.host.address()) {
            (Some(named), None) => *named == tunnel.host.as_str(),
            (None, Some(_)) => true,
            _ => false,
        };
        if !fits {
            let problem = differs("TLS asked for another host than the tunnel was opened to");
            // Whose proof does not hold any more is nobody to write down.
            if let Ok(caller) = tunnel.proof.known(&proxy, &tunnel.peer).await {
                let asked = refused::written(named.as_deref().unwrap_or_default());
                refused::noted(&proxy, &caller, (&asked, "CONNECT", None), problem).await;
            }
            return None;
        }
        start.into_stream(tls).await.ok()
    };
    let Ok(Some(stream)) = timeout(HANDSHAKE, handshake).await else { return };
    let within = Arc::clone(&tunnel);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (proxy, tunnel) = (Arc::clone(&proxy), Arc::clone(&within));
        tunnel.requests.fetch_add(1, Ordering::Relaxed);
        request.extensions_mut().insert(Origin::new(Arc::clone(&tunnel)));
        async move { Ok::<_, std::convert::Infallible>(proxy.serve_within(request, tunnel).await) }
    });
    let builder = speaking();
    let stream = TokioIo::new(Prompt::new(stream, HANDSHAKE));
    let mut connection = pin!(builder.serve_connection_with_upgrades(stream, service));
    let (mut before, mut ending) = (0, false);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a tunnel ended early");
                }
                return;
            }
            () = sleep(HEAD) => {}
        }
        // Held here and by what serves requests; by everything that is still being answered besides.
        let requests = tunnel.requests.load(Ordering::Relaxed);
        if requests == before && Arc::strong_count(&tunnel) <= 2 {
            if ending {
                return;
            }
            ending = true;
            connection.as_mut().graceful_shutdown();
        }
        before = requests;
    }
}
