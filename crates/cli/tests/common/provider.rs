//! An OpenID Connect server of a test's own: the real one, on a port of its own, gone with the test.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

/// Ends with its value; also with the process, since it reads a pipe that only this one holds.
pub(crate) struct Provider {
    pub(crate) issuer: String,
    pub(crate) beside: String,
    child: Child,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `./test` installs it.
fn installed() -> PathBuf {
    let from = std::env::var_os("KEYFOLD_TEST_OIDC").map(PathBuf::from);
    from.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("oidc"))
}

impl Provider {
    /// Starts it; `None`, with a word about it, where it is not installed. With `KEYFOLD_TEST_REQUIRE=all` that is a failure.
    pub(crate) fn start() -> Option<Self> {
        let folder = installed();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oidc/provider.mjs");
        let there = folder.join("node_modules/oauth2-mock-server").is_dir();
        let child = Command::new("node")
            .arg(script)
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn();
        let mut child = match child {
            Ok(child) if there => child,
            _ => {
                let what = "not run: no oauth2-mock-server; ./test installs it under target/oidc";
                let required = std::env::var_os("KEYFOLD_TEST_REQUIRE").is_some_and(|value| value == "all");
                assert!(!required, "{what}");
                eprintln!("{what}");
                return None;
            }
        };
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| {
            let _ = child.kill();
            panic!("the OpenID Connect server does not start: {line}")
        });
        Some(Self {
            issuer: said["issuer"].as_str().unwrap().to_owned(),
            beside: said["beside"].as_str().unwrap().to_owned(),
            child,
            client: reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
        })
    }

    /// What `keyfold.toml` says of it; `more` belongs to the issuer.
    pub(crate) fn config(&self, more: &str) -> String {
        format!(
            "[[sessions.issuers]]\nname = \"test\"\nissuer = \"{}\"\nclient_id = \"keyfold-test\"\ntokeninfo = \"{}/tokeninfo\"\n{more}",
            self.issuer, self.beside
        )
    }

    /// Asks it for something that tests need.
    #[expect(clippy::needless_pass_by_value, reason = "what is asked for is written where it is asked")]
    pub(crate) fn ask(&self, what: &str, body: Value) -> Value {
        let call = self.client.post(format!("{}/control/{what}", self.beside)).body(body.to_string());
        // Sent from within the runtime: its time-out needs one from the start.
        let bytes = self.runtime.block_on(async { call.send().await.unwrap().bytes().await.unwrap() });
        serde_json::from_slice(&bytes).unwrap()
    }

    /// An access token of somebody.
    #[expect(clippy::needless_pass_by_value, reason = "what is asked for is written where it is asked")]
    pub(crate) fn token(&self, sub: &str, with: Value) -> String {
        let mut body = json!({ "sub": sub });
        for (key, value) in with.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        self.ask("token", body)["access_token"].as_str().unwrap().to_owned()
    }

    /// An ID token of somebody.
    pub(crate) fn id_token(&self, sub: &str, with: Value) -> String {
        let mut body = with;
        body["claims"]["sub"] = json!(sub);
        self.ask("id_token", body)["id_token"].as_str().unwrap().to_owned()
    }

    /// A refresh token of somebody, good once.
    pub(crate) fn refresh_token(&self, sub: &str) -> String {
        self.ask("refresh", json!({ "sub": sub }))["refresh_token"].as_str().unwrap().to_owned()
    }
}
