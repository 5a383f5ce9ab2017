//! Keyfold as it is run, with people who have signed in; and what all that is measured stands on.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

use super::{
    load::Way,
    process::Process,
    provider::Provider,
    tls,
    upstream::{Upstream, Users},
};

/// How many have signed in; connections take turns.
pub(crate) const PEOPLE: usize = 32;

/// Destinations: the first two are one server over HTTP/1.1, the last one speaks HTTP/2.
pub(crate) const PLAIN: &str = "plain.test";
pub(crate) const UNSCRUBBED: &str = "unscrubbed.test";
pub(crate) const HTTP2: &str = "http2.test";

/// An issuer and the destinations.
pub(crate) struct Stage {
    provider: Provider,
    pub(crate) http1: Upstream,
    pub(crate) http2: Upstream,
    pub(crate) users: Arc<Users>,
    pem: String,
    folder: TempDir,
}

impl Stage {
    /// `None` where there is no issuer.
    pub(crate) fn new() -> Option<Self> {
        let (provider, authority) = (Provider::start()?, tls::authority());
        let users = Arc::<Users>::default();
        let http1 = tls::accepting(&authority, &[PLAIN, UNSCRUBBED], &["http/1.1"]);
        let http2 = tls::accepting(&authority, &[HTTP2], &["h2"]);
        let stage = Self {
            provider,
            http1: Upstream::http1(http1),
            http2: Upstream::http2(http2, &users),
            users,
            pem: authority.pem(),
            folder: tempfile::tempdir().unwrap(),
        };
        fs::write(stage.roots(), &stage.pem).unwrap();
        Some(stage)
    }

    /// The certificate of who signs for the destinations.
    pub(crate) fn roots(&self) -> PathBuf {
        self.folder.path().join("roots.pem")
    }

    fn port(&self, host: &str) -> u16 {
        if host == HTTP2 { self.http2.port } else { self.http1.port }
    }

    /// How a client trusts a destination that it calls without anything between.
    pub(crate) fn trusting(&self, host: &str) -> (TlsConnector, ServerName<'static>) {
        let name = ServerName::try_from(host.to_owned()).unwrap();
        (tls::connecting(self.pem.as_bytes(), &["http/1.1"]), name)
    }

    /// With nothing between.
    pub(crate) fn direct(&self) -> Way<'static> {
        Way {
            address: SocketAddr::from(([127, 0, 0, 1], self.http1.port)),
            headers: vec!["authorization: Bearer of-the-client\r\n".into()],
            tls: Some(self.trusting(PLAIN)),
            ..bare("direct", None)
        }
    }

    fn config(&self) -> String {
        let mut config = self.provider.config("");
        for host in [PLAIN, UNSCRUBBED, HTTP2] {
            let (name, port, roots) = (host.trim_end_matches(".test"), self.port(host), self.roots());
            config += &format!(
                "[destinations.{name}]\nhost = \"{host}\"\nport = {port}\naddress = \"127.0.0.1\"\nprivate = true\nroots = {roots:?}\nscrub = {}\n",
                host != UNSCRUBBED
            );
        }
        config
    }
}

/// A way of nobody's yet.
pub(crate) fn bare<'a>(name: &'static str, process: Option<&'a Process>) -> Way<'a> {
    Way {
        name,
        process,
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        host: "bench".into(),
        prefix: String::new(),
        headers: Vec::new(),
        tunnels: Vec::new(),
        tls: None,
    }
}

/// The service with its proxy.
pub(crate) struct Keyfold<'a> {
    pub(crate) process: Process,
    pub(crate) proxy: SocketAddr,
    agent: String,
    handles: Vec<String>,
    /// The users' own, in the order of the handles.
    pub(crate) tokens: Vec<String>,
    /// The certificate of its authority.
    pub(crate) ca: String,
    stage: &'a Stage,
    _folder: TempDir,
}

impl<'a> Keyfold<'a> {
    /// On the disk that is measured.
    pub(crate) fn new(stage: &'a Stage) -> Self {
        Self::start(stage, &super::disk(), PEOPLE)
    }

