//! What the README prints for the service is what happens, line by line.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

mod common;

use std::{fs, path::Path, process::Command};

use common::served::Served;

/// Whether `output` is what is printed, where `<kid>` stands for 16 hex digits and `<n>` for a number.
fn fits(printed: &str, output: &str) -> bool {
    let Some((before, rest)) = printed.split_once('<') else { return printed == output };
    let Some(output) = output.strip_prefix(before) else { return false };
    let Some((what, rest)) = rest.split_once('>') else { return printed == output };
    let taken = match what {
        "kid" => output.bytes().take_while(u8::is_ascii_hexdigit).count().min(16),
        _ => output.bytes().take_while(u8::is_ascii_digit).count(),
    };
    taken > 0 && fits(rest, &output[taken..])
}

#[test]
fn the_lines_after_serve_print_what_the_readme_says() {
    let served = Served::new("");
    let home = served.folder();
    // The README's places: the default folder, and the default port.
    fs::create_dir_all(home.path().join(".local/share/keyfold")).unwrap();
    fs::copy(served.data().join("operator.token"), home.path().join(".local/share/keyfold/operator.token")).unwrap();
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let section = readme.split("## Run it").nth(1).unwrap().split("\n## ").next().unwrap();
    let blocks: Vec<&str> =
        section.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 2, "both examples are found");
    let binary = Path::new(env!("CARGO_BIN_EXE_keyfold")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap_or_default());
    let (mut variables, mut kid) = (Vec::new(), String::new());
    for block in blocks {
        let mut lines = block.lines().peekable();
        while let Some(line) = lines.next() {
            let command = line.strip_prefix("$ ").unwrap();
            let command = command.replace("http://127.0.0.1:8740", &served.url).replace("<kid>", &kid);
            let exported = command.strip_prefix("export ").and_then(|rest| rest.split_once('='));
            let run = exported.map_or_else(|| command.clone(), |(_, value)| format!("printf %s {value}"));
            let mut shell = Command::new("bash");
            shell.args(["-c", &format!("set -o pipefail\n{run}")]).env_clear().env("PATH", &path);
            shell.env("HOME", home.path()).current_dir(home.path()).envs(variables.iter().cloned());
            let output = shell.output().unwrap();
            let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
            assert!(output.status.success(), "{command}\n{out}{err}");
            if let Some((name, _)) = exported {
                variables.push((name.to_owned(), out));
                continue;
            }
            let mut printed = Vec::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with("$ ")) {
                printed.push(line);
            }
            if command.ends_with("keys create") {
                kid = out[..16].to_owned();
            }
            let printed = printed.join("\n").replace("<kid>  staged", &format!("{kid}  staged"));
            assert!(fits(&printed, out.trim_end()), "{command}\n{printed}\n--- but\n{out}{err}");
        }
    }
    assert!(!kid.is_empty());
}
