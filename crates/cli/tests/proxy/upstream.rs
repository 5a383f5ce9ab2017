//! A destination of a test's own, under TLS of the test's own authority: it notes every request, and the very bytes of it.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Request, Response, Version,
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpListener,
    runtime::Runtime,
};
use tokio_rustls::TlsAcceptor;

use super::common::authority::Authority;

type Answered = UnsyncBoxBody<Bytes, Infallible>;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The certificate that the client showed, DER.
    pub(crate) client: Option<Vec<u8>>,
}

impl Arrived {
    /// All values of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }
}

#[derive(Default)]
struct Noted {
    arrived: Mutex<Vec<Arrived>>,
    bytes: Mutex<Vec<u8>>,
    connections: AtomicUsize,
    open: AtomicUsize,
}

/// What a scripted destination sends, and whether it waits then.
pub(crate) type Script = Arc<Mutex<(Vec<u8>, bool)>>;

/// The server; it ends with its value.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    noted: Arc<Noted>,
    _runtime: Runtime,
}

impl Upstream {
    /// Speaks HTTP as it answers by path: see [`answer`].
    pub(crate) fn start(authority: &Authority, names: &[&str], alpn: &[&str]) -> Self {
        Self::with((authority, None), names, alpn, speak)
    }

    /// The same, which asks clients for certificates that `clients` signed, and insists on them where `required`.
    pub(crate) fn asking(authority: &Authority, names: &[&str], (clients, required): (&Authority, bool)) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(clients.0.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = if required { verifier } else { verifier.allow_unauthenticated() };
        Self::with((authority, Some(verifier.build().unwrap())), names, &["h2", "http/1.1"], speak)
    }

    /// The same over HTTP/2 alone, with so many streams at once on a connection.
    pub(crate) fn narrow(authority: &Authority, names: &[&str], streams: u32) -> Self {
        Self::with((authority, None), names, &["h2"], move |stream, noted| async move {
            let service = service_fn(move |request| {
                let noted = Arc::clone(&noted);
                async move { answer(request, &noted, None).await }
            });
            let mut serve = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = serve.max_concurrent_streams(streams).serve_connection(TokioIo::new(stream), service).await;
        })
    }

    /// Reads a request's head and sends what the script says, whatever was asked; then it closes, or waits where the script says so.
    pub(crate) fn scripted(authority: &Authority, names: &[&str], script: Script) -> Self {
        Self::with((authority, None), names, &["http/1.1"], move |mut stream, _| {
            let (sends, hang) = script.lock().unwrap().clone();
            async move {
                let mut buffer = vec![0; 64 << 10];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(&sends).await;
                let _ = stream.flush().await;
                if hang {
                    tokio::time::sleep(Duration::from_secs(600)).await;
                }
            }
        })
    }

    fn with<F: Future<Output = ()> + Send + 'static>(
        (authority, clients): (&Authority, Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>),
        names: &[&str],
        alpn: &[&str],
        talk: impl Fn(Noting, Arc<Noted>) -> F + Send + Sync + 'static,
    ) -> Self {
        let names = names.iter().map(|name| match name.parse() {
            Ok(address) => rcgen::SanType::IpAddress(address),
            Err(_) => rcgen::SanType::DnsName((*name).try_into().unwrap()),
        });
        let (cert, key) = authority.sign(names.collect());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(verifier) => config.with_client_cert_verifier(verifier),
        };
        let mut config = config
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (address, noted) = (listener.local_addr().unwrap(), Arc::new(Noted::default()));
        let (notes, talk) = (Arc::clone(&noted), Arc::new(talk));
        runtime.spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (acceptor, noted, talk) = (acceptor.clone(), Arc::clone(&notes), Arc::clone(&talk));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    noted.connections.fetch_add(1, Ordering::SeqCst);
                    noted.open.fetch_add(1, Ordering::SeqCst);
                    talk(Noting { stream, noted: Arc::clone(&noted) }, Arc::clone(&noted)).await;
                    noted.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, noted, _runtime: runtime }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// What arrived so far.
    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.noted.arrived.lock().unwrap().clone()
    }

    /// The one request that arrived since the last look.
    pub(crate) fn one(&self) -> Arrived {
        let mut all = std::mem::take(&mut *self.noted.arrived.lock().unwrap());
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// Those that arrived since the last look.
    pub(crate) fn take(&self) -> Vec<Arrived> {
        std::mem::take(&mut *self.noted.arrived.lock().unwrap())
    }

    /// Whether nothing arrived since the last look.
    pub(crate) fn nothing(&self) -> bool {
        self.arrived().is_empty()
    }

    /// Every byte that came in over TLS.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.noted.bytes.lock().unwrap().clone()
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.noted.connections.load(Ordering::SeqCst)
    }

    /// How many there are.
    pub(crate) fn open(&self) -> usize {
        self.noted.open.load(Ordering::SeqCst)
    }
}

async fn speak(stream: Noting, noted: Arc<Noted>) {
    let client = stream.stream.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec());
    let service = service_fn(move |request| {
        let (noted, client) = (Arc::clone(&noted), client.clone());
        async move { answer(request, &noted, client).await }
    });
    let serve = auto::Builder::new(TokioExecutor::new());
    let _ = serve.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

/// A connection whose bytes are noted as they are read.
struct Noting {
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    noted: Arc<Noted>,
}

impl AsyncRead for Noting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let mut bytes = self.noted.bytes.lock().unwrap();
        if bytes.len() < 4 << 20 {
            bytes.extend_from_slice(&buf.filled()[before..]);
        }
        drop(bytes);
        read
    }
}

impl AsyncWrite for Noting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[derive(Debug)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken on purpose")
    }
}

impl std::error::Error for Broken {}

