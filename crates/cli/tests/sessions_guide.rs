//! What the guide to sessions shows is what happens: its configuration is taken, its commands run.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

mod common;

use std::{fs, path::Path, process::Command};

use common::{
    keyfold,
    provider::Provider,
    served::{Served, folder},
};
use serde_json::{Value, json};

fn guide() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sessions.md")).unwrap()
}

fn blocks(guide: &str, kind: &str) -> Vec<String> {
    let open = format!("```{kind}\n");
    guide.split(&open).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_configuration_of_the_guide_is_taken_with_and_without_what_it_comments_out() {
    let guide = guide();
    let mut whole = blocks(&guide, "toml");
    assert_eq!(whole.len(), 3);
    // TOML wants what belongs to no table first.
    whole.swap(0, 1);
    let plain = whole.join("\n");
    let uncommented: String = plain
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(commented) if commented.contains(" = ") => format!("{commented}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(uncommented.contains("\nrefresh = true"));
    for config in [plain, uncommented] {
        let folder = folder(&config);
        let checked = keyfold("config check").data_dir(&folder.path().join("data")).env("CORP_SECRET", "x").run();
        assert_eq!(checked.code, 0, "{}\n{config}", checked.stderr);
    }
}

#[test]
fn the_commands_of_the_guide_run_as_they_stand_there() {
    let Some(provider) = Provider::start() else { return };
    let served =
        Served::new(&format!("{}[destinations.logs]\nhost = \"logging.googleapis.com\"\n", provider.config("")));
    let guide = guide();
    let block = blocks(&guide, "console").remove(0);
    let binary = Path::new(env!("CARGO_BIN_EXE_keyfold")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap_or_default());
    let mut handle = String::new();
    let mut answers = Vec::new();
    for line in block.lines() {
        let output = Command::new("bash")
            .args(["-c", line.strip_prefix("$ ").unwrap()])
            .env_clear()
            .env("PATH", &path)
            .env("HOME", served.folder().path())
            .env("KEYFOLD_SERVER", &served.url)
            .env("KEYFOLD_TOKEN", &served.token)
            .env("BACKEND", served.token_of("service:backend"))
            .env("AGENT", served.token_of("agent:triage"))
            .env("ACCESS", provider.token("alice", json!({})))
            .env("HANDLE", &handle)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{line}\n{text}{}", String::from_utf8_lossy(&output.stderr));
        if let Ok(answer) = serde_json::from_str::<Value>(&text) {
            if let Some(made) = answer["handle"].as_str() {
                made.clone_into(&mut handle);
            }
            answers.push(answer);
        } else {
            assert!(text.contains("alice@example.com"), "{text}");
        }
    }
    assert_eq!(answers[0]["reach"]["agent"], "agent:triage");
    assert_eq!(answers[1]["id"], answers[0]["id"]);
}
