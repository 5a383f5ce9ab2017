//! Root keys change under a store in use: from the environment's key to an HSM, from there to OpenBao, and back from ashes with
//! the recovery key.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a step that fails ends the test")]
#![cfg(all(feature = "pkcs11", feature = "hcvault"))]

mod common;
#[path = "../../providers/tests/components/mod.rs"]
mod components;

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Child, ChildStdin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{
    Call,
    deployment::{doc, key, scaled},
    keyfold,
};
use components::{
    bao::{Bao, ROOT_TOKEN},
    forwarder::{Forwarder, Mode},
    in_child, is_child,
    softhsm::{PIN, SoftHsm, make_key},
    told,
};
use keyfold_core::{
    keyring::{Reader, master_to_text},
    root::RootKey,
    secret::Key32,
};
use keyfold_custody::{
    config::Config,
    keys::{Copies, KeyringStore, LiveKeyring},
    layout::json::{self, Value},
    store::{
        Partition, RecordStore, SystemStore,
        sqlite::{OpenMode, SqliteStore},
    },
};
use keyfold_providers::Roots;

const CONFIG: &str = r#"[collections.apps]
fields = ["/url", "/password", "/extra/*"]
format = "v1"
accept = ["v1", "kf1"]
"#;

/// A data folder whose root key may be anywhere, with what it takes to get there.
struct Place {
    folder: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Place {
    fn new(root: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("keyfold.toml"), CONFIG).unwrap();
        let mut place = Self { folder, variables: Vec::new() };
        for name in ["SOFTHSM2_CONF", "KEYFOLD_PKCS11_PIN", "BAO_TOKEN", "REDIS_SRE_MASTER_KEY"] {
            place.set(name, &std::env::var(name).unwrap_or_default());
        }
        place.set("KEYFOLD_ROOT_KEY", root);
        place
    }

    /// Sets a variable, or takes it away.
    fn set(&mut self, name: &'static str, value: &str) {
        self.variables.retain(|(other, _)| *other != name);
        if !value.is_empty() {
            self.variables.push((name, value.to_owned()));
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn call(&self, arguments: &str) -> Call {
        let call = keyfold(arguments).data_dir(self.path());
        self.variables.iter().fold(call, |call, (name, value)| call.env(name, value))
    }

    /// Runs a command that must succeed, and gives what it says.
    fn run(&self, arguments: &str) -> String {
        self.call(arguments).run().text()
    }

    /// Runs a command that makes a key, and gives its id.
    fn kid(&self, arguments: &str) -> String {
        self.call(&format!("{arguments} --json")).run().json()["kid"].as_str().unwrap().to_owned()
    }

    fn under(&self, kid: &str) -> u64 {
        let census = self.call("keys census --json").run().json();
        assert_eq!(census["unreadable"], 0, "{census}");
        let lines = census["values"].as_array().unwrap().iter().filter(|line| line["kid"] == kid);
        lines.map(|line| line["values"].as_u64().unwrap()).sum()
    }

    fn import(&self, docs: std::ops::Range<usize>) {
        let lines: String = docs.map(|i| doc(i, 0) + "\n").collect();
        self.call("records import apps").stdin(lines).run().text();
    }
}

/// An import that waits for more on its pipe: a process that writes for as long as the test wants, and follows.
struct Writer {
    child: Child,
    pipe: ChildStdin,
    next: usize,
    _home: tempfile::TempDir,
}

impl Writer {
    fn start(place: &Place, first: usize) -> Self {
        let (mut child, home) = place.call("records import apps").start();
        let pipe = child.stdin.take().unwrap();
        Self { child, pipe, next: first, _home: home }
    }

    fn write(&mut self, count: usize) {
        for _ in 0..count {
            writeln!(self.pipe, "{}", doc(self.next, 0)).unwrap();
            self.next += 1;
        }
        self.pipe.flush().unwrap();
    }

    /// Ends it, and gives the number of the first record that it did not write.
    fn finish(self) -> usize {
        drop(self.pipe);
        let ended = self.child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        self.next
    }
}

/// A process that opened the keyring before anything changed, follows it, and reads everything over and over.
struct Follower {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<()>,
}

impl Follower {
    fn start(folder: &Path, root: &str) -> Self {
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (folder, root) = (folder.to_owned(), root.to_owned());
        let (theirs, count) = (Arc::clone(&stop), Arc::clone(&reads));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(follow(&folder, &root, &theirs, &count));
        });
        Self { stop, reads, thread }
    }

