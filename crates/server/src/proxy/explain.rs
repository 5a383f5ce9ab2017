//! Which destination a request would go to, and whether a rule of it lets the request through: asked ahead of time.

use keyfold_core::error::Hint;
use keyfold_custody::broker::Routes;

use super::{host::Host, path::Path, rules::Request, settings::Reaches};

/// A request that the rules let through.
#[derive(Debug, PartialEq, Eq)]
pub struct Reached {
    /// The destination, by name.
    pub destination: String,
    /// The path, as it came.
    pub path: String,
}

/// Why the rules do not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Unreached {
    what: String,
    hint: Option<String>,
}

impl Hint for Unreached {
    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

fn because(error: &(impl std::fmt::Display + Hint)) -> Unreached {
    Unreached { what: error.to_string(), hint: error.hint() }
}

/// Decides about `METHOD https://HOST/PATH`, as the proxy does before it looks at grants.
///
/// # Errors
/// It would be refused, and why.
pub fn reached(routes: &Routes, method: &str, url: &str) -> Result<Reached, Unreached> {
    let odd = |what: &str| Unreached { what: what.into(), hint: Some("write METHOD https://HOST/PATH".into()) };
    let rest = url.strip_prefix("https://").ok_or_else(|| odd("only https:// URLs are called"))?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, port) = Host::with_port(authority, 443).map_err(|error| because(&error))?;
    let unknown = || odd(&format!("no destination is configured at {host}:{port}"));
    let destination = routes.at(host.as_str(), port).ok_or_else(unknown)?;
    let reaches = Reaches::of(routes).map_err(|_| odd("the configuration has mistakes"))?;
    let reach = reaches.0.get(&destination.name).ok_or_else(unknown)?;
    let raw = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let path = Path::parse(&raw, reach.lenient).map_err(|error| because(&error))?;
    // Whether it is gRPC is said by a header; who asks about such a path means it.
    let decide = |grpc| reach.rules.decide(&Request { host: &host, port, method, path: &path, grpc }).map(drop);
    decide(false).or_else(|_| decide(true)).map_err(|error| because(&error))?;
    Ok(Reached { destination: destination.name.clone(), path: path.path().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_the_proxy_would_say() {
        let text = "[destinations.logs]\nhost = \"logs.example\"\n[[destinations.logs.rules]]\nmethods = [\"GET\"]\npath = \"/v2/**\"\n\
                    [[destinations.logs.rules]]\ngrpc = { service = \"a.B\" }\n";
        let routes = Routes::parse(&text.parse().unwrap()).unwrap();
        let is = |path: &str| Ok(Reached { destination: "logs".into(), path: path.into() });
        assert_eq!(reached(&routes, "GET", "https://LOGS.example/v2/a?b"), is("/v2/a"));
        assert_eq!(reached(&routes, "POST", "https://logs.example/a.B/Call"), is("/a.B/Call"));
        for (method, url) in [
            ("POST", "https://logs.example/v2/a"),
            ("GET", "https://logs.example/v1"),
            ("GET", "https://logs.example/v2/../v1"),
            ("GET", "https://logs.example.evil.tld/v2/a"),
            ("GET", "https://logs.example:444/v2/a"),
            ("GET", "http://logs.example/v2/a"),
        ] {
            assert!(reached(&routes, method, url).is_err(), "{method} {url}");
        }
    }
}
