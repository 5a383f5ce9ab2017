//! The folder's layout, and what each name in it promises.
//!
//! ```text
//! <writer>-<n>.open            being written under an exclusive lock, or left by a process that died; zeros may follow its lines
//! closed/<writer>-<n>.jsonl    finished; anchored, or followed by a later segment of its writer
//! notes, notes.lock            the checkpoints, and the lock under which they are added
//! <writer>-<n>.new             not begun; ignored
//! ```
//!
//! Finished segments lie in a folder of their own, so that finding the unfinished costs no listing of the finished.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use keyfold_core::id::WriterId;

use crate::audit_log::AuditError;

/// The segments of one writer, by number.
pub(in crate::audit_log) type Numbered = BTreeMap<u32, PathBuf>;

/// `<data>/audit`.
#[derive(Debug, Clone)]
pub(in crate::audit_log) struct Folder(PathBuf);

impl Folder {
    pub(in crate::audit_log) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(in crate::audit_log) fn notes(&self) -> PathBuf {
        self.0.join("notes")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.0.join("notes.lock")
    }

    fn open_path(&self, writer: WriterId, number: u32) -> PathBuf {
        self.0.join(format!("{writer}-{number:06}.open"))
    }

    pub(in crate::audit_log) fn closed_path(&self, writer: WriterId, number: u32) -> PathBuf {
        self.0.join("closed").join(format!("{writer}-{number:06}.jsonl"))
    }

    /// Makes the folders, for their owner only.
    pub(in crate::audit_log) fn create(&self) -> Result<(), AuditError> {
        let path = self.closed();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|e| AuditError::io("create", path, e))
    }

    /// Makes a new segment that holds `first` already, under an exclusive lock before others can see it.
    pub(super) fn begin(&self, writer: WriterId, number: u32, first: &[u8]) -> Result<(File, PathBuf), AuditError> {
        use io::Write as _;
        let (new, open) = (self.0.join(format!("{writer}-{number:06}.new")), self.open_path(writer, number));
        let begun = (|| {
            let mut file = owner_only().read(true).write(true).create_new(true).open(&new)?;
            file.lock()?;
            file.write_all(first)?;
            file.sync_all()?;
            fs::rename(&new, &open)?;
            Ok(file)
        })();
        match begun {
            Ok(file) => self.sync().map(|()| (file, open)),
            Err(error) => {
                // Nothing but our own first line is in it; were it left, the next try would find it in its way.
                let _ = fs::remove_file(&new);
                Err(AuditError::io("create", open, error))
            }
        }
    }

    /// Moves a segment to the finished ones.
    pub(super) fn close(&self, writer: WriterId, number: u32) -> Result<(), AuditError> {
        let (from, to) = (self.open_path(writer, number), self.closed_path(writer, number));
        fs::rename(&from, &to).map_err(|e| AuditError::io("close", from, e))
    }

    /// Makes renames durable.
    pub(in crate::audit_log) fn sync(&self) -> Result<(), AuditError> {
        for path in [self.0.clone(), self.closed()] {
            File::open(&path).and_then(|dir| dir.sync_all()).map_err(|e| AuditError::io("flush", path, e))?;
        }
        Ok(())
    }

    /// Unfinished segments. None where there is no folder.
    pub(in crate::audit_log) fn open_segments(&self) -> Result<BTreeMap<WriterId, Numbered>, AuditError> {
        let mut found = BTreeMap::new();
        list(&self.0, ".open", &mut found)?;
        Ok(found)
    }

    /// Every segment; where one was seen both before and after its move, as finished.
    pub(in crate::audit_log) fn segments(&self) -> Result<BTreeMap<WriterId, Numbered>, AuditError> {
        let mut found = self.open_segments()?;
        list(&self.closed(), ".jsonl", &mut found)?;
        Ok(found)
    }

    /// Where the finished segments lie.
    pub(in crate::audit_log) fn closed(&self) -> PathBuf {
        self.0.join("closed")
    }

    /// The finished segments.
    pub(in crate::audit_log) fn closed_segments(&self) -> Result<BTreeMap<WriterId, Numbered>, AuditError> {
        let mut found = BTreeMap::new();
        list(&self.closed(), ".jsonl", &mut found)?;
        Ok(found)
    }

    /// The segment in which a writer began, wherever it lies by now; `None` where there is none.
    pub(in crate::audit_log) fn first_segment(&self, writer: WriterId) -> Result<Option<File>, AuditError> {
        let path = self.open_path(writer, 0);
        match File::open(&path).or_else(|error| match error.kind() {
            ErrorKind::NotFound => File::open(self.closed_path(writer, 0)),
            _ => Err(error),
        }) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(AuditError::io("read", path, error)),
        }
    }

    /// Opens a segment for reading, also if it was finished since it was listed.
    pub(in crate::audit_log) fn read(&self, writer: WriterId, number: u32, path: &Path) -> Result<File, AuditError> {
        self.open(OpenOptions::new().read(true), (writer, number, path))
    }

    /// As [`Folder::read`], to cut something off.
    pub(super) fn edit(&self, writer: WriterId, number: u32, path: &Path) -> Result<File, AuditError> {
        self.open(OpenOptions::new().read(true).write(true), (writer, number, path))
    }

    fn open(&self, how: &OpenOptions, (writer, number, path): (WriterId, u32, &Path)) -> Result<File, AuditError> {
        how.open(path)
            .or_else(|error| match error.kind() {
                ErrorKind::NotFound => how.open(self.closed_path(writer, number)),
                _ => Err(error),
            })
            .map_err(|e| AuditError::io("read", path, e))
    }
}

/// Files that only their owner can read.
pub(in crate::audit_log) fn owner_only() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn list(dir: &Path, suffix: &str, found: &mut BTreeMap<WriterId, Numbered>) -> Result<(), AuditError> {
    let failed = |e| AuditError::io("list", dir, e);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let parsed = name.to_str().and_then(|name| name.strip_suffix(suffix)).and_then(|name| name.split_once('-'));
        if let Some((writer, number)) = parsed
            && let (Ok(writer), Ok(number)) = (writer.parse(), number.parse())
        {
            found.entry(writer).or_default().insert(number, entry.path());
        }
    }
    Ok(())
}
