//! redis-sre-agent's envelope, read as the original reads it.
#![no_main]

use base64_simd::STANDARD;
use keyfold_core::envelope::{Reading, redis_sre_v1::Envelope};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for text in [String::from_utf8_lossy(bytes).into_owned(), STANDARD.encode_to_string(bytes)] {
        if let Ok(envelope) = Envelope::parse(&text, Reading::Compat) {
            assert!(Envelope::parse(&envelope.to_text(), Reading::Strict).is_ok());
        }
    }
});
