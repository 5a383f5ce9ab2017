//! Starts the real binary, in an environment with nothing in it but what the test puts there.

#![allow(clippy::print_stderr, reason = "what was not run is said by name")]
#![allow(dead_code, reason = "no test file uses all of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a harness that cannot start anything has nothing to report"
)]

pub(crate) mod authority;
pub(crate) mod batches;
pub(crate) mod deployment;
pub(crate) mod fake;
pub(crate) mod folder;
pub(crate) mod issuer;
pub(crate) mod needles;
pub(crate) mod people;
pub(crate) mod place;
pub(crate) mod provider;
pub(crate) mod served;
pub(crate) mod signed;
pub(crate) mod watch;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// Base64 of 32 bytes; what a master key looks like.
pub(crate) const MASTER: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
/// Another one.
pub(crate) const OTHER_MASTER: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
/// Base64url of 32 bytes; a Fernet key.
pub(crate) const FERNET: &str = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=";
/// Another one.
pub(crate) const OTHER_FERNET: &str = "BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ=";
/// The variable of master keys.
pub(crate) const MASTER_VARIABLE: &str = "REDIS_SRE_MASTER_KEY";
/// The variable of Fernet keys.
pub(crate) const FERNET_VARIABLE: &str = "SRE_AGENT_ENCRYPTION_KEY";

/// One call of the program, being put together.
pub(crate) struct Call {
    command: Command,
    stdin: Vec<u8>,
    home: TempDir,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; -1 where a signal ended it.
    pub(crate) code: i32,
    /// Every byte of it.
    pub(crate) stdout: Vec<u8>,
    /// As text.
    pub(crate) stderr: String,
}

/// `keyfold` with these arguments, written as in a shell without quotes.
pub(crate) fn keyfold(arguments: &str) -> Call {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyfold"));
    command.args(arguments.split_whitespace());
    command.env_clear().env("HOME", home.path()).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    Call { command, stdin: Vec::new(), home }
}

/// As [`keyfold`], with a master key and a Fernet key in the environment.
pub(crate) fn keyed(arguments: &str) -> Call {
    keyfold(arguments).env(MASTER_VARIABLE, MASTER).env(FERNET_VARIABLE, FERNET)
}

impl Call {
    /// One more argument, as it is.
    pub(crate) fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives it something to read; without this, stdin is empty.
    pub(crate) fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdin = bytes.as_ref().to_vec();
        self
    }

    /// Works in this data folder instead of one that does not exist.
    pub(crate) fn data_dir(self, folder: &Path) -> Self {
        self.env("KEYFOLD_DATA_DIR", folder)
    }

    /// Starts it through another program, which gets the program's path and arguments after its own. In the environment of
    /// this call.
    pub(crate) fn through(mut self, program: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).arg(self.command.get_program()).args(self.command.get_args()).env_clear();
        command.envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.command = command;
        self
    }

    /// The home of this call, empty and gone after it.
    pub(crate) fn home(&self) -> PathBuf {
        self.home.path().to_owned()
    }

    /// Starts it with pipes on all three; stdin is the caller's to write and close.
    pub(crate) fn start(mut self) -> (Child, TempDir) {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        (self.command.spawn().unwrap(), self.home)
    }

    /// Runs it to its end; also gives its arguments, and what other processes could see of them while it ran.
    pub(crate) fn watched(self) -> (String, Vec<u8>, Ended) {
        let name: Vec<_> = self.command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
        let mut listed = Vec::new();
        let ended = self.run_beside(|child| {
            // Gone already where it was quick; then nobody could see anything.
            listed = std::fs::read(format!("/proc/{}/cmdline", child.id())).unwrap_or_default();
        });
        (name.join(" "), listed, ended)
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Ended {
        self.run_beside(|_| {})
    }

    fn run_beside(self, look: impl FnOnce(&Child)) -> Ended {
        let bytes = self.stdin.clone();
        let (mut child, _home) = self.start();
        look(&child);
        let mut stdin = child.stdin.take().unwrap();
        // On a thread of its own: a child that answers before it has read all would otherwise wait for us, and we for it. A
        // child that does not read at all is none of our business.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&bytes)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Ended {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    /// Expects success, and returns stdout without the newline at its end.
    pub(crate) fn text(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        let text = String::from_utf8(self.stdout).unwrap();
        text.strip_suffix('\n').map(str::to_owned).unwrap_or(text)
    }

    /// Expects success and JSON on stdout.
    pub(crate) fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.text()).unwrap()
    }

    /// Expects this exit code, these words on stderr, and nothing at all on stdout.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{}", self.stderr);
        for words in words {
            assert!(self.stderr.contains(words), "{words:?} not in: {}", self.stderr);
        }
        assert!(self.stdout.is_empty(), "stdout of a failure: {:?}", String::from_utf8_lossy(&self.stdout));
        self
    }
}

/// The Python that has `cryptography`, or `None` with a word about it. With `KEYFOLD_TEST_REQUIRE=all` its absence is a
/// failure.
pub(crate) fn python() -> Option<Command> {
    let interpreter = std::env::var_os("KEYFOLD_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let found = Command::new(&interpreter)
        .args(["-c", "import cryptography"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if found {
        return Some(Command::new(interpreter));
    }
    let required = std::env::var_os("KEYFOLD_TEST_REQUIRE").is_some_and(|value| value == "all");
    assert!(!required, "not run: no Python with `cryptography`; set KEYFOLD_TEST_PYTHON");
    eprintln!("not run: no Python with `cryptography`; set KEYFOLD_TEST_PYTHON");
    None
}

/// Before that, Ctrl-C would end the process without a word.
pub(crate) fn wait_until_it_listens_to_ctrl_c(process: u32) {
    for _ in 0..500 {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        if caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 0b10 != 0) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("five seconds, and the program does not listen to Ctrl-C");
}
