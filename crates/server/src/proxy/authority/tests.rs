use std::{
    io::{Read as _, Write as _},
    sync::atomic::{AtomicU64, Ordering},
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection, Stream};
use rustls_pki_types::ServerName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

struct Hands(AtomicU64);

impl Clock for Hands {
    fn now(&self) -> UnixTime {
        UnixTime(self.0.load(Ordering::Relaxed))
    }
}

/// The real time: the client below has no other.
#[expect(clippy::disallowed_methods, reason = "certificates are checked against the system's time")]
fn today() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn authority() -> (Authority, Arc<Hands>) {
    let clock = Arc::new(Hands(AtomicU64::new(today())));
    let stored = make("deployment", clock.now()).unwrap();
    (Authority::read(&stored, Arc::clone(&clock) as Arc<dyn Clock>).unwrap(), clock)
}

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

/// A handshake through memory; the leaf that the client saw.
fn shake(authority: &Authority, listens_as: &str, asks_for: &str) -> Result<CertificateDer<'static>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(asks_for.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut server = ServerConnection::new(authority.config(&host(listens_as)).unwrap()).unwrap();
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        while client.wants_write() {
            client.write_tls(&mut to_server).unwrap();
        }
        server.read_tls(&mut to_server.as_slice()).unwrap();
        to_server.clear();
        let refused = server.process_new_packets().err();
        while server.wants_write() {
            server.write_tls(&mut to_client).unwrap();
        }
        if let Some(error) = refused {
            return Err(error.to_string());
        }
        let mut rest = to_client.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().map_err(|error| error.to_string())?;
        }
        to_client.clear();
        if !client.is_handshaking() && !server.is_handshaking() {
            return Ok(client.peer_certificates().unwrap()[0].clone().into_owned());
        }
    }
    Err("the handshake did not end".into())
}

#[test]
fn a_client_that_trusts_the_authority_reaches_the_host_it_asked_for() {
    let (authority, _) = authority();
    for name in ["api.example.com", "127.0.0.1", "localhost", "::1"] {
        let leaf = shake(&authority, name, name).unwrap();
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        let validity = leaf.validity();
        let life = validity.not_after.timestamp() - validity.not_before.timestamp();
        assert!(life <= 24 * 3600, "{life}");
        assert!(!leaf.is_ca());
        assert_eq!(leaf.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
    }
}

#[test]
fn p30_a_client_that_names_another_host_in_its_handshake_is_turned_away() {
    let (authority, _) = authority();
    assert!(shake(&authority, "api.example.com", "other.example.com").is_err());
    assert!(shake(&authority, "api.example.com", "API.example.com").is_ok());
    assert!(shake(&authority, "192.0.2.1", "192.0.2.2").is_err());
}

#[test]
fn nobody_else_is_trusted() {
    let (one, two) = (authority().0, authority().0);
    assert_ne!(one.certificate, two.certificate);
    let imposter = Authority { certificate: one.certificate.clone(), ..two };
    assert!(shake(&imposter, "a.example", "a.example").is_err());
}

#[test]
fn a_leaf_is_kept_for_half_a_day_and_there_are_not_too_many() {
    let (authority, clock) = authority();
    let first = authority.config(&host("a.example")).unwrap();
    assert!(Arc::ptr_eq(&first, &authority.config(&host("A.example")).unwrap()));
    clock.0.fetch_add(RENEW.as_secs(), Ordering::Relaxed);
    assert!(!Arc::ptr_eq(&first, &authority.config(&host("a.example")).unwrap()));
    for number in 0..KEPT + 10 {
        authority.config(&host(&format!("h{number}.example"))).unwrap();
    }
    assert_eq!(authority.kept().len(), KEPT);
    clock.0.store(authority.until.0, Ordering::Relaxed);
    assert!(matches!(authority.config(&host("late.example")), Err(AuthorityError::Expired)));
}

#[test]
fn what_is_read_again_issues_under_the_same_authority() {
    let clock: Arc<dyn Clock> = Arc::new(Hands(AtomicU64::new(today())));
    let stored = make(&"long ".repeat(50), clock.now()).unwrap();
    let (one, two) = (Authority::read(&stored, Arc::clone(&clock)).unwrap(), Authority::read(&stored, clock).unwrap());
    assert_eq!(one.certificate, two.certificate);
    let other_node = Authority { certificate: one.certificate.clone(), ..two };
    shake(&other_node, "a.example", "a.example").unwrap();
}

#[test]
fn what_is_no_authority_is_said_to_be_none() {
    let clock: Arc<dyn Clock> = Arc::new(Hands(AtomicU64::new(today())));
    for text in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let stored = Secret::from(text.as_bytes());
        assert!(matches!(Authority::read(&stored, Arc::clone(&clock)), Err(AuthorityError::Stored)));
    }
}

#[test]
fn bytes_pass_both_ways() {
    let (authority, _) = authority();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = authority.config(&host("a.example")).unwrap();
    let serving = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut server = ServerConnection::new(config).unwrap();
        let mut stream = Stream::new(&mut server, &mut socket);
        let mut said = [0; 4];
        stream.read_exact(&mut said).unwrap();
        stream.write_all(&said).unwrap();
        stream.flush().unwrap();
    });
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), "a.example".try_into().unwrap()).unwrap();
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut stream = Stream::new(&mut client, &mut socket);
    stream.write_all(b"ping").unwrap();
    let mut said = [0; 4];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"ping");
    serving.join().unwrap();
}
