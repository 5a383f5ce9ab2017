//! Injection: how a credential is put into a request, and what of the agent's own makes room for it.

use std::path::PathBuf;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use keyfold_core::secret::Secret;
use keyfold_custody::broker::Credential;
use toml::Value;
use zeroize::Zeroizing;

use super::{
    headers::reads_as,
    path::{Path, escape},
    sigv4::{Credentials, Outgoing, Payload, SigV4Error, Signed},
};
use crate::problem::Problem;

/// What belongs to a temporary key of AWS.
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
/// The hash of a body, as AWS's services take it.
const SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");

/// How a destination takes its credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Inject {
    /// `Authorization: Bearer …`
    Bearer,
    /// `Authorization: Basic …`, as the password of this user.
    Basic(String),
    /// A header of its own, with something before the value.
    Header(HeaderName, String),
    /// An argument of the query.
    Query(String),
    /// A signature of AWS by the key of this id: the agent signs with its handle, and its signature is made anew.
    AwsSigV4(String),
    /// Nothing in the request: it leaves on connections of this client certificate, whose key is the secret. The chain lies in a file,
    /// or before the key.
    ClientCertificate(Option<PathBuf>),
}

const WHAT: &str = "must be \"bearer\", { basic = \"USER\" }, { header = \"NAME\", prefix = \"…\" }, { query = \"NAME\" }, \
                    { aws_sigv4 = \"ACCESS KEY ID\" }, { client_certificate = \"CHAIN.pem\" } or \"client_certificate\"";

/// What was put into a request: its secrets, as they can come back.
pub(crate) type Injected = Vec<Zeroizing<Vec<u8>>>;

/// Arguments that APIs take for the caller's credential (RFC 6750, section 2.3, and its forerunner).
const RIVALS: [&str; 3] = ["access_token", "oauth_token", "bearer_token"];

/// Headers that decide how a request is framed or where it goes; nothing is injected there.
const NOT_OURS: [HeaderName; 9] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    header::CONTENT_TYPE,
];

impl Inject {
    /// Reads the key of a destination.
    pub(crate) fn parse(value: Option<&Value>) -> Result<Self, &'static str> {
        let table = match value {
            None => return Ok(Self::Bearer),
            Some(Value::String(text)) if text == "bearer" => return Ok(Self::Bearer),
            Some(Value::String(text)) if text == "client_certificate" => return Ok(Self::ClientCertificate(None)),
            Some(Value::Table(table)) => table,
            Some(_) => return Err(WHAT),
        };
        let text = |key: &str| table.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let only = |keys: &[&str]| table.keys().all(|key| keys.contains(&key.as_str()));
        if let (Some(user), true) = (text("basic"), only(&["basic"])) {
            return if user.contains(':') || user.chars().any(char::is_control) {
                Err(WHAT)
            } else {
                Ok(Self::Basic(user.into()))
            };
        }
        if let (Some(name), true) = (text("header"), only(&["header", "prefix"])) {
            let prefix = text("prefix").unwrap_or("");
            let name: HeaderName = name.parse().map_err(|_| WHAT)?;
            if NOT_OURS.contains(&name) || HeaderValue::from_str(prefix).is_err() {
                return Err("names a header that frames or routes the request, or a prefix that no header can carry");
            }
            return Ok(Self::Header(name, prefix.into()));
        }
        if let (Some(key), true) = (text("aws_sigv4"), only(&["aws_sigv4"])) {
            let plain = (16..=128).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric());
            return if plain { Ok(Self::AwsSigV4(key.into())) } else { Err(WHAT) };
        }
        if let (Some(path), true) = (text("client_certificate"), only(&["client_certificate"])) {
            return Ok(Self::ClientCertificate(Some(path.into())));
        }
        match text("query") {
            Some(name)
                if only(&["query"]) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) =>
            {
                Ok(Self::Query(name.into()))
            }
            _ => Err(WHAT),
        }
    }

    /// Whether only a secret of the deployment will do.
    pub(crate) const fn needs_a_secret(&self) -> bool {
        matches!(self, Self::AwsSigV4(_) | Self::ClientCertificate(_))
    }

    /// Whether the credential is in the request, and can come back in the answer.
    pub(crate) const fn is_sent(&self) -> bool {
        !matches!(self, Self::ClientCertificate(_))
    }

    /// Whether a header of the agent's has to go: it says, or some reader could take it to say, what is injected.
    pub(crate) fn takes(&self, name: &HeaderName) -> bool {
        let injected = match self {
            Self::Header(injected, _) => injected.as_str(),
            // Whatever is injected: the agent's own proof may stand there.
            _ => "authorization",
        };
        let is = |other: &str| reads_as(name, other);
        let signed = matches!(self, Self::AwsSigV4(_)) && is("x-amz-security-token");
        is(injected) || is("authorization") || signed
    }

    /// Puts the credential into a request whose own copies are gone.
    ///
    /// # Errors
    /// A credential that this place cannot carry.
    pub(crate) fn put(
        &self,
        credential: &Credential,
        headers: &mut HeaderMap,
        target: &mut Zeroizing<String>,
    ) -> Result<Injected, Problem> {
        if !self.is_sent() {
            return Ok(Injected::new());
        }
        let secret = credential.expose();
        let mut injected = vec![Zeroizing::new(secret.to_vec())];
        let mut set = |name: &HeaderName, text: &[u8]| {
            let mut value = HeaderValue::from_bytes(text).map_err(|_| unfit())?;
            value.set_sensitive(true);
            headers.insert(name, value);
            Ok::<_, Problem>(())
        };
        match self {
            Self::Bearer => set(&header::AUTHORIZATION, &Zeroizing::new([b"Bearer ", secret].concat()))?,
            Self::Header(name, prefix) => set(name, &Zeroizing::new([prefix.as_bytes(), secret].concat()))?,
            Self::Basic(user) => {
                let pair = Zeroizing::new([user.as_bytes(), b":", secret].concat());
                let text = Zeroizing::new(format!("Basic {}", base64_simd::STANDARD.encode_to_string(&*pair)));
                set(&header::AUTHORIZATION, text.as_bytes())?;
                injected.push(pair);
            }
            Self::Query(name) => {
                let mut query = without(target, name)?;
                let more = query.contains('?');
                query.push_str(if more { "&" } else { "?" });
                query.push_str(name);
                query.push('=');
                for &byte in secret {
                    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                        query.push(char::from(byte));
                    } else {
                        query.push_str(&format!("%{byte:02X}"));
                    }
                }
                *target = query;
            }
            // Signed over all that leaves, by `sign` below.
            Self::AwsSigV4(_) | Self::ClientCertificate(_) => {}
        }
        Ok(injected)
    }
}

