//! Where a Firestore is: `firestore://PROJECT/DATABASE`, with `?emulator=HOST:PORT` for Google's emulator.

use std::{fmt, str::FromStr};

use keyfold_core::error::Hint;

/// A database of a project, at Google or in an emulator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirestoreAddress {
    project: Box<str>,
    database: Box<str>,
    emulator: Option<Box<str>>,
}

/// Why a text is not the address of a Firestore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the address of a Firestore {0}")]
pub struct FirestoreAddressError(&'static str);

impl Hint for FirestoreAddressError {
    fn hint(&self) -> Option<String> {
        Some("write firestore://PROJECT/(default), for an emulator with ?emulator=127.0.0.1:8080".into())
    }
}

impl FirestoreAddress {
    /// Whether a text is meant as one.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        text.starts_with("firestore:")
    }

    /// The same database in the emulator that the variable `FIRESTORE_EMULATOR_HOST` names, as Google's own libraries have
    /// it, unless the address names one.
    #[must_use]
    pub fn or_emulator(mut self, host: Option<&str>) -> Self {
        if self.emulator.is_none() {
            self.emulator = host.filter(|host| !host.is_empty()).map(Into::into);
        }
        self
    }

    pub(super) fn emulator(&self) -> Option<&str> {
        self.emulator.as_deref()
    }

    /// What the names of all documents begin with.
    pub(super) fn root(&self) -> String {
        format!("projects/{}/databases/{}/documents", self.project, self.database)
    }
}

impl FromStr for FirestoreAddress {
    type Err = FirestoreAddressError;

    fn from_str(text: &str) -> Result<Self, FirestoreAddressError> {
        let Some(rest) = text.strip_prefix("firestore://") else {
            return Err(FirestoreAddressError("begins with firestore://"));
        };
        let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
        let (project, database) = place.split_once('/').unwrap_or((place, ""));
        let database = if database.is_empty() { "(default)" } else { database };
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
        if project.is_empty() || !plain(project) {
            return Err(FirestoreAddressError("names the project first, in letters, digits and -"));
        }
        if database != "(default)" && !plain(database) {
            return Err(FirestoreAddressError(
                "names the database after the project: (default), or letters, digits and -",
            ));
        }
        let emulator = match query.map(|query| query.strip_prefix("emulator=")) {
            None => None,
            Some(Some(host)) if host.contains(':') && !host.contains(['/', '@', '&', '?', '#', ' ']) => {
                Some(host.into())
            }
            Some(_) => return Err(FirestoreAddressError("takes no parameter but emulator=HOST:PORT")),
        };
        Ok(Self { project: project.into(), database: database.into(), emulator })
    }
}

impl fmt::Display for FirestoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Firestore {}/{}", self.project, self.database)?;
        match &self.emulator {
            Some(host) => write!(f, " in the emulator at {host}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_project_a_database_and_perhaps_an_emulator() {
        let parsed: FirestoreAddress = "firestore://my-project/(default)?emulator=127.0.0.1:8080".parse().unwrap();
        assert_eq!(parsed.to_string(), "Firestore my-project/(default) in the emulator at 127.0.0.1:8080");
        assert_eq!(parsed.root(), "projects/my-project/databases/(default)/documents");
        let real: FirestoreAddress = "firestore://my-project".parse().unwrap();
        assert_eq!((real.to_string().as_str(), real.emulator()), ("Firestore my-project/(default)", None));
        assert_eq!(real.clone().or_emulator(Some("[::1]:8080")).emulator(), Some("[::1]:8080"));
        assert_eq!(real.or_emulator(Some("")).emulator(), None);
        assert_eq!(parsed.clone().or_emulator(Some("other:1")), parsed);
        for bad in [
            "firestore:p",
            "firestore://",
            "firestore:///(default)",
            "firestore://p/a/b",
            "firestore://p/d?x=1",
            "firestore://p/d?emulator=",
            "firestore://p/d?emulator=u@h:1",
            "firestore://p q/d",
        ] {
            assert!(bad.parse::<FirestoreAddress>().is_err(), "{bad}");
        }
    }
}
