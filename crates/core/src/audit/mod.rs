//! Who did what to which record under which key: events, the chain over them, and the verdict on a chain.
//!
//! A writer is one process start. Its [`genesis::Genesis`] introduces an ephemeral key, signed by the deployment's audit
//! key; its [`event::Event`]s form a [`chain::Chain`]; now and then it signs a [`note::Note`] that says how far the
//! chain had come, and how far those it knows of had. [`verify::Verifier`] holds all of it against each other.
//!
//! Promised: an event that a note covers cannot be changed, moved or removed unseen by who holds the deployment's
//! verifier key. Not promised: anything about events that no note covers yet (they are counted, never called fine), or
//! against who puts back an older copy of the whole folder; for that, ship copies elsewhere.

pub mod chain;
pub mod cut;
pub mod event;
pub mod genesis;
pub mod key;
pub mod note;
pub mod text;
pub mod verify;

pub use chain::{Chain, Continuation, Tip};
pub use cut::{Cut, SignedCut};
pub use event::{Action, Event, EventError, EventId, Head, Kind, MAX_LINE};
pub use genesis::{Genesis, SignedGenesis};
pub use key::{KeyError, PublicKey, SigningKey, VerifierKey};
pub use note::{Note, NoteError, SignedNote};
pub use text::{Actor, Deployment, Name, TextError, Word};
pub use verify::{Report, Verdict, Verifier};

#[cfg(test)]
mod vectors;
