//! Our own data in a store that several machines share: two data folders are two machines.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as such")]

mod common;
#[path = "../../custody/tests/servers/mod.rs"]
mod servers;

use std::{fs, path::Path, sync::Arc, time::Duration};

use common::{
    Call,
    folder::{INSTANCES, instances},
    keyfold,
    served::Served,
};
use serde_json::json;
use servers::{postgres::Postgres, redis::Redis};
use tempfile::TempDir;

const DOC: &str = r#"{"connection_url":"redis://agent:hunter2@db:6379","name":"one"}"#;

/// Two machines and the store between them.
struct Machines {
    folders: [TempDir; 2],
    address: String,
}

impl Machines {
    /// The first one makes the deployment, the second one has its root key.
    fn new(address: &str) -> Self {
        let machines =
            Self { folders: std::array::from_fn(|_| tempfile::tempdir().unwrap()), address: address.to_owned() };
        for n in 0..2 {
            fs::create_dir(machines.data(n)).unwrap();
            fs::write(machines.data(n).join("keyfold.toml"), INSTANCES).unwrap();
        }
        machines
    }

    fn data(&self, n: usize) -> std::path::PathBuf {
        self.folders[n].path().join("data")
    }

    fn call(&self, n: usize, arguments: &str) -> Call {
        keyfold(arguments).data_dir(&self.data(n)).env("KEYFOLD_SYSTEM", &self.address)
    }

    fn give_root_key(&self) {
        fs::copy(self.data(0).join("root.key"), self.data(1).join("root.key")).unwrap();
    }
}

fn no_database(folder: &Path) {
    assert!(!folder.join("keyfold.db").exists(), "a database in {}", folder.display());
}

/// What a deployment does from its first day to its first rotation, over two machines.
fn shared(address: &str) {
    let machines = Machines::new(address);
    let made = machines.call(0, "init --json").run().json();
    assert!(!made["existed"].as_bool().unwrap() && !made["system"].as_str().unwrap().contains('@'), "{made}");
    machines.call(0, "records put instances one").stdin(DOC).run().text();

    // Without the root key the second machine neither joins nor leaves anything behind that would be in its way.
    machines.call(1, "init").run().fails(4, &["root key of this deployment is missing", "copy it from a machine"]);
    assert!(!machines.data(1).join("root.key").exists());
    machines.call(1, "records list instances").run().fails(5, &["no data folder", "keyfold init"]);
    machines.give_root_key();
    let joined = machines.call(1, "init --json").run().json();
    assert_eq!((&joined["joined"], &joined["deployment"]), (&json!(true), &made["deployment"]));
    assert!(machines.call(1, "init").run().text().contains("nothing to do"));

    let field = |n| machines.call(n, "records get instances one --field /connection_url").run();
    assert_eq!(field(1).stdout, b"redis://agent:hunter2@db:6379");
    machines.call(1, "records put instances two").stdin(DOC.replace("one", "two")).run().text();
    assert_eq!(machines.call(0, "records list instances").run().text().lines().count(), 2);
    // However the store parts them.
    assert_eq!(machines.call(1, "records export instances").run().text().lines().count(), 2);
    let looked = machines.call(0, "doctor --keys").run().text();
    assert!(looked.contains("opens 2 of 2 values that were tried"), "{looked}");

    // Keys change on one machine, and the other one seals and opens under what there is now.
    let kid = machines.call(0, "keys create --json").run().json()["kid"].as_str().unwrap().to_owned();
    machines.call(1, "keys promote").arg(&kid).run().text();
    let told = machines.call(1, "rotate --json").run().json();
    assert_eq!((&told["changed"], &told["quarantined_values"]), (&json!(2), &json!(0)));
    let old = made["kid"].as_str().unwrap();
    machines.call(0, "keys retire").arg(old).run().text();
    assert_eq!(field(0).stdout, b"redis://agent:hunter2@db:6379");
    assert_eq!(field(1).stdout, b"redis://agent:hunter2@db:6379");
    for n in 0..2 {
        assert_eq!(machines.call(n, "audit verify").run().code, 0);
        no_database(&machines.data(n));
    }

    // An older keyring put into the store is refused by who has seen a newer one, and the copy brings it back.
    let backup = machines.folders[0].path().join("backup");
    machines.call(0, "keys backup").arg(&backup).run().text();
    let call = machines.call(0, "keys restore").arg(&backup).run();
    assert_eq!(call.code, 0, "{}", call.stderr);

    // A folder of one deployment does not work on another one.
    let stranger = tempfile::tempdir().unwrap();
    keyfold("init").data_dir(stranger.path()).run().text();
    fs::copy(machines.data(0).join("root.key"), stranger.path().join("root.key")).unwrap();
    let ended = keyfold("keys list").data_dir(stranger.path()).env("KEYFOLD_SYSTEM", address).run();
    ended.fails(4, &["this folder is of", "--data-dir"]);
}

