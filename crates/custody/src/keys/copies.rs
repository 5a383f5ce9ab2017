//! What a data folder keeps of the keyring: a copy of the newest document, and the highest generation ever seen there.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use keyfold_core::keyring::document;

use crate::error::CustodyError;

/// The copies in one data folder.
#[derive(Debug, Clone)]
pub struct Copies {
    folder: PathBuf,
}

impl Copies {
    /// In `folder`, which exists.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The copy of the document.
    #[must_use]
    pub fn document_path(&self) -> PathBuf {
        self.folder.join("keyring.json")
    }

    fn seen_path(&self) -> PathBuf {
        self.folder.join("keyring.seen")
    }

    /// The copied document, where there is one.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn document(&self) -> Result<Option<Vec<u8>>, CustodyError> {
        read(&self.document_path())
    }

    /// The highest generation this folder has seen, 0 where it has seen none. A copy that cannot be parsed counts for
    /// nothing; the file with the number counts by itself.
    ///
    /// # Errors
    /// A file that cannot be read, or a number that is none.
    pub fn seen(&self) -> Result<u64, CustodyError> {
        let path = self.seen_path();
        let number = match read(&path)? {
            None => 0,
            Some(bytes) => std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok()).ok_or_else(|| {
                CustodyError::invalid(
                    format!("{}: not a generation number", path.display()),
                    "restore it: it holds the highest keyring generation this node has seen, see `keyfold keys list`",
                )
            })?,
        };
        let copied =
            self.document()?.and_then(|bytes| document::claims(&bytes).ok()).map_or(0, |claims| claims.generation);
        Ok(number.max(copied))
    }

    /// Takes over a document that was authenticated, unless this folder has a newer one.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn take(&self, document: &[u8], generation: u64) -> Result<(), CustodyError> {
        let _held = self.lock()?;
        let seen = self.seen()?;
        if seen > generation {
            return Ok(());
        }
        if read(&self.document_path())?.as_deref() != Some(document) {
            replace(&self.document_path(), document)?;
        }
        let number = format!("{generation}\n");
        if read(&self.seen_path())?.as_deref() != Some(number.as_bytes()) {
            replace(&self.seen_path(), number.as_bytes())?;
        }
        Ok(())
    }

    /// Two processes of one folder do not overtake each other between the look and the writing.
    fn lock(&self) -> Result<fs::File, CustodyError> {
        let path = self.folder.join("keyring.lock");
        let open = || {
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        open().map_err(|source| CustodyError::Io { path: path.display().to_string(), source })
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, CustodyError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CustodyError::Io { path: path.display().to_string(), source }),
    }
}

/// Writes a private file so that its name always holds all of the old or all of the new content.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), CustodyError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(name);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|source: io::Error| CustodyError::Io { path: path.display().to_string(), source })
}
