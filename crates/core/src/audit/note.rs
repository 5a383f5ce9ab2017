//! Checkpoints: C2SP signed notes by which a writer vouches for its chain, and for those it found.
//!
//! ```text
//! keyfold/<deployment>/<writer>       origin, and the name of the key
//! keyfold-chain-v1
//! <size>
//! <head>
//! <time>
//! <keyring generation>
//! <hash of the previous note, or ->
//! <writer> <size> <head>              roster, any number of lines, sorted
//!
//! — <name> base64(key id ‖ signature)
//! ```
//!
//! **The roster is a delta.** It lists the writers that were anchored by this note because nothing had anchored them at
//! that point, not every writer ever known: each short command is a writer of its own, and a full list in each note
//! would grow with the square of their number. Since notes chain by hash, the lists along the chain add up to the full
//! roster, and taking a note out breaks the chain.

use crate::{
    audit::{
        chain::{Tip, hash},
        event::{Head, MAX_INTEGER},
        key::{PublicKey, SigningKey},
        text::Deployment,
    },
    clock::UnixTime,
    error::Code,
    id::WriterId,
};

/// The longest note, in bytes.
pub const MAX_NOTE: usize = 1 << 20;
/// The most writers in one note; who has more to say writes another.
pub const MAX_ROSTER: usize = 4096;
/// The most signature lines; all but the origin's are passed over (witnesses may add theirs).
const MAX_SIGNATURES: usize = 16;
const VERSION: &str = "keyfold-chain-v1";

/// Why a note could not be read.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Longer than any note.
    #[error("a note of {len} bytes, the limit is {MAX_NOTE}")]
    TooLong {
        /// Its length.
        len: usize,
    },

    /// A line is not what stands there in a note, or not in its one spelling.
    #[error("line {line} of the note is malformed")]
    Malformed {
        /// From 1.
        line: usize,
    },

    /// No signature line carries the origin's name.
    #[error("the note is not signed by its origin")]
    Unsigned,
}

impl NoteError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::TooLong { .. } => Code::TooLarge,
            Self::Malformed { .. } | Self::Unsigned => Code::Malformed,
        }
    }
}

/// What a note says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Whose log.
    pub deployment: Deployment,
    /// The writer and where its chain stands.
    pub tip: Tip,
    /// When.
    pub time: UnixTime,
    /// The keyring generation that the writer knew.
    pub generation: u64,
    /// The hash of the note before; `None` for the first of a log.
    pub previous: Option<Head>,
    /// Other writers whose chains this note anchors, sorted by id; at most [`MAX_ROSTER`].
    pub roster: Vec<Tip>,
}

/// A note with its signature, not necessarily a good one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedNote {
    note: Note,
    key_id: [u8; 4],
    signature: [u8; 64],
}

impl Note {
    /// The origin line, which is also the name of the writer's key.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("keyfold/{}/{}", self.deployment, self.tip.writer)
    }

    fn text(&self) -> String {
        let previous = self.previous.map_or_else(|| "-".into(), |head| head.to_string());
        let mut text = format!(
            "{}\n{VERSION}\n{}\n{}\n{}\n{}\n{previous}\n",
            self.origin(),
            self.tip.size,
            self.tip.head,
            self.time.0,
            self.generation
        );
        for Tip { writer, size, head } in &self.roster {
            text.push_str(&format!("{writer} {size} {head}\n"));
        }
        text
    }

    /// The whole note, signed by the writer's ephemeral key.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> String {
        let (text, name) = (self.text(), self.origin());
        let mut bytes = key.public().id(&name).to_vec();
        bytes.extend_from_slice(&key.sign(text.as_bytes()));
        format!("{text}\n— {name} {}\n", base64_simd::STANDARD.encode_to_string(&bytes))
    }
}

impl SignedNote {
    /// The hash by which the next note names this one: over all its bytes, signatures included.
    #[must_use]
    pub fn hash(note: &str) -> Head {
        hash(&[b"keyfold audit note v1\0", note.as_bytes()])
    }

    /// Reads a note. Nothing is verified yet.
    ///
    /// # Errors
    /// The note is too long, malformed, or carries no signature of its origin.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        if text.len() > MAX_NOTE {
            return Err(NoteError::TooLong { len: text.len() });
        }
        let (body, signatures) = text.split_once("\n\n").ok_or(NoteError::Malformed { line: 1 })?;
        let note = parse_body(body)?;
        if note.text().len() != body.len() + 1 || !note.text().starts_with(body) {
            return Err(NoteError::Malformed { line: 1 });
        }
        let (key_id, signature) = parse_signatures(signatures, &note.origin())?;
        Ok(Self { note, key_id, signature })
    }

    /// What it says, whether or not it is true.
    #[must_use]
    pub const fn unverified(&self) -> &Note {
        &self.note
    }

    /// What it says, if this writer's key signed it.
    #[must_use]
    pub fn verify(&self, key: &PublicKey) -> Option<&Note> {
        let named = key.id(&self.note.origin()) == self.key_id;
        (named && key.signed(self.note.text().as_bytes(), &self.signature)).then_some(&self.note)
    }
}

/// Decimal, without sign or leading zeros being looked at: the caller compares the whole text with its one spelling.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|&n| n <= MAX_INTEGER)
}

