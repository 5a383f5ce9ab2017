//! A service with its proxy, an issuer, and a destination: everything a test of the proxy stands on.

#![allow(clippy::print_stderr, reason = "what was not run is said by name")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::Duration,
};

use base64_simd::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};

use super::{
    common::{
        Ended,
        authority::Authority,
        folder::{copy_into, files},
        keyfold,
        provider::Provider,
        served::{Answer, Served, answer, folder},
    },
    upstream::{Script, Upstream},
};

/// The secret in the spellings that an echo comes in.
pub(crate) fn spellings(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let escaped: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
    let json: String = bytes.iter().map(|byte| format!("\\u{byte:04x}")).collect();
    let mut all = vec![secret.to_owned(), hex.to_uppercase(), hex, escaped, json, secret.replace('.', "%2e")];
    for before in ["", "x", "xy"] {
        let shifted = format!("{before}{secret}{before}");
        all.extend([STANDARD.encode_to_string(&shifted), URL_SAFE_NO_PAD.encode_to_string(&shifted)]);
    }
    all
}

#[track_caller]
pub(crate) fn wait(until: impl Fn() -> bool) {
    for _ in 0..300 {
        if until() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("fifteen seconds, and nothing changed");
}

/// Python with `requests`.
pub(crate) fn python() -> Option<String> {
    let installed = std::env::var("KEYFOLD_TEST_SCHEMATHESIS").unwrap_or_else(|_| "python3".into());
    let there =
        Command::new(&installed).args(["-c", "import requests"]).output().is_ok_and(|ended| ended.status.success());
    if there {
        return Some(installed);
    }
    let required = std::env::var_os("KEYFOLD_TEST_REQUIRE").is_some_and(|value| value == "all");
    assert!(!required, "not run: no Python with `requests`");
    eprintln!("not run: no Python with `requests`");
    None
}

/// Runs a client to its end; what it printed.
pub(crate) fn run(words: &[String], variables: &[(&str, &str)]) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env_clear().env("PATH", path).envs(variables.iter().copied());
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).unwrap()
}

pub(crate) struct Place {
    pub(crate) provider: Provider,
    pub(crate) served: Served,
    pub(crate) up: Upstream,
    pub(crate) agent: String,
    backend: String,
    pub(crate) http1: reqwest::Client,
    pub(crate) http2: reqwest::Client,
    more: Vec<Upstream>,
    script: Script,
    nobody: u16,
    disk: Option<Disk>,
}

/// With more keys and tables at the end of `[destinations.api]`; `None` where there is no issuer to be had.
pub(crate) fn place(more: &str) -> Option<Place> {
    Place::with("", more)
}

impl Place {
    /// With more at the beginning of the configuration too.
    pub(crate) fn with(first: &str, more: &str) -> Option<Self> {
        Self::over("", &["h2", "http/1.1"], first, more)
    }

    /// Where sessions are refreshed.
    pub(crate) fn refreshing() -> Option<Self> {
        Self::over("refresh = true\n", &["h2", "http/1.1"], "", "")
    }

    /// With a destination that speaks HTTP/1.1 alone, so that its bytes can be read.
    pub(crate) fn http1(more: &str) -> Option<Self> {
        Self::over("", &["http/1.1"], "", more)
    }

    fn over(issuer: &str, alpn: &[&str], first: &str, more: &str) -> Option<Self> {
        let provider = Provider::start()?;
        let authority = Authority::new();
        let names = ["api.test", "other.test", "keyed.test", "queried.test"];
        let up = Upstream::start(&authority, &names, alpn);
        let script = Script::default();
        let broken = Upstream::scripted(&authority, &["broken.test"], Arc::clone(&script));
        let stranger = Upstream::start(&Authority::new(), &["stranger.test"], &["http/1.1"]);
        let narrow = Upstream::narrow(&authority, &["narrow.test"], 2);
        let place = folder("");
        let roots = place.path().join("roots.pem");
        std::fs::write(&roots, authority.0.pem()).unwrap();
        // A key of the destination comes before its tables.
        let split = more.find("[[").into_iter().chain(more.find("[dest")).min().unwrap_or(more.len());
        let (keys, tables) = more.split_at(split);
        let spare = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let here = |name: &str, port: u16| {
            format!(
                "[destinations.{name}]\nhost = \"{name}.test\"\nport = {port}\naddress = \"127.0.0.1\"\nprivate = true\nroots = \
                 \"ROOTS\"\n"
            )
        };
        let short = "timeouts = { connect = \"2s\", headers = \"1s\", idle = \"1s\" }\n";
        let config = format!(
            "{first}{}[destinations.other]\nhost = \"other.test\"\n{}{short}{}{}{}{}{keys}{tables}",
            provider.config(issuer),
            here("broken", broken.port()),
            here("stranger", stranger.port()),
            here("nobody", spare),
            here("narrow", narrow.port()),
            here("api", up.port()),
        );
        let config = config.replace("PORT", &up.port().to_string()).replace("ROOTS", roots.to_str().unwrap());
        std::fs::write(place.path().join("data/keyfold.toml"), config).unwrap();
        let served = Served::start(place, &["--proxy-listen", "127.0.0.1:0"]);
        let (agent, backend) = (served.token_of("agent:triage"), served.token_of("service:backend"));
        let client = || reqwest::Client::builder().timeout(Duration::from_secs(60)).no_proxy();
        Some(Self {
            provider,
            served,
            up,
            agent,
            backend,
            http1: client().http1_only().build().unwrap(),
            http2: client().http2_prior_knowledge().build().unwrap(),
            more: vec![broken, stranger, narrow],
            script,
            nobody: spare,
            disk: None,
        })
    }

