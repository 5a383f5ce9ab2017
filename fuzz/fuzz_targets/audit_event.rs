//! A stored line of the audit log: an event, a genesis, or a chain's continuation.
#![no_main]

use keyfold_core::audit::{Continuation, Event, genesis::SignedGenesis};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    let _ = Event::parse(line);
    let _ = SignedGenesis::parse(line);
    let _ = Continuation::parse(line);
});
