//! Another process: what it costs, in time and memory, and its end.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

/// How many ticks of a second the kernel counts CPU time in, for programs.
const TICKS: f64 = 100.0;

/// Ended with its value, as a power failure would.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Option<Self> {
        command.stdin(Stdio::piped()).spawn().ok().map(Self)
    }

    /// Starts one that says something first; gives that line.
    pub(crate) fn speaking(command: &mut Command) -> (Self, String) {
        let mut process = Self::start(command.stdout(Stdio::piped())).unwrap();
        let mut line = String::new();
        BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (process, line)
    }

    fn file(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.0.id())
    }

    /// Seconds of CPU time so far, of all its threads.
    pub(crate) fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(self.file("stat")).unwrap();
        let (_, rest) = stat.rsplit_once(')').unwrap();
        rest.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / TICKS
    }

    fn status(&self, name: &str) -> f64 {
        let status = fs::read_to_string(self.file("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// MiB.
    pub(crate) fn resident(&self) -> f64 {
        self.status("VmRSS")
    }

    /// The most it had since [`Process::forget_peak`], in MiB.
    pub(crate) fn peak(&self) -> f64 {
        self.status("VmHWM")
    }

    pub(crate) fn forget_peak(&self) {
        let _ = fs::write(self.file("clear_refs"), "5");
    }
}
