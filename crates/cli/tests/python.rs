//! Values pass both ways between the program and Python's `cryptography`, sealed as the two Python projects seal them.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as such")]

mod common;

use std::{io::Write, process::Stdio};

use common::{FERNET_VARIABLE, MASTER_VARIABLE, keyfold};

/// redis-sre-agent's envelope and Auto SRE's Fernet, in the few lines that matter. What to do is the first argument.
const SCRIPT: &str = r#"
import base64, json, os, sys
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

given = sys.stdin.buffer.read()
b64 = lambda b: base64.b64encode(b).decode()

def master():
    key = base64.b64decode(os.environ["REDIS_SRE_MASTER_KEY"])
    assert len(key) == 32
    return AESGCM(key)

def seal_v1():
    dek, nonce, dek_nonce = AESGCM.generate_key(bit_length=256), os.urandom(12), os.urandom(12)
    envelope = {
        "version": "v1",
        "ciphertext": b64(AESGCM(dek).encrypt(nonce, given, None)),
        "nonce": b64(nonce),
        "wrapped_dek": b64(master().encrypt(dek_nonce, dek, None)),
        "dek_nonce": b64(dek_nonce),
    }
    return base64.b64encode(json.dumps(envelope).encode())

def open_v1():
    text = base64.b64decode(given)
    envelope = json.loads(text)
    assert text == json.dumps(envelope).encode(), "not the layout that json.dumps writes"
    assert list(envelope) == ["version", "ciphertext", "nonce", "wrapped_dek", "dek_nonce"]
    raw = {k: base64.b64decode(v) for k, v in envelope.items() if k != "version"}
    dek = master().decrypt(raw["dek_nonce"], raw["wrapped_dek"], None)
    return AESGCM(dek).decrypt(raw["nonce"], raw["ciphertext"], None)

def fernet():
    return Fernet(os.environ["SRE_AGENT_ENCRYPTION_KEY"])

what = {
    "seal v1": seal_v1,
    "open v1": open_v1,
    "seal fernet": lambda: fernet().encrypt(given),
    "open fernet": lambda: fernet().decrypt(given, ttl=600),
}
sys.stdout.buffer.write(what[sys.argv[1]]())
"#;

fn python(act: &str, variable: &str, key: &str, stdin: &[u8]) -> Option<Vec<u8>> {
    let mut command = common::python()?;
    command.args(["-c", SCRIPT, act]).env(variable, key).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "Python could not {act}");
    Some(output.stdout)
}

#[test]
fn python_opens_what_keyfold_seals_and_the_other_way_round_with_a_key_from_keygen() {
    for (format, keygen, variable) in
        [("v1", "keygen", MASTER_VARIABLE), ("fernet", "keygen --fernet", FERNET_VARIABLE)]
    {
        let key = keyfold(keygen).run().text();
        for secret in ["redis://default:p@ss/w\"rd@host:6379", "", "ключ 🔑\n", &"long ".repeat(2000)] {
            let sealed =
                keyfold(&format!("seal --quiet --format {format}")).env(variable, &key).stdin(secret).run().text();
            let Some(opened) = python(&format!("open {format}"), variable, &key, sealed.as_bytes()) else { return };
            assert_eq!(opened, secret.as_bytes());

            let Some(sealed) = python(&format!("seal {format}"), variable, &key, secret.as_bytes()) else { return };
            let opened = keyfold("open").env(variable, &key).stdin(sealed).run();
            assert_eq!((opened.code, &*opened.stdout), (0, secret.as_bytes()), "{}", opened.stderr);
        }
    }
}
