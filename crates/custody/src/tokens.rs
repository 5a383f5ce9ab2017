//! Tokens: how operators, services and agents prove who they are to the service.
//!
//! A token is 32 random bytes behind a prefix that says whose it is; what is stored is its SHA-256, under a MAC. Every process
//! holds all tokens in memory and follows the store: one that was revoked on another node is refused within [`BOUND`], and a
//! process that cannot follow refuses them all.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use ipnet::IpNet;
use keyfold_core::{
    audit::{Action, Actor, Name},
    clock::UnixTime,
    error::{Code, Hint},
    id::{from_hex, to_hex},
    mac::sha256,
    rng::{self, SystemRandom},
    secret::Secret,
};

use crate::{
    access::{Grant, GrantSpec, Permit, Place, op::Manage},
    auditor::Auditor,
    config::ConfigError,
    error::CustodyError,
    store::{ChangeMark, CollectionId, Expect, Pages, Put, SystemStore},
    vouched::Voucher,
};

/// Where they lie in the system store.
pub const PREFIX: &str = "tokens/";
/// After this long without a look that succeeded, no token is taken: also the bound within which a revocation holds everywhere.
pub const BOUND: Duration = Duration::from_secs(5);
/// How long a wait for changes lasts at most.
const WAIT: Duration = Duration::from_secs(1);

/// The kinds of actor that tokens are made for, and what their tokens start with.
pub const KINDS: [(&str, &str); 3] = [("operator", "kfo_"), ("service", "kfs_"), ("agent", "kfa_")];

/// What is to be made.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// For whom: `operator:…`, `service:…` or `agent:…`.
    pub actor: Actor,
    /// For how long; without end where `None`.
    pub lifetime: Option<Duration>,
    /// From where it is taken; from everywhere where empty.
    pub addresses: Vec<IpNet>,
    /// What it is narrowed to.
    pub narrowed: Option<GrantSpec>,
    /// For people.
    pub note: Option<String>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Stored {
    actor: Actor,
    hash: String,
    created: UnixTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<UnixTime>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    narrowed: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// A token that is known, without the token.
#[derive(Debug, Clone)]
pub struct Token {
    /// Names it in lists and events.
    pub id: String,
    /// Whose it is.
    pub actor: Actor,
    /// When it was made.
    pub created: UnixTime,
    /// Its last moment.
    pub expires: Option<UnixTime>,
    /// From where it is taken; from everywhere where empty.
    pub addresses: Vec<IpNet>,
    /// What it is narrowed to.
    pub narrowed: Option<Arc<Grant>>,
    /// For people.
    pub note: Option<String>,
    hash: [u8; 32],
}

/// Why a token was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not known here: never made, revoked, or mistyped.
    #[error("the token is not known here")]
    Unknown,
    /// Past its end.
    #[error("the token has expired")]
    Expired,
    /// Not taken from where the call came from.
    #[error("the token is not taken from this address")]
    Address,
    /// The tokens could not be looked at for too long.
    #[error("tokens cannot be checked at the moment")]
    Stale,
}

impl Hint for TokenError {
    fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::Unknown => {
                    "was it revoked, or cut when it was copied? an operator makes a new one with `keyfold token create`"
                }
                Self::Expired => "an operator makes a new one with `keyfold token create`",
                Self::Address => "call from one of the addresses that the token was made for",
                Self::Stale => "the store that holds the tokens cannot be reached; try again",
            }
            .into(),
        )
    }
}

type ByHash = HashMap<[u8; 32], Arc<Token>>;

struct Known {
    tokens: Arc<ByHash>,
    looked: Option<Instant>,
}

impl Known {
    fn is_stale(&self) -> bool {
        self.looked.is_none_or(|looked| looked.elapsed() > BOUND)
    }
}

/// Finds a collection's id by its name.
pub type Collections = Arc<dyn Fn(&str) -> Option<CollectionId> + Send + Sync>;

/// All tokens of a deployment, followed.
pub struct Tokens {
    system: Arc<dyn SystemStore>,
    voucher: Arc<Voucher>,
    collections: Collections,
    known: RwLock<Known>,
}

impl Tokens {
    /// In a system store. Nothing is known before the first [`Tokens::look`].
    #[must_use]
    pub fn new(system: Arc<dyn SystemStore>, voucher: Arc<Voucher>, collections: Collections) -> Self {
        Self { system, voucher, collections, known: RwLock::new(Known { tokens: Arc::default(), looked: None }) }
    }

