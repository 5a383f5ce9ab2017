//! The root key goes away: what has the keyring open goes on and says so, a start fails with the remedy, and no process waits
//! for ever.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests, outside the functions that clippy knows as such"
)]
#![cfg(all(feature = "aws", feature = "gcp", feature = "hcvault", feature = "pkcs11"))]

mod common;
#[path = "../../providers/tests/components/mod.rs"]
mod components;
#[path = "../../providers/tests/components/gcp_fake.rs"]
mod gcp_fake;

use std::{fs, path::Path, sync::Arc, time::Duration};

use common::keyfold;
use components::{
    bao::{Bao, ROOT_TOKEN},
    forwarder::{Forwarder, Mode},
    free_port, in_child, is_child,
    moto::Moto,
    softhsm::{PIN, SoftHsm, make_key},
    told,
};
use gcp_fake::InsecureGcp;
use keyfold_core::{
    accept::Accept,
    clock::UnixTime,
    context::Context,
    envelope::{Format, Reading},
    keyring::Reader,
    rng::{Fresh, SystemRandom},
    root::RootKey,
};
use keyfold_custody::{
    keys::{Copies, KeyringStore, LiveKeyring},
    store::{
        SystemStore,
        sqlite::{OpenMode, SqliteStore},
    },
};
use keyfold_providers::Roots;

/// The keyring of a data folder, as a process that stays has it open.
async fn process(folder: &Path, root: &str) -> (Arc<LiveKeyring>, Arc<SqliteStore>) {
    let store = Arc::new(SqliteStore::open(folder.join("keyfold.db"), OpenMode::Existing).await.unwrap());
    let system: Arc<dyn SystemStore> = Arc::clone(&store) as _;
    let root: Arc<dyn RootKey> = Arc::new(keyfold_providers::open(&root.parse().unwrap()).unwrap());
    let keyrings = KeyringStore::new(Arc::clone(&system), root, Copies::in_folder(folder), Vec::new());
    let id = keyfold_core::id::WriterId([7; 16]);
    let keys = LiveKeyring::open(keyrings.with_roots(Arc::new(Roots)), system, id, "stays").await.unwrap();
    (keys, store)
}

async fn seals_and_opens(keys: &LiveKeyring) {
    let (context, accept) = (Context::empty().digest(), Accept::any_sealed());
    let fresh = Fresh { random: &SystemRandom, now: UnixTime(1_800_000_000) };
    let sealed = keys.sealing().await.unwrap().seal(Format::Kf1, &context, b"hunter2", fresh).unwrap();
    let reader = Reader { accept: &accept, today: fresh.now.date(), reading: Reading::Strict, max_age: None };
    assert_eq!(keys.opening().open(&sealed.text, &context, &reader).unwrap().secret.expose(), b"hunter2");
}

/// `out` takes the root key away and `back` brings it again; `says` is what is reported meanwhile.
fn goes_on(root: &str, variables: &[&str], says: &str, out: impl FnOnce(), back: impl FnOnce()) {
    let folder = tempfile::tempdir().unwrap();
    let call = |arguments: &str| {
        let call = keyfold(arguments).data_dir(folder.path()).env("KEYFOLD_ROOT_KEY", root);
        variables.iter().fold(call, |call, name| call.env(name, told(name)))
    };
    call("init").run().text();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (keys, store) = process(folder.path(), root).await;
        let theirs = Arc::clone(&keys);
        let following = tokio::spawn(async move { theirs.follow_and_check(Duration::from_millis(50)).await });
        let until = async |trouble: bool| {
            // Every check ends within the bounds of the root key, which are seconds.
            for _ in 0..1200 {
                if keys.root_trouble().is_some() == trouble {
                    return keys.root_trouble().unwrap_or_default();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            panic!("a minute, and the process reports {:?}", keys.root_trouble());
        };
        keys.check_root().await;
        assert_eq!(keys.root_trouble(), None);
        out();
        let told = until(true).await;
        assert!(told.starts_with(root) && told.contains(says), "{told}");
        seals_and_opens(&keys).await;
        let ended = call("keys list").run();
        assert!([4, 5].contains(&ended.code), "{}", ended.stderr);
        assert!(ended.stderr.contains(root) && ended.stderr.contains("hint: "), "{}", ended.stderr);
        assert!(ended.stdout.is_empty());
        back();
        until(false).await;
        seals_and_opens(&keys).await;
        following.abort();
        keys.close().await.unwrap();
        store.close().await;
    });
    runtime.shutdown_background();
    call("keys list").run().text();
}

