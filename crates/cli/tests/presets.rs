//! The data of redis-sre-agent and Auto SRE, where they keep it: moved without touching anything else, and read by Python after.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as such")]

mod common;
#[path = "../../custody/tests/servers/mod.rs"]
mod servers;

use common::{
    folder::Data,
    keyfold,
    place::{Place, sum},
};
use serde_json::Value;
use servers::{postgres::Postgres, redis::Redis};

const COUNT: usize = 40;

/// From sealed by halves under one key to sealed under another, and what Python makes of it.
fn moved(place: &Place) {
    let [old, new] = place.keys;
    if place.agent("write", old).is_none() {
        return;
    }
    let before = place.agent("dump", old);

    // Plaintext is told and left alone by everything but a migration.
    let (code, seen) = place.report("verify", old, None);
    let plain = sum(&seen, "quarantined_values");
    assert_eq!((code, plain > 0), (i32::from(plain > 0), place.program == "redis"));

    let (code, foretold) = place.report("migrate --dry-run", old, None);
    assert_eq!(code, 0);
    assert!(place.agent("dump", old) == before);
    let (code, told) = place.report("migrate", old, None);
    assert_eq!((code, sum(&told, "changed_values")), (0, plain));
    assert_eq!(sum(&told, "changed"), sum(&foretold, "changed"));
    let opened: u64 = place.agent("check", old).unwrap().parse().unwrap();
    assert_eq!(opened, sum(&told, "values"));

    // Not before the readers hold both keys.
    let refused = place.keyfold("rotate", new, Some(old)).run();
    refused.fails(3, &["holds one key", "--readers-ready", &format!("{}_PREVIOUS", place.variable)]);
    place.agent("check", old).unwrap();

    // A wrong key changes nothing and says so.
    let (code, told) = place.report("rotate --readers-ready", new, None);
    assert_eq!((code, sum(&told, "changed"), sum(&told, "quarantined_values")), (1, 0, opened));
    place.agent("check", old).unwrap();

    // A migration moves nothing to a key that the readers do not hold yet, though this process holds both.
    let (code, told) = place.report("migrate", new, Some(old));
    assert_eq!((code, sum(&told, "changed")), (0, 0));
    place.agent("check", old).unwrap();

    let (code, foretold) = place.report("rotate --readers-ready --dry-run", new, Some(old));
    assert_eq!(code, 0);
    let (code, told) = place.report("rotate --readers-ready", new, Some(old));
    assert_eq!((code, sum(&told, "changed_values")), (0, opened));
    assert_eq!(sum(&foretold, "changed_values"), opened);
    assert_eq!(place.agent("check", new).unwrap(), opened.to_string());
    assert!(place.agent("dump", new) == before, "something else than the sealed values changed");
    let (code, told) = place.report("rotate --readers-ready", new, Some(old));
    assert_eq!((code, sum(&told, "changed_values")), (0, 0));

    // To our own format and back.
    let (code, told) = place.report("migrate --to kf1", new, None);
    assert_eq!((code, sum(&told, "changed_values")), (0, opened));
    let (code, told) = place.report("verify", new, None);
    assert_eq!((code, &told[0]["found"][0]["format"]), (0, &Value::from("kf1")));
    if place.program == "redis" {
        // A Fernet token would come back with the age of today: kf1 keeps none.
        let (code, _) = place.report("migrate", new, None);
        assert_eq!(code, 0);
        assert_eq!(place.agent("check", new).unwrap(), opened.to_string());
        assert!(place.agent("dump", new) == before);
    }
    assert_eq!(keyfold("audit verify").data_dir(&place.data()).run().code, 0);
}

#[test]
fn redis_sre_agents_data_moves_and_nothing_else_of_it_changes() {
    let Some(server) = Redis::single(&[]) else { return };
    let place = Place::redis(server.servers[0].port, COUNT);
    moved(&place);
    // What its reader takes as it is was looked at, told, and left alone.
    let (_, told) = place.report("verify --collection instances", place.keys[1], None);
    let reported = told[0]["reported"].as_array().unwrap();
    for what in ["plaintext", "masked"] {
        assert_eq!(reported.iter().filter(|value| value["what"] == what).count(), COUNT);
    }
}

#[test]
fn p16_auto_sres_sessions_and_events_move_in_sqlite_and_tokens_keep_their_age() {
    moved(&Place::sqlite(COUNT));
}

