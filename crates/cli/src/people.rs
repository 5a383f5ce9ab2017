//! Sessions, from the configuration and the surroundings: checked before anything is made, opened with the data folder.

use std::sync::Arc;

use keyfold_core::error::Hint;
use keyfold_custody::{
    broker::{Enforcement, Routes},
    config::{Config, ConfigError, Mistake},
};
use keyfold_server::{
    oidc::{self, settings::SessionSettings},
    people::{self, People, PeopleError, SealedUnder, Surroundings},
};

use crate::{failure::Failure, folder::Opened, invocation::Invocation};

/// What turns strict enforcement off, or on again, whatever the configuration says.
const ENFORCEMENT: &str = "STRICT_EUC_ENFORCEMENT";

/// What was configured, and holds together.
pub(crate) struct Configured {
    settings: SessionSettings,
    routes: Routes,
    under: SealedUnder,
}

impl Configured {
    /// Every mistake at once; `None` where no issuer is configured, and no `proxy` asks for the broker all the same.
    pub(crate) fn of(config: &Config, shared_store: bool, (dev, proxy): (bool, bool)) -> Result<Option<Self>, Failure> {
        let mut mistakes = Vec::new();
        let settings = SessionSettings::parse(&config.sessions).unwrap_or_else(|found| {
            mistakes.extend(found);
            SessionSettings::default()
        });
        let mut routes = config.routes.clone();
        match std::env::var(ENFORCEMENT) {
            Err(std::env::VarError::NotPresent) => {}
            Ok(text) if Enforcement::parse(&text).is_some() => {
                routes.enforcement = Enforcement::parse(&text).unwrap_or_default();
            }
            // Somebody wanted something, and it is not known what: that is never the weaker one.
            _ => mistakes.push(Mistake { place: ENFORCEMENT.into(), what: "must be true or false".into() }),
        }
        if routes.enforcement == Enforcement::Permissive {
            mistakes.extend(oidc::check_build(&routes).err().unwrap_or_default());
        }
        let root_configured = config.root_key.is_some() || std::env::var_os("KEYFOLD_ROOT_KEY").is_some();
        let surroundings = Surroundings { shared_store, root_configured, dev };
        let under = match people::sealed_under(surroundings) {
            Ok(under) => under,
            Err(mistake) => {
                if settings.is_on() || dev {
                    mistakes.push(mistake);
                }
                SealedUnder::Keyring
            }
        };
        if settings.rules.auto_sre && under == SealedUnder::Transient {
            let what = "--dev seals sessions under a key of this process alone, which Auto SRE's readers do not hold; leave one of the two out";
            mistakes.push(Mistake { place: "sessions.auto_sre".into(), what: what.into() });
        }
        if !mistakes.is_empty() {
            let error = ConfigError(mistakes);
            let hint = error.hint().unwrap_or_default();
            return Err(Failure::usage(error.to_string()).hint(hint));
        }
        Ok((settings.is_on() || proxy).then_some(Self { settings, routes, under }))
    }

    /// Over an open data folder.
    pub(crate) fn open(&self, opened: &Opened, invocation: &Invocation) -> Result<Arc<People>, Failure> {
        let clock = Arc::new(invocation.clock());
        Ok(People::open(&opened.custody, &self.settings, self.routes.clone(), (self.under, clock))?)
    }

    /// Whether anybody can sign in.
    pub(crate) fn has_issuers(&self) -> bool {
        self.settings.is_on()
    }

    /// Whether sessions end with the process.
    pub(crate) fn is_transient(&self) -> bool {
        self.has_issuers() && self.under == SealedUnder::Transient
    }

    /// Whether a service account may take a user's place somewhere.
    pub(crate) fn is_permissive(&self) -> bool {
        self.routes.enforcement == Enforcement::Permissive
    }

    /// The issuer of that name, or the only one.
    pub(crate) fn issuer(&self, named: Option<&str>) -> Result<&str, Failure> {
        let names: Vec<_> = self.settings.issuers.iter().map(|issuer| issuer.name.as_str()).collect();
        match (named, &names[..]) {
            (Some(name), names) if names.contains(&name) => {
                Ok(names[names.iter().position(|n| *n == name).unwrap_or(0)])
            }
            (None, [only]) => Ok(only),
            _ => Err(Failure::usage("which issuer the sessions are of is not known")
                .hint(format!("name it with --issuer; configured: {}", names.join(", ")))),
        }
    }
}

impl From<PeopleError> for Failure {
    fn from(error: PeopleError) -> Self {
        let hint = error.hint();
        let failure = match error {
            PeopleError::Custody(error) => return error.into(),
            error => Self::unavailable(error.to_string()).caused_by(&error),
        };
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
