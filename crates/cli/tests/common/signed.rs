//! What somebody can make who holds the root key: documents that authenticate and still are not right.

use aws_lc_rs::hmac;
use base64_simd::STANDARD;
use keyfold_core::{
    keyring::{Keyring, document},
    root::RootKey,
};
use keyfold_providers::KeyUri;
use serde_json::Value;

use super::folder::Data;

/// The keyring as it is stored, opened.
pub(crate) fn keyring(data: &Data) -> Keyring {
    let root = keyfold_providers::open(&KeyUri::File(data.file("root.key"))).unwrap();
    block_on(document::open(&root, &data.document(), 0)).unwrap()
}

/// The raw key of a kid, in base64.
pub(crate) fn raw(data: &Data, kid: &str) -> String {
    let keyring = keyring(data);
    STANDARD.encode_to_string(keyring.entry(kid.parse().unwrap()).unwrap().material().raw().expose())
}

/// A document with another body under a proof that fits.
pub(crate) fn resigned(data: &Data, document: &[u8], edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let root = keyfold_providers::open(&KeyUri::File(data.file("root.key"))).unwrap();
    let text = std::str::from_utf8(document).unwrap();
    let (body, proof) = text.trim_end().split_once('\n').unwrap();
    let mut body: Value = serde_json::from_str(body).unwrap();
    let proof: Value = serde_json::from_str(proof).unwrap();
    let wrapped = STANDARD.decode_to_vec(proof["mac_key"].as_str().unwrap()).unwrap();
    let mut aad = b"keyfold keyring entry v1\0".to_vec();
    for part in [body["id"].as_str().unwrap(), "", "mac", ""] {
        aad.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
        aad.extend(part.as_bytes());
    }
    let key = block_on(root.unwrap(&wrapped, &aad)).unwrap();
    edit(&mut body);
    let body = body.to_string();
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
    let tag = hmac::sign(&key, &[b"keyfold keyring v1\0", body.as_bytes()].concat());
    let mac: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{body}\n{{\"mac_key\":{},\"mac\":\"{mac}\"}}\n", proof["mac_key"]).into_bytes()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}
