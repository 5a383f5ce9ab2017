//! An authority of our own, a certificate for 127.0.0.1, and one for a client.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Writes `ca.pem`, `server.pem`, `server.key`, `client.pem` and `client.key`.
pub(crate) fn write(folder: &Path) {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "the tests' authority");
    let ca = params.self_signed(&ca_key).unwrap();
    std::fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
    let issuer = Issuer::new(params, ca_key);
    for (name, subject) in [("server", "127.0.0.1"), ("client", "keyfold")] {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![subject.into()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}
