//! `keyfold serve`

use std::{
    fs::OpenOptions,
    io::{IsTerminal, Write},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::Arc,
};

use keyfold_core::{audit::Actor, error::Hint, secret::Secret};
use keyfold_custody::{config::ConfigError, tokens::NewToken};
use keyfold_server::{
    background::{self, Scheduled},
    listen::{ListenError, Listening},
    proxy::{Proxy, settings::ProxySettings},
    service::Service,
    settings::{Settings, TlsSettings},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::{
    failure::{Exit, Failure},
    folder::{self, Folder, Opened},
    invocation::Invocation,
    output,
    people::Configured,
    stores::Needs,
    system,
};

/// Where the first operator's token is put.
const TOKEN_FILE: &str = "operator.token";

#[derive(clap::Args)]
#[command(
    after_help = "The first run makes the data folder, the root key and an operator's token in DIR/operator.token (0600).\n\
                  `[server]` in keyfold.toml says the rest; docs/api.md and docs/operate.md explain it."
)]
pub(crate) struct Args {
    /// Where to listen [default: 127.0.0.1:8740]
    #[arg(long, value_name = "ADDRESS:PORT", env = "KEYFOLD_LISTEN", hide_env_values = true)]
    listen: Option<SocketAddr>,
    /// Also listen on a Unix socket, made 0600
    #[arg(long, value_name = "PATH", env = "KEYFOLD_UNIX", hide_env_values = true)]
    unix: Option<PathBuf>,
    /// Also listen as the proxy [for example: 127.0.0.1:8741]
    #[arg(long, value_name = "ADDRESS:PORT", env = "KEYFOLD_PROXY_LISTEN", hide_env_values = true)]
    proxy_listen: Option<SocketAddr>,
    /// The certificate chain for TLS, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// TLS ends in front of this process: serve in the clear on any address, and on $PORT where it is set
    #[arg(long, env = "KEYFOLD_BEHIND_TLS", hide_env_values = true)]
    behind_tls: bool,
    /// Seal sessions under a key of this run alone: they end with it. For a machine of one's own, not for a shared store
    #[arg(long)]
    dev: bool,
}

pub(crate) async fn run(args: Args, invocation: &Invocation) -> Result<Exit, Failure> {
    // Before anything is made or bound: every mistake of the configuration, and an address that would give tokens away.
    let folder = Folder::of(invocation)?;
    let config = folder::config(invocation, &folder)?;
    let mut proxy = ProxySettings::parse(&config.proxy, &config.routes)
        .map_err(|mistakes| Failure::usage(ConfigError(mistakes).to_string()))?;
    proxy.listen = args.proxy_listen.or(proxy.listen);
    let shared = system::place(invocation, &config)?.is_some();
    let people = Configured::of(&config, shared, (args.dev, proxy.is_on()))?;
    let settings = settings(args, &config.server)?;
    settings.check_address().map_err(|mistake| Failure::usage(mistake.to_string()))?;
    if proxy.is_on() {
        let checked = proxy.check_addresses(settings.tls.is_some(), settings.behind_tls);
        checked.map_err(|mistakes| Failure::usage(ConfigError(mistakes).to_string()))?;
    }
    raise_file_limit();
    if !folder.is_deployment()? {
        let made = folder::init(invocation).await?;
        say(invocation, &format!("made the data folder {}", made.folder));
        say(invocation, &format!("root key      {} (copy it away: without it nothing opens again)", made.root_key));
    }
    let _graceful = invocation.stop().graceful();
    let needs = Needs::Configured { only: None, store: None };
    folder::with_stores(invocation, "serve", &needs, async |opened| {
        serve(opened, (settings, proxy), people.as_ref(), invocation).await
    })
    .await?;
    say(invocation, "stopped; nothing was cut off");
    Ok(Exit::Done)
}

fn settings(args: Args, table: &toml::Table) -> Result<Settings, Failure> {
    let mut settings = Settings::parse(table).map_err(|mistakes| Failure::usage(ConfigError(mistakes).to_string()))?;
    settings.behind_tls |= args.behind_tls;
    if let (true, Ok(port)) = (settings.behind_tls, std::env::var("PORT")) {
        let port = port.parse().map_err(|_| Failure::usage("PORT is not a port").hint("unset it, or set a number"))?;
        settings.listen = SocketAddr::from(([0, 0, 0, 0], port));
    }
    settings.listen = args.listen.unwrap_or(settings.listen);
    settings.unix = args.unix.or(settings.unix);
    if let (Some(cert), Some(key)) = (args.tls_cert, args.tls_key) {
        let (clients, require_client) = settings.tls.map_or((None, false), |tls| (tls.clients, tls.require_client));
        settings.tls = Some(TlsSettings { cert, key, clients, require_client });
    }
    Ok(settings)
}

