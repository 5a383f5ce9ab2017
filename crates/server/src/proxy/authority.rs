//! The local certificate authority: what CONNECT answers as, so that a call in a tunnel can be looked at like any other.
//!
//! One authority for a deployment. Its key is sealed in the system store under the deployment's keyring, and every node issues under
//! it; a leaf lives for a day at most, names one host, and has a key of its own that never leaves the process.
//!
//! Who trusts this authority trusts the deployment for every name, so it belongs into an agent's own bundle (`keyfold run`), and
//! into a machine's only where agents have that machine for themselves.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use keyfold_core::{
    clock::{Clock, UnixTime},
    error::Hint,
    secret::Secret,
};
use keyfold_custody::{custody::Custody, error::CustodyError};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::host::Host;

/// What the system store calls it.
const NAME: &str = "authority";
/// How long the authority is good for.
const LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long a leaf is good for, how much of that lies in the past for clocks that are slow, and when another is made.
const LEAF: Duration = Duration::from_secs(24 * 3600);
const SKEW: Duration = Duration::from_secs(3600);
const RENEW: Duration = Duration::from_secs(12 * 3600);
/// How many hosts' leaves are kept.
const KEPT: usize = 1024;
/// How many TLS sessions of a host can be resumed.
const SESSIONS: usize = 64;

/// Why there is no certificate.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// The store or the keys.
    #[error(transparent)]
    Custody(#[from] CustodyError),
    /// What was sealed is no authority.
    #[error("the stored certificate authority cannot be read")]
    Stored,
    /// A certificate was not made.
    #[error("a certificate could not be made: {0}")]
    Made(#[from] rcgen::Error),
    /// TLS does not take it.
    #[error("a certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    /// The authority has run out.
    #[error("the certificate authority has expired")]
    Expired,
}

impl Hint for AuthorityError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Custody(error) => error.hint(),
            Self::Stored => {
                Some("another program wrote `own/authority` into the system store; restore the store".into())
            }
            Self::Expired => Some("check the clock of this machine".into()),
            Self::Made(_) | Self::Tls(_) => None,
        }
    }
}

/// Issues certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    until: UnixTime,
    clock: Arc<dyn Clock>,
    kept: Mutex<HashMap<Host, Leaf>>,
}

struct Leaf {
    config: Arc<ServerConfig>,
    made: UnixTime,
}

impl Authority {
    /// The authority of a deployment; it is made by the first who asks.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub(crate) async fn open(custody: &Custody, clock: Arc<dyn Clock>) -> Result<Self, AuthorityError> {
        Self::read(&stored(custody, clock.now()).await?, clock)
    }

    /// Reads what [`make`] wrote: the certificate, then the key, in PEM.
    fn read(stored: &Secret, clock: Arc<dyn Clock>) -> Result<Self, AuthorityError> {
        let bytes = stored.expose();
        let certificate = CertificateDer::from_pem_slice(bytes).map_err(|_| AuthorityError::Stored)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(bytes).map_err(|_| AuthorityError::Stored)?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)?;
        let pem = certificate_in(stored).ok_or(AuthorityError::Stored)?;
        let (name, until) = read_certificate(&certificate).ok_or(AuthorityError::Stored)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = Issuer::new(params, key);
        Ok(Self { issuer, certificate, pem, until, clock, kept: Mutex::default() })
    }

    /// The authority's certificate, for who is to trust it.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// How to answer as a host: HTTP/2 before HTTP/1.1. A client that names another host in its handshake is turned away.
    ///
    /// # Errors
    /// The authority has expired; no randomness.
    pub(crate) fn config(&self, host: &Host) -> Result<Arc<ServerConfig>, AuthorityError> {
        let now = self.clock.now();
        let fresh = |leaf: &&Leaf| now.0.checked_sub(leaf.made.0).is_some_and(|age| age < RENEW.as_secs());
        if let Some(leaf) = self.kept().get(host).filter(fresh) {
            return Ok(Arc::clone(&leaf.config));
        }
        let config = Arc::new(self.issue(host, now)?);
        let mut kept = self.kept();
        if kept.len() >= KEPT {
            kept.retain(|_, leaf| fresh(&&*leaf));
        }
        if kept.len() >= KEPT
            && let Some(oldest) = kept.iter().min_by_key(|(_, leaf)| leaf.made.0).map(|(host, _)| host.clone())
        {
            kept.remove(&oldest);
        }
        kept.insert(host.clone(), Leaf { config: Arc::clone(&config), made: now });
        Ok(config)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<Host, Leaf>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn issue(&self, host: &Host, now: UnixTime) -> Result<ServerConfig, AuthorityError> {
        let from = now.0.saturating_sub(SKEW.as_secs());
        if now >= self.until {
            return Err(AuthorityError::Expired);
        }
        let mut params = CertificateParams::default();
        params.not_before = moment(from)?;
        params.not_after = moment((from + LEAF.as_secs()).min(self.until.0))?;
        params.distinguished_name = common_name("Keyfold proxy");
        params.subject_alt_names = vec![match host.address() {
            Some(address) => SanType::IpAddress(address),
            None => SanType::DnsName(host.as_str().try_into()?),
        }];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        let key = CertifiedKey::new(chain, aws_lc_rs::sign::any_ecdsa_type(&key)?);
        let named = Named { host: host.clone(), key: Arc::new(key) };
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(named));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        Ok(config)
    }
}

