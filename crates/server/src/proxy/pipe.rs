//! Two streams of bytes, joined: what comes from the destination is scrubbed.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use super::scrub::{Patterns, Scrubber};
use crate::listen::STALLED;

const BUFFER: usize = 16 << 10;

/// Joins them until one has ended or nothing came from either for too long. Gives how many bytes the agent got, and how it went.
pub(super) async fn pipe(
    agent: impl AsyncRead + AsyncWrite,
    upstream: impl AsyncRead + AsyncWrite,
    secrets: &Arc<Patterns>,
    idle: Duration,
) -> (u64, &'static str) {
    let (mut from_agent, mut to_agent) = tokio::io::split(agent);
    let (mut from_upstream, mut to_upstream) = tokio::io::split(upstream);
    let mut got = 0;
    let out = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            match from_agent.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) if !sent(&mut to_upstream, &buffer[..read]).await => break,
                Ok(_) => {}
            }
        }
        let _ = to_upstream.shutdown().await;
    };
    let back = async {
        let mut scrubber = Scrubber::new(secrets);
        loop {
            let mut buffer = BytesMut::with_capacity(BUFFER);
            let read = match timeout(PAUSE, from_upstream.read_buf(&mut buffer)).await {
                // It pauses: what only looks like the beginning of a secret may go.
                Err(_) => {
                    let freed = scrubber.idle();
                    if !sent(&mut to_agent, &freed).await {
                        return "given_up";
                    }
                    match timeout(idle, from_upstream.read_buf(&mut buffer)).await {
                        Err(_) => return "upstream_timeout",
                        Ok(read) => read,
                    }
                }
                Ok(read) => read,
            };
            match read {
                Ok(0) => break,
                Err(_) => return "upstream_broken",
                Ok(read) => got += u64::try_from(read).unwrap_or(0),
            }
            if !sent(&mut to_agent, &scrubber.scrub(buffer.freeze())).await {
                return "given_up";
            }
        }
        sent(&mut to_agent, &scrubber.finish()).await;
        let _ = to_agent.shutdown().await;
        "done"
    };
    let result = {
        let (mut out, mut back) = (pin!(out), pin!(back));
        tokio::select! {
            result = &mut back => result,
            // The agent has said all; the destination may have more to say.
            () = &mut out => back.await,
        }
    };
    (got, result)
}

/// Writes it all, and lets nothing of it wait for more; nor does it wait for who does not read.
async fn sent(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    let all = async { to.write_all(bytes).await.is_ok() && to.flush().await.is_ok() };
    timeout(STALLED, all).await.unwrap_or(false)
}

/// How long the destination is waited for before what is held back goes.
const PAUSE: Duration = Duration::from_millis(20);
