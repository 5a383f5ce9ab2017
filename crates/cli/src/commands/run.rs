//! `keyfold run`: a command whose calls leave through the proxy, and that knows nothing of it.
//!
//! The command gets addresses and certificates by its environment, and no secret: neither the agent's token nor the handle is in
//! it. Both stay in this process, which listens on loopback for the command and brings them along.

use std::{
    ffi::OsString,
    fmt::Write as _,
    io::IsTerminal as _,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use keyfold_core::{clock::UnixTime, error::Hint, secret::Secret};
use keyfold_server::proxy::sidecar::{Holder, Identity, ProxyAddress, Sidecar, SidecarError};
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitId, WaitIdOptions, geteuid, kill_process, set_dumpable_behavior, waitid,
};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    clock::SystemClock,
    failure::{Exit, Failure},
    input::{self, Source, Wanted},
    invocation::Invocation,
    remote::{Remote, TOKEN_VARIABLE},
};

const HANDLE_VARIABLE: &str = "KEYFOLD_HANDLE";

#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  export KEYFOLD_SERVER=http://127.0.0.1:8740 KEYFOLD_TOKEN=… KEYFOLD_HANDLE=kfh_…\n  \
                  keyfold run -- python agent.py\n\n\
                  The command's https:// calls leave through the proxy, for the person whose handle it is; Google's client \
                  libraries find an account at a metadata endpoint. Its environment holds no secret, and its exit code is passed on."
)]
pub(crate) struct Args {
    /// Where the proxy listens
    #[arg(
        long,
        value_name = "URL",
        env = "KEYFOLD_PROXY",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8741"
    )]
    proxy: String,
    /// What holds the handle of the session: file:PATH or env:NAME [default: env:KEYFOLD_HANDLE]
    #[arg(long, value_name = "SOURCE")]
    handle: Option<Source>,
    /// The user whom the service runs as, by name or number, where its ports are reached without TLS [default: root, or you]
    #[arg(long, value_name = "USER", env = "KEYFOLD_SERVICE_USER", hide_env_values = true)]
    service_user: Option<String>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    // Its environment and its memory hold the token and the handle, and the command runs as the same user. From here on the
    // kernel lets nobody but root look into either, and /proc says that they are root's.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| {
        Failure::unavailable("this process cannot be kept from the command that it starts").caused_by(&error)
    })?;
    let proxy = ProxyAddress::parse(&args.proxy).map_err(|error| of(&error))?;
    let own = geteuid().as_raw();
    let holder = Arc::new(Holder::new(own, args.service_user.as_deref().map(user).transpose()?));
    let remote = Remote::of(invocation)?.ok_or_else(|| {
        Failure::usage("no server is named")
            .hint("export KEYFOLD_SERVER=http://127.0.0.1:8740, where `keyfold serve` runs")
    })?;
    let remote = remote.held_by(Arc::clone(&holder));
    let source = args.handle.clone().unwrap_or_else(|| Source::Environment(HANDLE_VARIABLE.into()));
    let handle = input::read(&source, Wanted::Secret).await?;
    let handle = Secret::from(handle.expose().trim_ascii());
    let text = std::str::from_utf8(handle.expose()).map_err(|_| Failure::usage("the handle is not text"))?;
    let session = remote.session_of(text).await?;
    let authority = remote.authority().await?;
    proxy.meet(&holder).await.map_err(|error| of(&error))?;
    let number = |value: &serde_json::Value| value["expires"].as_u64().unwrap_or(0);
    let email = session["email"].as_str().map(str::to_owned);
    let project = std::env::var("GOOGLE_CLOUD_PROJECT").ok().or_else(|| session["project"].as_str().map(str::to_owned));
    let identity = Identity {
        proxy,
        token: Secret::from(std::env::var(TOKEN_VARIABLE).unwrap_or_default().trim().as_bytes()),
        handle,
        until: UnixTime(number(&session).min(number(&session["reach"]))),
        email: email.unwrap_or_else(|| format!("{}@keyfold.invalid", session["person"].as_str().unwrap_or("person"))),
        project,
        uid: own,
        holder,
        clock: Arc::new(SystemClock),
    };
    let certificates = Certificates::write(&authority).map_err(|error| {
        Failure::unavailable("the certificates could not be written to a temporary folder").caused_by(&error)
    })?;
    let sidecar = Sidecar::start(identity).await.map_err(|error| of(&error))?;
    let mut command = Command::new(&args.command[0]);
    command.args(&args.command[1..]);
    environment(&mut command, &sidecar, &certificates, &source);
    let exit = attend(command, invocation).await;
    drop((sidecar, certificates));
    exit
}

/// The number of a user.
fn user(name: &str) -> Result<u32, Failure> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = known.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    });
    number.ok_or_else(|| {
        Failure::usage("--service-user names a user who is not in /etc/passwd")
            .hint("give the number that `id -u USER` prints")
    })
}

