//! Reading an audit folder: the verdict, the tail, everything. Never writes, and takes no lock.

use std::{
    fs::File,
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use keyfold_core::{
    audit::{Continuation, Event, MAX_LINE, Report, SignedCut, SignedGenesis, SignedNote, Verifier, VerifierKey},
    clock::UnixTime,
    id::WriterId,
};

use super::{
    AuditError,
    segments::{
        folder::{Folder, Numbered},
        lines::{Line, Lines, length},
        notes::{each_note, peek},
    },
};

/// A stored line that is an event, or stands where one should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose chain.
    pub writer: WriterId,
    /// The stored bytes; what is no UTF-8 is replaced.
    pub line: String,
    /// The event, if this version can read it.
    pub event: Option<Event>,
}

/// The last checkpoint of a log, with what vouches for who signed it.
#[derive(Debug, Clone)]
pub struct LastCheckpoint {
    pub(super) note: SignedNote,
    pub(super) genesis: SignedGenesis,
}

impl LastCheckpoint {
    /// The keyring generation that its writer knew, if a writer of this deployment signed it. What is wrong with one that does
    /// not verify is for [`AuditLog::verify`] to say.
    #[must_use]
    pub fn generation(&self, key: &VerifierKey) -> Option<u64> {
        let said = self.genesis.verify(key)?;
        let note = self.note.verify(&said.key)?;
        (said.writer == note.tip.writer && key.is_of(&note.deployment)).then_some(note.generation)
    }
}

/// An audit folder to be read.
#[derive(Debug)]
pub struct AuditLog {
    folder: Folder,
    path: PathBuf,
}

