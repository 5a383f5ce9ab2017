//! A path: what is accepted is kept byte for byte, has no dot segment in a loose reading, and gives a template without its query.
#![no_main]

use libfuzzer_sys::fuzz_target;
use path::Path;

#[path = "../../crates/server/src/proxy/path.rs"]
#[allow(dead_code)]
mod path;

fuzz_target!(|raw: &str| {
    let strict = Path::parse(raw, false);
    let lenient = Path::parse(raw, true);
    let Ok(path) = lenient else {
        assert!(strict.is_err(), "the lenient reading refuses what the strict one takes");
        return;
    };
    assert_eq!(path.as_str(), raw);
    assert!(!path.template().contains('?'));
    let unescaped = path.path().replace("%2e", ".").replace("%2E", ".");
    let separated = unescaped.replace("%2f", "/").replace("%2F", "/").replace("%5c", "/").replace("%5C", "/");
    for segment in separated.split('/') {
        assert!(segment != "." && segment != "..", "{raw}");
    }
    if strict.is_ok() {
        assert_eq!(separated.split('/').count(), path.path().split('/').count());
        assert!(!path.path().contains("//"));
    }
});
