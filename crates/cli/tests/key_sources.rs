//! `--master-key URI` and `--fernet-key URI`: keys that several programs share, read from each place where they may lie, feed the
//! presets; a rotation writes the new one back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests, outside the functions that clippy knows as such"
)]
#![cfg(all(feature = "aws", feature = "gcp", feature = "hcvault"))]

mod common;
#[path = "../../providers/tests/components/mod.rs"]
mod components;
#[path = "../../providers/tests/components/gcp_fake.rs"]
mod gcp_fake;
#[path = "../../custody/tests/servers/mod.rs"]
mod servers;

use std::{
    cell::{Cell, RefCell},
    fs,
};

use common::{
    Call, FERNET, MASTER, MASTER_VARIABLE, OTHER_FERNET, OTHER_MASTER, keyfold,
    place::{Place, sum},
};
use components::{
    bao::{Bao, ROOT_TOKEN},
    moto::Moto,
};
use gcp_fake::InsecureGcp;
use serde_json::{Value, json};
use servers::redis::Redis;

const COUNT: usize = 12;

/// A place that keeps one key, version by version.
trait Shelf {
    /// The URI of what is there now.
    fn latest(&self) -> String;

    /// Stores a version, as somebody with another tool would; gives the URI that goes on naming it.
    fn put(&self, text: &str) -> String;

    /// What is there now, seen with another tool. `None` where the place keeps no versions, so that nothing writes to it.
    fn seen(&self) -> Option<String>;

    /// URIs of the same place that name nothing.
    fn nothing(&self) -> Vec<String>;

