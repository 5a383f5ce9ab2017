//! Following a log from outside of it, for who ships copies: everything, in order, from where the last one stopped.
//!
//! What was taken over is remembered in a file of the audit folder, so that a copy goes on where it was, also after a crash: lines
//! can then come twice, and none is left out. Checkpoints come after the events that they cover.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use keyfold_core::{
    audit::{Action, Event},
    clock::UnixTime,
    id::WriterId,
};

use super::{
    AuditError,
    segments::{
        folder::{Folder, Numbered, owner_only},
        lines::whole_lines,
        notes::{each_note, frame_end},
    },
};

/// The most that is read at once.
const CHUNK: usize = 256 << 10;
/// After so many steps, one line each, the journal is written anew.
const REWRITE: u32 = 10_000;
/// A listing younger than this is made again.
const SETTLED: Duration = Duration::from_secs(1);
const NOTES: &str = "notes";

/// Where some bytes of the log are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A segment of a chain.
    Segment(WriterId, u32),
    /// The checkpoints.
    Notes,
}

/// Whole lines of one source.
#[derive(Debug)]
pub struct Chunk {
    /// Which.
    pub source: Source,
    /// Where in it they begin.
    pub offset: u64,
    /// The lines, newlines included.
    pub bytes: Vec<u8>,
}

/// One event, or what stands beside events in the log, as a line of JSON.
#[derive(Debug)]
pub struct Message {
    /// What it is: the event's action, `checkpoint`, or `chain` for the lines that begin and join segments.
    pub kind: &'static str,
    /// When the event happened.
    pub time: Option<UnixTime>,
    /// Whether it tells of a refusal.
    pub refused: bool,
    /// The stored line; a checkpoint's text stands in a member of that name.
    pub line: String,
}

impl Chunk {
    /// Its lines, one by one.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        if self.source == Source::Notes {
            let mut notes = Vec::new();
            let each = |note: &str| {
                let line = serde_json::json!({ "checkpoint": note }).to_string();
                notes.push(Message { kind: "checkpoint", time: None, refused: false, line });
            };
            // Reading from memory does not fail.
            let _ = each_note(&self.bytes[..], each);
            return notes;
        }
        let lines = self.bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|bytes| {
                let line = String::from_utf8_lossy(bytes).into_owned();
                match Event::parse(bytes) {
                    Ok(event) => Message {
                        kind: event.action.as_str(),
                        time: Some(event.time),
                        refused: event.action == Action::Refused,
                        line,
                    },
                    Err(_) => Message { kind: "chain", time: None, refused: false, line },
                }
            })
            .collect()
    }
}

/// One reader's place in a log. There is one for each name; a second one waits for its turn.
pub struct Follower {
    folder: Folder,
    path: PathBuf,
    places: HashMap<Source, u64>,
    journal: File,
    _lock: File,
    lines: u32,
    closed: Option<Closed>,
}

/// The finished segments as they were listed last, but for those that are done.
struct Closed {
    at: SystemTime,
    left: Vec<Left>,
}

struct Left {
    source: Source,
    path: PathBuf,
    /// Without what a crash left behind the last line.
    len: u64,
}

