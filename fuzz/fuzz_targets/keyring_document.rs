//! The keyring document before it is authenticated.
#![no_main]

use keyfold_core::keyring::document;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = document::claims(bytes);
});