    /// What a process needs to come here.
    fn variables(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// A call that may come to the shelf.
fn beside(shelf: &dyn Shelf, call: Call) -> Call {
    shelf.variables().iter().fold(call, |call, (name, value)| call.env(name, value))
}

/// The data of a program that exists: read, sealed and moved with keys from the shelf, and by Python with the same ones after.
fn feeds(shelf: &dyn Shelf, place: &Place) {
    let [old, other] = place.keys;
    let (option, suites) =
        if place.program == "redis" { ("--master-key", "kf1,v1") } else { ("--fernet-key", "fernet") };
    let with = |arguments: &str, uris: &[&str]| {
        let call = beside(shelf, place.keyless(arguments));
        Place::told(uris.iter().fold(call, |call, uri| call.arg(option).arg(uri)))
    };
    let first = shelf.put(old);
    if place.agent("write", old).is_none() {
        return;
    }
    let (code, told) = with("migrate", &[&shelf.latest()]);
    let opened: u64 = place.agent("check", old).unwrap().parse().unwrap();
    assert_eq!((code, sum(&told, "values")), (0, opened), "{told:?}");
    assert_eq!(with("verify", &[&first]).0, 0, "a pinned version");

    // The next key: made here and written back where versions are kept, put there by somebody where not.
    let before = place.agent("dump", old);
    let new = if shelf.seen().is_some() {
        let call = |arguments: &str| beside(shelf, keyfold(arguments).data_dir(&place.data()));
        let made = call("keys create --json --suites").arg(suites).run().json();
        let publish = |to: &str| call("keys publish").arg(made["kid"].as_str().unwrap()).arg("--to").arg(to).run();
        publish(&first).fails(4, &["pins a version"]);
        assert!(publish(&shelf.latest()).text().contains("version "));
        shelf.seen().unwrap()
    } else {
        shelf.put(other);
        other.to_owned()
    };
    assert_ne!(new, old);
    let (code, told) = with("verify", &[&shelf.latest()]);
    assert_eq!((code, sum(&told, "quarantined_values")), (1, opened), "the latest one opens nothing yet: {told:?}");
    let (code, told) = with("rotate --readers-ready", &[&shelf.latest(), &first]);
    assert_eq!((code, sum(&told, "changed_values")), (0, opened), "{told:?}");
    assert_eq!(place.agent("check", &new).unwrap(), opened.to_string());
    assert!(place.agent("dump", &new) == before, "something else than the sealed values changed");
    // In a folder without the new key, so that only what the URI names counts.
    let elsewhere = tempfile::tempdir().unwrap();
    let alone = |uri: &str| {
        let call = beside(shelf, place.keyless("verify")).data_dir(elsewhere.path());
        Place::told(call.arg(option).arg(uri)).0
    };
    assert_eq!(alone(&shelf.latest()), 0);
    assert_eq!(alone(&first), 1, "the pinned one is the old one still");
}

/// What is missing or no key fails as in the environment: with the same code and words, and nothing is sealed or changed.
fn refuses(shelf: &dyn Shelf, place: &Place) {
    let seal = || keyfold("seal --json --format v1").stdin("hunter2");
    let from = |uri: &str| beside(shelf, seal()).arg("--master-key").arg(uri).run();
    let error = |stderr: &str| {
        let mut lines = stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let said = lines.next_back().unwrap();
        let message = said["error"]["message"].as_str().unwrap().to_owned();
        assert!(said["error"]["hint"].is_string(), "{said}");
        // What follows the name of the place.
        (said["error"]["code"].clone(), message.rsplit(": ").next().unwrap().to_owned())
    };
    for text in ["AAAA", "not base64!", "'AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE='", "AQEBAQEBAQE_"] {
        shelf.put(text);
        let here = from(&shelf.latest()).fails(4, &["found"]);
        let there = seal().env(MASTER_VARIABLE, text).run().fails(4, &["found"]);
        assert_eq!(error(&here.stderr), error(&there.stderr), "{text}");
        assert!(!here.stderr.contains("AQEBAQEB"), "the key is repeated");
    }
    shelf.put(" ");
    from(&shelf.latest()).fails(4, &["key_invalid", "Master key must be 32 bytes, 0 found"]);
    let before = place.agent("dump", place.keys[0]);
    for uri in shelf.nothing().iter().chain([&shelf.latest()]) {
        let ended = from(uri).fails(4, &["key_invalid"]);
        let unset = seal().run().fails(4, &["key_invalid"]);
        assert_eq!(error(&ended.stderr).0, error(&unset.stderr).0);
        let job = beside(shelf, place.keyless("migrate")).arg("--master-key").arg(uri).run();
        job.fails(4, &[]);
    }
    assert!(place.agent("dump", place.keys[0]) == before, "something changed without a key");
}

fn shown(shelf: &dyn Shelf) {
    let auto_sre = Place::sqlite(COUNT);
    feeds(shelf, &auto_sre);
    let Some(server) = Redis::single(&[]) else { return };
    let redis = Place::redis(server.servers[0].port, COUNT);
    feeds(shelf, &redis);
    refuses(shelf, &redis);
}

/// Files beside each other: the place has no versions, so an older key is another file.
struct Files {
    folder: tempfile::TempDir,
    written: Cell<usize>,
}

impl Shelf for Files {
    fn latest(&self) -> String {
        format!("file:{}", self.folder.path().join(self.written.get().to_string()).display())
    }

    fn put(&self, text: &str) -> String {
        self.written.set(self.written.get() + 1);
        fs::write(self.folder.path().join(self.written.get().to_string()), text).unwrap();
        self.latest()
    }

    fn seen(&self) -> Option<String> {
        None
    }

    fn nothing(&self) -> Vec<String> {
        vec![format!("file:{}", self.folder.path().join("none").display()), "file:/".into()]
    }
}

#[test]
fn a_key_in_a_file_feeds_the_presets() {
    shown(&Files { folder: tempfile::tempdir().unwrap(), written: Cell::new(0) });
}

/// Variables of other names than the programs' own.
#[derive(Default)]
struct Variables(RefCell<Vec<String>>);

impl Shelf for Variables {
    fn latest(&self) -> String {
        format!("env:KEY_{}", self.0.borrow().len())
    }

    fn put(&self, text: &str) -> String {
        self.0.borrow_mut().push(text.into());
        self.latest()
    }

    fn seen(&self) -> Option<String> {
        None
    }

    fn nothing(&self) -> Vec<String> {
        vec!["env:KEY_0".into()]
    }

    fn variables(&self) -> Vec<(String, String)> {
        let values = self.0.borrow();
        values.iter().enumerate().map(|(at, value)| (format!("KEY_{}", at + 1), value.clone())).collect()
    }
}

#[test]
fn a_key_in_a_variable_of_another_name_feeds_the_presets() {
    shown(&Variables::default());
}

/// AWS Secrets Manager as moto plays it; the key is a member of a JSON secret that holds something else too.
struct Aws(Moto);

impl Aws {
    fn secret(&self) -> Value {
        let got = self.0.call("secretsmanager.GetSecretValue", &json!({ "SecretId": "sre/redis" }));
        serde_json::from_str(got["SecretString"].as_str().unwrap()).unwrap()
    }
}

impl Shelf for Aws {
    fn latest(&self) -> String {
        "aws-secrets-manager://sre/redis?region=eu-central-1&field=key".into()
    }

    fn put(&self, text: &str) -> String {
        let secret = json!({ "key": text, "owner": "sre" }).to_string();
        let listed = self.0.call("secretsmanager.ListSecrets", &json!({}));
        let stored = if listed["SecretList"].as_array().unwrap().is_empty() {
            self.0.call("secretsmanager.CreateSecret", &json!({ "Name": "sre/redis", "SecretString": secret }))
        } else {
            self.0.call("secretsmanager.PutSecretValue", &json!({ "SecretId": "sre/redis", "SecretString": secret }))
        };
        let version = stored["VersionId"].as_str().unwrap();
        format!("aws-secrets-manager://sre/redis?region=eu-central-1&version={version}&field=key")
    }

    fn seen(&self) -> Option<String> {
        let secret = self.secret();
        assert_eq!(secret["owner"], "sre", "the other members stay");
        Some(secret["key"].as_str().unwrap().into())
    }

    fn nothing(&self) -> Vec<String> {
        [
            "aws-secrets-manager://sre/none?region=eu-central-1",
            "aws-secrets-manager://sre/redis?region=eu-central-1&version=00000000-0000-0000-0000-000000000000&field=key",
            "aws-secrets-manager://sre/redis?region=eu-central-1&field=none",
        ]
        .map(str::to_owned)
        .into()
    }

    fn variables(&self) -> Vec<(String, String)> {
        Moto::variables(self.0.port).into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

#[test]
fn a_key_in_aws_secrets_manager_feeds_the_presets() {
    let Some(moto) = Moto::start() else { return };
    let aws = Aws(moto);
    shown(&aws);
    aws.0.call("secretsmanager.DeleteSecret", &json!({ "SecretId": "sre/redis", "RecoveryWindowInDays": 7 }));
    let seal = beside(&aws, keyfold("seal --format v1 --master-key")).arg(aws.latest()).stdin("x").run();
    seal.fails(4, &["the key is disabled", "cancel its deletion"]);
}

/// GCP Secret Manager as our FAKE plays it: Google offers no emulator.
struct Gcp(InsecureGcp);

impl Shelf for Gcp {
    fn latest(&self) -> String {
        self.0.secret("redis", None)
    }

    fn put(&self, text: &str) -> String {
        self.0.add_secret("redis", text);
        self.0.secret("redis", Some(self.0.secret_versions("redis")))
    }

    fn seen(&self) -> Option<String> {
        Some(self.0.latest_secret("redis"))
    }

    fn nothing(&self) -> Vec<String> {
        vec![self.0.secret("none", None), self.0.secret("redis", Some(999))]
    }
}

#[test]
fn a_key_in_gcp_secret_manager_feeds_the_presets_on_a_fake() {
    let gcp = Gcp(InsecureGcp::start());
    shown(&gcp);
    let pinned = gcp.put(MASTER);
    gcp.0.disable_secret("redis", gcp.0.secret_versions("redis"));
    let seal = keyfold("seal --format v1 --master-key").arg(&pinned).stdin("x").run();
    seal.fails(4, &["the key is disabled"]);
}

/// The KV engine of a real OpenBao.
struct Kv(Bao);

impl Kv {
    fn uri(&self, path: &str, more: &str) -> String {
        format!("hcvault-kv://127.0.0.1:{}/secret/{path}?{more}tls=off", self.0.port)
    }
}

impl Shelf for Kv {
    fn latest(&self) -> String {
        self.uri("sre/redis", "field=key&")
    }

    fn put(&self, text: &str) -> String {
        let secret = json!({ "data": { "key": text, "owner": "sre" } });
        let stored = self.0.post("secret/data/sre/redis", &secret);
        self.uri("sre/redis", &format!("field=key&version={}&", stored["data"]["version"]))
    }

    fn seen(&self) -> Option<String> {
        let secret = self.0.ask("GET", "secret/data/sre/redis", &Value::Null);
        let members = &secret["data"]["data"];
        assert_eq!(members["owner"], "sre", "the other members stay");
        Some(members["key"].as_str().unwrap().into())
    }

    fn nothing(&self) -> Vec<String> {
        vec![
            self.uri("sre/none", ""),
            self.uri("sre/redis", "version=999&"),
            self.uri("sre/redis", "field=none&"),
            self.latest().replace("/secret/", "/elsewhere/"),
        ]
    }

    fn variables(&self) -> Vec<(String, String)> {
        vec![("BAO_TOKEN".into(), ROOT_TOKEN.into())]
    }
}

#[test]
fn a_key_in_openbaos_kv_engine_feeds_the_presets() {
    let Some(bao) = Bao::start() else { return };
    let kv = Kv(bao);
    shown(&kv);
    let pinned = kv.put(MASTER);
    kv.0.ask("DELETE", "secret/data/sre/redis", &Value::Null);
    for uri in [pinned, kv.latest()] {
        let seal = beside(&kv, keyfold("seal --format v1 --master-key")).arg(&uri).stdin("x").run();
        seal.fails(4, &["there is no such key"]);
    }
}

#[test]
fn a_place_that_cannot_be_reached_is_an_error_within_bounds_and_nothing_is_sealed() {
    for (uri, name, value) in [
        ("aws-secrets-manager://sre/redis?region=eu-central-1", "AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
        ("gcp-secret-manager://projects/p/secrets/redis?endpoint=http://127.0.0.1:1", "X", "x"),
        ("hcvault-kv://127.0.0.1:1/secret/sre/redis?tls=off", "BAO_TOKEN", "x"),
    ] {
        let call = keyfold("seal --format v1 --master-key").arg(uri).stdin("hunter2").env(name, value);
        let call = call.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "x");
        call.run().fails(5, &[uri, "cannot be reached", "try again"]);
    }
}

#[test]
fn keys_of_both_kinds_come_from_two_places_and_each_is_asked_once() {
    let Some(bao) = Bao::start() else { return };
    for (name, key) in [("master", MASTER), ("older", OTHER_MASTER), ("fernet", FERNET), ("older-fernet", OTHER_FERNET)]
    {
        bao.post(&format!("secret/data/{name}"), &json!({ "data": { "key": key } }));
    }
    let uri = |name: &str| format!("hcvault-kv://127.0.0.1:{}/secret/{name}?tls=off", bao.port);
    let keyed = |arguments: &str| {
        let names = [
            ("--master-key", "master"),
            ("--master-key", "older"),
            ("--fernet-key", "fernet"),
            ("--fernet-key", "older-fernet"),
        ];
        let call = keyfold(arguments).env("BAO_TOKEN", ROOT_TOKEN);
        names.iter().fold(call, |call, (option, name)| call.arg(option).arg(uri(name)))
    };
    for (format, variable, key) in
        [("v1", MASTER_VARIABLE, OTHER_MASTER), ("fernet", common::FERNET_VARIABLE, OTHER_FERNET)]
    {
        let older = keyfold("seal --format").arg(format).env(variable, key).stdin("hunter2").run().text();
        assert_eq!(keyed("open").stdin(&older).run().text(), "hunter2", "{format}");
        let newer = keyed(&format!("seal --format {format}")).stdin("hunter2").run().text();
        let key = if format == "v1" { MASTER } else { FERNET };
        assert_eq!(keyfold("open").env(variable, key).stdin(&newer).run().text(), "hunter2", "{format}");
    }
    keyfold("open --fernet-key hunter2").stdin("x").run().fails(2, &["not the URI of a key"]);
}
