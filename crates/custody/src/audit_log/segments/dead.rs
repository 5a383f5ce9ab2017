//! Chains whose process ended without closing them.

use std::{
    fs::{File, TryLockError},
    io::{BufReader, Seek as _, SeekFrom},
};

use keyfold_core::{
    audit::{Chain, Continuation, SignedGenesis, Tip, VerifierKey},
    id::WriterId,
};

use super::{
    folder::{Folder, Numbered},
    lines::{Line, Lines, length},
};
use crate::audit_log::AuditError;

/// How many are taken at once: each holds open files, and all must fit one note.
pub(super) const AT_ONCE: usize = 256;

/// A dead writer's chain as it was found, with its locks held so that nobody else takes it.
#[derive(Debug)]
pub(super) struct Dead {
    pub(super) tip: Tip,
    pub(super) numbers: Vec<u32>,
    locks: Vec<File>,
}

impl Dead {
    /// Cuts off what was written ahead of lines that never came. Its files are to be moved to the finished ones then.
    pub(super) fn cut(&self) -> Result<(), AuditError> {
        for file in &self.locks {
            let cut = || {
                let len = length(file)?;
                if len < file.metadata()?.len() { file.set_len(len).and_then(|()| file.sync_all()) } else { Ok(()) }
            };
            cut().map_err(|e| AuditError::io("cut", self.tip.writer.to_string(), e))?;
        }
        Ok(())
    }
}

/// Finds the chains that nobody writes any more, other than `own`, at most [`AT_ONCE`]. One whose beginning this deployment did not sign is
/// left where it is, for `verify` to name.
pub(super) fn find(folder: &Folder, own: WriterId, key: &VerifierKey) -> Result<Vec<Dead>, AuditError> {
    let mut dead = Vec::new();
    for (writer, numbered) in folder.open_segments()? {
        if writer == own {
            continue;
        }
        if dead.len() == AT_ONCE {
            break;
        }
        if let Some(locks) = lock_all(folder, writer, &numbered)? {
            match read_tip(writer, &locks, key)? {
                Some(tip) => dead.push(Dead { tip, numbers: numbered.into_keys().collect(), locks }),
                None => tracing::warn!(%writer, "an audit chain of unknown origin is left unanchored"),
            }
        }
    }
    Ok(dead)
}

/// `None` if its writer lives, or another process has just finished it.
fn lock_all(folder: &Folder, writer: WriterId, numbered: &Numbered) -> Result<Option<Vec<File>>, AuditError> {
    let mut locks = Vec::new();
    for (&number, path) in numbered {
        // For its end to be cut.
        let file = folder.edit(writer, number, path)?;
        match file.try_lock() {
            Ok(()) => locks.push(file),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(AuditError::io("lock", path, error)),
        }
        if !path.exists() {
            return Ok(None);
        }
    }
    Ok(Some(locks))
}

/// Where the chain ends: read from its last segment, whose first line says where it began. Should that line lie, the
/// note repeats the lie and verification names it.
fn read_tip(writer: WriterId, segments: &[File], key: &VerifierKey) -> Result<Option<Tip>, AuditError> {
    let failed = |e| AuditError::io("read", writer.to_string(), e);
    let Some(mut last) = segments.last() else { return Ok(None) };
    last.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut lines = Lines::new(BufReader::new(last));
    let Line::Whole(first) = lines.next().map_err(failed)? else { return Ok(None) };
    let mut chain = match Continuation::parse(first) {
        Some(Continuation { continues }) if continues.writer == writer => Chain::resume(continues),
        Some(_) => return Ok(None),
        None => {
            let signed = SignedGenesis::parse(first).ok();
            if signed.as_ref().and_then(|signed| signed.verify(key)).is_none_or(|said| said.writer != writer) {
                return Ok(None);
            }
            Chain::start(writer, first)
        }
    };
    while let Line::Whole(line) = lines.next().map_err(failed)? {
        chain.push(line);
    }
    Ok(Some(chain.tip()))
}