/// What of a body stands in a signature, as the agent's signature has it: `None` where the body itself has to be hashed.
///
/// # Errors
/// No signature, or none that can be made anew.
pub(crate) fn payload(from: &HeaderMap) -> Result<Option<String>, Problem> {
    let said = match from.get(SHA256) {
        None => None,
        Some(value) => Some(value.to_str().map_err(|_| unsigned(&SigV4Error::Payload))?),
    };
    match signed(from)?.payload(said).map_err(|error| unsigned(&error))? {
        Payload::Said(said) => Ok(Some(said.to_owned())),
        Payload::Body => Ok(None),
    }
}

fn signed(from: &HeaderMap) -> Result<Signed<'_>, Problem> {
    let mut all = from.get_all(header::AUTHORIZATION).iter();
    let one = all.next().filter(|_| all.next().is_none()).and_then(|value| value.to_str().ok());
    Signed::parse(one.unwrap_or("")).map_err(|error| unsigned(&error))
}

fn unsigned(error: &SigV4Error) -> Problem {
    use keyfold_core::error::Hint as _;
    Problem::bad_request(error.to_string()).hint(error.hint().unwrap_or_default())
}

/// Signs a request for AWS anew, over the headers as they leave.
///
/// # Errors
/// No signature of the agent's, or none that can be made anew.
pub(crate) fn sign(
    (key_id, credential): (&str, &Credential),
    from: &HeaderMap,
    (method, path, payload): (&str, &Path, &str),
    headers: &mut HeaderMap,
) -> Result<(), Problem> {
    let signed = signed(from)?;
    let listed: Vec<_> =
        headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect();
    let outgoing = Outgoing { method, path, headers: &listed, payload };
    let secret = Secret::from(credential.expose());
    let with = Credentials { key_id: key_id.to_owned(), secret, session_token: None };
    let made = signed.resign(&outgoing, &with).map_err(|error| unsigned(&error))?;
    let mut value = HeaderValue::from_str(&made.authorization).map_err(|_| unfit())?;
    value.set_sensitive(true);
    headers.insert(header::AUTHORIZATION, value);
    if let Some(token) = made.security_token {
        headers.insert(TOKEN, HeaderValue::from_str(&token).map_err(|_| unfit())?);
    }
    Ok(())
}

fn unfit() -> Problem {
    Problem::new(
        axum::http::StatusCode::BAD_GATEWAY,
        "credential_unfit",
        "the credential is not one that a header can carry",
    )
    .hint("look at the `secret` and the `inject` of the destination")
}

/// The target without the arguments of that name, however they are written.
fn without(target: &str, name: &str) -> Result<Zeroizing<String>, Problem> {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let mut kept = Zeroizing::new(String::with_capacity(target.len() + 512));
    kept.push_str(path);
    let is_it = |argument: &str| {
        let written = argument.split('=').next().unwrap_or_default();
        unescaped(written).is_none_or(|key| key.eq_ignore_ascii_case(name.as_bytes()))
    };
    for (i, argument) in query.into_iter().flat_map(|query| query.split('&')).filter(|part| !is_it(part)).enumerate() {
        // Some readers end an argument at `;` too.
        if argument.split(';').skip(1).any(is_it) {
            return Err(Problem::bad_request("the query hides the argument that is injected behind a `;`")
                .hint("leave it out: the proxy puts it in"));
        }
        kept.push(if i == 0 { '?' } else { '&' });
        kept.push_str(argument);
    }
    Ok(kept)
}

