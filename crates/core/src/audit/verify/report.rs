//! What a verification found, in the words a reader gets.

use std::fmt;

use crate::{audit::event::Head, error::Hint, id::WriterId};

/// The most findings of one kind that are kept; more are counted. Per kind, so that many harmless ones never hide the
/// one that matters.
const MAX_OF_A_KIND: u32 = 1_000;

/// What carries a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    /// A chain's first line.
    Genesis(WriterId),
    /// A note, by its number from 1.
    Note(u64),
    /// What retention left in a chain.
    Cut(WriterId),
}

/// What is wrong with a note's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// It is not a note.
    Malformed,
    /// It names another predecessor than the note before it.
    Link,
}

/// One verdict. [`Verdict::Ok`] is given only where there is nothing else to say.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every event is covered by a good note.
    Ok {
        /// How many events.
        events: u64,
        /// In how many chains.
        chains: u64,
    },
    /// Events or bytes at a chain's end were lost in a crash before anybody was told that they are durable.
    TornTail {
        /// Whose chain.
        writer: WriterId,
        /// How many bytes.
        bytes: u64,
    },
    /// Nothing has signed a chain's last events: the process runs, or was killed and no other has started since.
    Unanchored {
        /// Whose chain.
        writer: WriterId,
        /// How many.
        events: u64,
    },
    /// A signature does not verify.
    BadSignature {
        /// On what.
        of: Signed,
    },
    /// A note is missing before this one, or it is no note.
    NoteChainBroken {
        /// From 1, as stored.
        note: u64,
        /// How.
        how: Broken,
    },
    /// Two anchors give one writer two heads at one size.
    Fork {
        /// Whose chain.
        writer: WriterId,
        /// At which size.
        size: u64,
        /// The heads.
        heads: [Head; 2],
    },
    /// A chain that was anchored is absent, or shorter than it was.
    Removed {
        /// Whose chain.
        writer: WriterId,
        /// How many events it had.
        anchored: u64,
        /// How many it has; `None` if the chain is absent.
        found: Option<u64>,
    },
    /// An event is not what it was: changed, removed, added or moved.
    ChangedAt {
        /// Whose chain.
        writer: WriterId,
        /// Which event, from 1.
        event: u64,
        /// The first event that may be concerned; below `event` where later lines were recomputed to hide it.
        since: u64,
    },
}

impl Verdict {
    /// Worst last.
    const fn rank(&self) -> u8 {
        match self {
            Self::Ok { .. } => 0,
            Self::TornTail { .. } => 1,
            Self::Unanchored { .. } => 2,
            Self::NoteChainBroken { .. } => 3,
            Self::BadSignature { .. } => 4,
            Self::Fork { .. } => 5,
            Self::Removed { .. } => 6,
            Self::ChangedAt { .. } => 7,
        }
    }

    /// Whether somebody must have tampered, or a disk has: a crash alone does not lead here.
    #[must_use]
    pub const fn is_tampering(&self) -> bool {
        self.rank() > 2
    }

    /// A stable word for programs.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Ok { .. } => "ok",
            Self::TornTail { .. } => "torn_tail",
            Self::Unanchored { .. } => "unanchored",
            Self::NoteChainBroken { .. } => "note_chain_broken",
            Self::BadSignature { .. } => "bad_signature",
            Self::Fork { .. } => "fork",
            Self::Removed { .. } => "removed",
            Self::ChangedAt { .. } => "changed",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok { events, chains } => write!(f, "ok: {events} events in {chains} chains, all anchored"),
            Self::TornTail { writer, bytes } => {
                write!(f, "chain {writer} ends in {bytes} bytes of an event that was being written")
            }
            Self::Unanchored { writer, events } => write!(f, "{events} events of chain {writer} are unanchored"),
            Self::BadSignature { of: Signed::Genesis(writer) } => {
                write!(f, "the genesis of chain {writer} is not signed by this deployment")
            }
            Self::BadSignature { of: Signed::Note(note) } => {
                write!(f, "note {note} is not signed by the writer it names")
            }
            Self::BadSignature { of: Signed::Cut(writer) } => {
                write!(f, "events of chain {writer} were taken out, and not by this deployment")
            }
            Self::NoteChainBroken { note, how: Broken::Malformed } => write!(f, "note {note} is malformed"),
            Self::NoteChainBroken { note, how: Broken::Link } => {
                write!(f, "note {note} does not follow the one before: a note was removed, moved or changed")
            }
            Self::Fork { writer, size, .. } => write!(f, "chain {writer} is forked: two heads at event {size}"),
            Self::Removed { writer, anchored, found: None } => {
                write!(f, "chain {writer} was removed: {anchored} events were anchored")
            }
            Self::Removed { writer, anchored, found: Some(found) } => {
                write!(f, "chain {writer} was cut: {anchored} events were anchored, {found} are left")
            }
            Self::ChangedAt { writer, event, since } if event == since => {
                write!(f, "changed at event {event} of chain {writer}")
            }
            Self::ChangedAt { writer, event, since } => {
                write!(f, "changed at event {event} of chain {writer}, or rewritten from event {since} on")
            }
        }
    }
}

impl Hint for Verdict {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Ok { .. } => return None,
            Self::TornTail { .. } => "left by a crash; the events before it stand".into(),
            Self::Unanchored { .. } => {
                "the writer signs them when it next checkpoints or closes, or the next process that writes does".into()
            }
            Self::BadSignature { .. } => {
                "check that the verifier key is this deployment's, then compare with a shipped copy".into()
            }
            Self::NoteChainBroken { .. } | Self::Fork { .. } | Self::Removed { .. } | Self::ChangedAt { .. } => {
                "keep the folder as it is and compare it with a backup or a shipped copy".into()
            }
        })
    }
}

/// Everything a verification found, worst first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Events read.
    pub events: u64,
    /// Chains read.
    pub chains: u64,
    /// Notes read.
    pub notes: u64,
    /// Events that retention took out, each chain's signed for.
    pub pruned: u64,
    /// What is not fine.
    pub findings: Vec<Verdict>,
    /// Findings over the limit, counted and not kept.
    pub omitted: u64,
    kept: [u32; 8],
}

impl Report {
    pub(super) fn add(&mut self, verdict: Verdict) {
        let kept = &mut self.kept[usize::from(verdict.rank())];
        if *kept < MAX_OF_A_KIND {
            *kept += 1;
            self.findings.push(verdict);
        } else {
            self.omitted += 1;
        }
    }

    pub(super) fn sort(&mut self) {
        self.findings.sort_by_key(|verdict| std::cmp::Reverse(verdict.rank()));
    }

    /// The worst finding, or [`Verdict::Ok`].
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let ok = Verdict::Ok { events: self.events, chains: self.chains };
        self.findings.first().cloned().unwrap_or(ok)
    }
}
