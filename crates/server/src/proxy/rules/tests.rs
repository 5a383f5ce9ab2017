use proptest::prelude::*;

use super::*;

fn settings(text: &str) -> RuleSettings {
    toml::from_str(text).unwrap()
}

fn rules(texts: &[&str]) -> Rules {
    let mut rules = Rules::default();
    for (index, text) in texts.iter().enumerate() {
        rules.add(&format!("d{index}"), &settings(text)).unwrap();
    }
    rules
}

/// `METHOD host[:port]path`, with `grpc` as a method for a call of gRPC.
fn ask(rules: &Rules, line: &str) -> Result<String, String> {
    let (method, rest) = line.split_once(' ').unwrap();
    let (authority, path) = rest.split_at(rest.find('/').unwrap());
    let (host, port) = Host::with_port(authority, 443).unwrap();
    let path = Path::parse(path, true).unwrap();
    let (method, grpc) = if method == "grpc" { ("POST", true) } else { (method, false) };
    let request = Request { host: &host, port, method, path: &path, grpc };
    let what = |error: Unmatched| match error.step {
        Step::Host => "host",
        Step::Port => "port",
        Step::Method | Step::Never => "method",
        Step::Path => "path",
    };
    rules.decide(&request).map(|rule| rule.name.to_string()).map_err(|error| what(error).to_owned())
}

#[test]
fn what_no_rule_names_is_refused() {
    let none = Rules::default();
    assert_eq!(ask(&none, "GET a.example/"), Err("host".into()));
    let rules = rules(&["host = \"a.example\""]);
    for (line, answer) in [
        ("GET a.example/", Ok("d0")),
        ("DELETE a.example/x/y?z", Ok("d0")),
        ("GET A.example/", Ok("d0")),
        ("GET a.example:444/", Err("port")),
        ("GET b.example/", Err("host")),
        ("GET x.a.example/", Err("host")),
        ("CONNECT a.example/", Err("method")),
        ("TRACE a.example/", Err("method")),
        ("trace a.example/", Err("method")),
    ] {
        assert_eq!(ask(&rules, line), answer.map(String::from).map_err(String::from), "{line}");
    }
}

#[test]
fn p32_a_host_matches_whole_and_a_wildcard_one_label() {
    let rules = rules(&["host = \"api.example.com\"", "host = \"*.example.com\"", "host = \"192.0.2.1\""]);
    for (line, answer) in [
        ("GET api.example.com/", Ok("d0")),
        ("GET other.example.com/", Ok("d1")),
        ("GET a.b.example.com/", Err("host")),
        ("GET example.com/", Err("host")),
        ("GET api.example.com.evil.tld/", Err("host")),
        ("GET evilexample.com/", Err("host")),
        ("GET x.evilexample.com/", Err("host")),
        ("GET 192.0.2.1/", Ok("d2")),
        ("GET 192.0.2.2/", Err("host")),
    ] {
        assert_eq!(ask(&rules, line), answer.map(String::from).map_err(String::from), "{line}");
    }
}

#[test]
fn methods_and_paths_match_as_they_are_written() {
    let rules = rules(&[
        "host = \"a.example\"\nmethods = [\"GET\", \"HEAD\"]\npath = \"/v1/**\"",
        "host = \"a.example\"\nmethods = [\"POST\"]\npath = \"/v1/projects/*/logs\"",
        "host = \"a.example\"\nmethods = [\"POST\"]\npath = \"/v1/projects/*:search\"",
        "host = \"b.example\"\npath = \"/exact\"",
        "host = \"b.example\"\npath = \"/\"",
    ]);
    for (line, answer) in [
        ("GET a.example/v1/", Ok("d0")),
        ("GET a.example/v1/x/y/z?q=/v2", Ok("d0")),
        ("GET a.example/v1", Err("path")),
        ("GET a.example/v12/x", Err("path")),
        ("GET a.example/V1/x", Err("path")),
        ("GET a.example/?/v1/x", Err("path")),
        ("get a.example/v1/x", Err("method")),
        ("PUT a.example/v1/x", Err("method")),
        ("POST a.example/v1/projects/p/logs", Ok("d1")),
        ("POST a.example/v1/projects/p/q/logs", Err("path")),
        ("POST a.example/v1/projects//logs", Err("path")),
        ("POST a.example/v1/projects/p/logs/", Err("path")),
        ("POST a.example/v1/projects/p%2Fq/logs", Ok("d1")),
        ("POST a.example/v1/projects/p:search", Ok("d2")),
        ("POST a.example/v1/projects/:search", Err("path")),
        ("POST a.example/v1/projects/p:searchx", Err("path")),
        ("GET b.example/exact", Ok("d3")),
        ("GET b.example/exact?x", Ok("d3")),
        ("GET b.example/%65xact", Err("path")),
        ("GET b.example/exact/", Err("path")),
        ("GET b.example/", Ok("d4")),
    ] {
        assert_eq!(ask(&rules, line), answer.map(String::from).map_err(String::from), "{line}");
    }
}

