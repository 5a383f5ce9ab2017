//! A million requests of 500 users, in both modes at once, over HTTP/2: the destination looks whose token comes with each.

use std::{
    cell::{Cell, RefCell},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::join_all;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, StatusCode,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

use super::{
    keyfold::{HTTP2, Keyfold, Stage},
    load::{Stream, tunnel},
    tls,
    upstream::USER,
};

const USERS: usize = 500;
/// Connections of the addressed mode, and how many requests are under way in each mode.
const CONNECTIONS: usize = 4;
const AT_ONCE: usize = 32;
/// So many requests in a row are one user's, so that some share a tunnel.
const IN_A_ROW: usize = 4;

type Sender = SendRequest<Empty<Bytes>>;

/// What came of the requests so far.
#[derive(Default)]
struct Tally {
    asked: Cell<usize>,
    done: Cell<usize>,
    failed: Cell<usize>,
    /// What the first of them failed of.
    why: RefCell<String>,
}

impl Tally {
    /// The user of the next request, until there were so many.
    fn next(&self, most: usize) -> Option<usize> {
        let n = self.asked.get();
        self.asked.set(n + 1);
        (n < most).then_some(n / IN_A_ROW % USERS)
    }

    fn count(&self, result: Result<(), String>) {
        self.done.set(self.done.get() + 1);
        if let Err(why) = result {
            self.failed.set(self.failed.get() + 1);
            let mut first = self.why.borrow_mut();
            if first.is_empty() {
                *first = why;
            }
        }
    }
}

pub(crate) fn run(stage: &Stage) {
    let requests: usize = super::variable("KEYFOLD_BENCH_REQUESTS", 1_000_000);
    let keyfold = Keyfold::start(stage, &super::disk(), USERS);
    let tokens = keyfold.tokens.iter().enumerate().map(|(user, token)| (format!("Bearer {token}"), user)).collect();
    assert!(stage.users.tokens.set(tokens).is_ok(), "one soak in a run");
    println!("\nsoak: {requests} requests of {USERS} users, half of them through a tunnel of each user's own");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (addressed, tunnelled) = (Tally::default(), Tally::default());
    let began = Instant::now();
    runtime.block_on(async {
        let (direct, tunnels) = (connections(&keyfold).await, tunnels(&keyfold).await);
        println!("{USERS} tunnels opened by {:.1} s", began.elapsed().as_secs_f64());
        let began = Instant::now();
        let half = requests / 2;
        let in_tunnels = join_all((0..AT_ONCE).map(|_| async {
            while let Some(user) = tunnelled.next(half) {
                let uri = format!("https://{}{USER}{user}", keyfold.at(HTTP2));
                tunnelled.count(ask(tunnels[user].clone(), Request::get(uri), user).await);
            }
        }));
        let beside = join_all((0..AT_ONCE).map(|worker| {
            let (sender, addressed, keyfold) = (&direct[worker % CONNECTIONS], &addressed, &keyfold);
            async move {
                while let Some(user) = addressed.next(requests - half) {
                    let uri = format!("http://{}/proxy/{}{USER}{user}", keyfold.proxy, keyfold.at(HTTP2));
                    let request = keyfold
                        .proof(user)
                        .into_iter()
                        .fold(Request::get(uri), |request, (name, value)| request.header(name, value));
                    addressed.count(ask(sender.clone(), request, user).await);
                }
            }
        }));
        let watch = async {
            while addressed.done.get() + tunnelled.done.get() < requests / 10 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            println!("memory after a tenth    {:>8.1} MiB", keyfold.process.resident());
        };
        tokio::join!(in_tunnels, beside, watch);
        println!(
            "memory at the end       {:>8.1} MiB, {:.1} at most",
            keyfold.process.resident(),
            keyfold.process.peak()
        );
        println!("requests in a second    {:>8.0}", requests as f64 / began.elapsed().as_secs_f64());
    });
    let (crossed, arrived) = (&stage.users.crossed, &stage.users.arrived);
    println!("arrived                 {:>8}", arrived.load(Ordering::Relaxed));
    println!("crossed tokens          {:>8}", crossed.load(Ordering::Relaxed));
    for (name, tally) in [("addressed", &addressed), ("tunnels", &tunnelled)] {
        println!("failed, {name:<15} {:>8} {}", tally.failed.get(), tally.why.borrow());
    }
    assert_eq!(crossed.load(Ordering::Relaxed), 0, "one user's token left for another's call");
    assert_eq!(addressed.failed.get() + tunnelled.failed.get(), 0, "a stream was dropped");
    assert_eq!(arrived.load(Ordering::Relaxed), requests as u64, "each arrives once");
}

async fn handshake(stream: impl Stream + 'static) -> Sender {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn dial(keyfold: &Keyfold<'_>) -> TcpStream {
    let stream = TcpStream::connect(keyfold.proxy).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn connections(keyfold: &Keyfold<'_>) -> Vec<Sender> {
    let mut all = Vec::new();
    for _ in 0..CONNECTIONS {
        all.push(handshake(dial(keyfold).await).await);
    }
    all
}

/// One for each user.
async fn tunnels(keyfold: &Keyfold<'_>) -> Vec<Sender> {
    let tls = tls::connecting(keyfold.ca.as_bytes(), &["h2"]);
    let mut all = Vec::new();
    for user in 0..USERS {
        let mut stream = dial(keyfold).await;
        tunnel(&mut stream, &keyfold.at(HTTP2), &keyfold.basic(user)).await;
        let stream = tls.connect(ServerName::try_from(HTTP2).unwrap(), stream).await.unwrap();
        all.push(handshake(stream).await);
    }
    all
}

/// Asks who is asking.
async fn ask(mut sender: Sender, request: hyper::http::request::Builder, user: usize) -> Result<(), String> {
    let said = |error: hyper::Error| format!("user {user}: {error:?}");
    sender.ready().await.map_err(said)?;
    let response = sender.send_request(request.body(Empty::new()).unwrap()).await.map_err(said)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(said)?.to_bytes();
    if status == StatusCode::OK && body == user.to_string() {
        return Ok(());
    }
    Err(format!("user {user}: {status}, {}", String::from_utf8_lossy(&body)))
}
