//! Rules: which requests leave at all. What no rule names is refused; there is no rule that denies.
//!
//! ```toml
//! [[destinations.logs.rules]]
//! methods = ["GET", "POST"]
//! path = "/v2/projects/*/logs/**"
//! ```
//!
//! A rule is matched against the bytes that go out: a [`Path`] is not unescaped for it. In a path, `*` stands for one segment or
//! for a part of one, `**` at the end for all that lies below; `/v2/**` is thus a prefix, and does not match `/v2`. In a host,
//! `*.` stands for exactly one label. Methods are written in capitals; CONNECT and TRACE are never let through, since the first is not
//! a request for an upstream and the second sends back what was injected.

use std::{collections::HashMap, fmt};

use keyfold_core::error::Hint;
use serde::Deserialize;

use super::{host::Host, path::Path};

/// A rule as it is written in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleSettings {
    /// A name, an address, or `*.` and a name of at least two labels.
    pub(crate) host: String,
    /// 443 where nothing is said.
    #[serde(default = "https")]
    pub(crate) port: u16,
    /// Any but CONNECT and TRACE where nothing is said.
    pub(crate) methods: Option<Vec<String>>,
    /// A pattern; any path where nothing is said.
    pub(crate) path: Option<String>,
    /// Instead of methods and a path.
    pub(crate) grpc: Option<GrpcSettings>,
}

/// Methods of a gRPC service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrpcSettings {
    /// With its package: `google.logging.v2.LoggingServiceV2`.
    pub(crate) service: String,
    /// All of them where nothing is said.
    pub(crate) methods: Option<Vec<String>>,
}

const fn https() -> u16 {
    443
}

/// What is wrong with a rule.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RuleError {
    /// The host.
    #[error("host: must be a name in lower case, an address, or `*.` and a name of two labels or more")]
    Host,
    /// The port.
    #[error("port: must be from 1 to 65535")]
    Port,
    /// A method.
    #[error("methods: must be HTTP methods in capitals, without CONNECT and TRACE")]
    Methods,
    /// The path.
    #[error("path: must begin with a slash; `*` stands once in a segment, `**` is the last segment")]
    Path,
    /// The gRPC service.
    #[error("grpc: must have a service with its package and names of methods, and no `methods` or `path` beside it")]
    Grpc,
}

/// What a request is, as the rules see it and as it goes out.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    /// Where to.
    pub(crate) host: &'a Host,
    /// On which port.
    pub(crate) port: u16,
    /// The method.
    pub(crate) method: &'a str,
    /// The path.
    pub(crate) path: &'a Path,
    /// Whether its content type is that of gRPC.
    pub(crate) grpc: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Exactly(Box<str>),
    /// What stands before and behind the star; at least one byte lies between.
    Around(Box<str>, Box<str>),
    Rest,
}

impl Segment {
    fn parse(text: &str) -> Option<Self> {
        match text.split_once('*') {
            None => Some(Self::Exactly(text.into())),
            Some(("", "*")) => Some(Self::Rest),
            Some((before, behind)) if !behind.contains('*') => Some(Self::Around(before.into(), behind.into())),
            Some(_) => None,
        }
    }

    fn matches(&self, segment: &str) -> bool {
        match self {
            Self::Exactly(text) => **text == *segment,
            Self::Around(before, behind) => {
                segment.len() > before.len() + behind.len()
                    && segment.starts_with(&**before)
                    && segment.ends_with(&**behind)
            }
            Self::Rest => true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Any,
    Path(Box<[Segment]>),
    Grpc { service: Box<str>, methods: Option<Box<[Box<str>]>> },
}

impl What {
    fn matches(&self, request: &Request<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Path(pattern) => {
                let mut segments = request.path.path()[1..].split('/');
                for part in pattern {
                    match (part, segments.next()) {
                        (_, None) => return false,
                        (Segment::Rest, Some(_)) => return true,
                        (part, Some(segment)) if part.matches(segment) => {}
                        _ => return false,
                    }
                }
                segments.next().is_none()
            }
            Self::Grpc { service, methods } => {
                let called = request.path.path()[1..].split_once('/');
                request.grpc
                    && request.method == "POST"
                    && request.path.query().is_none()
                    && called.is_some_and(|(called, method)| {
                        called == &**service
                            && is_identifier(method)
                            && methods.as_ref().is_none_or(|methods| methods.iter().any(|known| **known == *method))
                    })
            }
        }
    }
}

/// A rule, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    name: Box<str>,
    port: u16,
    methods: Option<Box<[Box<str>]>>,
    what: What,
}

impl Rule {
    fn allows(&self, method: &str) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.iter().any(|known| **known == *method))
    }
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn never(method: &str) -> bool {
    method.eq_ignore_ascii_case("CONNECT")
        || method.eq_ignore_ascii_case("TRACE")
        || method.eq_ignore_ascii_case("TRACK")
}

fn boxed(texts: &[String]) -> Box<[Box<str>]> {
    texts.iter().map(|text| text.as_str().into()).collect()
}

/// Where a rule leads.
enum Where {
    Exactly(Box<str>),
    /// One label before this.
    Under(Box<str>),
}

