//! The guide: its configuration is taken, and its commands run as they stand there.

use crate::{common, masked, place::place};
fn guide() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/proxy.md")).unwrap()
}

fn blocks(guide: &str, kind: &str) -> Vec<String> {
    let open = format!("```{kind}\n");
    guide.split(&open).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_configuration_of_the_guide_is_taken_with_and_without_what_it_comments_out() {
    let issuer = "[[sessions.issuers]]\npreset = \"google\"\nclient_id = \"x.apps.googleusercontent.com\"\n";
    let plain = format!("{issuer}{}", blocks(&guide(), "toml").join("\n"));
    let uncommented: String = plain
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(commented) if commented.contains(" = ") => format!("{commented}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(uncommented.contains("\nhandle_alone = true") && uncommented.contains("\npaths = \"lenient\""));
    for config in [plain, uncommented] {
        let folder = common::served::folder(&config);
        let checked = common::keyfold("config check").data_dir(&folder.path().join("data")).run();
        assert_eq!(checked.code, 0, "{}\n{config}", checked.stderr);
    }
}

#[test]
fn the_commands_of_the_guide_run_as_they_stand_there() {
    let Some(place) = place("") else { return };
    let (token, handle) = place.session("alice");
    let folder = place.served.folder();
    let mut answers = Vec::new();
    for line in blocks(&guide(), "console").remove(0).lines() {
        let output = std::process::Command::new("bash")
            .args(["-c", line.strip_prefix("$ ").unwrap()])
            .current_dir(folder.path())
            .env_clear()
            .envs([("PATH", std::env::var("PATH").unwrap()), ("PROXY", place.proxy()), ("AGENT", place.agent.clone())])
            .envs([("HANDLE", handle.clone()), ("HOST", format!("api.test:{}", place.up.port()))])
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        answers.push(String::from_utf8(output.stdout).unwrap());
    }
    assert_eq!(answers, [masked(&token), String::new(), masked(&token)]);
}

#[test]
fn no_guide_puts_a_proof_where_the_list_of_processes_shows_it() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let guides = std::fs::read_dir(format!("{root}/docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut commands = 0;
    for path in guides.chain([format!("{root}/README.md").into()]) {
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text
            .lines()
            .filter(|line| line.contains("$ curl ") || line.contains("| curl ") || line.starts_with("curl "))
        {
            commands += 1;
            let mut arguments = line.split_once("curl ").unwrap().1.to_owned();
            // What the shell prints into a pipe is no argument.
            if let Some((before, piped)) = arguments.split_once("<(printf ") {
                arguments = format!("{before}{}", piped.split_once(')').unwrap().1);
            }
            for secret in ["AGENT", "HANDLE", "BACKEND", "ACCESS", "KEYFOLD_TOKEN"] {
                let shown = [format!("${secret}"), format!("${{{secret}")].iter().any(|name| arguments.contains(name));
                assert!(!shown, "{}: {line}", path.display());
            }
        }
    }
    assert!(commands >= 8, "{commands}");
}
