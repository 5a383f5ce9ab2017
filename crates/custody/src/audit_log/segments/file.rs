//! One segment being written: all of a batch or nothing of it.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use crate::audit_log::AuditError;

/// A segment under our lock, and how much of it is good.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    path: PathBuf,
    len: u64,
    dirty: bool,
}

/// A write failed. Whether the writer can go on depends on what is left in the file.
#[derive(Debug)]
pub(super) enum Failed {
    /// The file is as it was before.
    Clean(AuditError),
    /// Nobody knows what is in the file; no later line may follow.
    Unknown(AuditError),
}

impl Segment {
    pub(super) fn new(file: File, path: PathBuf) -> Result<Self, AuditError> {
        let len = file.metadata().map_err(|e| AuditError::io("inspect", &path, e))?.len();
        Ok(Self { file, path, len, dirty: false })
    }

    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Writes lines, without a flush. A part that got in is cut off again.
    pub(super) fn write(&mut self, lines: &[u8]) -> Result<(), Failed> {
        match self.file.write_all(lines) {
            Ok(()) => {
                self.len += lines.len() as u64;
                self.dirty = true;
                Ok(())
            }
            Err(error) => {
                let error = AuditError::io("write", &self.path, error);
                Err(if self.file.set_len(self.len).is_ok() { Failed::Clean(error) } else { Failed::Unknown(error) })
            }
        }
    }

    /// Makes everything written durable, in a file that is still where readers look for it.
    ///
    /// A flush that failed once is never tried again: the system may have dropped the pages, and would then say yes.
    pub(super) fn flush(&mut self) -> Result<(), Failed> {
        if self.dirty {
            let flushed = self.file.sync_data();
            flushed.map_err(|e| Failed::Unknown(AuditError::io("flush", &self.path, e)))?;
            self.dirty = false;
        }
        let there = fs::symlink_metadata(&self.path).map(|meta| (meta.dev(), meta.ino()));
        let ours = self.file.metadata().map(|meta| (meta.dev(), meta.ino(), meta.len()));
        match (there, ours) {
            (Ok((dev, ino)), Ok((own_dev, own_ino, len))) if (dev, ino) == (own_dev, own_ino) && len == self.len => {
                Ok(())
            }
            _ => Err(Failed::Unknown(AuditError::Gone { path: self.path.clone() })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p40_a_full_device_fails_the_write() {
        let path = PathBuf::from("/dev/full");
        let file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        let mut segment = Segment { file, path, len: 0, dirty: false };
        let Err(Failed::Unknown(AuditError::Io { source, .. })) = segment.write(b"x\n") else { panic!() };
        assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    }
}
