//! `[proxy]`, and what the proxy reads of each `[destinations.NAME]`: every mistake is reported before a port is bound.

use std::{collections::HashMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use keyfold_custody::{
    broker::{Destination, Routes},
    config::{Mistake, duration},
};
use toml::{Table, Value};

use super::{
    host::Host,
    inject::{Inject, unescaped},
    mapped::{self, Mapping},
    rules::{RuleSettings, Rules},
};

/// Where the proxy listens if nothing is said.
pub const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8741);

/// What `[proxy]` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxySettings {
    /// The address; no proxy where neither this nor the command line names one.
    pub listen: Option<SocketAddr>,
    /// Whether a handle that was made for an agent speaks for that agent by itself.
    pub handle_alone: bool,
    /// How many calls of one session, or of one agent without a session, may be under way at once; as many tunnels besides.
    pub in_flight: usize,
    /// Listeners of one destination each.
    pub mapped: Vec<Mapping>,
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self { listen: None, handle_alone: false, in_flight: 100, mapped: Vec::new() }
    }
}

impl ProxySettings {
    /// Reads the table, and what the proxy reads of each destination.
    ///
    /// # Errors
    /// Every mistake.
    pub fn parse(table: &Table, routes: &Routes) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let mut settings = Self::default();
        let mut reader = Reader { table, place: "proxy", mistakes: &mut mistakes };
        reader.known(&["listen", "handle_alone", "in_flight"]);
        if let Some(text) = reader.text("listen") {
            match text.parse() {
                Ok(address) => settings.listen = Some(address),
                Err(_) => reader.wrong("listen", "must be ADDRESS:PORT, for example 127.0.0.1:8741"),
            }
        }
        settings.handle_alone = reader.flag("handle_alone").unwrap_or(false);
        match table.get("in_flight").map(|value| value.as_integer().and_then(|n| usize::try_from(n).ok())) {
            None => {}
            Some(Some(number)) if (1..=10_000).contains(&number) => settings.in_flight = number,
            Some(_) => reader.wrong("in_flight", "must be a number from 1 to 10,000"),
        }
        match Reaches::of(routes) {
            Ok(reaches) => settings.mapped = reaches.mapped(),
            Err(more) => mistakes.extend(more),
        }
        mistakes.extend(mapped::check(&settings.mapped, settings.listen));
        if mistakes.is_empty() { Ok(settings) } else { Err(mistakes) }
    }

    /// Whether there is anything to serve.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.listen.is_some() || !self.mapped.is_empty()
    }

    /// Refuses to serve in the clear where others can reach it. `tls` is the service's own, and `behind` another's in front of it.
    ///
    /// # Errors
    /// An address is public, and there is no TLS.
    pub fn check_addresses(&self, tls: bool, behind: bool) -> Result<(), Vec<Mistake>> {
        let crosses = |listen: &SocketAddr| {
            format!("{listen} can be reached from elsewhere, and handles would cross the network in the clear")
        };
        let mut mistakes = Vec::new();
        if let Some(listen) = self.listen.filter(|listen| !(listen.ip().is_loopback() || tls || behind)) {
            let what = format!(
                "{}; set [server.tls], or server.behind_tls = true where something in front of it ends TLS",
                crosses(&listen)
            );
            mistakes.push(Mistake { place: "proxy.listen".into(), what });
        }
        for mapping in
            self.mapped.iter().filter(|mapping| !(mapping.tls || mapping.address.ip().is_loopback() || behind))
        {
            mistakes.push(mapping.mistake(format!("{}; write https://", crosses(&mapping.address))));
        }
        if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
    }
}

/// How long the parts of a call may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// Until there is a connection, its TLS included.
    pub(crate) connect: Duration,
    /// From the last byte that was sent to the head of the answer.
    pub(crate) headers: Duration,
    /// Between two parts of an answer.
    pub(crate) idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), headers: Duration::from_secs(60), idle: Duration::from_secs(300) }
    }
}

