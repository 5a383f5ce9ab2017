//! Where a store is: a URL given as an argument, as long as it holds no password, or a place that holds the URL.

use std::str::FromStr;

use keyfold_core::secret::Secret;

use crate::{
    failure::Failure,
    input::{self, Source, Wanted},
};

/// An argument held a secret. It is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecretInArgument {
    /// `scheme://user:password@host`
    #[error(
        "the value holds a password, which every process on this machine can read; put it into a variable or a file \
         and write env:NAME or file:PATH"
    )]
    Password,
    /// `?password=…`
    #[error(
        "the value holds a secret parameter, which every process on this machine can read; put it into a variable or \
         a file and write env:NAME or file:PATH"
    )]
    Parameter,
}

/// What a `--store` or `--system` option was given. Its `Debug` holds no secret, since [`Location::from_str`] refuses one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// The URL itself, without a password.
    Url(String),
    /// `file:PATH` or `env:NAME`: where the URL is, with whatever it holds.
    In(Source),
}

impl FromStr for Location {
    type Err = SecretInArgument;

    fn from_str(text: &str) -> Result<Self, SecretInArgument> {
        if let Ok(source @ (Source::File(_) | Source::Environment(_))) = text.parse() {
            return Ok(Self::In(source));
        }
        refuse_secret_argument(text)?;
        Ok(Self::Url(text.to_owned()))
    }
}

impl Location {
    /// What an environment variable names, where it is set: a URL, with a password or without, or the place of one.
    pub(crate) fn variable(name: &str) -> Option<Self> {
        let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
        Some(match value.to_str().map(str::parse) {
            Some(Ok(source @ (Source::File(_) | Source::Environment(_)))) => Self::In(source),
            _ => Self::In(Source::Environment(name.into())),
        })
    }

    /// The URL, which may hold a password now and is wiped after use.
    pub(crate) async fn url(&self) -> Result<Secret, Failure> {
        match self {
            Self::Url(url) => Ok(Secret::from(url.clone())),
            Self::In(source) => {
                let read = input::read(source, Wanted::Secret).await?;
                Ok(Secret::from(read.expose().trim_ascii()))
            }
        }
    }

    /// The argument, for messages.
    pub(crate) fn as_written(&self) -> String {
        match self {
            Self::Url(url) => url.clone(),
            Self::In(source) => source.to_string(),
        }
    }
}

/// Refuses what looks like a URL, or a connection string, with a password in it. When in doubt it refuses: a URL that is
/// refused wrongly still works from a variable.
pub(crate) fn refuse_secret_argument(value: &str) -> Result<(), SecretInArgument> {
    let rest = value.split_once("://").map_or(value, |(_, rest)| rest);
    // A password may hold `/`, `?` and `#` unescaped, so everything up to the last `@` counts.
    if let Some((user, _)) = rest.rsplit_once('@')
        && user.split_once(':').is_some_and(|(_, password)| !password.is_empty())
    {
        return Err(SecretInArgument::Password);
    }
    // URL parameters, and libpq's `host=… password=…`.
    let names = ["password", "passwd", "pwd", "passphrase", "sslpassword", "secret", "token", "access_token", "apikey"];
    let secret = |pair: &str| {
        pair.split_once('=').is_some_and(|(name, value)| {
            let name = name.trim().rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
            !value.trim().is_empty() && names.contains(&name.as_str())
        })
    };
    if value.split(['?', '&', ';', ' ', '#']).any(secret) {
        return Err(SecretInArgument::Parameter);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p43_a_url_with_a_password_is_refused_without_repeating_it_and_with_the_form_that_works() {
        for url in [
            "redis://:hunter2@host:6379/0",
            "redis://default:hunter2@host",
            "postgres://u:hunter2@h/db?sslmode=require",
            "postgres://u:hun/ter2?x#@h/db",
            "u:hunter2@host:6379",
            "postgres://h/db?user=u&password=hunter2",
            "postgres://h/db?PASSWORD=hunter2",
            "host=h user=u password=hunter2",
            "Server=h;Pwd=hunter2",
        ] {
            let error = url.parse::<Location>().unwrap_err();
            let (shown, debug) = (error.to_string(), format!("{error:?}"));
            assert!(shown.contains("env:NAME") && shown.contains("file:PATH"), "{shown}");
            assert!(!shown.contains("hun") && !debug.contains("hun"), "{shown} {debug}");
        }
    }

    #[test]
    fn a_url_without_a_password_and_a_place_that_holds_one_are_taken() {
        for url in
            ["redis://host:6379/0", "postgres://user@host:5432/db?sslmode=require", "sqlite:///a/b.db", "rediss://u:@h"]
        {
            assert_eq!(url.parse(), Ok(Location::Url(url.into())));
        }
        assert_eq!("env:REDIS_URL".parse::<Location>().unwrap().as_written(), "env:REDIS_URL");
        assert_eq!("file:/run/url".parse::<Location>().unwrap().as_written(), "file:/run/url");
    }

    #[tokio::test]
    async fn the_url_in_a_file_is_read_without_the_newline_an_editor_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        std::fs::write(&path, "redis://:hunter2@host\n").unwrap();
        let location: Location = format!("file:{}", path.display()).parse().unwrap();
        assert_eq!(location.url().await.ok().unwrap().expose(), b"redis://:hunter2@host");
        assert!(!format!("{location:?}").contains("hunter2"));
    }
}
