//! The way to the proxy: CONNECT comes in bare and goes on with the proof; what follows passes as it is.

use std::{io, sync::Arc, time::Duration};

use rustls_pki_types::{IpAddr, ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::{Identity, SidecarError};
use crate::proxy::{host::Host, upstream::system_roots};

/// How long a client may take to say where to, and the proxy to be there.
const HEAD: Duration = Duration::from_secs(10);
const DIAL: Duration = Duration::from_secs(10);
/// The longest head of a CONNECT, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// Opens tunnels at the proxy.
pub(super) struct Dialler {
    identity: Arc<Identity>,
    tls: TlsConnector,
}

/// What is answered where there is no tunnel.
struct Refused(&'static str, &'static str);

const NOT_CONNECT: Refused = Refused(
    "501 Not Implemented",
    "This proxy opens tunnels for https:// and nothing else: over http:// a credential would leave in the clear.",
);
const MALFORMED: Refused = Refused("400 Bad Request", "This is not a CONNECT request that names HOST:PORT.");
const STRANGER: Refused = Refused(
    "502 Bad Gateway",
    "Keyfold's proxy is not what answers at its port: another user holds it, and was sent nothing.",
);
const UNREACHABLE: Refused =
    Refused("502 Bad Gateway", "Keyfold's proxy cannot be reached. Is `keyfold serve --proxy-listen` running?");

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Dialler {
    pub(super) fn new(identity: Arc<Identity>) -> Self {
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions();
        #[expect(clippy::expect_used, reason = "the provider has the versions that it was built with")]
        let config = config.expect("TLS 1.2 and 1.3").with_root_certificates(system_roots()).with_no_client_auth();
        Self { identity, tls: TlsConnector::from(Arc::new(config)) }
    }

    /// Serves one connection.
    pub(super) async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        match self.open(&mut stream).await {
            // How a tunnel ends is the business of its two ends.
            Ok(mut proxy) => drop(copy_bidirectional(&mut stream, &mut proxy).await),
            Err(Refused(status, text)) => {
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}\n",
                    text.len() + 1
                );
                drop(timeout(HEAD, stream.write_all(answer.as_bytes())).await);
            }
        }
    }

    /// Reads where to, and asks the proxy for a tunnel; its answer is left to the client to read.
    async fn open(&self, stream: &mut TcpStream) -> Result<Box<dyn Stream>, Refused> {
        let (head, rest) = timeout(HEAD, read_head(stream)).await.ok().flatten().ok_or(MALFORMED)?;
        let (host, port) = target(&head)?;
        let request = self.request(&host, port);
        let dialled = async {
            let mut proxy = self.dial().await?;
            let sent = async {
                proxy.write_all(request.as_bytes()).await?;
                proxy.write_all(&rest).await?;
                proxy.flush().await
            };
            sent.await.map_err(SidecarError::Unreachable)?;
            Ok(proxy)
        };
        match timeout(DIAL, dialled).await {
            Ok(Ok(proxy)) => Ok(proxy),
            Ok(Err(error @ (SidecarError::Stranger { .. } | SidecarError::Unheld { .. }))) => {
                tracing::warn!(target: "keyfold_server::sidecar", %error, "the proof was not sent");
                Err(STRANGER)
            }
            _ => Err(UNREACHABLE),
        }
    }

    /// The proof in `Proxy-Authorization`: the handle as the user, the agent's token as the password.
    fn request(&self, host: &Host, port: u16) -> Zeroizing<String> {
        let proof = [self.identity.handle.expose(), b":", self.identity.token.expose()].concat();
        let proof = Zeroizing::new(proof);
        let proof = Zeroizing::new(base64_simd::STANDARD.encode_to_string(&*proof));
        Zeroizing::new(format!(
            "CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\nProxy-Authorization: Basic {}\r\n\r\n",
            &*proof
        ))
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, SidecarError> {
        let proxy = &self.identity.proxy;
        if !proxy.tls {
            let stream = self.identity.holder.connect(proxy.host.as_str(), proxy.port).await?;
            let _ = stream.set_nodelay(true);
            return Ok(Box::new(stream));
        }
        let encrypted = async {
            let stream = TcpStream::connect((proxy.host.as_str(), proxy.port)).await?;
            stream.set_nodelay(true)?;
            let name = match proxy.host.address() {
                Some(address) => ServerName::IpAddress(IpAddr::from(address)),
                None => ServerName::try_from(proxy.host.as_str().to_owned()).map_err(io::Error::other)?,
            };
            self.tls.connect(name, stream).await
        };
        Ok(Box::new(encrypted.await.map_err(SidecarError::Unreachable)?))
    }
}

/// The head of a request, and what came behind it already.
async fn read_head(stream: &mut TcpStream) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        if let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Some((bytes, rest));
        }
        if bytes.len() >= MAX_HEAD || stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

fn target(head: &[u8]) -> Result<(Host, u16), Refused> {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| MALFORMED)?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    if words.next().is_some() || !matches!(version, Some("HTTP/1.1" | "HTTP/1.0")) {
        return Err(MALFORMED);
    }
    if method != Some("CONNECT") {
        return Err(NOT_CONNECT);
    }
    // The port is always written in a CONNECT, so there is no default that would count.
    Host::with_port(target.unwrap_or_default(), 443).map_err(|_| MALFORMED)
}