impl Follower {
    /// The reader `name` of the log in `dir`, or `None` while another process is it. Blocks.
    ///
    /// # Errors
    /// A file of the folder.
    pub fn open(dir: &Path, name: &str) -> Result<Option<Self>, AuditError> {
        let folder = Folder::new(dir);
        folder.create()?;
        let (path, lock) = (dir.join(format!("copied-{name}")), dir.join(format!("copied-{name}.lock")));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |e| AuditError::io("open", path, e)
        };
        let held = owner_only().write(true).create(true).truncate(false).open(&lock).map_err(failed(&lock))?;
        match held.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(AuditError::io("lock", lock, error)),
        }
        let places = match fs::read_to_string(&path) {
            Ok(text) => text.lines().filter_map(place).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => HashMap::new(),
            Err(error) => return Err(AuditError::io("read", path, error)),
        };
        let journal = rewritten(&path, &places).map_err(failed(&path))?;
        let mut follower = Self { folder, path, places, journal, _lock: held, lines: 0, closed: None };
        follower.rewrite()?;
        Ok(Some(follower))
    }

    /// What comes next: chunks of every source that has grown. Checkpoints come last, as far as they were before the rest was read.
    ///
    /// # Errors
    /// A file of the folder.
    pub fn look(&mut self) -> Result<Vec<Chunk>, AuditError> {
        let notes = fs::metadata(self.folder.notes()).map_or(0, |meta| meta.len());
        let mut chunks = Vec::new();
        for (source, path) in self.segments()? {
            let Source::Segment(writer, number) = source else { continue };
            let from = self.places.get(&source).copied().unwrap_or(0);
            match self.folder.read(writer, number, &path) {
                Ok(file) => {
                    let read = chunk(source, file, from, u64::MAX);
                    chunks.extend(read.map_err(|e| AuditError::io("read", path, e))?);
                }
                // Retention was faster.
                Err(AuditError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            if chunks.len() >= 16 {
                return Ok(chunks);
            }
        }
        let from = self.places.get(&Source::Notes).copied().unwrap_or(0);
        if chunks.is_empty() && from < notes {
            let path = self.folder.notes();
            let file = File::open(&path).map_err(|e| AuditError::io("read", &path, e))?;
            chunks.extend(chunk(Source::Notes, file, from, notes).map_err(|e| AuditError::io("read", path, e))?);
        }
        Ok(chunks)
    }

    /// Remembers that a chunk was taken over.
    ///
    /// # Errors
    /// It could not be; the chunk may come again.
    pub fn taken(&mut self, chunk: &Chunk) -> Result<(), AuditError> {
        let end = chunk.offset + chunk.bytes.len() as u64;
        self.places.insert(chunk.source, end);
        let written = self.journal.write_all(line(chunk.source, end).as_bytes());
        written.map_err(|e| AuditError::io("write", &self.path, e))?;
        self.lines += 1;
        if self.lines < REWRITE { Ok(()) } else { self.rewrite() }
    }

    /// Bytes that were not taken over yet.
    ///
    /// # Errors
    /// A file of the folder.
    pub fn behind(&mut self) -> Result<u64, AuditError> {
        let mut behind = 0;
        for (source, path) in self.segments()? {
            let len = File::open(&path).and_then(|file| whole_lines(&file)).unwrap_or(0);
            behind += len.saturating_sub(self.places.get(&source).copied().unwrap_or(0));
        }
        Ok(behind)
    }

    /// The segments being written, and the finished ones that are not taken over to their end.
    fn segments(&mut self) -> Result<Vec<(Source, PathBuf)>, AuditError> {
        // The open ones first: one that is finished in between is then seen twice and not never.
        let mut all: Vec<_> = listed(self.folder.open_segments()?).collect();
        let folder = self.folder.closed();
        let failed = |e| AuditError::io("list", &folder, e);
        let changed = fs::metadata(&folder).and_then(|meta| meta.modified()).map_err(failed)?;
        if self.closed.as_ref().is_none_or(|closed| closed.at != changed) {
            let left = listed(self.folder.closed_segments()?).filter_map(|(source, path)| {
                let len = whole_lines(&File::open(&path).ok()?).ok()?;
                Some(Left { source, path, len })
            });
            self.closed = Some(Closed { at: changed, left: left.collect() });
        }
        if let Some(closed) = &mut self.closed {
            closed.left.retain(|left| self.places.get(&left.source).copied().unwrap_or(0) < left.len);
            all.extend(closed.left.iter().map(|left| (left.source, left.path.clone())));
        }
        // Two changes within one tick of the file system's clock leave one time: such a list is not kept.
        if changed.elapsed().is_ok_and(|age| age < SETTLED) {
            self.closed = None;
        }
        Ok(all)
    }

    /// Writes the journal anew, without the sources that retention took out.
    fn rewrite(&mut self) -> Result<(), AuditError> {
        let there: HashSet<Source> = listed(self.folder.segments()?).map(|(source, _)| source).collect();
        self.places.retain(|source, _| *source == Source::Notes || there.contains(source));
        self.journal = rewritten(&self.path, &self.places).map_err(|e| AuditError::io("write", &self.path, e))?;
        self.lines = 0;
        Ok(())
    }
}

fn listed(found: BTreeMap<WriterId, Numbered>) -> impl Iterator<Item = (Source, PathBuf)> {
    found.into_iter().flat_map(|(writer, numbered)| {
        numbered.into_iter().map(move |(number, path)| (Source::Segment(writer, number), path))
    })
}

/// Which segments a reader of this name has not taken over to their end.
///
/// # Errors
/// A file of the folder.
pub fn not_copied(dir: &Path, name: &str) -> Result<impl Fn(WriterId, u32) -> bool + use<>, AuditError> {
    let path = dir.join(format!("copied-{name}"));
    let places: HashMap<Source, u64> = match fs::read_to_string(&path) {
        Ok(text) => text.lines().filter_map(place).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => HashMap::new(),
        Err(error) => return Err(AuditError::io("read", path, error)),
    };
    let folder = Folder::new(dir);
    Ok(move |writer, number| {
        let len = File::open(folder.closed_path(writer, number)).and_then(|file| whole_lines(&file));
        places.get(&Source::Segment(writer, number)).copied().unwrap_or(0) < len.unwrap_or(u64::MAX)
    })
}

/// Whole lines, or whole checkpoints, from an offset on, up to a length.
fn chunk(source: Source, mut file: File, offset: u64, up_to: u64) -> io::Result<Option<Chunk>> {
    if file.metadata()?.len().min(up_to) <= offset {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    let most = usize::try_from(up_to - offset).unwrap_or(usize::MAX);
    // A note can be longer than a chunk.
    let limit = if source == Source::Notes { 4 * CHUNK + CHUNK } else { CHUNK };
    file.take(limit.min(most) as u64).read_to_end(&mut bytes)?;
    let whole = match source {
        Source::Notes => frame_end(&bytes),
        Source::Segment(..) => {
            // Zeros are no lines yet.
            bytes.truncate(memchr::memchr(0, &bytes).unwrap_or(bytes.len()));
            memchr::memrchr(b'\n', &bytes).map(|at| at + 1)
        }
    };
    bytes.truncate(whole.unwrap_or(0));
    Ok((!bytes.is_empty()).then_some(Chunk { source, offset, bytes }))
}

fn line(source: Source, at: u64) -> String {
    match source {
        Source::Segment(writer, number) => format!("{writer} {number} {at}\n"),
        Source::Notes => format!("{NOTES} 0 {at}\n"),
    }
}

fn place(line: &str) -> Option<(Source, u64)> {
    let mut words = line.split(' ');
    let (name, number, at) = (words.next()?, words.next()?, words.next()?);
    let source = if name == NOTES { Source::Notes } else { Source::Segment(name.parse().ok()?, number.parse().ok()?) };
    Some((source, at.parse().ok()?))
}

/// The journal, one line for each source.
fn rewritten(path: &Path, places: &HashMap<Source, u64>) -> io::Result<File> {
    let new = path.with_extension("new");
    let mut file = owner_only().write(true).create(true).truncate(true).open(&new)?;
    let text: String = places.iter().map(|(&source, &at)| line(source, at)).collect();
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    Ok(file)
}
