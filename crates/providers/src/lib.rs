//! Root keys: where the key that wraps a keyring comes from. Key sources: where keys that other programs share are kept.
//!
//! | URI | the key | feature |
//! |---|---|---|
//! | `file:PATH` | base64 of 32 bytes in a file that only its owner can read | |
//! | `env:NAME` | base64 of 32 bytes in an environment variable | |
//! | `pkcs11:token=…;object=…` | an AES key in a token that it never leaves | `pkcs11` |
//! | `aws-kms://ARN` | a key of AWS KMS | `aws` |
//! | `gcp-kms://projects/…` | a key of GCP KMS | `gcp` |
//! | `hcvault://HOST/MOUNT/keys/NAME` | a key of the transit engine of OpenBao or Vault | `hcvault` |
//! | `recovery:HEX` | the public half of a key that is kept offline | |
//!
//! [`open`] turns a URI into a [`RootKey`]. A root key in this process's memory never wraps with itself but under a key
//! derived from it, so that the same 32 bytes used elsewhere by mistake do not meet the same cipher key. Everything remote
//! answers or fails within [`Bounds`].

#[cfg(feature = "aws")]
mod aws;
mod environment;
mod file;
#[cfg(feature = "gcp")]
mod gcp;
#[cfg(feature = "hcvault")]
mod hcvault;
mod local;
#[cfg(feature = "remote")]
mod patient;
#[cfg(feature = "pkcs11")]
mod pkcs11;
mod recovery;
pub mod source;
mod uri;

use std::sync::Arc;

use async_trait::async_trait;
use keyfold_core::{
    error::Hint,
    root::{OpenRoot, RootError, RootKey, Tended},
    secret::Key32,
};

#[cfg(feature = "remote")]
pub use self::patient::Bounds;
pub use self::{
    environment::{fernet_keys, master_keys, raw_keys},
    file::{create as create_file, open as open_file},
    local::LocalRoot,
    recovery::{RecoveryKey, RecoveryRoot},
    uri::{
        AwsKey, AwsSecret, GcpKey, GcpSecret, KeyUri, Mechanism, Pkcs11Key, SourceUri, UriError, VaultAddress,
        VaultKey, VaultSecret,
    },
};

/// A root key, wherever it is kept.
pub struct Root(Box<dyn RootKey>);

impl Root {
    fn new(root: impl RootKey + 'static) -> Self {
        Self(Box::new(root))
    }
}

#[async_trait]
impl RootKey for Root {
    fn uri(&self) -> &str {
        self.0.uri()
    }

    async fn wrap(&self, key: &Key32, aad: &[u8]) -> Result<Vec<u8>, RootError> {
        self.0.wrap(key, aad).await
    }

    async fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<Key32, RootError> {
        self.0.unwrap(wrapped, aad).await
    }

    async fn tend(&self) -> Result<Tended, RootError> {
        self.0.tend().await
    }
}

/// Opens the root key that a URI names. A local key is read now; a remote one is asked when it is first used.
///
/// # Errors
/// A local key is missing, readable by others, or not 32 bytes of base64; this build does not reach that place; what is
/// needed to get in there is missing.
pub fn open(uri: &KeyUri) -> Result<Root, RootError> {
    #[cfg(feature = "remote")]
    return open_within(uri, Bounds::default());
    #[cfg(not(feature = "remote"))]
    match uri {
        KeyUri::File(path) => file::open(path).map(Root::new),
        KeyUri::Environment(name) => environment::open(name).map(Root::new),
        KeyUri::Recovery(public) => Ok(Root::new(RecoveryRoot::new(*public))),
        _ => Err(not_built(uri)),
    }
}

/// As [`open`], with other bounds for what is remote.
///
/// # Errors
/// As [`open`].
#[cfg(feature = "remote")]
pub fn open_within(uri: &KeyUri, bounds: Bounds) -> Result<Root, RootError> {
    match uri {
        KeyUri::File(path) => file::open(path).map(Root::new),
        KeyUri::Environment(name) => environment::open(name).map(Root::new),
        KeyUri::Recovery(public) => Ok(Root::new(RecoveryRoot::new(*public))),
        #[cfg(feature = "hcvault")]
        KeyUri::Vault(key) => hcvault::Transit::open(key, bounds).map(Root::new),
        #[cfg(feature = "aws")]
        KeyUri::AwsKms(key) => Ok(Root::new(aws::Kms::new(key, bounds))),
        #[cfg(feature = "gcp")]
        KeyUri::GcpKms(key) => Ok(Root::new(gcp::Kms::new(key, bounds))),
        #[cfg(feature = "pkcs11")]
        KeyUri::Pkcs11(key) => pkcs11::Token::open(key, bounds).map(Root::new),
        #[allow(unreachable_patterns, reason = "nothing is left where every feature is on")]
        _ => Err(not_built(uri)),
    }
}

#[allow(dead_code, reason = "nothing is left where every feature is on")]
fn not_built(uri: &KeyUri) -> RootError {
    let feature = match uri {
        KeyUri::Pkcs11(_) => "pkcs11",
        KeyUri::AwsKms(_) => "aws",
        KeyUri::GcpKms(_) => "gcp",
        _ => "hcvault",
    };
    RootError::Invalid {
        place: uri.to_string(),
        why: "this build of keyfold cannot reach it".into(),
        hint: format!("build it with `--features {feature}`, or `--features full`"),
    }
}

/// Opens the other root keys of a keyring.
#[derive(Debug, Clone, Copy, Default)]
pub struct Roots;

impl OpenRoot for Roots {
    fn open_root(&self, uri: &str) -> Result<Arc<dyn RootKey>, RootError> {
        let parsed: KeyUri = uri.parse().map_err(|error: UriError| RootError::Invalid {
            place: "the keyring's root key".into(),
            why: error.to_string(),
            hint: error.hint().unwrap_or_default(),
        })?;
        Ok(Arc::new(open(&parsed)?))
    }
}
