//! The process around the commands: arguments, exit codes, pipes, signals.

mod common;

use std::io::Write;

use common::{keyed, keyfold, wait_until_it_listens_to_ctrl_c};

#[test]
fn no_argument_is_repeated_that_may_be_a_secret() {
    for arguments in [
        "seal hunter2 --format v1",
        "seal --format hunter2",
        "seal --format v1 --password=hunter2",
        "seal --format v1 --from hunter2",
        "seal --format kf1 --context hunter2",
        "open hunter2",
        "open --accept hunter2",
        "open --max-age hunter2",
        "open -phunter2",
        "--hunter2=x",
        "hunter2",
        "--color hunter2",
        "keygen hunter2",
        "completions hunter2",
        "seal --format v1 -- hunter2",
    ] {
        for arguments in [arguments.to_owned(), format!("--json {arguments}")] {
            let failed = keyed(&arguments).stdin("x").run().fails(2, &[]);
            let repeated = failed.stderr.contains("hunter2") && !arguments.contains("--hunter2=");
            assert!(!repeated, "{arguments}: {}", failed.stderr);
        }
    }
}

#[test]
fn a_wrong_argument_is_answered_with_what_would_be_right() {
    for (arguments, says) in [
        ("seal", "error: missing: --format <FORMAT>\n"),
        (
            "seal --format aes",
            "error: `--format <FORMAT>` does not take this value\n  hint: it takes kf1, v1, fernet\n",
        ),
        ("seal --format", "error: `--format <FORMAT>` needs a value\n  hint: it takes kf1, v1, fernet\n"),
        ("seal --formt v1", "error: there is no option `--formt` here\n  hint: did you mean `--format`?\n"),
        ("seel", "error: there is no such command\n  hint: did you mean `seal`?\n"),
        ("open --max-age soon", "error: `--max-age <SECONDS>`: invalid digit found in string\n"),
        ("open --accept v1,v1", "error: --accept: `v1` is listed twice\n"),
        ("seal --format kf1 --context ab", "error: `--context <KEY=VALUE>`: an entry is written key=value\n"),
        ("seal --format kf1 --context a=1 --context a=2", "error: context key `a` is given twice\n"),
        ("keygen -q -v", "do not go together\n"),
    ] {
        keyed(arguments).run().fails(2, &[says]);
    }
}

#[test]
fn an_error_with_json_is_one_object_with_code_message_and_hint() {
    for (call, code, exit) in [
        (keyfold("open --json").stdin("hunter2"), "not_encrypted", 4),
        (keyfold("seal --json --format v1"), "key_invalid", 4),
        (keyfold("open --json --accept nothing"), "usage", 2),
        (keyfold("--json"), "usage", 2),
        (
            keyfold("seal --json --format kf1 --from file:/no/such").env(common::MASTER_VARIABLE, common::MASTER),
            "unavailable",
            5,
        ),
    ] {
        let failed = call.run().fails(exit, &[]);
        assert_eq!(failed.stderr.lines().count(), 1, "{}", failed.stderr);
        let error: serde_json::Value = serde_json::from_str(&failed.stderr).unwrap();
        let members: Vec<&String> = error["error"].as_object().unwrap().keys().collect();
        assert_eq!(members, ["code", "hint", "message"]);
        assert_eq!(error["error"]["code"], code);
        assert!(!error["error"]["message"].as_str().unwrap().is_empty());
    }
}

#[test]
fn notes_with_json_are_json_lines_beside_the_data() {
    let made = keyed("seal --format kf1 --json").stdin("x\n").run();
    let note: serde_json::Value = serde_json::from_str(&made.stderr).unwrap();
    assert!(note["hint"]["message"].as_str().unwrap().contains("newline"));
    assert!(made.json()["envelope"].is_string());
}

#[test]
fn the_cause_of_an_error_is_said_when_asked_for() {
    let quiet = keyed("seal --format kf1 --from file:/no/such").run().fails(5, &[]);
    assert!(!quiet.stderr.contains("cause:"));
    keyed("seal -v --format kf1 --from file:/no/such").run().fails(5, &["cause: No such file or directory"]);
}

#[test]
fn a_log_filter_that_is_none_is_a_usage_error() {
    keyed("keygen").env("KEYFOLD_LOG", "[[").run().fails(2, &["KEYFOLD_LOG is not a log filter"]);
}

#[test]
fn help_and_version_are_data_and_a_missing_command_is_usage() {
    assert!(keyfold("--help").run().text().contains("Exit codes: 0 done"));
    assert!(keyfold("seal --help").run().text().contains("--trim-newline"));
    assert!(keyfold("--version").run().text().starts_with("keyfold "));
    keyfold("").run().fails(2, &["Usage: keyfold"]);
}

