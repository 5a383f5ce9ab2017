//! Retention: the oldest events go, the proof that they were there stays.
//!
//! What is said here is about files; of a log in a store see `stored/retention.rs`. Only finished segments go, whole, from the front of their chain, and only out of a log that verifies. The first one is
//! replaced by its genesis and a [`Cut`] that the deployment's audit key signs; the checkpoints stay for good. Killed in between,
//! the next run removes what the cut already stands for.

use std::{
    fs::{self, File},
    io::{BufReader, Write as _},
    path::{Path, PathBuf},
};

use keyfold_core::{
    audit::{Chain, Continuation, Cut, SignedCut, SigningKey, Tip, Verdict, VerifierKey},
    clock::UnixTime,
    id::WriterId,
};

use super::{
    AuditError, AuditLog,
    reader::last_time,
    segments::{
        folder::{Folder, Numbered, owner_only},
        lines::{Line, Lines},
        notes::Notes,
    },
};

/// What retention took out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    /// Events.
    pub events: u64,
    /// Of so many chains.
    pub chains: u64,
}

/// Who signs for what is taken out.
pub struct Pruner<'a> {
    /// The deployment's audit key.
    pub key: &'a SigningKey,
    /// Its public half.
    pub of: &'a VerifierKey,
}

/// A leading run of segments that goes, and where it ends.
struct Leading {
    last: u32,
    end: Tip,
    already: u64,
}

impl Pruner<'_> {
    /// Whether there is anything in the log that happened before `before` and could go. Blocks.
    ///
    /// # Errors
    /// Something could not be read.
    pub fn is_due(dir: &Path, before: UnixTime) -> Result<bool, AuditError> {
        let segments = Folder::new(dir).closed_segments()?;
        let mut firsts = segments.values().flat_map(|numbered| numbered.values().take(2));
        Ok(firsts.any(|path| last_time(path).is_ok_and(|time| time.is_some_and(|time| time < before))))
    }

    /// Takes out what happened before `before`. `kept` says which segments must stay all the same, because a copy still needs them.
    /// Blocks.
    ///
    /// # Errors
    /// The log does not verify: then nothing is taken out. Something could not be read or written.
    pub fn prune(
        &self,
        dir: &Path,
        (before, now): (UnixTime, UnixTime),
        kept: impl Fn(WriterId, u32) -> bool,
    ) -> Result<Pruned, AuditError> {
        let report = AuditLog::at(dir).verify(self.of)?;
        if report.findings.iter().any(Verdict::is_tampering) {
            return Err(AuditError::Tampered { found: report.verdict().to_string() });
        }
        let folder = Folder::new(dir);
        let mut pruned = Pruned::default();
        if report.chains == 0 {
            return Ok(pruned);
        }
        // Nobody finishes the chains of the dead meanwhile, and no other process prunes.
        let _notes = Notes::lock(&folder)?;
        let segments = folder.segments()?;
        let open = folder.open_segments()?;
        for (&writer, numbered) in &segments {
            let finished = |number: &u32| !open.get(&writer).is_some_and(|open| open.contains_key(number));
            let old = numbered.iter().take_while(|(number, path)| {
                finished(number)
                    && !kept(writer, **number)
                    && last_time(path).is_ok_and(|time| time.is_none_or(|t| t < before))
            });
            let Some(leading) = leading(&folder, writer, numbered, old.count())? else { continue };
            let left = numbered.iter().filter(|(number, _)| (1..=leading.last).contains(*number));
            let leftovers: Vec<PathBuf> = left.map(|(_, path)| path.clone()).collect();
            if leading.end.size > leading.already {
                self.replace(&folder, writer, Cut { tip: leading.end, time: now })?;
                pruned.events += leading.end.size - leading.already;
                pruned.chains += 1;
            }
            for path in leftovers {
                fs::remove_file(&path).map_err(|e| AuditError::io("remove", &path, e))?;
            }
        }
        folder.sync()?;
        Ok(pruned)
    }

    /// Puts genesis and cut in the place of the first segment.
    fn replace(&self, folder: &Folder, writer: WriterId, cut: Cut) -> Result<(), AuditError> {
        let path = folder.closed_path(writer, 0);
        let new = path.with_extension("cut");
        let genesis = first_line(&path)?;
        let written = (|| {
            let mut file = owner_only().write(true).create(true).truncate(true).open(&new)?;
            file.write_all(&[&genesis[..], b"\n", &cut.sign(self.key, self.of), b"\n"].concat())?;
            file.sync_all()?;
            fs::rename(&new, &path)
        })();
        written.map_err(|e| AuditError::io("replace", &path, e))?;
        // The cut is durable before what it stands for goes.
        folder.sync()
    }
}

