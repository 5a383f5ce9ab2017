//! keyfold.toml: every mistake is reported, none of them by a panic.
#![no_main]

use keyfold_custody::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Config::parse(text);
});
