//! The verdict on a log: what was changed, forked, removed, or never anchored.
//!
//! Feed a [`Verifier`] in three rounds: every chain's genesis, the notes in order, then each chain line by line. Memory
//! grows with the number of chains and anchors, not of events.

use std::collections::{BTreeMap, HashMap};

use crate::{
    audit::{
        chain::{Chain, Continuation, Place, Tip},
        cut::SignedCut,
        event::Head,
        genesis::SignedGenesis,
        key::{PublicKey, VerifierKey},
        note::SignedNote,
    },
    id::WriterId,
};

mod report;

pub use report::{Broken, Report, Signed, Verdict};

/// Where a note (or a successor's genesis) says a chain stood.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    head: Head,
    /// Whether a good signature says so; only then does it count as anchoring.
    signed: bool,
}

#[derive(Debug, Default)]
struct Known {
    /// The ephemeral key, if the genesis is good.
    key: Option<PublicKey>,
    genesis: bool,
    fed: bool,
    anchors: BTreeMap<u64, Anchor>,
}

/// Holds genesis lines, notes and chains against each other. Nothing is read here: the caller brings the lines.
#[derive(Debug)]
pub struct Verifier {
    key: VerifierKey,
    known: HashMap<WriterId, Known>,
    previous: Option<Head>,
    report: Report,
}

impl Verifier {
    /// A verifier for one deployment.
    #[must_use]
    pub fn new(key: VerifierKey) -> Self {
        Self { key, known: HashMap::new(), previous: None, report: Report::default() }
    }

    /// Round one: a chain that is there, under the name it is stored by, and its first line.
    pub fn genesis(&mut self, writer: WriterId, line: &[u8]) {
        let signed = SignedGenesis::parse(line).ok();
        let good = signed.as_ref().and_then(|signed| signed.verify(&self.key)).filter(|said| said.writer == writer);
        let known = self.known.entry(writer).or_default();
        known.genesis = true;
        match good {
            Some(said) => {
                known.key = Some(said.key);
                if let Some(tip) = said.predecessor {
                    self.anchor(tip, true);
                }
            }
            None => self.report.add(Verdict::BadSignature { of: Signed::Genesis(writer) }),
        }
    }

    /// Round two: the next note, as stored.
    pub fn note(&mut self, text: &str) {
        self.report.notes += 1;
        let number = self.report.notes;
        let parsed = SignedNote::parse(text);
        let previous = self.previous.replace(SignedNote::hash(text));
        let Ok(signed) = parsed else {
            self.report.add(Verdict::NoteChainBroken { note: number, how: Broken::Malformed });
            return;
        };
        let said = signed.unverified();
        if said.previous != previous {
            self.report.add(Verdict::NoteChainBroken { note: number, how: Broken::Link });
        }
        // A note whose writer's chain is gone cannot be checked; it still says that the chain was there.
        let trusted = match self.known.get(&said.tip.writer) {
            Some(Known { key: Some(key), .. }) => {
                if !self.key.is_of(&said.deployment) || signed.verify(key).is_none() {
                    self.report.add(Verdict::BadSignature { of: Signed::Note(number) });
                    return;
                }
                true
            }
            Some(Known { genesis: true, .. }) => {
                self.report.add(Verdict::BadSignature { of: Signed::Note(number) });
                return;
            }
            _ => false,
        };
        self.anchor(said.tip, trusted);
        for &tip in &said.roster {
            self.anchor(tip, trusted);
        }
    }

    fn anchor(&mut self, tip: Tip, signed: bool) {
        let anchors = &mut self.known.entry(tip.writer).or_default().anchors;
        let anchor = anchors.entry(tip.size).or_insert(Anchor { head: tip.head, signed });
        if anchor.head != tip.head {
            let fork = Verdict::Fork { writer: tip.writer, size: tip.size, heads: [anchor.head, tip.head] };
            self.report.add(fork);
        } else if signed {
            anchor.signed = true;
        }
    }

