//! A service of its own for a test: the real binary, on a port of its own, in a folder of its own, gone with the test.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// Expects a problem with this status and code.
    #[track_caller]
    pub(crate) fn fails(self, status: u16, code: &str) -> Value {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.text());
        let problem = self.is(status);
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["request_id"].as_str().unwrap().len(), 16);
        problem
    }
}

/// A service that runs.
pub(crate) struct Served {
    pub(crate) url: String,
    /// Of its proxy, where it has one.
    pub(crate) proxy: Option<String>,
    /// Of its listeners of single destinations, by name.
    pub(crate) mapped: Value,
    pub(crate) token: String,
    folder: Arc<TempDir>,
    child: Child,
    stderr: Arc<Mutex<Vec<u8>>>,
    client: reqwest::Client,
    runtime: Runtime,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Names the server that holds the system stores of tests, where they do not lie in their folders: `serve.rs` runs its tests
/// anew with it.
pub(crate) const STORE_VARIABLE: &str = "KEYFOLD_TEST_SYSTEM";

/// A folder with this configuration and no deployment yet.
pub(crate) fn folder(config: &str) -> Arc<TempDir> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    let mut config = config.to_owned();
    if let Ok(server) = std::env::var(STORE_VARIABLE) {
        let file = folder.path().join("system");
        std::fs::write(&file, place_on(&server)).unwrap();
        if config.is_empty() {
            config += "[collections.instances]\nfields = [\"/connection_url\", \"/admin_password\", \"/extension_secrets/*\"]\n";
        }
        config += &format!("\n[system]\nuri = \"file:{}\"\n", file.display());
    }
    if !config.is_empty() {
        std::fs::write(folder.path().join("data/keyfold.toml"), config).unwrap();
    }
    Arc::new(folder)
}

/// A place on a server that no other test of this process has.
fn place_on(server: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    if server.starts_with("redis://") {
        return format!("{server}/{n}");
    }
    if server.starts_with("firestore://") {
        return server.replace("test-project", &format!("place-{n}"));
    }
    let (name, (base, _)) = (format!("place_{n}"), server.rsplit_once('/').unwrap());
    Runtime::new().unwrap().block_on(async {
        use sqlx::Connection as _;
        let mut db = sqlx::PgConnection::connect(server).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut db).await.unwrap();
        db.close().await.unwrap();
    });
    format!("{base}/{name}")
}

impl Served {
    pub(crate) fn new(config: &str) -> Self {
        Self::start(folder(config), &[])
    }

    /// Starts it in a folder, with more arguments, and waits until it serves.
    pub(crate) fn start(folder: Arc<TempDir>, arguments: &[&str]) -> Self {
        Self::start_with(folder, arguments, &[])
    }

    /// The same, with these variables besides.
    pub(crate) fn start_with(folder: Arc<TempDir>, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyfold"));
        command.args(["serve", "--json", "-vv", "--listen", "127.0.0.1:0"]).args(arguments);
        command.env_clear().env("HOME", folder.path()).env("KEYFOLD_DATA_DIR", folder.path().join("data"));
        command.envs(variables.iter().copied());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (child.stderr.take().unwrap(), Arc::clone(&stderr));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read) = from.read(&mut buffer) {
                if read == 0 {
                    break;
                }
                to.lock().unwrap().extend_from_slice(&buffer[..read]);
            }
        });
        let mut line = String::new();
        let read = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line);
        let said: Value = match (read, serde_json::from_str(&line)) {
            (Ok(_), Ok(said)) => said,
            _ => {
                let _ = child.wait();
                panic!("it does not serve: {}", String::from_utf8_lossy(&stderr.lock().unwrap()))
            }
        };
        let token = std::fs::read_to_string(folder.path().join("data/operator.token")).unwrap_or_default();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
        Self {
            url: said["url"].as_str().unwrap().to_owned(),
            proxy: said["proxy"].as_str().map(str::to_owned),
            mapped: said["mapped"].clone(),
            token: token.trim().to_owned(),
            folder,
            child,
            stderr,
            client,
            runtime: Runtime::new().unwrap(),
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn folder(&self) -> Arc<TempDir> {
        Arc::clone(&self.folder)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// What it wrote to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().unwrap()).into_owned()
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method.parse().unwrap(), format!("{}{path}", self.url))
    }

    pub(crate) fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        self.block_on(answer(request)).unwrap()
    }

    /// A call by the holder of a token.
    pub(crate) fn as_(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        let request = self.request(method, path).bearer_auth(token);
        self.send(match body {
            Some(body) => request.json(&body),
            None => request,
        })
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.as_(&self.token, "GET", path, None)
    }

    pub(crate) fn post(&self, path: &str, body: Value) -> Answer {
        self.as_(&self.token, "POST", path, Some(body))
    }

    pub(crate) fn put(&self, path: &str, body: Value) -> Answer {
        self.as_(&self.token, "PUT", path, Some(body))
    }

    /// A new token for an actor.
    pub(crate) fn token_of(&self, actor: &str) -> String {
        let made = self.post("/v1/tokens", serde_json::json!({ "actor": actor })).is(201);
        made["token"].as_str().unwrap().to_owned()
    }

    /// Ends it in peace.
    pub(crate) fn stop(mut self) -> Arc<TempDir> {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(self.child.wait().unwrap().success(), "{}", self.stderr());
        Arc::clone(&self.folder)
    }

    /// Ends it as a power failure would.
    pub(crate) fn kill(mut self) -> Arc<TempDir> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Arc::clone(&self.folder)
    }
}

pub(crate) async fn answer(request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Answer { status, headers, body: response.bytes().await?.to_vec() })
}

/// The command line in a service's folder.
pub(crate) fn keyfold_in(folder: &Path, arguments: &str) -> super::Ended {
    super::keyfold(arguments).data_dir(&folder.join("data")).run()
}
