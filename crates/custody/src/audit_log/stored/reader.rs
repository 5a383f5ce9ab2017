//! Reading an audit log in a store: the verdict, the tail, everything. Never writes.

use std::{collections::BTreeMap, sync::Arc};

use keyfold_core::{
    audit::{Event, Report, SignedCut, SignedGenesis, SignedNote, Tip, Verdict, Verifier, VerifierKey},
    clock::UnixTime,
    id::WriterId,
};

use super::{Lines, PAGE};
use crate::audit_log::{
    AuditError, Entry, LastCheckpoint,
    reader::{entry, trim},
};

/// An audit log in a store, to be read. Clones share its connections.
#[derive(Clone)]
pub struct StoredLog {
    pub(super) store: Arc<dyn Lines>,
}

/// How a chain begins.
#[derive(PartialEq, Eq)]
pub(super) struct Start {
    pub(super) writer: WriterId,
    genesis: Vec<u8>,
    /// The line after it: the first event, or what stands for those that retention took out.
    pub(super) first: Vec<u8>,
    pub(super) cut: Option<SignedCut>,
}

impl Start {
    /// The number of the first line that is not taken out.
    pub(super) fn next(&self) -> u64 {
        1 + self.cut.as_ref().map_or(0, |cut| cut.unverified().tip.size)
    }
}

/// The oldest events of a chain, which can go: they are all older than a moment, and a checkpoint says where they end.
pub(super) struct Old {
    pub(super) writer: WriterId,
    /// Line 1 as it was read.
    pub(super) first: Vec<u8>,
    pub(super) end: Tip,
    /// How many of them are gone already.
    pub(super) gone: u64,
}

/// How often a verdict is reached anew because retention ran meanwhile.
const AGAIN: usize = 10;

impl StoredLog {
    pub(super) fn new(store: Arc<dyn Lines>) -> Self {
        Self { store }
    }

    /// Reads everything and holds it against the deployment's key. Memory grows with chains, not events.
    pub(in crate::audit_log) async fn verify(&self, key: &VerifierKey) -> Result<Report, AuditError> {
        Ok(self.judge(key, UnixTime(0)).await?.0)
    }

    /// The verdict, and what happened before a moment and can go.
    pub(super) async fn judge(&self, key: &VerifierKey, before: UnixTime) -> Result<(Report, Vec<Old>), AuditError> {
        let mut tries = 0;
        loop {
            let (starts, report, old) = self.judge_once(key, before).await?;
            tries += 1;
            if tries == AGAIN || !report.findings.iter().any(Verdict::is_tampering) {
                return Ok((report, old));
            }
            // What is missing may be what retention is taking out just now.
            let mut cut = false;
            for start in &starts {
                cut |= self.start(start.writer).await? != *start;
            }
            if !cut {
                return Ok((report, old));
            }
        }
    }

    async fn judge_once(
        &self,
        key: &VerifierKey,
        before: UnixTime,
    ) -> Result<(Vec<Start>, Report, Vec<Old>), AuditError> {
        let mut verifier = Verifier::new(key.clone());
        // Only the notes that were there before the chains were listed: what they name must be in the list.
        let notes = self.store.last_note().await?.map_or(0, |(number, _)| number);
        let mut starts = Vec::new();
        for known in self.store.writers().await? {
            let start = self.start(known.writer).await?;
            verifier.genesis(start.writer, &start.genesis);
            starts.push(start);
        }
        let mut anchors = BTreeMap::new();
        self.each_note(notes, |note| {
            verifier.note(note);
            // Of use only where the log is found to be as it was signed.
            let said = SignedNote::parse(note);
            let said = said.as_ref().ok().filter(|_| before > UnixTime(0)).map(SignedNote::unverified);
            for tip in said.iter().flat_map(|note| std::iter::once(&note.tip).chain(&note.roster)) {
                anchors.insert((tip.writer, tip.size), *tip);
            }
        })
        .await?;
        let mut olds = Vec::new();
        for start in &starts {
            let mut check = verifier.chain(start.writer, &start.genesis);
            if let Some(cut) = &start.cut {
                check.cut(cut);
            }
            let gone = start.next() - 1;
            let (mut number, mut old, mut end) = (start.next(), true, None);
            loop {
                let page = self.store.lines(start.writer, number, PAGE).await?;
                if page.is_empty() {
                    break;
                }
                for line in &page {
                    check.event(line);
                    old = old && Event::parse(line).map_or(true, |event| event.time < before);
                    end = anchors.get(&(start.writer, number)).filter(|_| old).copied().or(end);
                    number += 1;
                }
            }
            check.end();
            let first = || start.first.clone();
            olds.extend(end.map(|end| Old { writer: start.writer, first: first(), end, gone }));
        }
        Ok((starts, verifier.finish(), olds))
    }

    pub(super) async fn start(&self, writer: WriterId) -> Result<Start, AuditError> {
        let mut lines = self.store.lines(writer, 0, 2).await?.into_iter();
        let (genesis, first) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let cut = SignedCut::parse(&first).ok();
        Ok(Start { writer, genesis, first, cut })
    }

    /// The notes up to a number.
    async fn each_note(&self, last: u64, mut each: impl FnMut(&str)) -> Result<(), AuditError> {
        let mut read = 0;
        while read < last {
            let page = self.store.notes(read + 1, PAGE).await?;
            if page.is_empty() {
                break;
            }
            page.iter().filter(|(number, _)| *number <= last).for_each(|(_, note)| each(note));
            read = page.last().map_or(last, |(number, _)| *number);
        }
        Ok(())
    }

    pub(in crate::audit_log) async fn last_checkpoint(&self) -> Result<Option<LastCheckpoint>, AuditError> {
        let last = self.store.last_note().await?;
        let Some(note) = last.and_then(|(_, text)| SignedNote::parse(&text).ok()) else { return Ok(None) };
        let lines = self.store.lines(note.unverified().tip.writer, 0, 1).await?;
        let genesis = lines.first().and_then(|line| SignedGenesis::parse(line).ok());
        Ok(genesis.map(|genesis| LastCheckpoint { note, genesis }))
    }

    /// The last `count` events lie with the `count` writers that wrote last.
    pub(in crate::audit_log) async fn tail(&self, count: usize) -> Result<Vec<Entry>, AuditError> {
        let mut writers = self.store.writers().await?;
        writers.sort_by_key(|known| std::cmp::Reverse(known.written));
        let mut kept = Vec::new();
        for known in writers.into_iter().take(count) {
            let mut time = keyfold_core::clock::UnixTime(0);
            let lines = self.store.last(known.writer, count).await?;
            for entry in lines.iter().filter_map(|line| entry(known.writer, line)) {
                time = entry.event.as_ref().map_or(time, |event| event.time);
                kept.push((time, entry));
            }
            if kept.len() > count.saturating_mul(4) {
                trim(&mut kept, count);
            }
        }
        trim(&mut kept, count);
        Ok(kept.into_iter().map(|(_, entry)| entry).collect())
    }

    pub(in crate::audit_log) async fn export(
        &self,
        mut each: impl AsyncFnMut(&Entry) -> bool,
    ) -> Result<(), AuditError> {
        let mut writers = self.store.writers().await?;
        writers.sort_by_key(|known| known.writer);
        for known in writers {
            let mut next = self.start(known.writer).await?.next();
            loop {
                let page = self.store.lines(known.writer, next, PAGE).await?;
                if page.is_empty() {
                    break;
                }
                next += page.len() as u64;
                for line in &page {
                    if let Some(entry) = entry(known.writer, line)
                        && !each(&entry).await
                    {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}
