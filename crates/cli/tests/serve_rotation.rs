//! The service changes keys by the clock while it serves.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as such")]

mod common;

use std::time::{Duration, Instant};

use common::served::Served;
use serde_json::{Value, json};

const CONFIG: &str = "[server]\nrotate = \"2s\"\n\n[collections.instances]\nfields = [\"/password\"]\n";

fn keys(served: &Served) -> Vec<(String, String)> {
    let listed = served.get("/v1/keyrings").is(200);
    let keys = listed["keyrings"][0]["keys"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    keys.map(|key| (text(&key["kid"]), text(&key["state"]))).collect()
}

#[test]
fn keys_that_are_due_are_followed_by_new_ones_records_move_and_former_keys_retire() {
    let served = Served::new(CONFIG);
    let record = "/v1/collections/instances/records/r1";
    served.put(record, json!({ "password": "hunter2" })).is(201);
    let revealed = || {
        let request = served.request("POST", &format!("{record}:open")).bearer_auth(&served.token);
        served.send(request.json(&json!({ "field": "/password" }))).is(200)
    };
    let before = revealed();
    let first = keys(&served)[0].0.clone();
    let until = Instant::now() + Duration::from_secs(120);
    // Three generations, and what went before them refused.
    loop {
        let now = keys(&served);
        let retired = now.iter().filter(|(_, state)| state == "retired").count();
        assert_eq!(now.iter().filter(|(_, state)| state == "primary").count(), 1, "{now:?}");
        if retired >= 3 && now.contains(&(first.clone(), "retired".into())) {
            break;
        }
        assert!(Instant::now() < until, "{now:?}\n{}", served.stderr());
        std::thread::sleep(Duration::from_millis(200));
        // Whatever the state, the record opens.
        assert_eq!(revealed(), before);
    }
    let jobs = served.get("/v1/jobs").is(200);
    let jobs: Vec<&Value> = jobs["jobs"].as_array().unwrap().iter().collect();
    assert!(jobs.len() >= 3 && jobs.iter().all(|job| job["kind"] == "rotate"), "{jobs:?}");
    assert!(jobs.iter().any(|job| job["summary"]["changed"] == 1), "{jobs:?}");
}
