//! The states of keys, and what holds in each of them, through the program.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as such")]

mod common;

use common::{
    MASTER, MASTER_VARIABLE, OTHER_MASTER,
    folder::{Data, INSTANCES, instances},
    signed::raw,
};

fn create(data: &Data) -> String {
    data.call("keys create --json").run().json()["kid"].as_str().unwrap().to_owned()
}

fn kid_in(envelope: &str) -> String {
    let seen = common::keyfold("inspect").stdin(envelope).run().json();
    seen["kid"].as_str().unwrap().to_owned()
}

#[test]
fn p12_a_staged_key_opens_and_does_not_seal_and_a_promoted_one_seals() {
    let data = Data::new(INSTANCES);
    let first = data.kid("primary");
    let staged = create(&data);
    let seal = |text: &str| data.call("seal --format kf1").stdin(text).run().text();
    assert_eq!(kid_in(&seal("a")), first);
    // What a process sealed that was promoted earlier opens here before anybody promotes.
    let ahead = data.copy();
    ahead.call("keys promote --quiet").arg(&staged).run().text();
    let sealed = ahead.call("seal --format kf1").stdin("ahead").run().text();
    assert_eq!(kid_in(&sealed), staged);
    assert_eq!(data.call("open").stdin(&sealed).run().text(), "ahead");

    data.call("keys promote --quiet").arg(&staged).run().text();
    assert_eq!(kid_in(&seal("b")), staged);
    assert_eq!((data.kid("primary"), data.kid("active")), (staged, first.clone()));
    // And back.
    data.call("keys promote --quiet").arg(&first).run().text();
    assert_eq!(kid_in(&seal("c")), first);
    data.call("keys promote").arg(&first).run().fails(4, &["is primary", "needs it to be staged or active"]);
    data.call("keys promote 0011223344556677").run().fails(4, &["not in the keyring", "keys list"]);
}

