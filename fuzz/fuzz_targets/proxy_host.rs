//! A host: what is read is read the same again, and has no second spelling.
#![no_main]

use host::Host;
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/server/src/proxy/host.rs"]
#[allow(dead_code)]
mod host;

fuzz_target!(|text: &str| {
    if let Ok((host, port)) = Host::with_port(text, 443) {
        assert_eq!(Host::with_port(&format!("{host}:{port}"), 1), Ok((host, port)));
    }
    let Ok(host) = Host::parse(text) else { return };
    assert_eq!(host.as_str(), text.to_ascii_lowercase());
    assert_eq!(Host::parse(host.as_str()).as_ref(), Ok(&host));
    assert_eq!(host.as_str().parse().ok(), host.address(), "what is an address to somebody is one here");
});
