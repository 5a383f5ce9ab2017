//! moto: AWS as it answers, in a Python process. It enforces encryption context and tampering, and neither credentials nor
//! disabled keys: those a forwarder plays.

use std::process::Command;

use serde_json::{Value, json};

use super::{Server, find, free_port, http, not_run};

pub(crate) struct Moto {
    pub(crate) port: u16,
    server: Server,
}

impl Moto {
    pub(crate) fn start() -> Option<Self> {
        let Some(program) = find("moto_server") else { return not_run("moto") };
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let ready = || matches!(http("GET", port, "/moto-api/data.json", &[], ""), Some((200, _)));
        Some(Self { port, server: Server::start(&mut command, ready) })
    }

    /// A call by its JSON protocol, as `TrentService.CreateKey` is one.
    pub(crate) fn call(&self, target: &str, body: &Value) -> Value {
        let service = if target.starts_with("Trent") { "kms" } else { "secretsmanager" };
        let signed = format!(
            "AWS4-HMAC-SHA256 Credential=test/20260101/eu-central-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
        );
        let headers =
            [("X-Amz-Target", target), ("Content-Type", "application/x-amz-json-1.1"), ("Authorization", &*signed)];
        let (status, answer) = http("POST", self.port, "/", &headers, &body.to_string()).unwrap();
        assert_eq!(status, 200, "{target}: {answer}");
        serde_json::from_str(&answer).unwrap_or(Value::Null)
    }

    /// A symmetric key; its ARN.
    pub(crate) fn key(&self) -> String {
        self.call("TrentService.CreateKey", &json!({}))["KeyMetadata"]["Arn"].as_str().unwrap().into()
    }

    /// What a process needs to come here.
    pub(crate) fn variables(through: u16) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{through}")),
            ("AWS_ACCESS_KEY_ID", "test".into()),
            ("AWS_SECRET_ACCESS_KEY", "test".into()),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
            ("AWS_CONFIG_FILE", "/nonexistent".into()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent".into()),
        ]
    }
}