#[test]
fn a_key_is_not_retired_while_anything_stored_needs_it_declared_or_not() {
    let data = Data::new(&format!("{INSTANCES}\n[collections.other]\nfields = [\"/x\"]\n"));
    data.put("r1", r#"{"admin_password":"declared"}"#);
    let old = data.kid("primary");
    let undeclared = data.call("seal --format kf1").stdin("undeclared").run().text();
    data.put("r2", &format!("{{\"nested\":{{\"somewhere\":[\"{undeclared}\"]}}}}"));
    data.call("records put other o1").stdin(r#"{"x":"in a collection that goes away"}"#).run().text();
    data.configure(INSTANCES);
    let new = create(&data);
    data.call("keys retire").arg(&old).run().fails(4, &["is primary", "promote another key first"]);
    data.call("keys promote --quiet").arg(&new).run().text();

    let retire = || data.call("keys retire").arg(&old).run();
    retire().fails(3, &["3 stored values are still sealed under", &old, "keyfold rotate"]);
    data.call("rotate").run().text();
    retire().fails(3, &["2 stored values"]);
    let census = data.call("keys census --json").run().json();
    let lines = census["values"].as_array().unwrap();
    let left: Vec<_> = lines.iter().filter(|line| line["kid"] == *old).collect();
    assert_eq!(left.len(), 2, "{census}");
    assert!(left.iter().any(|line| line["collection"] == "other"), "{census}");
    data.call("records rm instances r2").run().text();
    retire().fails(3, &["1 stored values"]);
    // Configured again, the collection is rotated like any other.
    data.configure(&format!("{INSTANCES}\n[collections.other]\nfields = [\"/x\"]\n"));
    data.call("rotate").run().text();
    assert_eq!(retire().code, 0);
    data.call("verify").run().text();
}

#[test]
fn a_value_that_does_not_open_keeps_every_key_from_being_retired() {
    let data = Data::new(INSTANCES);
    let (old, new) = (data.kid("primary"), create(&data));
    data.call("keys promote --quiet").arg(&new).run().text();
    let foreign = common::keyfold("seal --format v1").env(MASTER_VARIABLE, MASTER).stdin("x").run().text();
    data.plant("instances", "r1", &format!("{{\"admin_password\":\"{foreign}\"}}"));
    data.call("keys retire").arg(&old).run().fails(3, &["1 stored values do not open", "keyfold verify"]);
    data.plant("instances", "r1", "{not json");
    data.call("keys retire").arg(&old).run().fails(4, &["instances/r1"]);
    assert_eq!(data.kid("active"), old);
}

#[test]
fn a_retired_key_is_refused_and_comes_back_when_it_is_asked_for() {
    let data = Data::new(INSTANCES);
    let kf1 = data.call("seal --format kf1").stdin("kept").run().text();
    let v1 = data.call("seal --format v1").stdin("kept").run().text();
    let (old, _) = data.rotated();
    data.call("open").stdin(&kf1).run().fails(4, &[&old, "retired", "keys activate"]);
    data.call("open").stdin(&v1).run().fails(4, &[&old, "retired"]);
    data.call("keys promote").arg(&old).run().fails(4, &["is retired", "keys activate"]);
    // Nor does it seal from the environment.
    let key = raw(&data, &old);
    let ended = data.call("seal --format kf1").env(MASTER_VARIABLE, &key).stdin("new").run();
    ended.fails(4, &[&old, "retired"]);
    data.call("open").env(MASTER_VARIABLE, &key).stdin(&kf1).run().fails(4, &[&old, "retired"]);

    data.call("keys activate").arg(&old).run().text();
    assert_eq!(data.call("open").stdin(&kf1).run().text(), "kept");
    assert_eq!(data.call("open").stdin(&v1).run().text(), "kept");
    data.call("keys activate").arg(&old).run().fails(4, &["needs it to be retired"]);
}

#[test]
fn destroying_needs_a_retired_key_some_age_and_a_yes() {
    let data = Data::new(INSTANCES);
    let primary = data.kid("primary");
    let destroy = |kid: &str, more: &str| data.call(&format!("keys destroy {kid} {more}")).run();
    destroy(&primary, "--yes --min-age 0").fails(4, &["is primary"]);
    let (old, _) = data.rotated();
    let before = data.document();
    destroy(&old, "--min-age 0").fails(2, &["cannot be undone", "--yes"]);
    destroy(&old, "--yes").fails(3, &["86400 s are asked for", "--min-age"]);
    assert_eq!(data.document(), before);
    // A second census: a record came back from somewhere since the key was retired.
    let sealed = {
        let elsewhere = data.copy();
        elsewhere.call("keys activate").arg(&old).run().text();
        elsewhere.call("keys promote --quiet").arg(&old).run().text();
        elsewhere.call("seal --format kf1").stdin("late").run().text()
    };
    data.plant("instances", "late", &format!("{{\"note\":\"{sealed}\"}}"));
    destroy(&old, "--yes --min-age 0").fails(3, &["1 stored values are still sealed under"]);
    data.call("records rm instances late").run().text();
    destroy(&old, "--yes --min-age 0").text();
    let listed = data.call("keys list").run().text();
    assert!(listed.lines().any(|line| line.contains(&old) && line.contains("destroyed")), "{listed}");
    destroy(&old, "--yes --min-age 0").fails(4, &["was destroyed"]);
    let actions: Vec<_> = data.events().into_iter().filter(|event| event["result"] == "done").collect();
    for action in ["key_create", "key_promote", "key_retire", "key_destroy"] {
        assert!(actions.iter().any(|event| event["action"] == action), "{action} is not in the log");
    }
}

#[test]
fn p18_a_tombstone_wins_over_the_key_in_the_environment() {
    let data = Data::new(&instances("accept = [\"kf1\", \"v1\"]"));
    let old = data.kid("primary");
    let key = raw(&data, &old);
    let kf1 = data.call("seal --format kf1").stdin("old").run().text();
    let v1 = data.call("seal --format v1").stdin("old").run().text();
    data.put("r1", r#"{"admin_password":"x"}"#);
    let moved = data.doc("instances", "r1");
    data.rotated();
    data.call("keys destroy --yes --min-age 0").arg(&old).run().text();

    for (variable, current) in [(MASTER_VARIABLE, &*key), ("REDIS_SRE_MASTER_KEY_PREVIOUS", MASTER)] {
        let call = |arguments: &str| {
            let call =
                data.call(arguments).env(MASTER_VARIABLE, if variable == MASTER_VARIABLE { &key } else { MASTER });
            if variable == MASTER_VARIABLE { call } else { call.env(variable, &key) }
        };
        call("open").stdin(&kf1).run().fails(4, &[&format!("key `{old}` was destroyed")]);
        call("open").stdin(&v1).run().fails(4, &["Decryption failed"]);
        if current == key {
            for format in ["kf1", "v1"] {
                let ended = call("seal --format").arg(format).stdin("new").run();
                ended.fails(4, &[&format!("key `{old}` was destroyed"), "unset the variable"]);
            }
        }
        // Records: the deployment's own key seals, and what only the destroyed one opened stays shut.
        call("records put instances r2 --replace").stdin(r#"{"admin_password":"y"}"#).run().text();
        assert_eq!(data.field("r2", "/admin_password"), b"y");
        data.plant("instances", "r1", &moved);
        call("records get instances r1 --reveal").run().fails(4, &[&format!("key `{old}` was destroyed")]);
        data.plant("instances", "r1", &format!("{{\"admin_password\":\"{v1}\"}}"));
        call("records get instances r1 --reveal").run().fails(4, &["Decryption failed"]);
        for job in ["rotate", "verify", "migrate"] {
            assert_eq!(call(job).run().code, 1, "{job}");
        }
        let warned = call("keys list").run();
        assert!(warned.stderr.contains("destroyed") && !warned.stderr.contains(&key), "{}", warned.stderr);
        let listed = String::from_utf8(warned.stdout).unwrap();
        let line = listed.lines().find(|line| line.contains(&old)).unwrap();
        assert!(line.contains("destroyed"), "{listed}");
    }
}

#[test]
fn keys_of_the_environment_open_in_a_folder_and_leave_its_primary_alone() {
    let data = Data::new(&instances("accept = [\"kf1\", \"v1\"]"));
    let own = data.kid("primary");
    let old = common::keyfold("seal --format v1").env(MASTER_VARIABLE, OTHER_MASTER).stdin("theirs").run().text();
    let import = format!("{{\"id\":\"r1\",\"admin_password\":\"{old}\"}}");
    let keyed = |arguments: &str| {
        let call = data.call(arguments).env(MASTER_VARIABLE, MASTER);
        call.env("REDIS_SRE_MASTER_KEY_PREVIOUS", OTHER_MASTER)
    };
    keyed("records import instances --as-is").stdin(import).run().text();
    data.call("records get instances r1 --reveal").run().fails(4, &["Decryption failed"]);
    let opened = keyed("records get instances r1 --field /admin_password").run().text();
    assert_eq!(opened, "theirs");
    keyed("rotate --to kf1").run().text();
    // From then on the environment is not needed.
    assert_eq!(data.field("r1", "/admin_password"), b"theirs");
    assert!(data.doc("instances", "r1").contains("kf1."));
    assert_eq!(data.kid("primary"), own);
    let listed = keyed("keys list --json").run().json();
    let from: Vec<_> = listed["keys"].as_array().unwrap().iter().map(|key| key["origin"].as_str().unwrap()).collect();
    assert_eq!(from, ["keyring", "REDIS_SRE_MASTER_KEY", "REDIS_SRE_MASTER_KEY_PREVIOUS"]);
    // Editing the keyring does not take them into the document.
    keyed("keys create").run().text();
    assert_eq!(data.call("keys list --json").run().json()["keys"].as_array().unwrap().len(), 2);
}
