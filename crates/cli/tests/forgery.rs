//! P17: whoever kept a retired key and an old copy makes new values under them, and today's key takes none.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as such")]

mod common;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    digest::{SHA256, digest},
    hmac,
};
use base64_simd::{STANDARD, URL_SAFE_NO_PAD};
use common::{
    folder::{Data, INSTANCES},
    signed::{keyring, raw},
};
use keyfold_core::context::Context;

/// The parts of an envelope's bytes.
#[derive(Clone)]
struct Parts {
    head: Vec<u8>,
    commitment: Vec<u8>,
    kid: Vec<u8>,
    wrap: Vec<u8>,
    body: Vec<u8>,
}

impl Parts {
    fn of(text: &str) -> Self {
        let bytes = URL_SAFE_NO_PAD.decode_to_vec(text.strip_prefix("kf1.").unwrap()).unwrap();
        let part = |from: usize, to: usize| bytes[from..to].to_vec();
        let body = bytes[92..].to_vec();
        Self { head: part(0, 4), commitment: part(4, 36), kid: part(36, 44), wrap: part(44, 92), body }
    }

    fn text(&self) -> String {
        let bytes = [&self.head[..], &self.commitment, &self.kid, &self.wrap, &self.body].concat();
        format!("kf1.{}", URL_SAFE_NO_PAD.encode_to_string(bytes))
    }

    /// What whoever holds M knows of this envelope: its data key.
    fn data_key(&self, m: &[u8], cd: &[u8]) -> Vec<u8> {
        let body = digest(&SHA256, &self.body);
        let key = expand(m, &[b"kf1 wrap\0", &self.head, &self.commitment, cd, body.as_ref()]);
        let mut wrapped = self.wrap.clone();
        let aad = [&self.head[..], &self.commitment, &self.kid, cd].concat();
        gcm(&key).open_in_place(zero(), Aad::from(aad), &mut wrapped).unwrap().to_vec()
    }

    /// The same envelope around another secret, under the same data key.
    fn with_secret(&self, dek: &[u8], cd: &[u8], secret: &[u8]) -> Self {
        let key = expand(dek, &[b"kf1 enc\0", &self.head, cd]);
        let mut body = secret.to_vec();
        let aad = [&self.head[..], &self.commitment].concat();
        gcm(&key).seal_in_place_append_tag(zero(), Aad::from(aad), &mut body).unwrap();
        Self { body, ..self.clone() }
    }

    /// Wrapped anew under M, as its owner would.
    fn wrapped(&self, m: &[u8], dek: &[u8], cd: &[u8]) -> Self {
        let body = digest(&SHA256, &self.body);
        let key = expand(m, &[b"kf1 wrap\0", &self.head, &self.commitment, cd, body.as_ref()]);
        let kid = expand(m, &[b"kf1 kid\0"])[..8].to_vec();
        let mut wrap = dek.to_vec();
        let aad = [&self.head[..], &self.commitment, &kid, cd].concat();
        gcm(&key).seal_in_place_append_tag(zero(), Aad::from(aad), &mut wrap).unwrap();
        Self { kid, wrap, ..self.clone() }
    }
}

fn expand(key: &[u8], info: &[&[u8]]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, &[&info.concat()[..], &[1]].concat()).as_ref().to_vec()
}

fn gcm(key: &[u8]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap())
}

fn zero() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[test]
fn p17_a_retired_key_and_an_old_copy_forge_nothing_that_todays_key_accepts() {
    let data = Data::new(INSTANCES);
    data.put("r1", r#"{"admin_password":"redis://good"}"#);
    let old_kid = data.kid("primary");
    let old_key = STANDARD.decode_to_vec(raw(&data, &old_kid)).unwrap();
    let envelope = |data: &Data| {
        let doc: serde_json::Value = serde_json::from_str(&data.doc("instances", "r1")).unwrap();
        doc["admin_password"].as_str().unwrap().to_owned()
    };
    let old = Parts::of(&envelope(&data));
    let (retired, new_kid) = data.rotated();
    assert_eq!(retired, old_kid);
    let new = Parts::of(&envelope(&data));
    // What the rewrap kept, and what the holder of the old key therefore knows.
    assert_eq!((&new.commitment, &new.body), (&old.commitment, &old.body));
    let context = Context::empty()
        .with("deployment", keyring(&data).deployment())
        .and_then(|context| context.with("collection", "instances"))
        .and_then(|context| context.with("record", "r1"))
        .and_then(|context| context.with("field", "/admin_password"))
        .unwrap();
    let cd = context.digest().as_bytes().to_vec();
    let dek = old.data_key(&old_key, &cd);
    let evil = old.with_secret(&dek, &cd, b"redis://evil");

    let new_kid_bytes = new.kid.clone();
    for (what, forged, says) in [
        ("under the retired key", evil.wrapped(&old_key, &dek, &cd), "retired"),
        ("with today's wrap", Parts { kid: new.kid.clone(), wrap: new.wrap.clone(), ..evil.clone() }, "admin_password"),
        (
            "under the retired key with today's kid",
            Parts { kid: new_kid_bytes, ..evil.wrapped(&old_key, &dek, &cd) },
            "admin_password",
        ),
        ("the old envelope itself", old, "retired"),
    ] {
        data.plant("instances", "r1", &format!("{{\"admin_password\":\"{}\"}}", forged.text()));
        data.call("records get instances r1 --reveal").run().fails(4, &[says]);
        let before = data.contents();
        for job in ["rotate", "rotate --reseal", "migrate", "verify"] {
            let ended = data.call(job).run();
            assert_eq!(ended.code, 1, "{job} {what}: {}", ended.stderr);
        }
        assert_eq!(data.contents(), before, "{what}");
    }
    // The forgery is a good one: before the key was retired, it would have opened.
    let activated = data.copy();
    activated.call("keys activate").arg(&old_kid).run().text();
    let forged = evil.wrapped(&old_key, &dek, &cd).text();
    activated.plant("instances", "r1", &format!("{{\"admin_password\":\"{forged}\"}}"));
    assert_eq!(activated.field("r1", "/admin_password"), b"redis://evil");
    // And today's envelope opens as ever.
    data.plant("instances", "r1", &format!("{{\"admin_password\":\"{}\"}}", new.text()));
    assert_eq!(data.field("r1", "/admin_password"), b"redis://good");
    assert_eq!(data.kid("primary"), new_kid);
}
