//! Copies of the audit log elsewhere: a folder, a syslog, an OpenTelemetry collector.
//!
//! What was durable here is read back and sent in order, each copy at its own pace. A copy that cannot be reached holds nobody up
//! and misses nothing: it goes on where it was, also after a restart, and retention waits for it. Lines can come twice.
//!
//! Not promised: what a syslog over UDP loses on the way. A folder and a collector answer; a syslog does not.

mod folder;
mod otlp;
mod syslog;

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use keyfold_core::{id::to_hex, mac::sha256};
use keyfold_custody::audit_log::{
    AuditError,
    follow::{Chunk, Follower},
};
use tokio::{task::spawn_blocking, time::sleep};

use self::{folder::FolderCopy, otlp::Collector, syslog::Syslog};
use crate::{metrics, service::Service};

/// How often the log is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long after a failure it is tried again: doubled each time, up to this.
const RETRY: Duration = Duration::from_secs(30);
/// How long one step of sending may take.
const TIME: Duration = Duration::from_secs(10);

/// Where a copy goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// `file:PATH`: a folder with the log as it lies here, to be verified as it is.
    Folder(PathBuf),
    /// `syslog+udp://HOST:PORT`, `syslog+tcp://HOST:PORT` or `syslog+unix:PATH`: RFC 5424.
    Syslog(syslog::Transport),
    /// `otlp+http://HOST:PORT` or `otlp+https://…`: logs, OTLP over HTTP in JSON.
    Collector(String),
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = "write file:PATH, syslog+udp://HOST:PORT, syslog+tcp://HOST:PORT, syslog+unix:PATH or otlp+https://HOST:PORT";
        let host = |rest: &str| {
            let port =
                rest.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
            if port && !rest.contains(['/', '@', '?', '#']) { Ok(rest.to_owned()) } else { Err(known.to_owned()) }
        };
        if let Some(path) = text.strip_prefix("file:").filter(|path| path.starts_with('/')) {
            return Ok(Self::Folder(path.into()));
        }
        if let Some(path) = text.strip_prefix("syslog+unix:").filter(|path| path.starts_with('/')) {
            return Ok(Self::Syslog(syslog::Transport::Unix(path.into())));
        }
        if let Some(rest) = text.strip_prefix("syslog+udp://") {
            return Ok(Self::Syslog(syslog::Transport::Udp(host(rest)?)));
        }
        if let Some(rest) = text.strip_prefix("syslog+tcp://") {
            return Ok(Self::Syslog(syslog::Transport::Tcp(host(rest)?)));
        }
        match text.strip_prefix("otlp+") {
            Some(url) if !url.contains('@') && (url.starts_with("http://") || url.starts_with("https://")) => {
                Ok(Self::Collector(url.trim_end_matches('/').to_owned()))
            }
            _ => Err(known.to_owned()),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "file:{}", path.display()),
            Self::Syslog(syslog::Transport::Udp(host)) => write!(f, "syslog+udp://{host}"),
            Self::Syslog(syslog::Transport::Tcp(host)) => write!(f, "syslog+tcp://{host}"),
            Self::Syslog(syslog::Transport::Unix(path)) => write!(f, "syslog+unix:{}", path.display()),
            Self::Collector(url) => write!(f, "otlp+{url}"),
        }
    }
}

impl Destination {
    /// A short name for metrics and files: the kind, and where it goes, hashed.
    #[must_use]
    pub fn name(&self) -> String {
        let kind = match self {
            Self::Folder(_) => "file",
            Self::Syslog(_) => "syslog",
            Self::Collector(_) => "otlp",
        };
        format!("{kind}-{}", to_hex(&sha256(&[self.to_string().as_bytes()])[..4]))
    }

    fn open(&self) -> Target {
        match self {
            Self::Folder(path) => Target::Folder(FolderCopy::new(path)),
            Self::Syslog(transport) => Target::Syslog(Syslog::new(transport.clone())),
            Self::Collector(url) => Target::Collector(Collector::new(url)),
        }
    }
}

