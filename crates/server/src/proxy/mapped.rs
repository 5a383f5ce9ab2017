//! Listeners that are mapped to one destination: for clients whose base URL can be set and whose proxy cannot, gRPC's above all.
//!
//! Whatever comes in goes to the one destination, the way of all other calls. In the clear (HTTP/1.1 and HTTP/2 by prior knowledge),
//! or under a certificate of the deployment's own authority, where HTTP/2 is agreed on first.

use std::{net::SocketAddr, sync::Arc};

use axum::http::{Method, StatusCode, request::Parts};
use keyfold_custody::config::Mistake;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{
    Proxy,
    forward::Target,
    host::Host,
    service::{authority, read_host},
    settings::Reach,
};
use crate::problem::Problem;

/// How a client on this machine calls it.
const LOCALHOST: &str = "localhost";

/// A listener of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The destination, by name.
    pub destination: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Under a certificate of the deployment's authority.
    pub tls: bool,
    host: Host,
    port: u16,
}

impl Mapping {
    /// The listener of a destination, where it has one.
    pub(super) fn of(reach: &Reach) -> Option<Self> {
        let (address, tls) = reach.listen?;
        let destination = &reach.destination;
        let (host, port) = (Host::parse(&destination.host).ok()?, destination.port);
        Some(Self { destination: destination.name.clone(), address, tls, host, port })
    }

    /// Reads where one listens: `http://ADDRESS:PORT`, or `https://`.
    pub(super) fn parse(text: &str) -> Option<(SocketAddr, bool)> {
        let (tls, rest) = match text.split_once("://")? {
            ("https", rest) => (true, rest),
            ("http", rest) => (false, rest),
            _ => return None,
        };
        Some((rest.strip_suffix('/').unwrap_or(rest).parse().ok()?, tls))
    }

    pub(super) fn mistake(&self, what: String) -> Mistake {
        Mistake { place: format!("destinations.{}.listen", self.destination), what }
    }

    /// Where it listens, as a URL.
    #[must_use]
    pub fn url(&self, bound: SocketAddr) -> String {
        format!("{}://{bound}", if self.tls { "https" } else { "http" })
    }

    /// Ends TLS as whom the client asked for: the destination, `localhost`, or nobody by name, which is the address. What else is asked
    /// for is closed.
    pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        proxy: &Proxy,
        (stream, local): (S, SocketAddr),
    ) -> Option<(TlsStream<S>, Option<Asked>)> {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await.ok()?;
        let asked = start.client_hello().server_name().map(Host::parse);
        let (host, asked) = match asked {
            None => (Host::parse(&local.ip().to_canonical().to_string()).ok()?, None),
            Some(Ok(host)) if host == self.host || host.as_str() == LOCALHOST => (host.clone(), Some(Asked(host))),
            Some(_) => {
                tracing::info!("a connection was closed: TLS asked for another host than it is mapped to");
                return None;
            }
        };
        let tls = proxy.authority.config(&host).inspect_err(|error| tracing::error!(%error, "no certificate")).ok()?;
        Some((start.into_stream(tls).await.ok()?, asked))
    }

    /// Where a request goes: to the one destination. It has to mean it, or the listener itself.
    pub(super) fn target(&self, asked: Option<&Asked>, parts: &Parts) -> Result<Target, Problem> {
        if parts.method == Method::CONNECT {
            return Err(Problem::bad_request("this listener leads to one destination and opens no tunnels")
                .hint("call it as if it were the destination, or set HTTPS_PROXY to the proxy's own address"));
        }
        let (host, _) = read_host(&authority(parts)?)?;
        let fits = match asked {
            Some(Asked(asked)) => host == *asked,
            None => host == self.host || host.as_str() == LOCALHOST || host.address().is_some(),
        };
        if !fits {
            return Err(Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                "host_differs",
                "the request names another host than the listener is mapped to, or than TLS asked for",
            )
            .hint("call the listener by its address, as localhost, or as the destination"));
        }
        let raw = parts.uri.path_and_query().map_or("/", axum::http::uri::PathAndQuery::as_str).to_owned();
        Ok(Target { host: self.host.clone(), port: self.port, raw })
    }
}

