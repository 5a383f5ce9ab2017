//! The hash chain over a writer's events.
//!
//! ```text
//! h0 = SHA-256("keyfold audit chain v1\0" ‖ u32 len ‖ genesis)
//! hi = SHA-256("keyfold audit event v1\0" ‖ h(i-1) ‖ u64 i ‖ u32 len ‖ Ei)
//! ```
//!
//! Each `Ei` also holds the first eight bytes of h(i-1) as `prev` and i as `seq`. The hash alone shows *that* a chain was
//! changed; these two show *where*, unless every later line was recomputed. Who did that is caught by the next checkpoint.

use crate::{
    audit::event::{Event, EventError, Head, Link, MAX_LINE},
    id::WriterId,
    mac,
};

/// The length of one line as it enters the hash. Lines are bounded long before 4 GiB.
fn len32(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes()
}

/// SHA-256 over parts, for everything that is hashed under a label of its own.
pub(crate) fn hash(parts: &[&[u8]]) -> Head {
    Head(mac::sha256(parts))
}

/// A point of a chain: so many events, this head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tip {
    /// The hash after the last event.
    pub head: Head,
    /// How many events.
    pub size: u64,
    /// Whose chain.
    pub writer: WriterId,
}

/// A chain as far as it has been written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    tip: Tip,
}

impl Chain {
    /// The start of a chain. `genesis` is the stored line, signature and all, without its newline.
    #[must_use]
    pub fn start(writer: WriterId, genesis: &[u8]) -> Self {
        let head = hash(&[b"keyfold audit chain v1\0", &len32(genesis), genesis]);
        Self { tip: Tip { head, size: 0, writer } }
    }

    /// A chain taken up at a point that something else vouches for.
    #[must_use]
    pub const fn resume(tip: Tip) -> Self {
        Self { tip }
    }

    /// Adds the stored bytes of one event.
    pub fn push(&mut self, line: &[u8]) {
        let size = self.tip.size.saturating_add(1);
        let head = hash(&[b"keyfold audit event v1\0", &self.tip.head.0, &size.to_be_bytes(), &len32(line), line]);
        self.tip = Tip { head, size, ..self.tip };
    }

    /// Encodes an event with its link, adds it, and gives the bytes to store.
    ///
    /// # Errors
    /// The event does not encode; the chain is unchanged.
    pub fn append(&mut self, event: &Event) -> Result<Vec<u8>, EventError> {
        let mut line = Vec::with_capacity(512);
        self.append_to(&mut line, event)?;
        Ok(line)
    }

    /// [`Chain::append`] behind what is in `lines` already; no newline is put between.
    ///
    /// # Errors
    /// As there; `lines` is unchanged too.
    pub fn append_to(&mut self, lines: &mut Vec<u8>, event: &Event) -> Result<(), EventError> {
        let from = lines.len();
        event.encode_to(lines, self.link(), self.tip.size.saturating_add(1))?;
        self.push(&lines[from..]);
        Ok(())
    }

    /// What the next event must hold as `prev`.
    #[must_use]
    pub fn link(&self) -> Link {
        let mut link = [0; 8];
        link.copy_from_slice(&self.tip.head.0[..8]);
        Link(link)
    }

    /// Whether `line` says that it comes next.
    #[must_use]
    pub fn place(&self, line: &[u8]) -> Place {
        #[derive(serde::Deserialize)]
        struct Linked {
            prev: Link,
            seq: u64,
        }
        if line.len() > MAX_LINE {
            return Place::Unreadable;
        }
        match serde_json::from_slice(line) {
            Err(_) => Place::Unreadable,
            Ok(Linked { seq, .. }) if seq != self.tip.size.saturating_add(1) => Place::Elsewhere,
            Ok(Linked { prev, .. }) if prev != self.link() => Place::AfterAnother,
            Ok(_) => Place::Next,
        }
    }

    /// Where the chain stands.
    #[must_use]
    pub const fn tip(&self) -> Tip {
        self.tip
    }
}

/// What a line says about its place, held against the chain before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It comes next.
    Next,
    /// It comes here, after other bytes than those that are there: the line before was changed.
    AfterAnother,
    /// It has another number: lines were removed, added or moved.
    Elsewhere,
    /// It is too long, not JSON, or names no place.
    Unreadable,
}

/// The first line of every segment but the first: where the chain stood when the segment began. It is not an event and
/// not hashed; a reader that has the segments before compares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Continuation {
    /// The chain's point at the end of the segment before.
    pub continues: Tip,
}

impl Continuation {
    /// The stored line, without its newline.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Tip { head, size, writer } = self.continues;
        format!(r#"{{"continues":{{"head":"{head}","size":{size},"writer":"{writer}"}}}}"#).into_bytes()
    }

    /// Reads such a line; `None` where it is none.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        if line.len() > MAX_LINE { None } else { serde_json::from_slice(line).ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_the_order_enter_the_head() {
        let run = |lines: &[&[u8]]| {
            let mut chain = Chain::start(WriterId([1; 16]), b"genesis");
            lines.iter().for_each(|line| chain.push(line));
            chain.tip().head
        };
        let straight = run(&[b"a", b"b"]);
        assert_ne!(straight, run(&[b"b", b"a"]));
        assert_ne!(straight, run(&[b"ab"]));
        assert_ne!(straight, run(&[b"a"]));
        assert_eq!(straight, run(&[b"a", b"b"]));
    }

    #[test]
    fn a_continuation_reads_back() {
        let mut chain = Chain::start(WriterId([1; 16]), b"genesis");
        chain.push(b"x");
        let line = Continuation { continues: chain.tip() };
        assert_eq!(Continuation::parse(&line.encode()), Some(line));
        assert_eq!(Continuation::parse(b"{}"), None);
    }
}
