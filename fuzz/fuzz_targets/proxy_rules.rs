//! Rules: any setting is compiled or refused, and what a rule with a literal path lets through has that path.
#![no_main]

use host::Host;
use libfuzzer_sys::fuzz_target;
use path::Path;
use rules::{Request, RuleSettings, Rules};

#[path = "../../crates/server/src/proxy/host.rs"]
#[allow(dead_code)]
mod host;
#[path = "../../crates/server/src/proxy/path.rs"]
#[allow(dead_code)]
mod path;
#[path = "../../crates/server/src/proxy/rules.rs"]
#[allow(dead_code)]
mod rules;

fuzz_target!(|input: (&str, &str, &str, &str, bool)| {
    let (settings, target, authority, method, grpc) = input;
    let Ok(settings) = toml::from_str::<RuleSettings>(settings) else { return };
    let mut rules = Rules::default();
    if rules.add("d", &settings).is_err() {
        return;
    }
    let (Ok((host, port)), Ok(path)) = (Host::with_port(authority, 443), Path::parse(target, true)) else { return };
    if rules.decide(&Request { host: &host, port, method, path: &path, grpc }).is_ok() {
        assert_eq!(port, settings.port);
        assert!(settings.host.starts_with("*.") || settings.host == host.as_str());
        assert!(method != "CONNECT" && method != "TRACE");
        if let Some(pattern) = settings.path.filter(|pattern| !pattern.contains('*')) {
            assert_eq!(pattern, path.path());
        }
    }
});
