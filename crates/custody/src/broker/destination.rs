//! Destinations: where a credential may go. They are named in the configuration, and everything else is refused.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};

use toml::{Table, Value};

use crate::{config::Mistake, store::RecordKey};

/// What is done where no user's token came with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Enforcement {
    /// It is refused.
    #[default]
    Strict,
    /// A destination may name a service account that takes its place.
    Permissive,
}

impl Enforcement {
    /// Reads the word of the configuration, or what `STRICT_EUC_ENFORCEMENT` says.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "strict" | "true" | "1" | "yes" | "on" => Some(Self::Strict),
            "permissive" | "false" | "0" | "no" | "off" => Some(Self::Permissive),
            _ => None,
        }
    }

    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Permissive => "permissive",
        }
    }
}

/// Where a service account's credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountSource {
    /// Application default credentials: the file of `GOOGLE_APPLICATION_CREDENTIALS`, else the user's own, else the metadata server.
    Default,
    /// The metadata server of the machine.
    Metadata,
    /// A file: a service account's key, or an authorized user.
    File(PathBuf),
}

/// A service account that may take a user's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Where its credentials are.
    pub source: AccountSource,
    /// What they are asked for.
    pub scopes: Vec<String>,
}

/// How a token is narrowed for a destination (RFC 8693).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exchange {
    /// The logical name of the target.
    pub audience: Option<String>,
    /// Its URI.
    pub resource: Option<String>,
    /// The scopes wanted.
    pub scope: Option<String>,
}

/// One destination.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination {
    /// What handles, grants and events call it.
    pub name: String,
    /// Its host: a name in lower case, exactly; or `*.` and a name, for every host one label below it.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who takes a user's place where that is allowed.
    pub fallback: Option<ServiceAccount>,
    /// How a user's token is narrowed for it.
    pub exchange: Option<Exchange>,
    /// A secret of the deployment that leaves in place of a user's token.
    pub secret: Option<Lent>,
    /// What concerns the proxy alone; it reads these keys itself.
    pub proxy: Table,
}

/// A field of a record that is lent to calls, as `COLLECTION/RECORD#/FIELD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lent {
    /// The collection, by name.
    pub collection: String,
    /// The record.
    pub record: RecordKey,
    /// The field, as a pointer.
    pub field: String,
}

impl Lent {
    fn parse(text: &str) -> Option<Self> {
        let (collection, rest) = text.split_once('/')?;
        let (record, field) = rest.split_once('#')?;
        let record = RecordKey::new(record).ok()?;
        (!collection.is_empty() && field.starts_with('/')).then(|| Self {
            collection: collection.into(),
            record,
            field: field.into(),
        })
    }
}

/// The keys of a destination that the proxy reads.
pub(super) const PROXY_KEYS: [&str; 11] = [
    "rules",
    "inject",
    "private",
    "address",
    "roots",
    "scrub",
    "cookies",
    "paths",
    "timeouts",
    "token_endpoint",
    "listen",
];

/// What the broker decides by.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    /// Whether a user's token is needed.
    pub enforcement: Enforcement,
    by_name: BTreeMap<String, Arc<Destination>>,
    by_address: HashMap<u16, HashMap<String, Arc<Destination>>>,
}

impl Routes {
    /// The destination of that name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Arc<Destination>> {
        self.by_name.get(name)
    }

    /// The destination at an address, written as it would be dialled.
    #[must_use]
    ///
    /// One that is named exactly comes before one of a wildcard.
    pub fn at(&self, host: &str, port: u16) -> Option<&Arc<Destination>> {
        let of = |host: &str| self.by_address.get(&port)?.get(host);
        of(host).or_else(|| {
            let (label, parent) = host.split_once('.')?;
            if label.is_empty() { None } else { of(&format!("*.{parent}")) }
        })
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Destination>> {
        self.by_name.values()
    }

    /// Reads `enforcement` and `[destinations]` from a configuration.
    ///
    /// # Errors
    /// Every mistake.
    pub fn parse(table: &Table) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Vec::new();
        let mut routes = Self::default();
        match table.get("enforcement") {
            None => {}
            Some(Value::String(text)) if Enforcement::parse(text).is_some_and(|e| e.as_str() == text) => {
                routes.enforcement = Enforcement::parse(text).unwrap_or_default();
            }
            Some(_) => wrong(&mut mistakes, "enforcement", "must be \"strict\" or \"permissive\""),
        }
        match table.get("destinations") {
            None => {}
            Some(Value::Table(listed)) => {
                for (name, value) in listed {
                    let place = format!("destinations.{name}");
                    let Some(value) = value.as_table() else {
                        wrong(&mut mistakes, &place, "must be a table");
                        continue;
                    };
                    let Some(destination) = destination(name, &place, value, &mut mistakes) else { continue };
                    if let Some(other) =
                        routes.iter().find(|other| other.host == destination.host && other.port == destination.port)
                    {
                        let what = format!("has the host and port of destination `{}`", other.name);
                        wrong(&mut mistakes, &format!("{place}.host"), what);
                    }
                    let destination = Arc::new(destination);
                    let hosts = routes.by_address.entry(destination.port).or_default();
                    hosts.insert(destination.host.clone(), Arc::clone(&destination));
                    routes.by_name.insert(name.clone(), destination);
                }
            }
            Some(_) => wrong(&mut mistakes, "destinations", "must be a table of tables, [destinations.NAME]"),
        }
        if table.get("enforcement").and_then(Value::as_str) == Some(Enforcement::Strict.as_str()) {
            // Nobody who reads the file may think that it is in force.
            for destination in routes.by_name.values().filter(|destination| destination.fallback.is_some()) {
                wrong(
                    &mut mistakes,
                    &format!("destinations.{}.fallback", destination.name),
                    "a fallback is never taken under enforcement = \"strict\"; remove it, or set \"permissive\"",
                );
            }
        }
        if mistakes.is_empty() { Ok(routes) } else { Err(mistakes) }
    }
}

