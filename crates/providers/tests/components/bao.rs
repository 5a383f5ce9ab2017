//! OpenBao, the real server in its development mode.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};

use super::{Server, find, free_port, http, not_run};

pub(crate) const ROOT_TOKEN: &str = "root-of-the-test";

pub(crate) struct Bao {
    pub(crate) port: u16,
    server: Option<Server>,
    folder: tempfile::TempDir,
}

impl Bao {
    /// With a transit engine, a KV engine at `secret`, and the key `root`.
    pub(crate) fn start() -> Option<Self> {
        let Some(program) = find("bao") else { return not_run("OpenBao") };
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new(program);
        command
            .args(["server", "-dev", "-dev-no-store-token", &format!("-dev-root-token-id={ROOT_TOKEN}")])
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .env("HOME", folder.path());
        let ready = || matches!(http("GET", port, "/v1/sys/health", &[], ""), Some((200, _)));
        let bao = Self { port, server: Some(Server::start(&mut command, ready)), folder };
        bao.post("sys/mounts/transit", &json!({ "type": "transit" }));
        bao.key("root");
        Some(bao)
    }

    /// Makes a transit key.
    pub(crate) fn key(&self, name: &str) {
        self.post(&format!("transit/keys/{name}"), &json!({ "type": "aes256-gcm96" }));
    }

    /// The URI of a transit key, seen through another port where one is given.
    pub(crate) fn uri(&self, name: &str, through: Option<u16>) -> String {
        format!("hcvault://127.0.0.1:{}/transit/keys/{name}?tls=off", through.unwrap_or(self.port))
    }

    /// Any request with the root token; the body of a good answer.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) =
            http(method, self.port, &format!("/v1/{path}"), &[("X-Vault-Token", ROOT_TOKEN)], &body).unwrap();
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        serde_json::from_str(&answer).unwrap_or(Value::Null)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", path, body)
    }

    /// A token with one policy.
    pub(crate) fn token(&self, policy: &str, rules: &str, period: Duration) -> String {
        self.policy(policy, rules);
        let period = format!("{}s", period.as_secs());
        let made =
            self.post("auth/token/create", &json!({ "policies": [policy], "ttl": period, "no_default_policy": false }));
        made["auth"]["client_token"].as_str().unwrap().into()
    }

    pub(crate) fn policy(&self, name: &str, rules: &str) {
        self.post(&format!("sys/policies/acl/{name}"), &json!({ "policy": rules }));
    }

    /// An AppRole with one policy, whose tokens live for `seconds`; role id and secret id.
    pub(crate) fn app_role(&self, rules: &str, seconds: u64) -> (String, String) {
        self.policy("keyfold", rules);
        self.post("sys/auth/approle", &json!({ "type": "approle" }));
        let role = json!({ "token_policies": ["keyfold"], "token_ttl": seconds, "token_max_ttl": 3600 });
        self.post("auth/approle/role/keyfold", &role);
        let id = self.ask("GET", "auth/approle/role/keyfold/role-id", &Value::Null);
        let secret = self.post("auth/approle/role/keyfold/secret-id", &json!({}));
        (id["data"]["role_id"].as_str().unwrap().into(), secret["data"]["secret_id"].as_str().unwrap().into())
    }

    /// The role `keyfold` for the service account of that name, whose tokens the cluster on `port` vouches for; what it gives
    /// lives for `seconds`.
    pub(crate) fn kubernetes(&self, port: u16, rules: &str, seconds: u64) {
        self.policy("keyfold", rules);
        self.post("sys/auth/kubernetes", &json!({ "type": "kubernetes" }));
        let config = json!({
            "kubernetes_host": format!("http://127.0.0.1:{port}"), "disable_local_ca_jwt": true,
            "kubernetes_ca_cert": "none: without TLS",
            "token_reviewer_jwt": super::kubernetes::service_account_token(0),
        });
        self.post("auth/kubernetes/config", &config);
        let role = json!({
            "bound_service_account_names": ["keyfold"], "bound_service_account_namespaces": ["sre"],
            "token_policies": ["keyfold"], "token_ttl": seconds, "token_max_ttl": seconds,
        });
        self.post("auth/kubernetes/role/keyfold", &role);
    }

    /// Stops the server; what it held is gone.
    pub(crate) fn stop(&mut self) {
        self.server = None;
    }
}

/// What a process needs that opens keyrings with the key `root`, and what it takes to change them.
pub(crate) const POLICY: &str = r#"
path "transit/encrypt/root" { capabilities = ["update"] }
path "transit/decrypt/root" { capabilities = ["update"] }
path "transit/keys/root" { capabilities = ["read"] }
"#;
