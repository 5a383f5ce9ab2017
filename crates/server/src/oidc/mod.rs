//! Issuers of users' tokens: what they publish is fetched, what they signed is verified, what they said of an access token is weighed.
//!
//! Nothing is taken on trust. Where an issuer cannot be asked, nobody signs in: there is no way around it, and no weaker check.
//!
//! - [`settings`]: `[sessions]` of the configuration.
//! - `published`: discovery and keys; `id_token`, `access`: the two halves of a sign-in; `grant`: codes, refreshes, exchanges.
//! - `account`: service accounts, for destinations that name one.

mod access;
#[cfg(feature = "adc")]
mod account;
mod grant;
mod id_token;
mod published;
pub mod settings;
mod wire;

use async_trait::async_trait;
use keyfold_core::{clock::Clock, error::Hint, rng::RandomError, secret::Secret};
use keyfold_custody::{
    broker::{Destination, Exchange, ServiceAccount},
    config::Mistake,
    sessions::{Granted, IssuerError, Issuers, Person, PersonId, Presented, Verified},
};

pub(crate) use self::grant::Asked;
use self::{
    access::{Verdict, Verdicts},
    published::Published,
    settings::{IssuerSettings, SecretAt, SessionSettings},
    wire::{Wire, unavailable},
};

const fn refused(what: &'static str, hint: &'static str) -> IssuerError {
    IssuerError::Refused { what, hint }
}

/// One issuer, with what is known of it.
struct Issuer {
    settings: IssuerSettings,
    secret: Option<Secret>,
    published: Published,
}

/// All issuers of a deployment.
pub struct Oidc {
    issuers: Vec<Issuer>,
    wire: Wire,
    verdicts: Verdicts,
    clock: Box<dyn Clock>,
    #[cfg(feature = "adc")]
    accounts: account::Accounts,
}

/// Why issuers cannot be used at all. The service does not start without what it was told to use.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// A client secret cannot be read.
    #[error("{place}: {what}")]
    Secret {
        /// The place in the configuration.
        place: String,
        /// One line.
        what: String,
    },
    /// The HTTP client cannot be made.
    #[error("calls to issuers cannot be set up")]
    Client(#[source] reqwest::Error),
    /// Randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
}

impl Hint for OidcError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Secret { .. } => "set the variable, or write the file; see docs/sessions.md".into(),
            Self::Client(_) => "check the machine's certificates".into(),
            Self::Random(error) => return error.hint(),
        })
    }
}

fn secret(place: &str, at: &SecretAt) -> Result<Secret, OidcError> {
    let failed = |what: &str| OidcError::Secret { place: place.to_owned(), what: what.to_owned() };
    let text = match at {
        SecretAt::Env(name) => std::env::var(name).map_err(|_| failed(&format!("{name} is not set")))?,
        SecretAt::File(path) => {
            std::fs::read_to_string(path).map_err(|error| failed(&format!("{}: {}", path.display(), error.kind())))?
        }
    };
    let text = zeroize::Zeroizing::new(text);
    match text.trim() {
        "" => Err(failed("the secret is empty")),
        secret => Ok(Secret::from(secret.as_bytes())),
    }
}

/// What a configuration asks of a build that it lacks.
///
/// # Errors
/// A mistake for each destination whose fallback this build cannot serve.
pub fn check_build(routes: &keyfold_custody::broker::Routes) -> Result<(), Vec<Mistake>> {
    if cfg!(feature = "adc") {
        return Ok(());
    }
    let named = routes.iter().filter(|destination| destination.fallback.is_some());
    let mistakes: Vec<_> = named
        .map(|destination| Mistake {
            place: format!("destinations.{}.fallback", destination.name),
            what: "this build has no service accounts; build it with --features adc".into(),
        })
        .collect();
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
}

impl Oidc {
    /// Over the configured issuers. Nobody is asked yet.
    ///
    /// # Errors
    /// See [`OidcError`].
    pub fn new(settings: &SessionSettings, clock: Box<dyn Clock>) -> Result<Self, OidcError> {
        let mut issuers = Vec::new();
        for (i, settings) in settings.issuers.iter().enumerate() {
            let place = format!("sessions.issuers[{i}].client_secret");
            issuers.push(Issuer {
                secret: settings.client_secret.as_ref().map(|at| secret(&place, at)).transpose()?,
                settings: settings.clone(),
                published: Published::default(),
            });
        }
        Ok(Self {
            issuers,
            wire: Wire::new().map_err(OidcError::Client)?,
            verdicts: Verdicts::new()?,
            clock,
            #[cfg(feature = "adc")]
            accounts: account::Accounts::default(),
        })
    }

    /// Whether there is anybody to sign in at.
    pub(crate) fn has_issuers(&self) -> bool {
        !self.issuers.is_empty()
    }

    fn named(&self, name: &str) -> Result<&Issuer, IssuerError> {
        self.issuers
            .iter()
            .find(|issuer| issuer.settings.name == name)
            .ok_or_else(|| refused("there is no such issuer", "`[[sessions.issuers]]` lists those that there are"))
    }

