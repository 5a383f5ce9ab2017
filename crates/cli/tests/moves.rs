//! `migrate` and `rotate`: what a dry run predicts, where formats come from and go to, and what Python opens of it.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as such")]

mod common;

use std::{io::Write, process::Stdio};

use common::{
    FERNET, FERNET_VARIABLE, MASTER, MASTER_VARIABLE, OTHER_FERNET, OTHER_MASTER,
    folder::{Data, instances},
    keyfold,
    signed::raw,
};
use serde_json::Value;

const ALL: &str = "accept = [\"kf1\", \"v1\", \"fernet\", { format = \"plaintext\", until = 2999-01-01 }]";

/// Records in every format there is, sealed by keys of the environment where they came sealed.
fn mixed() -> Data {
    let data = Data::new(&instances(ALL));
    data.put("kf1", r#"{"admin_password":"one","connection_url":"two"}"#);
    let seal = |format: &str, variable: &str, key: &str| {
        keyfold("seal --format").arg(format).env(variable, key).stdin("sealed elsewhere").run().text()
    };
    let v1 = seal("v1", MASTER_VARIABLE, MASTER);
    let fernet = seal("fernet", FERNET_VARIABLE, FERNET);
    let docs = format!(
        "{{\"id\":\"v1\",\"admin_password\":\"{v1}\"}}\n{{\"id\":\"fernet\",\"admin_password\":\"{fernet}\"}}\n\
         {{\"id\":\"plain\",\"admin_password\":\"readable\",\"note\":null}}\n{{\"id\":\"none\"}}\n"
    );
    data.call("records import instances --as-is").stdin(docs).run().text();
    data
}

fn keyed(data: &Data, arguments: &str) -> common::Call {
    data.call(arguments).env(MASTER_VARIABLE, MASTER).env(FERNET_VARIABLE, FERNET)
}

/// A summary, without what differs between a dry run and a real one.
fn foretold(report: &Value) -> [Value; 5] {
    ["changed", "changed_values", "quarantined_values", "quarantined", "job"].map(|name| report[name].clone())
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_the_real_one_does() {
    let data = mixed();
    let (old, new) = (data.kid("primary"), data.call("keys create --json").run().json());
    data.call("keys promote --quiet").arg(new["kid"].as_str().unwrap()).run().text();
    let moved = data.doc("instances", "kf1");
    data.plant("instances", "pasted", &moved);
    for job in ["migrate --to v1", "rotate", "migrate", "rotate --to v1", "rotate --reseal"] {
        let copy = data.copy();
        let before = copy.contents();
        let ran = |arguments: &str| {
            let ended = keyed(&copy, job).arg("--json").arg(arguments).run();
            let report: Value =
                serde_json::from_slice(&ended.stdout).unwrap_or_else(|_| panic!("{job}: {}", ended.stderr));
            (ended.code, report)
        };
        let (code, dry) = ran("--dry-run");
        assert_eq!((code, dry["dry_run"].as_bool()), (1, Some(true)), "{job}: {dry}");
        assert_eq!(copy.contents(), before, "{job} --dry-run changed something");
        let (code, real) = ran("--quiet");
        assert_eq!(code, 1, "{job}: {real}");
        assert_eq!(foretold(&dry), foretold(&real), "{job}");
        let after = copy.contents();
        let changed = before.records.iter().filter(|(place, record)| after.records[*place].1 != record.1).count();
        assert_eq!(real["changed"], changed, "{job}: {real}");
        assert!(changed > 0, "{job}");
        // Run again, there is nothing left to do, except that a reseal is asked for anew each time.
        if job != "rotate --reseal" {
            let (_, again) = ran("--quiet");
            assert_eq!((&again["changed"], copy.contents()), (&Value::from(0), after), "{job}");
        }
        for (key, secret) in [("kf1", "one"), ("v1", "sealed elsewhere"), ("plain", "readable")] {
            let field = keyed(&copy, "records get instances --field /admin_password").arg(key).run();
            assert_eq!(String::from_utf8_lossy(&field.stdout), secret, "{job} {key}: {}", field.stderr);
        }
        assert_eq!(copy.doc("instances", "pasted"), moved, "{job} touched what does not open");
    }
    assert!(data.doc("instances", "kf1").contains("kf1."));
    assert_ne!(old, data.kid("primary"));
}

/// What redis-sre-agent and Auto SRE do, in the few lines that matter.
const SCRIPT: &str = r#"
import base64, json, os, sys
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
b64 = lambda b: base64.b64encode(b).decode()
def master():
    return AESGCM(base64.b64decode(os.environ["REDIS_SRE_MASTER_KEY"]))
def encrypt_secret(text):
    dek, nonce, dek_nonce = AESGCM.generate_key(bit_length=256), os.urandom(12), os.urandom(12)
    envelope = {"version": "v1", "ciphertext": b64(AESGCM(dek).encrypt(nonce, text.encode(), None)), "nonce": b64(nonce),
                "wrapped_dek": b64(master().encrypt(dek_nonce, dek, None)), "dek_nonce": b64(dek_nonce)}
    return base64.b64encode(json.dumps(envelope).encode()).decode()
def get_secret_value(text):
    envelope = json.loads(base64.b64decode(text))
    raw = {k: base64.b64decode(v) for k, v in envelope.items() if k != "version"}
    dek = master().decrypt(raw["dek_nonce"], raw["wrapped_dek"], None)
    return AESGCM(dek).decrypt(raw["nonce"], raw["ciphertext"], None).decode()
def fernet(text):
    token = Fernet(os.environ["SRE_AGENT_ENCRYPTION_KEY"])
    return [token.decrypt(text.encode()).decode(), token.extract_timestamp(text.encode())]
def instances():
    for n in range(30):
        yield json.dumps({"id": f"redis-{n}", "name": f"n{n}", "connection_url": encrypt_secret(f"redis://u:pässword-{n}@h:6379"),
                          "admin_password": encrypt_secret(f"adm-{n}") if n % 3 else None, "maxmemory_gb": 0.50}, indent=None)
given = sys.stdin.read()
what = sys.argv[1]
if what == "instances":
    print("\n".join(instances()))
elif what == "fernet at":
    print(Fernet(os.environ["SRE_AGENT_ENCRYPTION_KEY"]).encrypt_at_time(given.encode(), 1600000000).decode())
else:
    print(json.dumps([{"v1": get_secret_value, "fernet": fernet}[what](line) for line in given.splitlines()]))
"#;

fn python(act: &str, variable: &str, key: &str, stdin: &str) -> Option<String> {
    let mut command = common::python()?;
    command.args(["-c", SCRIPT, act]).env(variable, key).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "Python could not {act}");
    Some(String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
}

fn stored(data: &Data, key: &str, field: &str) -> String {
    let doc: Value = serde_json::from_str(&data.doc("instances", key)).unwrap();
    doc[field].as_str().unwrap().to_owned()
}

#[test]
fn what_redis_sre_agent_wrote_is_taken_over_as_it_is_rotated_and_read_by_it_again() {
    let Some(lines) = python("instances", MASTER_VARIABLE, OTHER_MASTER, "") else { return };
    let data = Data::new(&instances("accept = [\"kf1\", \"v1\"]"));
    // The environment in the middle of a change of keys: what lies there is under the older one.
    let keyed = |arguments: &str| {
        let call = data.call(arguments).env(MASTER_VARIABLE, MASTER);
        call.env("REDIS_SRE_MASTER_KEY_PREVIOUS", OTHER_MASTER)
    };
    keyed("records import instances --as-is").stdin(&lines).run().text();
    for line in lines.lines() {
        let key: Value = serde_json::from_str(line).unwrap();
        assert_eq!(data.doc("instances", key["id"].as_str().unwrap()), line, "as it is");
    }
    keyed("verify").run().text();
    let report = keyed("rotate --json").run().json();
    assert_eq!((&report["changed"], &report["changed_values"]), (&30.into(), &50.into()), "{report}");
    // Everything is under the deployment's own primary now, in v1 still, and Python opens it with that key.
    let own = raw(&data, &data.kid("primary"));
    let sealed: Vec<String> = (0..30).map(|n| stored(&data, &format!("redis-{n}"), "connection_url")).collect();
    let opened = python("v1", MASTER_VARIABLE, &own, &sealed.join("\n")).unwrap();
    let expected: Vec<String> = (0..30).map(|n| format!("redis://u:pässword-{n}@h:6379")).collect();
    assert_eq!(serde_json::from_str::<Vec<String>>(&opened).unwrap(), expected);
    assert!(data.doc("instances", "redis-1").ends_with("\"maxmemory_gb\": 0.5}"));
    // To kf1 and back to v1.
    data.call("migrate").run().text();
    assert!(stored(&data, "redis-4", "admin_password").starts_with("kf1."));
    data.call("migrate --to v1").run().text();
    let again = stored(&data, "redis-4", "admin_password");
    assert_eq!(python("v1", MASTER_VARIABLE, &own, &again).unwrap(), "[\"adm-4\"]");
    assert_eq!(data.field("redis-4", "/admin_password"), b"adm-4");
}

#[test]
fn p16_a_fernet_token_keeps_its_time_through_a_rotation() {
    let Some(old) = python("fernet at", FERNET_VARIABLE, OTHER_FERNET, "ya29.token") else { return };
    let data = Data::new(&instances("accept = [\"kf1\", \"fernet\"]"));
    data.call("keys create --suites fernet").run().text();
    let import = format!("{{\"id\":\"s\",\"admin_password\":\"{old}\"}}");
    data.call("records import instances --as-is").stdin(import).run().text();
    // Without the key it was sealed under, nothing happens to it.
    assert_eq!(data.call("rotate").run().code, 1);
    assert_eq!(stored(&data, "s", "admin_password"), old);
    let keyed = |arguments: &str| {
        let call = data.call(arguments).env(FERNET_VARIABLE, FERNET);
        call.env("SRE_AGENT_ENCRYPTION_KEY_PREVIOUS", OTHER_FERNET)
    };
    let kid = {
        let listed = data.call("keys list --json").run().json();
        let keys = listed["keys"].as_array().unwrap();
        keys.iter().find(|key| key["suites"][0] == "fernet").unwrap()["kid"].as_str().unwrap().to_owned()
    };
    let key = raw(&data, &kid).replace('+', "-").replace('/', "_");
    for job in ["rotate", "rotate --reseal"] {
        keyed(job).run().text();
        let token = stored(&data, "s", "admin_password");
        assert_ne!(token, old, "{job}");
        assert_eq!(python("fernet", FERNET_VARIABLE, &key, &token).unwrap(), "[[\"ya29.token\", 1600000000]]", "{job}");
        let seen = keyfold("inspect").stdin(&token).run().json();
        assert_eq!(seen["timestamp"], 1_600_000_000, "{job}: {seen}");
    }
    // A token binds no place, so it is not used where it lies; moved to kf1, which binds one, it is.
    data.call("records get instances s --reveal").run().fails(2, &["without a binding", "keyfold migrate --to kf1"]);
    data.call("migrate --to kf1").run().text();
    assert_eq!(data.field("s", "/admin_password"), b"ya29.token");
}

#[test]
fn a_job_with_a_target_that_no_reader_could_use_changes_nothing() {
    let data = Data::new(&instances(ALL));
    data.put("r1", r#"{"admin_password":"one"}"#);
    let before = data.contents();
    data.call("migrate --to fernet").run().fails(2, &["records are not moved to fernet", "hint"]);
    data.call("rotate --to fernet").run().fails(2, &["records are not moved to fernet"]);
    data.call("migrate --to rot13").run().fails(2, &["kf1", "v1", "fernet"]);
    data.call("migrate --collection nowhere").run().fails(1, &["no collection `nowhere`"]);
    data.configure(&instances(""));
    let ended = data.call("migrate --to v1").run();
    assert_ne!(ended.code, 0, "the collection could not read it");
    assert_eq!(data.contents(), before);
}

#[test]
fn p01_a_wrong_key_changes_nothing_and_loses_nothing() {
    let data = mixed();
    let before = data.contents();
    // v1 and Fernet cannot tell a wrong key from a damaged value; neither is touched.
    let wrong =
        |arguments: &str| data.call(arguments).env(MASTER_VARIABLE, OTHER_MASTER).env(FERNET_VARIABLE, OTHER_FERNET);
    for job in ["rotate", "rotate --reseal", "rotate --to kf1", "verify"] {
        let ended = wrong(job).run();
        let said = String::from_utf8(ended.stdout).unwrap();
        assert_eq!(ended.code, 1, "{job}");
        assert!(said.contains("instances/v1#/admin_password") && said.contains("instances/fernet#"), "{job}: {said}");
        let after = data.contents();
        for key in ["v1", "fernet"] {
            let place = ("instances".to_owned(), key.to_owned());
            assert_eq!(after.records[&place], before.records[&place], "{job}");
        }
        assert_eq!(after.records.len(), before.records.len());
    }
    assert_eq!(keyed(&data, "records get instances v1 --field /admin_password").run().text(), "sealed elsewhere");
}
