//! The proxy under load, beside a bare forwarder made of hyper and beside nginx: the same cores, the same destination, the same load
//! generator. The bare ones put one constant header in; another forwarder waits for a durable line a call, as any proxy that
//! notes its calls before they leave; Keyfold looks sessions up, decides, injects, scrubs, and writes its audit log.
//!
//! `cargo bench -p keyfold --bench proxy`; it needs an idle machine, and the issuer that `./test` installs (`KEYFOLD_TEST_OIDC`). Parts
//! are named after `--`, or in `KEYFOLD_BENCH_ONLY`: `rate`, `latency`, `tunnel`, `stream`, `scrub`, and `soak`, which runs only where it is named.
//!
//! | variable | for |
//! |---|---|
//! | `KEYFOLD_BENCH_SECONDS` | how long each load lasts (5); each runs three times, in turns |
//! | `KEYFOLD_BENCH_DIR` | a folder on the disk that is to hold the audit log (the system's temporary one) |
//! | `KEYFOLD_BENCH_MIB` | the size of a streamed body (1024) |
//! | `KEYFOLD_BENCH_REQUESTS` | how many requests the soak makes (1000000) |
//!
//! Where the time of an addressed call goes (`perf record`, 32 connections, 80 µs of processor time a call on an idle machine where the
//! bare forwarder takes 20): the audit log's thread 20 %, half of it flushing; the allocator 15 % across all, mostly for what is larger
//! than its fast path takes; the kernel's part of sockets and wake-ups 23 %; making the scrubber's patterns 4 %; the rest is spread thin
//! over HTTP, TLS, the session, the decision and the headers. One worker thread instead of two changes nothing.
//!
//! The forwarder with two lines a call bounds what any proxy can reach that notes its calls durably: 66 % of the bare one on 32
//! connections, 78 to 82 % on 256, before it looked a session up, decided or put anything in. At a thousand calls a second it adds 307 µs to the
//! median, where a flush takes 243; Keyfold adds 432, and 111 where a flush costs nothing. To hand something to a sleeping thread and
//! back takes 6. Going through the agent's headers while the intent is flushed, and writing the spellings out while the destination works,
//! was tried and made neither figure better.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot start anything has nothing to report")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "that is what it is for")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded anyway"
)]

mod forwarder;
mod keyfold;
mod load;
mod nginx;
mod parts;
mod process;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/common/provider.rs"]
mod provider;
mod soak;
mod stream;
mod tls;
mod upstream;

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

/// The parts, in the order in which they run. The last one runs only where it is named.
const PARTS: [&str; 6] = ["rate", "latency", "tunnel", "stream", "scrub", "soak"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, port, roots, log @ ..] = &arguments[..]
        && first == forwarder::ARGUMENT
    {
        return forwarder::run(port.parse().unwrap(), roots.as_ref(), log.first().map(Path::new));
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let named = std::env::var("KEYFOLD_BENCH_ONLY").unwrap_or_default();
    let named: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .chain(named.split(','))
        .filter(|name| !name.is_empty() && !name.starts_with('-'))
        .collect();
    if let Some(unknown) = named.iter().find(|name| !PARTS.contains(name)) {
        eprintln!("there is no part {unknown}; there are {}", PARTS.join(", "));
        return;
    }
    let Some(stage) = keyfold::Stage::new() else { return };
    let runs = |part: &str| if named.is_empty() { part != "soak" } else { named.contains(&part) };
    if ["rate", "latency", "tunnel", "stream", "scrub"].into_iter().any(runs) {
        parts::run(&stage, runs);
    }
    if runs("soak") {
        soak::run(&stage);
    }
}

fn variable<T: FromStr>(name: &str, otherwise: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// How long one load lasts.
pub(crate) fn seconds() -> Duration {
    Duration::from_secs_f64(variable("KEYFOLD_BENCH_SECONDS", 5.0))
}

/// Where the audit log lies.
pub(crate) fn disk() -> PathBuf {
    std::env::var_os("KEYFOLD_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// Says a figure beside its bound.
fn bound(what: &str, (value, unit): (f64, &str), (most, limit): (bool, f64)) {
    let held = if most { value <= limit } else { value >= limit };
    let (word, verdict) = (if most { "at most" } else { "at least" }, if held { "" } else { "   MISSED" });
    println!("{what:<52} {value:>8.1} {unit:<8} ({word} {limit:.0}){verdict}");
}

pub(crate) fn at_least(what: &str, value: (f64, &str), limit: f64) {
    bound(what, value, (false, limit));
}

pub(crate) fn at_most(what: &str, value: (f64, &str), limit: f64) {
    bound(what, value, (true, limit));
}
