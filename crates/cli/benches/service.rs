//! The service under load, beside OpenBao's transit engine on the same machine: one load generator, the same connections, both with
//! an audit file. Then what stands by itself: memory, start, restart after a kill, the verdict on a million events.
//!
//! `cargo bench -p keyfold --bench service`; it needs an idle machine. KEYFOLD_COMPONENTS names the folder with `bao`; without it only
//! Keyfold is measured. KEYFOLD_BENCH_SECONDS is how long each load lasts (5).
//!
//! Where the time of single calls goes, on two cores that the load generator shares (`perf record -g` on the service): 30 % of its
//! processor time is the kernel's part of writing and flushing the audit log, 21 % the kernel's part of the sockets, 30 % our code
//! (3 % of it SHA-256, for the log's chain), 13 % the allocator, 4 % encoding events. No core is full: a call waits for the flush that
//! is under way and then for its own, and about 15 intents share one. What helped is a shorter flush: zeros written ahead of the lines halved
//! it, and a fifth more calls went through. Writing the next group while one is flushed, on a thread of its own, gained about a tenth;
//! handing each group to one after the other cost half; another allocator (mimalloc) gained nothing and took 14 MiB more.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot start anything has nothing to report")]
#![allow(clippy::print_stdout, reason = "that is what it is for")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded anyway"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const CONNECTIONS: usize = 32;
const BATCH: usize = 1000;
const SECRET: &str =
    "redis://app:a-password-of-some-length@cache-17.internal.example.com:6379/0?timeout=5s&client=sre-agent";

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let place = tempfile::tempdir().unwrap();
    starts(&place);
    let keyfold = Keyfold::start(place.path());
    println!("idle memory         {:.1} MiB", keyfold.resident());
    let ours = runtime.block_on(keyfold.measure());
    println!("memory after load   {:.1} MiB", keyfold.resident());
    let theirs = OpenBao::start().map(|bao| runtime.block_on(bao.measure()));
    println!("\n{CONNECTIONS} connections, {} bytes a secret", SECRET.len());
    println!("                        req/s   p50 us   p99 us      OpenBao   p50 us   p99 us    times");
    for (i, name) in ["seal", "open", "seal 1000", "open 1000"].into_iter().enumerate() {
        let (us, them) = (&ours[i], theirs.as_ref().map(|all| &all[i]));
        print!("{name:<20} {:>9.0} {:>8.0} {:>8.0}", us.rate, us.p50, us.p99);
        match them {
            Some(them) => {
                println!(" {:>12.0} {:>8.0} {:>8.0} {:>8.1}", them.rate, them.p50, them.p99, us.rate / them.rate);
            }
            None => println!("   (no bao)"),
        }
    }
    println!(
        "secrets in batches   seal {:.0}/s, open {:.0}/s",
        ours[2].rate * BATCH as f64,
        ours[3].rate * BATCH as f64
    );
    drop(keyfold);
    verdict(place.path());
}

fn seconds() -> Duration {
    let seconds = std::env::var("KEYFOLD_BENCH_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

/// From the start of the process until it says that it is ready, on a folder that is there; then the same after a kill.
fn starts(place: &TempDir) {
    drop(Keyfold::start(place.path()));
    let mut took: Vec<f64> = (0..10).map(|_| Keyfold::start(place.path()).took).collect();
    took.sort_by(f64::total_cmp);
    println!("start to ready      median {:.0} ms, worst {:.0} ms (each after a kill)", took[5], took[9]);
}

/// Two million events and more, judged offline.
fn verdict(place: &Path) {
    let events = fs::read_dir(place.join("audit")).unwrap().count();
    let began = Instant::now();
    let out = Command::new(env!("CARGO_BIN_EXE_keyfold"))
        .args(["audit", "verify", "--json"])
        .env_clear()
        .env("KEYFOLD_DATA_DIR", place)
        .output()
        .unwrap();
    let took = began.elapsed().as_secs_f64();
    let report: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
    let count = report["events"].as_f64().unwrap_or(0.0);
    println!(
        "audit verify        {:.1} million events in {took:.1} s ({:.0} a second), {} ({events} files)",
        count / 1e6,
        count / took,
        report["verdict"]
    );
}

/// What a load showed.
struct Load {
    rate: f64,
    p50: f64,
    p99: f64,
}

/// A closed loop over so many connections, each with one request at a time.
async fn load(address: SocketAddr, request: Vec<u8>) -> Load {
    // Warm up, and see that it is answered as it should be.
    let mut buffer = Vec::new();
    let first = call(&mut TcpStream::connect(address).await.unwrap(), &request, &mut buffer).await;
    assert!(first.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&first[..first.len().min(500)]));
    let until = Instant::now() + seconds();
    let began = Instant::now();
    let all = futures::future::join_all((0..CONNECTIONS).map(|_| async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut buffer, mut took) = (Vec::new(), Vec::new());
        while Instant::now() < until {
            let began = Instant::now();
            call(&mut stream, &request, &mut buffer).await;
            took.push(began.elapsed());
        }
        took
    }));
    let mut took: Vec<Duration> = all.await.into_iter().flatten().collect();
    let rate = took.len() as f64 / began.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    Load { rate, p50: at(0.5), p99: at(0.99) }
}

