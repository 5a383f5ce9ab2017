//! Where a Redis lies, parsed from text once.
//!
//! | form | what is there |
//! |---|---|
//! | `redis://[user[:password]@]host[:port][/db]` | one server |
//! | `redis+cluster://[user[:password]@]host[:port],host[:port]` | a cluster, of which some nodes are named |
//! | `redis+sentinel://[user[:password]@]host[:port],…/service[/db]` | a server that sentinels know |
//!
//! With `rediss` instead of `redis`, over TLS: then `?ca=FILE` names the authority to trust instead of the system's, and
//! `?cert=FILE&key=FILE` the client's certificate. Sentinels that want a password take `?sentinel-user=` and
//! `?sentinel-password=`. What is special in a URL is percent-encoded.

use std::{fmt, path::PathBuf, str::FromStr};

use percent_encoding::percent_decode_str;
use redis::{
    ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo, TlsCertificates,
};
use zeroize::Zeroizing;

use crate::store::StoreError;

/// Where a Redis lies and who asks. Neither `Display` nor `Debug` shows the password.
#[derive(Clone)]
pub struct RedisAddress {
    pub(super) kind: Kind,
    pub(super) hosts: Vec<(String, u16)>,
    tls: bool,
    login: Login,
    db: i64,
    ca: Option<PathBuf>,
    cert: Option<(PathBuf, PathBuf)>,
}

#[derive(Clone)]
pub(super) enum Kind {
    Single,
    Cluster,
    Sentinel { service: String, login: Login },
}

#[derive(Clone, Default)]
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: Option<Zeroizing<String>>,
}

impl Login {
    fn apply(&self, mut info: RedisConnectionInfo) -> RedisConnectionInfo {
        if let Some(user) = &self.user {
            info = info.set_username(user);
        }
        if let Some(password) = &self.password {
            info = info.set_password(password.as_str());
        }
        info
    }
}

impl RedisAddress {
    /// Whether the text held a password, which then should not have been an argument of a command.
    #[must_use]
    pub const fn has_password(&self) -> bool {
        let sentinel = matches!(&self.kind, Kind::Sentinel { login, .. } if login.password.is_some());
        self.login.password.is_some() || sentinel
    }

    /// Whether a text is such an address, by its scheme.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| scheme_of(scheme).is_some())
    }

    /// What the driver connects to one of the servers with.
    pub(super) fn server(&self, host: &str, port: u16) -> Result<ConnectionInfo, redis::RedisError> {
        let settings =
            RedisConnectionInfo::default().set_db(self.db).set_lib_name("keyfold", env!("CARGO_PKG_VERSION"));
        self.address(host, port).into_connection_info().map(|info| info.set_redis_settings(self.login.apply(settings)))
    }

    /// Who the servers behind a sentinel take us for.
    pub(super) fn behind_sentinel(&self) -> (RedisConnectionInfo, bool) {
        (self.login.apply(RedisConnectionInfo::default().set_db(self.db)), self.tls)
    }

    pub(super) fn address(&self, host: &str, port: u16) -> ConnectionAddr {
        if self.tls {
            ConnectionAddr::TcpTls { host: host.into(), port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host.into(), port)
        }
    }

    /// The certificates that are named, read from their files; `None` where the system's are to do.
    pub(super) fn certificates(&self) -> Result<Option<TlsCertificates>, StoreError> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|e| {
                StoreError::invalid(format!(
                    "the certificate or key `{}` of {self} cannot be read: {e}",
                    path.display()
                ))
            })
        };
        if self.ca.is_none() && self.cert.is_none() {
            return Ok(None);
        }
        let client_tls = match &self.cert {
            Some((cert, key)) => Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? }),
            None => None,
        };
        Ok(Some(TlsCertificates { client_tls, root_cert: self.ca.as_ref().map(read).transpose()? }))
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Single => "",
            Kind::Cluster => "+cluster",
            Kind::Sentinel { .. } => "+sentinel",
        };
        write!(f, "redis{}{kind}://", if self.tls { "s" } else { "" })?;
        for (n, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            if host.contains(':') { write!(f, "{comma}[{host}]:{port}") } else { write!(f, "{comma}{host}:{port}") }?;
        }
        if let Kind::Sentinel { service, .. } = &self.kind {
            write!(f, "/{service}")?;
        }
        if self.db != 0 { write!(f, "/{}", self.db) } else { Ok(()) }
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisAddress({self})")
    }
}