#[test]
fn a_grpc_rule_takes_its_calls_and_nothing_else() {
    let rules = rules(&[
        "host = \"a.example\"\ngrpc = { service = \"logs.v2.Logging\", methods = [\"Write\"] }",
        "host = \"a.example\"\ngrpc = { service = \"all.Of\" }",
    ]);
    for (line, answer) in [
        ("grpc a.example/logs.v2.Logging/Write", Ok("d0")),
        ("grpc a.example/all.Of/Any", Ok("d1")),
        ("grpc a.example/logs.v2.Logging/Delete", Err("path")),
        ("grpc a.example/logs.v2.Logging/Write/", Err("path")),
        ("grpc a.example/logs.v2.Logging/Write?x", Err("path")),
        ("grpc a.example/logs.v2.LoggingX/Write", Err("path")),
        ("grpc a.example/all.Of/", Err("path")),
        ("grpc a.example/all.Of/a/b", Err("path")),
        ("POST a.example/logs.v2.Logging/Write", Err("path")),
        ("GET a.example/all.Of/Any", Err("path")),
    ] {
        assert_eq!(ask(&rules, line), answer.map(String::from).map_err(String::from), "{line}");
    }
}

#[test]
fn a_refusal_names_the_nearest_rule() {
    let rules =
        rules(&["host = \"a.example\"\nport = 8443", "host = \"a.example\"\nmethods = [\"GET\"]\npath = \"/v1/**\""]);
    let host = Host::parse("a.example").unwrap();
    let path = Path::parse("/v2/s3cr3t?s3cr3t", false).unwrap();
    let refused =
        |method, port| rules.decide(&Request { host: &host, port, method, path: &path, grpc: false }).unwrap_err();
    assert_eq!(refused("GET", 443).to_string(), "destination `d1` has this host and port, and no rule for this path");
    assert_eq!(refused("PUT", 443).to_string(), "destination `d1` has this host and port, and no rule for this method");
    assert_eq!(refused("PUT", 80).to_string(), "destination `d0` has this host, and another port");
    assert!(refused("GET", 443).hint().unwrap().contains("policy explain"));
}

#[test]
fn every_mistake_in_a_rule_is_said() {
    for (text, errors) in [
        ("host = \"A.example\"", vec![RuleError::Host]),
        ("host = \"*.com\"", vec![RuleError::Host]),
        ("host = \"*\"", vec![RuleError::Host]),
        ("host = \"*.*.example.com\"", vec![RuleError::Host]),
        ("host = \"a.*.example.com\"", vec![RuleError::Host]),
        ("host = \"*.0.0.1\"", vec![RuleError::Host]),
        ("host = \"a.example:443\"", vec![RuleError::Host]),
        ("host = \"a.example\"\nport = 0", vec![RuleError::Port]),
        ("host = \"a.example\"\nmethods = []", vec![RuleError::Methods]),
        ("host = \"a.example\"\nmethods = [\"get\"]", vec![RuleError::Methods]),
        ("host = \"a.example\"\nmethods = [\"TRACE\"]", vec![RuleError::Methods]),
        ("host = \"a.example\"\npath = \"v1\"", vec![RuleError::Path]),
        ("host = \"a.example\"\npath = \"/a/**/b\"", vec![RuleError::Path]),
        ("host = \"a.example\"\npath = \"/a***\"", vec![RuleError::Path]),
        ("host = \"a.example\"\npath = \"/a*b*\"", vec![RuleError::Path]),
        ("host = \"a.example\"\npath = \"/a/../b\"", vec![RuleError::Path]),
        ("host = \"a.example\"\npath = \"/a?b\"", vec![RuleError::Path]),
        ("host = \"a.example\"\ngrpc = { service = \"a/b\" }", vec![RuleError::Grpc]),
        ("host = \"a.example\"\ngrpc = { service = \"a.B\", methods = [\"*\"] }", vec![RuleError::Grpc]),
        ("host = \"a.example\"\npath = \"/x\"\ngrpc = { service = \"a.B\" }", vec![RuleError::Grpc]),
        (
            "host = \"\"\nport = 0\nmethods = [\"x\"]\npath = \"\"",
            vec![RuleError::Host, RuleError::Port, RuleError::Methods, RuleError::Path],
        ),
    ] {
        assert_eq!(Rules::default().add("d", &settings(text)), Err(errors), "{text}");
    }
    for unknown in
        ["host = \"a.example\"\npaths = \"/\"", "host = \"a.example\"\ngrpc = { service = \"a.B\", method = \"c\" }"]
    {
        assert!(toml::from_str::<RuleSettings>(unknown).is_err(), "{unknown}");
    }
}

proptest! {
    #[test]
    fn p31_a_prefix_rule_lets_nothing_out_of_its_folder(tail in "[a-z./%;2ef5c\\\\]{0,24}", lenient: bool) {
        let rules = rules(&["host = \"a.example\"\npath = \"/safe/**\""]);
        let host = Host::parse("a.example").unwrap();
        let raw = format!("/safe/{tail}");
        if let Ok(path) = Path::parse(&raw, lenient) {
            let request = Request { host: &host, port: 443, method: "GET", path: &path, grpc: false };
            prop_assert!(rules.decide(&request).is_ok());
            let unescaped = raw.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
            let dots = unescaped.split('/').any(|segment| segment == "." || segment == "..");
            prop_assert!(!dots, "{raw}");
        }
    }

    #[test]
    fn a_literal_rule_matches_its_own_path_only(path in "(/[a-z0-9.]{1,5}){1,4}", other in "(/[a-z0-9.]{1,5}){1,4}") {
        let Ok(own) = Path::parse(&path, false) else { return Ok(()) };
        let Ok(other) = Path::parse(&other, false) else { return Ok(()) };
        let rules = rules(&[&format!("host = \"a.example\"\npath = \"{path}\"")]);
        let host = Host::parse("a.example").unwrap();
        let decide = |path| rules.decide(&Request { host: &host, port: 443, method: "GET", path, grpc: false }).is_ok();
        prop_assert!(decide(&own));
        prop_assert_eq!(decide(&other), own == other);
    }
}
