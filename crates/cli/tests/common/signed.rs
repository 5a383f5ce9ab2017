//! What somebody can make who holds the root key: documents that authenticate and still are not right.

use base64_simd::STANDARD;
use keyfold_core::{
    id::to_hex,
    keyring::{Keyring, document},
    mac,
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
    let (body, _) = text.trim_end().split_once('\n').unwrap();
    let mut body: Value = serde_json::from_str(body).unwrap();
    let wrapped = STANDARD.decode_to_vec(body["roots"][0]["wrapped"].as_str().unwrap()).unwrap();
    let key = block_on(root.unwrap(&wrapped, &aad(&body))).unwrap();
    edit(&mut body);
    let wrapped = block_on(root.wrap(&key, &aad(&body))).unwrap();
    body["roots"][0]["wrapped"] = STANDARD.encode_to_string(wrapped).into();
    let body = body.to_string();
    let key = mac::expand(key.expose(), b"keyfold keyring mac v1\0", &[]);
    let tag = mac::hmac(&key, &[b"keyfold keyring v1\0", body.as_bytes()]);
    format!("{body}\n{{\"mac\":\"{}\"}}\n", to_hex(&tag)).into_bytes()
}

fn aad(body: &Value) -> Vec<u8> {
    let generation = body["generation"].as_u64().unwrap().to_be_bytes();
    [b"keyfold keyring root v1\0", &generation[..], body["id"].as_str().unwrap().as_bytes()].concat()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}
