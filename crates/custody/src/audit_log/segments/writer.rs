//! The one who writes: a chain, its current segment, its checkpoints. Synchronous, on a thread of its own.

use std::sync::Arc;

use keyfold_core::{
    audit::{
        Chain, Continuation, Deployment, Event, Genesis, Note, SignedNote, SigningKey, Tip, VerifierKey,
        event::MAX_INTEGER,
    },
    clock::Clock,
    id::WriterId,
};

use super::{
    dead,
    file::{Failed, Segment},
    folder::Folder,
    notes::{Notes, peek},
};
use crate::audit_log::{AuditError, queued::Batch};

/// Room for the line of one event; most are shorter.
const LINE: usize = 384;

/// What a writer is and where it writes.
pub(super) struct Identity {
    pub(super) folder: Folder,
    pub(super) deployment: Deployment,
    pub(super) root: SigningKey,
    pub(super) own: SigningKey,
    pub(super) writer: WriterId,
    pub(super) clock: Arc<dyn Clock>,
    /// Segments roll above this many bytes.
    pub(super) roll_at: u64,
}

/// The writer's state between groups.
pub(super) struct Writer {
    who: Identity,
    live: Option<Live>,
    /// Outcomes that could not be written; nothing else is until they are.
    backlog: Vec<Event>,
    /// Why nothing is taken any more.
    stopped: Option<AuditError>,
    generation: u64,
}

struct Live {
    chain: Chain,
    segment: Segment,
    number: u32,
    /// Whether dead writers' chains, as found at the start, are anchored.
    settled: bool,
    /// The size and generation of the last note of ours.
    noted: Option<(u64, u64)>,
}

impl Writer {
    pub(super) const fn new(who: Identity) -> Self {
        Self { who, live: None, backlog: Vec::new(), stopped: None, generation: 0 }
    }

    /// Writes a group under one flush. One answer for each batch.
    pub(super) fn group(&mut self, batches: Vec<Batch>) -> Vec<Result<(), AuditError>> {
        let ready = self.ready().and_then(|()| self.settle());
        let written = match ready {
            Ok(()) => self.write(&batches),
            Err(error) => Err(error),
        };
        match written {
            Ok(answers) => answers,
            Err(error) => {
                let answers = batches.iter().map(|_| Err(error.clone())).collect();
                let outcomes = batches.into_iter().filter(|batch| !batch.intent);
                self.backlog.extend(outcomes.flat_map(|batch| batch.events));
                answers
            }
        }
    }

    /// Starts the chain if this is the first time, and writes what is owed.
    fn ready(&mut self) -> Result<(), AuditError> {
        if let Some(error) = &self.stopped {
            return Err(match error {
                AuditError::Closed => AuditError::Closed,
                other => AuditError::Stopped { source: Some(Arc::new(other.clone())) },
            });
        }
        if self.live.is_none() {
            self.live = Some(self.start()?);
        }
        if !self.backlog.is_empty() {
            let owed = vec![Batch { events: std::mem::take(&mut self.backlog), intent: true }];
            if let Err(error) = self.write(&owed) {
                self.backlog = owed.into_iter().flat_map(|batch| batch.events).collect();
                return Err(error);
            }
        }
        Ok(())
    }

    fn start(&mut self) -> Result<Live, AuditError> {
        let who = &self.who;
        who.folder.create()?;
        let last = peek(&who.folder)?.and_then(|note| SignedNote::parse(&note).ok());
        let last = last.as_ref().map(SignedNote::unverified);
        self.generation = self.generation.max(last.map_or(0, |note| note.generation));
        let genesis = Genesis {
            deployment: who.deployment.clone(),
            key: who.own.public(),
            predecessor: last.map(|note| note.tip),
            time: who.clock.now(),
            writer: who.writer,
        };
        let genesis = genesis.sign(&who.root);
        let (file, path) = who.folder.begin(who.writer, 0, &[&genesis[..], b"\n"].concat())?;
        let chain = Chain::start(who.writer, &genesis);
        Ok(Live { chain, segment: Segment::new(file, path)?, number: 0, settled: false, noted: None })
    }

    /// Anchors, once, the chains that were dead when this one began.
    fn settle(&mut self) -> Result<(), AuditError> {
        if self.live.as_ref().is_some_and(|live| !live.settled) {
            self.note(self.generation, false)?;
        }
        if let Some(live) = &mut self.live {
            live.settled = true;
        }
        Ok(())
    }

