//! `hcvault://HOST:PORT/MOUNT/keys/NAME` and `hcvault-kv://HOST:PORT/MOUNT/PATH`: OpenBao, or HashiCorp Vault.

use std::{fmt, str::FromStr};

use super::{UriError, parts};

/// Which server, and which namespace of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultAddress {
    host: String,
    port: Option<u16>,
    namespace: Option<String>,
    tls: bool,
}

impl VaultAddress {
    /// Reads authority and query; gives the path too, without its first `/`.
    fn read<'a>(
        scheme: &'static str,
        text: &'a str,
        more: &[&str],
    ) -> Result<(Self, &'a str, parts::Pairs<'a>), UriError> {
        let malformed = |why| UriError::Malformed { scheme, why };
        let (before, pairs) = parts::query(scheme, text, &[&["namespace", "tls"], more].concat())?;
        let rest = before.strip_prefix("//").ok_or_else(|| malformed("`//` and a host must follow"))?;
        let (authority, path) = rest.split_once('/').ok_or_else(|| malformed("a path must follow the host"))?;
        let (host, port) = parts::authority(authority).ok_or_else(|| malformed("host and port do not read"))?;
        let tls = match parts::value(&pairs, "tls").as_deref() {
            None => true,
            Some("off") if parts::is_loopback(&host) => false,
            Some("off") => return Err(malformed("tls=off is for servers on this machine only")),
            Some(_) => return Err(malformed("tls is on, or tls=off")),
        };
        let namespace = parts::value(&pairs, "namespace");
        if namespace.as_deref().is_some_and(|name| !parts::plain_path(name)) {
            return Err(malformed("the namespace has characters that do not belong"));
        }
        Ok((Self { host, port, namespace, tls }, path, pairs))
    }

    /// The namespace to name in requests.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Where requests go, without a `/` at the end.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        match self.port {
            Some(port) => format!("{scheme}://{}:{port}", self.host),
            None => format!("{scheme}://{}:8200", self.host),
        }
    }

    /// Whether requests are encrypted on their way; without, they stay on this machine.
    #[cfg(feature = "hcvault")]
    pub(crate) const fn is_tls(&self) -> bool {
        self.tls
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, path: &str, more: &[(&str, Option<&str>)]) -> fmt::Result {
        write!(f, "//{}", self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        write!(f, "/{path}")?;
        let own = [("namespace", self.namespace.as_deref()), ("tls", (!self.tls).then_some("off"))];
        let pairs = more.iter().chain(&own).filter_map(|(name, value)| value.map(|value| (name, value)));
        for (i, (name, value)) in pairs.enumerate() {
            write!(f, "{}{name}={value}", if i == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

/// A key of the transit engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultKey {
    /// The server.
    pub address: VaultAddress,
    /// Where the engine is mounted.
    pub mount: String,
    /// The key's name.
    pub name: String,
}

impl FromStr for VaultKey {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let malformed = |why| UriError::Malformed { scheme: "hcvault", why };
        let (address, path, _) = VaultAddress::read("hcvault", text, &[])?;
        let (mount, name) = path.rsplit_once("/keys/").ok_or_else(|| malformed("the path must be MOUNT/keys/NAME"))?;
        if !parts::plain_path(mount) || !parts::plain_path(name) || name.contains('/') {
            return Err(malformed("mount or name has characters that do not belong"));
        }
        Ok(Self { address, mount: mount.into(), name: name.into() })
    }
}

impl fmt::Display for VaultKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.write(f, &format!("{}/keys/{}", self.mount, self.name), &[])
    }
}

/// A value of the KV engine, version 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultSecret {
    /// The server.
    pub address: VaultAddress,
    /// Where the engine is mounted; one segment.
    pub mount: String,
    /// The secret's path.
    pub path: String,
    /// Which member of the secret holds the key; `key` where not named.
    pub field: Option<String>,
    /// A pinned version; the latest where not named.
    pub version: Option<u64>,
}

impl FromStr for VaultSecret {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let malformed = |why| UriError::Malformed { scheme: "hcvault-kv", why };
        let (address, path, pairs) = VaultAddress::read("hcvault-kv", text, &["field", "version"])?;
        let (mount, path) = path.split_once('/').ok_or_else(|| malformed("the path must be MOUNT/PATH"))?;
        if !parts::plain_path(mount) || !parts::plain_path(path) {
            return Err(malformed("mount or path has characters that do not belong"));
        }
        let version = parts::value(&pairs, "version").map(|text| text.parse()).transpose();
        let version = version.map_err(|_| malformed("version must be a number"))?;
        let field = parts::value(&pairs, "field");
        Ok(Self { address, mount: mount.into(), path: path.into(), field, version })
    }
}

impl fmt::Display for VaultSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.map(|version| version.to_string());
        let more = [("field", self.field.as_deref()), ("version", version.as_deref())];
        self.address.write(f, &format!("{}/{}", self.mount, self.path), &more)
    }
}