fn whole(text: impl Into<Bytes>) -> Answered {
    Full::new(text.into()).boxed_unsync()
}

/// So many parts, one after another with a pause between.
fn parts(count: usize, pause: Duration, part: Bytes) -> Answered {
    let (send, receive) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for _ in 0..count {
            if send.send(part.clone()).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
    });
    channel(receive)
}

fn channel(mut receive: tokio::sync::mpsc::Receiver<Bytes>) -> Answered {
    struct Parts<F>(F);
    impl<F: FnMut(&mut Context<'_>) -> Poll<Option<Bytes>> + Unpin> hyper::body::Body for Parts<F> {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            (self.0)(cx).map(|part| part.map(|part| Ok(Frame::data(part))))
        }
    }
    Parts(move |cx: &mut Context<'_>| receive.poll_recv(cx)).boxed_unsync()
}

/// - `/echo…`: the credential as it came, in many spellings, a few bytes at a time; also in a header
/// - `/gzip`, `/partial`: answers that cannot be scrubbed
/// - `/events`: one part every 20 milliseconds, for minutes
/// - `/big/N`: N MiB
/// - `/slow`: no answer for minutes
/// - `/reset`: a connection that breaks off
/// - `/unauthorized`: 401
/// - `/token`: what a token endpoint answers
/// - `/grpc`: trailers
/// - `/ws`: a WebSocket handshake, then every byte back
/// - anything else: who is asking, by the credential
async fn answer(
    mut request: Request<Incoming>,
    noted: &Noted,
    client: Option<Vec<u8>>,
) -> Result<Response<Answered>, Broken> {
    let target = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    let upgrade = target.starts_with("/ws").then(|| hyper::upgrade::on(&mut request));
    let (head, body) = request.into_parts();
    let (path, credential) = (head.uri.path().to_owned(), head.headers.get("authorization").cloned());
    let credential = credential.map_or_else(String::new, |value| value.to_str().unwrap_or("?").to_owned());
    let Ok(collected) = body.collect().await else { return Err(Broken) };
    let body = collected.to_bytes();
    let size = body.len();
    noted.arrived.lock().unwrap().push(Arrived {
        method: head.method.to_string(),
        target: target.clone(),
        version: head.version,
        headers: head.headers,
        body: if size > 1 << 20 { Bytes::new() } else { body },
        client,
    });
    let mut response = Response::new(whole(credential.clone()));
    let mut headers = HeaderMap::new();
    let secret = credential.rsplit(' ').next().unwrap_or_default().to_owned();
    match path.as_str() {
        _ if path.starts_with("/echo") => {
            headers.insert("x-echo", credential.parse().unwrap());
            headers.insert("x-echo-base64", base64_simd::STANDARD.encode_to_string(&secret).parse().unwrap());
            let text = crate::place::spellings(&secret).join("\n");
            let (send, receive) = tokio::sync::mpsc::channel(1);
            tokio::spawn(async move {
                for part in text.as_bytes().chunks(7) {
                    if send.send(Bytes::copy_from_slice(part)).await.is_err() {
                        return;
                    }
                }
            });
            *response.body_mut() = channel(receive);
        }
        "/gzip" => drop(headers.insert("content-encoding", "gzip".parse().unwrap())),
        "/partial" => *response.status_mut() = hyper::StatusCode::PARTIAL_CONTENT,
        "/events" => {
            headers.insert("content-type", "text/event-stream".parse().unwrap());
            *response.body_mut() = parts(10_000, Duration::from_millis(20), Bytes::from_static(b"data: tick\n\n"));
        }
        "/slow" => tokio::time::sleep(Duration::from_secs(300)).await,
        "/reset" => return Err(Broken),
        "/unauthorized" => *response.status_mut() = hyper::StatusCode::UNAUTHORIZED,
        "/size" => *response.body_mut() = whole(size.to_string()),
        "/token" => {
            headers.insert("content-type", "application/json".parse().unwrap());
            headers.insert("x-token", "live-token-of-somebody".parse().unwrap());
            let json = "{\"access_token\": \"live-token-of-somebody\", \"expires_in\": 3599, \"id_token\": \"live-id-token-too\"}";
            *response.body_mut() = whole(json);
        }
        "/keyfold.Test/Call" => {
            headers.insert("content-type", "application/grpc".parse().unwrap());
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            trailers.insert("grpc-message", credential.parse().unwrap());
            let frames = [Frame::data(Bytes::from_static(b"\0\0\0\0\x02ok")), Frame::trailers(trailers)];
            let stream = StreamBody::new(Frames(frames.into_iter().collect()));
            *response.body_mut() = stream.boxed_unsync();
        }
        "/ws" => {
            *response.status_mut() = hyper::StatusCode::SWITCHING_PROTOCOLS;
            headers.insert("connection", "upgrade".parse().unwrap());
            headers.insert("upgrade", "websocket".parse().unwrap());
            headers.insert("sec-websocket-accept", "made-up".parse().unwrap());
            *response.body_mut() = whole("");
            tokio::spawn(async move {
                let Ok(stream) = upgrade.unwrap().await else { return };
                let mut stream = TokioIo::new(stream);
                let mut buffer = vec![0; 4096];
                let _ = stream.write_all(format!("hello {secret}").as_bytes()).await;
                while let Ok(read) = stream.read(&mut buffer).await {
                    if read == 0 || stream.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
        _ => {
            if let Some(count) = path.strip_prefix("/big/") {
                let part = Bytes::from(vec![b'.'; 64 << 10]);
                *response.body_mut() = parts(count.parse::<usize>().unwrap() * 16, Duration::ZERO, part);
            }
        }
    }
    *response.headers_mut() = headers;
    Ok(response)
}

struct Frames(std::collections::VecDeque<Frame<Bytes>>);

impl futures::Stream for Frames {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}
