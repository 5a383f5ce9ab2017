//! What the jobs cost beside the same rows written plainly.
//!
//! `cargo bench -p keyfold-custody --bench jobs`; `KEYFOLD_BENCH_RECORDS` (100000), `KEYFOLD_BENCH_DIR` (a folder on the
//! disk to be measured; the system's temporary one).
//!
//! Each phase runs in a process of its own, so that its peak of memory is its own. The yardstick writes the very documents
//! that the job left, into a copy of the database as the job found it, with the same driver, settings (WAL,
//! `synchronous=FULL`), transaction size and rows to a statement.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that cannot run says so")]
#![allow(clippy::print_stdout, clippy::exit, reason = "what it is for")]
#![allow(clippy::cast_precision_loss, reason = "rates")]

mod phases;
mod plain;

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Records in a transaction, as the command line has them.
pub(crate) const BATCH: usize = 500;

/// What a phase says at its end.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    pub(crate) peak_kib: u64,
}

pub(crate) fn records() -> usize {
    env::var("KEYFOLD_BENCH_RECORDS").map_or(100_000, |text| text.parse().expect("KEYFOLD_BENCH_RECORDS is a number"))
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--phase") {
        let seconds = phases::run(&arguments[at + 1], Path::new(&arguments[at + 2]));
        println!("{}", serde_json::to_string(&Measured { seconds, peak_kib: peak() }).unwrap());
        return;
    }
    let base = env::var_os("KEYFOLD_BENCH_DIR").map_or_else(env::temp_dir, PathBuf::from);
    let place = tempfile::tempdir_in(base).unwrap();
    println!("{} records of two secrets, {BATCH} to a transaction, in {}", records(), place.path().display());
    println!("{:<30} {:>9} {:>11} {:>9} {:>7}", "", "seconds", "records/s", "peak MiB", "ratio");

    let (sealed, plaintext) = (place.path().join("sealed"), place.path().join("plaintext"));
    phase("init", &sealed);
    phase("init", &plaintext);
    let empty = place.path().join("empty");
    copy(&sealed, &empty);
    let import = shown("import, sealing", "import", &sealed);
    yardstick("  plain INSERTs", "insert", (&empty, &sealed), import);
    shown("verify", "verify", &sealed);

    phase("as-is", &plaintext);
    let before = place.path().join("before");
    copy(&plaintext, &before);
    let migrate = shown("migrate, plaintext to kf1", "migrate", &plaintext);
    yardstick("  plain UPDATEs", "update", (&before, &plaintext), migrate);

    phase("new-key", &sealed);
    let before = place.path().join("before-rotation");
    copy(&sealed, &before);
    let rotate = shown("rotate, rewrapping", "rotate", &sealed);
    yardstick("  plain UPDATEs", "update", (&before, &sealed), rotate);
    phase("new-key", &sealed);
    shown("rotate, resealing", "reseal", &sealed);
}

fn phase(name: &str, folder: &Path) -> Measured {
    let output = Command::new(env::current_exe().unwrap()).args(["--phase", name]).arg(folder).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn shown(title: &str, name: &str, folder: &Path) -> f64 {
    let measured = phase(name, folder);
    line(title, &measured, "");
    measured.seconds
}

/// Measures the plain way in a copy of what the job found, and says what part of its rate the job reached.
fn yardstick(title: &str, name: &str, (before, after): (&Path, &Path), job: f64) {
    std::fs::copy(after.join("keyfold.db"), before.join("wanted.db")).unwrap();
    let plain = phase(name, before);
    let ratio = format!("{:.2}", plain.seconds / job);
    line(title, &plain, &ratio);
    std::fs::remove_dir_all(before).unwrap();
}

fn line(title: &str, measured: &Measured, ratio: &str) {
    let rate = records() as f64 / measured.seconds;
    println!(
        "{title:<30} {:>9.2} {rate:>11.0} {:>9.1} {ratio:>7}",
        measured.seconds,
        measured.peak_kib as f64 / 1024.0
    );
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The most memory this process ever held.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
