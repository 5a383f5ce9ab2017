//! The destination of all that is measured: cheap enough not to be what is measured.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt::Write as _,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use memchr::memmem;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// A short answer, one of 16 KiB, and one of any size; and what takes any body.
pub(crate) const SMALL: &str = "/small";
pub(crate) const JSON: &str = "/json";
pub(crate) const STREAM: &str = "/stream/";
pub(crate) const DROP: &str = "/drop";
/// Before a user's number.
pub(crate) const USER: &str = "/u/";

const JSON_SIZE: usize = 16 << 10;

/// Whose token is whose, and how often one came where another's belonged.
#[derive(Default)]
pub(crate) struct Users {
    /// The number of the user of each `Authorization`.
    pub(crate) tokens: OnceLock<HashMap<String, usize>>,
    pub(crate) crossed: AtomicU64,
    pub(crate) arrived: AtomicU64,
}

/// A server under TLS, on a thread of its own.
pub(crate) struct Upstream {
    pub(crate) port: u16,
    _runtime: Runtime,
}

impl Upstream {
    /// Over HTTP/1.1.
    pub(crate) fn http1(acceptor: TlsAcceptor) -> Self {
        let answers = Arc::new(Answers::new());
        Self::start(acceptor, move |stream| {
            let answers = Arc::clone(&answers);
            async move { drop(talk(stream, &answers).await) }
        })
    }

    /// Over HTTP/2, which knows its users.
    pub(crate) fn http2(acceptor: TlsAcceptor, users: &Arc<Users>) -> Self {
        let (users, json) = (Arc::clone(users), Bytes::from(json()));
        Self::start(acceptor, move |stream| {
            let (users, json) = (Arc::clone(&users), json.clone());
            let service = service_fn(move |request| {
                let answer = answer(&request, &users, &json);
                async move { Ok::<_, Infallible>(answer) }
            });
            let serve = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            async move { drop(serve.serve_connection(TokioIo::new(stream), service).await) }
        })
    }

    fn start<F: Future<Output = ()> + Send + 'static>(
        acceptor: TlsAcceptor,
        talk: impl Fn(TlsStream<TcpStream>) -> F + Send + Sync + 'static,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let (port, talk) = (listener.local_addr().unwrap().port(), Arc::new(talk));
        runtime.spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                let (acceptor, talk) = (acceptor.clone(), Arc::clone(&talk));
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        talk(stream).await;
                    }
                });
            }
        });
        Self { port, _runtime: runtime }
    }
}

/// Whole answers of HTTP/1.1.
struct Answers {
    small: Vec<u8>,
    json: Vec<u8>,
    text: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let json = json();
        let text = json.repeat(64);
        Self { small: whole(SAYS), json: whole(&json), text }
    }
}

const SAYS: &[u8] = br#"{"kind":"logging#entry","id":"17a5c0de","severity":"INFO","message":"the node is ready","labels":{"zone":"b"}}"#;

fn head(length: usize) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n")
}

fn whole(body: &[u8]) -> Vec<u8> {
    [head(body.len()).as_bytes(), body].concat()
}

/// Entries of a log, as a logging service tells them: with quoted quotes, escapes and what looks like tokens.
fn json() -> Vec<u8> {
    let mut text = String::from("{\"entries\":[");
    for n in 0.. {
        let mut entry = String::new();
        let _ = write!(
            entry,
            r#"{{"insertId":"{:016x}","severity":"INFO","textPayload":"GET \"/v1/items?name=a%20b&page={n}\" took {} ms","trace":"projects/p-1/traces/{:032x}","labels":{{"pod":"web-{n}","digest":"c2hhMjU2OmFiY2RlZg=="}}}},"#,
            n * 0x9e37_79b9_usize,
            n % 97,
            n * 0x51ed_270b
        );
        if text.len() + entry.len() + 3 > JSON_SIZE {
            break;
        }
        text += &entry;
    }
    text.pop();
    text += "]}";
    text += &" ".repeat(JSON_SIZE - text.len());
    text.into_bytes()
}

/// One connection, one request after another.
async fn talk(mut stream: TlsStream<TcpStream>, answers: &Answers) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(64 << 10);
    loop {
        let end = loop {
            if let Some(at) = memmem::find(&buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = buffer.split_to(end);
        // What was measured without it would be no proxy.
        if memmem::find(&head, b"uthorization: Bearer ").is_none() {
            stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await?;
            continue;
        }
        let target = head[..].split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        let target = std::str::from_utf8(target).unwrap_or_default();
        match target {
            SMALL => stream.write_all(&answers.small).await?,
            JSON => stream.write_all(&answers.json).await?,
            DROP => {
                let length = length(&head).unwrap_or(0);
                skip(&mut stream, &mut buffer, length).await?;
                stream.write_all(&answers.small).await?;
            }
            _ => {
                let size = target.strip_prefix(STREAM).and_then(|mib| mib.parse::<usize>().ok()).unwrap_or(0) << 20;
                pour(&mut stream, size, &answers.text).await?;
            }
        }
        stream.flush().await?;
    }
}

/// What `Content-Length` says.
pub(crate) fn length(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?;
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    })
}

async fn skip(stream: &mut TlsStream<TcpStream>, buffer: &mut BytesMut, length: usize) -> io::Result<()> {
    let mut left = length;
    loop {
        let here = left.min(buffer.len());
        buffer.advance(here);
        left -= here;
        if left == 0 {
            return Ok(());
        }
        buffer.reserve(64 << 10);
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn pour(stream: &mut TlsStream<TcpStream>, size: usize, text: &[u8]) -> io::Result<()> {
    stream.write_all(head(size).as_bytes()).await?;
    let mut left = size;
    while left > 0 {
        let part = &text[..left.min(text.len())];
        stream.write_all(part).await?;
        left -= part.len();
    }
    Ok(())
}

/// Says whose token it was; notes where it was not the one that the path names.
fn answer(request: &Request<Incoming>, users: &Users, json: &Bytes) -> Response<Full<Bytes>> {
    let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let path = request.uri().path();
    let body = match path.strip_prefix(USER) {
        Some(named) => {
            users.arrived.fetch_add(1, Ordering::Relaxed);
            let known = users.tokens.get().and_then(|tokens| tokens.get(token)).map(ToString::to_string);
            if known.as_deref() != Some(named) {
                users.crossed.fetch_add(1, Ordering::Relaxed);
            }
            known.unwrap_or_default().into()
        }
        None if path == JSON => json.clone(),
        None => Bytes::from_static(SAYS),
    };
    let mut response = Response::new(Full::new(body));
    if token.is_empty() {
        *response.status_mut() = StatusCode::UNAUTHORIZED;
    }
    response
}
