//! `doctor`: what it finds, where it says it is, and what it says to do.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as such")]

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{
    FERNET, FERNET_VARIABLE, MASTER, MASTER_VARIABLE,
    folder::{Data, instances},
    keyfold,
};
use serde_json::Value;

fn findings(data: &Data, code: i32) -> Vec<Value> {
    let ended = data.call("doctor --json").run();
    assert_eq!(ended.code, code, "{}", String::from_utf8_lossy(&ended.stdout));
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    report["findings"].as_array().unwrap().clone()
}

#[track_caller]
fn finds(findings: &[Value], what: &str, says: &[&str]) {
    let of_kind: Vec<_> = findings.iter().filter(|finding| finding["what"] == what).collect();
    let said = |finding: &Value| says.iter().all(|says| finding.to_string().contains(says));
    assert!(of_kind.iter().any(|finding| said(finding)), "{what} {says:?} not in {findings:?}");
    assert!(of_kind.iter().all(|finding| finding["hint"].is_string() || what == "unreadable_record"));
}

const UNTIL: &str = "accept = [\"kf1\", \"v1\", \"fernet\", { format = \"plaintext\", until = 2999-01-01 }]";

#[test]
fn a_folder_in_order_has_nothing_worse_than_notes() {
    let data = Data::new(&instances(""));
    data.put("r1", r#"{"name":"r1","admin_password":"hunter2","description":"a cache","replicas":3}"#);
    std::fs::set_permissions(data.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let found = findings(&data, 0);
    assert!(found.iter().all(|finding| finding["weight"] == "note"), "{found:?}");
    finds(&found, "no_floor", &["instances", "config apply"]);
    data.call("config apply").run().text();
    assert_eq!(findings(&data, 0), Vec::<Value>::new());
    assert!(data.call("doctor").run().text().contains("1 records looked at, 0 findings"));
}

#[test]
fn p04_undeclared_fields_that_look_secret_are_named_and_their_values_are_not() {
    let data = Data::new(&instances(""));
    data.put(
        "r1",
        r#"{"admin_password":"declared","nested":{"credentials":{"primary":"qwertyuiop"}},"replica_url":"redis://u:undeclared-1@h:6379","api_token":"undeclared-2","note":"nothing here","staged":[{"password":"undeclared-3"}],"auth":"Bearer x","repo":"https://git.example.net/x"}"#,
    );
    data.put("r2", r#"{"api_token":"undeclared-4","shadow_password":"**********"}"#);
    let sealed = data.call("seal --format kf1").stdin("copy").run().text();
    data.put("r3", &format!("{{\"staged_copy\":\"{sealed}\"}}"));
    let found = findings(&data, 0);
    for (pointer, says) in [
        ("instances#/nested/credentials/primary", "has a name that secrets have"),
        ("instances#/replica_url", "connection string with a password"),
        ("instances#/api_token", "in 2 records, `r1` for one"),
        ("instances#/staged/*/password", "has a name that secrets have"),
        ("instances#/shadow_password", "mask"),
        ("instances#/staged_copy", "holds kf1 data"),
    ] {
        finds(&found, "undeclared_field", &[pointer, says, "add it to `fields`"]);
    }
    let text = serde_json::to_string(&found).unwrap();
    for harmless in ["#/note", "#/repo", "#/admin_password", "undeclared-", "qwertyuiop", "kf1."] {
        assert!(!text.contains(harmless), "{harmless} in {text}");
    }
    // Declared, they are no longer named; and what is readable then is an error.
    data.configure(&instances(UNTIL).replace(
        "\"/admin_password\"",
        "\"/admin_password\", \"/nested/credentials/*\", \"/replica_url\", \"/api_token\", \"/staged/*/password\", \
         \"/shadow_password\", \"/staged_copy\"",
    ));
    let found = findings(&data, 1);
    assert!(found.iter().all(|finding| finding["what"] != "undeclared_field"), "{found:?}");
    finds(&found, "plaintext", &["instances: 5 secrets lie in plaintext", "keyfold migrate --collection instances"]);
    finds(&found, "masked", &["instances: 1 ", "lost before they were stored"]);
}

#[test]
fn p05_secrets_in_formats_that_bind_no_place_are_counted() {
    let data = Data::new(&instances(UNTIL));
    let seal = |format: &str, variable: &str, key: &str| {
        keyfold("seal --format").arg(format).env(variable, key).stdin("x").run().text()
    };
    let (v1, fernet) = (seal("v1", MASTER_VARIABLE, MASTER), seal("fernet", FERNET_VARIABLE, FERNET));
    data.plant("instances", "r1", &format!("{{\"admin_password\":\"{v1}\",\"connection_url\":\"{fernet}\"}}"));
    data.plant("instances", "r2", &format!("{{\"admin_password\":\"{v1}\"}}"));
    data.plant("instances", "r3", "{\"admin_password\":\"vault:v1:abcdef\",\"connection_url\":\" kf1.AAAA\"}");
    data.plant("instances", "r4", "{\"admin_password\":");
    let found = findings(&data, 1);
    finds(&found, "unbound", &["instances: 3 ", "pasted elsewhere, they open there", "--to kf1"]);
    finds(&found, "foreign", &["instances: 1 ", "another system"]);
    finds(&found, "malformed", &["instances: 1 ", "damaged", "keyfold verify"]);
    finds(&found, "unreadable_record", &["instances/r4"]);
    let weights: Vec<_> = found.iter().map(|finding| finding["weight"].as_str().unwrap()).collect();
    let rank = |weight: &str| ["error", "warning", "note"].iter().position(|known| *known == weight).unwrap();
    assert!(weights.is_sorted_by_key(|weight| rank(weight)), "worst first: {weights:?}");
}

#[test]
fn what_could_go_wrong_with_keys_collections_and_files_is_said_with_what_to_run() {
    let data = Data::new(&instances("[collections.gone]\nfields = [\"/x\"]"));
    data.call("records put gone g1").stdin(r#"{"x":"y"}"#).run().text();
    data.configure(&instances(""));
    let staged = data.call("keys create --json").run().json()["kid"].as_str().unwrap().to_owned();
    std::fs::set_permissions(data.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let found = findings(&data, 0);
    finds(&found, "unconfigured_collection", &["`gone`", "[collections.gone]"]);
    finds(&found, "staged_key", &[&staged, "keys promote"]);
    finds(&found, "open_rights", &["can be read or written by others", "chmod"]);
    // Beyond its floor: an error, and the command that says so if it is meant.
    data.call("config apply").run().text();
    data.configure(&instances("accept = [\"kf1\", \"v1\"]"));
    finds(&findings(&data, 1), "beyond_floor", &["would accept v1 again", "--loosen"]);
}