/// Tokens and keys of one service hold in the other one.
fn served(address: &str) {
    let machines = Machines::new(address);
    let config = format!("[system]\nuri = \"file:{}\"\n{INSTANCES}", machines.folders[0].path().join("url").display());
    fs::write(machines.folders[0].path().join("url"), address).unwrap();
    for n in 0..2 {
        fs::write(machines.data(n).join("keyfold.toml"), &config).unwrap();
    }
    let [first, second] = machines.folders.map(Arc::new);
    let one = Served::start(Arc::clone(&first), &[]);
    fs::copy(first.path().join("data/root.key"), second.path().join("data/root.key")).unwrap();
    let two = Served::start(Arc::clone(&second), &[]);
    one.put("/v1/collections/instances/records/a", json!({ "connection_url": "redis://u:p@h" })).is(201);
    let token = one.token_of("operator:other");
    // The other one hears of a new token, it does not look each one up.
    let open = || {
        let fields = json!({ "field": "/connection_url" });
        two.as_(&token, "POST", "/v1/collections/instances/records/a:open", Some(fields))
    };
    let mut opened = open();
    for _ in 0..100 {
        if opened.status != 401 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        opened = open();
    }
    assert!(opened.text().contains("redis://u:p@h"), "{}", opened.text());
    for n in [&first, &second] {
        no_database(&n.path().join("data"));
    }
    two.stop();
    one.stop();
}

/// One audit log of two machines, on the command line and over the service.
fn audited(address: &str) {
    let machines = Machines::new(address);
    for n in 0..2 {
        let url = machines.folders[0].path().join("url");
        fs::write(&url, address).unwrap();
        let place = format!("\"file:{}\"", url.display());
        let config = format!("[system]\nuri = {place}\n[audit]\nsink = {place}\n{INSTANCES}");
        fs::write(machines.data(n).join("keyfold.toml"), config).unwrap();
    }
    machines.call(0, "init").run().text();
    machines.give_root_key();
    machines.call(1, "init").run().text();
    for n in 0..2 {
        machines.call(n, "records put instances").arg(n.to_string()).stdin(DOC).run().text();
    }
    let put = |text: &str| text.lines().filter(|line| line.contains("record_put")).count();
    for n in 0..2 {
        let export = machines.call(n, "audit export").run().text();
        assert_eq!(put(&export), 4, "{export}");
        assert_eq!(put(&machines.call(n, "audit tail --lines 100").run().text()), 4);
        let verified = machines.call(n, "audit verify --json").run().json();
        assert_eq!(verified["verdict"], "ok", "{verified}");
        // One for each process that did something: the first `init` and both `put`. Who only reads leaves nothing.
        assert_eq!((&verified["chains"], &verified["events"]), (&json!(3), &json!(6)), "{verified}");
        assert!(!machines.data(n).join("audit").exists(), "segment files beside the store");
    }
    let key = machines.call(0, "audit key").run().text();
    let elsewhere = machines.call(1, "audit verify --key").arg(&key).run();
    assert_eq!(elsewhere.code, 0, "{}", elsewhere.stderr);

    let [first, _second] = machines.folders.map(Arc::new);
    let one = Served::start(first, &[]);
    assert_eq!(one.get("/v1/audit/verify").is(200)["verdict"], "ok");
    assert!(one.get("/v1/audit?limit=5").is(200)["events"].as_array().unwrap().len() == 5);
    assert_eq!(put(&one.get("/v1/audit/export").text()), 4);
    one.stop();
}