    /// Round three: begins a chain that [`Verifier::genesis`] was told of, with the same line.
    pub fn chain(&mut self, writer: WriterId, genesis: &[u8]) -> ChainCheck<'_> {
        let known = self.known.entry(writer).or_default();
        known.fed = true;
        self.report.chains += 1;
        let mut check = ChainCheck {
            key: &self.key,
            chain: Chain::start(writer, genesis),
            anchors: &known.anchors,
            report: &mut self.report,
            anchored: 0,
            cut: 0,
            broken: false,
        };
        check.compare();
        check
    }

    /// What is left to say once everything was fed.
    #[must_use]
    pub fn finish(mut self) -> Report {
        let mut absent: Vec<_> = self.known.iter().filter(|(_, known)| !known.fed).collect();
        absent.sort_by_key(|(writer, _)| **writer);
        for (&writer, known) in absent {
            let anchored = known.anchors.last_key_value().map_or(0, |(&size, _)| size);
            self.report.add(Verdict::Removed { writer, anchored, found: None });
        }
        self.report.sort();
        self.report
    }
}

/// One chain being read. Dropping it without [`ChainCheck::end`] leaves its tail unjudged.
#[derive(Debug)]
pub struct ChainCheck<'a> {
    key: &'a VerifierKey,
    chain: Chain,
    anchors: &'a BTreeMap<u64, Anchor>,
    report: &'a mut Report,
    /// The last size at which a signed anchor agreed.
    anchored: u64,
    /// How many events retention took out.
    cut: u64,
    broken: bool,
}

impl ChainCheck<'_> {
    /// The next stored line, without its newline.
    pub fn event(&mut self, line: &[u8]) {
        self.report.events += 1;
        let (place, size) = (self.chain.place(line), self.chain.tip().size);
        self.chain.push(line);
        if self.broken {
            return;
        }
        match place {
            Place::Next => self.compare(),
            // The line before is the changed one, unless an anchor has just cleared it.
            Place::AfterAnother if size > self.anchored => self.changed(size, size),
            _ => self.changed(size + 1, size + 1),
        }
    }

    /// The line that stands where retention took events out. It vouches for nothing by itself: a checkpoint at its point or after
    /// it must.
    pub fn cut(&mut self, cut: &SignedCut) {
        let writer = self.chain.tip().writer;
        match cut.verify(self.key).filter(|cut| cut.tip.writer == writer && self.chain.tip().size == 0) {
            None => self.report.add(Verdict::BadSignature { of: Signed::Cut(writer) }),
            Some(cut) => {
                self.report.pruned += cut.tip.size;
                self.chain = Chain::resume(cut.tip);
                self.cut = cut.tip.size;
                let before = self.anchors.range(..cut.tip.size).rev().find(|(_, anchor)| anchor.signed);
                self.anchored = before.map_or(0, |(&size, _)| size);
                self.compare();
            }
        }
    }

    /// Whether a segment that begins so lies before the cut: retention was interrupted when it had its cut in place already.
    #[must_use]
    pub fn is_cut_off(&self, line: &Continuation) -> bool {
        self.cut > line.continues.size
    }

    /// The line that begins a later segment.
    pub fn continuation(&mut self, line: Continuation) {
        let (said, read) = (line.continues, self.chain.tip());
        if !self.broken && said != read {
            if said.writer == read.writer && said.size > read.size {
                // The end of the segment before is gone, or a whole one is.
                self.report.add(Verdict::Removed { writer: read.writer, anchored: said.size, found: Some(read.size) });
                self.broken = true;
            } else {
                self.changed(read.size.max(1), self.anchored + 1);
            }
        }
    }

    /// Bytes after the last newline: what a crash leaves of a line that nobody was told is durable.
    pub fn torn(&mut self, bytes: u64) {
        self.report.add(Verdict::TornTail { writer: self.chain.tip().writer, bytes });
    }

    /// The chain ends here.
    pub fn end(self) {
        let Tip { writer, size, .. } = self.chain.tip();
        let claimed = self.anchors.last_key_value().map_or(0, |(&size, _)| size);
        if claimed > size {
            self.report.add(Verdict::Removed { writer, anchored: claimed, found: Some(size) });
        }
        if !self.broken && size > self.anchored {
            self.report.add(Verdict::Unanchored { writer, events: size - self.anchored });
        }
    }

    fn compare(&mut self) {
        let tip = self.chain.tip();
        if let Some(anchor) = self.anchors.get(&tip.size) {
            if anchor.head != tip.head {
                self.changed(tip.size, (self.anchored + 1).min(tip.size));
            } else if anchor.signed {
                self.anchored = tip.size;
            }
        }
    }

    fn changed(&mut self, event: u64, since: u64) {
        self.broken = true;
        self.report.add(Verdict::ChangedAt { writer: self.chain.tip().writer, event, since });
    }
}

#[cfg(test)]
mod tests;
