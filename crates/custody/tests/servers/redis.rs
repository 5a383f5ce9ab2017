//! Redis from Debian's `redis-server`: one, one over TLS with users, or a cluster of three masters.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use super::{Killed, component, free_ports, program, tls, wait_for};

/// The password of the user `keyfold`, and of everybody else where there are users.
pub(crate) const PASSWORD: &str = "p@ss/wo:rd?%41";

/// One server.
pub(crate) struct Server {
    pub(crate) port: u16,
    binary: PathBuf,
    arguments: Vec<String>,
    folder: PathBuf,
    process: Option<Killed>,
}

impl Server {
    fn start(binary: &Path, folder: PathBuf, port: u16, arguments: &[&str]) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let arguments = arguments.iter().map(|argument| (*argument).into()).collect();
        let mut server = Self { port, binary: binary.into(), arguments, folder, process: None };
        server.restart();
        server
    }

    fn says(&self, command: &str) -> String {
        says(self.port, command)
    }

    /// Changes a setting while it runs.
    pub(crate) fn configure(&self, name: &str, value: &str) {
        let answer = self.says(&format!("CONFIG SET {name} {value}"));
        assert!(answer.starts_with("+OK"), "{answer}");
    }

    /// Ends the server at once, as a power failure does.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again in its folder and on its port.
    pub(crate) fn restart(&mut self) {
        self.process = None;
        let log = self.folder.join("log");
        let mut command = Command::new(&self.binary);
        command.args(["--bind", "127.0.0.1", "--dir"]).arg(&self.folder).args(["--logfile", "", "--save", ""]);
        command.args(&self.arguments).stdout(File::create(&log).unwrap()).stderr(Stdio::null()).stdin(Stdio::null());
        let mut process = Killed(command.spawn().unwrap());
        wait_for(self.port, &mut process.0, &log);
        let tls = self.arguments.iter().any(|argument| argument == "--tls-port");
        while !tls && self.says("PING").starts_with("-LOADING") {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.process = Some(process);
    }
}

