//! The one who writes: a chain, its lines in the store, its checkpoints.
//!
//! An append that failed may have been done all the same. Before anything else is written the store is asked: the chain goes on from
//! what is there. A line that came late after that takes a number which the chain gave to another, and the writer stops.

use std::sync::Arc;

use keyfold_core::{
    audit::{
        Chain, Deployment, Event, EventError, Genesis, Note, SignedGenesis, SignedNote, SigningKey, Tip, VerifierKey,
        event::MAX_INTEGER,
    },
    clock::Clock,
    id::WriterId,
};

use super::{AT_ONCE, Append, Lines};
use crate::audit_log::{AuditError, queued::Batch};

/// The most bytes of one append, with what a line may add.
const BYTES: usize = 4 << 20;
/// How often another process may be faster with a note.
const TRIES: usize = 50;

/// What a writer is and where it writes.
pub(super) struct Identity {
    pub(super) store: Arc<dyn Lines>,
    pub(super) deployment: Deployment,
    pub(super) root: SigningKey,
    pub(super) own: SigningKey,
    pub(super) writer: WriterId,
    pub(super) clock: Arc<dyn Clock>,
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
    /// The number of the next line.
    next: u64,
    /// What was sent without an answer.
    unanswered: Option<Sent>,
    /// Whether dead writers' chains, as found at the start, are anchored.
    settled: bool,
    /// The size and generation of the last note of ours.
    noted: Option<(u64, u64)>,
}

/// Lines of one append.
struct Sent {
    lines: Vec<Vec<u8>>,
    bytes: usize,
    /// The chain after them.
    chain: Chain,
    /// The outcomes among them: owed where the lines turn out not to be stored, and only there.
    outcomes: Vec<Event>,
    /// Whether the store said that it does not have the lines before them.
    refused: bool,
}

impl Sent {
    const fn after(chain: Chain) -> Self {
        Self { lines: Vec::new(), bytes: 0, chain, outcomes: Vec::new(), refused: false }
    }
}

impl Writer {
    pub(super) const fn new(who: Identity) -> Self {
        Self { who, live: None, backlog: Vec::new(), stopped: None, generation: 0 }
    }

    /// Tells other machines that this process lives.
    pub(super) async fn beat(&self) {
        if self.live.is_some()
            && let Err(error) = self.who.store.beat(self.who.writer).await
        {
            tracing::debug!(%error, "the audit log's store does not hear that this process lives");
        }
    }

    /// Writes a group at once. One answer for each batch.
    pub(super) async fn group(&mut self, batches: Vec<Batch>) -> Vec<Result<(), AuditError>> {
        match self.ready().await {
            Ok(()) => self.write(batches).await,
            Err(error) => {
                let answers = batches.iter().map(|_| Err(error.clone())).collect();
                let outcomes = batches.into_iter().filter(|batch| !batch.intent);
                self.backlog.extend(outcomes.flat_map(|batch| batch.events));
                answers
            }
        }
    }

    /// Starts the chain if this is the first time, finds out what became of the last append, and writes what is owed.
    async fn ready(&mut self) -> Result<(), AuditError> {
        if let Some(error) = &self.stopped {
            return Err(match error {
                AuditError::Closed => AuditError::Closed,
                other => AuditError::Stopped { source: Some(Arc::new(other.clone())) },
            });
        }
        if self.live.is_none() {
            self.live = Some(self.start().await?);
        }
        self.find_out().await?;
        if !self.backlog.is_empty() {
            // Each for itself: one without a stored form keeps no other back.
            let owed = std::mem::take(&mut self.backlog).into_iter();
            let owed = owed.map(|event| Batch { events: vec![event], intent: false }).collect();
            for answer in self.write(owed).await {
                match answer {
                    Err(AuditError::Event(error)) => {
                        tracing::error!(%error, "an outcome cannot be written to the audit log");
                    }
                    other => other?,
                }
            }
        }
        if self.live.as_ref().is_some_and(|live| !live.settled) {
            self.note(self.generation, false).await?;
        }
        if let Some(live) = &mut self.live {
            live.settled = true;
        }
        Ok(())
    }

