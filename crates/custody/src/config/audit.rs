//! `[audit]`: how long a call waits for the log, how long events are kept, and where copies go.

use std::time::Duration;

use toml::{Table, Value};

use super::Reader;
use crate::auditor::WAIT;

/// What the table says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// How long a call waits for its intent to be durable, before it fails.
    pub wait: Duration,
    /// How long events are kept; for ever where not given.
    pub keep: Option<Duration>,
    /// Where the service sends copies, as URIs; it reads them itself.
    pub copies: Vec<String>,
    /// The address of the store that it lies in, or the place of one; the data folder's segment files where absent.
    pub sink: Option<String>,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self { wait: WAIT, keep: None, copies: Vec::new(), sink: None }
    }
}

/// A duration such as `90d`, `12h`, `30m` or `45s`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    number.checked_mul(seconds).filter(|seconds| (1..=100 * 366 * 86_400).contains(seconds)).map(Duration::from_secs)
}

impl Reader {
    pub(super) fn audit(&mut self, table: &Table) -> AuditSettings {
        let mut settings = AuditSettings::default();
        let Some(value) = table.get("audit") else { return settings };
        let Some(table) = value.as_table() else {
            self.mistake("audit", "must be a table, [audit]");
            return settings;
        };
        self.unknown(table, "audit", &["wait", "keep", "copies", "sink"]);
        settings.wait = self.time(table, "wait").unwrap_or(settings.wait);
        settings.keep = self.time(table, "keep");
        match table.get("copies") {
            None => {}
            Some(Value::Array(listed)) if listed.iter().all(Value::is_str) => {
                settings.copies = listed.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            }
            Some(_) => self.mistake("audit.copies", "must be a list of strings, for example [\"file:/mnt/copy\"]"),
        }
        settings.sink = self.text(table, "audit.", "sink").map(str::to_owned);
        if settings.sink.is_some() && table.contains_key("copies") {
            self.mistake("audit.copies", "are of segment files, and `sink` names a store in their place");
        }
        settings
    }

    fn time(&mut self, table: &Table, key: &str) -> Option<Duration> {
        let text = self.text(table, "audit.", key)?;
        let time = duration(text);
        if time.is_none() {
            self.mistake(&format!("audit.{key}"), "must be a time such as 400d, 12h, 30m or 45s");
        }
        time
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_said_of_the_log_is_read_and_every_mistake_named() {
        assert_eq!(Config::parse("").unwrap().audit, AuditSettings::default());
        let read = Config::parse("[audit]\nwait = \"5s\"\nkeep = \"400d\"\ncopies = [\"file:/c\"]").unwrap().audit;
        let expected = AuditSettings {
            wait: Duration::from_secs(5),
            keep: Some(Duration::from_secs(400 * 86_400)),
            copies: vec!["file:/c".into()],
            sink: None,
        };
        assert_eq!(read, expected);
        let both = Config::parse("[audit]\ncopies = [\"file:/c\"]\nsink = \"env:X\"").unwrap_err().to_string();
        assert!(both.contains("audit.copies: are of segment files"), "{both}");
        assert!(Config::parse("[audit]\nkeep = \"9d\"\nsink = \"env:X\"").unwrap().audit.keep.is_some());
        let wrong =
            Config::parse("[audit]\nwait = 5\nkeep = \"long\"\ncopies = \"x\"\ncolour = 1").unwrap_err().to_string();
        for says in [
            "audit.wait: must be a string",
            "audit.keep: must be a time",
            "audit.copies: must be a list",
            "audit.colour",
        ] {
            assert!(wrong.contains(says), "{says}\n---\n{wrong}");
        }
    }

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(duration("90d"), Some(Duration::from_secs(90 * 86_400)));
        for bad in ["", "d", "90", "0s", "-1s", "1y", "99999999999999d", "é"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
