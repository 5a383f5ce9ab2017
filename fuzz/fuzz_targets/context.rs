//! The encoding of contexts: whatever the order of the entries, and different for different ones.
#![no_main]

use keyfold_core::context::Context;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|entries: Vec<String>| {
    let Ok(context) = Context::parse_entries(&entries) else { return };
    let reversed: Vec<&String> = entries.iter().rev().collect();
    assert_eq!(Context::parse_entries(&reversed).as_ref(), Ok(&context));
    assert_eq!(context.keys().count(), entries.len());
    if let Ok(more) = context.clone().with("\u{10ffff}one more", "") {
        assert_ne!(more.encode(), context.encode());
        assert_ne!(more.digest(), context.digest());
    }
});
