//! Who acts, what was granted, and the permit that every function which touches plaintext or keys asks for.
//!
//! A [`Permit`] is made by [`authorize`] and [`authorize_at`] alone. It names its operation in its type, so that a right for one
//! operation cannot pass for another, and it remembers the place it was given for, which the use cases check again.
//!
//! Nobody makes one by hand:
//!
//! ```compile_fail,E0451
//! use keyfold_custody::access::{Permit, op::Open};
//! let forged: Permit<Open> = Permit { actor: unreachable!(), scope: unreachable!(), operation: std::marker::PhantomData };
//! ```
//!
//! and one for listing does not open:
//!
//! ```compile_fail,E0308
//! use keyfold_custody::{access::{Permit, op::List}, collection::Collection, custody::Custody, store::RecordKey};
//! async fn read(custody: &Custody, permit: &Permit<List>, collection: &Collection, key: &RecordKey) {
//!     let _ = custody.open(permit, collection, key, None).await;
//! }
//! ```

mod grants;
mod learn;
mod pattern;
mod place;
mod rights;

use std::{marker::PhantomData, sync::Arc};

use jiff::civil::Date;
use keyfold_core::{audit::Actor, error::Hint};

pub use self::{
    grants::{Grant, GrantSpec, Grants, Subjects, Values},
    learn::{Asked, Call, Learned, quoted},
    pattern::Pattern,
    place::{Place, RESERVED, Scope},
    rights::{Right, RightSet},
};

/// The operations that need a permit.
pub mod op {
    use super::Right;

