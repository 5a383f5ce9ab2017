//! The load generator: one thread, connections that stay open, each with one request at a time.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::future::join_all;
use memchr::memmem;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Runtime,
    time::sleep_until,
};
use tokio_rustls::TlsConnector;

use super::{process::Process, upstream::length};

pub(crate) const CONNECTIONS: usize = 32;
/// So many that what waits for a disk is enough to keep the rest of the machine busy.
pub(crate) const MANY: usize = 256;
/// How often each load runs, in turns with the others, so that a machine that changes its pace changes it for all.
const ROUNDS: usize = 3;
/// How many requests in a second an open loop makes.
pub(crate) const STEADY: u32 = 1000;
/// A request that leaves so much later than it was due waited for the one before it.
const LATE: Duration = Duration::from_millis(2);

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A way to the destination.
pub(crate) struct Way<'a> {
    pub(crate) name: &'static str,
    /// The process between; none where there is nothing between.
    pub(crate) process: Option<&'a Process>,
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
    /// Stands before each path.
    pub(crate) prefix: String,
    /// Of each user; connections take turns.
    pub(crate) headers: Vec<String>,
    /// What CONNECT says for each user, where there are tunnels.
    pub(crate) tunnels: Vec<String>,
    pub(crate) tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Way<'_> {
    pub(crate) async fn open(&self, i: usize) -> Box<dyn Stream> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        if !self.tunnels.is_empty() {
            tunnel(&mut stream, &self.host, &self.tunnels[i % self.tunnels.len()]).await;
        }
        match &self.tls {
            None => Box::new(stream),
            Some((tls, name)) => Box::new(tls.connect(name.clone(), stream).await.unwrap()),
        }
    }

    /// A request of one of the users; `more` are headers, each with its line's end.
    pub(crate) fn request(&self, i: usize, (method, path): (&str, &str), more: &str) -> Vec<u8> {
        let Self { prefix, host, .. } = self;
        let headers = if self.headers.is_empty() { "" } else { &self.headers[i % self.headers.len()] };
        format!(
            "{method} {prefix}{path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: bench\r\naccept: */*\r\n{headers}{more}\r\n"
        )
        .into_bytes()
    }
}

/// Asks for a tunnel.
pub(crate) async fn tunnel(stream: &mut TcpStream, host: &str, proof: &str) {
    let connect = format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\nproxy-authorization: {proof}\r\n\r\n");
    stream.write_all(connect.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut head).await.unwrap() > 0, "it hung up");
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
}

/// One request; whole answers only, and good ones.
async fn call(stream: &mut dyn Stream, request: &[u8], buffer: &mut Vec<u8>) {
    stream.write_all(request).await.unwrap();
    stream.flush().await.unwrap();
    buffer.clear();
    let mut whole = None;
    while whole.is_none_or(|whole| buffer.len() < whole) {
        assert!(stream.read_buf(buffer).await.unwrap() > 0, "it hung up");
        if whole.is_none()
            && let Some(head) = memmem::find(buffer, b"\r\n\r\n")
        {
            let good = buffer.starts_with(b"HTTP/1.1 200");
            assert!(good, "{}", String::from_utf8_lossy(&buffer[..buffer.len().min(800)]));
            whole = Some(head + 4 + length(&buffer[..head]).expect("an answer whose length is said"));
        }
    }
}

/// What a load showed; times in microseconds.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) rate: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// CPU time of the process between, for each request.
    pub(crate) cpu: f64,
}

impl Load {
    pub(crate) fn header(what: &str) {
        println!("\n{what:<32} {:>9} {:>9} {:>9} {:>14}", "req/s", "p50 us", "p99 us", "cpu us/request");
    }

    pub(crate) fn print(&self, name: &str) {
        let Self { rate, p50, p99, cpu } = self;
        println!("{name:<32} {rate:>9.0} {p50:>9.0} {p99:>9.0} {cpu:>14.1}");
    }

    /// The median of each figure.
    fn median(all: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(all.iter().map(figure).collect());
        Self { rate: of(|l| l.rate), p50: of(|l| l.p50), p99: of(|l| l.p99), cpu: of(|l| l.cpu) }
    }
}

pub(crate) fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Whether requests follow the answers, on so many connections, or the clock.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    Closed(usize),
    Steady,
}

/// Loads each of the ways in turns; prints and gives what each showed.
pub(crate) fn turns(runtime: &Runtime, ways: &[Way<'_>], (pace, path): (Pace, &str)) -> Vec<Load> {
    let time = super::seconds();
    let mut all = vec![Vec::new(); ways.len()];
    for way in ways {
        runtime.block_on(run(way, path, (pace, time / 5)));
    }
    for _ in 0..ROUNDS {
        for (way, loads) in ways.iter().zip(&mut all) {
            loads.push(runtime.block_on(run(way, path, (pace, time))));
        }
    }
    let all: Vec<_> = all.iter().map(|loads| Load::median(loads)).collect();
    for (way, load) in ways.iter().zip(&all) {
        load.print(way.name);
    }
    all
}

async fn run(way: &Way<'_>, path: &str, (pace, time): (Pace, Duration)) -> Load {
    let connections = if let Pace::Closed(connections) = pace { connections } else { CONNECTIONS };
    let opened = join_all((0..connections).map(|i| async move {
        let (mut stream, mut buffer) = (way.open(i).await, Vec::new());
        let request = way.request(i, ("GET", path), "");
        call(&mut *stream, &request, &mut buffer).await;
        (stream, buffer, request)
    }));
    let opened = opened.await;
    let cpu = || way.process.map_or(0.0, Process::cpu);
    let (before, began) = (cpu(), Instant::now());
    let until = began + time;
    let all = join_all(opened.into_iter().enumerate().map(|(i, (mut stream, mut buffer, request))| async move {
        let mut took = Vec::new();
        let gap = Duration::from_secs(1) / STEADY;
        let mut due = began + gap * u32::try_from(i).unwrap();
        loop {
            let mut from = Instant::now();
            if let Pace::Steady = pace {
                sleep_until(due.into()).await;
                from = Instant::now();
                if from.duration_since(due) > LATE {
                    from = due;
                }
                due += gap * CONNECTIONS as u32;
            }
            if from >= until {
                return took;
            }
            call(&mut *stream, &request, &mut buffer).await;
            took.push(from.elapsed());
        }
    }));
    let mut took: Vec<Duration> = all.await.into_iter().flatten().collect();
    let (count, elapsed) = (took.len() as f64, began.elapsed().as_secs_f64());
    let cpu = (cpu() - before) / count * 1e6;
    took.sort_unstable();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    Load { rate: count / elapsed, p50: at(0.5), p99: at(0.99), cpu }
}
