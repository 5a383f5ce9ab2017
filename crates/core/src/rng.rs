//! Randomness: where it comes in, and the buffered source that survives a fork.

use std::cell::RefCell;

use crate::{
    error::{Code, Hint},
    secret::wipe,
};

/// The random source gave nothing. Nothing is sealed without it.
#[derive(Debug, thiserror::Error)]
#[error("the system's random source failed")]
pub struct RandomError;

impl RandomError {
    /// Always [`Code::ProviderUnavailable`].
    #[must_use]
    pub const fn code(&self) -> Code {
        Code::ProviderUnavailable
    }
}

impl Hint for RandomError {
    fn hint(&self) -> Option<String> {
        Some("check that the process may call getrandom(2) and that the kernel's generator is seeded".into())
    }
}

/// Where random bytes come from.
pub trait RandomSource: Send + Sync {
    /// Fills `out` with bytes that nobody can predict and nobody was given before.
    ///
    /// # Errors
    /// [`RandomError`] where the source fails; `out` must not be used then.
    fn fill(&self, out: &mut [u8]) -> Result<(), RandomError>;
}

/// The library's generator behind a buffer for each thread.
///
/// One call into the generator costs as much as sealing a short secret, so 4 KiB are drawn at once. Bytes are wiped as
/// they are handed out. A child of `fork()` inherits the buffer; the guard notices on the next draw and throws it away, so
/// that parent and child never share a byte. Not covered: processes made by a raw `clone` system call, and snapshots of a
/// virtual machine; there the hedge of each format keeps keys apart as long as the secrets differ.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

const BUFFER: usize = 4096;

struct Buffer {
    bytes: [u8; BUFFER],
    left: usize,
    fork: forkguard::Guard,
}

thread_local! {
    static BUFFERED: RefCell<Buffer> =
        RefCell::new(Buffer { bytes: [0; BUFFER], left: 0, fork: forkguard::new() });
}

impl Buffer {
    fn take(&mut self, out: &mut [u8]) -> Result<(), RandomError> {
        if self.fork.detected_fork() {
            wipe(&mut self.bytes);
            self.left = 0;
        }
        if out.len() > BUFFER / 8 {
            return draw(out);
        }
        if self.left < out.len() {
            self.left = 0;
            draw(&mut self.bytes)?;
            self.left = BUFFER;
        }
        let from = self.left - out.len();
        out.copy_from_slice(&self.bytes[from..self.left]);
        wipe(&mut self.bytes[from..self.left]);
        self.left = from;
        Ok(())
    }
}

fn draw(out: &mut [u8]) -> Result<(), RandomError> {
    aws_lc_rs::rand::fill(out).map_err(|_| RandomError)
}

impl RandomSource for SystemRandom {
    fn fill(&self, out: &mut [u8]) -> Result<(), RandomError> {
        BUFFERED.with_borrow_mut(|buffer| buffer.take(out))
    }
}

/// What a seal needs besides key, place and secret.
#[derive(Clone, Copy)]
pub struct Fresh<'a> {
    /// Randomness.
    pub random: &'a dyn RandomSource,
    /// For formats that hold the time.
    pub now: crate::clock::UnixTime,
}

/// Draws an array.
///
/// # Errors
/// As [`RandomSource::fill`].
pub fn array<const N: usize>(random: &dyn RandomSource) -> Result<[u8; N], RandomError> {
    let mut out = [0; N];
    random.fill(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_draw_repeats_across_refills_and_threads() {
        let draws = || (0..2000).map(|_| array::<16>(&SystemRandom).unwrap()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(draws)).collect();
        let mut seen = HashSet::new();
        for thread in threads {
            for draw in thread.join().unwrap() {
                assert!(seen.insert(draw));
            }
        }
        assert_eq!(seen.len(), 8000);
    }

    #[test]
    fn bytes_handed_out_are_gone_from_the_buffer() {
        let drawn = array::<32>(&SystemRandom).unwrap();
        BUFFERED.with_borrow(|buffer| {
            assert!(!buffer.bytes.windows(32).any(|window| window == drawn));
        });
    }
}
