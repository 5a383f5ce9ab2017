//! Connections to destinations: dialled at an address that the guard has looked at, under TLS that is always verified, and shared
//! between callers. What is shared holds no credential; each request brings its own. (Who brings a client certificate has connections
//! apart: `connections`.)
//!
//! Pools are one destination's alone. HTTP/2 where the destination takes it; a new connection is made before one holds so many
//! calls that one user's streams could starve the next.

use std::{
    error::Error as StdError,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    http::{Request, Response, StatusCode, Uri},
};
use hyper::{body::Incoming, rt::ReadBufCursor};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use keyfold_core::error::Hint;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, version::TLS12, version::TLS13};
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    breaker::Breaker,
    connections::ClientIdentity,
    guard::{Guard, GuardError, Lookups},
    host::Host,
    lanes::{A_LANE, LANES, Lanes, OnLane, Watched},
    settings::Reach,
};
use crate::problem::Problem;

/// How much of one answer may wait to be read; a connection has room for that of all its calls, so that none waits for another.
const WINDOW: u32 = 128 << 10;
const WINDOWS: u32 = WINDOW * A_LANE;
/// How long a connection may idle.
pub(super) const IDLE: Duration = Duration::from_secs(60);
/// The head of an answer.
const MAX_HEAD: usize = 64 << 10;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error("the destination cannot be reached")]
    Unreachable(#[source] io::Error),
    #[error("the destination did not answer in time")]
    Late,
    #[error("the destination's certificate or TLS is not taken")]
    Tls(#[source] io::Error),
}

type Pool = Client<Connector, Body>;

/// A destination's connections.
pub(super) struct Upstream {
    pools: Vec<Pool>,
    lanes: Arc<Lanes>,
    /// Of HTTP/1.1 alone, for what changes its protocol.
    upgrades: Pool,
    breaker: Arc<Breaker>,
}

impl Upstream {
    /// Nothing is dialled yet.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub(super) fn new(
        reach: &Reach,
        guard: &Arc<Guard>,
        (roots, identity): (&Arc<RootCertStore>, Option<ClientIdentity>),
    ) -> Result<Self, String> {
        let both = Arc::new(tls(roots, identity)?);
        let mut one = (*both).clone();
        one.alpn_protocols.retain(|name| name == b"http/1.1");
        let one = Arc::new(one);
        let (breaker, lanes) = (Arc::<Breaker>::default(), Arc::<Lanes>::default());
        let guard = Arc::new(guard.of_one());
        let connector = |tls: &Arc<ClientConfig>, lanes: &Arc<Lanes>| Connector {
            breaker: Arc::clone(&breaker),
            guard: Arc::clone(&guard),
            lanes: Arc::clone(lanes),
            tls: Arc::clone(tls),
            private: reach.private,
            address: reach.address.clone(),
            time: reach.timeouts.connect,
        };
        let pool = |tls: &Arc<ClientConfig>, lanes: &Arc<Lanes>| {
            Client::builder(TokioExecutor::new())
                .pool_idle_timeout(IDLE)
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .http1_max_buf_size(MAX_HEAD)
                .http2_max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
                .http2_initial_stream_window_size(WINDOW)
                .http2_initial_connection_window_size(WINDOWS)
                .http2_keep_alive_interval(Duration::from_secs(20))
                .http2_keep_alive_timeout(Duration::from_secs(10))
                .set_host(false)
                .build(connector(tls, lanes))
        };
        let pools = (0..LANES).map(|_| pool(&both, &lanes)).collect();
        // Connections that change their protocol say nothing of how many calls the others take.
        let upgrades = pool(&one, &Arc::default());
        Ok(Self { pools, lanes, upgrades, breaker })
    }

    /// Sends a request. The body that comes back keeps its place on the lane.
    ///
    /// # Errors
    /// A problem that says which side is at fault, and nothing of what the destination said.
    pub(super) async fn send(
        &self,
        request: Request<Body>,
        upgrades: bool,
    ) -> Result<(Response<Incoming>, Option<OnLane>), Problem> {
        let host = request.uri().authority().map_or_else(String::new, |host| host.as_str().to_owned());
        self.breaker.check(&host)?;
        let (sent, lane) = if upgrades {
            (self.upgrades.request(request).await, None)
        } else {
            let lane = self.lanes.take(&host)?;
            (self.pools[lane.number].request(request).await, Some(lane))
        };
        let response = sent.map_err(|error| problem(&error))?;
        self.breaker.worked(&host);
        Ok((response, lane))
    }
}

/// Says that a call was given up for want of an answer.
pub(super) fn late() -> Problem {
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "the destination did not answer in time")
        .hint("try again; `timeouts` of the destination says how long it may take")
}

