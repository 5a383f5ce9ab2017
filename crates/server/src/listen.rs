//! Sockets and connections: accepted up to a bound, given a time for everything, let go in peace at the end.

use std::{
    any::Any,
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::Request, response::Response};
use futures::future::OptionFuture;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use keyfold_core::error::Hint;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use crate::{
    api,
    auth::Peer,
    prompt::Prompt,
    proxy::{Mapping, Proxy, settings::ProxySettings},
    service::Service,
    settings::Settings,
    tls::{Tls, TlsError, actor_of},
};

/// How long a client may take for a handshake, and for the head of a request; also how long a connection may idle.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);
pub(crate) const HEAD: Duration = Duration::from_secs(75);
/// How long requests that are being answered have at the end.
const DRAIN: Duration = Duration::from_secs(20);
/// How long a client may leave what it asked for unread; then its connection ends.
pub(crate) const STALLED: Duration = Duration::from_secs(60);
/// The head of a request.
const MAX_HEAD: u32 = 32 << 10;
/// How often certificates are looked at.
const RELOAD: Duration = Duration::from_secs(5);

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address.
    #[error("{address}: {}", source.kind())]
    Bind {
        /// Which.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Hint for ListenError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                Some("something listens there already; stop it, or choose another with --listen ADDRESS:PORT".into())
            }
            Self::Bind { .. } => Some("choose another with --listen ADDRESS:PORT".into()),
            Self::Tls(error) => error.hint(),
        }
    }
}

/// Bound sockets that nobody is served on yet.
pub struct Listening {
    tcp: TcpListener,
    proxy: Option<(TcpListener, SocketAddr)>,
    mapped: Vec<(TcpListener, SocketAddr, Arc<Mapping>)>,
    unix: Option<(UnixListener, PathBuf)>,
    tls: Option<Arc<Tls>>,
    address: SocketAddr,
}

impl Listening {
    /// Binds what the settings say.
    ///
    /// # Errors
    /// An address that cannot be had, certificates that cannot be used.
    pub async fn bind(settings: &Settings, proxy: Option<&ProxySettings>) -> Result<Self, ListenError> {
        let tls = settings.tls.as_ref().map(Tls::open).transpose()?.map(Arc::new);
        let failed = |address: String| move |source| ListenError::Bind { address, source };
        let tcp = TcpListener::bind(settings.listen).await.map_err(failed(settings.listen.to_string()))?;
        let address = tcp.local_addr().map_err(failed(settings.listen.to_string()))?;
        let unix = match &settings.unix {
            None => None,
            Some(path) => Some((unix(path).map_err(failed(path.display().to_string()))?, path.clone())),
        };
        let bind = async |address: SocketAddr| {
            let listener = TcpListener::bind(address).await.map_err(failed(address.to_string()))?;
            let address = listener.local_addr().map_err(failed(address.to_string()))?;
            Ok::<_, ListenError>((listener, address))
        };
        let mut mapped = Vec::new();
        for mapping in proxy.into_iter().flat_map(|proxy| &proxy.mapped) {
            let (listener, address) = bind(mapping.address).await?;
            mapped.push((listener, address, Arc::new(mapping.clone())));
        }
        let proxy = match proxy.and_then(|proxy| proxy.listen) {
            None => None,
            Some(address) => Some(bind(address).await?),
        };
        Ok(Self { tcp, proxy, mapped, unix, tls, address })
    }