/// The host that TLS asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked(Host);

/// Every mistake about listeners that only shows beside the others.
pub(super) fn check(mappings: &[Mapping], proxy: Option<SocketAddr>) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (i, mapping) in mappings.iter().enumerate().filter(|(_, mapping)| mapping.address.port() != 0) {
        if let Some(other) = mappings[..i].iter().find(|other| other.address == mapping.address) {
            mistakes.push(mapping.mistake(format!("has the address of destination `{}`", other.destination)));
        }
        if proxy == Some(mapping.address) {
            mistakes.push(mapping.mistake("has the address of the proxy itself".into()));
        }
    }
    mistakes
}

/// What a mapping and its connection add to a request.
pub(crate) type Mapped = (Arc<Mapping>, Option<Asked>);

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn mapping(tls: bool) -> Mapping {
        let address = "127.0.0.1:9443".parse().unwrap();
        Mapping { destination: "api".into(), address, tls, host: Host::parse("api.example").unwrap(), port: 443 }
    }

    fn asks(asked: Option<&str>, uri: &str, host: &str) -> Result<(String, String), &'static str> {
        let parts = Request::builder().uri(uri).header("host", host).body(()).unwrap().into_parts().0;
        let asked = asked.map(|host| Asked(Host::parse(host).unwrap()));
        let target = mapping(asked.is_some()).target(asked.as_ref(), &parts).map_err(|problem| problem.code())?;
        Ok((format!("{}:{}", target.host, target.port), target.raw))
    }

    #[test]
    fn p30_everything_goes_to_the_one_destination_or_is_refused() {
        let goes = |raw: &str| Ok(("api.example:443".to_owned(), raw.to_owned()));
        for host in ["127.0.0.1:9443", "localhost:9443", "LOCALHOST", "api.example", "api.example:9443", "[::1]:9443"] {
            assert_eq!(asks(None, "/a/%7E?b", host), goes("/a/%7E?b"), "{host}");
        }
        assert_eq!(asks(Some("localhost"), "/a", "localhost:9443"), goes("/a"));
        for (asked, uri, host, code) in [
            (None, "/a", "other.example", "host_differs"),
            (None, "http://other.example/a", "other.example", "host_differs"),
            (None, "http://other.example/a", "api.example", "invalid_request"),
            (None, "/a", "api.example.", "host_refused"),
            (Some("localhost"), "/a", "api.example", "host_differs"),
            (Some("api.example"), "/a", "127.0.0.1:9443", "host_differs"),
        ] {
            assert_eq!(asks(asked, uri, host), Err(code), "{asked:?} {uri} {host}");
        }
    }

    #[test]
    fn where_it_listens_is_written_as_a_url() {
        let is = |text: &str, tls| (text.parse().unwrap(), tls);
        assert_eq!(Mapping::parse("https://127.0.0.1:9443"), Some(is("127.0.0.1:9443", true)));
        assert_eq!(Mapping::parse("http://[::1]:80/"), Some(is("[::1]:80", false)));
        for text in [
            "127.0.0.1:9443",
            "https://localhost:1",
            "https://127.0.0.1",
            "grpc://127.0.0.1:1",
            "https://127.0.0.1:1/x",
        ] {
            assert_eq!(Mapping::parse(text), None, "{text}");
        }
        let twice = [mapping(true), Mapping { destination: "b".into(), ..mapping(false) }];
        assert_eq!(check(&twice, None).len(), 1);
        assert_eq!(check(&twice[..1], Some(twice[0].address)).len(), 1);
        assert!(check(&twice[..1], None).is_empty());
    }
}
