//! The notes file: checkpoints of all writers, one after another, each followed by an empty line.
//!
//! A note counts once the empty line after its signatures is there. What a crash left behind it was told to nobody and
//! named by no later note, so the next writer cuts it off.

use std::{
    fs::{File, TryLockError},
    io::{self, BufRead, Read as _, Seek as _, SeekFrom, Write as _},
    path::PathBuf,
    thread,
    time::Duration,
};

use keyfold_core::audit::note::MAX_NOTE;

use super::folder::{Folder, owner_only};
use crate::audit_log::AuditError;

/// How often, and how long apart, the lock is tried: ten seconds. A note takes milliseconds.
const TRIES: u32 = 1000;
const BETWEEN: Duration = Duration::from_millis(10);
/// How much of the end is read at first; most notes are far shorter.
const WINDOW: u64 = 16 * 1024;

/// The notes, held by this process alone.
#[derive(Debug)]
pub(in crate::audit_log) struct Notes {
    file: File,
    path: PathBuf,
    len: u64,
    last: Option<String>,
    _lock: File,
}

impl Notes {
    /// Waits for the lock, reads the last note, and cuts off what a crash left after it.
    pub(in crate::audit_log) fn lock(folder: &Folder) -> Result<Self, AuditError> {
        let lock = take_lock(folder.lock())?;
        let path = folder.notes();
        let failed = |what| move |e| AuditError::io(what, folder.notes(), e);
        let mut file = owner_only().read(true).append(true).create(true).open(&path).map_err(failed("open"))?;
        let whole = file.metadata().map_err(failed("inspect"))?.len();
        let (last, len) = last_note(&mut file, whole).map_err(failed("read"))?;
        if len < whole {
            tracing::warn!(bytes = whole - len, "cutting off a note that a crash left unfinished");
            file.set_len(len).map_err(failed("repair"))?;
        }
        Ok(Self { file, path, len, last, _lock: lock })
    }

    /// The last note.
    pub(super) fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// Adds a note and makes it durable.
    pub(super) fn add(&mut self, note: String) -> Result<(), AuditError> {
        let framed = format!("{note}\n");
        if let Err(error) = self.file.write_all(framed.as_bytes()).and_then(|()| self.file.sync_data()) {
            // If this fails too, the next writer cuts it off.
            let _ = self.file.set_len(self.len);
            return Err(AuditError::io("write", &self.path, error));
        }
        self.len += framed.len() as u64;
        self.last = Some(note);
        Ok(())
    }
}

fn take_lock(path: PathBuf) -> Result<File, AuditError> {
    let file = owner_only().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|e| AuditError::io("open", &path, e))?;
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => thread::sleep(BETWEEN),
            Err(TryLockError::Error(error)) => return Err(AuditError::io("lock", path, error)),
        }
    }
    Err(AuditError::Busy { path })
}

/// Without the lock, for a writer that wants to know after whom it comes; `None` where there is no note.
pub(in crate::audit_log) fn peek(folder: &Folder) -> Result<Option<String>, AuditError> {
    let failed = |e| AuditError::io("read", folder.notes(), e);
    match File::open(folder.notes()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
        Ok(mut file) => {
            let len = file.metadata().map_err(failed)?.len();
            last_note(&mut file, len).map(|(last, _)| last).map_err(failed)
        }
    }
}

/// The last note and where it ends, reading no more of the file than holds it.
fn last_note(file: &mut File, len: u64) -> io::Result<(Option<String>, u64)> {
    let mut window = WINDOW;
    loop {
        let start = len.saturating_sub(window);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        (&mut *file).take(len - start).read_to_end(&mut bytes)?;
        let end = frame_end(&bytes);
        let before = end.and_then(|end| frame_end(&bytes[..end - 2]));
        match (end, before) {
            (Some(end), Some(begin)) => return Ok((text(&bytes[begin..end - 1]), start + end as u64)),
            (Some(end), None) if start == 0 => return Ok((text(&bytes[..end - 1]), end as u64)),
            (None, _) if start == 0 => return Ok((None, 0)),
            _ => window *= 4,
        }
    }
}

/// Text that is no UTF-8 is still the last note: its successor names it by what is there, and `verify` names it.
fn text(bytes: &[u8]) -> Option<String> {
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// Where the last whole note in `bytes` ends, after its empty line.
pub(in crate::audit_log) fn frame_end(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::rfind_iter(bytes, b"\n\n").find_map(|at| {
        let line = memchr::memrchr(b'\n', &bytes[..at]).map_or(0, |newline| newline + 1);
        bytes[line..].starts_with("— ".as_bytes()).then_some(at + 2)
    })
}

/// Goes through whole notes from the first, for a reader.
pub(in crate::audit_log) fn each_note(reader: impl BufRead, mut each: impl FnMut(&str)) -> io::Result<()> {
    let mut reader = reader;
    let (mut note, mut line) = (Vec::new(), Vec::new());
    let mut signed = false;
    loop {
        line.clear();
        if reader.by_ref().take(MAX_NOTE as u64).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line == b"\n" && signed || note.len() > MAX_NOTE {
            each(&String::from_utf8_lossy(&note));
            note.clear();
            signed = false;
            continue;
        }
        signed = line.starts_with("— ".as_bytes());
        note.extend_from_slice(&line);
    }
}
