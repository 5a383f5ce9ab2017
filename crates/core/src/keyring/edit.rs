//! Changing a keyring: every change is a new keyring of the next generation.

use std::sync::{Arc, atomic::AtomicUsize};

use super::{Entry, Keyring, Origin, Purpose, State, Tombstone};
use crate::{
    accept::Accept,
    clock::UnixTime,
    envelope::Format,
    error::{Code, Hint},
    id::KeyId,
    secret::Key32,
};

/// Why a change was refused.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// No such key in the document.
    #[error("key `{0}` is not in the keyring document")]
    Unknown(KeyId),
    /// The key is there already.
    #[error("key `{0}` is in the keyring already")]
    Present(KeyId),
    /// A destroyed key does not come back.
    #[error("key `{0}` was destroyed and cannot come back")]
    Destroyed(KeyId),
    /// The key is in a state from which this step does not lead.
    #[error("key `{kid}` is {state}; {step} needs it to be {needs}")]
    State {
        /// Which.
        kid: KeyId,
        /// What it is.
        state: State,
        /// What was asked.
        step: &'static str,
        /// What it must be.
        needs: &'static str,
    },
    /// Nothing would seal a format any more.
    #[error("key `{kid}` does not serve {format}, which the primary key serves")]
    Suites {
        /// The key to be promoted.
        kid: KeyId,
        /// What would be left without a key.
        format: Format,
    },
    /// The policy allows more than its floor.
    #[error("collection `{collection}` would accept {rule} again")]
    Loosens {
        /// Which.
        collection: String,
        /// The rule beyond the floor.
        rule: String,
    },
}

impl EditError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Unknown(_) => Code::UnknownKey,
            Self::Destroyed(_) => Code::KeyDestroyed,
            Self::Loosens { .. } => Code::FormatNotAccepted,
            _ => Code::KeyInvalid,
        }
    }
}

impl Hint for EditError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unknown(_) | Self::Present(_) => "see `keyfold keys list`".into(),
            Self::Destroyed(_) => "make a new key with `keyfold keys create`".into(),
            Self::State { kid, state: State::Primary, .. } => {
                format!("promote another key first; then `{kid}` is active")
            }
            Self::State { kid, state: State::Retired, .. } => format!("`keyfold keys activate {kid}` puts it back"),
            Self::State { kid, step: "destroying", .. } => format!("retire it first: `keyfold keys retire {kid}`"),
            Self::State { .. } => "see `keyfold keys list`".into(),
            Self::Suites { .. } => "create the new key with the same --suites".into(),
            Self::Loosens { .. } => "if this is meant, say so: `keyfold config apply --loosen`".into(),
        })
    }
}

/// One step in the life of a key.
struct Step {
    name: &'static str,
    to: State,
    from: &'static [State],
}

impl Keyring {
    /// The first keyring of a deployment.
    #[must_use]
    pub fn first(id: &str, deployment: &str, audit_seed: Key32) -> Self {
        Self {
            id: id.into(),
            deployment: deployment.into(),
            generation: 0,
            roots: Vec::new(),
            entries: Vec::new(),
            tombstones: Vec::new(),
            floors: std::collections::BTreeMap::new(),
            audit_seed: Some(Arc::new(audit_seed)),
            last_hit: AtomicUsize::new(0),
            current: Vec::new(),
            led: false,
        }
    }

    /// A copy of the next generation, without what the environment brought.
    fn next(&self) -> Self {
        Self {
            id: self.id.clone(),
            deployment: self.deployment.clone(),
            generation: self.generation + 1,
            roots: self.roots.clone(),
            entries: self.entries.iter().filter(|entry| entry.origin == Origin::Document).cloned().collect(),
            tombstones: self.tombstones.clone(),
            floors: self.floors.clone(),
            audit_seed: self.audit_seed.clone(),
            last_hit: AtomicUsize::new(0),
            current: Vec::new(),
            led: false,
        }
    }

    /// Puts other root keys in charge, from the next writing on.
    #[must_use]
    pub fn with_roots(&self, roots: Vec<String>) -> Self {
        let mut next = self.next();
        next.roots = roots;
        next
    }

    fn position(&self, kid: KeyId) -> Result<usize, EditError> {
        if self.tombstone(kid).is_some() {
            return Err(EditError::Destroyed(kid));
        }
        self.entries.iter().position(|entry| entry.kid() == kid).ok_or(EditError::Unknown(kid))
    }

