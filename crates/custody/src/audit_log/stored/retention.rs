//! Retention of a log in a store: the oldest events of a chain go, up to a checkpoint, and line 1 becomes the signed cut that stands for
//! them. Who was interrupted left lines that the cut stands for; nobody reads them, and the next run takes them out.

use keyfold_core::{
    audit::{Cut, Event, Verdict},
    clock::UnixTime,
};

use super::StoredLog;
use crate::audit_log::{AuditError, Pruned, Pruner};

impl StoredLog {
    /// Whether there is anything that happened before `before` and may be able to go.
    ///
    /// # Errors
    /// Something could not be read.
    pub async fn is_due(&self, before: UnixTime) -> Result<bool, AuditError> {
        for known in self.store.writers().await? {
            let start = self.start(known.writer).await?;
            let first = match start.cut {
                None => Some(start.first),
                Some(_) => self.store.lines(known.writer, start.next(), 1).await?.into_iter().next(),
            };
            if first.and_then(|line| Event::parse(&line).ok()).is_some_and(|event| event.time < before) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Pruner<'_> {
    /// [`Pruner::prune`] of a log in a store. Others may write, read and prune at the same time.
    ///
    /// # Errors
    /// The log does not verify: then nothing is taken out. Something could not be read or written.
    pub async fn prune_stored(
        &self,
        log: &StoredLog,
        (before, now): (UnixTime, UnixTime),
    ) -> Result<Pruned, AuditError> {
        let (report, old) = log.judge(self.of, before).await?;
        if report.findings.iter().any(Verdict::is_tampering) {
            return Err(AuditError::Tampered { found: report.verdict().to_string() });
        }
        let mut pruned = Pruned::default();
        for old in old {
            let cut = Cut { tip: old.end, time: now }.sign(self.key, self.of);
            // Where another one pruned meanwhile, its cut stays.
            if log.store.cut(old.writer, &old.first, &cut).await? {
                pruned.events += old.end.size - old.gone;
                pruned.chains += 1;
            }
        }
        for known in log.store.writers().await? {
            let start = log.start(known.writer).await?;
            if start.cut.is_some() {
                log.store.forget(known.writer, start.next() - 1).await?;
            }
        }
        Ok(pruned)
    }
}
