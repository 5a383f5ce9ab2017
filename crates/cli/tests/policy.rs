//! What a collection accepts, for how long, and how that is tightened and loosened.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as such")]

mod common;

use common::{
    MASTER, MASTER_VARIABLE,
    folder::{Data, instances},
    keyfold,
};

const PLAIN: &str = r#"{"id":"r1","admin_password":"hunter2"}"#;

fn with_plaintext(until: &str) -> Data {
    let data = Data::new(&plaintext_until(until));
    data.plant("instances", "r1", PLAIN);
    data
}

fn plaintext_until(day: &str) -> String {
    instances(&format!("accept = [\"kf1\", {{ format = \"plaintext\", until = {day} }}]"))
}

#[test]
fn p06_plaintext_is_read_until_its_last_day_and_refused_after_it() {
    let data = with_plaintext("2999-01-01");
    assert_eq!(data.field("r1", "/admin_password"), b"hunter2");
    data.call("verify").run().text();
    // Accepted once and no longer, and never accepted.
    for (config, refusal, code, says) in [
        (plaintext_until("2020-01-31"), 3, "format_not_accepted", "plaintext is not accepted here"),
        (instances(""), 4, "not_encrypted", "not encrypted"),
    ] {
        data.configure(&config);
        for arguments in ["records get instances r1 --reveal", "records get instances r1 --field /admin_password"] {
            let ended = data.call(arguments).run();
            assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
            ended.fails(refusal, &["instances/r1#/admin_password", says, "then run `keyfold migrate`"]);
        }
        let import = data.call("records import instances --as-is").stdin(PLAIN.replace("r1", "r2")).run();
        import.fails(refusal, &["instances/r2#/admin_password", says, "then run `keyfold migrate`"]);
        // Nor does a job touch it: sealing what the policy refuses would make it look vouched for.
        let before = data.contents();
        for job in ["verify", "rotate", "migrate"] {
            let ended = data.call(job).run();
            let said = String::from_utf8(ended.stdout).unwrap();
            assert_eq!(ended.code, 1, "{job}: {said}");
            assert!(said.contains("instances/r1#/admin_password") && said.contains(code), "{job}: {said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
        assert_eq!(data.contents(), before);
        // Redacted reading is not opening.
        assert!(data.call("records get instances r1").run().text().contains("\"format\":\"plaintext\""));
    }
}

#[test]
fn a_format_that_is_not_accepted_is_named_with_the_command_that_migrates_it() {
    let data = Data::new(&instances("accept = [\"kf1\", \"v1\"]"));
    data.put("r1", PLAIN);
    data.call("migrate --to v1").run().text();
    assert_eq!(data.field("r1", "/admin_password"), b"hunter2");
    data.configure(&instances(""));
    let ended = data.call("records get instances r1 --reveal").run();
    ended.fails(3, &["instances/r1#/admin_password", "v1", "then run `keyfold migrate`"]);
    // Done as it says, it helps.
    data.configure(&instances("accept = [\"kf1\", { format = \"v1\", until = 2999-01-01 }]"));
    let copy = data.copy();
    copy.call("migrate").run().text();
    copy.configure(&instances(""));
    assert_eq!(copy.field("r1", "/admin_password"), b"hunter2");
    data.configure(&instances(""));
    let verified = data.call("verify --json").run();
    assert_eq!(verified.code, 1);
    let report: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(report["quarantined"][0]["code"], "format_not_accepted", "{report}");
    assert_eq!(report["quarantined"][0]["field"], "/admin_password");
    // A last day for a sealed format works as for plaintext.
    data.configure(&instances("accept = [\"kf1\", { format = \"v1\", until = 2020-01-31 }]"));
    data.call("records get instances r1 --reveal").run().fails(3, &["v1", "2020-01-31"]);
}

#[test]
fn every_mistake_of_a_configuration_is_said_in_one_run() {
    let data = Data::new("");
    data.configure(
        "unknown = 1\n[collections.a]\nfields = [\"password\", 3, \"/x\", \"/x\"]\nformat = \"rot13\"\ncolour = 1\n\
         [collections.b]\nfields = []\naccept = [\"kf1\", \"plaintext\", { format = \"v1\", until = \"soon\" }]\n\
         [collections.c]\nfields = [\"/x\"]\nid = \"d d\"\nreading = \"loose\"\ntenant = 4\n\
         [collections.d]\nfields = [\"/x\"]\naccept = [\"v1\"]\n[collections.e]\nfields = [\"/x\"]\nid = \"f\"\n\
         [collections.f]\nfields = [\"/x\"]\n",
    );
    let says = [
        "unknown: unknown key",
        "collections.a.fields[0]",
        "collections.a.fields[1]",
        "collections.a.fields[3]: is listed twice",
        "collections.a.format",
        "collections.a.colour",
        "collections.b.fields",
        "collections.b.accept[1]",
        "collections.b.accept[2].until",
        "collections.c.id",
        "collections.c.reading",
        "collections.c.tenant",
        "collections.d.accept",
        "collections.f.id",
    ];
    data.call("config check").run().fails(2, &says);
    // Not only when asked: nothing runs on half a configuration.
    for arguments in ["records list", "migrate", "keys list", "doctor", "init"] {
        data.call(arguments).run().fails(2, &says);
    }
    data.configure("[collections.a\nfields = 3");
    data.call("config check").run().fails(2, &["keyfold.toml", "line 1"]);
    data.call("config check --config /nonexistent.toml").run().fails(2, &["/nonexistent.toml"]);
    data.configure("");
    data.call("migrate").run().fails(2, &["no collection is configured"]);
}

#[test]
fn a_floor_tightens_by_itself_and_loosens_only_when_it_is_said() {
    let data = with_plaintext("2999-01-01");
    data.call("config apply").run().text();
    let floors = |data: &Data| data.events().iter().filter(|event| event["action"] == "accept_changed").count();
    let audited = floors(&data);
    assert_eq!(audited, 2, "an intent and an outcome");

    // An earlier last day is tighter, and needs nothing.
    data.configure(&plaintext_until("2998-12-31"));
    data.call("config check").run().text();
    data.call("config apply").run().text();
    // A later one, and a format more, are looser.
    for (looser, says) in [
        (plaintext_until("2999-01-01"), "plaintext until 2999-01-01"),
        (instances("accept = [\"kf1\", \"v1\"]"), "v1"),
        (instances("accept = [\"kf1\", { format = \"fernet\", until = 2030-01-01 }]"), "fernet until 2030-01-01"),
    ] {
        data.configure(&looser);
        let before = data.contents();
        for arguments in [
            "config check",
            "config apply",
            "records get instances r1 --reveal",
            "migrate",
            "verify",
            "records list instances",
        ] {
            let ended = data.call(arguments).run();
            ended.fails(3, &["collection `instances` would accept", says, "again", "config apply --loosen"]);
        }
        assert_eq!(data.contents(), before);
    }
    let refused = data.events();
    let last =
        refused.iter().filter(|event| event["action"] == "accept_changed").filter(|event| !event["result"].is_null());
    assert!(last.filter(|event| event["result"] == "format_not_accepted").count() >= 3, "a refusal is an event");

    data.configure(&plaintext_until("2999-01-01"));
    data.call("config apply --loosen").run().text();
    assert_eq!(data.field("r1", "/admin_password"), b"hunter2");
    // It is the collection's id that the floor belongs to, and not its display name.
    let renamed = plaintext_until("2999-06-01").replace("collections.instances", "collections.renamed");
    data.configure(&format!("{renamed}id = \"instances\"\n"));
    data.call("records get renamed r1 --reveal").run().fails(3, &["collection `renamed` would accept"]);
}

#[test]
fn a_check_names_every_collection_that_is_beyond_its_floor() {
    let data = Data::new("[collections.a]\nfields = [\"/x\"]\n[collections.b]\nfields = [\"/x\"]\n");
    data.call("config apply").run().text();
    data.configure(
        "[collections.a]\nfields = [\"/x\"]\naccept = [\"kf1\", \"v1\"]\n[collections.b]\nfields = [\"/x\"]\naccept = \
         [\"kf1\", \"fernet\"]\n",
    );
    data.call("config check").run().fails(3, &["collection `a` would accept v1", "collection `b` would accept fernet"]);
}

#[test]
fn p05_an_envelope_pasted_elsewhere_does_not_open_and_verify_names_the_place() {
    let config = instances("tenant = \"t1\"\n[collections.others]\nfields = [\"/admin_password\"]");
    let data = Data::new(&config);
    data.put("r1", r#"{"admin_password":"hunter2","extension_secrets":{"a":"x"}}"#);
    let doc: serde_json::Value = serde_json::from_str(&data.doc("instances", "r1")).unwrap();
    let sealed = doc["admin_password"].as_str().unwrap();
    let places = [
        ("instances", "r2", "/admin_password", format!("{{\"admin_password\":\"{sealed}\"}}")),
        ("instances", "r3", "/connection_url", format!("{{\"connection_url\":\"{sealed}\"}}")),
        ("instances", "r4", "/extension_secrets/a", format!("{{\"extension_secrets\":{{\"a\":\"{sealed}\"}}}}")),
        ("others", "r1", "/admin_password", format!("{{\"admin_password\":\"{sealed}\"}}")),
    ];
    for (collection, key, pointer, doc) in &places {
        data.plant(collection, key, doc);
        let get = || data.call("records get --reveal").arg(collection).arg(key);
        get().run().fails(4, &[&format!("{collection}/{key}#{pointer}"), "context", "copied"]);
    }
    let verified = data.call("verify --json").run();
    assert_eq!(verified.code, 1);
    let text = String::from_utf8(verified.stdout).unwrap();
    let reports: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let left: Vec<_> = reports.iter().flat_map(|report| report["quarantined"].as_array().unwrap()).collect();
    assert_eq!(left.len(), places.len(), "{text}");
    for (collection, key, pointer, _) in &places {
        let named = left.iter().find(|left| left["collection"] == *collection && left["record"] == *key).unwrap();
        assert_eq!((&named["field"], &named["code"]), (&(*pointer).into(), &"context_mismatch_or_tampered".into()));
    }
    // Another tenant, another id of the collection: the same document under the same key.
    for (from, to) in [("\"t1\"", "\"t2\""), ("tenant = \"t1\"\n", "")] {
        data.configure(&config.replace(from, to));
        data.call("records get instances r1 --reveal").run().fails(4, &["context"]);
    }
    data.configure(&config);
    assert_eq!(data.field("r1", "/admin_password"), b"hunter2");
    // What moved within an array did not move anywhere: its places are one context.
    let data = Data::new("[collections.c]\nfields = [\"/nodes/*/password\"]\n");
    data.call("records put c r").stdin(r#"{"nodes":[{"password":"0"},{"password":"1"}]}"#).run().text();
    let doc: serde_json::Value = serde_json::from_str(&data.doc("c", "r")).unwrap();
    let swapped = serde_json::json!({ "nodes": [doc["nodes"][1], doc["nodes"][0]] });
    data.plant("c", "r", &swapped.to_string());
    assert_eq!(data.call("records get c r --field /nodes/0/password").run().text(), "1");
}

#[test]
fn p10_a_record_that_does_not_open_says_under_which_keys_it_was_tried_and_what_to_do() {
    let data = Data::new(&instances("accept = [\"kf1\", \"v1\"]"));
    let own = data.kid("primary");
    let v1 = keyfold("seal --format v1").env(MASTER_VARIABLE, MASTER).stdin("theirs").run().text();
    data.plant("instances", "r1", &format!("{{\"admin_password\":\"{v1}\"}}"));
    data.call("records get instances r1 --reveal").run().fails(4, &["Decryption failed", &own, "hint"]);
    let kf1 = keyfold("seal --format kf1 --json").env(MASTER_VARIABLE, MASTER).stdin("theirs").run().json();
    let (envelope, kid) = (kf1["envelope"].as_str().unwrap(), kf1["kid"].as_str().unwrap());
    data.plant("instances", "r1", &format!("{{\"admin_password\":\"{envelope}\"}}"));
    data.call("records get instances r1 --reveal").run().fails(4, &[kid, "not in the keyring", "hint"]);
    let verified = data.call("verify").run();
    let said = String::from_utf8(verified.stdout).unwrap();
    assert!(
        said.contains("instances/r1#/admin_password") && said.contains("unknown_key") && said.contains("hint:"),
        "{said}"
    );
}
