//! Servers that tests start: each on free loopback ports, in a temporary folder, gone when it is dropped.

#![allow(dead_code, reason = "no test file uses all of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a server that does not start ends the test"
)]

#[cfg(feature = "firestore")]
pub(crate) mod firestore;
pub(crate) mod postgres;
pub(crate) mod redis;
pub(crate) mod tls;

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, Instant},
};

/// A program on the search path. Where it is missing, says which test does not run, or fails it where all are required.
pub(crate) fn program(name: &str, package: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        let required = std::env::var_os("KEYFOLD_TEST_REQUIRE").is_some_and(|value| value == "all");
        assert!(!required, "{name} is not installed, and KEYFOLD_TEST_REQUIRE=all; run ./test");
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        eprintln!("not run: {test}, since {name} is missing; ./test installs {package}");
    }
    found
}

/// A program that `./test` puts beside the others, under another name than the system's.
pub(crate) fn component(name: &str) -> Option<PathBuf> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/components/bin");
    let folder = std::env::var_os("KEYFOLD_COMPONENTS").map_or(installed, PathBuf::from);
    let found = Some(folder.join(name)).filter(|file| file.is_file());
    if found.is_none() {
        let required = std::env::var_os("KEYFOLD_TEST_REQUIRE").is_some_and(|value| value == "all");
        assert!(!required, "{name} is not installed, and KEYFOLD_TEST_REQUIRE=all; run ./test");
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        eprintln!("not run: {test}, since {name} is missing; ./test installs it");
    }
    found
}

/// Ports that nothing listened on a moment ago, each another one.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let held: [_; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// A port that nothing listened on a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until something listens there.
pub(crate) fn wait_for(port: u16, child: &mut Child, log: &Path) {
    let started = Instant::now();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
        let ended = child.try_wait().unwrap();
        let late = started.elapsed() > Duration::from_secs(90);
        let said = || std::fs::read_to_string(log).unwrap_or_default();
        assert!(ended.is_none() && !late, "the server on port {port} did not start: {}", said());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process that ends with its owner.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
