//! A kf1 envelope in text: what is taken has one spelling.
#![no_main]

use keyfold_core::{
    detect::{Detected, detect},
    envelope::{Format, kf1::Envelope},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(envelope) = Envelope::from_text(text) else { return };
    assert_eq!(envelope.to_text(), text);
    assert_eq!(detect(text), Detected::Sealed(Format::Kf1));
});
