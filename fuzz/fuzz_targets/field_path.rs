//! Field paths: what is taken is written as it was read.
#![no_main]

use keyfold_custody::layout::path::FieldPath;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(path) = text.parse::<FieldPath>() else { return };
    assert_eq!(path.as_str(), text);
    let _ = path.covers(text);
});