/// The beginning of what a server answers to a command without quotes.
fn says(port: u16, command: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut answer = [0; 4096];
    let length = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

/// Servers that belong together.
pub(crate) struct Redis {
    pub(crate) servers: Vec<Server>,
    /// For the store under test.
    pub(crate) address: String,
    folder: TempDir,
    sentinel: Option<Killed>,
}

/// A folder in memory where there is a place for that: what is measured and tested here is not the disk.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Redis {
    /// One server, with `arguments` beside the usual ones.
    pub(crate) fn single(arguments: &[&str]) -> Option<Self> {
        Some(Self::run(&program("redis-server", "redis-server")?, arguments))
    }

    /// One server of a version in which single hash fields expire.
    pub(crate) fn newer() -> Option<Self> {
        Some(Self::run(&component("redis-server-8")?, &[]))
    }

    fn run(binary: &Path, arguments: &[&str]) -> Self {
        let folder = folder();
        let [port] = free_ports();
        let number = port.to_string();
        let arguments = [&["--port", &number], arguments].concat();
        let server = Server::start(binary, folder.path().join("single"), port, &arguments);
        Self { servers: vec![server], address: format!("redis://127.0.0.1:{port}"), folder, sentinel: None }
    }

    /// One server that speaks TLS only, wants a client's certificate, and knows the user `keyfold` with the rights that
    /// the documentation asks for, on the keys `conformance-*` only.
    pub(crate) fn secured() -> Option<Self> {
        let (binary, folder) = (program("redis-server", "redis-server")?, folder());
        tls::write(folder.path());
        let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let users = format!(
            "user default on >{PASSWORD} ~* &* +@all\n\
             user keyfold on >{PASSWORD} ~conformance-* +info +ping +scan +type +dbsize +hget +hset +get +set +evalsha +eval\n"
        );
        std::fs::write(file("users"), users).unwrap();
        let [port] = free_ports();
        let arguments = [
            "--port",
            "0",
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &file("server.pem"),
            "--tls-key-file",
            &file("server.key"),
            "--tls-ca-cert-file",
            &file("ca.pem"),
            "--tls-auth-clients",
            "yes",
            "--aclfile",
            &file("users"),
        ];
        let server = Server::start(&binary, folder.path().join("secured"), port, &arguments);
        let mut redis = Self { servers: vec![server], address: String::new(), folder, sentinel: None };
        redis.address = redis.secured_as("keyfold", "p%40ss%2Fwo%3Ard%3F%2541");
        Some(redis)
    }

    /// A file beside the servers' folders.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The address of a secured server, for another user.
    pub(crate) fn secured_as(&self, user: &str, password: &str) -> String {
        let (port, folder) = (self.servers[0].port, self.folder.path().display());
        format!(
            "rediss://{user}:{password}@127.0.0.1:{port}?ca={folder}/ca.pem&cert={folder}/client.pem&key={folder}/client.key"
        )
    }

    /// A master, its replica, and a sentinel that makes the replica the master five seconds after that is gone: on a busy machine
    /// one that lives may be silent for a second.
    pub(crate) fn behind_sentinel(arguments: &[&str]) -> Option<Self> {
        let (binary, folder) = (program("redis-server", "redis-server")?, folder());
        let ports: [u16; 3] = free_ports();
        let [master, replica, sentinel] = ports.map(|port| port.to_string());
        let start = |name: &str, port: u16, more: &[&str]| {
            let number = port.to_string();
            let all = [&["--port", &number][..], arguments, more].concat();
            Server::start(&binary, folder.path().join(name), port, &all)
        };
        let servers =
            vec![start("master", ports[0], &[]), start("replica", ports[1], &["--replicaof", "127.0.0.1", &master])];
        let file = folder.path().join("sentinel.conf");
        let text = format!(
            "port {sentinel}\nbind 127.0.0.1\ndir {}\nsentinel monitor mymaster 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds mymaster 5000\nsentinel failover-timeout mymaster 10000\n",
            folder.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let log = folder.path().join("sentinel.log");
        let mut command = Command::new(&binary);
        command.arg(&file).arg("--sentinel").stdout(File::create(&log).unwrap()).stderr(Stdio::null());
        let mut process = Killed(command.stdin(Stdio::null()).spawn().unwrap());
        wait_for(ports[2], &mut process.0, &log);
        while !says(ports[2], "INFO sentinel").contains("slaves=1")
            || !says(ports[1], "INFO replication").contains("master_link_status:up")
        {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_ne!(replica, master);
        let address = format!("redis+sentinel://127.0.0.1:{sentinel}/mymaster");
        Some(Self { servers, address, folder, sentinel: Some(process) })
    }

    /// Three masters with a third of the slots each.
    pub(crate) fn cluster() -> Option<Self> {
        let (binary, client) = (program("redis-server", "redis-server")?, program("redis-cli", "redis-tools")?);
        let folder = folder();
        let ports: [u16; 6] = free_ports();
        let servers: Vec<_> = (0..3)
            .map(|n| {
                let (port, bus) = (ports[n].to_string(), ports[n + 3].to_string());
                let arguments = [
                    "--port",
                    &port,
                    "--cluster-port",
                    &bus,
                    "--cluster-enabled",
                    "yes",
                    "--cluster-node-timeout",
                    "60000",
                ];
                Server::start(&binary, folder.path().join(format!("node-{n}")), ports[n], &arguments)
            })
            .collect();
        let places: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        let mut create = Command::new(client);
        create.args(["--cluster", "create"]).args(&places).args(["--cluster-replicas", "0", "--cluster-yes"]);
        let created = create.output().unwrap();
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        for server in &servers {
            while !server.says("CLUSTER INFO").contains("cluster_state:ok") {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Some(Self { servers, address: format!("redis+cluster://{}", places.join(",")), folder, sentinel: None })
    }
}
