//! Live processes: which generation each opens and seals under.
//!
//! A process registers when it opens the keyring, reports as it goes, and strikes itself off when it ends. One that ended
//! without that (a kill, a crash) is recognised on its own machine by process id and start time. Anything else, a stopped
//! process or one on another machine, stays on the list until it reports again or `keys forget-process` strikes it off.

use std::{fs, sync::Arc, time::Duration};

use keyfold_core::{clock::UnixTime, id::WriterId};

use crate::{
    error::CustodyError,
    store::{Expect, SystemStore},
};

const PREFIX: &str = "process/";
/// How long a report counts as fresh.
pub const LEASE: Duration = Duration::from_secs(15);

/// What one process reports.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// The process: the id under which its audit events stand.
    pub id: WriterId,
    /// The command it runs, without its arguments.
    pub command: String,
    /// Where it runs.
    pub place: Place,
    /// The keyring generation it can open.
    pub opens: u64,
    /// The oldest keyring generation under which it may still be sealing.
    pub seals: u64,
    /// When it last reported, by the store's clock.
    pub reported: UnixTime,
}

/// Enough of a machine and a process to say, on the same machine, whether it still lives.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// The machine's name, for messages.
    pub host: String,
    /// The machine's boot and the namespace in which process ids mean something.
    pub boot: String,
    /// Process id.
    pub pid: u32,
    /// When the process started, in clock ticks since boot; process ids are used again.
    pub started: u64,
}

impl Place {
    /// This process.
    #[must_use]
    pub fn here() -> Self {
        Self::of(std::process::id())
    }

    /// A process of this machine.
    pub(super) fn of(pid: u32) -> Self {
        let word = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let namespace = fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default();
        Self {
            host: word("/proc/sys/kernel/hostname"),
            boot: format!("{} {namespace}", word("/proc/sys/kernel/random/boot_id")),
            pid,
            started: start_of(pid).unwrap_or(0),
        }
    }

    /// Whether the process is known to have ended: same boot, same namespace, and no process of that id and start.
    #[must_use]
    pub fn ended(&self, here: &Self) -> bool {
        let comparable = self.boot == here.boot && self.boot.trim() != "" && self.started != 0;
        comparable && start_of(self.pid).map_or_else(sees_all, |started| started != self.started)
    }
}

/// Whether a process that does not show is not there: `/proc` can be mounted so that others' processes are hidden, and then
/// the first one, which always runs, does not show either.
fn sees_all() -> bool {
    fs::read_to_string("/proc/1/stat").is_ok()
}

/// Field 22 of `/proc/PID/stat`; the command name before it may hold anything, so the count starts after its last `)`.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    // A process that was killed and not yet waited for is as good as gone.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The list of processes.
#[derive(Clone)]
pub struct Processes {
    system: Arc<dyn SystemStore>,
}

impl Processes {
    /// In a system store.
    #[must_use]
    pub fn new(system: Arc<dyn SystemStore>) -> Self {
        Self { system }
    }

    fn key(id: WriterId) -> String {
        format!("{PREFIX}{id}")
    }

    /// Registers or renews.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn report(&self, report: &Report) -> Result<(), CustodyError> {
        let value = serde_json::to_vec(report)
            .map_err(|error| CustodyError::invalid(format!("a report cannot be written: {error}"), "report this"))?;
        self.system.put(&Self::key(report.id), &value, Expect::Any, None).await?;
        Ok(())
    }

    /// Strikes a process off; says whether it was on the list.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn strike(&self, id: WriterId) -> Result<bool, CustodyError> {
        Ok(self.system.delete(&Self::key(id), Expect::Any).await?)
    }

    /// What one process last reported; `None` where it is not on the list.
    ///
    /// # Errors
    /// The store cannot be read, or holds a report that is none.
    pub async fn get(&self, id: WriterId) -> Result<Option<Report>, CustodyError> {
        let key = Self::key(id);
        self.system.get(&key).await?.map(|doc| parse(&key, &doc.value)).transpose()
    }

    /// All processes that are not known to have ended; those are struck off on the way.
    ///
    /// # Errors
    /// The store cannot be read, or holds a report that is none.
    pub async fn live(&self) -> Result<Vec<Report>, CustodyError> {
        let here = Place::here();
        let mut live = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.system.list(PREFIX, after.as_deref(), 500).await?;
            let Some((last, _)) = page.last() else { return Ok(live) };
            after = Some(last.clone());
            for (key, doc) in page {
                let report = parse(&key, &doc.value)?;
                if report.place.ended(&here) {
                    self.system.delete(&key, Expect::Version(doc.version)).await?;
                } else {
                    live.push(report);
                }
            }
        }
    }

    /// Names processes for a message.
    #[must_use]
    pub fn name(reports: &[Report]) -> String {
        let one = |r: &Report| format!("{} (`{}`, process {} on {})", r.id, r.command, r.place.pid, r.place.host);
        reports.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

fn parse(key: &str, value: &[u8]) -> Result<Report, CustodyError> {
    serde_json::from_slice(value).map_err(|error| {
        CustodyError::invalid(format!("system document `{key}` is not a report: {error}"), "remove that document")
    })
}