    /// The address, its port chosen by the system where 0 was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of(self.address)
    }

    /// The proxy's address as a URL.
    #[must_use]
    pub fn proxy_url(&self) -> Option<String> {
        self.proxy.as_ref().map(|(_, address)| self.url_of(*address))
    }

    /// The listeners of single destinations: the destination, and the URL.
    pub fn mapped(&self) -> impl Iterator<Item = (&str, String)> {
        self.mapped.iter().map(|(_, bound, mapping)| (mapping.destination.as_str(), mapping.url(*bound)))
    }

    fn url_of(&self, address: SocketAddr) -> String {
        format!("{}://{address}", if self.tls.is_some() { "https" } else { "http" })
    }

    /// Serves until `end`, then finishes what was begun, up to a bound.
    pub async fn serve(self, service: Arc<Service>, proxy: Option<Arc<Proxy>>, end: impl Future<Output = ()>) {
        let serving = |app| {
            Arc::new(Serving {
                graceful: GracefulShutdown::new(),
                room: Arc::new(Semaphore::new(service.settings.limits.connections)),
                service: Arc::clone(&service),
                app,
            })
        };
        let mut tasks = tokio::task::JoinSet::new();
        let proxying = proxy.as_ref().map(|proxy| serving(App::Proxy(Arc::clone(proxy))));
        if let (Some((listener, _)), Some(proxying)) = (self.proxy, &proxying) {
            tasks.spawn(tcp(listener, self.tls.clone(), Arc::clone(proxying)));
        }
        if let Some(proxying) = &proxying {
            for (listener, _, mapping) in self.mapped {
                tasks.spawn(accept_mapped(listener, mapping, Arc::clone(proxying)));
            }
        }
        let serving = serving(App::Api(api::router(&service)));
        tasks.spawn(tcp(self.tcp, self.tls.clone(), Arc::clone(&serving)));
        if let Some((listener, _)) = self.unix {
            tasks.spawn(accept_unix(listener, Arc::clone(&serving)));
        }
        if let Some(tls) = self.tls {
            tasks.spawn(async move {
                loop {
                    sleep(RELOAD).await;
                    let tls = Arc::clone(&tls);
                    // Files are read; a failed task is as good as a failed reload.
                    drop(tokio::task::spawn_blocking(move || tls.reload()).await);
                }
            });
        }
        end.await;
        service.drain();
        if let Some(proxy) = &proxy {
            proxy.close();
        }
        tasks.shutdown().await;
        service.jobs.stop_all(DRAIN / 2).await;
        let begun = Arc::clone(&service.begun);
        let rest = async {
            let graceful = |serving| Arc::into_inner(serving).map(|serving: Serving| serving.graceful.shutdown());
            let (api, proxying) = (graceful(serving), proxying.and_then(graceful));
            tokio::join!(OptionFuture::from(api), OptionFuture::from(proxying));
            // What goes on without its caller.
            drop(begun.write().await);
            if let Some(people) = service.people() {
                people.broker.settled().await;
            }
        };
        if timeout(DRAIN, rest).await.is_err() {
            tracing::warn!("some requests did not end in time and were cut off");
        }
        // It waits for its thread, which waits for the runtime.
        drop(tokio::task::spawn_blocking(move || service.traces.end()).await);
    }
}

struct Serving {
    graceful: GracefulShutdown,
    room: Arc<Semaphore>,
    service: Arc<Service>,
    app: App,
}

/// What answers requests.
enum App {
    Api(Router),
    Proxy(Arc<Proxy>),
}

/// A socket for its owner only, in the place of one that an earlier process left behind.
fn unix(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_err()
        && std::fs::symlink_metadata(path)
            .is_ok_and(|meta| std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()))
    {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn tcp(listener: TcpListener, tls: Option<Arc<Tls>>, serving: Arc<Serving>) {
    loop {
        let Some((room, (stream, from))) = next(&serving, listener.accept()).await else { continue };
        let _ = stream.set_nodelay(true);
        let stream = bounded(stream);
        let mut peer = Peer { address: Some(from.ip()), certificate: None };
        let Some(tls) = &tls else {
            connection(&serving, room, stream, peer);
            continue;
        };
        let acceptor = TlsAcceptor::from(tls.current());
        // Only weakly: a handshake that hangs must not hold up the end.
        let serving = Arc::downgrade(&serving);
        tokio::spawn(async move {
            let Ok(Ok(stream)) = timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            peer.certificate = certificate.and_then(actor_of);
            if let Some(serving) = serving.upgrade() {
                connection(&serving, room, stream, peer);
            }
        });
    }
}

/// Connections that lead to one destination.
async fn accept_mapped(listener: TcpListener, mapping: Arc<Mapping>, serving: Arc<Serving>) {
    loop {
        let Some((room, (stream, from))) = next(&serving, listener.accept()).await else { continue };
        let _ = stream.set_nodelay(true);
        let Ok(local) = stream.local_addr() else { continue };
        let (stream, peer) = (bounded(stream), Peer { address: Some(from.ip()), certificate: None });
        let App::Proxy(proxy) = &serving.app else { return };
        let (proxy, mapping) = (Arc::clone(proxy), Arc::clone(&mapping));
        if !mapping.tls {
            proxied(&serving, room, stream, move |request| {
                Arc::clone(&proxy).serve_mapped(request, peer.clone(), (Arc::clone(&mapping), None))
            });
            continue;
        }
        // Only weakly, as above.
        let serving = Arc::downgrade(&serving);
        tokio::spawn(async move {
            let accepted = timeout(HANDSHAKE, mapping.accept(&proxy, (stream, local))).await;
            if let (Ok(Some((stream, asked))), Some(serving)) = (accepted, serving.upgrade()) {
                proxied(&serving, room, stream, move |request| {
                    Arc::clone(&proxy).serve_mapped(request, peer.clone(), (Arc::clone(&mapping), asked.clone()))
                });
            }
        });
    }
}

async fn accept_unix(listener: UnixListener, serving: Arc<Serving>) {
    loop {
        let Some((room, (stream, _))) = next(&serving, listener.accept()).await else { continue };
        connection(&serving, room, bounded(stream), Peer::default());
    }
}

/// A stream whose other end has to read.
fn bounded<S: AsyncRead + AsyncWrite>(stream: S) -> Pin<Box<TimeoutStream<S>>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALLED));
    Box::pin(stream)
}

