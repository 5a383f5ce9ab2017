//! Jobs over stored records: `migrate` seals what is plaintext or moves it to another format, `rotate` moves it to the
//! primary key, `verify` opens everything.
//!
//! What holds for all of them:
//! - No record is deleted. A value is written only if the whole old value was opened and the new one was opened again, in
//!   memory, to the same secret; what does not open is left as it is, counted and named.
//! - A writer that was faster wins, and its record is visited again: passes repeat until one finds nothing to do, or
//!   until the store says that nobody else wrote during one.
//! - Killed at any moment, every record opens; a rerun goes on where the last committed batch ended, or a second before.
//! - Memory is bounded by a few batches, whatever the number of records.

mod lease;
mod plan;
mod report;
mod run;
mod scout;
mod writer;

pub use self::{
    report::{Quarantined, Reported, Summary, Tally},
    run::{Ended, Observer, Silent, Update},
};
use keyfold_core::{accept::Accepted, clock::UnixTime, envelope::Format, error::Code, rewrap::How};

use crate::{collection::Collection, error::CustodyError};

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Seal what is plaintext, and move to another format.
    Migrate,
    /// Move to the primary key.
    Rotate,
    /// Open everything, write nothing.
    Verify,
}

impl Kind {
    /// The word on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Migrate => "migrate",
            Self::Rotate => "rotate",
            Self::Verify => "verify",
        }
    }
}

/// A job to run.
#[derive(Debug, Clone)]
pub struct Job {
    /// What it does.
    pub kind: Kind,
    /// The format values end in: for a migration the collection's own where not given, for a rotation the one they have.
    pub to: Option<Format>,
    /// A new wrap, or everything new.
    pub how: How,
    /// Look and count, change nothing.
    pub dry_run: bool,
    /// Records in a batch: one transaction, one event, one step of the cursor.
    pub batch: usize,
    /// Records in a second, at most, on each partition; as fast as it goes where not given.
    pub rate: Option<std::num::NonZeroU32>,
}

impl Job {
    /// A job with the usual batch.
    #[must_use]
    pub const fn new(kind: Kind) -> Self {
        Self { kind, to: None, how: How::Rewrap, dry_run: false, batch: 500, rate: None }
    }

    /// Whether a collection can take what the job would make of it. Said once, before anything is read; each value is held to
    /// the same policy again.
    ///
    /// # Errors
    /// A format that the collection does not accept today, and Fernet, which binds no value to its place.
    pub fn check(&self, collection: &Collection, now: UnixTime) -> Result<(), CustodyError> {
        let Some(format) = self.to.filter(|_| self.kind != Kind::Verify) else { return Ok(()) };
        if format == Format::Fernet && !collection.layout.is_foreign() {
            return Err(CustodyError::invalid(
                "records are not moved to fernet: its tokens are bound to no place, and are not used without",
                "move to kf1 or v1; `keyfold seal --format fernet` makes single tokens",
            ));
        }
        collection.accept.check(Accepted::Sealed(format), now.date()).map_err(|_| CustodyError::Invalid {
            what: format!(
                "collection `{}` does not accept {format} today, and could not read what it would become; accepted: {}",
                collection.name, collection.accept
            ),
            hint: format!("list `{format}` under `accept` in keyfold.toml first"),
            code: Some(Code::FormatNotAccepted),
        })
    }

    const fn writes(&self) -> bool {
        !self.dry_run && !matches!(self.kind, Kind::Verify)
    }
}
