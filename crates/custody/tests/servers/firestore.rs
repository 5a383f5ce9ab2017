//! Google's emulator of Firestore, and calls of its own to fill it and look into it.

use std::{
    fs::File,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Killed, free_port, wait_for};

const PACKAGE: &str = "google-cloud-cli-firestore-emulator";

/// The emulator, with one project.
pub(crate) struct Firestore {
    pub(crate) port: u16,
    process: Option<Killed>,
    jar: PathBuf,
    folder: TempDir,
}

/// Where the package put the emulator. No registry of packages offers it, so a test that lacks it is never a failure.
fn jar() -> Option<PathBuf> {
    let listed = Command::new("dpkg").args(["-L", PACKAGE]).stderr(Stdio::null()).output().ok();
    let listed = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let found = listed.lines().find(|line| line.ends_with("emulator.jar")).map(PathBuf::from);
    let java = Command::new("java").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let found = found.filter(|jar| jar.is_file() && java.is_ok_and(|status| status.success()));
    if found.is_none() {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        eprintln!("not run: {test}, since Google's package {PACKAGE}, or java, is missing");
    }
    found
}

impl Firestore {
    pub(crate) fn start() -> Option<Self> {
        let (jar, folder) = (jar()?, tempfile::tempdir().unwrap());
        let mut emulator = Self { port: free_port(), process: None, jar, folder };
        emulator.run();
        Some(emulator)
    }

    fn run(&mut self) {
        let log = self.folder.path().join("log");
        let mut command = Command::new("java");
        command.args(["-Xmx1g", "-XX:+UseSerialGC", "-cp"]).arg(&self.jar);
        command.args(["com.google.cloud.datastore.emulator.firestore.CloudFirestore", "start", "--host=127.0.0.1"]);
        command.arg(format!("--port={}", self.port)).current_dir(self.folder.path());
        command.stdout(File::create(&log).unwrap()).stderr(Stdio::null()).stdin(Stdio::null());
        let mut process = Killed(command.spawn().unwrap());
        wait_for(self.port, &mut process.0, &log);
        self.process = Some(process);
    }

    /// Ends it at once; what it held is gone.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// For the store under test.
    pub(crate) fn address(&self) -> String {
        format!("firestore://test-project/(default)?emulator=127.0.0.1:{}", self.port)
    }

    pub(crate) fn owner(&self) -> Owner {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Owner { http, base: format!("http://127.0.0.1:{}/v1/{ROOT}", self.port) }
    }
}

/// What the names of all documents begin with.
pub(crate) const ROOT: &str = "projects/test-project/databases/(default)/documents";

/// The program whose documents they are.
#[derive(Clone)]
pub(crate) struct Owner {
    http: reqwest::Client,
    base: String,
}

impl Owner {
    async fn call(&self, method: &str, body: &Value) -> Value {
        let request = self.http.post(format!("{}:{method}", self.base)).bearer_auth("owner").json(body);
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{method}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Makes or replaces a whole document, as most programs write it.
    pub(crate) async fn put(&self, path: &str, fields: &Value) {
        let write = json!({"update": {"name": format!("{ROOT}/{path}"), "fields": fields}});
        self.call("commit", &json!({"writes": [write]})).await;
    }

    /// Replaces a whole document, if nobody wrote it since `updated`; says whether it did.
    pub(crate) async fn put_if(&self, path: &str, fields: &Value, updated: &str) -> bool {
        let write = json!({
            "update": {"name": format!("{ROOT}/{path}"), "fields": fields},
            "currentDocument": {"updateTime": updated},
        });
        let answer = self.call("batchWrite", &json!({"writes": [write]})).await;
        match answer["status"][0]["code"].as_i64().unwrap_or(0) {
            0 => true,
            5 | 9 | 10 => false,
            code => panic!("code {code}"),
        }
    }

    pub(crate) async fn delete(&self, path: &str) {
        self.call("commit", &json!({"writes": [{"delete": format!("{ROOT}/{path}")}]})).await;
    }

    /// Empties the emulator.
    pub(crate) async fn forget_all(self) {
        let base = self.base.replace("/v1/", "/emulator/v1/");
        self.http.delete(base).send().await.unwrap().error_for_status().unwrap();
    }

    /// A document's fields and when it was last written.
    pub(crate) async fn get(&self, path: &str) -> Option<(Value, String)> {
        let body = json!({"documents": [format!("{ROOT}/{path}")]});
        let mut answer = self.call("batchGet", &body).await;
        let found = answer[0].get_mut("found")?;
        let updated = found["updateTime"].as_str().unwrap().to_owned();
        Some((found["fields"].take(), updated))
    }
}
