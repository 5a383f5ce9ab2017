//! `[server]` in `keyfold.toml`: read once, every mistake reported, before a port is bound.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use keyfold_core::audit::Actor;
use keyfold_custody::config::{Mistake, duration};
use toml::{Table, Value};

use crate::traces::{BUILT, TraceSettings};

/// Where the service listens if nothing is said.
pub const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8740);

/// What the table says.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The address.
    pub listen: SocketAddr,
    /// A Unix socket beside it, made 0600.
    pub unix: Option<PathBuf>,
    /// Certificates.
    pub tls: Option<TlsSettings>,
    /// TLS ends in front of us: then a public address is fine, and HTTP/2 comes in plain.
    pub behind_tls: bool,
    /// Bounds.
    pub limits: Limits,
    /// Who signs the JWTs that are taken.
    pub issuers: Vec<Issuer>,
    /// How often the audit log is signed.
    pub checkpoint: Duration,
    /// How old a primary key gets before the next one takes its place.
    pub rotate: Option<Duration>,
    /// How often it is counted what is stored under which key, and what is still plaintext.
    pub census: Duration,
    /// Traces.
    pub traces: Option<TraceSettings>,
}

/// Certificates for TLS.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// The chain, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Who signs client certificates, PEM.
    pub clients: Option<PathBuf>,
    /// Whether a client without a certificate is let in at all.
    pub require_client: bool,
}

/// Bounds on what callers may ask for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a body.
    pub body: usize,
    /// Items of a batch.
    pub batch: usize,
    /// Calls of one actor in a second.
    pub rate: Option<u32>,
    /// Connections at once.
    pub connections: usize,
    /// Bytes of large bodies held at once.
    pub memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body: 8 << 20, batch: 1000, rate: None, connections: 20_000, memory: 256 << 20 }
    }
}

/// Somebody whose JWTs are taken.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// The claim `iss`, and where discovery starts.
    pub issuer: String,
    /// The claim `aud` must name this.
    pub audience: String,
    /// Where the keys are; found by discovery where not given.
    pub jwks: Option<String>,
    /// The kind of actor: `operator`, `service` or `agent`.
    pub kind: String,
    /// The claim that names the actor.
    pub claim: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: LISTEN,
            unix: None,
            tls: None,
            behind_tls: false,
            limits: Limits::default(),
            issuers: Vec::new(),
            checkpoint: Duration::from_secs(60),
            rotate: None,
            census: Duration::from_secs(3600),
            traces: None,
        }
    }
}

impl Settings {
    /// Reads the table.
    ///
    /// # Errors
    /// Every mistake.
    pub fn parse(table: &Table) -> Result<Self, Vec<Mistake>> {
        let mut reader = Reader { mistakes: Vec::new() };
        let settings = reader.settings(table);
        if reader.mistakes.is_empty() { Ok(settings) } else { Err(reader.mistakes) }
    }

    /// Refuses to serve in the clear where others can reach it.
    ///
    /// # Errors
    /// The address is public, and there is no TLS.
    pub fn check_address(&self) -> Result<(), Mistake> {
        if self.listen.ip().is_loopback() || self.tls.is_some() || self.behind_tls {
            return Ok(());
        }
        Err(Mistake {
            place: "server.listen".into(),
            what: format!(
                "{} can be reached from elsewhere, and tokens would cross the network in the clear; set [server.tls], or \
                 behind_tls = true where a proxy in front of it ends TLS",
                self.listen
            ),
        })
    }
}

struct Reader {
    mistakes: Vec<Mistake>,
}

impl Reader {
    fn wrong(&mut self, place: &str, what: impl Into<String>) {
        self.mistakes.push(Mistake { place: place.into(), what: what.into() });
    }

