//! The data of a program that exists, in a store of its own.

use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::{Call, FERNET, FERNET_VARIABLE, MASTER, MASTER_VARIABLE, OTHER_FERNET, OTHER_MASTER, keyfold};

/// One of the programs' data, somewhere.
pub(crate) struct Place {
    /// `redis`, `sqlite` or `postgres`.
    pub(crate) program: &'static str,
    pub(crate) preset: &'static str,
    pub(crate) variable: &'static str,
    pub(crate) keys: [&'static str; 2],
    /// As the script takes it.
    here: String,
    /// As `--store` takes it.
    store: String,
    /// How many records of each kind there are.
    pub(crate) count: usize,
    pub(crate) folder: TempDir,
    data: std::path::PathBuf,
}

impl Place {
    /// redis-sre-agent's, on a port of this machine.
    pub(crate) fn redis(port: u16, count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            data: folder.path().join("keyfold"),
            program: "redis",
            preset: "redis-sre-agent",
            variable: MASTER_VARIABLE,
            keys: [MASTER, OTHER_MASTER],
            here: port.to_string(),
            store: format!("redis://127.0.0.1:{port}"),
            count,
            folder,
        }
    }

    /// Auto SRE's, in a file.
    pub(crate) fn sqlite(count: usize) -> Self {
        let mut place = Self { program: "sqlite", ..Self::auto_sre(count) };
        let folder = place.folder.path().to_owned();
        place.lie_in(&folder, false);
        place
    }

    /// Auto SRE's, in a database whose address holds a password.
    pub(crate) fn postgres(address: String, count: usize) -> Self {
        Self { program: "postgres", here: address, store: "env:STORE".into(), ..Self::auto_sre(count) }
    }

    fn auto_sre(count: usize) -> Self {
        Self { preset: "auto-sre", variable: FERNET_VARIABLE, keys: [FERNET, OTHER_FERNET], ..Self::redis(0, count) }
    }

    fn script(&self, act: &str, key: &str) -> Option<Command> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/agents.py");
        let mut command = super::python()?;
        command.args([script, self.program, act, &self.here]).env(self.variable, key);
        if act != "dump" || self.program != "redis" {
            command.arg(self.count.to_string());
        }
        Some(command)
    }

    /// What the program itself would do or see, with the key that it holds.
    pub(crate) fn agent(&self, act: &str, key: &str) -> Option<String> {
        let output = self.script(act, key)?.output().unwrap();
        assert!(output.status.success(), "{act}: {}", String::from_utf8_lossy(&output.stderr));
        Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    /// One of `of` writers of whole documents, until its stdin is closed.
    pub(crate) fn writer(&self, n: usize, of: usize, key: &str) -> Child {
        let mut command = self.script("churn", key).unwrap();
        command.args([n.to_string(), of.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Puts the data folder there, or the program's database.
    pub(crate) fn lie_in(&mut self, folder: &std::path::Path, ours: bool) {
        if ours {
            self.data = folder.join("keyfold");
        } else {
            self.here = folder.join("sessions.db").display().to_string();
            self.store = format!("sqlite:{}", self.here);
        }
    }

    /// The data folder.
    pub(crate) fn data(&self) -> std::path::PathBuf {
        self.data.clone()
    }

    /// What `--store` takes.
    pub(crate) fn store_option(&self) -> &str {
        &self.store
    }

    /// The program on this data, without a key.
    pub(crate) fn keyless(&self, arguments: &str) -> Call {
        let call = keyfold(arguments).arg("--preset").arg(self.preset).arg("--store").arg(&self.store);
        call.data_dir(&self.data()).env("STORE", &self.here)
    }

    pub(crate) fn keyfold(&self, arguments: &str, key: &str, previous: Option<&str>) -> Call {
        let call = self.keyless(arguments).env(self.variable, key);
        match previous {
            Some(previous) => call.env(&format!("{}_PREVIOUS", self.variable), previous),
            None => call,
        }
    }

    /// The exit code, and the summary of each collection.
    pub(crate) fn report(&self, arguments: &str, key: &str, previous: Option<&str>) -> (i32, Vec<Value>) {
        Self::told(self.keyfold(arguments, key, previous))
    }

    /// Runs a job; the exit code, and the summary of each collection.
    pub(crate) fn told(call: Call) -> (i32, Vec<Value>) {
        let ended = call.arg("--json").run();
        let lines = String::from_utf8(ended.stdout).unwrap();
        let summaries = serde_json::Deserializer::from_str(&lines).into_iter().collect::<Result<Vec<Value>, _>>();
        (ended.code, summaries.unwrap_or_else(|_| panic!("{lines}{}", ended.stderr)))
    }
}

/// A count over all collections.
pub(crate) fn sum(summaries: &[Value], name: &str) -> u64 {
    summaries.iter().map(|summary| summary[name].as_u64().unwrap()).sum()
}