    /// Whose token this is. Takes the same time for every token that is not known: what is looked up is its hash.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn find(&self, presented: &str, now: UnixTime, from: Option<IpAddr>) -> Result<Arc<Token>, TokenError> {
        let hash = sha256(&[presented.as_bytes()]);
        let token = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if known.is_stale() {
                return Err(TokenError::Stale);
            }
            known.tokens.get(&hash).cloned()
        };
        let token = token.ok_or(TokenError::Unknown)?;
        verify_slices_are_equal(&token.hash, &hash).map_err(|_| TokenError::Unknown)?;
        if token.expires.is_some_and(|expires| now >= expires) {
            return Err(TokenError::Expired);
        }
        let here = |nets: &[IpNet]| from.is_some_and(|from| nets.iter().any(|net| net.contains(&from.to_canonical())));
        if !token.addresses.is_empty() && !here(&token.addresses) {
            return Err(TokenError::Address);
        }
        Ok(token)
    }

    /// Whether they could not be looked at for so long that none is taken.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).is_stale()
    }

    /// All of them, by id.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Token>> {
        let known = Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner).tokens);
        let mut tokens: Vec<_> = known.values().cloned().collect();
        tokens.sort_by(|a, b| a.id.cmp(&b.id));
        tokens
    }

    /// Makes a token; it is shown this once.
    ///
    /// # Errors
    /// An actor that tokens are not made for, a narrowing that does not hold; the store, the audit log.
    pub async fn create(
        &self,
        permit: &Permit<Manage>,
        auditor: &Auditor,
        new: NewToken,
    ) -> Result<(Arc<Token>, Secret), CustodyError> {
        permit.check(&Place::Deployment)?;
        let kind = new.actor.as_str().split(':').next().unwrap_or("");
        let Some((_, prefix)) = KINDS.iter().find(|(known, _)| *known == kind) else {
            return Err(CustodyError::invalid(
                "tokens are made for operators, services and agents",
                "name the actor operator:NAME, service:NAME or agent:NAME",
            ));
        };
        if let Some(spec) = new.narrowed.clone() {
            spec.compile(&*self.collections).map_err(|mistakes| {
                let error = ConfigError(mistakes);
                CustodyError::invalid(error.to_string(), "name what is configured, as in [[grants]]")
            })?;
        }
        let raw: [u8; 32] = rng::array(&SystemRandom)?;
        let text = format!("{prefix}{}", base64_simd::URL_SAFE_NO_PAD.encode_to_string(raw));
        let hash = sha256(&[text.as_bytes()]);
        let secret = Secret::from(text);
        let id = to_hex(&hash[..8]);
        let created = auditor.clock().now();
        let stored = Stored {
            actor: new.actor,
            hash: to_hex(&hash),
            created,
            expires: new.lifetime.map(|lifetime| UnixTime(created.0.saturating_add(lifetime.as_secs()))),
            addresses: new.addresses,
            narrowed: new.narrowed.map(|spec| serde_json::json!(spec)),
            note: new.note,
        };
        let json =
            serde_json::to_vec(&stored).map_err(|_| CustodyError::invalid("a token that cannot be stored", ""))?;
        let key = format!("{PREFIX}{id}");
        let doc = self.voucher.vouch(&key, &json);
        let mut event = auditor.event(permit.actor(), Action::TokenCreate)?;
        event.record = Some(Name::abridge(&format!("{id} {}", stored.actor)));
        auditor
            .audited_write(event, async |_| match self.system.put(&key, &doc, Expect::Absent, None).await? {
                Put::Stored { .. } => Ok(()),
                Put::Conflict => Err(CustodyError::Conflict { what: format!("there is a token `{id}` already") }),
            })
            .await?;
        self.look().await.map_err(CustodyError::afterwards)?;
        let removed = || CustodyError::Conflict { what: "the token was removed".into() };
        let token = self.by_id(&id).ok_or_else(|| removed().afterwards())?;
        Ok((token, secret))
    }

    fn by_id(&self, id: &str) -> Option<Arc<Token>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.tokens.values().find(|token| token.id == id).cloned()
    }

    /// Takes a token back: here at once, elsewhere within [`BOUND`].
    ///
    /// # Errors
    /// No such token; the store, the audit log.
    pub async fn revoke(&self, permit: &Permit<Manage>, auditor: &Auditor, id: &str) -> Result<(), CustodyError> {
        permit.check(&Place::Deployment)?;
        let unknown = || CustodyError::NotFound {
            what: "there is no such token".into(),
            hint: "see `keyfold token list`".into(),
        };
        if from_hex::<8>(id).is_none() {
            return Err(unknown());
        }
        let mut event = auditor.event(permit.actor(), Action::TokenRevoke)?;
        event.record = Some(Name::abridge(id));
        auditor
            .audited_write(event, async |_| {
                let there = self.system.delete(&format!("{PREFIX}{id}"), Expect::Any).await?;
                if there { Ok(()) } else { Err(unknown()) }
            })
            .await?;
        self.look().await.map_err(CustodyError::afterwards)
    }

    /// Reads all tokens anew.
    ///
    /// # Errors
    /// The store.
    pub async fn look(&self) -> Result<(), CustodyError> {
        let began = Instant::now();
        let mut tokens = ByHash::new();
        let mut pages = Pages::under(PREFIX, &*self.system);
        while let Some(page) = pages.next().await? {
            for (key, doc) in page {
                match self.read(&key, &doc.value) {
                    Some(token) => drop(tokens.insert(token.hash, Arc::new(token))),
                    None => tracing::warn!(key, "a token that was not made here is not taken"),
                }
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // Two looks can overtake one another; the one that began later knows more.
        if known.looked.is_none_or(|looked| looked <= began) {
            *known = Known { tokens: Arc::new(tokens), looked: Some(began) };
        }
        Ok(())
    }

    fn read(&self, key: &str, stored: &[u8]) -> Option<Token> {
        let stored: Stored = serde_json::from_slice(self.voucher.check(key, stored)?).ok()?;
        let narrowed = match stored.narrowed {
            None => None,
            // What it was narrowed to must hold whole: a collection that went takes the token with it.
            Some(spec) => {
                let table = toml::Table::try_from(spec).ok()?;
                Some(Arc::new(GrantSpec::parse_one(&table).ok()?.compile(&*self.collections).ok()?))
            }
        };
        Some(Token {
            id: key.strip_prefix(PREFIX)?.to_owned(),
            actor: stored.actor,
            created: stored.created,
            expires: stored.expires,
            addresses: stored.addresses,
            narrowed,
            note: stored.note,
            hash: from_hex(&stored.hash)?,
        })
    }

    fn looked_now(&self, at: Instant) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.looked.is_some_and(|looked| looked < at) {
            known.looked = Some(at);
        }
    }

    /// Follows the store until the task is dropped.
    pub async fn follow(self: Arc<Self>) {
        let mut mark = ChangeMark::start();
        loop {
            let began = Instant::now();
            let followed = async {
                let next = self.system.changed(PREFIX, &mark, WAIT).await?;
                if next == mark {
                    self.looked_now(began);
                } else {
                    self.look().await?;
                    mark = next;
                }
                Ok::<_, CustodyError>(())
            };
            if let Err(error) = followed.await {
                tracing::warn!(%error, "the tokens could not be followed");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

impl TokenError {
    /// The stable code, where one of the core fits.
    #[must_use]
    pub const fn code(&self) -> Option<Code> {
        match self {
            Self::Stale => Some(Code::ProviderUnavailable),
            Self::Expired => Some(Code::Expired),
            Self::Unknown | Self::Address => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use keyfold_core::{keyring::Keyring, secret::Key32};

    use super::*;
    use crate::store::sqlite::{OpenMode, SqliteStore};

    const MANY: usize = 5000;

    fn text(n: usize) -> String {
        format!("kfa_{}", base64_simd::URL_SAFE_NO_PAD.encode_to_string(sha256(&[&n.to_be_bytes()])))
    }

    async fn known(folder: &std::path::Path) -> Tokens {
        let store = SqliteStore::open(folder.join("keyfold.db"), OpenMode::Create).await.unwrap();
        let voucher = Voucher::of(&Keyring::first("kr", "kf", Key32::new([9; 32]))).unwrap();
        let tokens = Tokens::new(Arc::new(store), Arc::new(voucher), Arc::new(|_| None));
        let token = |n: usize| {
            let hash = sha256(&[text(n).as_bytes()]);
            let token = Token {
                id: to_hex(&hash[..8]),
                actor: Actor::new("agent:x").unwrap(),
                created: UnixTime(1),
                expires: None,
                addresses: Vec::new(),
                narrowed: None,
                note: None,
                hash,
            };
            (hash, Arc::new(token))
        };
        *tokens.known.write().unwrap() =
            Known { tokens: Arc::new((0..MANY).map(token).collect()), looked: Some(Instant::now()) };
        tokens
    }

    #[tokio::test]
    async fn a_check_takes_the_same_time_whichever_token_it_is_and_however_much_of_one_is_right() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = known(folder.path()).await;
        let mut presented = Vec::new();
        for n in (0..MANY).step_by(MANY / 16) {
            let right = text(n);
            for wrong_from in [5, 24, right.len() - 1] {
                let part = &right[..wrong_from];
                presented.push((format!("{part}{}", "~".repeat(right.len() - wrong_from)), false));
            }
            presented.push((right, true));
        }
        // The least of many, one after another: whatever else the machine does slows all of them down.
        let mut least = vec![Duration::MAX; presented.len()];
        for _ in 0..300 {
            for ((text, is_known), least) in presented.iter().zip(&mut least) {
                let began = Instant::now();
                let found = tokens.find(text, UnixTime(2), None);
                *least = began.elapsed().min(*least);
                if matches!(found, Err(TokenError::Stale)) {
                    tokens.known.write().unwrap().looked = Some(Instant::now());
                } else {
                    assert_eq!(found.is_ok(), *is_known);
                }
            }
        }
        let (shortest, longest) = (least.iter().min().unwrap(), least.iter().max().unwrap());
        // Going through 5,000 tokens one by one would be a thousand times the work for the last one.
        assert!(*longest < 5 * *shortest, "{shortest:?} to {longest:?}");
    }
}
