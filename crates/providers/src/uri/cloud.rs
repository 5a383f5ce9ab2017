//! `aws-kms://`, `aws-secrets-manager://`, `gcp-kms://` and `gcp-secret-manager://`.

use std::{fmt, str::FromStr};

use super::{UriError, parts};

/// A key of AWS KMS, by its ARN; an alias ARN too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsKey {
    /// As KMS takes it.
    pub arn: String,
    /// The region in it.
    pub region: String,
}

impl FromStr for AwsKey {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let malformed = |why| UriError::Malformed { scheme: "aws-kms", why };
        let arn = text.strip_prefix("//").ok_or_else(|| malformed("`//` and an ARN must follow"))?;
        let region = region_of(arn, "kms").ok_or_else(|| malformed("an ARN of KMS must follow `//`"))?;
        let id = arn.rsplit(':').next().unwrap_or_default();
        if !["key/", "alias/"].iter().any(|kind| id.strip_prefix(kind).is_some_and(|id| !id.is_empty())) {
            return Err(malformed("the ARN must name a key or an alias"));
        }
        Ok(Self { arn: arn.into(), region })
    }
}

/// The region of `arn:PARTITION:SERVICE:REGION:ACCOUNT:…`.
fn region_of(arn: &str, service: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_/:+=.@".contains(c);
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let [start, partition, of, region, account, rest] = parts[..] else { return None };
    let filled = !partition.is_empty() && !region.is_empty() && !account.is_empty() && !rest.is_empty();
    (start == "arn" && of == service && filled && arn.chars().all(plain)).then(|| region.to_owned())
}

impl fmt::Display for AwsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "//{}", self.arn)
    }
}

/// A secret of AWS Secrets Manager, by name or ARN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsSecret {
    /// Name or ARN.
    pub id: String,
    /// The region; the SDK's usual one where neither the query nor an ARN names it.
    pub region: Option<String>,
    /// A pinned version; the current one where not named.
    pub version: Option<String>,
    /// Which member of a JSON secret holds the key; the whole secret where not named.
    pub field: Option<String>,
}

impl FromStr for AwsSecret {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let malformed = |why| UriError::Malformed { scheme: "aws-secrets-manager", why };
        let (before, pairs) = parts::query("aws-secrets-manager", text, &["region", "version", "field"])?;
        let id = before.strip_prefix("//").ok_or_else(|| malformed("`//` and a name must follow"))?;
        let region = if id.starts_with("arn:") {
            Some(region_of(id, "secretsmanager").ok_or_else(|| malformed("not an ARN of Secrets Manager"))?)
        } else if parts::plain_path(id) {
            parts::value(&pairs, "region")
        } else {
            return Err(malformed("the name has characters that do not belong"));
        };
        let (version, field) = (parts::value(&pairs, "version"), parts::value(&pairs, "field"));
        Ok(Self { id: id.into(), region, version, field })
    }
}

impl fmt::Display for AwsSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let region = self.region.as_deref().filter(|_| !self.id.starts_with("arn:"));
        write_query(
            f,
            &self.id,
            &[("region", region), ("version", self.version.as_deref()), ("field", self.field.as_deref())],
        )
    }
}

/// A key of GCP KMS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcpKey {
    /// `projects/P/locations/L/keyRings/R/cryptoKeys/K`
    pub name: String,
    /// Another server than Google's, on this machine, asked without credentials: for tests.
    pub endpoint: Option<String>,
}

impl FromStr for GcpKey {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let malformed = |why| UriError::Malformed { scheme: "gcp-kms", why };
        let (before, pairs) = parts::query("gcp-kms", text, &["endpoint"])?;
        let name = before.strip_prefix("//").ok_or_else(|| malformed("`//` and a name must follow"))?;
        if !resource(name, &["projects", "locations", "keyRings", "cryptoKeys"]) {
            return Err(malformed("the name must be projects/P/locations/L/keyRings/R/cryptoKeys/K"));
        }
        Ok(Self { name: name.into(), endpoint: endpoint("gcp-kms", &pairs)? })
    }
}

impl fmt::Display for GcpKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_query(f, &self.name, &[("endpoint", self.endpoint.as_deref())])
    }
}

/// A secret of GCP Secret Manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcpSecret {
    /// `projects/P/secrets/S`
    pub name: String,
    /// A pinned version; the latest where not named.
    pub version: Option<String>,
    /// Which member of a JSON secret holds the key; the whole secret where not named.
    pub field: Option<String>,
    /// Another server than Google's, on this machine, asked without credentials: for tests.
    pub endpoint: Option<String>,
}

impl FromStr for GcpSecret {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let malformed = |why| UriError::Malformed { scheme: "gcp-secret-manager", why };
        let (before, pairs) = parts::query("gcp-secret-manager", text, &["field", "endpoint"])?;
        let name = before.strip_prefix("//").ok_or_else(|| malformed("`//` and a name must follow"))?;
        let (name, version) = match name.split_once("/versions/") {
            Some((name, version)) => (name, Some(version)),
            None => (name, None),
        };
        let is_version = |v: &str| v == "latest" || (!v.is_empty() && v.bytes().all(|b| b.is_ascii_digit()));
        if !resource(name, &["projects", "secrets"]) || !version.is_none_or(is_version) {
            return Err(malformed("the name must be projects/P/secrets/S or projects/P/secrets/S/versions/V"));
        }
        let version = version.filter(|version| *version != "latest").map(str::to_owned);
        let endpoint = endpoint("gcp-secret-manager", &pairs)?;
        Ok(Self { name: name.into(), version, field: parts::value(&pairs, "field"), endpoint })
    }
}

impl fmt::Display for GcpSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.as_deref().map(|version| format!("/versions/{version}")).unwrap_or_default();
        let name = format!("{}{version}", self.name);
        write_query(f, &name, &[("field", self.field.as_deref()), ("endpoint", self.endpoint.as_deref())])
    }
}

/// Whether `name` alternates these words with plain names.
fn resource(name: &str, words: &[&str]) -> bool {
    let segments: Vec<&str> = name.split('/').collect();
    let fits = |(at, segment): (usize, &&str)| if at % 2 == 0 { words.get(at / 2) == Some(segment) } else { true };
    segments.len() == words.len() * 2 && parts::plain_path(name) && segments.iter().enumerate().all(fits)
}

fn endpoint(scheme: &'static str, pairs: &[(&str, &str)]) -> Result<Option<String>, UriError> {
    let Some(endpoint) = parts::value(pairs, "endpoint") else { return Ok(None) };
    let host = endpoint.strip_prefix("http://").and_then(parts::authority).filter(|(host, _)| parts::is_loopback(host));
    if host.is_none() {
        return Err(UriError::Malformed { scheme, why: "endpoint= is for http:// servers on this machine only" });
    }
    Ok(Some(endpoint))
}

fn write_query(f: &mut fmt::Formatter<'_>, name: &str, pairs: &[(&str, Option<&str>)]) -> fmt::Result {
    write!(f, "//{name}")?;
    let pairs = pairs.iter().filter_map(|(name, value)| value.map(|value| (name, value)));
    for (i, (name, value)) in pairs.enumerate() {
        write!(f, "{}{name}={value}", if i == 0 { '?' } else { '&' })?;
    }
    Ok(())
}
