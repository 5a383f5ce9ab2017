//! A destination's connections, by the credential that they are made with.
//!
//! Most credentials come with a request, and a connection holds none. A client certificate is the exception: what was connected with
//! it speaks for it. So a destination that takes one has connections under that certificate and that key only, dialled after the
//! call's intent is durable and its key was opened; other keys have others, and their connections are never reused. Sessions
//! of TLS are resumed among the same ones. A key that no call has used for a minute is let go.

use std::{
    fmt,
    path::Path as FilePath,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

use axum::http::StatusCode;
use keyfold_custody::broker::Credential;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{
    guard::Guard,
    inject::Inject,
    settings::Reach,
    sigv4,
    upstream::{IDLE, Upstream},
};
use crate::problem::Problem;

/// A client certificate, and its key.
pub(super) struct ClientIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIdentity").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

impl ClientIdentity {
    /// From PEM: the key, and the chain where it does not lie elsewhere.
    fn read(pem: &[u8], chain: Option<&[CertificateDer<'static>]>) -> Option<Self> {
        let chain = match chain {
            Some(chain) => chain.to_vec(),
            None => CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?,
        };
        let key = PrivateKeyDer::from_pem_slice(pem).ok()?;
        (!chain.is_empty()).then_some(Self { chain, key })
    }

    /// Chain and key, for TLS.
    pub(super) fn into_parts(self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.chain, self.key)
    }
}

/// What a destination is reached over.
pub(super) struct Connections {
    reach: Arc<Reach>,
    guard: Arc<Guard>,
    roots: Arc<RootCertStore>,
    by: By,
}

enum By {
    /// They hold no credential.
    Anybody(Arc<Upstream>),
    /// Under a client certificate: its chain, where that is configured; and those of the key that is in use.
    Certificate(Option<Vec<CertificateDer<'static>>>, Mutex<Option<Keyed>>),
}

struct Keyed {
    /// The hash of what was opened.
    of: String,
    upstream: Arc<Upstream>,
    used: Instant,
}

impl Connections {
    /// Nothing is dialled yet.
    ///
    /// # Errors
    /// Certificates that cannot be read: the key that says which, and what is wrong.
    pub(super) fn new(
        reach: &Arc<Reach>,
        guard: &Arc<Guard>,
        system: &Arc<RootCertStore>,
    ) -> Result<Arc<Self>, (&'static str, String)> {
        let roots = match &reach.roots {
            None => Arc::clone(system),
            Some(path) => Arc::new(with_more(system, path).map_err(|what| ("roots", what))?),
        };
        let by = match &reach.inject {
            Inject::ClientCertificate(chain) => {
                let chain = chain.as_deref().map(certificates).transpose().map_err(|what| ("inject", what))?;
                By::Certificate(chain, Mutex::default())
            }
            _ => By::Anybody(Arc::new(Upstream::new(reach, guard, (&roots, None)).map_err(|what| ("roots", what))?)),
        };
        Ok(Arc::new(Self { reach: Arc::clone(reach), guard: Arc::clone(guard), roots, by }))
    }

    /// Those that a call with this credential may use.
    ///
    /// # Errors
    /// A credential that is no key in PEM, or not the one of the certificate.
    pub(super) fn of(self: &Arc<Self>, credential: &Credential) -> Result<Arc<Upstream>, Problem> {
        let (chain, keyed) = match &self.by {
            By::Anybody(upstream) => return Ok(Arc::clone(upstream)),
            By::Certificate(chain, keyed) => (chain, keyed),
        };
        let of = sigv4::hash(credential.expose());
        let mut keyed = keyed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keyed) = keyed.as_mut().filter(|keyed| keyed.of == of) {
            keyed.used = Instant::now();
            return Ok(Arc::clone(&keyed.upstream));
        }
        let identity = ClientIdentity::read(credential.expose(), chain.as_deref()).ok_or_else(|| unfit("no PEM"))?;
        let upstream = Upstream::new(&self.reach, &self.guard, (&self.roots, Some(identity)));
        let upstream = Arc::new(upstream.map_err(|what| unfit(&what))?);
        // What goes on over the connections of the key before ends on them.
        *keyed = Some(Keyed { of: of.clone(), upstream: Arc::clone(&upstream), used: Instant::now() });
        tokio::spawn(let_go(Arc::downgrade(self), of));
        Ok(upstream)
    }
}

/// Lets a key go that has not been used for a while.
async fn let_go(connections: Weak<Connections>, of: String) {
    loop {
        tokio::time::sleep(IDLE).await;
        let Some(connections) = connections.upgrade() else { return };
        let By::Certificate(_, keyed) = &connections.by else { return };
        let mut keyed = keyed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*keyed {
            Some(keyed) if keyed.of == of && keyed.used.elapsed() < IDLE => {}
            Some(Keyed { of: now, .. }) if *now == of => {
                *keyed = None;
                return;
            }
            _ => return,
        }
    }
}

fn unfit(what: &str) -> Problem {
    tracing::warn!(what, "a client certificate cannot be used");
    Problem::new(
        StatusCode::BAD_GATEWAY,
        "credential_unfit",
        "the secret is not the private key of the client certificate",
    )
    .hint("the field that `secret` names holds the key in PEM, and the chain too where `inject` does not name its file")
}

fn with_more(system: &RootCertStore, path: &FilePath) -> Result<RootCertStore, String> {
    let mut roots = system.clone();
    for cert in certificates(path)? {
        roots.add(cert).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(roots)
}

fn certificates(path: &FilePath) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("{}: {}", path.display(), error.kind()))?;
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    certs.ok().filter(|certs| !certs.is_empty()).ok_or_else(|| format!("{}: no certificate in PEM", path.display()))
}
