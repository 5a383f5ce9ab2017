//! What the program says of itself: help, manual pages and completions for every command there is.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as such")]

mod common;

use common::keyfold;

/// Every command and every command below a command, with the line that the help gives it.
fn every_command() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (command, about) in below("") {
        for (name, about) in below(&command) {
            all.push((format!("{command} {name}"), about));
        }
        all.push((command, about));
    }
    all
}

fn below(command: &str) -> Vec<(String, String)> {
    let help = keyfold(command).arg("--help").run().text();
    let listed =
        help.split("Commands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default().to_owned();
    let named = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let split = named.map(|line| line.trim().split_once("  ").unwrap_or((line.trim(), "")));
    split.filter(|(name, _)| *name != "help").map(|(name, about)| (name.to_owned(), about.trim().to_owned())).collect()
}

#[test]
fn every_command_has_help_that_says_what_it_does_and_what_it_takes() {
    let all = every_command();
    assert!(all.len() > 30, "{all:?}");
    for (command, about) in all {
        assert!(about.len() > 8, "`keyfold {command}` has no text in the list of commands");
        assert!(!about.ends_with('.'), "`keyfold {command}`: {about}");
        let long = keyfold(&command).arg("--help").run();
        let short = keyfold(&command).arg("-h").run();
        for ended in [long, short] {
            assert_eq!((ended.code, &*ended.stderr), (0, ""), "{command}");
            let help = String::from_utf8(ended.stdout).unwrap();
            assert!(help.starts_with(&about), "{command}: {help}");
            assert!(help.contains(&format!("Usage: keyfold {command}")), "{command}: {help}");
            assert!(help.contains("Global options:") && help.contains("--json"), "{command}: {help}");
            // Every argument and option of its own has a text beside it or below it.
            let mut lines =
                help.lines().skip_while(|line| !line.ends_with("Options:") && *line != "Arguments:").peekable();
            while let Some(line) = lines.next() {
                let names_something =
                    line.starts_with("  ") && (line.trim_start().starts_with('-') || line.starts_with("  <"));
                let alone = names_something && !line.trim().contains("  ");
                let below = lines.peek().is_some_and(|next| next.starts_with("          "));
                assert!(!alone || below, "`keyfold {command}`: nothing is said of {:?}", line.trim());
            }
        }
        // The same through `help`.
        let words: Vec<_> = command.split(' ').collect();
        let ended = words.iter().fold(keyfold("help"), |call, word| call.arg(word)).run();
        assert_eq!(ended.code, 0, "keyfold help {command}");
    }
}

#[test]
fn a_command_without_its_command_is_usage_with_help() {
    for command in ["", "records", "keys", "audit", "config"] {
        let ended = keyfold(command).run();
        assert_eq!(ended.code, 2, "keyfold {command}");
        assert!(ended.stderr.contains("Usage:") && ended.stdout.is_empty(), "keyfold {command}: {}", ended.stderr);
    }
}

#[test]
fn completions_of_every_shell_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = keyfold("completions").arg(shell).run().text();
        for (command, _) in every_command() {
            let name = command.rsplit(' ').next().unwrap();
            assert!(script.contains(name), "{name} is not completed in {shell}");
        }
    }
    keyfold("completions tcsh").run().fails(2, &["bash", "zsh", "fish"]);
}

#[test]
fn there_is_a_manual_page_for_the_program_and_one_for_every_command() {
    let page = keyfold("man").run().text();
    assert!(page.contains(".TH keyfold") && page.contains(".SH NAME"), "{page}");
    let folder = tempfile::tempdir().unwrap();
    keyfold("man --dir").arg(folder.path()).run().text();
    for (command, about) in every_command() {
        let name = format!("keyfold-{}.1", command.replace(' ', "-"));
        let page = std::fs::read_to_string(folder.path().join(&name)).unwrap_or_else(|_| panic!("no page {name}"));
        let first = about.split_whitespace().next().unwrap();
        assert!(page.contains(".SH NAME") && page.contains(first), "{name}: {page}");
        assert!(!page.contains("KEYFOLD_TEST"), "{name}");
    }
}
