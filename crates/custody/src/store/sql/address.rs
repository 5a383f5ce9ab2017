//! Where rows are: a PostgreSQL database or an SQLite file.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::store::postgres::{AddressError, PostgresAddress};

/// `postgres://…` or `sqlite:PATH`.
#[derive(Debug, Clone)]
pub enum SqlAddress {
    /// A database of a server.
    Postgres(Box<PostgresAddress>),
    /// A file.
    Sqlite(PathBuf),
}

impl SqlAddress {
    /// Whether the text itself held a password, which does not belong among a process's arguments.
    #[must_use]
    pub fn has_password(&self) -> bool {
        match self {
            Self::Postgres(address) => address.has_password(),
            Self::Sqlite(_) => false,
        }
    }
}

impl FromStr for SqlAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let Some(path) = text.strip_prefix("sqlite:") else { return Ok(Self::Postgres(Box::new(text.parse()?))) };
        if path.is_empty() || path.starts_with("//") {
            // Other programs disagree on whether `sqlite:///x` is absolute.
            return Err(AddressError {
                what: "the address of an SQLite file is sqlite: and its path".into(),
                hint: format!("write sqlite:{}", if path.is_empty() { "PATH" } else { path.trim_start_matches('/') }),
            });
        }
        Ok(Self::Sqlite(path.into()))
    }
}

impl fmt::Display for SqlAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(address) => address.fmt(f),
            Self::Sqlite(path) => write!(f, "the SQLite file {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_as_it_is_and_urls_of_files_are_refused() {
        for path in ["app.db", "/var/lib/app.db", "it's 100%41?mode=ro"] {
            match format!("sqlite:{path}").parse().unwrap() {
                SqlAddress::Sqlite(parsed) => assert_eq!(parsed.to_str(), Some(path)),
                SqlAddress::Postgres(_) => panic!(),
            }
        }
        for url in ["sqlite:///app.db", "sqlite:", "sqlite+aiosqlite:///app.db"] {
            assert!(url.parse::<SqlAddress>().is_err(), "{url}");
        }
    }
}