/// The kind and whether it is over TLS.
fn scheme_of(scheme: &str) -> Option<(Kind, bool)> {
    let sentinel = || Kind::Sentinel { service: String::new(), login: Login::default() };
    Some(match scheme {
        "redis" => (Kind::Single, false),
        "rediss" => (Kind::Single, true),
        "redis+cluster" => (Kind::Cluster, false),
        "rediss+cluster" => (Kind::Cluster, true),
        "redis+sentinel" => (sentinel(), false),
        "rediss+sentinel" => (sentinel(), true),
        _ => return None,
    })
}

/// Errors never repeat what was given, since a password may stand anywhere in it.
fn wrong(what: impl fmt::Display) -> StoreError {
    StoreError::invalid(format!("the address of the Redis is not usable: {what}"))
}

fn decoded(text: &str, what: &str) -> Result<String, StoreError> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| wrong(format!("{what} is not UTF-8")))?;
    Ok(text.into_owned())
}

fn host(text: &str, default_port: u16) -> Result<(String, u16), StoreError> {
    let number = |port: &str| port.parse().map_err(|_| wrong("a port must be a number up to 65535"));
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, default_port),
        Some((host, rest)) => (host, number(rest.strip_prefix(':').unwrap_or(rest))?),
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, number(port)?),
            None => (text, default_port),
        },
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(allowed) {
        return Err(wrong(
            "a host's name is missing or holds what no name does; encode `@`, `/`, `?` and `%` in a password",
        ));
    }
    Ok((host.into(), port))
}

impl FromStr for RedisAddress {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let split = text.split_once("://").and_then(|(scheme, rest)| Some((scheme_of(scheme)?, rest)));
        let Some(((mut kind, tls), rest)) = split else {
            return Err(wrong("it must start with redis://, rediss://, redis+cluster:// or redis+sentinel://"));
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (userinfo, hosts) = match authority.rsplit_once('@') {
            Some((userinfo, hosts)) => (Some(userinfo), hosts),
            None => (None, authority),
        };
        let mut login = Login::default();
        if let Some(userinfo) = userinfo {
            let (user, password) = userinfo.split_once(':').map_or((userinfo, None), |(u, p)| (u, Some(p)));
            login.user = Some(decoded(user, "the user")?).filter(|user| !user.is_empty());
            login.password = password.map(|text| decoded(text, "the password").map(Zeroizing::new)).transpose()?;
        }
        let default_port = if matches!(kind, Kind::Sentinel { .. }) { 26379 } else { 6379 };
        let hosts = hosts.split(',').map(|text| host(text, default_port)).collect::<Result<Vec<_>, _>>()?;
        if hosts.len() > 1 && matches!(kind, Kind::Single) {
            return Err(wrong("several hosts need redis+cluster:// or redis+sentinel://"));
        }
        let mut path = path.split('/');
        if let Kind::Sentinel { service, .. } = &mut kind {
            *service = decoded(path.next().unwrap_or_default(), "the service")?;
            if service.is_empty() {
                return Err(wrong("name the service that the sentinels watch: redis+sentinel://host/mymaster"));
            }
        }
        let db = match path.next().unwrap_or_default() {
            "" => 0,
            number => {
                number.parse().ok().filter(|db| *db >= 0).ok_or_else(|| wrong("the database must be a number"))?
            }
        };
        if path.next().is_some_and(|more| !more.is_empty()) {
            return Err(wrong("nothing may follow the database's number"));
        }
        if db != 0 && matches!(kind, Kind::Cluster) {
            return Err(wrong("a cluster has no numbered databases"));
        }
        let mut address = Self { kind, hosts, tls, login, db, ca: None, cert: None };
        address.options(query)?;
        Ok(address)
    }
}