fn wrong(mistakes: &mut Vec<Mistake>, place: &str, what: impl Into<String>) {
    mistakes.push(Mistake { place: place.into(), what: what.into() });
}

fn text(table: &Table, place: &str, key: &str, mistakes: &mut Vec<Mistake>) -> Option<String> {
    let value = table.get(key)?;
    if !value.is_str() {
        wrong(mistakes, &format!("{place}.{key}"), "must be a string");
    }
    value.as_str().map(str::to_owned)
}

fn unknown(table: &Table, place: &str, known: &[&str], mistakes: &mut Vec<Mistake>) {
    for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
        wrong(mistakes, &format!("{place}.{key}"), format!("unknown key; known here: {}", known.join(", ")));
    }
}

/// A host as it is written in the configuration: lower-case labels, no trailing dot; digits and dots alone are an address, which
/// must be written in its one usual spelling.
fn is_host(host: &str) -> bool {
    if let Some(parent) = host.strip_prefix("*.") {
        // A wildcard of a whole top-level domain would hand credentials to whoever registers a name in it.
        return parent.contains('.') && parent.parse::<std::net::IpAddr>().is_err() && is_host(parent);
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if let Ok(address) = host.parse::<std::net::IpAddr>() {
        return address.to_string() == host;
    }
    let looks_numeric = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    host.len() <= 253 && !looks_numeric && host.split('.').all(label)
}

fn destination(name: &str, place: &str, table: &Table, mistakes: &mut Vec<Mistake>) -> Option<Destination> {
    let before = mistakes.len();
    let known: Vec<_> =
        ["host", "port", "fallback", "scopes", "exchange", "secret"].into_iter().chain(PROXY_KEYS).collect();
    unknown(table, place, &known, mistakes);
    if name.len() > 64 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        wrong(mistakes, place, "a name has at most 64 letters, digits, `-`, `_` and `.`");
    }
    let host = text(table, place, "host", mistakes);
    match &host {
        Some(host) if is_host(host) => {}
        Some(_) => wrong(
            mistakes,
            &format!("{place}.host"),
            "must be a host's name in lower case, without a port, or \"*.\" and one",
        ),
        None => wrong(mistakes, &format!("{place}.host"), "must be given, for example \"logging.googleapis.com\""),
    }
    let port = match table.get("port").map(|port| port.as_integer().and_then(|port| u16::try_from(port).ok())) {
        None => 443,
        Some(Some(port)) if port > 0 => port,
        Some(_) => {
            wrong(mistakes, &format!("{place}.port"), "must be a port");
            0
        }
    };
    let scopes = match table.get("scopes") {
        None => Vec::new(),
        Some(Value::Array(scopes)) if scopes.iter().all(Value::is_str) => {
            scopes.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        Some(_) => {
            wrong(mistakes, &format!("{place}.scopes"), "must be a list of strings");
            Vec::new()
        }
    };
    let fallback = text(table, place, "fallback", mistakes).and_then(|text| {
        let source = match text.as_str() {
            "adc" => AccountSource::Default,
            "metadata" => AccountSource::Metadata,
            other => match other.strip_prefix("file:") {
                Some(path) if !path.is_empty() => AccountSource::File(path.into()),
                _ => {
                    wrong(mistakes, &format!("{place}.fallback"), "must be \"adc\", \"metadata\" or \"file:PATH\"");
                    return None;
                }
            },
        };
        Some(ServiceAccount { source, scopes: scopes.clone() })
    });
    if fallback.is_none() && !scopes.is_empty() {
        wrong(mistakes, &format!("{place}.scopes"), "are those of the fallback, and there is none");
    }
    let exchange = match table.get("exchange") {
        None => None,
        Some(Value::Table(table)) => {
            let place = format!("{place}.exchange");
            unknown(table, &place, &["audience", "resource", "scope"], mistakes);
            let mut text = |key| text(table, &place, key, mistakes);
            let exchange = Exchange { audience: text("audience"), resource: text("resource"), scope: text("scope") };
            if exchange == Exchange::default() {
                wrong(mistakes, &place, "say what to narrow to: audience, resource or scope");
            }
            Some(exchange)
        }
        Some(_) => {
            wrong(mistakes, &format!("{place}.exchange"), "must be a table");
            None
        }
    };
    let secret = text(table, place, "secret", mistakes).and_then(|text| {
        let lent = Lent::parse(&text);
        if lent.is_none() {
            wrong(mistakes, &format!("{place}.secret"), "must be COLLECTION/RECORD#/FIELD: where the secret lies");
        }
        lent
    });
    if secret.is_some() && (fallback.is_some() || exchange.is_some()) {
        wrong(mistakes, &format!("{place}.secret"), "takes the place of a user's token: no `fallback`, no `exchange`");
    }
    let proxy = table.iter().filter(|(key, _)| PROXY_KEYS.contains(&key.as_str()));
    let proxy = proxy.map(|(key, value)| (key.clone(), value.clone())).collect();
    if mistakes.len() > before {
        return None;
    }
    Some(Destination { name: name.into(), host: host?, port, fallback, exchange, secret, proxy })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Routes, Vec<Mistake>> {
        Routes::parse(&text.parse().unwrap())
    }

    #[test]
    fn strict_is_what_holds_if_nothing_is_said() {
        assert_eq!(parse("").unwrap().enforcement, Enforcement::Strict);
        for (text, means) in
            [("true", Enforcement::Strict), ("FALSE", Enforcement::Permissive), ("0", Enforcement::Permissive)]
        {
            assert_eq!(Enforcement::parse(text), Some(means));
        }
        assert_eq!(Enforcement::parse("perhaps"), None);
        assert_eq!(Enforcement::parse(""), None);
    }

    #[test]
    fn a_destination_is_found_by_its_exact_address_only() {
        let routes = parse("[destinations.logs]\nhost = \"logging.googleapis.com\"").unwrap();
        assert_eq!(routes.at("logging.googleapis.com", 443).unwrap().name, "logs");
        for (host, port) in [
            ("logging.googleapis.com", 80),
            ("logging.googleapis.com.evil.tld", 443),
            ("LOGGING.googleapis.com", 443),
            ("logging.googleapis.com.", 443),
            ("googleapis.com", 443),
        ] {
            assert!(routes.at(host, port).is_none(), "{host}:{port}");
        }
    }

    #[test]
    fn p32_a_wildcard_stands_for_one_label_and_an_exact_name_comes_first() {
        let routes = parse(
            "[destinations.all]\nhost = \"*.googleapis.com\"\n[destinations.logs]\nhost = \"logging.googleapis.com\"",
        )
        .unwrap();
        let name = |host| routes.at(host, 443).map(|destination| destination.name.as_str());
        assert_eq!(name("logging.googleapis.com"), Some("logs"));
        assert_eq!(name("storage.googleapis.com"), Some("all"));
        for host in
            ["googleapis.com", ".googleapis.com", "a.b.googleapis.com", "xgoogleapis.com", "*.googleapis.com.x.y"]
        {
            assert_eq!(name(host), None, "{host}");
        }
        for host in ["*.com", "*", "*.", "a.*.com", "*.*.com", "*.1.2.3.4"] {
            assert!(parse(&format!("[destinations.a]\nhost = \"{host}\"")).is_err(), "{host}");
        }
    }

    #[test]
    fn every_mistake_is_said_with_its_place() {
        let mistakes = parse(
            "enforcement = \"lax\"\n[destinations.a]\nhost = \"A.example\"\nport = 0\nfallback = \"adc\"\ncolour = 1\n\
             [destinations.b]\n[destinations.c]\nhost = \"c.example\"\nscopes = [\"x\"]\nexchange = {}\n\
             [destinations.d]\nhost = \"0x7f.1\"\nfallback = \"root\"\n[destinations.e]\nhost = \"e.example\"\nfallback = \"metadata\"\n\
             [destinations.f]\nhost = \"e.example\"",
        )
        .unwrap_err();
        let all = mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for says in [
            "enforcement: must be",
            "destinations.a.host: must be",
            "destinations.a.port: must be",
            "destinations.a.colour: unknown",
            "destinations.b.host: must be given",
            "destinations.c.scopes: are those of the fallback",
            "destinations.c.exchange: say what",
            "destinations.d.host: must be",
            "destinations.d.fallback: must be",
            "destinations.f.host: has the host and port of destination `e`",
        ] {
            assert!(all.contains(says), "{says}\n---\n{all}");
        }
        let fallback = "[destinations.e]\nhost = \"e.example\"\nfallback = \"metadata\"";
        let strict = parse(&format!("enforcement = \"strict\"\n{fallback}")).unwrap_err();
        assert!(strict[0].to_string().contains("a fallback is never taken"));
        assert_eq!(
            parse(fallback).unwrap().enforcement,
            Enforcement::Strict,
            "where nothing is said, it is there and not taken"
        );
    }
}