/// A destination as the proxy reaches it.
pub(crate) struct Reach {
    pub(crate) destination: Arc<Destination>,
    pub(crate) rules: Rules,
    pub(crate) inject: Inject,
    /// Whether it may lie in a private network.
    pub(crate) private: bool,
    /// The address that is dialled, where no name is resolved.
    pub(crate) address: Option<Host>,
    /// More certificates of who signs for it, PEM.
    pub(crate) roots: Option<PathBuf>,
    /// Whether answers are scrubbed of what was injected.
    pub(crate) scrub: bool,
    /// Whether cookies pass, both ways.
    pub(crate) cookies: bool,
    /// Whether paths with empty segments and escaped separators pass.
    pub(crate) lenient: bool,
    pub(crate) timeouts: Timeouts,
    /// The path whose POST is answered with the caller's own handle, and never sent.
    pub(crate) token_endpoint: Option<String>,
    /// A listener of its own, and whether that speaks TLS.
    pub(crate) listen: Option<(SocketAddr, bool)>,
}

impl Reach {
    /// Whether a path, without its query, is the token endpoint's in any spelling that a server may take for it.
    pub(crate) fn is_token_endpoint(&self, path: &str) -> bool {
        fn plain(path: &str) -> Vec<u8> {
            let mut plain = Vec::with_capacity(path.len());
            for segment in path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()) {
                let segment = unescaped(segment).unwrap_or_else(|| segment.into()).to_ascii_lowercase();
                let end = segment.iter().position(|byte| *byte == b';').unwrap_or(segment.len());
                if end > 0 {
                    plain.push(b'/');
                    plain.extend_from_slice(&segment[..end]);
                }
            }
            plain
        }
        self.token_endpoint.as_ref().is_some_and(|endpoint| plain(endpoint) == plain(path))
    }
}

/// All of them, by name.
pub(crate) struct Reaches(pub(crate) HashMap<String, Arc<Reach>>);

impl Reaches {
    /// The listeners of single destinations, by the destinations' names.
    fn mapped(&self) -> Vec<Mapping> {
        let mut mapped: Vec<_> = self.0.values().filter_map(|reach| Mapping::of(reach)).collect();
        mapped.sort_by(|a, b| a.destination.cmp(&b.destination));
        mapped
    }

    /// Reads what the proxy reads of each destination.
    ///
    /// # Errors
    /// Every mistake.
    pub(crate) fn of(routes: &Routes) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let mut all = HashMap::new();
        for destination in routes.iter() {
            let reach = reach(destination, &mut mistakes);
            all.insert(destination.name.clone(), Arc::new(reach));
        }
        if mistakes.is_empty() { Ok(Self(all)) } else { Err(mistakes) }
    }
}

struct Reader<'a> {
    table: &'a Table,
    place: &'a str,
    mistakes: &'a mut Vec<Mistake>,
}

impl<'a> Reader<'a> {
    fn wrong(&mut self, key: &str, what: impl Into<String>) {
        self.mistakes.push(Mistake { place: format!("{}.{key}", self.place), what: what.into() });
    }

    fn known(&mut self, known: &[&str]) {
        for key in self.table.keys().filter(|key| !known.contains(&key.as_str())) {
            self.wrong(key, format!("unknown key; known here: {}", known.join(", ")));
        }
    }

    fn text(&mut self, key: &str) -> Option<&'a str> {
        let value = self.table.get(key)?;
        if !value.is_str() {
            self.wrong(key, "must be a string");
        }
        value.as_str()
    }

    fn flag(&mut self, key: &str) -> Option<bool> {
        let value = self.table.get(key)?;
        if !value.is_bool() {
            self.wrong(key, "must be true or false");
        }
        value.as_bool()
    }

    fn duration(&mut self, key: &str, default: Duration) -> Duration {
        match self.text(key).map(duration) {
            None => default,
            Some(Some(time)) if time >= Duration::from_millis(10) => time,
            Some(_) => {
                self.wrong(key, "must be a time such as 10s or 5m");
                default
            }
        }
    }
}