    fn unknown(&mut self, table: &Table, place: &str, known: &[&str]) {
        for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
            self.wrong(&format!("{place}.{key}"), format!("unknown key; known here: {}", known.join(", ")));
        }
    }

    fn text<'a>(&mut self, table: &'a Table, place: &str, key: &str) -> Option<&'a str> {
        let value = table.get(key)?;
        if !value.is_str() {
            self.wrong(&format!("{place}.{key}"), "must be a string");
        }
        value.as_str()
    }

    fn flag(&mut self, table: &Table, place: &str, key: &str) -> bool {
        match table.get(key) {
            None => false,
            Some(Value::Boolean(flag)) => *flag,
            Some(_) => {
                self.wrong(&format!("{place}.{key}"), "must be true or false");
                false
            }
        }
    }

    fn number(&mut self, table: &Table, (place, key): (&str, &str), default: usize, most: usize) -> usize {
        match table.get(key).map(|value| value.as_integer().and_then(|n| usize::try_from(n).ok())) {
            None => default,
            Some(Some(number)) if (1..=most).contains(&number) => number,
            Some(_) => {
                self.wrong(&format!("{place}.{key}"), format!("must be a number from 1 to {most}"));
                default
            }
        }
    }

    fn duration(&mut self, table: &Table, place: &str, key: &str) -> Option<Duration> {
        let text = self.text(table, place, key)?;
        let duration = duration(text);
        if duration.is_none() {
            self.wrong(&format!("{place}.{key}"), "must be a time such as 90d, 12h, 30m or 45s");
        }
        duration
    }

    fn table<'a>(&mut self, table: &'a Table, place: &str, key: &str) -> Option<&'a Table> {
        let value = table.get(key)?;
        if !value.is_table() {
            self.wrong(&format!("{place}.{key}"), "must be a table");
        }
        value.as_table()
    }

    fn settings(&mut self, table: &Table) -> Settings {
        let known =
            ["listen", "unix", "tls", "behind_tls", "limits", "issuers", "checkpoint", "rotate", "census", "traces"];
        self.unknown(table, "server", &known);
        let mut settings = Settings::default();
        if let Some(text) = self.text(table, "server", "listen") {
            match text.parse() {
                Ok(address) => settings.listen = address,
                Err(_) => self.wrong("server.listen", "must be ADDRESS:PORT, for example 127.0.0.1:8740"),
            }
        }
        settings.unix = self.text(table, "server", "unix").map(PathBuf::from);
        settings.behind_tls = self.flag(table, "server", "behind_tls");
        settings.tls = self.table(table, "server", "tls").and_then(|tls| self.tls(tls));
        if let Some(limits) = self.table(table, "server", "limits") {
            settings.limits = self.limits(limits);
        }
        settings.checkpoint = self.duration(table, "server", "checkpoint").unwrap_or(settings.checkpoint);
        settings.rotate = self.duration(table, "server", "rotate");
        settings.census = self.duration(table, "server", "census").unwrap_or(settings.census);
        settings.traces = self.table(table, "server", "traces").and_then(|traces| self.traces(traces));
        match table.get("issuers") {
            None => {}
            Some(Value::Array(issuers)) => {
                for (i, issuer) in issuers.iter().enumerate() {
                    let place = format!("server.issuers[{i}]");
                    match issuer.as_table() {
                        Some(issuer) => settings.issuers.extend(self.issuer(issuer, &place)),
                        None => self.wrong(&place, "must be a table"),
                    }
                }
            }
            Some(_) => self.wrong("server.issuers", "must be a list of tables, [[server.issuers]]"),
        }
        settings
    }

    fn tls(&mut self, table: &Table) -> Option<TlsSettings> {
        let place = "server.tls";
        self.unknown(table, place, &["cert", "key", "clients", "require_client"]);
        let mut path = |key: &str| self.text(table, place, key).map(PathBuf::from);
        let (cert, key, clients) = (path("cert"), path("key"), path("clients"));
        let require_client = self.flag(table, place, "require_client");
        if require_client && clients.is_none() {
            self.wrong("server.tls.clients", "must name the certificates of who signs for clients");
        }
        let (Some(cert), Some(key)) = (cert, key) else {
            self.wrong(place, "needs `cert` and `key`, the paths of two PEM files");
            return None;
        };
        Some(TlsSettings { cert, key, clients, require_client })
    }

    fn limits(&mut self, table: &Table) -> Limits {
        let place = "server.limits";
        self.unknown(table, place, &["body", "batch", "rate", "connections", "memory"]);
        let default = Limits::default();
        let body = self.number(table, (place, "body"), default.body, 64 << 20);
        let rate = table.contains_key("rate").then(|| self.number(table, (place, "rate"), 1, 1_000_000));
        Limits {
            body,
            batch: self.number(table, (place, "batch"), default.batch, 100_000),
            rate: rate.and_then(|rate| u32::try_from(rate).ok()),
            connections: self.number(table, (place, "connections"), default.connections, 1_000_000),
            // One body of the largest size always fits.
            memory: self.number(table, (place, "memory"), default.memory, 64 << 30).max(body),
        }
    }

    fn traces(&mut self, table: &Table) -> Option<TraceSettings> {
        let place = "server.traces";
        self.unknown(table, place, &["endpoint", "sample"]);
        if !BUILT {
            self.wrong(place, "this build of keyfold sends no traces; build it with `--features otlp`");
        }
        let sample = match table.get("sample") {
            None => Some(1.0),
            Some(Value::Float(part)) => Some(*part),
            Some(Value::Integer(1)) => Some(1.0),
            Some(_) => None,
        };
        let sample = sample.filter(|part| (0.0..=1.0).contains(part));
        if sample.is_none() {
            self.wrong("server.traces.sample", "must be a number from 0.0 to 1.0");
        }
        let endpoint = self.text(table, place, "endpoint").unwrap_or("");
        let url = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
        if url.is_none_or(|rest| rest.is_empty() || rest.contains('@')) {
            self.wrong("server.traces.endpoint", "must be the URL of a collector, for example http://127.0.0.1:4318");
        }
        Some(TraceSettings { endpoint: endpoint.trim_end_matches('/').to_owned(), sample: sample? })
    }

    fn issuer(&mut self, table: &Table, place: &str) -> Option<Issuer> {
        self.unknown(table, place, &["issuer", "audience", "jwks", "kind", "claim"]);
        let mut text = |key: &str| self.text(table, place, key).map(str::to_owned);
        let (issuer, audience, jwks) = (text("issuer"), text("audience"), text("jwks"));
        let (kind, claim) = (text("kind"), text("claim"));
        let kind = kind.unwrap_or_else(|| "service".into());
        if !["operator", "service", "agent"].contains(&kind.as_str()) {
            self.wrong(&format!("{place}.kind"), "must be operator, service or agent");
        }
        let (Some(issuer), Some(audience)) = (issuer, audience) else {
            self.wrong(place, "needs `issuer` and `audience`");
            return None;
        };
        for (key, url) in [("issuer", Some(&issuer)), ("jwks", jwks.as_ref())] {
            if url.is_some_and(|url| !safe(url)) {
                self.wrong(&format!("{place}.{key}"), "must be an https URL");
            }
        }
        Some(Issuer { issuer, audience, jwks, kind, claim: claim.unwrap_or_else(|| "sub".into()) })
    }
}

