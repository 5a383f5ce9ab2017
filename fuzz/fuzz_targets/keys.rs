//! Raw keys, as variables and files hold them: 32 bytes in one spelling, or an error that does not repeat the text.
#![no_main]

use keyfold_core::keyring::{fernet_to_text, master_to_text, parse_fernet, parse_master};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match parse_master("HERE", text) {
        Ok(key) => assert_eq!(master_to_text(key.raw()), text.trim()),
        Err(error) => assert!(text.len() < 20 || !error.to_string().contains(text)),
    }
    if let Ok(key) = parse_fernet("HERE", text) {
        assert_eq!(fernet_to_text(key.raw()), text.trim());
    }
});