/// Why a copy did not take a chunk.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    /// The log here.
    #[error(transparent)]
    Log(#[from] AuditError),
    /// The other side.
    #[error("{0}")]
    There(String),
}

enum Target {
    Folder(FolderCopy),
    Syslog(Syslog),
    Collector(Collector),
}

impl Target {
    async fn send(&mut self, chunk: &Arc<Chunk>) -> Result<(), CopyError> {
        let sent = async {
            match self {
                Self::Folder(folder) => folder.send(chunk).await,
                Self::Syslog(syslog) => syslog.send(chunk).await,
                Self::Collector(collector) => collector.send(chunk).await,
            }
        };
        let late = || CopyError::There("it did not answer in time".into());
        tokio::time::timeout(TIME, sent).await.map_err(|_| late())?
    }
}

/// Sends until the task is dropped.
pub(crate) async fn ship(service: Arc<Service>, destination: Destination) {
    let (name, mut target) = (destination.name(), destination.open());
    let label = metrics::Copy { copy: name.clone() };
    // The configuration has copies of segment files only.
    let Some(folder) = service.audit.segments().map(Path::to_owned) else { return };
    let mut follower = None;
    let (mut complete, mut pause) = (Instant::now(), LOOK);
    loop {
        match round(&folder, &name, &mut follower, &mut target).await {
            Ok(behind) => {
                if behind == 0 {
                    complete = Instant::now();
                }
                service.metrics.copy_behind.get_or_create(&label).set(i64::try_from(behind).unwrap_or(i64::MAX));
                pause = LOOK;
            }
            Err(error) => {
                // Said when it begins; the numbers say how long it lasts.
                if pause == LOOK {
                    tracing::error!(copy = %destination, %error, "the audit log is not copied; it is tried again");
                }
                service.metrics.copy_failures.get_or_create(&label).inc();
                pause = (pause * 2).min(RETRY);
            }
        }
        service.metrics.copy_lag.get_or_create(&label).set(complete.elapsed().as_secs_f64());
        sleep(pause).await;
    }
}

/// Everything that there is; how many bytes are left.
async fn round(
    audit: &Path,
    name: &str,
    follower: &mut Option<Follower>,
    target: &mut Target,
) -> Result<u64, CopyError> {
    let died = |_| CopyError::There("the reader of the log died".into());
    loop {
        let (audit, name, held) = (audit.to_owned(), name.to_owned(), follower.take());
        let looked = spawn_blocking(move || {
            let mut held = match held {
                Some(follower) => follower,
                None => match Follower::open(&audit, &name)? {
                    Some(follower) => follower,
                    // Another process of this folder does it.
                    None => return Ok((None, Vec::new(), 0)),
                },
            };
            let chunks = held.look()?;
            let behind = held.behind()?;
            Ok::<_, AuditError>((Some(held), chunks, behind))
        });
        let (held, chunks, behind) = looked.await.map_err(died)??;
        let Some(mut held) = held else { return Ok(0) };
        if chunks.is_empty() {
            *follower = Some(held);
            return Ok(behind);
        }
        for chunk in chunks.into_iter().map(Arc::new) {
            let sent = target.send(&chunk).await;
            if let Err(error) = sent {
                *follower = Some(held);
                return Err(error);
            }
            held.taken(&chunk)?;
        }
        *follower = Some(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_reads_back_and_what_is_none_is_refused() {
        for good in [
            "file:/mnt/copy",
            "syslog+udp://logs.example:514",
            "syslog+tcp://127.0.0.1:601",
            "syslog+unix:/dev/log",
            "otlp+https://collector.example:4318",
        ] {
            let read: Destination = good.parse().unwrap();
            assert_eq!(read.to_string(), good);
        }
        for bad in
            ["file:copy", "syslog://x:1", "syslog+udp://x", "syslog+tcp://u:p@x:1", "otlp+grpc://x", "https://x", ""]
        {
            assert!(bad.parse::<Destination>().is_err(), "{bad}");
        }
    }
}
