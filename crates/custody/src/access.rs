//! Who acts, and the permit that every function which touches plaintext or keys asks for.
//!
//! A [`Permit`] is made by [`authorize`] alone and names its operation in its type, so that a right for one operation cannot
//! pass for another.

use std::marker::PhantomData;

use keyfold_core::{audit::Actor, error::Hint};

/// The operations that need a permit.
pub mod op {
    macro_rules! ops {
        ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
            $($(#[$doc])* #[derive(Debug, Clone, Copy)] pub struct $name; impl super::Operation for $name { const NAME: &'static str = $word; })*
        };
    }
    ops! {
        /// Put secrets in.
        Seal = "seal",
        /// See plaintext.
        Open = "open",
        /// See what is there, redacted.
        List = "list",
        /// Move secrets to other keys and formats.
        Rotate = "rotate",
        /// Change keys and policies.
        Manage = "manage",
        /// Read the audit log.
        Audit = "audit",
    }
}

/// An operation that grants speak of.
pub trait Operation: Copy {
    /// The word in grants and messages.
    const NAME: &'static str;
}

/// Somebody known, and how.
#[derive(Debug, Clone)]
pub enum Subject {
    /// A user of this machine, at its command line.
    Local {
        /// The user who runs the process.
        uid: u32,
        /// The user who owns the data folder.
        owner: u32,
    },
}

impl Subject {
    /// As events name it.
    #[must_use]
    pub fn actor(&self) -> Actor {
        let Self::Local { uid, .. } = self;
        #[expect(clippy::expect_used, reason = "digits are printable")]
        Actor::new(format!("local:{uid}")).expect("a number is a valid id")
    }
}

/// The actor may not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{actor} may not {operation} here")]
pub struct Refusal {
    actor: String,
    operation: &'static str,
    owner: u32,
}

impl Hint for Refusal {
    fn hint(&self) -> Option<String> {
        Some(format!("run it as the owner of the data folder (user id {}) or as root", self.owner))
    }
}

/// Proof that an actor may do `O`. Only [`authorize`] makes one.
#[derive(Debug, Clone)]
pub struct Permit<O: Operation> {
    actor: Actor,
    operation: PhantomData<O>,
}

impl<O: Operation> Permit<O> {
    /// Whom it was given to; events name this actor.
    #[must_use]
    pub const fn actor(&self) -> &Actor {
        &self.actor
    }
}

/// Decides. At the command line, the owner of the data folder and root may do everything, and nobody else anything: whoever
/// could read the root key's file could do it anyway.
///
/// # Errors
/// The actor may not.
pub fn authorize<O: Operation>(subject: &Subject) -> Result<Permit<O>, Refusal> {
    let Subject::Local { uid, owner } = subject;
    if *uid == 0 || uid == owner {
        Ok(Permit { actor: subject.actor(), operation: PhantomData })
    } else {
        Err(Refusal { actor: subject.actor().to_string(), operation: O::NAME, owner: *owner })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_and_root_get_a_permit() {
        assert!(authorize::<op::Open>(&Subject::Local { uid: 1000, owner: 1000 }).is_ok());
        assert!(authorize::<op::Open>(&Subject::Local { uid: 0, owner: 1000 }).is_ok());
        let refusal = authorize::<op::Open>(&Subject::Local { uid: 1001, owner: 1000 }).unwrap_err();
        assert_eq!(refusal.to_string(), "local:1001 may not open here");
    }
}
