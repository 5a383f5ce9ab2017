//! Who holds the other end of a connection that a proof leaves by in the clear.
//!
//! Over https a certificate says who answers. On loopback without TLS anybody may listen on a port that nobody holds, so the
//! kernel is asked whose the accepted socket is, before a byte is sent: root's, the caller's own, or that of a user who was named. The
//! first one that is met is the only one from then on. So a command that runs as the caller's user cannot take over the port of a
//! service that runs as another and has ended.

use std::{io, sync::OnceLock, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use super::{SidecarError, peer};

/// How long a service may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long until the kernel is asked again.
const AGAIN: Duration = Duration::from_millis(5);
const ROOT: u32 = 0;

/// Whose service is given a proof.
#[derive(Debug)]
pub struct Holder {
    own: u32,
    named: Option<u32>,
    met: OnceLock<u32>,
}

impl Holder {
    /// For a process of the user `own`; `named` is the user whom the service runs as, where that is said.
    #[must_use]
    pub const fn new(own: u32, named: Option<u32>) -> Self {
        Self { own, named, met: OnceLock::new() }
    }

    /// Connects to where a proof may be sent.
    ///
    /// # Errors
    /// [`SidecarError::Unreachable`]; [`SidecarError::Stranger`], to whom nothing was sent.
    pub async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, SidecarError> {
        let stream = TcpStream::connect((host, port)).await.map_err(SidecarError::Unreachable)?;
        let held = async { Ok::<_, io::Error>((stream.peer_addr()?, stream.local_addr()?)) };
        let (theirs, ours) = held.await.map_err(SidecarError::Unreachable)?;
        let until = Instant::now() + PATIENCE;
        let uid = loop {
            match peer::uid(theirs, ours).await {
                Some(uid) => break uid,
                None if Instant::now() >= until => return Err(SidecarError::Unheld { port }),
                None => sleep(AGAIN).await,
            }
        };
        if self.is(uid) { Ok(stream) } else { Err(SidecarError::Stranger { port, uid }) }
    }

    fn is(&self, uid: u32) -> bool {
        let known = match self.named {
            Some(named) => uid == named,
            None => uid == ROOT || uid == self.own,
        };
        known && *self.met.get_or_init(|| uid) == uid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_goes_to_root_oneself_or_who_was_named_and_then_to_nobody_else() {
        for (own, named, first, known) in [
            (1000, None, 0, true),
            (1000, None, 1000, true),
            (1000, None, 1001, false),
            (1000, Some(1001), 1001, true),
            (1000, Some(1001), 1000, false),
            (1000, Some(1001), 0, false),
        ] {
            let holder = Holder::new(own, named);
            assert_eq!(holder.is(first), known, "{own} {named:?} {first}");
            if known {
                assert!(holder.is(first));
                for other in [0, 1000, 1001].into_iter().filter(|other| *other != first) {
                    assert!(!holder.is(other), "{other} after {first}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_connection_that_nobody_accepts_is_given_nothing() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let holder = Holder::new(0, None);
        let error = holder.connect("127.0.0.1", port).await.unwrap_err();
        assert!(matches!(error, SidecarError::Unheld { .. }), "{error}");
    }
}
