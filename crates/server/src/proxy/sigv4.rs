//! AWS Signature Version 4: the agent signs with its handle as access key id, and the proxy signs what leaves with the real key.
//!
//! The agent's signature is not verified, since it has no secret to make one with; the handle is the proof, and only date, region and
//! service are taken over. What is signed is the request that goes out: the headers that the agent signed, as far as they leave, `host`, and every
//! `x-amz-` header. `UNSIGNED-PAYLOAD`, `STREAMING-UNSIGNED-PAYLOAD-TRAILER` and a body's hash in `x-amz-content-sha256` are kept;
//! where that header is missing, the body is hashed here, so it is held for as long.
//!
//! Refused: bodies whose every chunk is signed (`STREAMING-AWS4-…`), since each signature would have to be replaced as it passes;
//! presigned URLs, which would carry the handle in a query; signatures of other versions (`AWS4-ECDSA-P256-SHA256`, version 2).

use std::{collections::BTreeMap, fmt::Write as _};

use aws_lc_rs::{digest, hmac};
use keyfold_core::{error::Hint, id::to_hex, secret::Secret};
use zeroize::Zeroizing;

use super::path::Path;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const TERMINATOR: &str = "aws4_request";
/// The longest `Authorization` that is read, in bytes.
const MAX_HEADER: usize = 8 << 10;

/// Why a request is not signed anew.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SigV4Error {
    /// Not as AWS's documentation has it.
    #[error("the Authorization header is not one of AWS4-HMAC-SHA256")]
    Authorization,
    /// `X-Amz-Date` is missing, malformed, or of another day than the scope.
    #[error("X-Amz-Date is missing, or is not of the day that the signature names")]
    Date,
    /// `X-Amz-Signature` and its like in the query.
    #[error("the URL is presigned")]
    Presigned,
    /// `STREAMING-AWS4-HMAC-SHA256-PAYLOAD` and its like.
    #[error("each chunk of the body is signed")]
    Streaming,
    /// Neither a hash nor a word that is known.
    #[error("x-amz-content-sha256 is neither a hash in lower-case hex nor UNSIGNED-PAYLOAD")]
    Payload,
}

impl Hint for SigV4Error {
    fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::Authorization => {
                    "sign with Signature Version 4, the handle as access key id, any text as secret key, and no session token"
                }
                Self::Date => "let the SDK set X-Amz-Date; the Date header alone is not taken",
                Self::Presigned => "send the signature in the Authorization header: a URL that is shared would carry the handle",
                Self::Streaming => {
                    "turn signed chunks off: `payload_signing_enabled = false` or UNSIGNED-PAYLOAD in the SDK's S3 settings, over TLS"
                }
                Self::Payload => "let the SDK set x-amz-content-sha256",
            }
            .into(),
        )
    }
}

/// What an agent's signature says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Signed<'a> {
    /// The access key id: the handle. It is a secret of the agent's; nothing prints it.
    pub(crate) handle: Handle<'a>,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    headers: Vec<&'a str>,
}

/// A handle in the place of an access key id.
#[derive(PartialEq, Eq)]
pub(crate) struct Handle<'a>(pub(crate) &'a str);

impl std::fmt::Debug for Handle<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

/// The hash of a body that goes into a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payload<'a> {
    /// What the header says, which goes out with it.
    Said(&'a str),
    /// The SHA-256 of the body, which the agent left to the signature.
    Body,
}

/// The SHA-256 of a body in lower-case hex, for [`Payload::Body`].
pub(crate) fn hash(body: &[u8]) -> String {
    to_hex(digest::digest(&digest::SHA256, body).as_ref())
}