/// Refuses an argument that is a credential by itself: the call would be somebody else's, in the name of this user.
///
/// # Errors
/// There is one.
pub(super) fn refuse_rivals(inject: &Inject, query: Option<&str>) -> Result<(), Problem> {
    let ours = |key: &[u8]| matches!(inject, Inject::Query(name) if key.eq_ignore_ascii_case(name.as_bytes()));
    let rival = query.unwrap_or_default().split(['&', ';']).any(|argument| {
        let written = argument.split('=').next().unwrap_or_default();
        unescaped(written)
            .is_some_and(|key| !ours(&key) && RIVALS.iter().any(|rival| key.eq_ignore_ascii_case(rival.as_bytes())))
    });
    if !rival {
        return Ok(());
    }
    Err(Problem::bad_request("the query holds a credential of its own")
        .hint("leave it out: the proxy puts in the user's"))
}

/// `None` where it does not unescape.
pub(super) fn unescaped(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(text.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let escaped = byte == b'%';
        out.push(if escaped { escape(&bytes[at..])? } else { byte });
        at += if escaped { 3 } else { 1 };
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p36_the_agents_own_copies_of_what_is_injected_are_known_however_they_are_written() {
        let key = Inject::parse(Some(&"x = { header = \"X-Api-Key\" }".parse::<toml::Table>().unwrap()["x"])).unwrap();
        for (name, takes) in [
            ("x-api-key", true),
            ("X-API-KEY", true),
            ("x_api_key", true),
            ("x-api_key", true),
            ("authorization", true),
            ("x-api-keys", false),
            ("x-apikey", false),
            ("accept", false),
        ] {
            assert_eq!(key.takes(&name.parse().unwrap()), takes, "{name}");
        }
        assert!(Inject::Bearer.takes(&header::AUTHORIZATION));
    }

    #[test]
    fn p36_the_agents_own_copies_of_an_argument_are_dropped_and_the_rest_stays_as_it_was() {
        for (target, kept) in [
            ("/a", "/a"),
            ("/a?", "/a?"),
            ("/a?key=1", "/a"),
            ("/a?b=%20+x&key=1&c", "/a?b=%20+x&c"),
            ("/a?KEY=1&%6bey=2&k%65y&b", "/a?b"),
            ("/a?keys=1&xkey=2", "/a?keys=1&xkey=2"),
            ("/a?%zz=1&b", "/a?b"),
        ] {
            assert_eq!(without(target, "key").unwrap().as_str(), kept, "{target}");
        }
        assert!(without("/a?b=1;key=2", "key").is_err());
    }

    #[test]
    fn p36_a_credential_in_the_query_is_refused_however_it_is_written() {
        for query in ["access_token=x", "a=b&oauth_token=x", "a;Access%5Ftoken=x", "bearer_token"] {
            assert!(refuse_rivals(&Inject::Bearer, Some(query)).is_err(), "{query}");
        }
        assert!(refuse_rivals(&Inject::Bearer, Some("access_tokens=x&page_token=y&a=access_token")).is_ok());
        assert!(refuse_rivals(&Inject::Bearer, None).is_ok());
        assert!(refuse_rivals(&Inject::Query("access_token".into()), Some("access_token=x")).is_ok(), "it is dropped");
    }

    #[test]
    fn what_is_injected_where_is_checked_before_anything_runs() {
        let parse = |text: &str| Inject::parse(Some(&text.parse::<toml::Table>().unwrap()["x"]));
        assert_eq!(parse("x = { basic = \"admin\" }"), Ok(Inject::Basic("admin".into())));
        assert_eq!(parse("x = { query = \"key\" }"), Ok(Inject::Query("key".into())));
        let aws = parse("x = { aws_sigv4 = \"AKIAIOSFODNN7EXAMPLE\" }").unwrap();
        let certificate = parse("x = { client_certificate = \"a.pem\" }").unwrap();
        assert!(certificate.needs_a_secret() && !certificate.is_sent() && certificate.takes(&header::AUTHORIZATION));
        assert_eq!(parse("x = \"client_certificate\""), Ok(Inject::ClientCertificate(None)));
        assert!(aws.needs_a_secret() && aws.is_sent() && aws.takes(&"X-Amz-Security-Token".parse().unwrap()));
        for wrong in [
            "x = 1",
            "x = \"ntlm\"",
            "x = {}",
            "x = { basic = \"a:b\" }",
            "x = { header = \"host\" }",
            "x = { header = \"a b\" }",
            "x = { header = \"a\", prefix = \"\\n\" }",
            "x = { query = \"a&b\" }",
            "x = { aws_sigv4 = \"short\" }",
            "x = { query = \"a\", header = \"b\" }",
            "x = { client_certificate = true }",
            "x = { client_certificate = \"a.pem\", basic = \"b\" }",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
