//! TLS: certificates from files, read anew when they change, and client certificates that stand for actors.
//!
//! A reload that fails leaves what was there in force and says so; it never switches verification off.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use keyfold_core::{audit::Actor, error::Hint};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::settings::{TlsSettings, actor};

/// Why there is no TLS. The service does not start without what it was told to use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("{}: {what}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Certificate and key do not go together, or are not taken.
    #[error("the certificate cannot be used: {0}")]
    Refused(String),
}

impl Hint for TlsError {
    fn hint(&self) -> Option<String> {
        Some("`server.tls` names PEM files: `cert` the chain, leaf first, and `key` its private key".into())
    }
}

/// The configuration in force.
pub struct Tls {
    settings: TlsSettings,
    current: ArcSwap<ServerConfig>,
    stamps: ArcSwap<Vec<Option<SystemTime>>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn open(settings: &TlsSettings) -> Result<Self, TlsError> {
        let stamps = stamps(settings);
        let config = config(settings)?;
        Ok(Self {
            settings: settings.clone(),
            current: ArcSwap::from_pointee(config),
            stamps: ArcSwap::from_pointee(stamps),
        })
    }

    /// For the next connection.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Reads the files anew if one of them changed; connections that are open stay as they are.
    pub fn reload(&self) {
        let stamps = stamps(&self.settings);
        if stamps == **self.stamps.load() {
            return;
        }
        match config(&self.settings) {
            Ok(config) => {
                self.current.store(Arc::new(config));
                self.stamps.store(Arc::new(stamps));
                tracing::info!("the certificate was read anew");
            }
            Err(error) => tracing::error!(%error, "the new certificate cannot be used; the old one stays in force"),
        }
    }
}

fn stamps(settings: &TlsSettings) -> Vec<Option<SystemTime>> {
    let paths = [Some(&settings.cert), Some(&settings.key), settings.clients.as_ref()];
    paths.into_iter().flatten().map(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok()).collect()
}

/// The configuration that every listener of ours starts from: TLS 1.2 and 1.3, aws-lc-rs, HTTP/2 before HTTP/1.1.
fn config(settings: &TlsSettings) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let refused = |error: rustls::Error| TlsError::Refused(error.to_string());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(refused)?;
    let builder = match &settings.clients {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for cert in certificates(path)? {
                roots.add(cert).map_err(refused)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if settings.require_client { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| TlsError::Refused(error.to_string()))?)
        }
    };
    let key = PrivateKeyDer::from_pem_slice(&read(&settings.key)?)
        .map_err(|_| TlsError::File { path: settings.key.clone(), what: "no private key in PEM".into() })?;
    let mut config = builder.with_single_cert(certificates(&settings.cert)?, key).map_err(refused)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if settings.clients.is_some() {
        // A resumed session would carry a client's certificate past a change of who signs for clients.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error: io::Error| TlsError::File { path: path.to_owned(), what: error.kind().to_string() })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = || TlsError::File { path: path.to_owned(), what: "no certificate in PEM".into() };
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    certs.ok().filter(|certs| !certs.is_empty()).ok_or_else(wrong)
}

/// The actor of a client certificate: a URI among its alternative names, `keyfold:KIND:NAME`. Who signs for clients decides
/// over these names.
#[must_use]
pub fn actor_of(certificate: &CertificateDer<'_>) -> Option<Actor> {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let mut actors = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => {
            let (kind, name) = uri.strip_prefix("keyfold:")?.split_once(':')?;
            ["operator", "service", "agent"].contains(&kind).then(|| actor(kind, name))?
        }
        _ => None,
    });
    // Two names are none: nobody says which of them acts.
    actors.next().filter(|_| actors.next().is_none())
}
