//! What the OpenAPI document promises is what the service does: schemathesis makes requests up from it and judges the answers.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]
#![allow(clippy::print_stderr, reason = "what was not run is said by name")]

mod common;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use common::{
    deployment::scaled,
    issuer::{Issuer, now},
    served::Served,
};
use serde_json::json;

/// A Python that has schemathesis: the one that is named, or where `./test` puts it.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("KEYFOLD_TEST_SCHEMATHESIS").map(PathBuf::from);
    let installed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/schemathesis/bin/python");
    let found = [named, Some(installed), Some("python3".into())].into_iter().flatten().find(|python| {
        let has = Command::new(python).args(["-c", "import schemathesis"]).stderr(Stdio::null()).status();
        has.is_ok_and(|status| status.success())
    });
    let required = std::env::var_os("KEYFOLD_TEST_REQUIRE").is_some_and(|value| value == "all");
    if found.is_none() {
        assert!(!required, "not run: no Python with schemathesis; set KEYFOLD_TEST_SCHEMATHESIS");
        eprintln!("not run: no Python with schemathesis; set KEYFOLD_TEST_SCHEMATHESIS");
    }
    found
}

/// Everything that a request could be about, by the names that the made-up requests use.
fn furnished(served: &Served) -> String {
    let record = "/v1/collections/instances/records/r1";
    served.put(record, json!({ "connection_url": "x" })).is(201);
    let job = served.post("/v1/jobs", json!({ "kind": "verify", "collection": "instances" })).is(202);
    let token = served.post("/v1/tokens", json!({ "actor": "agent:x" })).is(201);
    let mut config =
        "[parameters]\n\"path.collection\" = \"instances\"\n\"path.record\" = \"r1\"\n\"path.keyring\" = \"current\"\n"
            .to_owned();
    for (path, id) in
        [("/v1/jobs/{id}", &job["id"]), ("/v1/jobs/{id}/events", &job["id"]), ("/v1/tokens/{id}", &token["id"])]
    {
        config += &format!("\n[[operations]]\ninclude-path = {path:?}\nparameters = {{ \"path.id\" = {id} }}\n");
    }
    config
}

#[test]
fn no_request_that_can_be_made_up_gets_a_5xx_or_an_answer_that_is_not_documented() {
    let Some(python) = python() else { return };
    let issuer = Issuer::new(1);
    let url = &issuer.fake.url;
    // The caller has a proof that no made-up request can take back, as one once took back the token it was sent with.
    let served = Served::new(&format!(
        "[collections.instances]\nfields = [\"/connection_url\"]\n[[server.issuers]]\nissuer = \"{url}\"\naudience = \
         \"keyfold\"\njwks = \"{url}/jwks\"\nkind = \"operator\"\n"
    ));
    let claims = json!({ "iss": url, "aud": "keyfold", "sub": "tester", "exp": now() + 7200 });
    let jwt = issuer.jwt(&json!({ "alg": "EdDSA", "kid": "k1" }), &claims);
    let operations = served.get("/openapi.json").is(200);
    // Once with what is there, once with made-up names too.
    for (config, examples) in [(furnished(&served), scaled(100)), (String::new(), scaled(50))] {
        let file = served.folder().path().join("schemathesis.toml");
        std::fs::write(&file, config).unwrap();
        let run = Command::new(&python)
            .args(["-m", "schemathesis.cli", "--no-color", "--config-file"])
            .arg(&file)
            .args(["run", &format!("{}/openapi.json", served.url)])
            .args(["-H", &format!("Authorization: Bearer {jwt}")])
            .args([
                "--checks",
                "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
            ])
            .args(["--phases", "examples,coverage,fuzzing", "--max-examples", &examples.to_string()])
            // It waits for other processes, by design longer than a made-up request is worth.
            .args(["--exclude-path-regex", "keys/.key.:"])
            .current_dir(served.folder().path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
        assert!(said.contains("passed"), "{said}");
        assert!(!said.contains("returned only 401/403"), "{said}");
    }
    assert!(!served.stderr().contains("panicked"), "{}", served.stderr());
    // Every operation was seen to do what it is for, except those that take an issuer: `sessions.rs` has one.
    let numbers = served.get("/metrics").text();
    for (path, item) in operations["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().map(|method| method.to_uppercase()) {
            let template = path.replace("{record}:open", "{record}");
            let done = numbers.lines().any(|line| {
                line.contains(&format!("requests_total{{route=\"{template}\",method=\"{method}\",status=\"2"))
            });
            let issued = path.starts_with("/auth/") || path.starts_with("/v1/sessions");
            assert!(done || issued || path.contains("{key}"), "{method} {path} never succeeded:\n{numbers}");
        }
    }
}
