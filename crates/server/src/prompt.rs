//! A stream whose other end has to begin: what reads which version of HTTP is spoken waits for ever by itself.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// How HTTP/2 begins; until it is here, or cannot come any more, nobody else looks at the time.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Fails a read when a connection does not begin in time.
pub(crate) struct Prompt<S> {
    stream: S,
    seen: usize,
    until: Option<Pin<Box<Sleep>>>,
}

impl<S> Prompt<S> {
    /// From now on.
    pub(crate) fn new(stream: S, time: Duration) -> Self {
        Self { stream, seen: 0, until: Some(Box::pin(sleep(time))) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prompt<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let Some(until) = &mut this.until else { return read };
        if read.is_pending() {
            return until.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        let (came, rest) = (&buf.filled()[before..], &PREFACE[this.seen..]);
        if !came.is_empty() && came.len() < rest.len() && rest.starts_with(came) {
            this.seen += came.len();
        } else {
            this.until = None;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prompt<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// What a read gives after the other end has sent this and nothing more.
    async fn after(sent: &[u8]) -> io::Result<usize> {
        let (mut client, server) = duplex(64);
        let mut server = Prompt::new(server, Duration::from_millis(20));
        client.write_all(sent).await.unwrap();
        let mut buffer = [0; 64];
        if !sent.is_empty() {
            assert_eq!(server.read(&mut buffer).await.unwrap(), sent.len());
        }
        let late = async {
            sleep(Duration::from_millis(60)).await;
            client.write_all(b"more").await
        };
        let (_, read) = tokio::join!(late, server.read(&mut buffer));
        read
    }

    #[tokio::test]
    async fn who_does_not_begin_is_not_waited_for_and_who_has_begun_is() {
        for sent in [&b""[..], b"P", &PREFACE[..23]] {
            assert_eq!(after(sent).await.unwrap_err().kind(), io::ErrorKind::TimedOut, "{sent:?}");
        }
        for sent in [&b"G"[..], b"POST", PREFACE] {
            assert_eq!(after(sent).await.unwrap(), 4, "{sent:?}");
        }
    }
}