#[test]
fn a_process_goes_on_and_reports_that_its_key_file_is_gone() {
    let elsewhere = tempfile::tempdir().unwrap();
    let (path, away) = (elsewhere.path().join("root.key"), elsewhere.path().join("away"));
    let gone = || fs::rename(&path, &away).unwrap();
    goes_on(&format!("file:{}", path.display()), &[], "no such file", gone, || fs::rename(&away, &path).unwrap());
}

#[test]
fn a_process_goes_on_and_reports_that_openbao_is_unreachable() {
    const NAME: &str = "a_process_goes_on_and_reports_that_openbao_is_unreachable";
    if !is_child(NAME) {
        let Some(bao) = Bao::start() else { return };
        return in_child(NAME, &[("BAO_PORT", &bao.port.to_string()), ("BAO_TOKEN", ROOT_TOKEN)]);
    }
    let forwarder = Forwarder::start(told("BAO_PORT").parse().unwrap());
    let root = format!("hcvault://127.0.0.1:{}/transit/keys/root?tls=off", forwarder.port);
    let out = || forwarder.set(Mode::Break);
    goes_on(&root, &["BAO_TOKEN"], "cannot be reached", out, || forwarder.set(Mode::Pass));
}

#[test]
fn a_process_goes_on_and_reports_that_aws_is_unreachable() {
    const NAME: &str = "a_process_goes_on_and_reports_that_aws_is_unreachable";
    const VARIABLES: [&str; 3] = ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    if !is_child(NAME) {
        let Some(moto) = Moto::start() else { return };
        let own = free_port();
        let mut variables = Moto::variables(own);
        variables.extend([("OWN", own.to_string()), ("MOTO", moto.port.to_string()), ("ARN", moto.key())]);
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, &**value)).collect();
        return in_child(NAME, &variables);
    }
    let forwarder = Forwarder::start_at(told("OWN").parse().unwrap(), told("MOTO").parse().unwrap());
    let out = || forwarder.set(Mode::Break);
    goes_on(&format!("aws-kms://{}", told("ARN")), &VARIABLES, "cannot be reached", out, || forwarder.set(Mode::Pass));
}

#[test]
fn a_process_goes_on_and_reports_that_gcp_is_unreachable_on_a_fake() {
    let gcp = InsecureGcp::start();
    let forwarder = Forwarder::start(gcp.port);
    let out = || forwarder.set(Mode::Break);
    goes_on(&gcp.key("root", Some(forwarder.port)), &[], "cannot be reached", out, || forwarder.set(Mode::Pass));
}

/// A token of SoftHSM behind a library that plays its faults.
fn with_token(name: &str) {
    let Some(hsm) = SoftHsm::start() else { return };
    let Some(faulty) = hsm.faulty() else { return };
    let (config, root) = (hsm.config(), faulty.uri.replace("KEY", "root"));
    let mut variables = vec![("SOFTHSM2_CONF", &*config), ("KEYFOLD_PKCS11_PIN", PIN), ("ROOT", &*root)];
    variables.extend(faulty.variables.iter().map(|(name, value)| (*name, &**value)));
    in_child(name, &variables);
}

const TOKEN: [&str; 4] = ["SOFTHSM2_CONF", "KEYFOLD_PKCS11_PIN", "KEYFOLD_TEST_MODULE", "KEYFOLD_TEST_FAULTS"];

fn fault(letters: &str) {
    fs::write(told("KEYFOLD_TEST_FAULTS"), letters).unwrap();
}

#[test]
fn a_process_goes_on_and_reports_that_its_token_fails() {
    const NAME: &str = "a_process_goes_on_and_reports_that_its_token_fails";
    if !is_child(NAME) {
        return with_token(NAME);
    }
    make_key(&told("KEYFOLD_TEST_MODULE"), "root");
    goes_on(&told("ROOT"), &TOKEN, "the token failed", || fault("D*"), || fault(""));
}

#[test]
fn a_token_that_hangs_holds_up_neither_the_process_that_has_the_keyring_open_nor_the_end_of_one_that_starts() {
    const NAME: &str =
        "a_token_that_hangs_holds_up_neither_the_process_that_has_the_keyring_open_nor_the_end_of_one_that_starts";
    if !is_child(NAME) {
        return with_token(NAME);
    }
    make_key(&told("KEYFOLD_TEST_MODULE"), "root");
    goes_on(&told("ROOT"), &TOKEN, "no answer within", || fault("H*"), || fault(""));
}