impl RedisAddress {
    fn options(&mut self, query: &str) -> Result<(), StoreError> {
        let (mut cert, mut key) = (None, None);
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = decoded(value, "an option")?;
            match (name, &mut self.kind) {
                ("ca" | "cert" | "key", _) if !self.tls => {
                    return Err(wrong(format!("`{name}` is for rediss://, the connection over TLS")));
                }
                ("ca", _) => self.ca = Some(value.into()),
                ("cert", _) => cert = Some(value.into()),
                ("key", _) => key = Some(value.into()),
                ("sentinel-user", Kind::Sentinel { login, .. }) => login.user = Some(value),
                ("sentinel-password", Kind::Sentinel { login, .. }) => login.password = Some(Zeroizing::new(value)),
                _ => {
                    let known = "ca, cert, key, and for sentinels sentinel-user, sentinel-password";
                    return Err(wrong(format!("it has an option that is not known; these are: {known}")));
                }
            }
        }
        self.cert = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(wrong("`cert` and `key` belong together")),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> RedisAddress {
        text.parse().unwrap()
    }

    #[test]
    fn p43_an_address_shows_everything_but_who_asks_and_with_what() {
        for (text, shown) in [
            ("redis://localhost", "redis://localhost:6379"),
            ("redis://agent:hunter2@db.example:7000/3", "redis://db.example:7000/3"),
            ("rediss://:hunter2@[::1]:6380?ca=/ca.pem", "rediss://[::1]:6380"),
            ("redis+cluster://agent:hunter2@a:1,b:2,c", "redis+cluster://a:1,b:2,c:6379"),
            (
                "redis+sentinel://agent:hunter2@a,b:2/mymaster/1?sentinel-password=hunter2",
                "redis+sentinel://a:26379,b:2/mymaster/1",
            ),
        ] {
            let parsed = address(text);
            assert_eq!(parsed.to_string(), shown);
            assert_eq!(parsed.has_password(), text.contains("hunter2"));
            assert!(!format!("{parsed:?}").contains("hunter2") && !format!("{parsed:?}").contains("agent"));
            assert!(RedisAddress::is_one(text));
        }
        assert!(!RedisAddress::is_one("postgres://a") && !RedisAddress::is_one("redis"));
    }

    #[test]
    fn what_is_special_in_a_url_is_decoded() {
        let parsed = address("redis://a%40b:p%2F%3A%25x@h/0");
        assert_eq!(parsed.login.user.as_deref(), Some("a@b"));
        assert_eq!(parsed.login.password.as_ref().map(|p| p.as_str()), Some("p/:%x"));
    }

    #[test]
    fn what_is_wrong_is_said_without_repeating_it() {
        for (text, says) in [
            ("http://hunter2@h", "must start with redis://"),
            ("redis://u:hunter2@", "host's name is missing"),
            ("redis://u:hunter2@h:99999", "port must be a number"),
            ("redis://u:hunter2/x@h", "port must be a number"),
            ("redis://u:hunter2@h/x", "database must be a number"),
            ("redis://u:hunter2@h/1/hunter2", "nothing may follow"),
            ("redis://u:hunter2@a,b", "several hosts"),
            ("redis+cluster://u:hunter2@a/1", "no numbered databases"),
            ("redis+sentinel://u:hunter2@a", "name the service"),
            ("redis://u:hunter2@h?ca=x", "is for rediss://"),
            ("rediss://u:hunter2@h?cert=x", "belong together"),
            ("rediss://u@h?hunter2=1", "not known"),
            ("redis://u:hunter2%ff@h", "not UTF-8"),
        ] {
            let error = text.parse::<RedisAddress>().unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