    fn write(&mut self, batches: &[Batch]) -> Result<Vec<Result<(), AuditError>>, AuditError> {
        let Some(live) = &mut self.live else { return Err(AuditError::Closed) };
        let events: usize = batches.iter().map(|batch| batch.events.len()).sum();
        let (mut chain, mut lines) = (live.chain, Vec::with_capacity(events * LINE));
        let mut answers = Vec::with_capacity(batches.len());
        for batch in batches {
            // A batch that does not encode fails alone: chain and lines go back to where it began.
            let (before, len) = (chain, lines.len());
            let encoded = batch.events.iter().try_for_each(|event| {
                chain.append_to(&mut lines, event)?;
                lines.push(b'\n');
                Ok(())
            });
            if encoded.is_err() {
                chain = before;
                lines.truncate(len);
            }
            answers.push(encoded.map_err(AuditError::Event));
        }
        let waited = batches.iter().any(|batch| batch.intent);
        let done = live.segment.write(&lines).and_then(|()| {
            live.chain = chain;
            if waited { live.segment.flush() } else { Ok(()) }
        });
        self.judge(done)?;
        self.roll();
        Ok(answers)
    }

    /// A failure after which the file is unknown is the last thing this writer does.
    fn judge(&mut self, done: Result<(), Failed>) -> Result<(), AuditError> {
        done.map_err(|failed| match failed {
            Failed::Clean(error) => error,
            Failed::Unknown(error) => {
                self.stopped = Some(error.clone());
                error
            }
        })
    }

    /// Begins the next segment where this one is long enough. If that fails, this one gets longer.
    fn roll(&mut self) {
        let Some(live) = &mut self.live else { return };
        if live.segment.len() < self.who.roll_at {
            return;
        }
        let mut rolled = || -> Result<(), AuditError> {
            live.segment.finish().map_err(|(Failed::Clean(error) | Failed::Unknown(error))| error)?;
            let first = [&Continuation { continues: live.chain.tip() }.encode()[..], b"\n"].concat();
            let (file, path) = self.who.folder.begin(self.who.writer, live.number + 1, &first)?;
            live.segment = Segment::new(file, path)?;
            live.number += 1;
            self.who.folder.close(self.who.writer, live.number - 1)?;
            self.who.folder.sync()
        };
        if let Err(error) = rolled() {
            tracing::warn!(%error, "an audit segment could not be rolled");
        }
    }

    /// Signs where the chain stands, and anchors the chains of the dead. Nothing before the first event.
    pub(super) fn checkpoint(&mut self, generation: u64, close: bool) -> Result<(), AuditError> {
        self.generation = generation.min(MAX_INTEGER);
        let begun = self.live.is_some() || !self.backlog.is_empty();
        let noted = if begun { self.ready().and_then(|()| self.sign(close)) } else { Ok(()) };
        if close {
            // Closed also where closing failed: what could not be anchored is left for the next process.
            self.live = None;
            self.stopped.get_or_insert(AuditError::Closed);
        }
        noted
    }

    fn sign(&mut self, close: bool) -> Result<(), AuditError> {
        let flush = if close { Segment::finish } else { Segment::flush };
        let flushed = self.live.as_mut().map_or(Ok(()), |live| flush(&mut live.segment));
        self.judge(flushed)?;
        self.note(self.generation, true)?;
        let Some(live) = &self.live else { return Ok(()) };
        if close {
            self.who.folder.close(self.who.writer, live.number)?;
            self.who.folder.sync()?;
        }
        Ok(())
    }

    fn note(&mut self, generation: u64, own: bool) -> Result<(), AuditError> {
        let Some(live) = &mut self.live else { return Ok(()) };
        let who = &self.who;
        let tip = live.chain.tip();
        let mut notes = Notes::lock(&who.folder)?;
        let key = VerifierKey::of(&who.deployment, who.root.public());
        loop {
            let dead = dead::find(&who.folder, who.writer, &key)?;
            let news = own && live.noted != Some((tip.size, generation));
            if dead.is_empty() && !news {
                return Ok(());
            }
            let roster: Vec<Tip> = dead.iter().map(|dead| dead.tip).collect();
            let note = Note {
                deployment: who.deployment.clone(),
                tip,
                time: who.clock.now(),
                generation,
                previous: notes.last().map(SignedNote::hash),
                roster,
            };
            notes.add(note.sign(&who.own))?;
            live.noted = Some((tip.size, generation));
            for gone in &dead {
                gone.cut()?;
                for &number in &gone.numbers {
                    who.folder.close(gone.tip.writer, number)?;
                }
            }
            who.folder.sync()?;
            if dead.len() < dead::AT_ONCE {
                return Ok(());
            }
        }
    }
}
