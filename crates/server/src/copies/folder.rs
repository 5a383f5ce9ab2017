//! A folder that holds the log as it lies here: `PATH/audit`, which `keyfold audit verify --key KEY --data-dir PATH` checks.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use keyfold_custody::audit_log::follow::{Chunk, Source};
use tokio::task::spawn_blocking;

use super::CopyError;

pub(super) struct FolderCopy {
    audit: PathBuf,
}

impl FolderCopy {
    pub(super) fn new(path: &Path) -> Self {
        Self { audit: path.join("audit") }
    }

    pub(super) async fn send(&self, chunk: &Arc<Chunk>) -> Result<(), CopyError> {
        let (audit, chunk) = (self.audit.clone(), Arc::clone(chunk));
        let written = spawn_blocking(move || write(&audit, &chunk)).await;
        let failed = |error: io::Error| CopyError::There(format!("{}: {}", self.audit.display(), error.kind()));
        written.map_err(|_| CopyError::There("the writer of the copy died".into()))?.map_err(failed)
    }
}

/// At the place where it stands in the log: twice is as good as once.
fn write(audit: &Path, chunk: &Chunk) -> io::Result<()> {
    let closed = audit.join("closed");
    // The mount point has to be there: a copy must not fill the disk under a file system that is not mounted.
    let parent = audit.parent().unwrap_or(audit);
    if !fs::metadata(parent)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(&closed)?;
    let path = match chunk.source {
        Source::Segment(writer, number) => closed.join(format!("{writer}-{number:06}.jsonl")),
        Source::Notes => audit.join("notes"),
    };
    let new = !path.try_exists()?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    file.write_all_at(&chunk.bytes, chunk.offset)?;
    file.sync_data()?;
    // A file that is new is there after a power failure only if the folders that name it are.
    let naming: &[&Path] = if new { &[&closed, audit, parent] } else { &[] };
    naming.iter().try_for_each(|folder| File::open(folder)?.sync_all())
}
