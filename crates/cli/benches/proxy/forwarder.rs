//! What a forwarder made of the same library can do at best: one constant header, and nothing else. A process of its own.
//!
//! Another one does, beside that, what each call has to wait for by design: a line in a file, flushed before the call leaves, by a thread
//! that takes all lines that wait; and a second line when the answer came, for which nobody waits. No session, no rules, no chain.

use std::{
    fs, io,
    io::{Read as _, Seek as _, Write as _},
    path::Path,
    pin::Pin,
    process::Command,
    task::{Context, Poll},
};

use hyper::{
    Request, Uri,
    body::Incoming,
    header::{self, HeaderValue},
    rt::ReadBufCursor,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo},
};
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    keyfold::{PLAIN, Stage, bare},
    load::Way,
    process::Process,
    tls,
};

/// What tells the process of the bench that it is this one.
pub(crate) const ARGUMENT: &str = "--forward";

/// It runs for as long as its value is there.
pub(crate) struct Forwarder {
    process: Process,
    address: std::net::SocketAddr,
    log: Option<TempDir>,
}

impl Forwarder {
    pub(crate) fn start(stage: &Stage) -> Self {
        Self::started(stage, None)
    }

    /// One that writes its calls down, in a folder of this one.
    pub(crate) fn noting(stage: &Stage, folder: &Path) -> Self {
        Self::started(stage, Some(tempfile::tempdir_in(folder).unwrap()))
    }

    fn started(stage: &Stage, log: Option<TempDir>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([ARGUMENT, &stage.http1.port.to_string()]).arg(stage.roots());
        command.args(log.as_ref().map(|folder| folder.path().join("log")));
        let (process, address) = Process::speaking(&mut command);
        Self { process, address: address.trim().parse().unwrap(), log }
    }

    pub(crate) fn way(&self) -> Way<'_> {
        let name = if self.log.is_some() { "forwarder, with two lines a call" } else { "bare hyper forwarder" };
        Way { address: self.address, ..bare(name, Some(&self.process)) }
    }
}

/// As long as an event.
const LINE: [u8; 350] = [b'x'; 350];
/// What is written ahead, as Keyfold does it: room for all that a run notes.
const AHEAD: usize = 256 << 20;

/// Lines on their way to the file; who waits for one is told once it is durable.
#[derive(Clone)]
struct Log(mpsc::UnboundedSender<Option<oneshot::Sender<()>>>);

impl Log {
    fn open(path: &Path) -> Self {
        let mut file = fs::File::create(path).unwrap();
        file.write_all(&vec![0; AHEAD]).unwrap();
        file.rewind().unwrap();
        file.sync_all().unwrap();
        let (asks, mut queue) = mpsc::unbounded_channel::<Option<oneshot::Sender<()>>>();
        std::thread::spawn(move || {
            while let Some(first) = queue.blocking_recv() {
                let mut group = vec![first];
                group.extend(std::iter::from_fn(|| queue.try_recv().ok()));
                file.write_all(&LINE.repeat(group.len())).unwrap();
                if group.iter().any(Option::is_some) {
                    file.sync_data().unwrap();
                }
                for waits in group.into_iter().flatten() {
                    let _ = waits.send(());
                }
            }
        });
        Self(asks)
    }

    async fn durably(&self) {
        let (told, durable) = oneshot::channel();
        let _ = self.0.send(Some(told));
        let _ = durable.await;
    }

    fn later(&self) {
        let _ = self.0.send(None);
    }
}

/// Until nothing holds its stdin any more.
pub(crate) fn run(port: u16, roots: &Path, log: Option<&Path>) {
    let log = log.map(Log::open);
    let tls = tls::connecting(&fs::read(roots).unwrap(), &["http/1.1"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.spawn(async move {
        let dial = tower::service_fn(move |_: Uri| Box::pin(dial(tls.clone(), port)));
        let client = Client::builder(TokioExecutor::new()).build::<_, Incoming>(dial);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let client = client.clone();
            let log = log.clone();
            let service = service_fn(move |request| {
                let (client, log) = (client.clone(), log.clone());
                async move {
                    let Some(log) = log else { return client.request(onward(request, port)).await };
                    log.durably().await;
                    let answer = client.request(onward(request, port)).await;
                    log.later();
                    answer
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let _ = io::stdin().read_to_end(&mut Vec::new());
}

fn onward(mut request: Request<Incoming>, port: u16) -> Request<Incoming> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = format!("https://{PLAIN}:{port}{path}").parse().unwrap();
    let headers = request.headers_mut();
    headers.remove(header::HOST);
    headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer of-the-forwarder"));
    request
}

async fn dial(tls: TlsConnector, port: u16) -> io::Result<TlsIo> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(PLAIN).map_err(io::Error::other)?;
    Ok(TlsIo(TokioIo::new(tls.connect(name, stream).await?)))
}

struct TlsIo(TokioIo<TlsStream<TcpStream>>);

impl Connection for TlsIo {
    fn connected(&self) -> Connected {
        Connected::new()
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
