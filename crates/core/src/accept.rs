//! The accept policy: which formats a reader may take from a collection, and until when.
//!
//! A policy tightens one way. The floor of each collection is kept in the authenticated
//! [keyring document](crate::keyring::document); allowing a weaker format again takes an explicit act and an audit event.

use std::fmt;

use jiff::civil::Date;

use crate::{
    envelope::{Format, OpenError},
    error::{Code, Hint},
};

/// Something a policy can allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Accepted {
    /// A sealed format.
    Sealed(Format),
    /// No sealing at all.
    Plaintext,
}

impl Accepted {
    /// The word in configuration files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sealed(format) => format.as_str(),
            Self::Plaintext => "plaintext",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "plaintext" { Some(Self::Plaintext) } else { text.parse().ok().map(Self::Sealed) }
    }
}

/// One line of a policy: what is accepted, and its last day (UTC, inclusive).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(into = "StoredRule", try_from = "StoredRule")]
pub struct Rule {
    /// What.
    pub what: Accepted,
    /// The last day it is accepted; always given for plaintext.
    pub until: Option<Date>,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRule {
    format: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Date>,
}

impl From<Rule> for StoredRule {
    fn from(rule: Rule) -> Self {
        Self { format: rule.what.as_str().into(), until: rule.until }
    }
}

impl TryFrom<StoredRule> for Rule {
    type Error = AcceptError;

    fn try_from(stored: StoredRule) -> Result<Self, AcceptError> {
        Self::new(&stored.format, stored.until)
    }
}

/// Why a policy could not be made.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// Not the name of a format.
    #[error("`{0}` is not a format that can be accepted")]
    UnknownFormat(String),
    /// Plaintext without a last day.
    #[error("plaintext is accepted without a last day")]
    PlaintextForever,
    /// The same format twice.
    #[error("`{0}` is listed twice")]
    Repeated(&'static str),
    /// An empty list.
    #[error("nothing is accepted")]
    Empty,
}

impl AcceptError {
    /// Always [`Code::Malformed`].
    #[must_use]
    pub const fn code(&self) -> Code {
        Code::Malformed
    }
}

impl Hint for AcceptError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownFormat(_) => "use kf1, v1, fernet or plaintext".into(),
            Self::PlaintextForever => "write { format = \"plaintext\", until = YYYY-MM-DD }".into(),
            Self::Repeated(format) => format!("keep one line for `{format}`"),
            Self::Empty => "list at least the format that the collection seals in".into(),
        })
    }
}

impl Rule {
    /// Makes one line.
    ///
    /// # Errors
    /// An unknown format, or plaintext without a last day.
    pub fn new(format: &str, until: Option<Date>) -> Result<Self, AcceptError> {
        let what =
            Accepted::parse(format).ok_or_else(|| AcceptError::UnknownFormat(format.chars().take(40).collect()))?;
        if what == Accepted::Plaintext && until.is_none() {
            return Err(AcceptError::PlaintextForever);
        }
        Ok(Self { what, until })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what.as_str())?;
        self.until.map_or(Ok(()), |until| write!(f, " until {until}"))
    }
}

/// What a reader accepts from a collection.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Accept(Vec<Rule>);

impl fmt::Display for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(Rule::to_string).collect::<Vec<_>>().join(", "))
    }
}

impl Accept {
    /// Checks a list of rules.
    ///
    /// # Errors
    /// An empty list, or a format listed twice.
    pub fn new(rules: Vec<Rule>) -> Result<Self, AcceptError> {
        if rules.is_empty() {
            return Err(AcceptError::Empty);
        }
        for (i, rule) in rules.iter().enumerate() {
            if rules[..i].iter().any(|earlier| earlier.what == rule.what) {
                return Err(AcceptError::Repeated(rule.what.as_str()));
            }
        }
        Ok(Self(rules))
    }

    /// One sealed format, for ever.
    #[must_use]
    pub fn only(format: Format) -> Self {
        Self(vec![Rule { what: Accepted::Sealed(format), until: None }])
    }

    /// All sealed formats, for a reader that has no collection to ask, and never plaintext.
    #[must_use]
    pub fn any_sealed() -> Self {
        Self(Format::ALL.into_iter().map(|format| Rule { what: Accepted::Sealed(format), until: None }).collect())
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.0
    }

    /// Whether `what` may be taken on `today`.
    #[must_use]
    pub fn allows(&self, what: Accepted, today: Date) -> bool {
        self.0.iter().any(|rule| rule.what == what && rule.until.is_none_or(|until| today <= until))
    }

    /// As [`Accept::allows`], as an error that names what was found.
    ///
    /// # Errors
    /// `format_not_accepted`; for plaintext under a policy that never mentions it, `not_encrypted`.
    pub fn check(&self, what: Accepted, today: Date) -> Result<(), OpenError> {
        if self.allows(what, today) {
            return Ok(());
        }
        if what == Accepted::Plaintext && self.0.iter().all(|rule| rule.what != what) {
            return Err(OpenError::NotEncrypted);
        }
        Err(OpenError::FormatNotAccepted { found: what.as_str(), accepted: self.to_string() })
    }

    /// The rules here that allow more than `floor` does: an unlisted format, or a later last day.
    #[must_use]
    pub fn beyond(&self, floor: &Self) -> Vec<&Rule> {
        self.0
            .iter()
            .filter(|rule| {
                !floor.0.iter().any(|allowed| {
                    allowed.what == rule.what
                        && match (allowed.until, rule.until) {
                            (None, _) => true,
                            (Some(_), None) => false,
                            (Some(last), Some(asked)) => asked <= last,
                        }
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Date {
        text.parse().unwrap()
    }

    #[test]
    fn plaintext_always_has_a_last_day_and_ends_with_it() {
        assert_eq!(Rule::new("plaintext", None), Err(AcceptError::PlaintextForever));
        let accept = Accept::new(vec![
            Rule::new("kf1", None).unwrap(),
            Rule::new("plaintext", Some(day("2027-01-31"))).unwrap(),
        ])
        .unwrap();
        assert!(accept.allows(Accepted::Plaintext, day("2027-01-31")));
        assert!(!accept.allows(Accepted::Plaintext, day("2027-02-01")));
        assert!(accept.check(Accepted::Plaintext, day("2027-02-01")).unwrap_err().to_string().contains("plaintext"));
    }

    #[test]
    fn a_policy_goes_beyond_its_floor_by_a_format_or_by_a_later_day() {
        let floor =
            Accept::new(vec![Rule::new("kf1", None).unwrap(), Rule::new("v1", Some(day("2027-01-31"))).unwrap()])
                .unwrap();
        let tighter = Accept::only(Format::Kf1);
        assert!(tighter.beyond(&floor).is_empty());
        assert_eq!(floor.beyond(&tighter).len(), 1);
        let later = Accept::new(vec![Rule::new("v1", Some(day("2027-02-01"))).unwrap()]).unwrap();
        assert_eq!(later.beyond(&floor).len(), 1);
    }
}