    async fn start(&mut self) -> Result<Live, AuditError> {
        let who = &self.who;
        let last = who.store.last_note().await?.and_then(|(_, note)| SignedNote::parse(&note).ok());
        let last = last.as_ref().map(SignedNote::unverified);
        if let Some(last) = last.filter(|last| last.deployment != who.deployment) {
            return Err(AuditError::Elsewhere { store: who.store.name(), found: last.deployment.to_string() });
        }
        self.generation = self.generation.max(last.map_or(0, |note| note.generation));
        let genesis = Genesis {
            deployment: who.deployment.clone(),
            key: who.own.public(),
            predecessor: last.map(|note| note.tip),
            time: who.clock.now(),
            writer: who.writer,
        };
        let genesis = genesis.sign(&who.root);
        let chain = Chain::start(who.writer, &genesis);
        let sent = Sent { lines: vec![genesis], ..Sent::after(chain) };
        Ok(Live { chain, next: 0, unanswered: Some(sent), settled: false, noted: None })
    }

    /// What became of an append that got no answer.
    async fn find_out(&mut self) -> Result<(), AuditError> {
        let who = &self.who;
        let Some(live) = &mut self.live else { return Ok(()) };
        let Some(sent) = &mut live.unanswered else { return Ok(()) };
        let (chain, count) = (sent.chain, sent.lines.len() as u64);
        let found = who.store.lines(who.writer, live.next, sent.lines.len() + 1).await?;
        if found == sent.lines {
            live.unanswered = None;
        } else if !found.is_empty() {
            return Err(self.stop(AuditError::Altered { store: self.who.store.name() }));
        } else if live.next == 0 {
            // The genesis is no event that somebody was told of: it is simply sent again.
            let append = Append { writer: who.writer, first: 0, lines: &sent.lines, tip: chain.tip() };
            if !who.store.append(&append).await? {
                return Err(AuditError::Altered { store: who.store.name() });
            }
            live.unanswered = None;
        } else {
            // It was not done, and who waited for it was told so.
            self.backlog.splice(0..0, std::mem::take(&mut sent.outcomes));
            if sent.refused {
                // Lines are gone that the store had acknowledged.
                return Err(self.stop(AuditError::Altered { store: self.who.store.name() }));
            }
            live.unanswered = None;
            return Ok(());
        }
        live.chain = chain;
        live.next += count;
        Ok(())
    }

    fn stop(&mut self, error: AuditError) -> AuditError {
        self.stopped = Some(error.clone());
        error
    }

    /// Writes batches in as few appends as stores take. The outcomes that are not written are owed.
    async fn write(&mut self, batches: Vec<Batch>) -> Vec<Result<(), AuditError>> {
        let mut answers: Vec<_> = batches.iter().map(|_| Ok(())).collect();
        let Some(live) = &self.live else { return batches.iter().map(|_| Err(AuditError::Closed)).collect() };
        let mut sent = Sent::after(live.chain);
        // The first batch that is not wholly stored yet.
        let mut open = 0;
        let mut failed = None;
        for (at, batch) in batches.into_iter().enumerate() {
            // A batch that does not encode fails alone: none of its lines is taken.
            let lines = match encode(sent.chain, &batch.events) {
                Ok(lines) => lines,
                Err(error) => {
                    answers[at] = Err(error.into());
                    continue;
                }
            };
            for (event, (line, chain)) in batch.events.into_iter().zip(lines) {
                if failed.is_none() && !sent.lines.is_empty() && sent.bytes + line.len() > BYTES {
                    let whole = std::mem::replace(&mut sent, Sent::after(chain));
                    match self.append(whole).await {
                        Ok(()) => open = at,
                        Err(error) => failed = Some(error),
                    }
                }
                if failed.is_none() {
                    sent.bytes += line.len();
                    sent.lines.push(line);
                    sent.chain = chain;
                    sent.outcomes.extend((!batch.intent).then_some(event));
                } else if !batch.intent {
                    self.backlog.push(event);
                }
            }
        }
        if failed.is_none() {
            failed = self.append(sent).await.err();
        }
        if let Some(error) = failed {
            answers[open..].iter_mut().filter(|answer| answer.is_ok()).for_each(|answer| *answer = Err(error.clone()));
        }
        answers
    }