impl AuditLog {
    /// The log in `dir`. A folder that is not there is an empty log.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self { folder: Folder::new(dir), path: dir.to_owned() }
    }

    /// Reads everything and holds it against the deployment's key. Blocks; memory grows with chains, not events.
    ///
    /// # Errors
    /// Something could not be read. What could be read and is wrong is in the report.
    pub fn verify(&self, key: &VerifierKey) -> Result<Report, AuditError> {
        let mut verifier = Verifier::new(key.clone());
        // Only the notes that were there before the chains were listed: what they name must be in the list.
        let notes = self.notes()?;
        let segments = self.folder.segments()?;
        for (&writer, numbered) in &segments {
            verifier.genesis(writer, &self.first_line(writer, numbered)?);
        }
        if let Some(notes) = notes {
            each_note(BufReader::new(notes), |note| verifier.note(note)).map_err(|e| self.failed(e))?;
        }
        for (&writer, numbered) in &segments {
            let genesis = self.first_line(writer, numbered)?;
            let mut check = verifier.chain(writer, &genesis);
            for (at, (&number, path)) in numbered.iter().enumerate() {
                let mut lines = Lines::new(BufReader::new(self.folder.read(writer, number, path)?));
                let (mut first, mut begun) = (true, false);
                loop {
                    match lines.next().map_err(|e| AuditError::io("read", path, e))? {
                        Line::Whole(_) if first && at == 0 => begun = true,
                        Line::Whole(line) if std::mem::take(&mut begun) => match SignedCut::parse(line) {
                            Ok(cut) => check.cut(&cut),
                            Err(_) => check.event(line),
                        },
                        Line::Whole(line) if first => match Continuation::parse(line) {
                            Some(continuation) if check.is_cut_off(&continuation) => break,
                            Some(continuation) => check.continuation(continuation),
                            None => check.event(line),
                        },
                        Line::Whole(line) => check.event(line),
                        Line::End(0) => break,
                        Line::End(bytes) => {
                            check.torn(bytes);
                            break;
                        }
                    }
                    first = false;
                }
            }
            check.end();
        }
        Ok(verifier.finish())
    }

    /// The last checkpoint, not verified yet; `None` where there is none, or none that can be read.
    ///
    /// # Errors
    /// Something could not be read.
    pub fn last_checkpoint(&self) -> Result<Option<LastCheckpoint>, AuditError> {
        let Some(note) = peek(&self.folder)?.and_then(|text| SignedNote::parse(&text).ok()) else { return Ok(None) };
        let Some(genesis) = self.folder.first_segment(note.unverified().tip.writer)? else { return Ok(None) };
        let mut lines = Lines::new(BufReader::new(genesis));
        Ok(match lines.next().map_err(|e| self.failed(e))? {
            Line::Whole(line) => SignedGenesis::parse(line).ok().map(|genesis| LastCheckpoint { note, genesis }),
            Line::End(_) => None,
        })
    }

    /// The last `count` events over all chains, oldest first. Reads the end of every chain.
    ///
    /// # Errors
    /// Something could not be read.
    pub fn tail(&self, count: usize) -> Result<Vec<Entry>, AuditError> {
        let mut kept: Vec<(UnixTime, Entry)> = Vec::new();
        for (writer, numbered) in self.folder.segments()? {
            kept.extend(self.chain_tail(writer, &numbered, count)?);
            if kept.len() > count.saturating_mul(4) {
                trim(&mut kept, count);
            }
        }
        trim(&mut kept, count);
        Ok(kept.into_iter().map(|(_, entry)| entry).collect())
    }

    /// Gives every event, chain by chain, until `each` says no.
    ///
    /// # Errors
    /// Something could not be read.
    pub async fn export(&self, mut each: impl AsyncFnMut(&Entry) -> bool) -> Result<(), AuditError> {
        for (writer, numbered) in self.folder.segments()? {
            for (&number, path) in &numbered {
                let mut lines = Lines::new(BufReader::new(self.folder.read(writer, number, path)?));
                while let Line::Whole(line) = lines.next().map_err(|e| AuditError::io("read", path, e))? {
                    if let Some(entry) = entry(writer, line)
                        && !each(&entry).await
                    {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn failed(&self, error: io::Error) -> AuditError {
        AuditError::io("read", &self.path, error)
    }

    /// The notes as long as they are now.
    fn notes(&self) -> Result<Option<io::Take<File>>, AuditError> {
        match File::open(self.folder.notes()) {
            Ok(file) => {
                let len = file.metadata().map_err(|e| self.failed(e))?.len();
                Ok(Some(file.take(len)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn first_line(&self, writer: WriterId, numbered: &Numbered) -> Result<Vec<u8>, AuditError> {
        let Some((&number, path)) = numbered.first_key_value() else { return Ok(Vec::new()) };
        let mut lines = Lines::new(BufReader::new(self.folder.read(writer, number, path)?));
        match lines.next().map_err(|e| AuditError::io("read", path, e))? {
            Line::Whole(line) => Ok(line.to_vec()),
            Line::End(_) => Ok(Vec::new()),
        }
    }

    fn chain_tail(
        &self,
        writer: WriterId,
        numbered: &Numbered,
        count: usize,
    ) -> Result<Vec<(UnixTime, Entry)>, AuditError> {
        let mut segments = Vec::new();
        let mut left = count;
        for (&number, path) in numbered.iter().rev() {
            let file = self.folder.read(writer, number, path)?;
            let entries = last_entries(file, writer, left).map_err(|e| AuditError::io("read", path, e))?;
            left -= entries.len();
            segments.push(entries);
            if left == 0 {
                break;
            }
        }
        // What cannot be read has no time of its own; it stands where its neighbour does.
        let mut time = UnixTime(0);
        let ordered = segments.into_iter().rev().flatten();
        Ok(ordered
            .map(|entry| {
                time = entry.event.as_ref().map_or(time, |event| event.time);
                (time, entry)
            })
            .collect())
    }
}

/// Stable, so that the events of one chain keep their order within a second.
pub(super) fn trim(kept: &mut Vec<(UnixTime, Entry)>, count: usize) {
    kept.sort_by_key(|(time, _)| *time);
    kept.drain(..kept.len().saturating_sub(count));
}

/// `None` for the lines that begin a segment.
pub(super) fn entry(writer: WriterId, line: &[u8]) -> Option<Entry> {
    let event = Event::parse(line).ok();
    let begins =
        || SignedGenesis::parse(line).is_ok() || Continuation::parse(line).is_some() || SignedCut::parse(line).is_ok();
    if event.is_none() && begins() {
        return None;
    }
    Some(Entry { writer, line: String::from_utf8_lossy(line).into_owned(), event })
}

/// When the last event of a segment happened; `None` where it holds none that can be read.
pub(super) fn last_time(path: &Path) -> io::Result<Option<UnixTime>> {
    let last = last_entries(File::open(path)?, WriterId([0; 16]), 1)?;
    Ok(last.into_iter().next_back().and_then(|entry| entry.event).map(|event| event.time))
}

/// The last events of one segment, read backwards as far as needed.
fn last_entries(mut file: File, writer: WriterId, count: usize) -> io::Result<Vec<Entry>> {
    let len = length(&file)?;
    let mut window = MAX_LINE as u64;
    loop {
        let start = len.saturating_sub(window);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.by_ref().take(len - start).read_to_end(&mut bytes)?;
        let end = memchr::memrchr(b'\n', &bytes).map_or(0, |at| at + 1);
        let mut lines: Vec<&[u8]> = bytes[..end].split_inclusive(|&b| b == b'\n').collect();
        if start > 0 && !lines.is_empty() {
            lines.remove(0); // it may have begun before the window
        }
        if lines.len() >= count || start == 0 {
            let lines = lines.iter().map(|line| line.strip_suffix(b"\n").unwrap_or(line));
            let mut entries: Vec<_> = lines.filter_map(|line| entry(writer, line)).collect();
            if entries.len() >= count || start == 0 {
                entries.drain(..entries.len().saturating_sub(count));
                return Ok(entries);
            }
        }
        window *= 4;
    }
}
