//! What stands beside an agent that `keyfold run` starts: a way to the proxy that brings the proof along, and a metadata
//! endpoint that hands out the handle where a machine's token would be.
//!
//! Both listen on loopback for as long as the agent runs. The agent's environment names their addresses and holds neither the agent's token
//! nor the handle. Instead of a password, who connects is asked of the kernel: only processes of the user that runs the
//! agent are served, so another user of the machine is not.

mod holder;
mod metadata;
mod peer;
mod tunnel;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use keyfold_core::{
    clock::{Clock, UnixTime},
    error::Hint,
    secret::Secret,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::sleep,
};

pub use holder::Holder;

use super::host::Host;

/// How many connections of an agent are served at once.
const CONNECTIONS: usize = 1000;

/// Whom the agent acts for, and how it proves itself.
pub struct Identity {
    /// Where the proxy is.
    pub proxy: ProxyAddress,
    /// The agent's own token.
    pub token: Secret,
    /// The handle of the session.
    pub handle: Secret,
    /// The handle's last moment.
    pub until: UnixTime,
    /// What the metadata endpoint calls the account.
    pub email: String,
    /// The project it names, where there is one.
    pub project: Option<String>,
    /// The user whose processes are served.
    pub uid: u32,
    /// Whom the proof is given to.
    pub holder: Arc<Holder>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// The address of a proxy that a proof may be sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyAddress {
    host: Host,
    port: u16,
    tls: bool,
}

/// Why nothing stands beside the agent.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// Not an address that a proof may be sent to.
    #[error("the proxy is written https://HOST:PORT, or http:// on this machine")]
    Address,
    /// A socket.
    #[error("nothing can listen on 127.0.0.1: {}", .0.kind())]
    Bind(#[source] io::Error),
    /// Nobody listens there, or the connection broke.
    #[error("Keyfold cannot be reached: {}", .0.kind())]
    Unreachable(#[source] io::Error),
    /// Somebody else's process answers where Keyfold should.
    #[error("port {port} is held by the user {uid}, whom no proof is sent to")]
    Stranger {
        /// Which port.
        port: u16,
        /// Whose.
        uid: u32,
    },
    /// The kernel does not say whose process answers.
    #[error("the system does not say which user holds port {port}")]
    Unheld {
        /// Which port.
        port: u16,
    },
    /// The kernel does not say who connects.
    #[error("this system does not say which user connects")]
    Peers,
}

impl Hint for SidecarError {
    fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::Address => "a proof is not sent in the clear to another machine",
                Self::Bind(_) => "check that the loopback interface is up",
                Self::Unreachable(_) => "is it running? start it with `keyfold serve --proxy-listen`; check --server and --proxy",
                Self::Stranger { .. } => {
                    "if that is the user whom Keyfold runs as, say so with --service-user; if not, somebody waits there for the proof"
                }
                Self::Unheld { .. } => "what answers must be a process in the same network namespace; use https otherwise",
                Self::Peers => "`keyfold run` needs Linux with /proc mounted",
            }
            .into(),
        )
    }
}

impl ProxyAddress {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`SidecarError::Address`].
    pub fn parse(url: &str) -> Result<Self, SidecarError> {
        let rest = url.split_once("://").filter(|_| crate::settings::safe(url));
        let (scheme, rest) = rest.ok_or(SidecarError::Address)?;
        let (tls, port) = if scheme == "https" { (true, 443) } else { (false, 80) };
        let (host, port) =
            Host::with_port(rest.strip_suffix('/').unwrap_or(rest), port).map_err(|_| SidecarError::Address)?;
        Ok(Self { host, port, tls })
    }

    /// Looks whose it is, before anything is started that could take its place.
    ///
    /// # Errors
    /// As [`Holder::connect`]. Over https nothing is looked at: the certificate says so each time.
    pub async fn meet(&self, holder: &Holder) -> Result<(), SidecarError> {
        if self.tls { Ok(()) } else { holder.connect(self.host.as_str(), self.port).await.map(drop) }
    }
}

/// The two listeners. They end when this is dropped, with every connection on them.
pub struct Sidecar {
    proxy: SocketAddr,
    metadata: SocketAddr,
    tasks: [AbortHandle; 2],
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Sidecar {
    /// Listens.
    ///
    /// # Errors
    /// See [`SidecarError`].
    pub async fn start(identity: Identity) -> Result<Self, SidecarError> {
        peer::check().await.map_err(|_| SidecarError::Peers)?;
        let identity = Arc::new(identity);
        let bind = || async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(SidecarError::Bind)?;
            let address = listener.local_addr().map_err(SidecarError::Bind)?;
            Ok::<_, SidecarError>((listener, address))
        };
        let ((tunnels, proxy), (answers, metadata)) = (bind().await?, bind().await?);
        let dialler = Arc::new(tunnel::Dialler::new(Arc::clone(&identity)));
        let through = {
            let identity = Arc::clone(&identity);
            accept(tunnels, identity, move |stream| Arc::clone(&dialler).serve(stream))
        };
        let asked = accept(answers, Arc::clone(&identity), move |stream| {
            metadata::serve(stream, metadata, Arc::clone(&identity))
        });
        let tasks = [tokio::spawn(through).abort_handle(), tokio::spawn(asked).abort_handle()];
        Ok(Self { proxy, metadata, tasks })
    }

    /// Where `HTTPS_PROXY` points.
    #[must_use]
    pub const fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    /// Where `GCE_METADATA_HOST` points.
    #[must_use]
    pub const fn metadata(&self) -> SocketAddr {
        self.metadata
    }
}

/// Serves connections of the agent's user, and of nobody else.
async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    identity: Arc<Identity>,
    serve: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) {
    let serve = Arc::new(serve);
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, from)) = accepted else {
            // Out of file descriptors, most likely; they come back as connections end.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (serve, uid) = (Arc::clone(&serve), identity.uid);
        connections.spawn(async move {
            let Ok(local) = stream.local_addr() else { return };
            if peer::uid(from, local).await == Some(uid) {
                serve(stream).await;
            } else {
                tracing::warn!(target: "keyfold_server::sidecar", "a connection of another user was refused");
            }
        });
    }
}

#[cfg(test)]
mod tests;
