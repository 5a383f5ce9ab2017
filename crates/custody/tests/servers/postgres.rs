//! A PostgreSQL server with SCRAM passwords, and TLS where asked for.
//!
//! The server refuses to run as root; then it runs as the user `postgres`, or as `nobody`.

use std::{
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use super::{Killed, free_port, program, tls, wait_for};

/// The password of the user `keyfold`, who owns everything.
pub(crate) const PASSWORD: &str = "pass/w0rd@%";
/// The same inside of an address.
const ENCODED: &str = "pass%2Fw0rd%40%25";

/// A server that ends with its owner.
pub(crate) struct Postgres {
    pub(crate) port: u16,
    folder: TempDir,
    program: PathBuf,
    server: Option<Killed>,
    tls: bool,
}

impl Postgres {
    /// A fresh server; `None`, with a word about it, where PostgreSQL is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::make(false)
    }

    /// One that only speaks TLS over the network.
    pub(crate) fn with_tls() -> Option<Self> {
        Self::make(true)
    }

    fn make(tls: bool) -> Option<Self> {
        let path = std::env::var("PATH").unwrap_or_default();
        // Debian keeps the server's programs off the path.
        let newest = (13..30).rev().map(|n| format!("/usr/lib/postgresql/{n}/bin")).find(|at| Path::new(at).exists());
        let found = newest.map(|at| PathBuf::from(at).join("initdb")).filter(|file| file.is_file() && !path.is_empty());
        let initdb = found.or_else(|| program("initdb", "postgresql"))?;
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        give(folder.path());
        give(&password);
        let data = folder.path().join("data");
        let made = as_user(&initdb)
            .args(["--username=keyfold", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"])
            .arg(format!("--pwfile={}", password.display()))
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        if tls {
            tls::write(folder.path());
            for file in ["ca.pem", "server.pem", "server.key"] {
                let file = folder.path().join(file);
                std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
                give(&file);
            }
            let hba = data.join("pg_hba.conf");
            std::fs::write(&hba, "hostssl all all all scram-sha-256\nlocal all all scram-sha-256\n").unwrap();
        }
        let program = initdb.with_file_name("postgres");
        let mut server = Self { port: free_port(), folder, program, server: None, tls };
        server.run();
        Some(server)
    }

    /// Starts the server, again.
    pub(crate) fn run(&mut self) {
        let log = self.folder.path().join("log");
        let out = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut command = as_user(&self.program);
        command.arg("-D").arg(self.folder.path().join("data")).args(["-p", &self.port.to_string()]);
        let sockets = format!("unix_socket_directories={}", self.folder.path().display());
        command.args([
            "-c",
            &sockets,
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "fsync=off",
            "-c",
            "max_connections=60",
        ]);
        if self.tls {
            let file = |name: &str| self.folder.path().join(name).display().to_string();
            command.args(["-c", "ssl=on", "-c", &format!("ssl_cert_file={}", file("server.pem"))]);
            command.args(["-c", &format!("ssl_key_file={}", file("server.key"))]);
        }
        let mut child = command.stdout(Stdio::null()).stderr(out).spawn().unwrap();
        wait_for(self.port, &mut child, &log);
        self.server = Some(Killed(child));
        let started = Instant::now();
        while !log_says(&log, "database system is ready to accept connections", self.starts(&log)) {
            assert!(started.elapsed() < Duration::from_secs(30), "PostgreSQL does not become ready");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn starts(&self, log: &Path) -> usize {
        std::fs::read_to_string(log).unwrap_or_default().matches("starting PostgreSQL").count()
    }

    /// Ends the server at once, as a crash does: what was committed is there after the next start.
    pub(crate) fn crash(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let _ = Command::new("kill").args(["-QUIT", &server.0.id().to_string()]).status();
        let started = Instant::now();
        while server.0.try_wait().is_ok_and(|ended| ended.is_none()) && started.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The address with the password in it.
    pub(crate) fn address(&self) -> String {
        format!("postgres://keyfold:{ENCODED}@127.0.0.1:{}/postgres", self.port)
    }

    /// The address with TLS, the certificate checked against our own authority.
    pub(crate) fn checked(&self) -> String {
        format!("{}?sslmode=verify-full&sslrootcert={}", self.address(), self.folder.path().join("ca.pem").display())
    }

    /// A connection of another program's.
    pub(crate) async fn raw(&self) -> PgConnection {
        let address = if self.tls { self.checked() } else { self.address() };
        PgConnection::connect(&address).await.unwrap()
    }

    /// Runs statements as another program.
    pub(crate) async fn run_sql(&self, text: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut self.raw().await).await.unwrap();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.crash();
    }
}

fn log_says(log: &Path, what: &str, times: usize) -> bool {
    std::fs::read_to_string(log).unwrap_or_default().matches(what).count() >= times.max(1)
}

/// User and group that the server runs as; `None` where this user will do.
fn user() -> Option<(u32, u32)> {
    let me = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").ok()?);
    let users = std::fs::read_to_string("/etc/passwd").ok().filter(|_| me == 0)?;
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody"))
}

fn give(path: &Path) {
    if let Some((user, group)) = user() {
        chown(path, Some(user), Some(group)).unwrap();
    }
}

fn as_user(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = user() {
        command.uid(user).gid(group);
    }
    command.current_dir("/").env("LC_ALL", "C.UTF-8");
    command
}