    pub(crate) fn start(stage: &'a Stage, disk: &Path, people: usize) -> Self {
        let folder = tempfile::tempdir_in(disk).unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("keyfold.toml"), stage.config()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyfold"));
        command.args(["serve", "--json", "--listen", "127.0.0.1:0", "--proxy-listen", "127.0.0.1:0"]);
        command.env_clear().env("HOME", folder.path()).env("KEYFOLD_DATA_DIR", &data);
        let (process, said) = Process::speaking(command.stderr(std::process::Stdio::null()));
        let said: Value = serde_json::from_str(&said).unwrap();
        let proxy = said["proxy"].as_str().unwrap();
        let api = Api::new(said["url"].as_str().unwrap());
        let operator = fs::read_to_string(data.join("operator.token")).unwrap();
        let token = |actor: &str| {
            let made = api.post("/v1/tokens", operator.trim(), &json!({ "actor": actor }));
            made["token"].as_str().unwrap().to_owned()
        };
        let (agent, backend) = (token("agent:bench"), token("service:backend"));
        let tokens: Vec<_> =
            (0..people).map(|n| stage.provider.token(&format!("user-{n}"), json!({ "expires_in": 36_000 }))).collect();
        let sign_in = |token: &String| {
            let body = json!({ "access_token": token, "handle": { "agent": "agent:bench" } });
            api.post("/v1/sessions", &backend, &body)["handle"].as_str().unwrap().to_owned()
        };
        Self {
            process,
            proxy: proxy.strip_prefix("http://").unwrap().parse().unwrap(),
            agent,
            handles: tokens.iter().map(sign_in).collect(),
            tokens,
            ca: api.get(&format!("{proxy}/ca.pem")),
            stage,
            _folder: folder,
        }
    }

    /// Host and port of a destination.
    pub(crate) fn at(&self, host: &str) -> String {
        format!("{host}:{}", self.stage.port(host))
    }

    /// Who asks, and for whom.
    pub(crate) fn proof(&self, user: usize) -> [(&'static str, &str); 2] {
        [("keyfold-token", &self.agent), ("keyfold-session", &self.handles[user])]
    }

    /// The same as a tunnel takes it.
    pub(crate) fn basic(&self, user: usize) -> String {
        let pair = format!("{}:{}", self.handles[user], self.agent);
        format!("Basic {}", base64_simd::STANDARD.encode_to_string(pair))
    }

    pub(crate) fn addressed(&self, name: &'static str, host: &str) -> Way<'_> {
        let users = 0..self.handles.len();
        let lines = |user| self.proof(user).map(|(name, value)| format!("{name}: {value}\r\n")).concat();
        Way {
            address: self.proxy,
            prefix: format!("/proxy/{}", self.at(host)),
            headers: users.map(lines).collect(),
            ..bare(name, Some(&self.process))
        }
    }

    pub(crate) fn tunnels(&self, name: &'static str, host: &str) -> Way<'_> {
        let server = ServerName::try_from(host.to_owned()).unwrap();
        Way {
            address: self.proxy,
            host: self.at(host),
            tunnels: (0..self.handles.len()).map(|user| self.basic(user)).collect(),
            tls: Some((tls::connecting(self.ca.as_bytes(), &["http/1.1"]), server)),
            ..bare(name, Some(&self.process))
        }
    }
}

/// The service's API, for what comes before a load.
struct Api<'a> {
    url: &'a str,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl<'a> Api<'a> {
    fn new(url: &'a str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { url, client: reqwest::Client::builder().no_proxy().build().unwrap(), runtime }
    }

    fn post(&self, path: &str, token: &str, body: &Value) -> Value {
        let request = self.client.post(format!("{}{path}", self.url)).bearer_auth(token).json(body);
        let text = self.text(request);
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{path}: {text}"))
    }

    fn get(&self, url: &str) -> String {
        self.text(self.client.get(url))
    }

    fn text(&self, request: reqwest::RequestBuilder) -> String {
        self.runtime.block_on(async {
            let response = request.send().await.unwrap();
            let status = response.status();
            let text = response.text().await.unwrap();
            assert!(status.is_success(), "{text}");
            text
        })
    }
}
