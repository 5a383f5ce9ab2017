//! What a stored value is: the same from text and from bytes, and never plaintext for what a reader takes.
#![no_main]

use keyfold_core::{
    detect::{Detected, detect, detect_bytes},
    envelope::{Reading, fernet, kf1, redis_sre_v1},
    inspect::inspect,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = detect_bytes(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let detected = detect(text);
    assert_eq!(detect_bytes(bytes), detected);
    assert_eq!(inspect(text).format, detected.as_str());
    if detected == Detected::Plaintext {
        assert!(kf1::Envelope::from_text(text).is_err());
        assert!(redis_sre_v1::Envelope::parse(text, Reading::Strict).is_err());
        assert!(!text.starts_with(fernet::PREFIX));
    }
});
