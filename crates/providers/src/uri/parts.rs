//! What several URIs have in common.

use std::path::PathBuf;

use super::UriError;

/// Longer texts are no URI of ours.
pub(super) const MAX_URI: usize = 4096;

/// The name of an environment variable.
pub(super) fn variable(name: &str) -> Result<String, UriError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(plain) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(UriError::Variable);
    }
    Ok(name.into())
}

/// A path.
pub(super) fn path(path: &str) -> Result<PathBuf, UriError> {
    if path.is_empty() { Err(UriError::Path) } else { Ok(path.into()) }
}

/// The `name=value` pairs behind a `?`.
pub(super) type Pairs<'a> = Vec<(&'a str, &'a str)>;

/// Splits what follows `scheme:` into what stands before `?` and the `name=value` pairs behind it. A name that is not in
/// `known`, or stands there twice, is refused.
pub(super) fn query<'a>(scheme: &'static str, text: &'a str, known: &[&str]) -> Result<(&'a str, Pairs<'a>), UriError> {
    let malformed = |why| UriError::Malformed { scheme, why };
    let (before, query) = text.split_once('?').unwrap_or((text, ""));
    let mut pairs = Pairs::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').ok_or_else(|| malformed("behind `?` stand name=value pairs"))?;
        if !known.contains(&name) {
            return Err(malformed("a name behind `?` is not known"));
        }
        if value.is_empty() || pairs.iter().any(|(other, _)| *other == name) {
            return Err(malformed("a name behind `?` has no value, or stands there twice"));
        }
        pairs.push((name, value));
    }
    Ok((before, pairs))
}

/// The value of one of [`query`]'s pairs.
pub(super) fn value(pairs: &[(&str, &str)], name: &str) -> Option<String> {
    pairs.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
}

/// Names joined by `/`, of characters that mean the same in a URL, in a path and in a policy; no empty one, no dots alone.
pub(super) fn plain_path(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '=' | '@');
    let segment = |s: &str| !s.is_empty() && !s.chars().all(|c| c == '.') && s.chars().all(plain);
    path.split('/').all(segment)
}

/// Whether a URL's host is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Host and port of an authority. A user, a path or anything else in it is refused.
pub(super) fn authority(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = if text.starts_with('[') {
        let end = text.find(']')?;
        text[1..end].parse::<std::net::Ipv6Addr>().ok()?;
        (&text[..=end], text[end + 1..].strip_prefix(':').or((end + 1 == text.len()).then_some("")))
    } else {
        let (host, port) = text.split_once(':').unwrap_or((text, ""));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if host.is_empty() || !host.chars().all(plain) {
            return None;
        }
        (host, Some(port))
    };
    match port? {
        "" if text.ends_with(':') => None,
        "" => Some((host.into(), None)),
        port => Some((host.into(), Some(port.parse().ok()?))),
    }
}