/// Says whether a query carries a signature or the key id of one.
///
/// # Errors
/// [`SigV4Error::Presigned`].
pub(crate) fn refuse_presigned(query: Option<&str>) -> Result<(), SigV4Error> {
    const NAMES: [&str; 7] = [
        "x-amz-algorithm",
        "x-amz-credential",
        "x-amz-signature",
        "x-amz-security-token",
        "x-amz-signedheaders",
        "awsaccesskeyid",
        "signature",
    ];
    let names = query.unwrap_or_default().split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    for name in names {
        let name = String::from_utf8_lossy(&unescaped(name)).to_ascii_lowercase();
        if NAMES.contains(&name.trim()) {
            return Err(SigV4Error::Presigned);
        }
    }
    Ok(())
}

impl<'a> Signed<'a> {
    /// Reads an `Authorization` header.
    ///
    /// # Errors
    /// [`SigV4Error::Authorization`].
    pub(crate) fn parse(authorization: &'a str) -> Result<Self, SigV4Error> {
        Self::read(authorization).ok_or(SigV4Error::Authorization)
    }

    fn read(authorization: &'a str) -> Option<Self> {
        if authorization.len() > MAX_HEADER {
            return None;
        }
        let rest = authorization.strip_prefix(ALGORITHM)?.strip_prefix(' ')?;
        let (mut credential, mut headers, mut signature) = (None, None, None);
        for part in rest.split(',') {
            let (name, value) = part.trim_matches(' ').split_once('=')?;
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut headers,
                "Signature" => &mut signature,
                _ => return None,
            };
            if place.replace(value).is_some() {
                return None;
            }
        }
        let hex = |text: &str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        signature.filter(|signature| hex(signature))?;
        let parts: Vec<&str> = credential?.split('/').collect();
        let [handle, date, region, service, TERMINATOR] = parts[..] else { return None };
        let word = |text: &str| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        let day = date.len() == 8 && date.bytes().all(|b| b.is_ascii_digit());
        let key = !handle.is_empty() && handle.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let headers: Vec<&str> = headers?.split(';').collect();
        let name = |name: &&str| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.!#$%&'*+^`|~".contains(&b))
        };
        (word(region) && word(service) && day && key && headers.iter().all(name) && headers.contains(&"host"))
            .then_some(Self { handle: Handle(handle), date, region, service, headers })
    }

    /// What stands for the body in the signature, by the value of `x-amz-content-sha256`.
    ///
    /// # Errors
    /// The body cannot be signed anew.
    pub(crate) fn payload<'h>(&self, header: Option<&'h str>) -> Result<Payload<'h>, SigV4Error> {
        let Some(value) = header else { return Ok(Payload::Body) };
        match value {
            "UNSIGNED-PAYLOAD" | "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Ok(Payload::Said(value)),
            _ if value.starts_with("STREAMING-") => Err(SigV4Error::Streaming),
            _ if value.len() == 64 && value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
                Ok(Payload::Said(value))
            }
            _ => Err(SigV4Error::Payload),
        }
    }
}

/// The real key.
pub(crate) struct Credentials {
    /// Its id, which is no secret.
    pub(crate) key_id: String,
    /// The key.
    pub(crate) secret: Secret,
    /// The token that belongs to it, where it is a temporary one.
    pub(crate) session_token: Option<Secret>,
}

/// A request as it goes out.
pub(crate) struct Outgoing<'a> {
    /// The method.
    pub(crate) method: &'a str,
    /// The path and the query.
    pub(crate) path: &'a Path,
    /// All headers, with `host` and without `authorization` and `x-amz-security-token`; names in lower case.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// The hash of the body, or the word in its place.
    pub(crate) payload: &'a str,
}

/// The headers that take the place of the agent's. Both are secrets.
pub(crate) struct Headers {
    /// `authorization`
    pub(crate) authorization: Zeroizing<String>,
    /// `x-amz-security-token`, where there is one.
    pub(crate) security_token: Option<Zeroizing<String>>,
}

