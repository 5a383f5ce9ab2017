//! One segment being written: all of a batch or nothing of it.
//!
//! Behind its lines a segment that grows holds zeros, written ahead of them: to flush bytes that the file had already takes one
//! write to the disk, to flush a longer file takes its length too, and twice the time (ext4). No line holds a zero, so the first
//! one is where the segment ends for who reads it. They are cut off when the segment is finished.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::PathBuf,
};

use crate::audit_log::AuditError;

/// The most that is written ahead at once.
const AHEAD: u64 = 1 << 20;
/// Shorter segments get nothing written ahead: most processes write a few lines and end.
const SHORT: u64 = 16 << 10;

/// A segment under our lock, and how much of it is good.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    path: PathBuf,
    /// Device and inode, by which it is known again.
    id: (u64, u64),
    /// So long are its lines.
    len: u64,
    /// So long is the file.
    size: u64,
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
        let (id, len) = ((meta.dev(), meta.ino()), meta.len());
        Ok(Self { file, path, id, len, size: len, dirty: false })
    }

    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Writes lines, without a flush. A part that got in is cut off again.
    pub(super) fn write(&mut self, lines: &[u8]) -> Result<(), Failed> {
        // One that was cut meanwhile would be as long as it should be again, with a hole.
        self.is_whole(self.file.metadata())?;
        let end = self.len + lines.len() as u64;
        // On a disk that is almost full there may be room for the lines and not for more.
        let written = self.grow(end).and_then(|()| self.file.write_all_at(lines, self.len));
        match written {
            Ok(()) => {
                (self.len, self.size, self.dirty) = (end, self.size.max(end), true);
                Ok(())
            }
            Err(error) => {
                let error = AuditError::io("write", &self.path, error);
                Err(if self.cut().is_ok() { Failed::Clean(error) } else { Failed::Unknown(error) })
            }
        }
    }

    /// Writes zeros ahead where the file would have to grow for the lines.
    fn grow(&mut self, end: u64) -> io::Result<()> {
        if end <= self.size || end < SHORT {
            return Ok(());
        }
        let ahead = end + self.len.min(AHEAD);
        let zeros = vec![0; usize::try_from(ahead - self.size).unwrap_or_default()];
        match self.file.write_all_at(&zeros, self.size) {
            Ok(()) => {
                self.size = ahead;
                Ok(())
            }
            // The lines come where the zeros would be.
            Err(_) => self.file.set_len(self.size),
        }
    }

    /// Cuts off whatever stands behind the lines.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.len)?;
        self.size = self.len;
        Ok(())
    }

    /// Makes everything written durable, and nothing else be in the file.
    pub(super) fn finish(&mut self) -> Result<(), Failed> {
        if self.size > self.len {
            self.cut().map_err(|e| Failed::Unknown(AuditError::io("cut", &self.path, e)))?;
            self.dirty = true;
        }
        self.flush()
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
        self.is_whole(fs::symlink_metadata(&self.path))
    }

    fn is_whole(&self, there: io::Result<fs::Metadata>) -> Result<(), Failed> {
        let ours = |there: fs::Metadata| (there.dev(), there.ino(), there.len()) == (self.id.0, self.id.1, self.size);
        if there.is_ok_and(ours) { Ok(()) } else { Err(Failed::Unknown(AuditError::Gone { path: self.path.clone() })) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn p40_a_full_device_fails_the_write() {
        let path = PathBuf::from("/dev/full");
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let mut segment = Segment::new(file, path).unwrap();
        let Err(Failed::Unknown(AuditError::Io { source, .. })) = segment.write(b"x\n") else { panic!() };
        assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_file_that_is_cut_or_written_by_another_is_found_out_by_the_flush() {
        let folder = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            let path = folder.path().join(name);
            let open = |options: &mut fs::OpenOptions| options.create(true).truncate(false).open(&path).unwrap();
            let mut segment = Segment::new(open(fs::OpenOptions::new().write(true)), path.clone()).unwrap();
            segment.write(b"one\n").unwrap();
            segment.flush().unwrap();
            (segment, open(fs::OpenOptions::new().append(true)))
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
            let gone = |done: Result<(), Failed>| matches!(done, Err(Failed::Unknown(AuditError::Gone { .. })));
            assert!(gone(segment.write(b"two\n")) && gone(segment.flush()), "{name}");
        }
    }

    #[test]
    fn a_segment_that_grows_is_written_ahead_of_its_lines_and_ends_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let file = fs::OpenOptions::new().write(true).create_new(true).open(&path).unwrap();
        let mut segment = Segment::new(file, path.clone()).unwrap();
        let size = || fs::metadata(&path).unwrap().len();
        let line = [&[b'x'; 99][..], b"\n"].concat();
        segment.write(&line).unwrap();
        assert_eq!(size(), 100, "a short one is as long as its lines");
        let mut all = line.clone();
        let (mut sizes, mut grown) = (size(), 0);
        while all.len() < 5 << 20 {
            segment.write(&line.repeat(50)).unwrap();
            segment.flush().unwrap();
            all.extend(line.repeat(50));
            grown += usize::from(size() != sizes);
            sizes = size();
            assert!(size() >= segment.len() && size() <= segment.len() + AHEAD);
        }
        assert!(grown < 20, "{grown}");
        let text = fs::read(&path).unwrap();
        assert!(text[..all.len()] == all && text[all.len()..].iter().all(|&byte| byte == 0));
        segment.finish().unwrap();
        assert!(fs::read(&path).unwrap() == all);
        segment.write(&line).unwrap();
        segment.flush().unwrap();
    }
}