/// Keys that decide who somebody is do not come in the clear, except on this machine.
pub(crate) fn safe(url: &str) -> bool {
    let host = |rest: &str| rest.split(['/', '?', '#']).next().unwrap_or("").to_owned();
    match url.split_once("://") {
        Some(("https", rest)) => !host(rest).is_empty(),
        Some(("http", rest)) => {
            let host = host(rest);
            let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
            ["127.0.0.1", "[::1]", "localhost"].contains(&name)
        }
        _ => false,
    }
}

/// The actor that a name out of a certificate or a JWT stands for; `None` where it cannot stand for one.
#[must_use]
pub fn actor(kind: &str, name: &str) -> Option<Actor> {
    Actor::new(format!("{kind}:{name}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, Vec<Mistake>> {
        Settings::parse(&text.parse().unwrap())
    }

    #[test]
    fn a_public_address_needs_tls() {
        let public = parse("listen = \"0.0.0.0:8740\"").unwrap();
        assert!(public.check_address().unwrap_err().what.contains("in the clear"));
        assert!(parse("listen = \"0.0.0.0:1\"\nbehind_tls = true").unwrap().check_address().is_ok());
        assert!(parse("listen = \"0.0.0.0:1\"\n[tls]\ncert=\"a\"\nkey=\"b\"").unwrap().check_address().is_ok());
        assert!(parse("listen = \"[::1]:1\"").unwrap().check_address().is_ok());
    }

    #[test]
    fn every_mistake_is_said_with_its_place() {
        let mistakes = parse(
            "listen = \"here\"\ncolour = 1\nrotate = \"soon\"\n[tls]\nrequire_client = true\n[limits]\nbody = 0\n[[issuers]]\nissuer \
             = \"http://evil\"\naudience = \"a\"\nkind = \"boss\"",
        )
        .unwrap_err();
        let all = mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for says in [
            "server.listen: must be",
            "server.colour: unknown",
            "server.rotate: must be a time",
            "server.tls: needs",
            "server.tls.clients: must name",
            "server.limits.body: must be a number",
            "server.issuers[0].issuer: must be an https URL",
            "server.issuers[0].kind: must be",
        ] {
            assert!(all.contains(says), "{says}\n---\n{all}");
        }
    }
}