fn reach(destination: &Arc<Destination>, mistakes: &mut Vec<Mistake>) -> Reach {
    let place = format!("destinations.{}", destination.name);
    let mut reader = Reader { table: &destination.proxy, place: &place, mistakes };
    let rules = rules(destination, &mut reader);
    let address = reader.text("address").and_then(|text| {
        let host = Host::parse(text).ok().filter(|host| host.address().is_some());
        if host.is_none() {
            reader.wrong("address", "must be an IP address, which is dialled instead of what the name resolves to");
        }
        host
    });
    let lenient = match reader.text("paths") {
        None | Some("strict") => false,
        Some("lenient") => true,
        Some(_) => {
            reader.wrong("paths", "must be \"strict\" or \"lenient\"");
            false
        }
    };
    let token_endpoint = reader.text("token_endpoint").map(str::to_owned);
    if token_endpoint.as_ref().is_some_and(|path| !path.starts_with('/') || path.contains(['?', '*'])) {
        reader.wrong("token_endpoint", "must be one path, for example \"/token\"");
    }
    let timeouts = match destination.proxy.get("timeouts") {
        None => Timeouts::default(),
        Some(Value::Table(table)) => {
            let place = format!("{place}.timeouts");
            let mut reader = Reader { table, place: &place, mistakes: &mut *reader.mistakes };
            reader.known(&["connect", "headers", "idle"]);
            let default = Timeouts::default();
            Timeouts {
                connect: reader.duration("connect", default.connect),
                headers: reader.duration("headers", default.headers),
                idle: reader.duration("idle", default.idle),
            }
        }
        Some(_) => {
            reader.wrong(
                "timeouts",
                "must be a table, for example { connect = \"5s\", headers = \"30s\", idle = \"5m\" }",
            );
            Timeouts::default()
        }
    };
    let inject = match Inject::parse(destination.proxy.get("inject")) {
        Ok(inject) => inject,
        Err(what) => {
            reader.wrong("inject", what);
            Inject::Bearer
        }
    };
    if inject.needs_a_secret() && destination.secret.is_none() {
        reader.wrong("secret", "must say where the secret key lies: a user's token is none");
    }
    let listen = reader.text("listen").map(Mapping::parse);
    if listen == Some(None) {
        reader
            .wrong("listen", "must be http://ADDRESS:PORT or https://ADDRESS:PORT, for example https://127.0.0.1:9443");
    }
    if listen.is_some() && destination.host.starts_with("*.") {
        reader.wrong("listen", "leads to one host, and `host` is many");
    }
    let is_sent = inject.is_sent();
    Reach {
        rules,
        inject,
        private: reader.flag("private").unwrap_or(false),
        address,
        roots: reader.text("roots").map(PathBuf::from),
        // What is not sent does not come back.
        scrub: reader.flag("scrub").unwrap_or(true) && is_sent,
        cookies: reader.flag("cookies").unwrap_or(false),
        lenient,
        timeouts,
        token_endpoint,
        listen: listen.flatten(),
        destination: Arc::clone(destination),
    }
}