#[test]
fn two_machines_share_one_audit_log_in_redis_streams() {
    let Some(server) = Redis::single(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    audited(&server.address);
}

#[test]
fn two_machines_share_one_audit_log_in_postgresql() {
    let Some(server) = Postgres::start() else { return };
    audited(&server.address());
}

#[cfg(feature = "firestore")]
#[test]
fn two_machines_share_one_deployment_and_one_audit_log_in_firestore() {
    let Some(emulator) = servers::firestore::Firestore::start() else { return };
    shared(&emulator.address());
    let Some(emulator) = servers::firestore::Firestore::start() else { return };
    audited(&emulator.address());
}

#[test]
fn p40_an_audit_sink_that_cannot_be_reached_keeps_everything_from_being_done() {
    let Some(mut server) = Redis::single(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    let data = common::folder::Data::new(&instances(&format!("[audit]\nsink = \"{}\"", server.address)));
    data.put("one", DOC);
    server.servers[0].kill();
    let call = data.call("records get instances one --field /connection_url").run();
    assert!(call.stdout.is_empty() && call.code == 5, "{}", call.stderr);
    let port = server.servers[0].port;
    call.fails(5, &[&format!("redis://127.0.0.1:{port}")]);
}

#[test]
fn p18_where_the_last_checkpoint_cannot_be_read_from_the_store_no_keyring_is_taken() {
    use std::io::{Read as _, Write as _};

    let Some(server) = Redis::single(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    let data = common::folder::Data::new(&instances(&format!("[audit]\nsink = \"{}\"", server.address)));
    data.put("one", DOC);
    assert_eq!(data.call("records list instances").run().code, 0);
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.servers[0].port)).unwrap();
    stream.write_all(b"SET {keyfold-audit}:notes x\r\n").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+OK\r\n");
    data.call("records list instances").run().fails(5, &["the audit log"]);
}

#[test]
fn two_machines_share_one_deployment_in_redis() {
    let Some(server) = Redis::single(&["--appendonly", "yes"]) else { return };
    shared(&server.address);
}

#[test]
fn two_machines_share_one_deployment_in_a_redis_cluster() {
    let Some(server) = Redis::cluster() else { return };
    for server in &server.servers {
        server.configure("appendonly", "yes");
    }
    shared(&server.address);
}

#[test]
fn two_machines_share_one_deployment_in_postgresql() {
    let Some(server) = Postgres::start() else { return };
    shared(&server.address());
}

#[test]
fn two_services_share_one_deployment_in_redis_and_in_postgresql() {
    let Some(redis) = Redis::single(&["--appendonly", "yes"]) else { return };
    served(&redis.address);
    let Some(postgres) = Postgres::start() else { return };
    served(&postgres.address());
}

#[test]
fn a_redis_that_may_lose_what_it_acknowledged_is_refused_with_the_remedy() {
    let Some(server) = Redis::single(&[]) else { return };
    let machines = Machines::new(&server.address);
    machines.call(0, "init").run().fails(5, &["no append-only file", "set `appendonly yes`"]);
    server.servers[0].configure("appendonly", "yes");
    server.servers[0].configure("maxmemory-policy", "allkeys-lru");
    machines.call(0, "init").run().fails(5, &["allkeys-lru", "set `maxmemory-policy noeviction`"]);
    assert!(!machines.data(0).join("root.key").exists());
    server.servers[0].configure("maxmemory-policy", "noeviction");
    machines.call(0, "init").run().text();
}

#[test]
fn p43_a_system_address_with_a_password_is_refused_where_others_can_read_it() {
    let ended = keyfold("init --system redis://:hunter2@127.0.0.1:1").run();
    assert!(!ended.stderr.contains("hunter2"));
    ended.fails(2, &["--system", "env:NAME", "file:PATH"]);

    let data = common::folder::Data::empty();
    data.configure(&instances("[system]\nuri = \"redis://:hunter2@127.0.0.1:1\"\n[server]\nlisten = 1\n"));
    let ended = data.call("config check").run();
    assert!(!ended.stderr.contains("hunter2"));
    ended.fails(2, &["system.uri: the value holds a password", "env:NAME", "server.listen"]);

    // From the environment it is taken, and not repeated.
    let ended = data.call("init --config /dev/null").env("KEYFOLD_SYSTEM", "redis://:hunter2@127.0.0.1:1").run();
    assert!(!ended.stderr.contains("hunter2"));
    ended.fails(5, &["redis://127.0.0.1:1"]);
}

#[test]
fn an_address_that_is_none_is_refused_with_those_that_are() {
    for (address, says) in [("mysql://h/db", "redis://host"), ("sqlite:/tmp/x.db", "leave --system out")] {
        keyfold("init --system").arg(address).run().fails(2, &[says]);
    }
}

#[test]
fn a_database_in_which_init_made_nothing_is_taken_for_no_audit_log() {
    let Some(server) = Postgres::start() else { return };
    let data = common::folder::Data::new(INSTANCES);
    let key = data.call("audit key").run().text();
    fs::write(data.file("url"), server.address()).unwrap();
    data.configure(&instances(&format!("[audit]\nsink = \"file:{}\"", data.file("url").display())));
    // None of them makes anything there, so each of them finds nothing.
    for command in ["records put instances one", "keys list", "audit tail", "serve --listen 127.0.0.1:0"] {
        let ended = data.call(command).stdin(DOC).run();
        ended.fails(5, &["has no schema `keyfold` yet", "keyfold init"]);
    }
    let ended = data.call("audit verify --key").arg(&key).run();
    ended.fails(5, &["has no schema `keyfold` yet", "keyfold init"]);
    data.call("init").run().text();
    data.put("one", DOC);
    assert_eq!(data.call("audit verify --json").run().json()["verdict"], "ok");
}

/// The service's own retention, and by hand.
fn retained(address: &str) {
    let url = tempfile::NamedTempFile::new().unwrap();
    fs::write(url.path(), address).unwrap();
    let address = format!("file:{}", url.path().display());
    let config = format!("{INSTANCES}[audit]\nkeep = \"1s\"\nsink = \"{address}\"\n[server]\ncheckpoint = \"1s\"\n");
    let served = Served::new(&config);
    served.post("/v1/seal", json!({ "plaintext": "hunter2" })).is(200);
    let sealed = || served.get("/v1/audit/export").text().contains("\"seal\"");
    assert!(sealed());
    for _ in 0..200 {
        if !sealed() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!sealed(), "nothing was taken out");
    let place = served.stop();
    let call = |arguments: &str| keyfold(arguments).data_dir(&place.path().join("data"));
    std::thread::sleep(Duration::from_secs(2));
    let pruned = call("audit prune --older-than 1s --json").run().json();
    assert!(pruned["events"].as_u64().unwrap() > 0, "{pruned}");
    let report = call("audit verify --json").run().json();
    assert_eq!(report["verdict"], "ok", "{report}");
    assert!(report["pruned"].as_u64().unwrap() > 4, "{report}");
    assert!(call("audit export").run().text().contains("\"audit_prune\""), "it is an event itself");
}

#[test]
fn retention_keeps_a_log_in_redis_in_bounds() {
    let Some(server) = Redis::single(&["--appendonly", "yes", "--appendfsync", "always"]) else { return };
    retained(&server.address);
}

#[test]
fn retention_keeps_a_log_in_postgresql_in_bounds() {
    let Some(server) = Postgres::start() else { return };
    retained(&server.address());
}