#[test]
fn p16_auto_sres_sessions_and_events_move_in_postgresql_and_tokens_keep_their_age() {
    let Some(server) = Postgres::start() else { return };
    moved(&Place::postgres(server.address(), COUNT));
}

#[test]
fn a_key_that_values_in_another_programs_store_need_is_not_retired() {
    let place = Place::sqlite(5);
    let [key, _] = place.keys;
    if place.agent("write", key).is_none() {
        return;
    }
    assert_eq!(place.report("migrate --to kf1", key, None).0, 0);
    let call = |arguments: &str| keyfold(arguments).data_dir(&place.data());
    let kids = |state: &str| -> Vec<String> {
        let listed = call("keys list --json").run().json();
        let keys = listed["keys"].as_array().unwrap().iter().filter(|entry| entry["state"] == state);
        keys.map(|entry| entry["kid"].as_str().unwrap().to_owned()).collect()
    };
    let former = kids("primary").remove(0);
    let kid = call("keys create --json").run().json()["kid"].as_str().unwrap().to_owned();
    call("keys promote").arg(&kid).run().text();
    let retire = || call("keys retire").arg(&former).run();
    retire().fails(3, &["in the SQLite file", "were sealed under key", "keyfold rotate"]);
    // A store that is gone for good does not hold the key for ever.
    call("keys forget-store nowhere").run().fails(1, &["no job has worked on such a store", "the SQLite file"]);
    let refused = retire().stderr;
    let store = refused.split(" in the ").nth(1).unwrap().split(" were sealed").next().unwrap();
    assert_eq!(call("keys forget-store").arg(format!("the {store}")).run().code, 0);
    assert_eq!(retire().code, 0);
    // It was not gone: the key is put back, and a look at the store notes it again.
    assert_eq!(call("keys activate").arg(&former).run().code, 0);
    assert_eq!(place.report("verify", key, None).0, 0);
    retire().fails(3, &["were sealed under key"]);
    let (code, told) = place.report("rotate --readers-ready", key, None);
    assert_eq!((code, sum(&told, "changed_values")), (0, 10));
    assert_eq!(retire().code, 0);
    assert_eq!(place.report("verify", key, None).0, 0);
}

#[test]
fn a_job_takes_no_part_of_another_store_for_its_own() {
    let (slow, quick) = (Place::sqlite(60), Place::sqlite(5));
    let [old, new] = slow.keys;
    if slow.agent("write", old).is_none() {
        return;
    }
    quick.agent("write", old).unwrap();
    let (mut going, _home) = slow.keyfold("rotate --readers-ready --rate 1", new, Some(old)).start();
    let moved = |_: &u32| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let (_, seen) = slow.report("verify", new, None);
        sum(&seen, "quarantined_values") < sum(&seen, "values")
    };
    assert!((0..300).any(|n| moved(&n)), "it never began");
    // The same collections, the same data folder, the same job.
    let ended = quick.keyfold("rotate --readers-ready", new, Some(old)).data_dir(&slow.data()).run();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(going.try_wait().unwrap().is_none(), "the other job was not going on any more");
    going.kill().unwrap();
    going.wait().unwrap();
    quick.agent("check", new).unwrap();
}

#[test]
fn p04_a_value_that_a_rotation_leaves_behind_is_told_and_keeps_its_key() {
    let Some(server) = Redis::single(&[]) else { return };
    let place = Place::redis(server.servers[0].port, 3);
    let key = place.keys[0];
    let data =
        r#"{"connection_url": "redis://app:hunter2@cache:6379/0", "extension_secrets": {"token": "battery-staple"}}"#;
    let port = server.servers[0].port.to_string();
    let set = ["-p", &port, "HSET", "sre_instances:one", "data", data];
    assert!(std::process::Command::new("redis-cli").args(set).status().unwrap().success());
    let (code, told) = place.report("migrate --to kf1 --extension-secrets", key, None);
    assert_eq!((code, sum(&told, "changed_values")), (0, 2));
    let call = |arguments: &str| keyfold(arguments).data_dir(&place.data());
    let listed = call("keys list --json").run().json();
    let former = listed["keys"].as_array().unwrap().iter().find(|entry| entry["state"] == "primary").unwrap();
    let former = former["kid"].as_str().unwrap();
    let kid = call("keys create --json").run().json()["kid"].as_str().unwrap().to_owned();
    call("keys promote").arg(&kid).run().text();

    let (code, told) = place.report("rotate --readers-ready", key, None);
    assert_eq!((code, sum(&told, "changed_values")), (1, 1));
    let left = &told.iter().find(|summary| summary["collection"] == "instances").unwrap()["quarantined"][0];
    assert_eq!(
        (&left["code"], &left["field"]),
        (&Value::from("left_behind"), &Value::from("/extension_secrets/token"))
    );
    let retire = || call("keys retire").arg(former).run();
    retire().fails(3, &["Redis", "were sealed under key"]);

    let (code, told) = place.report("rotate --readers-ready --extension-secrets", key, None);
    assert_eq!((code, sum(&told, "changed_values")), (0, 1));
    assert_eq!(retire().code, 0);
    assert_eq!(place.report("verify --extension-secrets", key, None).0, 0);
}

