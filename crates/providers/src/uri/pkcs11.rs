//! `pkcs11:token=…;object=…?module-path=…` (RFC 7512).

use std::{fmt, path::PathBuf, str::FromStr};

use super::{UriError, parts};

/// How the key wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// AES-GCM where the token offers it, AES key wrap otherwise.
    Offered,
    /// AES key wrap (RFC 3394), with the binding kept by an HMAC.
    KeyWrap,
}

/// A key in a token. The PIN is never part of it: `pin-source` names where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pkcs11Key {
    /// The token's label.
    pub token: Option<String>,
    /// The token's serial number.
    pub serial: Option<String>,
    /// The key's label.
    pub object: Option<String>,
    /// The key's id.
    pub id: Option<Vec<u8>>,
    /// The library; `KEYFOLD_PKCS11_MODULE` where not named.
    pub module: Option<PathBuf>,
    /// `file:PATH` or `env:NAME`; `env:KEYFOLD_PKCS11_PIN` where not named.
    pub pin_source: Option<String>,
    /// How the key wraps.
    pub mechanism: Mechanism,
}

const SCHEME: &str = "pkcs11";

impl FromStr for Pkcs11Key {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let malformed = |why| UriError::Malformed { scheme: SCHEME, why };
        let text_of = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| malformed("a label is not UTF-8"));
        let (before, pairs) = parts::query(SCHEME, text, &["module-path", "pin-source", "mechanism"])?;
        let mut key = Self {
            token: None,
            serial: None,
            object: None,
            id: None,
            module: parts::value(&pairs, "module-path")
                .map(|path| text_of(decode(&path)?))
                .transpose()?
                .map(Into::into),
            pin_source: parts::value(&pairs, "pin-source"),
            mechanism: match parts::value(&pairs, "mechanism").as_deref() {
                None => Mechanism::Offered,
                Some("key-wrap") => Mechanism::KeyWrap,
                Some(_) => return Err(malformed("mechanism is left out or key-wrap")),
            },
        };
        for part in before.split(';').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| malformed("name=value pairs must follow"))?;
            let value = decode(value)?;
            let twice = match name {
                "token" => key.token.replace(text_of(value)?).is_some(),
                "serial" => key.serial.replace(text_of(value)?).is_some(),
                "object" => key.object.replace(text_of(value)?).is_some(),
                "id" => key.id.replace(value).is_some(),
                "type" if value == b"secret-key" => false,
                _ => return Err(malformed("known are token, serial, object, id and type=secret-key")),
            };
            if twice {
                return Err(malformed("a name stands there twice"));
            }
        }
        if key.token.is_none() && key.serial.is_none() {
            return Err(malformed("token= or serial= must say which token"));
        }
        if key.object.is_none() && key.id.is_none() {
            return Err(malformed("object= or id= must say which key"));
        }
        if !key.pin_source.as_deref().is_none_or(|source| source.starts_with("file:") || source.starts_with("env:")) {
            return Err(malformed("pin-source is file:PATH or env:NAME"));
        }
        Ok(key)
    }
}

fn decode(text: &str) -> Result<Vec<u8>, UriError> {
    let malformed = UriError::Malformed { scheme: SCHEME, why: "a % must be followed by two hex digits" };
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let digit = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(malformed) };
        out.push(u8::try_from(high * 16 + low).unwrap_or_default());
        rest = &tail[2..];
    }
    Ok(out)
}

fn encode(bytes: &[u8]) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~/:".contains(&b);
    bytes.iter().map(|&b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02x}") }).collect()
}

impl fmt::Display for Pkcs11Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<String>| value.as_deref().map(|value| encode(value.as_bytes()));
        let id = self.id.as_deref().map(|id| id.iter().map(|b| format!("%{b:02x}")).collect());
        let path =
            [("token", text(&self.token)), ("serial", text(&self.serial)), ("object", text(&self.object)), ("id", id)];
        let module = self.module.as_ref().map(|path| encode(path.as_os_str().as_encoded_bytes()));
        let wrap = (self.mechanism == Mechanism::KeyWrap).then(|| "key-wrap".to_owned());
        let query = [("module-path", module), ("pin-source", self.pin_source.clone()), ("mechanism", wrap)];
        for (separator, first, pairs) in [(';', None, &path[..]), ('&', Some('?'), &query[..])] {
            let filled = pairs.iter().filter_map(|(name, value)| value.as_ref().map(|value| (name, value)));
            for (i, (name, value)) in filled.enumerate() {
                match (i, first) {
                    (0, None) => {}
                    (0, Some(first)) => write!(f, "{first}")?,
                    _ => write!(f, "{separator}")?,
                }
                write!(f, "{name}={value}")?;
            }
        }
        Ok(())
    }
}
