//! What a job announced and did, by its own account, which was durable before each write: also of a process that was killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;

/// The batches of one process.
#[derive(Debug, Default, Clone)]
pub(crate) struct Batches {
    /// Records that it was about to change.
    pub(crate) announced: u64,
    /// Records of batches that it told to be done.
    pub(crate) done: u64,
    /// Batches that it did not: it was killed in between.
    pub(crate) cut: usize,
}

/// The batches of every process that worked in a data folder, of this kind: `migrate_batch` or `rotate_batch`.
pub(crate) fn batches(data: &Path, action: &str) -> BTreeMap<String, Batches> {
    let mut all = BTreeMap::new();
    let audit = data.join("audit");
    let folders = [audit.clone(), audit.join("closed")];
    // A segment that is finished while this looks may be seen twice, or change its place.
    let mut lines: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten()) {
        let name = entry.file_name().into_string().unwrap();
        let Some((writer, _)) = name.split_once('-').filter(|_| name.ends_with(".open") || name.ends_with(".jsonl"))
        else {
            continue;
        };
        let text = fs::read(entry.path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        lines.entry(writer.to_owned()).or_default().extend(text.lines().map(str::to_owned));
    }
    for (writer, lines) in lines {
        let mut of = Batches::default();
        let mut open = BTreeSet::new();
        // The last line of a killed process may be half a line.
        let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let events: Vec<_> = events.filter(|event| event["action"] == action).collect();
        for event in events.iter().filter(|event| event["kind"] == "intent") {
            of.announced += event["count"].as_u64().unwrap();
            open.insert(event["id"].to_string());
        }
        for event in events.iter().filter(|event| event["kind"] == "outcome") {
            if event["result"] == "done" {
                of.done += event["count"].as_u64().unwrap();
            }
            open.remove(&event["id"].to_string());
        }
        of.cut = open.len();
        if of.announced > 0 {
            all.insert(writer, of);
        }
    }
    all
}