/// One request over HTTP/1.1; the answer's bytes.
async fn call<'a>(stream: &mut TcpStream, request: &[u8], buffer: &'a mut Vec<u8>) -> &'a [u8] {
    stream.write_all(request).await.unwrap();
    buffer.clear();
    let mut whole = None;
    loop {
        let read = stream.read_buf(buffer).await.unwrap();
        assert!(read > 0, "it hung up");
        if whole.is_none()
            && let Some(head) = buffer.windows(4).position(|window| window == b"\r\n\r\n")
        {
            let text = std::str::from_utf8(&buffer[..head]).unwrap();
            let length = text.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
            });
            whole = length.map(|length| head + 4 + length);
            // A large answer of Go's comes in chunks.
            if whole.is_none() && buffer.ends_with(b"0\r\n\r\n") {
                return buffer;
            }
        }
        match whole {
            Some(whole) if buffer.len() >= whole => return buffer,
            None if buffer.ends_with(b"\r\n0\r\n\r\n") => return buffer,
            _ => {}
        }
    }
}

fn request(path: &str, headers: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: bench\r\n{headers}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

async fn answer(address: SocketAddr, request: &[u8]) -> Value {
    let mut buffer = Vec::new();
    call(&mut TcpStream::connect(address).await.unwrap(), request, &mut buffer).await;
    let head = buffer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let from = buffer[head..].iter().position(|&b| b == b'{').unwrap() + head;
    let to = buffer.iter().rposition(|&b| b == b'}').unwrap();
    serde_json::from_slice(&buffer[from..=to])
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&buffer)))
}

/// Ended with its value, as a power failure would.
struct Keyfold {
    child: Child,
    address: SocketAddr,
    token: String,
    took: f64,
}

impl Drop for Keyfold {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Keyfold {
    fn start(folder: &Path) -> Self {
        let began = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_keyfold"))
            .args(["serve", "--json", "--listen", "127.0.0.1:0"])
            .env_clear()
            .env("KEYFOLD_DATA_DIR", folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let address: SocketAddr = said["url"].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap();
        ready(address);
        let took = began.elapsed().as_secs_f64() * 1e3;
        let token = fs::read_to_string(folder.join("operator.token")).unwrap().trim().to_owned();
        Self { child, address, token, took }
    }

    /// In MiB.
    fn resident(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    async fn measure(&self) -> Vec<Load> {
        let headers = format!("authorization: Bearer {}", self.token);
        let post = |path: &str, body: &Value| request(path, &headers, body);
        let seal = post("/v1/seal", &json!({ "plaintext": SECRET }));
        let sealed = answer(self.address, &seal).await["envelope"].clone();
        let open = post("/v1/open", &json!({ "envelope": sealed }));
        let seals = post("/v1/seal", &json!({ "items": vec![json!({ "plaintext": SECRET }); BATCH] }));
        let opens = post("/v1/open", &json!({ "items": vec![json!({ "envelope": sealed }); BATCH] }));
        let mut loads = Vec::new();
        for request in [seal, open, seals, opens] {
            loads.push(load(self.address, request).await);
        }
        loads
    }
}

/// Until `/readyz` says yes.
fn ready(address: SocketAddr) {
    use std::io::{Read as _, Write as _};
    loop {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        if answer.starts_with(b"HTTP/1.1 200") {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct OpenBao {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl OpenBao {
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let bao = PathBuf::from(std::env::var_os("KEYFOLD_COMPONENTS")?).join("bao");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        // In memory, without TLS and consensus: as fast as it gets. Audit devices stand in its configuration.
        let config = folder.path().join("bao.hcl");
        let file = folder.path().join("audit.log");
        // The listener of `-dev` takes no batch of this size.
        let listener = format!(
            "address = \"{address}\"\n tls_disable = true\n max_request_json_strings = 100000\n max_request_json_memory = 100000000"
        );
        fs::write(
            &config,
            format!(
                "audit \"file\" \"bench\" {{ options {{ file_path = {file:?} }} }}\nlistener \"tcp\" {{\n {listener}\n}}\n"
            ),
        )
        .unwrap();
        let child = Command::new(bao)
            .args(["server", "-dev", "-dev-root-token-id=root", "-dev-no-store-token", "-log-level=error"])
            .arg("-dev-listen-address=127.0.0.1:0")
            .arg(format!("-config={}", config.display()))
            .env("HOME", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        for _ in 0..200 {
            if std::net::TcpStream::connect(address).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_secs(2));
        Some(Self { child, address, _folder: folder })
    }

    async fn measure(self) -> Vec<Load> {
        let post = |path: &str, body: &Value| request(path, "x-vault-token: root", body);
        let put = |path: &str, body: &Value| answer_or_nothing(self.address, post(path, body));
        put("/v1/sys/mounts/transit", &json!({ "type": "transit" })).await;
        put("/v1/transit/keys/k", &json!({})).await;
        let plaintext = base64_simd::STANDARD.encode_to_string(SECRET);
        let seal = post("/v1/transit/encrypt/k", &json!({ "plaintext": plaintext }));
        let sealed = answer(self.address, &seal).await["data"]["ciphertext"].clone();
        assert!(sealed.is_string());
        let open = post("/v1/transit/decrypt/k", &json!({ "ciphertext": sealed }));
        let batch = |item: Value| json!({ "batch_input": vec![item; BATCH] });
        let seals = post("/v1/transit/encrypt/k", &batch(json!({ "plaintext": plaintext })));
        let opens = post("/v1/transit/decrypt/k", &batch(json!({ "ciphertext": sealed })));
        let mut loads = Vec::new();
        for request in [seal, open, seals, opens] {
            loads.push(load(self.address, request).await);
        }
        let written = fs::metadata(self._folder.path().join("audit.log")).map_or(0, |meta| meta.len());
        println!("OpenBao's audit file has {:.0} MiB", written as f64 / 1e6);
        assert!(written > 1000, "OpenBao did not write its audit file");
        loads
    }
}

async fn answer_or_nothing(address: SocketAddr, request: Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&request).await.unwrap();
    let mut buffer = vec![0; 4096];
    let read = stream.read(&mut buffer).await.unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 20"), "{}", String::from_utf8_lossy(&buffer[..read]));
}