    /// Adds a key that opens and does not seal yet.
    ///
    /// # Errors
    /// A key that is present or was destroyed.
    pub fn staged(&self, entry: Entry) -> Result<Self, EditError> {
        let mut next = self.next();
        match next.position(entry.kid()) {
            Ok(_) => return Err(EditError::Present(entry.kid())),
            Err(EditError::Unknown(_)) => {}
            Err(other) => return Err(other),
        }
        next.entries.push(Entry { state: State::Staged, since: entry.created, origin: Origin::Document, ..entry });
        Ok(next)
    }

    /// Makes a staged or active key the one that seals. The former primary stays active.
    ///
    /// # Errors
    /// A key in another state, or one that does not serve what the former primary serves.
    pub fn promoted(&self, kid: KeyId, now: UnixTime) -> Result<Self, EditError> {
        let mut next = self.next();
        let at = next.position(kid)?;
        let state = next.entries[at].state;
        if !matches!(state, State::Staged | State::Active) {
            return Err(EditError::State { kid, state, step: "promoting", needs: "staged or active" });
        }
        let purpose = next.entries[at].purpose();
        let former = next.entries.iter().position(|e| e.state == State::Primary && e.purpose() == purpose);
        if let Some(former) = former {
            if let Some(&format) = next.entries[former].suites.iter().find(|&&f| !next.entries[at].serves(f)) {
                return Err(EditError::Suites { kid, format });
            }
            next.entries[former].state = State::Active;
            next.entries[former].since = now;
        }
        next.entries[at].state = State::Primary;
        next.entries[at].since = now;
        Ok(next)
    }

    /// Refuses a key from now on; it can be put back.
    ///
    /// # Errors
    /// A key that is not staged or active.
    pub fn retired(&self, kid: KeyId, now: UnixTime) -> Result<Self, EditError> {
        self.moved(kid, now, &Step { name: "retiring", to: State::Retired, from: &[State::Staged, State::Active] })
    }

    /// Puts a retired key back: it opens again.
    ///
    /// # Errors
    /// A key that is not retired.
    pub fn activated(&self, kid: KeyId, now: UnixTime) -> Result<Self, EditError> {
        self.moved(kid, now, &Step { name: "activating", to: State::Active, from: &[State::Retired] })
    }

    fn moved(&self, kid: KeyId, now: UnixTime, step: &Step) -> Result<Self, EditError> {
        let mut next = self.next();
        let at = next.position(kid)?;
        let state = next.entries[at].state;
        if !step.from.contains(&state) {
            let needs = if step.from.len() == 1 { "retired" } else { "staged or active" };
            return Err(EditError::State { kid, state, step: step.name, needs });
        }
        next.entries[at].state = step.to;
        next.entries[at].since = now;
        Ok(next)
    }

    /// Leaves a tombstone where a retired key was. There is no way back but a backup.
    ///
    /// # Errors
    /// A key that is not retired.
    pub fn destroyed(&self, kid: KeyId, now: UnixTime) -> Result<Self, EditError> {
        let mut next =
            self.moved(kid, now, &Step { name: "destroying", to: State::Retired, from: &[State::Retired] })?;
        next.entries.retain(|entry| entry.kid() != kid);
        next.tombstones.push(Tombstone { kid, destroyed: now });
        Ok(next)
    }

    /// Sets the accept floors of collections. Loosening one needs `loosen`.
    ///
    /// # Errors
    /// A policy beyond its floor, where that was not asked for.
    pub fn with_floors<'a>(
        &self,
        floors: impl IntoIterator<Item = (&'a str, &'a Accept)>,
        loosen: bool,
    ) -> Result<Self, EditError> {
        let mut next = self.next();
        for (collection, accept) in floors {
            if let Some(floor) = next.floors.get(collection)
                && let Some(rule) = accept.beyond(floor).first()
                && !loosen
            {
                return Err(EditError::Loosens { collection: collection.into(), rule: rule.to_string() });
            }
            next.floors.insert(collection.into(), accept.clone());
        }
        Ok(next)
    }

    /// The entry that seals for a purpose, whatever its suites.
    #[must_use]
    pub fn primary_of(&self, purpose: Purpose) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.state == State::Primary && entry.purpose() == purpose)
    }
}
