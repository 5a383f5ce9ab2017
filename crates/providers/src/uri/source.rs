//! Where keys that other programs share are kept.

use std::{fmt, path::PathBuf, str::FromStr};

use super::{AwsSecret, GcpSecret, UriError, VaultSecret, parts};

/// Where a key is to be read from.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceUri {
    /// `file:PATH`
    File(PathBuf),
    /// `env:NAME`
    Environment(String),
    /// `aws-secrets-manager://NAME`
    Aws(AwsSecret),
    /// `gcp-secret-manager://projects/P/secrets/S`
    Gcp(GcpSecret),
    /// `hcvault-kv://HOST/MOUNT/PATH`
    Vault(VaultSecret),
}

impl FromStr for SourceUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if text.len() > parts::MAX_URI {
            return Err(UriError::UnknownSource);
        }
        let (scheme, rest) = text.split_once(':').ok_or(UriError::UnknownSource)?;
        Ok(match scheme {
            "file" => Self::File(parts::path(rest)?),
            "env" => Self::Environment(parts::variable(rest)?),
            "aws-secrets-manager" => Self::Aws(rest.parse()?),
            "gcp-secret-manager" => Self::Gcp(rest.parse()?),
            "hcvault-kv" => Self::Vault(rest.parse()?),
            _ => return Err(UriError::UnknownSource),
        })
    }
}

impl fmt::Display for SourceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Environment(name) => write!(f, "env:{name}"),
            Self::Aws(secret) => write!(f, "aws-secrets-manager:{secret}"),
            Self::Gcp(secret) => write!(f, "gcp-secret-manager:{secret}"),
            Self::Vault(secret) => write!(f, "hcvault-kv:{secret}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_reads_back_and_anything_else_is_refused_without_repeating_it() {
        for text in [
            "file:/a",
            "env:REDIS_SRE_MASTER_KEY",
            "aws-secrets-manager://prod/redis-sre?region=eu-west-1&version=abc&field=key",
            "aws-secrets-manager://arn:aws:secretsmanager:eu-west-1:1:secret:redis-sre-AbCdEf",
            "gcp-secret-manager://projects/p/secrets/s",
            "gcp-secret-manager://projects/p/secrets/s/versions/3?field=key",
            "hcvault-kv://vault:8200/secret/sre/redis?field=key&version=2",
        ] {
            assert_eq!(text.parse::<SourceUri>().unwrap().to_string(), text);
        }
        for text in
            ["hunter2", "https://hunter2", "aws-secrets-manager://", "gcp-secret-manager://x", "hcvault-kv://h/x"]
        {
            let error = text.parse::<SourceUri>().expect_err(text);
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