fn parse_body(body: &str) -> Result<Note, NoteError> {
    let mut lines = body.split('\n').enumerate();
    let mut next = || lines.next().map(|(at, line)| (at + 1, line)).ok_or(NoteError::Malformed { line: 0 });
    let bad = |line| NoteError::Malformed { line };

    let (at, origin) = next()?;
    let (deployment, writer) = origin.strip_prefix("keyfold/").and_then(|rest| rest.split_once('/')).ok_or(bad(at))?;
    let deployment = Deployment::new(deployment).map_err(|_| bad(at))?;
    let writer: WriterId = writer.parse().map_err(|_| bad(at))?;
    let (at, version) = next()?;
    if version != VERSION {
        return Err(bad(at));
    }
    let (at, size) = next()?;
    let size = number(size).ok_or(bad(at))?;
    let (at, head) = next()?;
    let head: Head = head.parse().map_err(|_| bad(at))?;
    let (at, time) = next()?;
    let time = UnixTime(number(time).ok_or(bad(at))?);
    let (at, generation) = next()?;
    let generation = number(generation).ok_or(bad(at))?;
    let (at, previous) = next()?;
    let previous = match previous {
        "-" => None,
        hex => Some(hex.parse().map_err(|_| bad(at))?),
    };
    let mut roster: Vec<Tip> = Vec::new();
    for (at, line) in lines {
        let tip = parse_tip(line).ok_or(bad(at + 1))?;
        if roster.len() == MAX_ROSTER || roster.last().is_some_and(|last| last.writer >= tip.writer) {
            return Err(bad(at + 1));
        }
        roster.push(tip);
    }
    Ok(Note { deployment, tip: Tip { head, size, writer }, time, generation, previous, roster })
}

fn parse_tip(line: &str) -> Option<Tip> {
    let (writer, rest) = line.split_once(' ')?;
    let (size, head) = rest.split_once(' ')?;
    Some(Tip { head: head.parse().ok()?, size: number(size)?, writer: writer.parse().ok()? })
}

fn parse_signatures(lines: &str, origin: &str) -> Result<([u8; 4], [u8; 64]), NoteError> {
    let lines = lines.strip_suffix('\n').ok_or(NoteError::Unsigned)?;
    for line in lines.split('\n').take(MAX_SIGNATURES) {
        let Some((name, base64)) = line.strip_prefix("— ").and_then(|rest| rest.split_once(' ')) else {
            return Err(NoteError::Unsigned);
        };
        let bytes = base64_simd::STANDARD.decode_to_vec(base64).map_err(|_| NoteError::Unsigned)?;
        if name == origin && bytes.len() == 68 {
            let (mut key_id, mut signature) = ([0; 4], [0; 64]);
            key_id.copy_from_slice(&bytes[..4]);
            signature.copy_from_slice(&bytes[4..]);
            return Ok((key_id, signature));
        }
    }
    Err(NoteError::Unsigned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Note {
        let tip = |n| Tip { head: Head([n; 32]), size: u64::from(n), writer: WriterId([n; 16]) };
        Note {
            deployment: Deployment::new("d").unwrap(),
            tip: tip(9),
            time: UnixTime(1_800_000_000),
            generation: 4,
            previous: Some(Head([7; 32])),
            roster: vec![tip(1), tip(2)],
        }
    }

    #[test]
    fn a_note_reads_back_and_verifies_under_its_writers_key_only() {
        let key = SigningKey::from_seed(&[1; 32]).unwrap();
        for note in [note(), Note { previous: None, roster: vec![], ..note() }] {
            let text = note.sign(&key);
            let read = SignedNote::parse(&text).unwrap();
            assert_eq!(read.verify(&key.public()), Some(&note));
            assert_eq!(read.verify(&SigningKey::from_seed(&[2; 32]).unwrap().public()), None);
            let forged = text.replace("\n4\n", "\n5\n");
            assert_eq!(SignedNote::parse(&forged).unwrap().verify(&key.public()), None);
        }
    }

    #[test]
    fn a_witness_may_add_a_line() {
        let key = SigningKey::from_seed(&[1; 32]).unwrap();
        let text = format!("{}— witness AAAA\n", note().sign(&key));
        assert!(SignedNote::parse(&text).unwrap().verify(&key.public()).is_some());
    }

    #[test]
    fn another_spelling_is_refused() {
        let text = note().sign(&SigningKey::from_seed(&[1; 32]).unwrap());
        let swapped = Note { roster: note().roster.into_iter().rev().collect(), ..note() };
        let swapped = swapped.sign(&SigningKey::from_seed(&[1; 32]).unwrap());
        for bad in [text.replace("\n9\n", "\n09\n"), text.replace("\n9\n", "\n+9\n"), text.to_uppercase(), swapped] {
            assert!(SignedNote::parse(&bad).is_err(), "{bad}");
        }
        assert!(SignedNote::parse(&text[..text.len() - 1]).is_err());
        assert!(SignedNote::parse("").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text: String, cut in 0usize..600) {
            let _ = SignedNote::parse(&text);
            let whole = note().sign(&SigningKey::from_seed(&[1; 32]).unwrap());
            if let Some(part) = whole.get(..cut) {
                let _ = SignedNote::parse(&format!("{part}{text}"));
            }
        }
    }
}
