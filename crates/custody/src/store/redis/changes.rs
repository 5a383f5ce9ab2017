//! Whether anybody else wrote to a server, by its own count of changes.
//!
//! A server counts every change of a key since it last saved, whoever makes it and in which database. What a [`RedisStore`](super::RedisStore)
//! changed itself it knows, so the rest is others'. A swap that was done is one change; where a server counts it otherwise, or
//! answers without counting at all, the sum does not come out, and somebody else is taken to have written.

use redis::{Pipeline, Value};

use super::{
    link::{Link, Source},
    node::Effect,
    reply,
};
use crate::store::{StoreError, Writes};

/// What a single server says; `None` where it does not, or has only just saved. The nodes of a cluster count each for itself, and slots
/// that move as well: nothing is made of that.
pub(super) async fn count(link: &Link) -> Result<Option<Writes>, StoreError> {
    if link.is_cluster() {
        return Ok(None);
    }
    let sources = link.sources(0, super::key::SLOTS - 1);
    let Some(Source::One(node)) = sources.first() else { return Ok(None) };
    let mut commands = Pipeline::with_capacity(2);
    commands.cmd("INFO").arg("server").cmd("INFO").arg("persistence");
    let answers = node.each(&commands, Effect::None).await.map_err(|error| link.error(error))?;
    let answers: Result<Vec<String>, _> = answers.into_iter().map(|answer: Value| reply::text(answer)).collect();
    Ok(read(&answers.map_err(|error| link.error(error))?.concat()))
}

/// Saving takes from the count. It tells only the second at which it did so, and so nothing is said until that is over.
fn read(info: &str) -> Option<Writes> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let (run, saved) = (field("run_id")?, field("rdb_last_save_time")?);
    let now = field("server_time_usec")?.parse::<u64>().ok()? / 1_000_000;
    if now <= saved.parse().ok()? {
        return None;
    }
    let count = field("rdb_changes_since_last_save")?.parse().ok()?;
    Some(Writes { since: format!("{run} {saved}"), count })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Server\r\nrun_id:abc\r\nserver_time_usec:1700000002000001\r\n# Persistence\r\nloading:0\r\n\
                        rdb_changes_since_last_save:7\r\nrdb_last_save_time:1700000001\r\n";

    #[test]
    fn a_server_counts_since_it_started_or_saved() {
        assert_eq!(read(INFO), Some(Writes { since: "abc 1700000001".into(), count: 7 }));
    }

    #[test]
    fn nothing_is_said_in_the_second_of_a_save_or_where_a_field_is_missing() {
        assert_eq!(read(&INFO.replace("1700000002000001", "1700000001999999")), None);
        for line in INFO.lines().filter(|line| line.contains(':') && !line.starts_with("loading")) {
            assert_eq!(read(&INFO.replace(line, "")), None, "{line}");
        }
    }
}