    macro_rules! ops {
        ($($(#[$doc:meta])* $name:ident,)*) => {
            $($(#[$doc])* #[derive(Debug, Clone, Copy)] pub struct $name; impl super::Operation for $name { const RIGHT: Right = Right::$name; })*
        };
    }
    ops! {
        /// Put secrets in.
        Seal,
        /// See plaintext.
        Open,
        /// Let a credential be used without seeing it.
        Use,
        /// See what is there, redacted.
        List,
        /// Move secrets to other keys and formats.
        Rotate,
        /// Change keys and policies.
        Manage,
        /// Read the audit log.
        Audit,
    }
}

/// An operation that grants speak of.
pub trait Operation: Copy {
    /// The right it takes.
    const RIGHT: Right;
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
    /// An actor known by a token, a certificate or a JWT.
    Known(Known),
}

/// An actor with what was granted to it.
#[derive(Debug, Clone)]
pub struct Known {
    /// As events name it.
    pub actor: Actor,
    /// The grants that speak of this actor.
    pub grants: Arc<[Arc<Grant>]>,
    /// What its proof was narrowed to, where it was.
    pub narrowed: Option<Arc<Grant>>,
    /// The day, for grants with an end.
    pub today: Date,
}

impl Known {
    /// The grant that allows it, if one does; what the proof was narrowed to must allow it too.
    #[must_use]
    pub fn decide(&self, right: Right, place: &Place<'_>) -> Option<&Grant> {
        let covers = |grant: &Grant| grant.covers(right, place, self.today);
        let granted = self.grants.iter().find(|grant| covers(grant))?;
        self.narrowed.as_ref().is_none_or(|narrowed| covers(narrowed)).then_some(granted)
    }

    fn anywhere(&self, right: Right) -> bool {
        let has = |grant: &Grant| grant.may(right, self.today);
        self.grants.iter().any(|grant| has(grant)) && self.narrowed.as_ref().is_none_or(|narrowed| has(narrowed))
    }
}

impl Subject {
    /// As events name it.
    #[must_use]
    pub fn actor(&self) -> Actor {
        match self {
            #[expect(clippy::expect_used, reason = "digits are printable")]
            Self::Local { uid, .. } => Actor::new(format!("local:{uid}")).expect("a number is a valid id"),
            Self::Known(known) => known.actor.clone(),
        }
    }

    /// Whether it may do `O` in any place at all: asked before anything that it sent is parsed.
    ///
    /// # Errors
    /// Nothing grants `O`.
    pub fn may_somewhere<O: Operation>(&self) -> Result<(), Refusal> {
        match self {
            Self::Known(known) if known.anywhere(O::RIGHT) => Ok(()),
            Self::Known(_) => Err(Refusal::new(self, O::RIGHT, &Place::Anywhere)),
            Self::Local { .. } => authorize::<O>(self).map(drop),
        }
    }
}

/// The actor may not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{actor} may not {right} {place}")]
pub struct Refusal {
    actor: String,
    right: Right,
    place: String,
    owner: Option<u32>,
}

impl Refusal {
    fn new(subject: &Subject, right: Right, place: &Place<'_>) -> Self {
        let owner = match subject {
            Subject::Local { owner, .. } => Some(*owner),
            Subject::Known(_) => None,
        };
        let place = if owner.is_some() { "here".into() } else { place.to_string() };
        Self { actor: subject.actor().to_string(), right, place, owner }
    }

    /// The right that was missing.
    #[must_use]
    pub const fn right(&self) -> Right {
        self.right
    }
}

impl Hint for Refusal {
    fn hint(&self) -> Option<String> {
        Some(match self.owner {
            Some(owner) => format!("run it as the owner of the data folder (user id {owner}) or as root"),
            None => {
                format!("an operator can grant `{}` there; `keyfold policy explain` says what is missing", self.right)
            }
        })
    }
}

/// Proof that an actor may do `O` in a place. Only [`authorize`] and [`authorize_at`] make one.
#[derive(Debug, Clone)]
pub struct Permit<O: Operation> {
    actor: Actor,
    scope: Scope,
    operation: PhantomData<O>,
}

impl<O: Operation> Permit<O> {
    /// Whom it was given to; events name this actor.
    #[must_use]
    pub const fn actor(&self) -> &Actor {
        &self.actor
    }

    /// Whether it was given for this place. Use cases ask again, so that a permit for one record is not used for another.
    ///
    /// # Errors
    /// It was given for another place.
    pub fn check(&self, place: &Place<'_>) -> Result<(), Refusal> {
        if self.scope.covers(place) {
            return Ok(());
        }
        Err(Refusal { actor: self.actor.to_string(), right: O::RIGHT, place: place.to_string(), owner: None })
    }
}

/// A permit for everything. At the command line, the owner of the data folder and root may do everything, and nobody else
/// anything: whoever could read the root key's file could do it anyway.
///
/// # Errors
/// The actor may not.
pub fn authorize<O: Operation>(subject: &Subject) -> Result<Permit<O>, Refusal> {
    authorize_at(subject, &Place::Everything)
}

/// Decides.
///
/// # Errors
/// The actor may not.
pub fn authorize_at<O: Operation>(subject: &Subject, place: &Place<'_>) -> Result<Permit<O>, Refusal> {
    let scope = match subject {
        Subject::Local { uid, owner } if *uid == 0 || uid == owner => Scope::Everything,
        Subject::Known(known) if known.decide(O::RIGHT, place).is_some() => place.scope(),
        _ => return Err(Refusal::new(subject, O::RIGHT, place)),
    };
    Ok(Permit { actor: subject.actor(), scope, operation: PhantomData })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{CollectionId, RecordKey};

    #[test]
    fn only_the_owner_and_root_get_a_permit() {
        assert!(authorize::<op::Open>(&Subject::Local { uid: 1000, owner: 1000 }).is_ok());
        assert!(authorize::<op::Open>(&Subject::Local { uid: 0, owner: 1000 }).is_ok());
        let refusal = authorize::<op::Open>(&Subject::Local { uid: 1001, owner: 1000 }).unwrap_err();
        assert_eq!(refusal.to_string(), "local:1001 may not open here");
    }

    fn known(actor: &str, grants: &str) -> Subject {
        let a = CollectionId::new("a").unwrap();
        let grants = Grants::parse(&grants.parse().unwrap(), &|name| (name == "a").then(|| a.clone())).unwrap();
        let actor = Actor::new(actor).unwrap();
        let today = "2026-11-22".parse().unwrap();
        Subject::Known(Known { grants: grants.of(&actor), actor, narrowed: None, today })
    }

    #[test]
    fn p44_a_right_for_one_operation_is_none_for_another_and_a_permit_for_one_record_none_for_the_next() {
        let agent = known("agent:x", "[[grants]]\nto = \"agent:x\"\nmay = [\"list\"]\ncollections = [\"a\"]\n");
        let (a, one, two) =
            (CollectionId::new("a").unwrap(), RecordKey::new("1").unwrap(), RecordKey::new("2").unwrap());
        let place = Place::Record(&a, &one);
        let permit = authorize_at::<op::List>(&agent, &place).unwrap();
        assert!(permit.check(&place).is_ok());
        assert!(permit.check(&Place::Record(&a, &two)).is_err());
        assert!(permit.check(&Place::Everything).is_err());
        let refusal = authorize_at::<op::Open>(&agent, &place).unwrap_err();
        assert_eq!(refusal.to_string(), "agent:x may not open record `1` of collection `a`");
    }

    #[test]
    fn a_narrowed_proof_never_gains_a_right_that_the_grants_lack() {
        let Subject::Known(mut known) = known("service:x", "") else { unreachable!() };
        let narrow = |text: &str| GrantSpec::parse_one(&text.parse().unwrap()).unwrap().compile(&|_| None).unwrap();
        known.narrowed = Some(Arc::new(narrow("may = [\"open\", \"manage\"]\nvalues = true\ncollections = [\"*\"]")));
        let value = Place::Value(&[]);
        assert!(known.decide(Right::Open, &value).is_some());
        assert!(known.decide(Right::Seal, &value).is_none(), "the proof is narrower than the grants");
        assert!(known.decide(Right::Manage, &Place::Deployment).is_none(), "the grants are narrower than the proof");
    }
}
