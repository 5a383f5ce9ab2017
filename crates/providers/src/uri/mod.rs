//! `uri` → root key or key source: parsed once at the edge, carried as a type.
//!
//! A URI names a place and never holds what opens it: tokens, PINs and cloud credentials come from the environment, from
//! files, or from where each SDK looks for them.

mod cloud;
mod parts;
mod pkcs11;
mod source;
mod vault;

use std::{fmt, path::PathBuf, str::FromStr};

use keyfold_core::{
    error::{Code, Hint},
    id::{from_hex, to_hex},
};

pub use self::{
    cloud::{AwsKey, AwsSecret, GcpKey, GcpSecret},
    pkcs11::{Mechanism, Pkcs11Key},
    source::SourceUri,
    vault::{VaultAddress, VaultKey, VaultSecret},
};

/// Where a root key is.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyUri {
    /// `file:PATH`
    File(PathBuf),
    /// `env:NAME`
    Environment(String),
    /// `pkcs11:token=…;object=…`
    Pkcs11(Pkcs11Key),
    /// `aws-kms://ARN`
    AwsKms(AwsKey),
    /// `gcp-kms://projects/…/cryptoKeys/…`
    GcpKms(GcpKey),
    /// `hcvault://HOST/MOUNT/keys/NAME`
    Vault(VaultKey),
    /// `recovery:PUBLIC-KEY`: wraps; unwraps nothing without the recovery key, which is kept offline.
    Recovery([u8; 32]),
}

/// Not the URI of a key. What was given is never repeated: it may be the key itself, given by mistake.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Another scheme, or none.
    #[error("not the URI of a root key")]
    Unknown,
    /// Another scheme, or none, where a key is to be read from.
    #[error("not the URI of a key")]
    UnknownSource,
    /// Not a name a variable can have.
    #[error("`env:` must be followed by the name of an environment variable")]
    Variable,
    /// `file:` with nothing behind it.
    #[error("`file:` must be followed by a path")]
    Path,
    /// The scheme is known, the rest does not fit it.
    #[error("not a `{scheme}` URI: {why}")]
    Malformed {
        /// The scheme.
        scheme: &'static str,
        /// What is wrong.
        why: &'static str,
    },
}

impl UriError {
    /// Always [`Code::KeyInvalid`].
    #[must_use]
    pub const fn code(&self) -> Code {
        Code::KeyInvalid
    }
}

impl Hint for UriError {
    fn hint(&self) -> Option<String> {
        let Self::Malformed { scheme, .. } = self else {
            let schemes = if *self == Self::UnknownSource {
                "file:PATH, env:NAME, aws-secrets-manager://, gcp-secret-manager:// or hcvault-kv://"
            } else {
                "file:PATH, env:NAME, pkcs11:, aws-kms://, gcp-kms:// or hcvault://"
            };
            return Some(format!("write {schemes}; a key itself never belongs on a command line"));
        };
        let form = match *scheme {
            "pkcs11" => "pkcs11:token=TOKEN;object=KEY?module-path=/usr/lib/…so&pin-source=file:PATH",
            "aws-kms" => "aws-kms://arn:aws:kms:REGION:ACCOUNT:key/ID",
            "gcp-kms" => "gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K",
            "hcvault" => "hcvault://HOST:PORT/transit/keys/NAME",
            "recovery" => "`keyfold keys add-recovery` writes such a URI into the keyring",
            "aws-secrets-manager" => "aws-secrets-manager://NAME-OR-ARN?region=REGION&version=ID&field=NAME",
            "gcp-secret-manager" => "gcp-secret-manager://projects/P/secrets/S/versions/latest?field=NAME",
            _ => "hcvault-kv://HOST:PORT/MOUNT/PATH?field=NAME&version=N",
        };
        Some(format!("write {form}"))
    }
}

impl FromStr for KeyUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if text.len() > parts::MAX_URI {
            return Err(UriError::Unknown);
        }
        let (scheme, rest) = text.split_once(':').ok_or(UriError::Unknown)?;
        Ok(match scheme {
            "file" => Self::File(parts::path(rest)?),
            "env" => Self::Environment(parts::variable(rest)?),
            "pkcs11" => Self::Pkcs11(rest.parse()?),
            "aws-kms" => Self::AwsKms(rest.parse()?),
            "gcp-kms" => Self::GcpKms(rest.parse()?),
            "hcvault" => Self::Vault(rest.parse()?),
            "recovery" => Self::Recovery(
                from_hex(rest)
                    .filter(|_| !rest.bytes().any(|b| b.is_ascii_uppercase()))
                    .ok_or(UriError::Malformed { scheme: "recovery", why: "64 hex digits must follow" })?,
            ),
            _ => return Err(UriError::Unknown),
        })
    }
}

impl fmt::Display for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Environment(name) => write!(f, "env:{name}"),
            Self::Pkcs11(key) => write!(f, "pkcs11:{key}"),
            Self::AwsKms(key) => write!(f, "aws-kms:{key}"),
            Self::GcpKms(key) => write!(f, "gcp-kms:{key}"),
            Self::Vault(key) => write!(f, "hcvault:{key}"),
            Self::Recovery(public) => write!(f, "recovery:{}", to_hex(public)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_reads_back_and_anything_else_is_refused_without_repeating_it() {
        for text in [
            "file:/a/b",
            "file:rel",
            "env:NAME_1",
            "pkcs11:token=My%20token;object=root?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin",
            "pkcs11:serial=12ab;id=%01%ff?mechanism=key-wrap",
            "aws-kms://arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "aws-kms://arn:aws:kms:eu-central-1:111122223333:alias/keyfold",
            "gcp-kms://projects/p/locations/global/keyRings/r/cryptoKeys/k",
            "gcp-kms://projects/p/locations/global/keyRings/r/cryptoKeys/k?endpoint=http://127.0.0.1:9000",
            "hcvault://vault.example.com:8200/transit/keys/root",
            "hcvault://127.0.0.1:8200/team/transit/keys/root?namespace=ops&tls=off",
            "hcvault://[::1]:8200/transit/keys/root?tls=off",
            "recovery:00000000000000000000000000000000000000000000000000000000000000ff",
        ] {
            assert_eq!(text.parse::<KeyUri>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "file:",
            "env:",
            "env:1A",
            "env:A-B",
            "sekret=",
            "http://user:hunter2@x",
            "pkcs11:",
            "pkcs11:token=a",
            "pkcs11:token=a;object=b?pin-value=hunter2",
            "pkcs11:token=a;token=b;object=c",
            "pkcs11:token=a;object=b;what=hunter2",
            "aws-kms://hunter2",
            "aws-kms:arn:aws:kms:x:1:key/a",
            "aws-kms://arn:aws:s3:::hunter2",
            "gcp-kms://projects/p",
            "gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k?endpoint=http://evil.example.com",
            "gcp-kms://projects/p/locations/../keyRings/r/cryptoKeys/k",
            "hcvault://user:hunter2@h/transit/keys/k",
            "hcvault://h/transit/k",
            "hcvault://h/../keys/k",
            "hcvault://vault.example.com/transit/keys/k?tls=off",
            "hcvault://127.0.0.1.evil.example/transit/keys/k?tls=off",
            "hcvault://h/transit/keys/k?token=hunter2",
            "recovery:00",
        ] {
            let error = text.parse::<KeyUri>().expect_err(text);
            assert!(!error.to_string().contains("hunter2") && !error.to_string().contains("sekret"), "{text}: {error}");
            assert!(!error.hint().unwrap().contains("hunter2"));
        }
    }
}
