//! Groups that are written and wait for the disk. A thread of its own makes one after the other durable and answers it, so that the
//! next one is taken, encoded and written while answers go out.

use std::{
    path::Path,
    sync::{Arc, mpsc},
    thread,
};

use super::file::Flushed;
use crate::audit_log::{AuditError, queued::Group};

/// A group in a file, and what its batches are told once it is durable.
pub(super) struct Written {
    pub(super) file: Arc<Flushed>,
    /// How long the file is with it.
    pub(super) len: u64,
    pub(super) group: Group,
    pub(super) results: Vec<Result<(), AuditError>>,
}

/// The thread's other end. The thread ends when this is dropped.
pub(super) struct Flusher {
    work: mpsc::Sender<Written>,
    flushed: mpsc::Receiver<()>,
    busy: bool,
}

impl Flusher {
    /// # Errors
    /// No thread could be started.
    pub(super) fn start(dir: &Path) -> Result<Self, AuditError> {
        let ((work, queue), (done, flushed)) = (mpsc::channel(), mpsc::channel());
        let thread = thread::Builder::new().name("audit-flush".into());
        thread.spawn(move || serve(&queue, &done)).map_err(|e| AuditError::io("start a thread for", dir, e))?;
        Ok(Self { work, flushed, busy: false })
    }

    /// Answers a group once it is durable. One call alone is flushed here: another thread would only take longer.
    pub(super) fn flush(&mut self, written: Written) {
        self.wait();
        if written.results.len() == 1 {
            return answer(written.file.flush(written.len), written);
        }
        self.busy = true;
        if let Err(mpsc::SendError(written)) = self.work.send(written) {
            // The thread is gone: it panicked.
            answer(Err(AuditError::Stopped { source: None }), written);
        }
    }

    /// Waits until nothing is being flushed. Until then nothing is written either, since it would have to wait for the next flush
    /// anyway, and would hold this one up.
    pub(super) fn wait(&mut self) {
        if std::mem::take(&mut self.busy) {
            let _ = self.flushed.recv();
        }
    }
}

fn serve(work: &mpsc::Receiver<Written>, done: &mpsc::Sender<()>) {
    while let Ok(written) = work.recv() {
        let flushed = written.file.flush(written.len);
        let _ = done.send(());
        answer(flushed, written);
    }
}

fn answer(flushed: Result<(), AuditError>, written: Written) {
    let Written { mut group, results, .. } = written;
    group.answer(match flushed {
        Ok(()) => results,
        Err(error) => results.iter().map(|_| Err(error.clone())).collect(),
    });
}
