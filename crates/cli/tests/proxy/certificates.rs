//! Client certificates: connections that are somebody's, beside those that are nobody's.

use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use tempfile::TempDir;

use super::{
    common::{authority::Authority, keyfold, needles::Needles, served},
    place::{Place, wait},
    upstream::Upstream,
};

/// A destination that asks for certificates, and who signs for its clients.
struct Asking {
    folder: TempDir,
    server: Authority,
    clients: Authority,
}

/// A client's certificate: its chain and its key in PEM, and what the destination sees of it.
struct Client {
    chain: String,
    key: String,
    seen: Vec<u8>,
}

impl Asking {
    fn new() -> Self {
        let made = Self { folder: tempfile::tempdir().unwrap(), server: Authority::new(), clients: Authority::new() };
        std::fs::write(made.path("server.pem"), made.server.0.pem()).unwrap();
        made
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn client(&self, name: &str) -> Client {
        let (chain, key) = self.clients.sign(vec![rcgen::SanType::DnsName(name.try_into().unwrap())]);
        let seen = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap().to_vec();
        Client { chain, key, seen }
    }

    /// A destination of this name at a port.
    fn destination(&self, name: &str, port: u16, more: &str) -> String {
        format!(
            "[destinations.{name}]\nhost = \"{name}.test\"\nport = {port}\naddress = \"127.0.0.1\"\nprivate = true\nroots = \"{}\"\n{more}",
            self.path("server.pem")
        )
    }
}

const KEYS: &str = "[collections.keys]\nfields = [\"/key\"]\n";

#[test]
fn a_connection_with_a_client_certificate_serves_its_own_destination_and_its_own_key_alone() {
    let asking = Asking::new();
    let up = Upstream::asking(&asking.server, &["named.test", "whole.test", "users.test"], (&asking.clients, false));
    let (named, whole, next) = (asking.client("named"), asking.client("whole"), asking.client("next"));
    std::fs::write(asking.path("chain.pem"), &named.chain).unwrap();
    let config = [
        KEYS.to_owned(),
        asking.destination(
            "named",
            up.port(),
            &format!(
                "secret = \"keys/named#/key\"\ninject = {{ client_certificate = \"{}\" }}\n",
                asking.path("chain.pem")
            ),
        ),
        asking.destination("whole", up.port(), "secret = \"keys/whole#/key\"\ninject = \"client_certificate\"\n"),
        asking.destination("users", up.port(), ""),
        "[[grants]]\nto = \"agent:triage\"\nmay = [\"use\"]\ndestinations = [\"named\", \"whole\", \"users\"]\n".into(),
    ];
    let Some(place) = Place::with("default_grants = [\"operator\", \"service\"]\n", &config.concat()) else { return };
    let record = |name: &str| format!("/v1/collections/keys/records/{name}");
    place.served.put(&record("named"), json!({ "key": named.key })).is(201);
    place.served.put(&record("whole"), json!({ "key": "not a key in PEM" })).is(201);
    let (token, handle) = place.session("alice");
    let ask = |name: &str| {
        let request = place.at(&format!("{name}.test:{}", up.port()), "GET", "/who");
        place.send(request.header("keyfold-token", &place.agent).header("keyfold-session", &handle))
    };

    // Its intent is durable before the key is opened, and nothing is dialled with a key that is none.
    ask("whole").fails(502, "credential_unfit");
    let used = || place.events().into_iter().filter(|event| event["action"] == "use").collect::<Vec<_>>();
    wait(|| used().len() == 2);
    assert_eq!(used()[0]["kind"], "intent");
    assert_eq!(used()[1]["result"], "credential_unfit");
    assert_eq!(up.connections(), 0);
    // Nor where the key is another certificate's.
    place.served.put(&record("whole"), json!({ "key": format!("{}{}", whole.chain, next.key) })).is(200);
    ask("whole").fails(502, "credential_unfit");
    assert_eq!(up.connections(), 0);
    // Nor for who may not use it.
    let other = place.served.token_of("agent:other");
    place
        .send(place.at(&format!("named.test:{}", up.port()), "GET", "/who").header("keyfold-token", other))
        .fails(403, "forbidden");
    assert_eq!(up.connections(), 0);

    place.served.put(&record("whole"), json!({ "key": format!("{}{}", whole.chain, whole.key) })).is(200);
    for _ in 0..3 {
        for (name, client, authorization) in [
            ("named", Some(&named.seen), vec![]),
            ("users", None, vec![format!("Bearer {token}")]),
            ("whole", Some(&whole.seen), vec![]),
        ] {
            assert_eq!(ask(name).status, 200, "{name}");
            let arrived = up.one();
            assert_eq!(arrived.client.as_ref(), client, "{name}");
            assert_eq!(arrived.all("authorization"), authorization, "{name}");
        }
    }
    assert_eq!(up.connections(), 3, "one of each, and none for another");
    // The next key has connections of its own from its first call on.
    place.served.put(&record("whole"), json!({ "key": format!("{}{}", next.key, next.chain) })).is(200);
    assert_eq!(ask("whole").status, 200);
    assert_eq!((up.one().client.unwrap(), up.connections()), (next.seen, 4));
    // And once the key is no more, nothing goes out on a connection that was made with it.
    place.served.as_(&place.served.token, "DELETE", &record("named"), None);
    assert_ne!(ask("named").status, 200);
    assert!(up.nothing());

    let mut needles = Needles::default();
    for client in [&named.key, &whole.key, &next.key] {
        needles.add("a private key", client.lines().nth(1).unwrap().as_bytes());
    }
    for (path, bytes) in place.stored() {
        assert_eq!(needles.find(&bytes, None), None, "{}", path.display());
    }
    assert_eq!(needles.find(place.served.stderr().as_bytes(), None), None);
}

#[test]
fn a_destination_that_insists_on_a_certificate_is_reached_with_it_and_says_why_not_without() {
    let asking = Asking::new();
    let up = Upstream::asking(&asking.server, &["with.test", "without.test", "wrong.test"], (&asking.clients, true));
    let keyed = |name: &str| format!("secret = \"keys/{name}#/key\"\ninject = \"client_certificate\"\n");
    let config = [
        KEYS.to_owned(),
        asking.destination("with", up.port(), &keyed("with")),
        asking.destination("without", up.port(), ""),
        asking.destination("wrong", up.port(), &keyed("wrong")),
    ];
    let Some(place) = Place::with("", &config.concat()) else { return };
    let (right, wrong) = (asking.client("agents"), Asking::new().client("agents"));
    for (name, client) in [("with", &right), ("wrong", &wrong)] {
        let record = format!("/v1/collections/keys/records/{name}");
        place.served.put(&record, json!({ "key": format!("{}{}", client.chain, client.key) })).is(201);
    }
    let (_, handle) = place.session("alice");
    let ask = |name: &str| place.send(place.to(&format!("{name}.test:{}", up.port()), &handle));
    assert_eq!(ask("with").status, 200);
    assert_eq!(up.one().client, Some(right.seen));
    for name in ["without", "wrong"] {
        // With TLS 1.3 that comes after the handshake, and may be lost with the connection.
        let answer = ask(name);
        let code = if answer.json()["code"] == "upstream_tls" { "upstream_tls" } else { "upstream_broken" };
        let problem = answer.fails(502, code);
        assert!(problem["hint"].as_str().unwrap().contains("client certificate"), "{problem}");
    }
    assert!(up.nothing());
}

#[test]
fn a_client_certificate_that_cannot_be_is_reported_before_a_port_is_bound() {
    let issuer = "[[sessions.issuers]]\npreset = \"google\"\nclient_id = \"x.apps.googleusercontent.com\"\n";
    for (keys, command, says) in [
        ("inject = \"client_certificate\"\n", "config check", "destinations.a.secret: must say where"),
        (
            "secret = \"keys/a#/key\"\ninject = { client_certificate = \"/no/such.pem\" }\n",
            "serve --listen 127.0.0.1:0 --proxy-listen 127.0.0.1:0",
            "destinations.a.inject: /no/such.pem",
        ),
    ] {
        let config = format!("{issuer}{KEYS}[destinations.a]\nhost = \"a.example\"\n{keys}");
        let folder = served::folder(&config);
        let ended = keyfold(command).data_dir(&folder.path().join("data")).run();
        assert_ne!(ended.code, 0);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
}