fn first_line(path: &Path) -> Result<Vec<u8>, AuditError> {
    let failed = |e| AuditError::io("read", path, e);
    let mut lines = Lines::new(BufReader::new(File::open(path).map_err(failed)?));
    match lines.next().map_err(failed)? {
        Line::Whole(line) => Ok(line.to_vec()),
        Line::End(_) => Ok(Vec::new()),
    }
}

/// The first `count` segments of a chain, if they begin it and where they end can be told.
fn leading(
    folder: &Folder,
    writer: WriterId,
    numbered: &Numbered,
    count: usize,
) -> Result<Option<Leading>, AuditError> {
    let numbers: Vec<u32> = numbered.keys().copied().take(count).collect();
    if numbers.first() != Some(&0) {
        return Ok(None);
    }
    // A run that was interrupted removed some from the front; what is left of them lies before the cut.
    let Some(&last) = numbers.last() else { return Ok(None) };
    let read = |number: u32| match numbered.get(&number) {
        Some(path) => folder.read(writer, number, path).map(|file| Some((file, path))),
        None => Ok(None),
    };
    let already = match read(0)? {
        Some((file, path)) => cut_of(file).map_err(|e| AuditError::io("read", path, e))?,
        None => None,
    };
    let before = already.map_or(0, |tip| tip.size);
    let next = numbered.range(last + 1..).next().map(|(&number, _)| number);
    let end = match next {
        Some(next) => match read(next)? {
            Some((file, path)) => match first(file).map_err(|e| AuditError::io("read", path, e))? {
                Some(line) => Continuation::parse(&line).map(|line| line.continues),
                None => None,
            },
            None => None,
        },
        None if last == 0 && already.is_some() => already,
        None => match read(last)? {
            Some((file, path)) => end_of(file, writer).map_err(|e| AuditError::io("read", path, e))?,
            None => None,
        },
    };
    Ok(end.filter(|end| end.writer == writer && end.size >= before).map(|end| Leading { last, end, already: before }))
}

fn first(file: File) -> std::io::Result<Option<Vec<u8>>> {
    Ok(match Lines::new(BufReader::new(file)).next()? {
        Line::Whole(line) => Some(line.to_vec()),
        Line::End(_) => None,
    })
}

/// Where an earlier cut of a first segment is, if there is one.
fn cut_of(file: File) -> std::io::Result<Option<Tip>> {
    let mut lines = Lines::new(BufReader::new(file));
    if lines.next()? == Line::End(0) {
        return Ok(None);
    }
    Ok(match lines.next()? {
        Line::Whole(line) => SignedCut::parse(line).ok().map(|cut| cut.unverified().tip),
        Line::End(_) => None,
    })
}

/// Where the last segment of a finished chain ends.
fn end_of(file: File, writer: WriterId) -> std::io::Result<Option<Tip>> {
    let mut lines = Lines::new(BufReader::new(file));
    let mut chain = match lines.next()? {
        Line::End(_) => return Ok(None),
        Line::Whole(line) => match Continuation::parse(line) {
            Some(line) => Chain::resume(line.continues),
            None => Chain::start(writer, line),
        },
    };
    while let Line::Whole(line) = lines.next()? {
        chain.push(line);
    }
    Ok(Some(chain.tip()))
}
