//! `keyfold policy learn`: what was asked becomes grants and rules, which then allow that and nothing else.

use serde_json::{Value, json};

use super::place::{Place, wait};

#[test]
fn what_an_agent_asked_for_becomes_the_smallest_grants_and_rules_that_allow_it() {
    let rules = "[[destinations.api.rules]]\nmethods = [\"GET\", \"PUT\"]\npath = \"/v1/**\"\n[[grants]]\nto = \"agent:triage\"\nmay = [\"use\"]\n\
                 destinations = [\"api\"]\nmethods = [\"GET\"]\n";
    let Some(place) = Place::with("default_grants = [\"operator\", \"service\"]\n", rules) else { return };
    let (_, handle) = place.session("alice");
    let ask = |method: &str, path: &str| place.send(place.request(method, path).header("keyfold-session", &handle));
    let asked = [("GET", "/v1/projects/p-1738/logs", 200), ("PUT", "/v1/notes", 403), ("POST", "/v1/notes/4711", 403)];
    for (method, path, status) in asked {
        assert_eq!(ask(method, path).status, status, "{method} {path}");
    }
    place
        .send(place.at("evil.test", "GET", "/x").header("keyfold-token", &place.agent))
        .fails(403, "destination_unknown");
    wait(|| place.events().iter().any(|event| event["action"] == "use" && event["kind"] == "outcome"));

    let said = place.keyfold("policy learn agent:triage --json");
    assert_eq!(said.code, 0, "{}", said.stderr);
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(said["unlisted"], json!(["evil.test:443"]));
    let learned = place.keyfold("policy learn agent:triage --since 1h");
    assert_eq!(learned.code, 0, "{}", learned.stderr);
    let learned = String::from_utf8(learned.stdout).unwrap();
    assert!(learned.contains("evil.test:443") && learned.contains("# agent:triage: 4 calls, 3 refused"), "{learned}");
    let nobody = String::from_utf8(place.keyfold("policy learn agent:nobody").stdout).unwrap();
    assert!(nobody.lines().all(|line| line.starts_with('#')), "{nobody}");

    // In place of the grant that there was, at the end of the configuration.
    let file = place.served.data().join("keyfold.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let (before, _) = config.split_once("[[grants]]").unwrap();
    std::fs::write(&file, format!("{before}{learned}")).unwrap();
    let checked = place.keyfold("policy check");
    assert_eq!(checked.code, 0, "{}\n{learned}", checked.stderr);
    let place = place.restarted();
    let ask = |method: &str, path: &str| place.send(place.request(method, path).header("keyfold-session", &handle));
    for (method, path, _) in asked {
        assert_eq!(ask(method, path).status, 200, "{method} {path}\n{learned}");
    }
    for (method, path) in
        [("GET", "/v1/notes"), ("DELETE", "/v1/notes"), ("PUT", "/v1/projects/p-1738/logs"), ("POST", "/v1/notes")]
    {
        assert_eq!(ask(method, path).status, 403, "{method} {path}\n{learned}");
    }
}