/// What is said of a call that failed.
fn problem(error: &hyper_util::client::legacy::Error) -> Problem {
    let gateway = |code, what: &str| Problem::new(StatusCode::BAD_GATEWAY, code, what);
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<ConnectError>() {
            tracing::debug!(?error, "a destination was not reached");
            return match error {
                ConnectError::Guard(error @ GuardError::Refused { .. }) => {
                    let problem = Problem::new(StatusCode::FORBIDDEN, "address_refused", error.to_string());
                    problem.hint(error.hint().unwrap_or_default())
                }
                ConnectError::Guard(error) => {
                    gateway("upstream_unresolved", &error.to_string()).hint(error.hint().unwrap_or_default())
                }
                ConnectError::Unreachable(_) => gateway("upstream_unreachable", "the destination cannot be reached")
                    .hint("check its `host` and `port`, and whether it runs"),
                ConnectError::Late => Problem::new(
                    StatusCode::GATEWAY_TIMEOUT,
                    "upstream_timeout",
                    "the destination cannot be reached in time",
                )
                .hint("check its `host` and `port`; `timeouts` of the destination says how long it may take"),
                ConnectError::Tls(_) => gateway("upstream_tls", "the destination's certificate or TLS is not taken")
                    .hint("where its certificate is your own authority's, name that in `roots` of the destination; where it wants a client \
                           certificate, in `inject`"),
            };
        }
        if let Some(error) = error.downcast_ref::<Interrupted>() {
            return Problem::bad_request(error.0);
        }
        cause = error.source();
    }
    tracing::debug!(?error, "a destination broke off");
    gateway("upstream_broken", "the destination broke off, or answered with something that is not HTTP")
        .hint("the call may have arrived there: look before you repeat one that changes something; a destination that wants another client \
               certificate ends like this too")
}

/// The body of a request ended before its time, on the agent's side.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Interrupted(pub(super) &'static str);

fn tls(roots: &Arc<RootCertStore>, identity: Option<ClientIdentity>) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| error.to_string())?
        .with_root_certificates(Arc::clone(roots));
    let mut config = match identity.map(ClientIdentity::into_parts) {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?,
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The certificates that the machine trusts. A machine without any is fine where every destination has its own.
pub(super) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some of the machine's certificates cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    roots
}

fn odd() -> ConnectError {
    ConnectError::Unreachable(io::ErrorKind::InvalidInput.into())
}

/// Dials.
#[derive(Clone)]
pub(super) struct Connector {
    breaker: Arc<Breaker>,
    guard: Arc<Lookups>,
    lanes: Arc<Lanes>,
    tls: Arc<ClientConfig>,
    private: bool,
    address: Option<Host>,
    time: Duration,
}

impl Connector {
    async fn dial(self, uri: Uri) -> Result<TlsIo, ConnectError> {
        let authority = uri.authority().ok_or_else(odd)?.as_str();
        let (host, port) = Host::with_port(authority, 443).map_err(|_| odd())?;
        // It bounds its own time.
        let addresses = self.guard.resolve(self.address.as_ref().unwrap_or(&host), port, self.private).await?;
        let connected =
            timeout(self.time, self.connect((&host, authority), addresses)).await.unwrap_or(Err(ConnectError::Late));
        match connected {
            Ok(_) => self.breaker.worked(authority),
            Err(_) => self.breaker.failed(authority),
        }
        connected
    }

    async fn connect(&self, host: (&Host, &str), addresses: Vec<SocketAddr>) -> Result<TlsIo, ConnectError> {
        let mut last = odd();
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return self.encrypt(host, stream).await,
                Err(error) => last = ConnectError::Unreachable(error),
            }
        }
        Err(last)
    }

    async fn encrypt(&self, (host, authority): (&Host, &str), stream: TcpStream) -> Result<TlsIo, ConnectError> {
        let _ = stream.set_nodelay(true);
        let name = match host.address() {
            Some(address) => ServerName::IpAddress(address.into()),
            None => ServerName::try_from(host.as_str().to_owned())
                .map_err(|_| ConnectError::Tls(io::ErrorKind::InvalidInput.into()))?,
        };
        let stream =
            TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await.map_err(ConnectError::Tls)?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(TlsIo(TokioIo::new(Watched::new(stream, h2, Arc::clone(&self.lanes), authority))))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TlsIo;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<TlsIo, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dial = self.clone().dial(uri);
        Box::pin(async move { dial.await.map_err(Into::into) })
    }
}

/// A connection, which knows what was agreed on it.
pub(super) struct TlsIo(TokioIo<Watched<TlsStream<TcpStream>>>);

impl Connection for TlsIo {
    fn connected(&self) -> Connected {
        let h2 = self.0.inner().stream().get_ref().1.alpn_protocol() == Some(b"h2");
        if h2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl hyper::rt::Read for TlsIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for TlsIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}