/// A destination without rules takes every call; one with rules takes what they name.
fn rules(destination: &Destination, reader: &mut Reader<'_>) -> Rules {
    let mut rules = Rules::default();
    let listed = match destination.proxy.get("rules") {
        None => &[Value::Table(Table::new())][..],
        Some(Value::Array(listed)) if !listed.is_empty() => listed,
        Some(_) => {
            reader.wrong("rules", "must be a list of tables, [[destinations.NAME.rules]]");
            &[]
        }
    };
    for (i, value) in listed.iter().enumerate() {
        let at = format!("rules[{i}]");
        let Some(table) = value.as_table() else {
            reader.wrong(&at, "must be a table");
            continue;
        };
        let mut table = table.clone();
        if table.contains_key("host") || table.contains_key("port") {
            reader.wrong(&at, "host and port are the destination's");
        }
        table.insert("host".into(), destination.host.as_str().into());
        table.insert("port".into(), i64::from(destination.port).into());
        match table.try_into::<RuleSettings>() {
            Err(error) => reader.wrong(&at, error.message().to_owned()),
            Ok(settings) => {
                for error in rules.add(&destination.name, &settings).err().unwrap_or_default() {
                    reader.wrong(&at, error.to_string());
                }
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ProxySettings, Vec<Mistake>> {
        let table: Table = text.parse().unwrap();
        let routes = Routes::parse(&table).unwrap();
        let proxy = table.get("proxy").and_then(Value::as_table).cloned().unwrap_or_default();
        ProxySettings::parse(&proxy, &routes)
    }

    #[test]
    fn every_mistake_is_said_with_its_place() {
        let mistakes = parse(
            "[proxy]\nlisten = \"here\"\ncolour = 1\nin_flight = 0\n[destinations.a]\nhost = \"a.example\"\nprivate = 1\nscrub = \
             \"no\"\npaths = \"odd\"\naddress = \"a\"\ntoken_endpoint = \"token\"\ntimeouts = { connect = \"soon\", x = 1 }\ninject = \
             \"magic\"\nlisten = \"127.0.0.1:1\"\nrules = [{ methods = [\"get\"], path = \"v1\" }, { host = \"b\" }, { speed = 1 }]",
        )
        .unwrap_err();
        let all = mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for says in [
            "proxy.listen: must be",
            "proxy.colour: unknown",
            "proxy.in_flight: must be",
            "destinations.a.private: must be",
            "destinations.a.scrub: must be",
            "destinations.a.paths: must be",
            "destinations.a.address: must be",
            "destinations.a.token_endpoint: must be",
            "destinations.a.timeouts.connect: must be",
            "destinations.a.timeouts.x: unknown",
            "destinations.a.inject: must be",
            "destinations.a.listen: must be",
            "destinations.a.rules[0]: methods:",
            "destinations.a.rules[0]: path:",
            "destinations.a.rules[1]: host and port are",
            "destinations.a.rules[2]: unknown field",
        ] {
            assert!(all.contains(says), "{says}\n---\n{all}");
        }
    }

    #[test]
    fn p35_a_token_endpoint_is_known_in_every_spelling() {
        let text = "[destinations.a]\nhost = \"a.example\"\ntoken_endpoint = \"/oauth/token\"";
        let routes = Routes::parse(&text.parse().unwrap()).unwrap();
        let reach = Reaches::of(&routes).ok().unwrap().0.remove("a").unwrap();
        for path in
            ["/oauth/token", "/oauth/%74oken", "/oauth/token/", "/oauth/token;x=1", "/OAuth/Token", "/oauth/token%3bx"]
        {
            assert!(reach.is_token_endpoint(path), "{path}");
        }
        for path in ["/oauth/tokens", "/oauth", "/token", "/oauth/token/x"] {
            assert!(!reach.is_token_endpoint(path), "{path}");
        }
    }

    #[test]
    fn a_public_address_needs_tls() {
        let checked = |listen: &str, tls, behind| {
            parse(&format!("[proxy]\nlisten = {listen:?}")).unwrap().check_addresses(tls, behind).is_ok()
        };
        assert!(!checked("0.0.0.0:1", false, false));
        assert!(checked("0.0.0.0:1", true, false) && checked("0.0.0.0:1", false, true));
        assert!(checked(&LISTEN.to_string(), false, false));
        let mapped = |listen: &str, tls, behind| {
            let text = format!("[destinations.a]\nhost = \"a.example\"\nlisten = {listen:?}");
            parse(&text).unwrap().check_addresses(tls, behind).is_ok()
        };
        assert!(!mapped("http://0.0.0.0:1", true, false), "the service's TLS is not the listener's");
        assert!(mapped("https://0.0.0.0:1", false, false) && mapped("http://0.0.0.0:1", false, true));
        assert!(mapped("http://127.0.0.1:1", false, false));
    }
}
