//! How many calls a connection of HTTP/2 holds before there is another one: fewer than would let one user's streams starve the next,
//! and never more than the destination takes at once (`SETTINGS_MAX_CONCURRENT_STREAMS`), which would leave the rest
//! waiting behind calls that may never end.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use axum::http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::problem::Problem;

/// How many calls one connection holds.
pub(super) const A_LANE: u32 = 64;
/// How many it holds until it is known how many the destination takes: so many it does, almost certainly.
const UNKNOWN: u32 = 8;
/// How many connections of HTTP/2 a destination gets at most.
pub(super) const LANES: usize = 32;
/// Of how many hosts it is known how many they take.
const HOSTS: usize = 1000;

#[derive(Default)]
struct Hosted {
    /// How many calls a connection takes, once it has said so.
    most: Option<u32>,
    held: [u32; LANES],
}

/// The calls under way to the hosts of a destination, by connection.
#[derive(Default)]
pub(super) struct Lanes(Mutex<HashMap<String, Hosted>>);

/// One call on a lane, until its answer has ended.
pub(super) struct OnLane {
    lanes: Arc<Lanes>,
    host: String,
    pub(super) number: usize,
}

impl Drop for OnLane {
    fn drop(&mut self) {
        let number = self.number;
        self.lanes.of(&self.host, |host| host.held[number] = host.held[number].saturating_sub(1));
    }
}

impl Lanes {
    fn of<T>(&self, host: &str, act: impl FnOnce(&mut Hosted) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = all.get_mut(host) {
            return act(host);
        }
        if all.len() >= HOSTS {
            all.retain(|_, host| host.held.iter().any(|held| *held > 0));
        }
        act(all.entry(host.to_owned()).or_default())
    }

    /// A place for one more call.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn take(self: &Arc<Self>, host: &str) -> Result<OnLane, Problem> {
        let number = self.of(host, |host| {
            let most = host.most.unwrap_or(UNKNOWN);
            let number = host.held.iter().position(|held| *held < most)?;
            host.held[number] += 1;
            Some(number)
        });
        let number = number.ok_or_else(|| {
            let what = "too many calls to this destination are under way";
            Problem::busy(StatusCode::SERVICE_UNAVAILABLE, "upstream_busy", what, 1)
        })?;
        Ok(OnLane { lanes: Arc::clone(self), host: host.to_owned(), number })
    }

    /// A connection to `host` takes so many calls at once; without a number, as many as anybody likes.
    fn takes(&self, host: &str, most: Option<u32>) {
        // One that takes none says so for a moment; the call waits for it.
        self.of(host, |host| host.most = Some(most.unwrap_or(A_LANE).clamp(1, A_LANE)));
    }
}

/// A connection whose settings are read as they come in.
pub(super) struct Watched<S> {
    stream: S,
    settings: Settings,
    lanes: Arc<Lanes>,
    host: String,
}

impl<S> Watched<S> {
    /// One of HTTP/2, or of HTTP/1.1, which takes one call after another and is made anew for each that finds none free.
    pub(super) fn new(stream: S, h2: bool, lanes: Arc<Lanes>, host: &str) -> Self {
        if !h2 {
            lanes.takes(host, None);
        }
        Self { stream, settings: Settings { over: !h2, ..Settings::default() }, lanes, host: host.to_owned() }
    }

