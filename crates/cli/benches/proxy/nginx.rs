//! nginx with one worker and a constant header.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use super::{
    keyfold::{PLAIN, Stage, bare},
    load::Way,
    process::Process,
};

/// It runs for as long as its value is there.
pub(crate) struct Nginx {
    process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

impl Nginx {
    /// `None`, with a word about it, where there is none.
    pub(crate) fn start(stage: &Stage) -> Option<Self> {
        let programs = ["nginx", "/usr/sbin/nginx"];
        let there =
            |program: &&&str| Command::new(program).arg("-v").stderr(std::process::Stdio::null()).status().is_ok();
        let Some(program) = programs.iter().find(there) else {
            println!("there is no nginx here; what is measured beside it is left out");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (config, errors) = (folder.path().join("nginx.conf"), folder.path().join("error.log"));
        fs::write(&config, configuration(stage, address, folder.path())).unwrap();
        let mut command = Command::new(program);
        command.arg("-e").arg(&errors).arg("-c").arg(&config).arg("-p").arg(folder.path());
        let process = Process::start(&mut command)?;
        for _ in 0..100 {
            if TcpStream::connect(address).is_ok() {
                return Some(Self { process, address, _folder: folder });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        println!("nginx does not start: {}", fs::read_to_string(errors).unwrap_or_default());
        None
    }

    pub(crate) fn way(&self) -> Way<'_> {
        Way { address: self.address, ..bare("nginx, one worker", Some(&self.process)) }
    }
}

fn configuration(stage: &Stage, address: SocketAddr, folder: &Path) -> String {
    let (port, roots, folder) = (stage.http1.port, stage.roots(), folder.display());
    let roots = roots.display();
    // Without a master the one process is the worker.
    format!(
        "daemon off;
master_process off;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream destination {{
        server 127.0.0.1:{port};
        keepalive 512;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {address};
        client_max_body_size 0;
        location / {{
            proxy_pass https://destination;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host {PLAIN}:{port};
            proxy_set_header Authorization \"Bearer of-nginx\";
            proxy_ssl_protocols TLSv1.3;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {roots};
            proxy_ssl_server_name on;
            proxy_ssl_name {PLAIN};
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
        }}
    }}
}}
"
    )
}
