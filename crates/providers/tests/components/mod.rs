//! Real components for tests: each starts its own server on a free loopback port, in a folder of its own, and stops it when
//! it is dropped, also when the test panics. What is not installed is named as not run; `./test` installs it.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]
#![allow(clippy::print_stderr, reason = "says what could not be run")]

pub(crate) mod bao;
pub(crate) mod forwarder;
pub(crate) mod kubernetes;
pub(crate) mod moto;
pub(crate) mod softhsm;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A program: where `./test` put it, else on the PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/components/bin");
    let folders = std::env::var_os("KEYFOLD_COMPONENTS").map(PathBuf::from).into_iter().chain([installed]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.chain(std::env::split_paths(&path)).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Says that something cannot run here, which is a failure where everything is required.
pub(crate) fn not_run<T>(component: &str) -> Option<T> {
    let required = std::env::var_os("KEYFOLD_TEST_REQUIRE").is_some_and(|value| value == "all");
    assert!(!required, "{component} is not installed, and KEYFOLD_TEST_REQUIRE=all; run ./test");
    eprintln!("not run: {component} is not installed");
    None
}

/// A port that nobody uses at the moment.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A process that ends with the test.
pub(crate) struct Server(Child);

impl Server {
    /// Starts a program and waits until `ready` says so.
    pub(crate) fn start(command: &mut Command, ready: impl Fn() -> bool) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Self(command.spawn().unwrap());
        let until = Instant::now() + Duration::from_secs(60);
        while !ready() {
            if let Some(status) = server.0.try_wait().unwrap() {
                panic!("{command:?} ended: {status}");
            }
            assert!(Instant::now() < until, "{command:?} was not ready within a minute");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One plain HTTP request; status and body.
pub(crate) fn http(method: &str, port: u16, path: &str, headers: &[(&str, &str)], body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Runs the test of this name in a process of its own, whose environment holds `variables`: a process cannot change its own
/// safely, and providers read their credentials from there.
pub(crate) fn in_child(test: &str, variables: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--include-ignored"]).envs(variables.iter().copied());
    command.env("KEYFOLD_TEST_CHILD", test).env("HOME", "/nonexistent");
    let out = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
}

/// Whether this process is the one that [`in_child`] started for a test.
pub(crate) fn is_child(test: &str) -> bool {
    std::env::var_os("KEYFOLD_TEST_CHILD").is_some_and(|name| name == test)
}

/// A variable that the parent set.
pub(crate) fn told(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} was not set by the parent"))
}
