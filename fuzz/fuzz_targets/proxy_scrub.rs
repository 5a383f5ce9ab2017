//! The scrubber: any cuts give the same, and no plain occurrence is left.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use scrub::{MIN, Patterns, Scrubber};

#[path = "../../crates/server/src/proxy/scrub/mod.rs"]
#[allow(dead_code)]
mod scrub;

fn scrubbed<'a>(secret: &[u8], chunks: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut scrubber = Scrubber::new(&Arc::new(Patterns::new(&[secret])));
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend_from_slice(&scrubber.scrub(Bytes::copy_from_slice(chunk)));
    }
    out.extend_from_slice(&scrubber.finish());
    out
}

fuzz_target!(|input: (&[u8], &[u8], u8)| {
    let (secret, text, size) = input;
    let whole = scrubbed(secret, std::iter::once(text));
    assert_eq!(whole.len(), text.len());
    assert_eq!(whole, scrubbed(secret, text.chunks(usize::from(size).max(1))));
    if secret.len() >= MIN && !secret.contains(&b'*') {
        assert!(!whole.windows(secret.len()).any(|window| window == secret));
    }
});