#[test]
fn p08_a_preset_without_the_key_that_its_readers_hold_is_refused_before_anything_is_made_or_read() {
    let data = Data::empty();
    let folder = data.path().join("keyfold");
    for job in ["migrate", "rotate --readers-ready"] {
        let call = keyfold(job).data_dir(&folder);
        let ended = call.arg("--preset").arg("redis-sre-agent").arg("--store").arg("redis://127.0.0.1:1").run();
        ended.fails(4, &["REDIS_SRE_MASTER_KEY environment variable not set", "that redis-sre-agent holds"]);
        assert!(!folder.exists());
    }
}

#[test]
fn p43_an_address_with_a_password_is_refused_among_the_arguments_and_never_repeated() {
    let ended = keyfold("migrate --preset redis-sre-agent --store redis://:hunter2@127.0.0.1:1").run();
    assert!(!ended.stderr.contains("hunter2"));
    ended.fails(2, &["env:NAME"]);
}

#[test]
fn doctor_says_what_another_programs_data_needs() {
    let Some(server) = Redis::single(&[]) else { return };
    let place = Place::redis(server.servers[0].port, COUNT);
    let [old, new] = place.keys;
    if place.agent("write", old).is_none() {
        return;
    }
    let before = place.agent("dump", old);
    let ended = place.keyfold("doctor", old, None).run();
    let text = String::from_utf8(ended.stdout).unwrap();
    for says in [
        "instances: 24 secrets lie in plaintext",
        "keyfold migrate --collection instances --preset redis-sre-agent --store redis://",
        "extension_secrets/rest/token",
        "secrets are v1 under key",
    ] {
        assert!(text.contains(says), "{says}\n---\n{text}{}", ended.stderr);
    }
    assert_eq!(ended.code, 1);
    let ended = place.keyfold("doctor", new, None).run();
    let text = String::from_utf8(ended.stdout).unwrap();
    assert!(text.contains("secrets do not open"), "{text}");
    assert!(!text.contains("hunter2") && !text.contains("battery-staple"));
    assert!(place.agent("dump", old) == before);
}

#[test]
fn a_configured_collection_whose_readers_may_hold_a_raw_key_is_sealed_under_the_folders_with_a_warning() {
    let place = Place::sqlite(5);
    let [key, _] = place.keys;
    if place.agent("write", key).is_none() {
        return;
    }
    let data = Data::empty();
    data.call("init").run().text();
    let kid = data.call("keys create --suites fernet --json").run().json()["kid"].as_str().unwrap().to_owned();
    data.configure(
        "[collections.sessions]\nlayout = \"sql-columns\"\ntable = \"sessions\"\nkey = [\"app_name\", \"user_id\", \"id\"]\n\
         columns = { state = \"json\" }\nfields = [\"/state/_user_access_token\"]\nformat = \"fernet\"\naccept = [\"fernet\"]\n",
    );
    let rotate = || data.call("rotate --dry-run --store").arg(place.store_option());
    let warned = rotate().run().stderr;
    assert!(warned.contains(&kid) && warned.contains("SRE_AGENT_ENCRYPTION_KEY"), "{warned}");
    let quiet = rotate().env(place.variable, key).run();
    assert!(quiet.code == 0 && !quiet.stderr.contains("readers that hold a raw key"), "{}", quiet.stderr);
}