async fn serve(
    opened: &Opened,
    (settings, proxy): (Settings, ProxySettings),
    people: Option<&Configured>,
    invocation: &Invocation,
) -> Result<(), Failure> {
    let custody = Arc::clone(&opened.custody);
    let service = Service::new(custody, settings.clone(), opened.audit.clone()).await?;
    if let Some(people) = people {
        service.let_in(people.open(opened, invocation)?).await?;
        if !people.has_issuers() {
            invocation
                .warn("no issuer is configured: nobody has a token, so destinations without `secret` refuse calls");
        }
        if people.is_transient() {
            invocation.warn("--dev: sessions are sealed under a key of this run alone; they end with it");
        }
        if people.is_permissive() {
            invocation
                .warn("enforcement is permissive: service accounts may act where no user's token came with a call");
        }
    }
    let proxying = proxy.is_on().then(|| proxy.clone());
    let proxy = match service.people().filter(|_| proxy.is_on()) {
        Some(people) => {
            let made = Proxy::new(Arc::clone(&service), Arc::clone(people), proxy).await;
            Some(made.map_err(|error| {
                let hint = error.hint();
                let failure = Failure::unavailable(error.to_string());
                match hint {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                }
            })?)
        }
        None => None,
    };
    let listening = Listening::bind(&settings, proxying.as_ref().filter(|_| proxy.is_some())).await?;
    let token = first_token(opened, &service).await?;
    let background = background::start(&service, Scheduled { manage: opened.permit()?, rotate: opened.permit()? });
    let end = end()?;
    announce(&listening, &settings, (opened, token.as_ref()), invocation)?;
    listening.serve(service, proxy, end).await;
    drop(background);
    Ok(())
}

/// A token for an operator where there is none yet.
async fn first_token(opened: &Opened, service: &Service) -> Result<Option<Secret>, Failure> {
    let operator = |actor: &Actor| actor.as_str().starts_with("operator:");
    if service.tokens.list().iter().any(|token| operator(&token.actor)) {
        return Ok(None);
    }
    let new = NewToken {
        actor: Actor::new("operator:first").map_err(|error| Failure::usage(error.to_string()))?,
        lifetime: None,
        addresses: Vec::new(),
        narrowed: None,
        note: Some("made by the first `keyfold serve`".into()),
    };
    let path = opened.folder.path().join(TOKEN_FILE);
    // The file first: a token that could not be written down would be known to nobody.
    let failed = |error: std::io::Error| {
        Failure::unavailable(format!("{}: {}", path.display(), error.kind()))
            .hint("move it away; a token is never written over another one")
            .caused_by(&error)
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    let made = service.tokens.create(&opened.permit()?, &opened.custody.auditor, new).await;
    let (token, secret) = made.inspect_err(|_| drop(std::fs::remove_file(&path)))?;
    let written = file.write_all(secret.expose()).and_then(|()| file.write_all(b"\n")).and_then(|()| file.sync_all());
    if let Err(error) = written {
        service.tokens.revoke(&opened.permit()?, &opened.custody.auditor, &token.id).await?;
        return Err(failed(error));
    }
    Ok(Some(secret))
}

fn announce(
    listening: &Listening,
    settings: &Settings,
    (opened, token): (&Opened, Option<&Secret>),
    invocation: &Invocation,
) -> Result<(), Failure> {
    let folder = opened.folder.path();
    let (url, file) = (listening.url(), folder.join(TOKEN_FILE));
    if invocation.json() {
        let mapped: std::collections::BTreeMap<_, _> = listening.mapped().collect();
        return output::json(&json!({
            "url": url, "proxy": listening.proxy_url(), "mapped": mapped, "unix": settings.unix, "data_folder": folder, "token_file": token.map(|_| &file),
        }));
    }
    say(invocation, &format!("data folder   {}", folder.display()));
    say(invocation, &format!("serving       {url}"));
    if let Some(unix) = &settings.unix {
        say(invocation, &format!("              {}", unix.display()));
    }
    if let Some(proxy) = listening.proxy_url() {
        say(invocation, &format!("proxy         {proxy}"));
    }
    for (destination, url) in listening.mapped() {
        say(invocation, &format!("{destination:<13} {url}"));
    }
    if opened.system.is_shared() {
        say(invocation, &format!("system store  {}", opened.system.records.describe()));
    }
    if let Some(token) = token {
        say(invocation, &format!("token         {} (an operator's; it may do everything)", file.display()));
        if std::io::stderr().is_terminal()
            && let Ok(text) = std::str::from_utf8(token.expose())
        {
            say(invocation, &format!("              {text}"));
        }
        say(invocation, "");
        say(invocation, "next, in another terminal:");
        say(invocation, &format!("  export KEYFOLD_SERVER={url} KEYFOLD_TOKEN=\"$(cat {})\"", file.display()));
        say(
            invocation,
            "  echo '{\"connection_url\": \"redis://u:p@h:6379\"}' | keyfold records put instances redis-1",
        );
        say(invocation, "  keyfold records get instances redis-1");
        say(invocation, "  keyfold token create agent:triage");
    }
    Ok(())
}

fn say(invocation: &Invocation, text: &str) {
    if !invocation.quiet() && !invocation.json() {
        output::say(&format!("{text}\n"));
    }
}

/// Until somebody asks this process to end. Listens from the call on, not from the first wait: who reads that it serves may
/// end it at once.
fn end() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen =
        |kind| signal(kind).map_err(|error| Failure::unavailable("signals cannot be listened to").caused_by(&error));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// As many connections as the system allows this user. Where that cannot be had, the connections there are room for.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!(%error, "the number of open files could not be raised");
    }
}

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        let failure = Self::unavailable(error.to_string()).caused_by(&error);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