    pub(super) const fn stream(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if !self.settings.over
            && let Some(most) = self.settings.read(&buf.filled()[before..])
        {
            self.lanes.takes(&self.host, most);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The first SETTINGS of a connection, which is the first thing that its server says. (RFC 9113, 3.4)
#[derive(Default)]
struct Settings {
    /// Of the frame's head, then of one setting after the other.
    part: Vec<u8>,
    /// How many bytes of the frame are to come; unknown in its head.
    left: Option<usize>,
    most: Option<u32>,
    over: bool,
}

impl Settings {
    const HEAD: usize = 9;
    const SETTING: usize = 6;
    const FRAME: u8 = 4;
    const ACK: u8 = 1;
    const MOST: u16 = 3;

    /// Takes bytes as they come; how many calls the connection takes, once that is known.
    #[expect(clippy::option_option, reason = "known to be without a bound is not the same as unknown")]
    fn read(&mut self, bytes: &[u8]) -> Option<Option<u32>> {
        for byte in bytes {
            self.part.push(*byte);
            match self.left {
                None if self.part.len() == Self::HEAD => {
                    let length = u32::from_be_bytes([0, self.part[0], self.part[1], self.part[2]]);
                    if self.part[3] != Self::FRAME || self.part[4] & Self::ACK != 0 {
                        self.over = true;
                        return None;
                    }
                    self.part.clear();
                    self.left = usize::try_from(length).ok();
                }
                Some(left) => {
                    self.left = Some(left - 1);
                    if self.part.len() == Self::SETTING {
                        if u16::from_be_bytes([self.part[0], self.part[1]]) == Self::MOST {
                            self.most =
                                Some(u32::from_be_bytes([self.part[2], self.part[3], self.part[4], self.part[5]]));
                        }
                        self.part.clear();
                    }
                }
                None => {}
            }
            if self.left == Some(0) {
                self.over = true;
                return Some(self.most);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(list: &[(u16, u32)]) -> Vec<u8> {
        let length = u32::try_from(list.len() * 6).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], 4, 0, 0, 0, 0, 0];
        for (name, value) in list {
            frame.extend(name.to_be_bytes());
            frame.extend(value.to_be_bytes());
        }
        frame
    }

    #[test]
    fn the_bound_of_a_connection_is_found_however_its_settings_come_in() {
        for (list, most) in [
            (&[(4, 65535), (3, 10), (5, 16384)][..], Some(10)),
            (&[(3, 10), (3, 20)], Some(20)),
            (&[(4, 65535)], None),
            (&[], None),
        ] {
            for size in [1, 2, 5, 100] {
                let mut bytes = settings(list);
                bytes.extend([0, 0, 0, 4, 1, 0, 0, 0, 0]);
                let (mut reading, mut found) = (Settings::default(), Vec::new());
                for part in bytes.chunks(size) {
                    if !reading.over {
                        found.extend(reading.read(part));
                    }
                }
                assert_eq!(found, [most], "{list:?} by {size}");
            }
        }
        let mut other = Settings::default();
        assert_eq!(other.read(b"HTTP/1.1 400 Bad Request\r\n\r\n"), None);
        assert!(other.over);
    }

    #[test]
    fn a_lane_holds_what_the_destination_takes_and_each_host_by_itself() {
        let lanes = Arc::<Lanes>::default();
        let numbers = |host: &str, count: usize| {
            let held: Vec<_> = (0..count).map(|_| lanes.take(host).unwrap()).collect();
            let numbers: Vec<_> = held.iter().map(|place| place.number).collect();
            (held, numbers)
        };
        assert_eq!(numbers("a", 9).1, [0, 0, 0, 0, 0, 0, 0, 0, 1], "few until it has said how many");
        lanes.takes("a", Some(2));
        let (held, which) = numbers("a", 5);
        assert_eq!(which, [0, 0, 1, 1, 2]);
        assert_eq!(numbers("b", 1).1, [0]);
        drop(held);
        assert_eq!(numbers("a", 1).1, [0], "a place is free again when a call has ended");
        let (held, _) = numbers("a", 2 * LANES);
        assert_eq!(lanes.take("a").err().unwrap().code(), "upstream_busy");
        drop(held);
        lanes.takes("a", Some(0));
        assert_eq!(numbers("a", 2).1, [0, 1]);
        lanes.takes("a", Some(1000));
        assert_eq!(numbers("a", 65).1[63..], [0, 1]);
    }
}