    async fn append(&mut self, mut sent: Sent) -> Result<(), AuditError> {
        let Some(live) = &mut self.live else { return Err(AuditError::Closed) };
        if sent.lines.is_empty() {
            return Ok(());
        }
        let append = Append { writer: self.who.writer, first: live.next, lines: &sent.lines, tip: sent.chain.tip() };
        let done = self.who.store.append(&append).await;
        if matches!(done, Ok(true)) {
            live.chain = sent.chain;
            live.next += sent.lines.len() as u64;
            return Ok(());
        }
        sent.refused = done.is_ok();
        live.unanswered = Some(sent);
        match done {
            Err(error) => Err(error.into()),
            Ok(_) => Err(AuditError::Altered { store: self.who.store.name() }),
        }
    }

    /// Signs where the chain stands, and anchors the chains of the dead. Nothing before the first event.
    pub(super) async fn checkpoint(&mut self, generation: u64, close: bool) -> Result<(), AuditError> {
        self.generation = generation.min(MAX_INTEGER);
        let begun = self.live.is_some() || !self.backlog.is_empty();
        let noted = if begun { self.sign(close).await } else { Ok(()) };
        if close {
            // Closed also where closing failed: what could not be anchored is left for the next process.
            self.live = None;
            self.stopped.get_or_insert(AuditError::Closed);
        }
        noted
    }

    async fn sign(&mut self, close: bool) -> Result<(), AuditError> {
        if let Err(error) = self.ready().await {
            // Where lines are gone, the checkpoint tells whoever verifies how far the chain had come.
            if matches!(self.stopped, Some(AuditError::Altered { .. })) {
                self.note(self.generation, true).await?;
            }
            return Err(error);
        }
        self.note(self.generation, true).await?;
        if let Some(live) = self.live.as_ref().filter(|_| close) {
            self.who.store.close(&[live.chain.tip()]).await?;
        }
        Ok(())
    }

    async fn note(&mut self, generation: u64, own: bool) -> Result<(), AuditError> {
        let Some(live) = &mut self.live else { return Ok(()) };
        let who = &self.who;
        let tip = live.chain.tip();
        for _ in 0..TRIES {
            let last = who.store.last_note().await?;
            let dead = dead(who).await?;
            let news = own && live.noted != Some((tip.size, generation));
            if dead.is_empty() && !news {
                return Ok(());
            }
            let note = Note {
                deployment: who.deployment.clone(),
                tip,
                time: who.clock.now(),
                generation,
                previous: last.as_ref().map(|(_, note)| SignedNote::hash(note)),
                roster: dead.clone(),
            };
            let number = last.map_or(0, |(number, _)| number) + 1;
            if !who.store.add_note(number, &note.sign(&who.own)).await? {
                continue;
            }
            live.noted = Some((tip.size, generation));
            who.store.close(&dead).await?;
            if dead.len() < AT_ONCE {
                return Ok(());
            }
        }
        Err(AuditError::Crowded { store: who.store.name() })
    }
}

/// The lines of a batch, each with the chain after it.
fn encode(mut chain: Chain, events: &[Event]) -> Result<Vec<(Vec<u8>, Chain)>, EventError> {
    events.iter().map(|event| Ok((chain.append(event)?, chain))).collect()
}

/// The chains of the dead. One whose beginning this deployment did not sign is left where it is, for `verify` to name.
async fn dead(who: &Identity) -> Result<Vec<Tip>, AuditError> {
    let key = VerifierKey::of(&who.deployment, who.root.public());
    let mut dead = Vec::new();
    for tip in who.store.dead().await? {
        if tip.writer == who.writer {
            continue;
        }
        let genesis = who.store.lines(tip.writer, 0, 1).await?;
        let signed = genesis.first().and_then(|line| SignedGenesis::parse(line).ok());
        match signed.as_ref().and_then(|genesis| genesis.verify(&key)) {
            Some(said) if said.writer == tip.writer => dead.push(tip),
            _ => tracing::warn!(writer = %tip.writer, "an audit chain of unknown origin is left unanchored"),
        }
    }
    dead.sort_by_key(|tip| tip.writer);
    Ok(dead)
}