/// The certificate of a deployment's authority in PEM, for who is to trust it; the authority is made where there is none yet.
///
/// # Errors
/// The store, the keys, what is stored.
pub async fn authority_pem(custody: &Custody) -> Result<String, CustodyError> {
    let stored = stored(custody, custody.auditor.clock().now()).await?;
    let strange = || CustodyError::Invalid {
        what: AuthorityError::Stored.to_string(),
        hint: AuthorityError::Stored.hint().unwrap_or_default(),
        code: None,
    };
    certificate_in(&stored).ok_or_else(strange)
}

/// The certificate that stands before the key.
fn certificate_in(stored: &Secret) -> Option<String> {
    let text = std::str::from_utf8(stored.expose()).ok()?;
    text.split_once(KEY_BEGINS).map(|(certificate, _)| certificate.to_owned())
}

async fn stored(custody: &Custody, now: UnixTime) -> Result<Secret, CustodyError> {
    let deployment = custody.keys.opening().deployment().to_owned();
    let make = || {
        make(&deployment, now).map_err(|error| CustodyError::Invalid {
            what: format!("a certificate authority could not be made: {error}"),
            hint: "check that the process may call getrandom(2)".into(),
            code: None,
        })
    };
    custody.own_secret(NAME, make).await
}

/// One host's certificate, for clients that ask for this host.
struct Named {
    host: Host,
    key: Arc<CertifiedKey>,
}

impl fmt::Debug for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Named").field("host", &self.host).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Named {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Clients name no addresses, and some name nothing at all.
        let same = hello.server_name().is_none_or(|name| name.eq_ignore_ascii_case(self.host.as_str()));
        same.then(|| Arc::clone(&self.key))
    }
}

const KEY_BEGINS: &str = "-----BEGIN PRIVATE KEY-----";

/// A new authority: its certificate and its key, in PEM.
fn make(deployment: &str, now: UnixTime) -> Result<Secret, AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.not_before = moment(now.0.saturating_sub(SKEW.as_secs()))?;
    params.not_after = moment(now.0.saturating_add(LIFE.as_secs()))?;
    let deployment: String = deployment.chars().take(32).collect();
    params.distinguished_name = common_name(&format!("Keyfold authority {deployment}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?.pem();
    let key = Zeroizing::new(key.serialize_pem());
    Ok(Secret::new([certificate.as_bytes(), key.as_bytes()].concat()))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// The name and the last moment of an authority's certificate.
fn read_certificate(certificate: &CertificateDer<'_>) -> Option<(String, UnixTime)> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let until = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    Some((name, UnixTime(until)))
}

fn moment(seconds: u64) -> Result<OffsetDateTime, AuthorityError> {
    let seconds = i64::try_from(seconds).map_err(|_| AuthorityError::Expired)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| AuthorityError::Expired)
}

#[cfg(test)]
mod tests;
