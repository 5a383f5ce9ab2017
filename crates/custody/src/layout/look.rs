//! What looks secret although nobody declared it. A report for people: it misses some and suspects some wrongly.

use std::fmt;

use super::json::Leaf;

/// Why a value looks secret.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A serializer stored its mask: what was here is lost.
    Masked,
    /// Its member's name says so.
    Name,
    /// A URL or connection string that holds a password.
    UrlPassword,
    /// A PEM block of a private key.
    PrivateKey,
    /// An AWS access key id.
    AwsKeyId,
    /// A JSON web token.
    Jwt,
    /// The prefix with which an issuer marks its tokens.
    IssuerPrefix,
}

impl Reason {
    /// Whether there is nothing left to seal.
    #[must_use]
    pub const fn is_lost(self) -> bool {
        matches!(self, Self::Masked)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Masked => "holds a mask instead of the secret, which is lost",
            Self::Name => "has a name that secrets have",
            Self::UrlPassword => "holds a connection string with a password",
            Self::PrivateKey => "holds a private key",
            Self::AwsKeyId => "holds an AWS access key id",
            Self::Jwt => "holds a JSON web token",
            Self::IssuerPrefix => "starts like an issuer's token",
        })
    }
}

/// The ends of names of secrets, without case, `_` and `-`.
const NAMES: &[&str] = &[
    "password",
    "passwords",
    "passwd",
    "pwd",
    "passphrase",
    "secret",
    "secrets",
    "token",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "signingkey",
    "encryptionkey",
    "masterkey",
    "credential",
    "credentials",
    "connectionurl",
    "connectionuri",
    "connectionstring",
    "dsn",
    "authorization",
];

/// The ends of names of maps whose every member is a secret.
const MAPS: &[&str] = &["secrets", "passwords", "credentials", "tokens"];

const ISSUERS: &[&str] = &[
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "xapp-",
    "ya29.",
    "AIza",
    "hvs.",
    "sk_live_",
    "sk-",
    "dop_v1_",
    "npm_",
];

/// Whether a string looks secret, by its name, by the names of the maps around it, or by what it is.
///
/// Sealed values are the caller's to leave out: this only knows what plaintext looks like.
#[must_use]
pub fn leaf_looks_secret(leaf: &Leaf<'_>) -> Option<Reason> {
    looks_secret(leaf.name.unwrap_or(""), leaf.value).or_else(|| {
        let inside = end(leaf.pointer, MAX_LOOK).split(|&b| b == b'/').any(|part| ends_like(part, MAPS));
        (inside && holds_something(leaf.value)).then_some(Reason::Name)
    })
}

/// Whether a value looks secret, by its member's name or by what it is.
#[must_use]
pub fn looks_secret(name: &str, value: &str) -> Option<Reason> {
    let text = value.trim();
    if is_mask(text) {
        return Some(Reason::Masked);
    }
    if text.contains("-----BEGIN ") && text.contains("PRIVATE KEY-----") {
        return Some(Reason::PrivateKey);
    }
    match password_of(text) {
        Some(password) if password.bytes().all(|b| b == b'*') => return Some(Reason::Masked),
        Some(_) => return Some(Reason::UrlPassword),
        None => {}
    }
    if is_jwt(text) {
        return Some(Reason::Jwt);
    }
    if text.split(|c: char| !c.is_ascii_alphanumeric()).any(is_aws_key_id) {
        return Some(Reason::AwsKeyId);
    }
    if ISSUERS.iter().any(|prefix| text.strip_prefix(prefix).is_some_and(is_token_body)) {
        return Some(Reason::IssuerPrefix);
    }
    (ends_like(name.as_bytes(), NAMES) && holds_something(text)).then_some(Reason::Name)
}

/// How much of a name, and of a pointer, is looked at, from its end: both are there once for each value below them.
const MAX_LOOK: usize = 1024;

fn end(text: &str, most: usize) -> &[u8] {
    &text.as_bytes()[text.len().saturating_sub(most)..]
}

fn ends_like(name: &[u8], ends: &[&str]) -> bool {
    let name = &name[name.len().saturating_sub(MAX_LOOK)..];
    let letters = name.iter().filter(|b| b.is_ascii_alphanumeric());
    let plain: String = letters.map(|b| char::from(b.to_ascii_lowercase())).collect();
    ends.iter().any(|end| plain.ends_with(end))
}