impl Signed<'_> {
    /// Signs a request anew.
    ///
    /// # Errors
    /// The date; a presigned query; a session token that no header can carry.
    pub(crate) fn resign(&self, request: &Outgoing<'_>, with: &Credentials) -> Result<Headers, SigV4Error> {
        refuse_presigned(request.path.query())?;
        let mut dates = request.headers.iter().filter(|(name, _)| *name == "x-amz-date").map(|(_, value)| *value);
        let date =
            dates.next().filter(|date| self.is_moment(date) && dates.next().is_none()).ok_or(SigV4Error::Date)?;
        let text = |secret: &Secret| std::str::from_utf8(secret.expose()).map(|text| Zeroizing::new(text.to_owned()));
        let token = with.session_token.as_ref().map(text).transpose().map_err(|_| SigV4Error::Authorization)?;
        let (canonical, signed) = self.canonical(request, token.as_ref().map(|token| token.as_str()));
        let scope = format!("{}/{}/{}/{TERMINATOR}", self.date, self.region, self.service);
        let to_sign = format!("{ALGORITHM}\n{date}\n{scope}\n{}", hash(canonical.as_bytes()));
        let signature = to_hex(hmac::sign(&self.key(with), to_sign.as_bytes()).as_ref());
        let mut authorization = Zeroizing::new(String::with_capacity(256));
        let _ = write!(
            authorization,
            "{ALGORITHM} Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}",
            with.key_id
        );
        Ok(Headers { authorization, security_token: token })
    }

    fn is_moment(&self, date: &str) -> bool {
        let digits =
            |range: std::ops::Range<usize>| date.get(range).is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit()));
        date.len() == 16
            && date.starts_with(self.date)
            && date.get(8..9) == Some("T")
            && digits(9..15)
            && date.ends_with('Z')
    }

    /// The canonical request, and the names of the headers in it.
    fn canonical(&self, request: &Outgoing<'_>, token: Option<&str>) -> (Zeroizing<String>, String) {
        let mut headers: BTreeMap<&str, Zeroizing<String>> = BTreeMap::new();
        let token = token.map(|token| ("x-amz-security-token", token));
        for (name, value) in request.headers.iter().copied().chain(token) {
            if *name != *"host" && !name.starts_with("x-amz-") && !self.headers.contains(&name) {
                continue;
            }
            let value = value.split(' ').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
            match headers.entry(name) {
                std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(Zeroizing::new(value))),
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    entry.get_mut().push(',');
                    entry.get_mut().push_str(&value);
                }
            }
        }
        let signed = headers.keys().copied().collect::<Vec<_>>().join(";");
        let mut out = Zeroizing::new(String::with_capacity(1024));
        let (path, query) = (self.canonical_path(request.path.path()), canonical_query(request.path.query()));
        let _ = write!(out, "{}\n{path}\n{query}\n", request.method);
        for (name, value) in &headers {
            let _ = writeln!(out, "{name}:{}", value.as_str());
        }
        let _ = write!(out, "\n{signed}\n{}", request.payload);
        (out, signed)
    }

    /// S3 signs a path as it is sent; every other service escapes it once more.
    fn canonical_path(&self, path: &str) -> String {
        if self.service == "s3" || self.service.starts_with("s3-") || self.service == "s3express" {
            return path.to_owned();
        }
        escaped(path.as_bytes(), true)
    }

    fn key(&self, with: &Credentials) -> hmac::Key {
        let mut start = Zeroizing::new(b"AWS4".to_vec());
        start.extend_from_slice(with.secret.expose());
        [self.date, self.region, self.service, TERMINATOR]
            .iter()
            .fold(hmac::Key::new(hmac::HMAC_SHA256, &start), |key, part| {
                hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref())
            })
    }
}

/// Names and values unescaped, escaped in AWS's way and sorted.
fn canonical_query(query: Option<&str>) -> String {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<(String, String)> = pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (escaped(&unescaped(name), false), escaped(&unescaped(value), false))
        })
        .collect();
    pairs.sort_unstable();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = text.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.filter(|_| byte == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

fn escaped(bytes: &[u8], slashes: bool) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len()), |mut out, &byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (slashes && byte == b'/') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests;
