//! A checkpoint: a signed note is read in one spelling, and nothing verifies that nobody signed.
#![no_main]

use keyfold_core::audit::SignedNote;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = SignedNote::parse(text);
});