    /// Waits until it has read more, so that each state of the keyring was met.
    fn reads_on(&self) {
        let until = self.reads.load(Ordering::SeqCst) + 200;
        while self.reads.load(Ordering::SeqCst) < until {
            assert!(!self.thread.is_finished(), "the process that follows could not read");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn finish(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        self.reads.load(Ordering::SeqCst)
    }
}

async fn follow(folder: &Path, root: &str, stop: &AtomicBool, reads: &AtomicUsize) {
    let store = Arc::new(SqliteStore::open(folder.join("keyfold.db"), OpenMode::Existing).await.unwrap());
    let system: Arc<dyn SystemStore> = Arc::clone(&store) as _;
    let root: Arc<dyn RootKey> = Arc::new(keyfold_providers::open(&root.parse().unwrap()).unwrap());
    let keyrings = KeyringStore::new(Arc::clone(&system), root, Copies::in_folder(folder), Vec::new());
    let id = keyfold_core::id::WriterId([7; 16]);
    let keys = LiveKeyring::open(keyrings.with_roots(Arc::new(Roots)), system, id, "follower").await.unwrap();
    let following = tokio::spawn(Arc::clone(&keys).follow());
    let config = Config::parse(CONFIG).unwrap();
    let collection = config.collection("apps").unwrap();
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let reader = Reader { accept: &collection.accept, today, reading: collection.reading, max_age: None };
    while !stop.load(Ordering::SeqCst) {
        let mut after = None;
        loop {
            // The keyring first: what it does not know yet, the values read after it do not need yet.
            let page = store.scan(&collection.id, &Partition::whole(), after.as_ref(), 100).await.unwrap();
            for record in &page.records {
                let text = record.cells[0].value.as_str().unwrap();
                for found in json::find(text, &collection.fields).unwrap() {
                    let Value::Text(value) = &found.value else { panic!("not text") };
                    let keyring = keys.opening();
                    let context = collection.digest(keyring.deployment(), &record.key, &found.pointer).unwrap();
                    let opened = keyring.open(value, &context, &reader);
                    if opened.is_err() {
                        // A retired key, or one it has not seen: one reload, and the record as it is now.
                        keys.look().await.unwrap();
                        let record = store.read(&collection.id, &record.key).await.unwrap().unwrap();
                        let text = record.cells[0].value.as_str().unwrap();
                        let again = json::find(text, &collection.fields).unwrap();
                        let again = again.iter().find(|other| other.exact() == found.exact()).unwrap();
                        let Value::Text(value) = &again.value else { panic!("not text") };
                        keys.opening().open(value, &context, &reader).unwrap();
                    }
                    reads.fetch_add(1, Ordering::SeqCst);
                }
            }
            after = page.next;
            if after.is_none() || stop.load(Ordering::SeqCst) {
                break;
            }
        }
    }
    following.abort();
    keys.close().await.unwrap();
    store.close().await;
}

fn token_and_server(name: &str) {
    let (Some(hsm), Some(bao)) = (SoftHsm::start(), Bao::start()) else { return };
    let key = master_to_text(&Key32::new([0x5e; 32]));
    let (config, uri, transit) = (hsm.config(), hsm.uri("root"), bao.uri("root", None));
    let (module, port) = (hsm.module.display().to_string(), bao.port.to_string());
    let variables = [
        ("SOFTHSM2_CONF", &*config),
        ("KEYFOLD_PKCS11_PIN", PIN),
        ("BAO_TOKEN", ROOT_TOKEN),
        ("REDIS_SRE_MASTER_KEY", &key),
        ("HSM_ROOT", &uri),
        ("HSM_MODULE", &module),
        ("BAO_ROOT", &transit),
        ("BAO_PORT", &port),
    ];
    in_child(name, &variables);
}

#[test]
fn from_the_environments_key_to_an_hsm_and_on_to_openbao_nothing_is_unreadable_at_any_moment() {
    const NAME: &str = "from_the_environments_key_to_an_hsm_and_on_to_openbao_nothing_is_unreadable_at_any_moment";
    if !is_child(NAME) {
        return token_and_server(NAME);
    }
    make_key(&told("HSM_MODULE"), "root");
    let records = scaled(10_000);
    let mut place = Place::new(&told("HSM_ROOT"));
    place.run("init");
    // The key that the agent has in its environment becomes an entry under the HSM, and seals what is there.
    let old = place.kid("keys import --from env:REDIS_SRE_MASTER_KEY");
    place.run(&format!("keys promote {old}"));
    place.import(0..records);
    let stored = place.call("records export apps").run().text();
    let line = stored.lines().next().unwrap();
    let envelope = line.split('"').find(|part| part.len() > 100).unwrap().to_owned();
    let alone = || keyfold("open").env("REDIS_SRE_MASTER_KEY", told("REDIS_SRE_MASTER_KEY")).stdin(&envelope);
    assert!(!alone().run().text().is_empty(), "the environment's key opens what it sealed");
    place.set("REDIS_SRE_MASTER_KEY", "");

    let follower = Follower::start(place.path(), &told("HSM_ROOT"));
    let mut writer = Writer::start(&place, records);
    writer.write(20);
    follower.reads_on();
    let new = place.kid("keys create");
    follower.reads_on();
    place.run(&format!("keys promote {new}"));
    writer.write(20);
    follower.reads_on();
    place.run("rotate");
    writer.write(20);
    follower.reads_on();
    place.run(&format!("keys retire {old}"));
    place.run(&format!("keys destroy {old} --min-age 0 --yes"));
    writer.write(20);
    follower.reads_on();

    // On to OpenBao: no record is touched.
    let before = place.call("records export apps").run().text();
    place.run(&format!("keys rewrap-root --to {}", told("BAO_ROOT")));
    let after = place.call("records export apps").env("KEYFOLD_ROOT_KEY", told("BAO_ROOT")).run().text();
    assert!(before.lines().all(|line| after.contains(line)), "a record changed");
    place
        .call("keys list")
        .run()
        .fails(4, &["does not open under pkcs11:", "but under hcvault://", "KEYFOLD_ROOT_KEY"]);
    place.set("KEYFOLD_ROOT_KEY", &told("BAO_ROOT"));
    place.set("KEYFOLD_PKCS11_PIN", "");
    writer.write(20);
    follower.reads_on();
    // The processes that were there before all of it still change nothing and lose nothing.
    let newest = place.kid("keys create");
    place.run(&format!("keys promote {newest}"));
    writer.write(20);
    follower.reads_on();
    let total = writer.finish();
    assert!(follower.finish() > 1_000);

    place.run("rotate");
    let verified = place.call("verify --json").run().json();
    assert_eq!(verified["records"].as_u64().unwrap(), total as u64);
    assert_eq!(place.under(&newest), 3 * total as u64);
    // The environment's key is of no use any more, and errors name what became of it.
    place.set("REDIS_SRE_MASTER_KEY", &told("REDIS_SRE_MASTER_KEY"));
    place.call("open").stdin(&envelope).run().fails(4, &["Decryption failed"]);
    place.call("seal --format v1").stdin("x").run().fails(4, &[&old, "destroyed"]);
    place.call("keys import --from env:REDIS_SRE_MASTER_KEY").run().fails(4, &[&old, "destroyed and cannot come back"]);
}

#[test]
fn a_process_with_its_keyring_open_goes_on_while_the_root_key_is_gone_and_a_start_says_what_helps() {
    const NAME: &str = "a_process_with_its_keyring_open_goes_on_while_the_root_key_is_gone_and_a_start_says_what_helps";
    if !is_child(NAME) {
        return token_and_server(NAME);
    }
    // A forwarder plays the outage: the server itself stays.
    let forwarder = Forwarder::start(told("BAO_PORT").parse().unwrap());
    let root = format!("hcvault://127.0.0.1:{}/transit/keys/root?tls=off", forwarder.port);
    let place = Place::new(&root);
    place.run("init");
    place.import(0..10);
    let mut writer = Writer::start(&place, 10);
    writer.write(5);
    while place.call("keys list").run().text().lines().filter(|line| line.contains("records import")).count() == 0 {
        std::thread::sleep(Duration::from_millis(50));
    }
    forwarder.set(Mode::Break);
    writer.write(100);
    std::thread::sleep(Duration::from_secs(2));
    writer.write(100);
    place.call("keys list").run().fails(5, &["hcvault://", "cannot be reached", "try again"]);
    let checked = place.call("doctor --keys").run();
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(said.contains("error: hcvault://") && said.contains("a start would fail"), "{said}");
    let total = writer.finish();
    forwarder.set(Mode::Pass);
    let verified = place.call("verify --json").run().json();
    assert_eq!(verified["records"].as_u64().unwrap(), total as u64);
    let healthy = place.run("doctor --keys");
    for words in ["wraps and opens", "one root key alone", "days old, primary", "this keyring opens"] {
        assert!(healthy.contains(words), "{words}: {healthy}");
    }
}

#[test]
fn the_recovery_key_restores_a_keyring_on_another_machine_after_its_root_key_is_destroyed() {
    let mut place = Place::new("");
    place.run("init");
    place.import(0..20);
    let paper = tempfile::tempdir().unwrap();
    let file = paper.path().join("recovery.key");
    place.call("keys add-recovery").arg(&file).run().text();
    // Keys that come later are covered too, without the recovery key being there.
    let later = place.kid("keys create");
    place.run(&format!("keys promote {later}"));
    place.run("rotate");
    let backup = paper.path().join("keyring.backup");
    place.call("keys backup").arg(&backup).run().text();
    let records = place.call("records export apps").run().text();
    fs::remove_file(place.path().join("root.key")).unwrap();
    place.call("keys list").run().fails(4, &["no such file"]);

    let mut other = Place::new("");
    other.call("keys restore").arg(&backup).run().fails(4, &[]);
    let wrong = paper.path().join("wrong.key");
    let decoy = Place::new("");
    decoy.run("init");
    decoy.call("keys add-recovery").arg(&wrong).run().text();
    let restore = |key: &Path| {
        other.call("keys restore").arg(&backup).arg("--recovery-key").arg(format!("file:{}", key.display())).run()
    };
    restore(&wrong).fails(4, &["does not open under recovery:"]);
    assert!(!other.path().join("root.key").exists(), "a restore that failed leaves no root key behind");
    restore(&file).text();
    other.call("records import --exported apps").stdin(&records).run().text();
    let revealed = other.call("records get apps --reveal").arg(key(3)).run().text();
    assert_eq!(revealed.trim(), doc(3, 0));
    // The new root key opens it from now on, and the recovery key stays.
    other.run("keys create");
    let listed = other.run("doctor --keys");
    assert!(listed.contains("file:") && listed.contains("recovery:"), "{listed}");
    // It was typed into a machine: another one takes its place.
    let used = listed.split_whitespace().find(|word| word.starts_with("recovery:")).unwrap();
    other.call("keys add-recovery").arg(paper.path().join("next.key")).run().text();
    other.run(&format!("keys remove-root {used}"));
    let after = paper.path().join("after.backup");
    other.call("keys backup").arg(&after).run().text();
    let third = Place::new("");
    let restored = |key: &str| {
        let key = format!("file:{}", paper.path().join(key).display());
        third.call("keys restore").arg(&after).arg("--recovery-key").arg(key).run()
    };
    restored("recovery.key").fails(4, &["does not open under recovery:"]);
    restored("next.key").text();
    // In the old folder too, once the root key is made anew.
    place.set("KEYFOLD_ROOT_KEY", "");
    place.call("keys restore").arg(&backup).arg("--recovery-key").arg(format!("file:{}", file.display())).run().text();
    assert_eq!(place.call("records get apps --reveal").arg(key(3)).run().text().trim(), doc(3, 0));
    other.set("KEYFOLD_ROOT_KEY", "");
}

#[test]
fn a_second_root_key_opens_the_keyring_and_takes_over_where_the_first_one_is_gone() {
    let mut place = Place::new("");
    place.run("init");
    place.import(0..5);
    let elsewhere = tempfile::tempdir().unwrap();
    let second = elsewhere.path().join("second.key");
    keyfold_providers::create_file(&second).unwrap();
    let uri = format!("file:{}", second.display());
    place.run(&format!("keys add-root {uri}"));
    let first = place.path().join("root.key");
    fs::remove_file(&first).unwrap();
    place.set("KEYFOLD_ROOT_KEY", &uri);
    assert_eq!(place.call("records get apps --reveal").arg(key(3)).run().text().trim(), doc(3, 0));
    // All root keys wrap each change, so nothing can be changed before the lost one is left out.
    place.call("keys create").run().fails(4, &[&first.display().to_string(), "no such file"]);
    place.run(&format!("keys rewrap-root --to {uri}"));
    let later = place.kid("keys create");
    place.run(&format!("keys promote {later}"));
    // The other way: a third one that is lost is taken off, and the last one stays.
    let third = elsewhere.path().join("third.key");
    keyfold_providers::create_file(&third).unwrap();
    place.run(&format!("keys add-root file:{}", third.display()));
    fs::remove_file(&third).unwrap();
    let removed = place.run(&format!("keys remove-root file:{}", third.display()));
    assert!(removed.contains("removed file:"), "{removed}");
    place.kid("keys create");
    place.call(&format!("keys remove-root {uri}")).run().fails(2, &["no root key would be left", "hint: "]);
    place.call("keys remove-root env:NONE").run().fails(1, &["env:NONE is no root key of the keyring", &uri]);
    assert_eq!(place.call("records get apps --reveal").arg(key(3)).run().text().trim(), doc(3, 0));
}

#[test]
fn p08_a_master_key_by_uri_that_is_missing_or_malformed_is_an_error_and_never_another_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let uri = format!("file:{}", path.display());
    let seal = || keyfold("seal --format v1 --master-key").arg(&uri).stdin("hunter2").run();
    seal().fails(4, &[&uri]);
    for (content, says) in [
        ("", "Master key must be 32 bytes, 0 found"),
        ("AAAA", "Master key must be 32 bytes, 3 found"),
        ("not base64!", "11 characters found"),
        ("\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"", "46 characters found"),
    ] {
        fs::write(&path, content).unwrap();
        seal().fails(4, &[says, "hint: "]);
    }
    fs::write(&path, master_to_text(&Key32::new([1; 32])) + "\n").unwrap();
    let envelope = seal().text();
    let opened = keyfold("open").env("REDIS_SRE_MASTER_KEY", master_to_text(&Key32::new([1; 32]))).stdin(&envelope);
    assert_eq!(opened.run().text(), "hunter2");
    let older = folder.path().join("older");
    fs::write(&older, master_to_text(&Key32::new([2; 32]))).unwrap();
    let two = |first: &Path, second: &Path| {
        let call = keyfold("open --master-key").arg(format!("file:{}", first.display())).arg("--master-key");
        call.arg(format!("file:{}", second.display())).stdin(&envelope).run()
    };
    assert_eq!(two(&older, &path).text(), "hunter2", "older ones open");
    two(&older, &older).fails(4, &["listed twice"]);
    keyfold("seal --format v1 --master-key env:NOT_SET")
        .stdin("x")
        .run()
        .fails(4, &["NOT_SET environment variable not set"]);
    keyfold("seal --format v1 --master-key hunter2").stdin("x").run().fails(2, &["not the URI of a key"]);
}
