//! redis-sre-agent's envelope, strictly read. The input is the JSON, so that the fuzzer need not learn base64.
#![no_main]

use base64_simd::STANDARD;
use keyfold_core::{
    detect::{Detected, detect},
    envelope::{Format, Reading, redis_sre_v1::Envelope},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let text = STANDARD.encode_to_string(json);
    let Ok(envelope) = Envelope::parse(&text, Reading::Strict) else { return };
    assert_eq!(detect(&text), Detected::Sealed(Format::V1));
    // Members may stand in any order, and everything else is as the writer writes it.
    let again = Envelope::parse(&envelope.to_text(), Reading::Strict).expect("what was written is read");
    assert_eq!(again.to_text(), envelope.to_text());
    assert_eq!(envelope.to_text().len(), text.len());
    assert!(Envelope::parse(&text, Reading::Compat).is_ok());
});