/// Not empty, not a word for nothing, and not the name of a secret kept elsewhere.
fn holds_something(text: &str) -> bool {
    let reference = text.starts_with("${") || text.starts_with("env:") || text.starts_with("file:");
    !reference && !matches!(text.to_ascii_lowercase().as_str(), "" | "none" | "null" | "true" | "false")
}

/// Pydantic's mask is ten asterisks; others differ in number.
fn is_mask(text: &str) -> bool {
    text.len() >= 3 && text.bytes().all(|b| b == b'*')
}

/// The password of a URL, or of a `key=value` connection string.
fn password_of(text: &str) -> Option<&str> {
    if let Some((scheme, rest)) = text.split_once("://")
        && !scheme.is_empty()
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b))
    {
        let authority = rest.split(['/', '?', '#']).next()?;
        let (_, password) = authority.rsplit_once('@')?.0.split_once(':')?;
        return Some(password).filter(|password| !password.is_empty());
    }
    text.split([' ', ';', '&']).find_map(|part| {
        let (name, value) = part.split_once('=')?;
        let named = name.eq_ignore_ascii_case("password") || name.eq_ignore_ascii_case("pwd");
        (named && !value.is_empty()).then_some(value)
    })
}

fn is_jwt(text: &str) -> bool {
    let parts: Vec<_> = text.split('.').collect();
    let base64 = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    matches!(parts.as_slice(), [head, body, _] if head.starts_with("eyJ") && !body.is_empty())
        && parts.iter().all(|part| base64(part))
}

fn is_aws_key_id(word: &str) -> bool {
    word.len() == 20
        && (word.starts_with("AKIA") || word.starts_with("ASIA"))
        && word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

fn is_token_body(rest: &str) -> bool {
    rest.len() >= 16 && !rest.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_name() {
        for name in ["password", "admin_password", "adminPassword", "API-Key", "connection_url", "refresh_token", "DSN"]
        {
            assert_eq!(looks_secret(name, "hunter2"), Some(Reason::Name), "{name}");
        }
        for name in ["token_type", "max_tokens", "password_changed_at", "secret_name", "access_key_id", "name", ""] {
            assert_eq!(looks_secret(name, "hunter2"), None, "{name}");
        }
        for value in ["", "null", "None", "${DB_PASSWORD}", "env:DB_PASSWORD"] {
            assert_eq!(looks_secret("password", value), None, "{value}");
        }
    }

    #[test]
    fn secrets_are_known_by_what_they_are() {
        let cases = [
            ("redis://user:hunter2@cache.internal:6379/0", Some(Reason::UrlPassword)),
            ("redis://:hunter2@cache.internal", Some(Reason::UrlPassword)),
            ("postgres://u:p@ss@db/x?y=1", Some(Reason::UrlPassword)),
            ("host=db user=u password=hunter2", Some(Reason::UrlPassword)),
            ("redis://user@cache.internal:6379/0", None),
            ("https://cache.internal:6379/a:b@c", None),
            ("-----BEGIN RSA PRIVATE KEY-----\nMII…", Some(Reason::PrivateKey)),
            ("-----BEGIN CERTIFICATE-----\nMII…", None),
            ("AKIAIOSFODNN7EXAMPLE", Some(Reason::AwsKeyId)),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", Some(Reason::Jwt)),
            ("ghp_0123456789abcdefghij", Some(Reason::IssuerPrefix)),
            ("sk-learn is a library", None),
            ("an ordinary sentence. With. Dots", None),
        ];
        for (value, reason) in cases {
            assert_eq!(looks_secret("note", value), reason, "{value}");
        }
    }

    #[test]
    fn p07_a_stored_mask_is_reported_as_lost() {
        assert!(looks_secret("anything", "**********").unwrap().is_lost());
        assert!(looks_secret("url", "redis://user:***@host").unwrap().is_lost());
    }

    #[test]
    fn p04_a_member_of_a_map_of_secrets_looks_secret_whatever_its_name() {
        let leaf = Leaf { pointer: "/extension_secrets/community", name: Some("community"), value: "public" };
        assert_eq!(leaf_looks_secret(&leaf), Some(Reason::Name));
        let leaf = Leaf { pointer: "/extension/community", name: Some("community"), value: "public" };
        assert_eq!(leaf_looks_secret(&leaf), None);
    }
}