fn of(error: &SidecarError) -> Failure {
    let failure = match error {
        SidecarError::Address => Failure::usage(error.to_string()),
        _ => Failure::unavailable(error.to_string()),
    };
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// The authority, alone and beside those that the machine trusts: some variables add to what a runtime trusts, most replace it.
struct Certificates {
    alone: PathBuf,
    bundle: PathBuf,
    _folder: TempDir,
}

impl Certificates {
    fn write(authority: &str) -> std::io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("keyfold-run-").tempdir()?;
        let (alone, bundle) = (folder.path().join("authority.pem"), folder.path().join("bundle.pem"));
        let mut all = authority.to_owned();
        for certificate in rustls_native_certs::load_native_certs().certs {
            all.push_str("-----BEGIN CERTIFICATE-----\n");
            let text = base64_simd::STANDARD.encode_to_string(&certificate);
            for line in text.as_bytes().chunks(64) {
                let _ = writeln!(all, "{}", String::from_utf8_lossy(line));
            }
            all.push_str("-----END CERTIFICATE-----\n");
        }
        std::fs::write(&alone, authority)?;
        std::fs::write(&bundle, all)?;
        Ok(Self { alone, bundle, _folder: folder })
    }
}

/// What replaces the certificates that a runtime trusts: OpenSSL and Go, requests, curl, AWS, gRPC, git, pip, cargo.
const REPLACED: [&str; 8] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
];
/// What adds to them: Node, Deno.
const ADDED: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];
/// What would lead past the proxy, or to another account than the person's.
const REMOVED: [&str; 8] = [
    "ALL_PROXY",
    "all_proxy",
    "grpc_proxy",
    "no_grpc_proxy",
    "SSL_CERT_DIR",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_OAUTH_ACCESS_TOKEN",
    "NO_GCE_CHECK",
];
/// What holds keys of ours and of the programs that we keep secrets for.
const SECRETS: [&str; 3] = ["KEYFOLD_", "REDIS_SRE_MASTER_KEY", "SRE_AGENT_ENCRYPTION_KEY"];

fn environment(command: &mut Command, sidecar: &Sidecar, certificates: &Certificates, handle: &Source) {
    let ours =
        |name: &OsString| name.to_str().is_some_and(|name| SECRETS.iter().any(|prefix| name.starts_with(prefix)));
    for (name, _) in std::env::vars_os().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    if let Source::Environment(name) = handle {
        command.env_remove(name);
    }
    for name in REMOVED {
        command.env_remove(name);
    }
    let mut set = |names: &[&str], value: &Path| {
        for name in names {
            command.env(name, value);
        }
    };
    let proxy = format!("http://{}", sidecar.proxy());
    set(&["HTTPS_PROXY", "https_proxy"], Path::new(&proxy));
    set(&["NO_PROXY", "no_proxy"], Path::new("localhost,127.0.0.1,::1"));
    set(&REPLACED, &certificates.bundle);
    set(&ADDED, &certificates.alone);
    set(&["NODE_USE_ENV_PROXY"], Path::new("1"));
    set(&["GCE_METADATA_HOST", "GCE_METADATA_IP"], Path::new(&sidecar.metadata().to_string()));
    set(&["METADATA_SERVER_DETECTION"], Path::new("assume-present"));
}

/// Runs the command to its end; signals that this process gets are passed on.
async fn attend(mut command: Command, invocation: &Invocation) -> Result<Exit, Failure> {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::unavailable("signals cannot be listened to").caused_by(&error));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut quit = listen(SignalKind::quit())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let mut user1 = listen(SignalKind::user_defined1())?;
    let mut user2 = listen(SignalKind::user_defined2())?;
    invocation.stop().pass_on();
    let mut child = command.spawn().map_err(|error| {
        let found = error.kind() != std::io::ErrorKind::NotFound;
        Failure::new(Exit::Of(if found { 126 } else { 127 }), "usage", "the command could not be started")
            .hint("write it after `--`, as it would be typed")
            .caused_by(&error)
    })?;
    let pid = Pid::from_child(&child);
    // Without taking its status, so that its number is nobody else's while signals are passed on.
    let mut ended = tokio::task::spawn_blocking(move || {
        while matches!(
            waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT),
            Err(rustix::io::Errno::INTR)
        ) {}
    });
    // A terminal tells everybody in front of it, the command too.
    let told = std::io::stdin().is_terminal();
    loop {
        let (passed, by_terminal) = tokio::select! {
            _ = &mut ended => break,
            Some(()) = interrupt.recv() => (Signal::INT, true),
            Some(()) = quit.recv() => (Signal::QUIT, true),
            Some(()) = terminate.recv() => (Signal::TERM, false),
            Some(()) = hangup.recv() => (Signal::HUP, false),
            Some(()) = user1.recv() => (Signal::USR1, false),
            Some(()) = user2.recv() => (Signal::USR2, false),
        };
        if !(told && by_terminal) {
            // It may have ended just now.
            let _ = kill_process(pid, passed);
        }
    }
    let status =
        child.wait().map_err(|error| Failure::unavailable("the command's end is not known").caused_by(&error))?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(Exit::Of(u8::try_from(code).unwrap_or(1)))
}
