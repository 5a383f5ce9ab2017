//! A host in one spelling, so that what the rules matched is what is resolved, dialled and named in the handshake.
//!
//! A name is lower-cased and nothing else is mended: what another parser could read differently is refused.

use std::{fmt, net::IpAddr};

use keyfold_core::error::Hint;

/// The longest name, in bytes, and the longest of its labels (RFC 1035).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Why a text names no host. The text is left out: a client wrote it.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    /// Nothing, `a..b`, `.a`.
    #[error("the host has an empty label")]
    Empty,
    /// `a.example.`
    #[error("the host ends in a dot")]
    TrailingDot,
    /// Over 253 bytes, or a label over 63.
    #[error("the host's name is too long")]
    TooLong,
    /// `user@host`
    #[error("the host has a user in front of it")]
    UserInfo,
    /// Anything but letters, digits and inner hyphens.
    #[error("the host has a character that no host's name has")]
    Character,
    /// An address that is not written in its one usual spelling.
    #[error("the host is an address in an unusual spelling")]
    Address,
    /// Not a number from 1 to 65535, or with signs and leading zeros.
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

impl Hint for HostError {
    fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::Empty | Self::TooLong => "write a name such as api.example.com",
                Self::TrailingDot => "leave the last dot out: names are absolute here",
                Self::UserInfo => "leave the user out: who calls is proven in a header",
                Self::Character => "write names outside of ASCII in their xn-- form, without percent signs",
                Self::Address => "write 192.0.2.1 with four decimal numbers, or 2001:db8::1 as RFC 5952 has it",
                Self::Port => "write the port in decimal, or leave it out",
            }
            .into(),
        )
    }
}

/// A host: a name in lower case, or an address in its canonical spelling.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Host {
    text: Box<str>,
    address: Option<IpAddr>,
}

impl Host {
    /// Reads a host without port and without brackets.
    ///
    /// # Errors
    /// See [`HostError`].
    pub(crate) fn parse(text: &str) -> Result<Self, HostError> {
        if text.contains('@') {
            return Err(HostError::UserInfo);
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':')) {
            return Err(HostError::Character);
        }
        let text = text.to_ascii_lowercase();
        if text.contains(':') {
            return Self::v6(text);
        }
        Self::name_or_v4(text)
    }

    fn v6(text: String) -> Result<Self, HostError> {
        match text.parse::<std::net::Ipv6Addr>() {
            // A mapped address is an IPv4 one in disguise.
            Ok(address) if address.to_string() == text && address.to_ipv4_mapped().is_none() => {
                Ok(Self { text: text.into(), address: Some(address.into()) })
            }
            _ => Err(HostError::Address),
        }
    }

    fn name_or_v4(text: String) -> Result<Self, HostError> {
        if text.len() > 1 && text.ends_with('.') && !text.ends_with("..") {
            return Err(HostError::TrailingDot);
        }
        for label in text.split('.') {
            if label.is_empty() {
                return Err(HostError::Empty);
            }
            if label.len() > MAX_LABEL {
                return Err(HostError::TooLong);
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(HostError::Character);
            }
        }
        if text.len() > MAX_NAME {
            return Err(HostError::TooLong);
        }
        // What ends in a number is an address to somebody: `127.1`, `2130706433`, `0x7f.0x1`.
        let last = text.rsplit('.').next().unwrap_or_default();
        let number = last.bytes().all(|b| b.is_ascii_digit())
            || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        if !number {
            return Ok(Self { text: text.into(), address: None });
        }
        match text.parse::<std::net::Ipv4Addr>() {
            Ok(address) if address.to_string() == text => Ok(Self { text: text.into(), address: Some(address.into()) }),
            _ => Err(HostError::Address),
        }
    }

    /// Reads `host`, `host:port` or `[v6]:port`, as an authority, a `Host` header and CONNECT write them.
    ///
    /// # Errors
    /// See [`HostError`].
    pub(crate) fn with_port(authority: &str, default: u16) -> Result<(Self, u16), HostError> {
        if authority.contains('@') {
            return Err(HostError::UserInfo);
        }
        if let Some(rest) = authority.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or(HostError::Character)?;
            if !host.contains(':') {
                return Err(HostError::Address);
            }
            let port = match rest.strip_prefix(':') {
                Some(digits) => port(digits)?,
                None if rest.is_empty() => default,
                None => return Err(HostError::Character),
            };
            return Ok((Self::parse(host)?, port));
        }
        match authority.split_once(':') {
            None => Ok((Self::parse(authority)?, default)),
            // Without brackets, nobody knows where an address ends.
            Some((_, rest)) if rest.contains(':') => Err(HostError::Address),
            Some((host, digits)) => Ok((Self::parse(host)?, port(digits)?)),
        }
    }

    /// The host, without brackets.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// The address, where the host is one.
    pub(crate) const fn address(&self) -> Option<IpAddr> {
        self.address
    }
}

/// As it stands in an authority: IPv6 in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(_)) => write!(f, "[{}]", self.text),
            _ => f.write_str(&self.text),
        }
    }
}

