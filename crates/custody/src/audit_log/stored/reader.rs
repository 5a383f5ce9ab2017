//! Reading an audit log in a store: the verdict, the tail, everything. Never writes.

use std::sync::Arc;

use keyfold_core::audit::{Report, SignedGenesis, SignedNote, Verifier, VerifierKey};

use super::{Lines, PAGE};
use crate::audit_log::{
    AuditError, Entry, LastCheckpoint,
    reader::{entry, trim},
};

/// An audit log in a store, to be read. Clones share its connections.
#[derive(Clone)]
pub struct StoredLog {
    store: Arc<dyn Lines>,
}

impl StoredLog {
    pub(super) fn new(store: Arc<dyn Lines>) -> Self {
        Self { store }
    }

    /// Reads everything and holds it against the deployment's key. Memory grows with chains, not events.
    pub(in crate::audit_log) async fn verify(&self, key: &VerifierKey) -> Result<Report, AuditError> {
        let mut verifier = Verifier::new(key.clone());
        // Only the notes that were there before the chains were listed: what they name must be in the list.
        let notes = self.store.last_note().await?.map_or(0, |(number, _)| number);
        let writers = self.store.writers().await?;
        for known in &writers {
            let genesis = self.store.lines(known.writer, 0, 1).await?;
            verifier.genesis(known.writer, genesis.first().map_or(&[], Vec::as_slice));
        }
        let mut number = 0;
        while number < notes {
            let page = self.store.notes(number + 1, PAGE).await?;
            if page.is_empty() {
                break;
            }
            for note in page {
                number += 1;
                if number <= notes {
                    verifier.note(&note);
                }
            }
        }
        for known in &writers {
            let mut page = self.store.lines(known.writer, 0, PAGE).await?;
            let mut check = verifier.chain(known.writer, page.first().map_or(&[], Vec::as_slice));
            let mut read = 0;
            while !page.is_empty() {
                for line in page.iter().skip(usize::from(read == 0)) {
                    check.event(line);
                }
                read += page.len() as u64;
                page = self.store.lines(known.writer, read, PAGE).await?;
            }
            check.end();
        }
        Ok(verifier.finish())
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
            let mut read = 0;
            loop {
                let page = self.store.lines(known.writer, read, PAGE).await?;
                if page.is_empty() {
                    break;
                }
                read += page.len() as u64;
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