    pub(crate) fn proxy(&self) -> String {
        self.served.proxy.clone().unwrap()
    }

    fn sign_in(&self, body: Value) -> Value {
        self.served.as_(&self.backend, "POST", "/v1/sessions", Some(body)).is(201)
    }

    /// A session of somebody: the token, and a handle for the agent of this test.
    pub(crate) fn session(&self, sub: &str) -> (String, String) {
        let token = self.provider.token(sub, json!({}));
        let made = self.sign_in(json!({ "access_token": token, "handle": { "agent": "agent:triage" } }));
        (token, made["handle"].as_str().unwrap().to_owned())
    }

    /// A handle of another shape.
    #[expect(clippy::needless_pass_by_value, reason = "what is asked for is written where it is asked")]
    pub(crate) fn handle(&self, sub: &str, handle: Value) -> String {
        let token = self.provider.token(sub, json!({}));
        let made = self.sign_in(json!({ "access_token": token, "handle": handle }));
        made["handle"].as_str().unwrap().to_owned()
    }

    pub(crate) fn refreshing_session(&self, sub: &str) -> (String, String) {
        let token = self.provider.token(sub, json!({}));
        let refresh = self.provider.refresh_token(sub);
        let made = self.sign_in(json!({ "access_token": token, "refresh_token": refresh, "handle": {} }));
        (token, made["handle"].as_str().unwrap().to_owned())
    }

    /// The session that a handle is of.
    pub(crate) fn current(&self, handle: &str) -> String {
        let request = self.served.request("GET", "/v1/sessions/current").bearer_auth(&self.agent);
        let said = self.served.send(request.header("keyfold-session", handle)).is(200);
        said["id"].as_str().unwrap().to_owned()
    }

    fn url(&self, host: &str, path: &str) -> String {
        format!("{}/proxy/{host}{path}", self.proxy())
    }

    fn here(&self) -> String {
        format!("api.test:{}", self.up.port())
    }