fn port(digits: &str) -> Result<u16, HostError> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| plain).ok_or(HostError::Port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn p32_one_host_has_one_spelling() {
        for (text, is) in [
            ("api.example.com", "api.example.com"),
            ("API.Example.COM", "api.example.com"),
            ("localhost", "localhost"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:DB8::1", "2001:db8::1"),
        ] {
            assert_eq!(Host::parse(text).unwrap().as_str(), is, "{text}");
        }
        assert_eq!(Host::parse("2001:db8::1").unwrap().to_string(), "[2001:db8::1]");
    }

    #[test]
    fn p32_other_spellings_of_hosts_and_addresses_are_refused() {
        for (text, why) in [
            ("", HostError::Empty),
            (".", HostError::Empty),
            (".example.com", HostError::Empty),
            ("a..example.com", HostError::Empty),
            ("example.com..", HostError::Empty),
            ("api.example.com.", HostError::TrailingDot),
            ("127.0.0.1.", HostError::TrailingDot),
            ("user@example.com", HostError::UserInfo),
            ("user:word@example.com", HostError::UserInfo),
            ("bücher.example", HostError::Character),
            ("example。com", HostError::Character),
            ("exam%70le.com", HostError::Character),
            ("example.com\r\n", HostError::Character),
            ("example.com\0", HostError::Character),
            ("example.com/", HostError::Character),
            ("example.com\\", HostError::Character),
            ("exa_mple.com", HostError::Character),
            ("*.example.com", HostError::Character),
            ("-a.example.com", HostError::Character),
            ("a-.example.com", HostError::Character),
            ("2130706433", HostError::Address),
            ("0x7f000001", HostError::Address),
            ("0x7f.0.0.1", HostError::Address),
            ("127.0.0.0x1", HostError::Address),
            ("127.0.0.0x", HostError::Address),
            ("0177.0.0.1", HostError::Address),
            ("127.0.0.01", HostError::Address),
            ("127.1", HostError::Address),
            ("127.0.1", HostError::Address),
            ("127.0.0.256", HostError::Address),
            ("1.2.3.4.5", HostError::Address),
            ("::ffff:127.0.0.1", HostError::Address),
            ("::ffff:7f00:1", HostError::Address),
            ("0:0:0:0:0:0:0:1", HostError::Address),
            ("2001:db8::0001", HostError::Address),
            ("2001:0db8::1", HostError::Address),
            ("fe80::1%eth0", HostError::Character),
            ("[::1]", HostError::Character),
            ("example.com:443", HostError::Address),
        ] {
            assert_eq!(Host::parse(text), Err(why), "{text:?}");
        }
        assert_eq!(Host::parse(&format!("{}.example", "a".repeat(64))), Err(HostError::TooLong));
        assert_eq!(Host::parse(&["abcdefg"; 40].join(".")), Err(HostError::TooLong));
    }

    #[test]
    fn an_authority_is_read_in_one_way() {
        let read = |text| Host::with_port(text, 443).map(|(host, port)| format!("{host} {port}"));
        assert_eq!(read("A.example:8080").unwrap(), "a.example 8080");
        assert_eq!(read("a.example").unwrap(), "a.example 443");
        assert_eq!(read("[::1]:80").unwrap(), "[::1] 80");
        assert_eq!(read("[::1]").unwrap(), "[::1] 443");
        for (text, why) in [
            ("a.example:", HostError::Port),
            ("a.example:0", HostError::Port),
            ("a.example:080", HostError::Port),
            ("a.example:+80", HostError::Port),
            ("a.example:65536", HostError::Port),
            ("a.example:80 ", HostError::Port),
            ("a.example:80:80", HostError::Address),
            ("::1", HostError::Address),
            ("[::1", HostError::Character),
            ("[::1]80", HostError::Character),
            ("[127.0.0.1]:80", HostError::Address),
            ("me@a.example:80", HostError::UserInfo),
            ("good.example:80@evil.example", HostError::UserInfo),
        ] {
            assert_eq!(read(text), Err(why), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_read_the_same_again(text in "[ -~]{0,40}|[0-9a-fx:.]{0,20}|[a-zA-Z0-9.-]{1,20}") {
            if let Ok(host) = Host::parse(&text) {
                prop_assert_eq!(host.as_str(), text.to_ascii_lowercase());
                prop_assert_eq!(Host::parse(host.as_str()), Ok(host.clone()));
                prop_assert_eq!(Host::with_port(&format!("{host}:1"), 9), Ok((host, 1)));
            }
        }

        #[test]
        fn what_the_system_reads_as_an_address_is_one_here_or_refused(text in "[0-9a-fx.]{1,16}") {
            // The looser reading of the C library takes what this one must never take for a name.
            let parts: Vec<&str> = text.split('.').collect();
            let number = |part: &&str| {
                let hex = part.strip_prefix("0x").map(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
                !part.is_empty() && hex.unwrap_or_else(|| part.bytes().all(|b| b.is_ascii_digit()))
            };
            if parts.len() <= 4 && parts.iter().all(number) && let Ok(host) = Host::parse(&text) {
                prop_assert!(host.address().is_some());
            }
        }
    }
}
