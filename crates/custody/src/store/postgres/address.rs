//! Where a PostgreSQL database is: parsed once, and never printed with its password.

use std::{fmt, net::IpAddr, str::FromStr};

use keyfold_core::error::Hint;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// The parameters that an address may have. The driver would ignore others, and a misspelt `sslmode` with them.
const PARAMETERS: [&str; 6] = ["sslmode", "sslrootcert", "sslcert", "sslkey", "application_name", "host"];

/// Why a text is not the address of a database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct AddressError {
    pub(in crate::store) what: String,
    pub(in crate::store) hint: String,
}

impl Hint for AddressError {
    fn hint(&self) -> Option<String> {
        Some(self.hint.clone())
    }
}

/// `postgres://user@host:port/database?sslmode=verify-full`.
///
/// What is not said comes from the environment, as with `psql`: `PGUSER`, `PGPASSWORD`, `PGSSLROOTCERT` and so on, and the
/// password file. Where nobody says how to use TLS, it is demanded and the server's name checked, except on this machine.
#[derive(Clone)]
pub struct PostgresAddress {
    pub(in crate::store) options: PgConnectOptions,
    has_password: bool,
}

impl PostgresAddress {
    /// Whether the text itself held a password, which does not belong among a process's arguments.
    #[must_use]
    pub const fn has_password(&self) -> bool {
        self.has_password
    }
}

impl FromStr for PostgresAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let bad = |what: &str| AddressError {
            what: what.into(),
            hint: "write it as postgres://user@host:5432/database?sslmode=verify-full".into(),
        };
        let rest = text
            .strip_prefix("postgres://")
            .or_else(|| text.strip_prefix("postgresql://"))
            .ok_or_else(|| bad("the address of a PostgreSQL database starts with postgres://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut says_tls = std::env::var_os("PGSSLMODE").is_some();
        for parameter in query.split('&').filter(|text| !text.is_empty()) {
            let (name, _) = parameter.split_once('=').unwrap_or((parameter, ""));
            if !PARAMETERS.contains(&name) {
                return Err(AddressError {
                    what: format!("the address has the parameter `{name}`, which is not known"),
                    hint: format!("use {}", PARAMETERS.join(", ")),
                });
            }
            says_tls |= name == "sslmode";
        }
        let authority = rest.split('/').next().unwrap_or(rest);
        let has_password = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
        // The driver's own words could quote the address.
        let mut options: PgConnectOptions = text.parse().map_err(|_| bad("the address cannot be read as a URL"))?;
        if let Some(host) = options.get_host().strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            let host = host.to_owned();
            options = options.host(&host);
        }
        if !says_tls && !is_here(&options) {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
        Ok(Self { options, has_password })
    }
}

/// Whether the server is on this machine.
fn is_here(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

impl fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        let database = options.get_database().unwrap_or_else(|| options.get_username());
        write!(f, "the PostgreSQL database {database} at ")?;
        match options.get_socket() {
            Some(socket) => write!(f, "{}", socket.display()),
            None => write!(f, "{}:{}", options.get_host(), options.get_port()),
        }
    }
}

impl fmt::Debug for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresAddress").field(&self.to_string()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> PostgresAddress {
        text.parse().unwrap()
    }

    #[test]
    fn tls_with_a_checked_name_is_the_default_for_other_machines() {
        let mode = |text: &str| format!("{:?}", address(text).options.get_ssl_mode());
        assert_eq!(mode("postgres://u@db.example.com/app"), "VerifyFull");
        assert_eq!(mode("postgres://u@db.example.com/app?sslmode=require"), "Require");
        for here in ["localhost", "127.0.0.1:5433", "[::1]:5433"] {
            assert_eq!(mode(&format!("postgres://u@{here}/app")), "Prefer", "{here}");
        }
        assert_eq!(mode("postgres:///app?host=/run/postgresql"), "Prefer");
    }

    #[test]
    fn a_password_is_known_of_and_never_printed() {
        let with = address("postgresql://u:hunter2%40@db:6000/app");
        assert!(with.has_password());
        assert!(!address("postgres://u@db:6000/app?application_name=a:b@c").has_password());
        for text in [with.to_string(), format!("{with:?}")] {
            assert!(text.contains("the PostgreSQL database app at db:6000"), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_being_quoted() {
        for text in ["mysql://u:hunter2@db/app", "postgres://u:hunter2@db:99999999/app", "postgres://u:hunter2@:x"] {
            let error = text.parse::<PostgresAddress>().unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let error = "postgres://u@db/app?sslmodus=require".parse::<PostgresAddress>().unwrap_err();
        assert_eq!(error.to_string(), "the address has the parameter `sslmodus`, which is not known");
    }
}
