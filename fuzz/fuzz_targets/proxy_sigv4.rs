//! An agent's AWS signature: read or refused, and what is signed anew never carries the handle.
#![no_main]

use keyfold_core::secret::Secret;
use libfuzzer_sys::fuzz_target;
use path::Path;
use sigv4::{Credentials, Outgoing, Signed, refuse_presigned};

#[path = "../../crates/server/src/proxy/path.rs"]
#[allow(dead_code)]
mod path;
#[path = "../../crates/server/src/proxy/sigv4.rs"]
#[allow(dead_code)]
mod sigv4;

fuzz_target!(|input: (&str, &str, &str, Option<&str>)| {
    let (authorization, target, date, payload) = input;
    let Ok(signed) = Signed::parse(authorization) else { return };
    let _ = signed.payload(payload);
    let Ok(path) = Path::parse(target, true) else { return };
    let with = Credentials { key_id: "AKID".into(), secret: Secret::from(&b"secret"[..]), session_token: None };
    let headers = [("host", "a.example"), ("x-amz-date", date), ("x-amz-a", target)];
    let request = Outgoing { method: "GET", path: &path, headers: &headers, payload: "UNSIGNED-PAYLOAD" };
    if let Ok(made) = signed.resign(&request, &with) {
        assert!(refuse_presigned(path.query()).is_ok());
        assert!(made.authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKID/"));
    }
});
