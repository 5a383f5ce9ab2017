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
    /// Device and inode, by which it is known again.
    id: (u64, u64),
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
        let meta = file.metadata().map_err(|e| AuditError::io("inspect", &path, e))?;
        Ok(Self { file, path, id: (meta.dev(), meta.ino()), len: meta.len(), dirty: false })
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
        let there = fs::symlink_metadata(&self.path);
        let whole = |there: fs::Metadata| (there.dev(), there.ino(), there.len()) == (self.id.0, self.id.1, self.len);
        if there.is_ok_and(whole) { Ok(()) } else { Err(Failed::Unknown(AuditError::Gone { path: self.path.clone() })) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p40_a_full_device_fails_the_write() {
        let path = PathBuf::from("/dev/full");
        let file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        let mut segment = Segment::new(file, path).unwrap();
        let Err(Failed::Unknown(AuditError::Io { source, .. })) = segment.write(b"x\n") else { panic!() };
        assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_file_that_is_cut_or_written_by_another_is_found_out_by_the_flush() {
        let folder = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            let path = folder.path().join(name);
            let open = || fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
            let mut segment = Segment::new(open(), path.clone()).unwrap();
            segment.write(b"one\n").unwrap();
            segment.flush().unwrap();
            (segment, open())
        };
        for (name, spoil) in [
            ("cut", (|file| file.set_len(2).unwrap()) as fn(&mut File)),
            ("longer", |file| file.write_all(b"more\n").unwrap()),
            ("cut and written on", |file| {
                file.set_len(0).unwrap();
                file.write_all(b"x\n").unwrap();
            }),
        ] {
            let (mut segment, mut other) = made(name);
            spoil(&mut other);
            segment.write(b"two\n").unwrap();
            let gone = |flushed| matches!(flushed, Err(Failed::Unknown(AuditError::Gone { .. })));
            assert!(gone(segment.flush()), "{name}");
        }
    }
}
