//! RFC 5424 messages over UDP, TCP (counted in octets, RFC 6587) or a Unix socket.

use std::{path::PathBuf, sync::Arc};

use keyfold_custody::audit_log::follow::{Chunk, Message, Source};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, UdpSocket, UnixDatagram},
};

use super::CopyError;

/// How messages travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams to `HOST:PORT`.
    Udp(String),
    /// A connection to `HOST:PORT`.
    Tcp(String),
    /// Datagrams to a socket, such as `/dev/log`.
    Unix(PathBuf),
}

/// The facility "log audit"; informational, or a notice where somebody was refused.
const INFORMATIONAL: u8 = 13 * 8 + 6;
const NOTICE: u8 = 13 * 8 + 5;

enum Link {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Unix(UnixDatagram),
}

pub(super) struct Syslog {
    transport: Transport,
    link: Option<Link>,
    host: String,
}

impl Syslog {
    pub(super) fn new(transport: Transport) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self { transport, link: None, host: word(host.trim(), 255) }
    }

    pub(super) async fn send(&mut self, chunk: &Arc<Chunk>) -> Result<(), CopyError> {
        let sent = self.all(chunk).await;
        if sent.is_err() {
            self.link = None;
        }
        sent.map_err(|error| CopyError::There(error.kind().to_string()))
    }

    async fn all(&mut self, chunk: &Chunk) -> std::io::Result<()> {
        let link = match &mut self.link {
            Some(link) => link,
            none => none.insert(connect(&self.transport).await?),
        };
        let (host, writer) = (
            &self.host,
            match chunk.source {
                Source::Segment(writer, _) => writer.to_string(),
                Source::Notes => "-".into(),
            },
        );
        if let Link::Tcp(stream) = link {
            // What the other side closed takes the first write all the same; a read tells.
            match stream.try_read(&mut [0; 1]) {
                Ok(0) => return Err(std::io::ErrorKind::ConnectionReset.into()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let mut frames = Vec::new();
        for message in chunk.messages() {
            let text = render(&message, host, &writer);
            match link {
                Link::Udp(socket) => drop(socket.send(text.as_bytes()).await?),
                Link::Unix(socket) => drop(socket.send(text.as_bytes()).await?),
                Link::Tcp(_) => frames.extend_from_slice(format!("{} {text}", text.len()).as_bytes()),
            }
        }
        if let Link::Tcp(stream) = link {
            stream.write_all(&frames).await?;
            stream.flush().await?;
        }
        Ok(())
    }
}

async fn connect(transport: &Transport) -> std::io::Result<Link> {
    Ok(match transport {
        Transport::Tcp(to) => Link::Tcp(TcpStream::connect(to).await?),
        Transport::Udp(to) => {
            let to = tokio::net::lookup_host(to).await?.next().ok_or(std::io::ErrorKind::NotFound)?;
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(to).await?;
            Link::Udp(socket)
        }
        Transport::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            Link::Unix(socket)
        }
    })
}

/// `<PRI>1 TIME HOST keyfold PROCID MSGID [keyfold@32473 writer="…"] LINE`
fn render(message: &Message, host: &str, writer: &str) -> String {
    let priority = if message.refused { NOTICE } else { INFORMATIONAL };
    let time = message.time.map_or_else(|| "-".to_owned(), |time| time.to_string());
    let process = std::process::id();
    let kind = word(message.kind, 32);
    format!("<{priority}>1 {time} {host} keyfold {process} {kind} [keyfold@32473 writer=\"{writer}\"] {}", message.line)
}

/// Printable ASCII without spaces, as header fields must be; `-` for nothing.
fn word(text: &str, most: usize) -> String {
    let text: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
    if text.is_empty() { "-".into() } else { text }
}

#[cfg(test)]
mod tests {
    use keyfold_core::clock::UnixTime;

    use super::*;

    #[test]
    fn a_message_is_one_of_rfc_5424() {
        let message = Message {
            kind: "record_put",
            time: Some(UnixTime(1_800_000_000)),
            refused: true,
            line: "{\"action\":\"record_put\"}".into(),
        };
        let text = render(&message, "node", "abc");
        let process = std::process::id();
        assert_eq!(
            text,
            format!(
                "<109>1 2027-01-15T08:00:00Z node keyfold {process} record_put [keyfold@32473 writer=\"abc\"] {{\"action\":\"record_put\"}}"
            )
        );
        assert_eq!(word(" n o\tde\n", 3), "nod");
    }
}