#[test]
fn a_value_of_the_environment_is_not_shown_in_help() {
    let help = keyfold("--help").env("KEYFOLD_DATA_DIR", "/planted").run().text();
    assert!(!help.contains("/planted"));
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let envelope = keyed("seal --format kf1").stdin("s3cret").run().text();
    let (mut child, _home) = keyed("open").start();
    drop(child.stdout.take());
    child.stdin.take().unwrap().write_all(envelope.as_bytes()).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn a_full_disk_is_an_error_and_not_an_empty_file() {
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else { return };
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_keyfold"))
        .arg("keygen")
        .stdout(full)
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(5));
}

#[test]
fn ctrl_c_while_waiting_for_input_ends_with_130() {
    let (child, _home) = keyed("open").start();
    wait_until_it_listens_to_ctrl_c(child.id());
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let mut child = child;
    let stdin = child.stdin.take();
    let ended = child.wait_with_output().unwrap();
    drop(stdin);
    assert_eq!((ended.status.code(), &*ended.stdout), (Some(130), &b""[..]));
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "error: interrupted\n");
}

/// Plays a person at a terminal. Prints what the screen showed, then the exit code, then whether the terminal echoes.
const TERMINAL: &str = r#"
import os, pty, select, signal, subprocess, sys, termios, time
ours, theirs = pty.openpty()
child = subprocess.Popen(sys.argv[2:], stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, start_new_session=True,
    preexec_fn=lambda: __import__("fcntl").ioctl(0, termios.TIOCSCTTY, 0))
kill = sys.argv[1] == "KILL"
screen = b""
def watch(until):
    global screen
    end = time.time() + 10
    while time.time() < end and not until():
        if select.select([ours], [], [], 0.05)[0]:
            screen += os.read(ours, 4096)
watch(lambda: b": " in screen and not termios.tcgetattr(theirs)[3] & termios.ECHO)
if kill:
    child.send_signal(signal.SIGINT)
else:
    os.write(ours, sys.argv[1].encode().decode("unicode_escape").encode())
watch(lambda: child.poll() is not None)
# What it said last may not have been read yet.
while select.select([ours], [], [], 0.2)[0]:
    screen += os.read(ours, 4096)
echo = bool(termios.tcgetattr(theirs)[3] & termios.ECHO)
print(screen, child.wait(), echo, child.stdout.read().decode(), sep="\n")
"#;

#[test]
fn at_a_terminal_the_secret_is_asked_for_and_not_shown() {
    let Some(mut python) = common::python() else { return };
    let mut at_terminal = |typed: &str| {
        let program = env!("CARGO_BIN_EXE_keyfold");
        python.args(["-c", TERMINAL, typed, program, "seal", "--format", "kf1"]);
        let output = python.env(common::MASTER_VARIABLE, common::MASTER).env("NO_COLOR", "1").output().unwrap();
        python = common::python().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let sealed = at_terminal(r"hunter2\n");
    assert!(sealed[0].contains("secret (not shown): ") && !sealed[0].contains("hunter2"), "{sealed:?}");
    assert_eq!(sealed[1..3], ["0", "True"], "{sealed:?}");
    assert_eq!(keyed("open").stdin(&sealed[3]).run().stdout, b"hunter2");
    for interrupt in [r"hunt\x03", "KILL"] {
        let interrupted = at_terminal(interrupt);
        assert_eq!(interrupted[1..3], ["130", "True"], "{interrupted:?}");
        assert!(interrupted[0].contains("error: interrupted") && !interrupted[0].contains("hunt"), "{interrupted:?}");
    }
}

#[test]
fn what_other_processes_can_see_of_the_program_holds_no_secret() {
    let (mut child, _home) = keyed("seal --format kf1").start();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"hunter2").unwrap();
    wait_until_it_listens_to_ctrl_c(child.id());
    let seen = std::fs::read(format!("/proc/{}/cmdline", child.id())).unwrap();
    drop(stdin);
    assert!(child.wait_with_output().unwrap().status.success());
    assert!(String::from_utf8_lossy(&seen).ends_with("keyfold\0seal\0--format\0kf1\0"));
}

#[test]
fn completions_and_manual_pages_name_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = keyfold("completions").arg(shell).run().text();
        assert!(script.contains("trim-newline"), "{shell}");
    }
    assert!(keyfold("man").run().text().contains(".TH keyfold 1"));
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    assert_eq!(keyfold("man --dir").arg(&pages).run().text(), "");
    for page in ["keyfold.1", "keyfold-seal.1", "keyfold-open.1"] {
        assert!(pages.join(page).is_file(), "{page}");
    }
}