type Room = tokio::sync::OwnedSemaphorePermit;

/// A connection among those that are counted.
struct Counted {
    service: Arc<Service>,
    _room: Room,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.service.metrics.connections.dec();
    }
}

/// What a request came on. Who holds it keeps its place: a tunnel and a WebSocket outlive what they began as.
#[derive(Clone)]
pub(crate) struct Origin {
    _held: Arc<dyn Any + Send + Sync>,
}

impl Origin {
    pub(crate) fn new(held: Arc<impl Any + Send + Sync>) -> Self {
        Self { _held: held }
    }
}

/// The next connection, once there is room for one.
async fn next<T>(serving: &Serving, accept: impl Future<Output = io::Result<T>>) -> Option<(Room, T)> {
    let room = Arc::clone(&serving.room).acquire_owned().await.ok()?;
    match accept.await {
        Ok(accepted) => Some((room, accepted)),
        Err(error) => {
            // Out of file descriptors, most likely; they come back as connections end.
            tracing::warn!(%error, "a connection could not be accepted");
            sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

/// HTTP within its bounds, for every connection and everything within a tunnel.
pub(crate) fn speaking() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(2 * MAX_HEAD as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(HEAD / 3)
        .keep_alive_timeout(HANDSHAKE);
    builder
}

fn connection(serving: &Serving, room: Room, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer) {
    match &serving.app {
        App::Api(app) => {
            let stream = TokioIo::new(Prompt::new(stream, HANDSHAKE));
            let origin = counted(serving, room);
            let app = app.clone().map_request(move |mut request: Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(peer.clone());
                request
            });
            let connection = speaking().serve_connection(stream, TowerToHyperService::new(app)).into_owned();
            watched(origin, serving.graceful.watch(connection));
        }
        App::Proxy(proxy) => {
            let proxy = Arc::clone(proxy);
            proxied(serving, room, stream, move |request| Arc::clone(&proxy).serve(request, peer.clone()));
        }
    }
}

/// One connection of the proxy's: CONNECT and WebSocket take it over.
fn proxied<F: Future<Output = Response> + Send + 'static>(
    serving: &Serving,
    room: Room,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    answer: impl Fn(Request<hyper::body::Incoming>) -> F + Send + 'static,
) {
    let stream = TokioIo::new(Prompt::new(stream, HANDSHAKE));
    let origin = counted(serving, room);
    let on = origin.clone();
    let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(on.clone());
        let answered = answer(request);
        async move { Ok::<_, std::convert::Infallible>(answered.await) }
    });
    let connection = speaking().serve_connection_with_upgrades(stream, service).into_owned();
    watched(origin, serving.graceful.watch(connection));
}

fn counted(serving: &Serving, room: Room) -> Origin {
    serving.service.metrics.connections.inc();
    Origin::new(Arc::new(Counted { service: Arc::clone(&serving.service), _room: room }))
}

fn watched<E: std::fmt::Display>(origin: Origin, connection: impl Future<Output = Result<(), E>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            // What a client did wrong on the wire is its own business.
            tracing::debug!(%error, "a connection ended early");
        }
        drop(origin);
    });
}