fn compile(name: &str, settings: &RuleSettings) -> Result<(Where, Rule), Vec<RuleError>> {
    let mut errors = Vec::new();
    let mut check = |good: bool, error| {
        if !good {
            errors.push(error);
        }
    };
    let (text, wild) = match settings.host.strip_prefix("*.") {
        Some(rest) => (rest, true),
        None => (settings.host.as_str(), false),
    };
    let host = Host::parse(text).ok().filter(|host| host.as_str() == text);
    let host = host.filter(|host| !wild || (host.address().is_none() && host.as_str().contains('.')));
    check(host.is_some(), RuleError::Host);
    check(settings.port > 0, RuleError::Port);
    if let Some(methods) = &settings.methods {
        let known = |method: &String| {
            (1..=32).contains(&method.len())
                && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
                && !never(method)
        };
        check(!methods.is_empty() && methods.iter().all(known), RuleError::Methods);
    }
    let what = match (&settings.path, &settings.grpc) {
        (None, None) => Some(What::Any),
        (Some(path), None) => {
            let segments: Option<Vec<Segment>> =
                path.strip_prefix('/').and_then(|path| path.split('/').map(Segment::parse).collect());
            // A pattern that no accepted path could match is a mistake. A star stands for a letter here.
            let possible = Path::parse(&path.replace('*', "x"), true).is_ok_and(|path| path.query().is_none());
            let rest_last =
                |segments: &Vec<Segment>| segments.iter().rev().skip(1).all(|segment| *segment != Segment::Rest);
            let segments = segments.filter(|segments| possible && rest_last(segments));
            check(segments.is_some(), RuleError::Path);
            segments.map(|segments| What::Path(segments.into()))
        }
        (path, Some(grpc)) => {
            let service = grpc.service.split('.').all(is_identifier);
            let methods = grpc.methods.as_ref().is_none_or(|m| !m.is_empty() && m.iter().all(|m| is_identifier(m)));
            check(service && methods && path.is_none() && settings.methods.is_none(), RuleError::Grpc);
            Some(What::Grpc { service: grpc.service.as_str().into(), methods: grpc.methods.as_deref().map(boxed) })
        }
    };
    match (errors.is_empty(), host, what) {
        (true, Some(host), Some(what)) => {
            let methods = settings.methods.as_deref().map(boxed);
            let rule = Rule { name: name.into(), port: settings.port, methods, what };
            let text: Box<str> = host.as_str().into();
            Ok((if wild { Where::Under(text) } else { Where::Exactly(text) }, rule))
        }
        _ => Err(errors),
    }
}

/// All rules, found by host.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    exactly: HashMap<Box<str>, Vec<usize>>,
    under: HashMap<Box<str>, Vec<usize>>,
}

impl Rules {
    /// Adds a rule of the destination `name`.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub(crate) fn add(&mut self, name: &str, settings: &RuleSettings) -> Result<(), Vec<RuleError>> {
        let (place, rule) = compile(name, settings)?;
        let index = self.rules.len();
        match place {
            Where::Exactly(host) => self.exactly.entry(host).or_default().push(index),
            Where::Under(parent) => self.under.entry(parent).or_default().push(index),
        }
        self.rules.push(rule);
        Ok(())
    }

    /// The rules that name a host: those that name it exactly come first.
    fn of(&self, host: &Host) -> impl Iterator<Item = &Rule> {
        let parent = match host.address() {
            None => host.as_str().split_once('.').and_then(|(_, parent)| self.under.get(parent)),
            Some(_) => None,
        };
        let found = [self.exactly.get(host.as_str()), parent];
        found.into_iter().flatten().flatten().filter_map(|&index| self.rules.get(index))
    }

    /// The first rule that lets a request through.
    ///
    /// # Errors
    /// None does; the answer says how near one came.
    pub(crate) fn decide(&self, request: &Request<'_>) -> Result<&Rule, Unmatched> {
        let mut nearest = Unmatched { step: Step::Host, rule: None };
        if never(request.method) {
            return Err(Unmatched { step: Step::Never, rule: None });
        }
        for rule in self.of(request.host) {
            let step = if rule.port != request.port {
                Step::Port
            } else if !rule.allows(request.method) {
                Step::Method
            } else if !rule.what.matches(request) {
                Step::Path
            } else {
                return Ok(rule);
            };
            if step > nearest.step {
                nearest = Unmatched { step, rule: Some(rule.name.clone()) };
            }
        }
        Err(nearest)
    }
}

/// How far the nearest rule matched; later is nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Never,
    Host,
    Port,
    Method,
    Path,
}

/// No rule lets a request through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unmatched {
    step: Step,
    rule: Option<Box<str>>,
}

impl Unmatched {
    /// The destination whose rule came nearest.
    pub(crate) fn nearest(&self) -> Option<&str> {
        self.rule.as_deref()
    }
}

impl fmt::Display for Unmatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.nearest().unwrap_or_default();
        match self.step {
            Step::Never => f.write_str("CONNECT and TRACE are never sent to an upstream"),
            Step::Host => f.write_str("no destination has this host"),
            Step::Port => write!(f, "destination `{name}` has this host, and another port"),
            Step::Method => write!(f, "destination `{name}` has this host and port, and no rule for this method"),
            Step::Path => write!(f, "destination `{name}` has this host and port, and no rule for this path"),
        }
    }
}

impl std::error::Error for Unmatched {}

impl Hint for Unmatched {
    fn hint(&self) -> Option<String> {
        match self.step {
            Step::Never => None,
            Step::Host => {
                Some("list the host under [destinations.NAME] in keyfold.toml; what is not listed is refused".into())
            }
            Step::Port => Some("give the destination this port, or call the one it has".into()),
            Step::Method | Step::Path => Some("add a rule to the destination, or see `keyfold policy explain`".into()),
        }
    }
}

#[cfg(test)]
mod tests;