    /// A call of the agent's to the destination, without a handle.
    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.by(&self.http1, method, path)
    }

    pub(crate) fn by(&self, client: &reqwest::Client, method: &str, path: &str) -> reqwest::RequestBuilder {
        let request = client.request(method.parse().unwrap(), self.url(&self.here(), path));
        request.header("keyfold-token", &self.agent)
    }

    /// A call without any proof.
    pub(crate) fn bare(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.at(&self.here(), method, path)
    }

    /// A call without any proof, elsewhere.
    pub(crate) fn at(&self, host: &str, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.http1.request(method.parse().unwrap(), self.url(host, path))
    }

    pub(crate) fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        self.served.send(request)
    }

    /// How many bytes come back; none is kept.
    pub(crate) fn count(&self, request: reqwest::RequestBuilder) -> usize {
        self.served.block_on(async {
            let mut response = request.send().await.unwrap();
            let mut count = 0;
            while let Some(part) = response.chunk().await.unwrap() {
                count += part.len();
            }
            count
        })
    }

    pub(crate) fn stream(&self, request: reqwest::RequestBuilder) -> reqwest::Response {
        let response = self.served.block_on(async { request.send().await.unwrap() });
        assert_eq!(response.status(), 200);
        response
    }

    /// The next part; `None` where it broke off or ended.
    pub(crate) fn next(&self, stream: &mut reqwest::Response) -> Option<Bytes> {
        self.served.block_on(async { stream.chunk().await.ok().flatten() })
    }

    /// Whether a stream breaks off within the bound.
    pub(crate) fn ends(&self, stream: &mut reqwest::Response) -> bool {
        (0..1000).any(|_| self.next(stream).is_none())
    }

    /// So many calls, 32 at a time; how many got an answer that was meant for another.
    pub(crate) fn many(
        &self,
        calls: usize,
        call: impl Fn(usize) -> (reqwest::RequestBuilder, (String, String)),
    ) -> usize {
        let mut expected = std::collections::HashMap::new();
        let mut requests = Vec::new();
        for n in 0..calls {
            let (request, (path, credential)) = call(n);
            expected.insert(path, credential);
            requests.push(request);
        }
        self.served.block_on(async {
            use futures::StreamExt as _;
            let sent = futures::stream::iter(requests).map(|request| async {
                let answer = answer(request).await.unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
            });
            sent.buffer_unordered(32).for_each(|()| async {}).await;
        });
        let arrived = self.up.arrived();
        assert_eq!(arrived.len(), calls, "each arrives once");
        arrived.iter().filter(|one| one.all("authorization") != [expected[&one.target].as_str()]).count()
    }

    pub(crate) fn events(&self) -> Vec<Value> {
        self.served.get("/v1/audit?limit=1000").is(200)["events"].as_array().unwrap().clone()
    }

    pub(crate) fn keyfold(&self, arguments: &str) -> Ended {
        keyfold(arguments).data_dir(&self.served.data()).run()
    }

    /// Every file that the service wrote.
    pub(crate) fn stored(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let files = files(&self.served.data()).into_iter().filter(|path| !path.ends_with("operator.token"));
        files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
    }

    /// Resident memory of the service, in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.served.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.proxy().strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        stream
    }

    /// Sends these bytes as they are; everything that comes back until it ends or pauses.
    pub(crate) fn raw(&self, request: &str) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(request.as_bytes());
        read_all(&mut stream)
    }

    /// Where the authority's certificate lies.
    pub(crate) fn ca(&self) -> String {
        let pem = self.served.block_on(async {
            let response = self.http1.get(format!("{}/ca.pem", self.proxy())).send().await.unwrap();
            response.bytes().await.unwrap()
        });
        let path = self.served.folder().path().join("ca.pem");
        std::fs::write(&path, pem).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A client that calls through CONNECT, with the agent's proof and no handle.
    pub(crate) fn tunnels(&self) -> reqwest::Client {
        let root = reqwest::Certificate::from_pem(&std::fs::read(self.ca()).unwrap()).unwrap();
        let proxy = reqwest::Proxy::all(self.proxy()).unwrap().basic_auth("agent", &self.agent);
        let client = reqwest::Client::builder().tls_certs_only([root]).proxy(proxy);
        client.timeout(Duration::from_secs(60)).build().unwrap()
    }

    /// Opens a tunnel to `host`, asks for `sni` in it, and sends these bytes; nothing where TLS fails.
    pub(crate) fn through_tunnel(&self, host: &str, handle: &str, sni: &str, request: &str) -> String {
        let ca = std::fs::read(self.ca()).unwrap();
        let mut stream = self.connect();
        let basic = STANDARD.encode_to_string(format!("{handle}:{}", self.agent));
        let connect = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic {basic}\r\n\r\n");
        stream.write_all(connect.as_bytes()).unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        let name = ServerName::try_from(sni.to_owned()).unwrap();
        let mut tls = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut tls = rustls::Stream::new(&mut tls, &mut stream);
        if tls.write_all(request.as_bytes()).is_err() {
            return String::new();
        }
        read_all(&mut tls)
    }

    /// A WebSocket, as far as the handshake.
    pub(crate) fn websocket(&self, path: &str, handle: &str) -> Socket {
        let mut stream = self.connect();
        let request = format!(
            "GET /proxy/{}{path} HTTP/1.1\r\nHost: x\r\nKeyfold-Token: {}\r\nKeyfold-Session: {handle}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bWFkZS11cA==\r\nSec-WebSocket-Extensions: \
             permessage-deflate\r\n\r\n",
            self.here(),
            self.agent
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        Socket(stream)
    }

    /// The URL of a destination's own listener.
    pub(crate) fn mapped(&self, name: &str) -> String {
        self.served.mapped[name].as_str().unwrap().to_owned()
    }

    /// A call of gRPC: status, body, trailers.
    pub(crate) fn grpc(&self, path: &str, handle: &str) -> (u16, Bytes, hyper::HeaderMap) {
        let (proxy, url) = (self.proxy(), self.url(&self.here(), path));
        self.grpc_at(&proxy, &url, handle)
    }

    /// The same over HTTP/2 in the clear, elsewhere.
    pub(crate) fn grpc_at(&self, to: &str, url: &str, handle: &str) -> (u16, Bytes, hyper::HeaderMap) {
        let address = to.strip_prefix("http://").unwrap().to_owned();
        self.served.block_on(async {
            let stream = TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
            let (mut send, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            let request = hyper::Request::post(url)
                .header("keyfold-token", &self.agent)
                .header("keyfold-session", handle)
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(Bytes::from_static(b"\0\0\0\0\0")))
                .unwrap();
            let response = send.send_request(request).await.unwrap();
            let status = response.status().as_u16();
            let whole = response.into_body().collect().await.unwrap();
            let trailers = whole.trailers().cloned().unwrap_or_default();
            (status, whole.to_bytes(), trailers)
        })
    }
}

fn read_all(stream: &mut impl Read) -> String {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read) = stream.read(&mut buffer) {
        if read == 0 {
            break;
        }
        all.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

pub(crate) struct Socket(TcpStream);

impl Socket {
    pub(crate) fn read_some(&mut self) -> String {
        std::thread::sleep(Duration::from_millis(300));
        let mut buffer = [0; 4096];
        let read = self.0.read(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..read]).into_owned()
    }

    pub(crate) fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// Whether this comes next.
    pub(crate) fn says(&mut self, text: &str) -> bool {
        let mut got = vec![0; text.len()];
        self.0.read_exact(&mut got).is_ok() && got == text.as_bytes()
    }

    /// Whether the other side ends it.
    pub(crate) fn ends(&mut self) -> bool {
        self.0.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut buffer = [0; 4096];
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }
}

/// A small file system, gone with its value.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

impl Place {
    /// The same after its service was told to end, and was started again.
    pub(crate) fn restarted(self) -> Self {
        let Self { served, .. } = self;
        let served = Served::start(served.stop(), &["--proxy-listen", "127.0.0.1:0"]);
        Self { served, ..self }
    }

    /// The same with TLS on both of its listeners.
    pub(crate) fn under_tls(self, cert: &str, key: &str, root: &str) -> Self {
        let Self { served, .. } = self;
        let arguments = ["--proxy-listen", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key];
        let served = Served::start(served.stop(), &arguments);
        let root = reqwest::Certificate::from_pem(root.as_bytes()).unwrap();
        let client = reqwest::Client::builder().tls_certs_only([root]).timeout(Duration::from_secs(60)).no_proxy();
        Self { served, http1: client.build().unwrap(), ..self }
    }

    /// The same with its audit log on a disk of its own; `None` where this user may not mount.
    pub(crate) fn on_a_disk(self) -> Option<Self> {
        let Self { served, .. } = self;
        let place = served.stop();
        let (audit, aside) = (place.path().join("data/audit"), place.path().join("audit.aside"));
        std::fs::rename(&audit, &aside).unwrap();
        std::fs::create_dir(&audit).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&audit).output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            eprintln!("not run: a disk of its own needs the right to mount");
            return None;
        }
        let disk = Some(Disk(audit.clone()));
        copy_into(&aside, &audit);
        let served = Served::start(place, &["--proxy-listen", "127.0.0.1:0"]);
        Some(Self { served, disk, ..self })
    }

    /// From here on nothing can be written to the audit log.
    pub(crate) fn break_audit(&self) {
        let disk = &self.disk.as_ref().unwrap().0;
        let filler = disk.join("filler");
        let (mut size, mut content) = (1 << 20, Vec::new());
        while size > 0 {
            content.resize(content.len() + size, 0);
            if std::fs::write(&filler, &content).is_err() {
                content.truncate(content.len() - size);
                size /= 2;
            }
        }
    }

    /// A call to the destination `broken`, which sends these bytes then, and waits after them where `hang` says so.
    pub(crate) fn broken(&self, sends: &[u8], hang: bool, handle: &str) -> reqwest::RequestBuilder {
        *self.script.lock().unwrap() = (sends.to_vec(), hang);
        self.to(&format!("broken.test:{}", self.more[0].port()), handle)
    }

    /// A call to another destination.
    pub(crate) fn to(&self, host: &str, handle: &str) -> reqwest::RequestBuilder {
        self.at(host, "GET", "/x").header("keyfold-token", &self.agent).header("keyfold-session", handle)
    }

    /// The destination whose certificate nobody has signed that we know.
    pub(crate) fn stranger(&self) -> String {
        format!("stranger.test:{}", self.more[1].port())
    }

    /// The destination that takes two calls at once on a connection, and how many connections it has.
    pub(crate) fn narrow(&self) -> (String, usize) {
        (format!("narrow.test:{}", self.more[2].port()), self.more[2].connections())
    }

    /// The destination where nobody listens.
    pub(crate) fn nobody(&self) -> String {
        format!("nobody.test:{}", self.nobody)
    }
}