    /// The issuer that a sign-in is of: the one that was named, the one that the ID token names, or the only one.
    fn of(&self, presented: &Presented) -> Result<&Issuer, IssuerError> {
        let claimed = presented.id_token.as_ref().map(|token| {
            let text = std::str::from_utf8(token.expose()).unwrap_or("");
            id_token::claimed_issuer(text)
                .ok_or_else(|| refused("the ID token does not read", "send it as the issuer gave it"))
        });
        let claimed = claimed.transpose()?;
        let is = |issuer: &&Issuer, claim: &str| {
            issuer.settings.issuer == claim || issuer.settings.aliases.iter().any(|alias| alias == claim)
        };
        match (&presented.issuer, &claimed) {
            (Some(name), claim) => {
                let issuer = self.named(name)?;
                match claim {
                    Some(claim) if !is(&issuer, claim) => Err(refused(
                        "the ID token is of another issuer",
                        "send the tokens of one sign-in, or name the issuer that it was at",
                    )),
                    _ => Ok(issuer),
                }
            }
            (None, Some(claim)) => self.issuers.iter().find(|issuer| is(issuer, claim)).ok_or_else(|| {
                refused("the ID token is of another issuer", "`[[sessions.issuers]]` lists those that are taken")
            }),
            (None, None) => match &self.issuers[..] {
                [only] => Ok(only),
                _ => Err(refused(
                    "it is not said which issuer the token is of",
                    "name it as `issuer`, or send the ID token",
                )),
            },
        }
    }

    /// What the issuer says of an access token, asked or remembered.
    async fn verdict(&self, issuer: &Issuer, token: &Secret) -> Result<Verdict, IssuerError> {
        let settings = &issuer.settings;
        let now = self.clock.now();
        if let Some(verdict) = self.verdicts.get(&settings.name, token, now) {
            return Ok(verdict);
        }
        let endpoints = match &settings.access {
            settings::Access::Introspection(None) => {
                Some(issuer.published.endpoints(&self.wire, &settings.name, &settings.issuer).await?)
            }
            _ => None,
        };
        let introspection = endpoints.as_ref().and_then(|endpoints| endpoints.introspection_endpoint.as_deref());
        let verdict = access::ask(&self.wire, settings, (introspection, issuer.secret.as_ref()), token, now).await?;
        let person = Person { iss: settings.issuer.clone(), sub: verdict.sub.clone(), email: None };
        self.verdicts.keep(&settings.name, token, verdict.clone(), person.id());
        Ok(verdict)
    }

    async fn claims(&self, issuer: &Issuer, presented: &Presented) -> Result<Option<id_token::Claims>, IssuerError> {
        let Some(token) = &presented.id_token else {
            return match presented.nonce {
                Some(_) => Err(refused("a nonce came without the ID token that repeats it", "send the ID token too")),
                None => Ok(None),
            };
        };
        let settings = &issuer.settings;
        let text = std::str::from_utf8(token.expose()).unwrap_or("");
        let named = id_token::named(text, settings)?;
        let at = (settings.name.as_str(), settings.issuer.as_str());
        let key = issuer.published.key(&self.wire, at, named.kid.as_deref()).await?;
        let key = key.ok_or_else(|| refused("the ID token's key is not among the issuer's", "sign in again"))?;
        let about = (&presented.access_token, presented.nonce.as_deref());
        id_token::verify(text, (&named, &key), settings, about, self.clock.now()).map(Some)
    }
}

#[async_trait]
impl Issuers for Oidc {
    async fn verify(&self, presented: &Presented) -> Result<Verified, IssuerError> {
        let issuer = self.of(presented)?;
        // The ID token first: what it fails by costs the issuer nothing.
        let claims = self.claims(issuer, presented).await?;
        let verdict = self.verdict(issuer, &presented.access_token).await?;
        if claims.as_ref().is_some_and(|claims| claims.sub != verdict.sub) {
            return Err(refused(
                "the ID token and the access token are two people's",
                "send both tokens of one sign-in",
            ));
        }
        let email = claims.as_ref().and_then(id_token::Claims::verified_email).or(verdict.email);
        Ok(Verified {
            issuer: issuer.settings.name.clone(),
            // The issuer's one name, whichever spelling the claim has.
            person: Person { iss: issuer.settings.issuer.clone(), sub: verdict.sub, email },
            expires: verdict.expires,
        })
    }

    fn refreshes(&self, issuer: &str) -> bool {
        self.named(issuer).is_ok_and(|issuer| issuer.settings.refresh)
    }

    async fn refresh(&self, issuer: &str, token: &Secret) -> Result<Granted, IssuerError> {
        let issuer = self.named(issuer)?;
        if !issuer.settings.refresh {
            return Err(unavailable(&issuer.settings.name, "refreshing is switched off for it; set `refresh = true`"));
        }
        grant::refresh(&self.wire, issuer, token, self.clock.now()).await
    }

    async fn exchange(&self, issuer: &str, token: &Secret, to: &Exchange) -> Result<Granted, IssuerError> {
        grant::exchange(&self.wire, self.named(issuer)?, token, to, self.clock.now()).await
    }

    #[cfg(feature = "adc")]
    async fn service_account(
        &self,
        account: &ServiceAccount,
        destination: &Destination,
    ) -> Result<Granted, IssuerError> {
        self.accounts.token(account, destination, self.clock.now()).await
    }

    #[cfg(not(feature = "adc"))]
    async fn service_account(&self, _: &ServiceAccount, _: &Destination) -> Result<Granted, IssuerError> {
        Err(refused("this build has no service accounts", "build it with --features adc"))
    }

    fn forget(&self, person: PersonId) {
        self.verdicts.forget(person);
    }
}
