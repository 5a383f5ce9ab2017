//! Whether a server keeps what it acknowledged.

use super::{link::Link, reply};
use crate::store::StoreError;

/// Refuses the server that has a slot unless it never evicts and writes an append-only file.
///
/// # Errors
/// Names the setting that is wrong, and what it must be.
pub(super) async fn check(link: &Link, slot: u16) -> Result<(), StoreError> {
    let unsuitable = |what: String, hint| Err(StoreError::Unsuitable { store: link.name.clone(), what, hint });
    let policy = info(link, slot, "memory", "maxmemory_policy").await?;
    if policy != "noeviction" {
        return unsuitable(
            format!("its maxmemory-policy is `{policy}`, under which it drops keys when memory is short"),
            "set `maxmemory-policy noeviction`, or name another system store",
        );
    }
    if info(link, slot, "persistence", "aof_enabled").await? != "1" {
        return unsuitable(
            "it has no append-only file, so that a restart loses what it acknowledged".into(),
            "set `appendonly yes`, or name another system store",
        );
    }
    Ok(())
}

/// Refuses the server that has a slot unless a write is on its disk before it is answered.
///
/// # Errors
/// Names the setting that is wrong, and what it must be.
pub(super) async fn check_flushes(link: &Link, slot: u16) -> Result<(), StoreError> {
    let unsuitable = |what: String, hint| Err(StoreError::Unsuitable { store: link.name.clone(), what, hint });
    let sources = link.sources(slot, slot);
    let Some(source) = sources.first() else {
        return unsuitable("no server has the slot of the audit log".into(), "repair the cluster, then try again");
    };
    let mut ask = redis::cmd("CONFIG");
    ask.arg("GET").arg("*appendfsync*");
    let said = match source.node().ask_one(ask).await.and_then(reply::pairs) {
        Ok(said) => said,
        Err(error) if error.kind() == redis::ErrorKind::Io => return Err(link.error(error)),
        Err(_) => {
            return unsuitable(
                "it does not say how it flushes its append-only file".into(),
                "allow `+config|get` to the user that Keyfold connects as, or name another audit sink",
            );
        }
    };
    let setting = |name: &str| {
        let found = said.iter().find(|(key, _)| key == name.as_bytes());
        found.map_or_else(|| "-".into(), |(_, value)| String::from_utf8_lossy(value).into_owned())
    };
    let flushes = setting("appendfsync");
    if flushes != "always" {
        return unsuitable(
            format!("its appendfsync is `{flushes}`, so that a power failure loses events it acknowledged"),
            "set `appendfsync always`, or name another audit sink",
        );
    }
    if setting("no-appendfsync-on-rewrite") == "yes" {
        return unsuitable(
            "it does not flush while it rewrites its append-only file, when a power failure loses events".into(),
            "set `no-appendfsync-on-rewrite no`, or name another audit sink",
        );
    }
    Ok(())
}

/// Which start of which server has a slot now: what holds of it, may not of the next.
pub(super) async fn who(link: &Link, slot: u16) -> Result<Option<String>, StoreError> {
    let sources = link.sources(slot, slot);
    let Some(source) = sources.first() else { return Ok(None) };
    let live = source.node().live().await.map_err(|error| link.error(error))?;
    Ok(Some(format!("{} {}", source.id(), live.server.run)))
}

/// One line of what the server that has a slot says about itself.
async fn info(link: &Link, slot: u16, section: &str, name: &str) -> Result<String, StoreError> {
    let sources = link.sources(slot, slot);
    let Some(source) = sources.first() else { return Ok(String::new()) };
    let answer = source.node().ask_one(std::mem::take(redis::cmd("INFO").arg(section))).await;
    let text = answer.and_then(reply::text).map_err(|error| link.error(error))?;
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(found.unwrap_or_default().trim().to_owned())
}
