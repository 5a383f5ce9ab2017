//! Scrubbing: what was injected does not come back to the agent in an answer.
//!
//! Every occurrence of a secret is masked with `*` at equal length as the answer streams by, whole or cut into chunks anywhere:
//! as it is; in base64 and base64url, wherever in a longer text it begins; in hex; and, for the first three, with any of its characters
//! written as a percent escape or an escape of JSON.
//!
//! What this cannot promise: an upstream that wants to tell the agent its secret can. Whatever compresses, encrypts, reverses,
//! cuts up, wraps at some column or encodes twice in an unusual way passes, and so does a part of the value. Secrets shorter than
//! [`MIN`] bytes are not looked for, since masking them would damage answers by chance. In base64, up to two characters at either
//! end belong to the neighbours too and stay. Scrubbing guards against echoes; the guard against an upstream is not to list it.
//!
//! How: an answer is searched for eight bytes out of each spelling, by vector instructions, and once for `%` and `\`, where an
//! escape that stands for a character of the secret is followed up. What could still become a match is held back, so
//! never more than the longest spelling.

mod pattern;

use std::{ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

pub(crate) use self::pattern::Patterns;

/// The shortest secret that is looked for, in bytes.
pub(crate) const MIN: usize = 8;
/// What stands in place of each byte.
const MASK: u8 = b'*';

/// What a look at some bytes found.
#[derive(Default)]
struct Found {
    /// Matches, in any order, overlapping ones too.
    ranges: Vec<Range<usize>>,
    /// From here on, what follows could make a match of it; `None` where nothing could.
    open: Option<usize>,
    /// Whether so much of a secret is there already that chance does not explain it.
    firm: bool,
}

impl Found {
    fn hold(&mut self, at: usize, firm: bool) {
        self.open = Some(self.open.map_or(at, |open| open.min(at)));
        self.firm |= firm;
    }
}

/// Scrubs one answer.
pub(crate) struct Scrubber {
    patterns: Arc<Patterns>,
    /// The end of what came, as it came: a match may begin in it.
    held: Zeroizing<Vec<u8>>,
    /// So much of it has left already ([`Scrubber::idle`]).
    released: usize,
    /// So much of it lies in a match that began earlier.
    masked: usize,
    firm: bool,
}

impl Scrubber {
    /// For what one call brought.
    pub(crate) fn new(patterns: &Arc<Patterns>) -> Self {
        Self { patterns: Arc::clone(patterns), held: Zeroizing::default(), released: 0, masked: 0, firm: false }
    }

    /// A text that comes in one piece, masked; `None` where there is nothing to mask.
    pub(crate) fn whole(patterns: &Patterns, mut text: BytesMut) -> Option<Bytes> {
        let found = patterns.find(&text).ranges;
        if found.is_empty() {
            return None;
        }
        for range in found {
            text[range].fill(MASK);
        }
        Some(text.freeze())
    }

    /// The next bytes of the answer, and what may leave by now.
    pub(crate) fn scrub(&mut self, chunk: Bytes) -> Bytes {
        if self.patterns.is_empty() || chunk.is_empty() {
            return chunk;
        }
        if !self.held.is_empty() {
            let mut both = BytesMut::with_capacity(self.held.len() + chunk.len());
            both.extend_from_slice(&self.held);
            both.extend_from_slice(&chunk);
            let found = self.patterns.find(&both);
            return self.leave(both, found);
        }
        let found = self.patterns.find(&chunk);
        if found.ranges.is_empty() {
            // The common case: nothing is copied.
            let Some(open) = found.open else { return chunk };
            self.firm = found.firm;
            self.held.extend_from_slice(&chunk[open..]);
            return chunk.slice(..open);
        }
        self.leave(BytesMut::from(chunk), found)
    }

    /// Masks what was found, and parts what is settled from what is not.
    fn leave(&mut self, mut bytes: BytesMut, found: Found) -> Bytes {
        let open = found.open.unwrap_or(bytes.len());
        self.held = Zeroizing::new(bytes[open..].to_vec());
        self.firm = found.firm;
        let before = std::mem::take(&mut self.masked);
        // What begins in the part that is held is found again, with what follows; what began earlier is not.
        let again = found.ranges.into_iter().filter(|range| range.start < open);
        for range in again.chain(std::iter::once(0..before)) {
            bytes[range.start..range.end.min(open)].fill(MASK);
            self.masked = self.masked.max(range.end.saturating_sub(open));
        }
        bytes.truncate(open);
        let left = self.released.min(open);
        self.released -= left;
        bytes.split_off(left).freeze()
    }

    /// To be called when the upstream pauses: gives out what is held back only because it happens to look like the first bytes of a
    /// secret, so that nobody waits for the end of a message that is already there. Once a quarter of a secret
    /// (at most eight bytes) is there it stays; so much less of it can leave ahead of a pause.
    pub(crate) fn idle(&mut self) -> Bytes {
        if self.firm || self.released == self.held.len() {
            return Bytes::new();
        }
        let mut bytes = BytesMut::from(&self.held[self.released..]);
        let masked = self.masked.saturating_sub(self.released).min(bytes.len());
        bytes[..masked].fill(MASK);
        self.released = self.held.len();
        bytes.freeze()
    }

    /// The end of the answer: what was held back.
    pub(crate) fn finish(mut self) -> Bytes {
        if self.held.is_empty() {
            return Bytes::new();
        }
        let bytes = BytesMut::from(&self.held[..]);
        let found = Found { open: None, ..self.patterns.find(&bytes) };
        self.leave(bytes, found)
    }
}

#[cfg(test)]
mod tests;
