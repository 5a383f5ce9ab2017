//! What the README and the guides print is what happens: their examples run here, command by command.

#![allow(clippy::unwrap_used, reason = "a helper of a test that fails is a test that fails")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A shell that has `keyfold` on its path and a home of its own.
struct Shell {
    folder: tempfile::TempDir,
    kid: String,
    variables: Vec<(String, String)>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// The fenced blocks of a kind, in order.
fn blocks(text: &str, kind: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    let mut indent = 0;
    for line in text.lines() {
        let trimmed = line.trim_start();
        match (&mut open, trimmed.strip_prefix("```")) {
            (None, Some(of)) if of == kind => {
                indent = line.len() - trimmed.len();
                open = Some(String::new());
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.push_str(line.get(indent..).unwrap_or(""));
                block.push('\n');
            }
            _ => {}
        }
    }
    blocks
}

impl Shell {
    fn new() -> Self {
        let shell = Self { folder: tempfile::tempdir().unwrap(), kid: String::new(), variables: Vec::new() };
        shell.ok("keyfold init");
        shell
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Runs a command line; both outputs together, as a terminal shows them.
    fn run(&self, line: &str) -> (i32, String) {
        let binary = Path::new(env!("CARGO_BIN_EXE_keyfold")).parent().unwrap();
        let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("bash");
        command.args(["-c", &format!("exec 2>&1\nset -o pipefail\n{line}")]).env_clear().env("PATH", path);
        command.env("HOME", self.folder.path()).env("KEYFOLD_DATA_DIR", self.data()).current_dir(self.folder.path());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let output = command.output().unwrap();
        (output.status.code().unwrap_or(-1), String::from_utf8(output.stdout).unwrap())
    }

    fn ok(&self, line: &str) -> String {
        let (code, output) = self.run(line);
        assert_eq!(code, 0, "{line}\n{output}");
        output
    }

    /// Runs the commands of a `console` block and holds their output against what is printed there.
    fn console(&mut self, block: &str) {
        let mut lines = block.lines().peekable();
        while let Some(line) = lines.next() {
            let command = line.strip_prefix("$ ").unwrap().replace("<kid>", &self.kid);
            if let Some((name, value)) = command.strip_prefix("export ").and_then(|rest| rest.split_once('=')) {
                let value = self.ok(&format!("printf %s {value}"));
                self.variables.push((name.to_owned(), value));
                continue;
            }
            let mut printed = String::new();
            while let Some(line) = lines.next_if(|line| !line.starts_with("$ ")) {
                printed += line;
                printed.push('\n');
            }
            let output = self.ok(&command);
            if command.ends_with("keys create") {
                self.kid = output[..16].to_owned();
            }
            assert!(fits(printed.trim_end(), output.trim_end()), "{command}\n{printed}\n--- but\n{output}");
        }
    }
}

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
fn the_commands_of_the_readme_print_what_it_says() {
    // Those before it need a service, and run in a test of their own.
    let readme = read("README.md");
    let blocks = blocks(readme.split("## Use it").nth(1).unwrap(), "console");
    assert_eq!(blocks.len(), 2, "both examples are found");
    for block in blocks {
        Shell::new().console(&block);
    }
}

#[test]
fn the_demo_of_the_readme_ends_well_and_prints_the_same_steps() {
    let shell = Shell::new();
    let output = shell.ok("keyfold demo");
    let printed = blocks(&read("README.md"), "text").remove(0);
    for line in printed.lines().filter(|line| line.starts_with("==") || line.ends_with("readable in the folder")) {
        assert!(output.contains(line), "{line}\n{output}");
    }
    assert!(output.contains("0 of 60 secrets are readable"), "{output}");
    assert!(output.contains("ok: "), "{output}");
}

#[test]
fn every_toml_example_is_a_configuration_without_mistakes() {
    for name in ["README.md", "docs/configure.md", "docs/migrate.md", "docs/api.md"] {
        let found = blocks(&read(name), "toml");
        assert!(!found.is_empty(), "{name}");
        for block in found {
            let shell = Shell::new();
            fs::write(shell.data().join("keyfold.toml"), block).unwrap();
            shell.ok("keyfold config check");
        }
    }
    let shell = Shell::new();
    fs::write(shell.data().join("keyfold.toml"), read("examples/keyfold.toml")).unwrap();
    shell.ok("keyfold config check");
}

#[test]
fn the_guides_to_migrate_rotate_and_restore_work_as_they_are_written() {
    let mut shell = Shell::new();
    let instances = fs::read_to_string(root().join("examples/instances.json")).unwrap();
    fs::write(shell.folder.path().join("instances.json"), instances).unwrap();
    fs::write(shell.data().join("keyfold.toml"), blocks(&read("docs/migrate.md"), "toml").remove(0)).unwrap();
    for block in blocks(&read("docs/migrate.md"), "sh") {
        for line in block.lines() {
            // Before the migration the doctor has something to say: that is its exit code 1.
            let (code, output) = shell.run(line);
            assert!(code == 0 || (code == 1 && line == "keyfold doctor"), "{line}\n{output}");
        }
    }
    let listed = shell.ok("keyfold keys list");
    let old = listed.lines().nth(1).unwrap()[..16].to_owned();
    let rotation = blocks(&read("docs/rotate.md"), "sh").remove(0);
    for line in rotation.lines() {
        let command = line.split('#').next().unwrap().trim();
        let command = command.replace("NEW", &shell.kid).replace("OLD", &old).replace("--yes", "--yes --min-age 0");
        let output = shell.ok(&command);
        if command == "keyfold keys create" {
            shell.kid = output[..16].to_owned();
        }
    }
    assert!(shell.ok("keyfold keys list").contains("destroyed"));

    let [back_up, restore] = <[String; 2]>::try_from(blocks(&read("docs/operate.md"), "sh")).unwrap();
    shell.ok(&back_up);
    let other = Shell { folder: tempfile::tempdir().unwrap(), kid: String::new(), variables: Vec::new() };
    fs::create_dir(other.data()).unwrap();
    fs::copy(shell.data().join("root.key"), other.data().join("root.key")).unwrap();
    for name in ["keyring.backup", "instances.jsonl"] {
        fs::copy(shell.folder.path().join(name), other.folder.path().join(name)).unwrap();
    }
    let output = other.ok(&format!("set -e\n{restore}"));
    assert!(output.contains("20 records, 60 secrets"), "{output}");
}
