//! `file:PATH`: a root key in a file that only its owner can read.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use keyfold_core::{
    error::Hint,
    id::to_hex,
    keyring::{master_to_text, parse_key32},
    rng::{self, SystemRandom},
    root::RootError,
    secret::{Key32, Secret},
};

use crate::LocalRoot;

/// A key file over this many bytes is not a key file.
const MAX_FILE: u64 = 4096;

/// Reads the key.
///
/// # Errors
/// No such file; a file that others can read or write; anything but base64 of 32 bytes.
pub fn open(path: &Path) -> Result<LocalRoot, RootError> {
    let place = format!("file:{}", path.display());
    let opened = fs::metadata(path).and_then(|seen| {
        // To open a pipe is to wait for whoever writes to it.
        if seen.file_type().is_fifo() { Err(io::ErrorKind::InvalidInput.into()) } else { fs::File::open(path) }
    });
    let file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => RootError::Invalid {
            place: place.clone(),
            why: "no such file".into(),
            hint: "put the root key back; `keyfold init` makes one only for a new data folder".into(),
        },
        io::ErrorKind::InvalidInput => no_file(&place),
        _ => unavailable(&place, &error),
    })?;
    // Asked of the open file, so that nobody can exchange it between the look and the reading.
    let metadata = file.metadata().map_err(|error| unavailable(&place, &error))?;
    if !metadata.is_file() {
        return Err(no_file(&place));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(RootError::Invalid {
            place,
            why: format!("others can read or write the root key (mode {:04o})", metadata.mode() & 0o7777),
            hint: format!("chmod 600 {}; and if others could have read it, rotate the keys", path.display()),
        });
    }
    let mut bytes = Vec::with_capacity(64);
    let read = file.take(MAX_FILE).read_to_end(&mut bytes);
    let text = Secret::new(bytes);
    read.map_err(|error| unavailable(&place, &error))?;
    let text = std::str::from_utf8(text.expose()).map_err(|_| RootError::Invalid {
        place: place.clone(),
        why: "the key is not base64".into(),
        hint: "the file holds base64 of 32 bytes, as `keyfold keygen` prints it".into(),
    })?;
    let key = parse_key32(&place, text).map_err(|error| RootError::Invalid {
        place: place.clone(),
        why: error.to_string(),
        hint: error.mend().unwrap_or("the file holds base64 of 32 bytes, as `keyfold keygen` prints it").into(),
    })?;
    Ok(LocalRoot::new(place, &key)?.in_file(path.into()))
}

fn no_file(place: &str) -> RootError {
    RootError::Invalid {
        place: place.into(),
        why: "not a regular file".into(),
        hint: "name the file that holds the key".into(),
    }
}

/// Makes a key and its file: complete and 0600 from the moment it has its name, never over an existing file.
///
/// # Errors
/// The file exists, or cannot be written.
pub fn create(path: &Path) -> Result<LocalRoot, RootError> {
    let place = format!("file:{}", path.display());
    let random = |error: rng::RandomError| RootError::Unavailable {
        place: place.clone(),
        why: error.to_string(),
        retry: error.hint().is_none(),
    };
    let key = Key32::new(rng::array(&SystemRandom).map_err(random)?);
    let suffix = to_hex(&rng::array::<8>(&SystemRandom).map_err(random)?);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{suffix}.tmp"));
    let temporary = Path::new(&name);
    let written = write_new(temporary, &key).and_then(|()| fs::hard_link(temporary, path));
    let removed = fs::remove_file(temporary);
    written.and(removed).and_then(|()| sync_parent(path)).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => RootError::Invalid {
            place: place.clone(),
            why: "the file exists already".into(),
            hint: "a root key is never overwritten; move the old file away if nothing is sealed under it".into(),
        },
        _ => unavailable(&place, &error),
    })?;
    Ok(LocalRoot::new(place, &key)?.in_file(path.into()))
}

fn write_new(path: &Path, key: &Key32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let text = Secret::from(master_to_text(key));
    file.write_all(text.expose())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(parent)?.sync_all()
}

fn unavailable(place: &str, error: &io::Error) -> RootError {
    RootError::Unavailable { place: place.into(), why: error.to_string(), retry: false }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use keyfold_core::root::RootKey;

    use super::*;

    #[tokio::test]
    async fn a_made_key_is_private_reads_back_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let made = create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
        let wrapped = made.wrap(&Key32::new([3; 32]), b"x").await.unwrap();
        assert_eq!(open(&path).unwrap().unwrap(&wrapped, b"x").await.ok().unwrap().expose(), &[3; 32]);
        let before = fs::read(&path).unwrap();
        assert!(create(&path).err().unwrap().to_string().contains("exists already"));
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[tokio::test]
    async fn a_file_that_is_gone_or_holds_another_key_is_noticed_when_it_is_looked_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let root = create(&path).unwrap();
        root.tend().await.unwrap();
        fs::remove_file(&path).unwrap();
        assert!(root.tend().await.unwrap_err().to_string().contains("no such file"));
        create(&path).unwrap();
        assert_eq!(root.tend().await.unwrap_err().kind(), "authentication");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        create(&path).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o602] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = open(&path).err().unwrap();
            assert!(error.to_string().contains("others can read"), "{error}");
            assert!(error.hint().unwrap().contains("chmod 600"));
        }
    }

    #[test]
    fn p09_a_key_file_with_junk_is_refused_with_what_was_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        for (content, says) in [
            ("", "not set"),
            ("AAAA", "3 found"),
            ("not base64!", "11 characters"),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= x", "46 characters"),
        ] {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = open(&path).err().unwrap();
            assert!(error.to_string().contains(says), "{content:?}: {error}");
        }
        assert!(open(&folder.path().join("none")).err().unwrap().to_string().contains("no such file"));
        assert!(open(folder.path()).err().unwrap().to_string().contains("not a regular file"));
        // A pipe that nobody writes to.
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(open(&pipe).err().unwrap().to_string().contains("not a regular file"));
    }
}
