//! Certificates of a test's own.

/// A certificate authority, and what it signs.
pub(crate) struct Authority(pub(crate) rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key, PEM.
    pub(crate) fn sign(&self, names: Vec<rcgen::SanType>) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = names;
        let cert = params.signed_by(&key, &self.0).unwrap();
        (cert.pem(), key.serialize_pem())
    }
}
