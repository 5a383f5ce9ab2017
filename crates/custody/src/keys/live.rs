//! The keyring a process works with: reloaded as it changes, and refused for sealing when it could not be.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use keyfold_core::{
    clock::UnixTime,
    error::{Code, Hint},
    id::WriterId,
    keyring::{self, Keyring, document::DocumentError},
    root::Tended,
};
use tokio::sync::Mutex as AsyncMutex;

use super::{
    KeyringStore,
    process::{Place, Processes, Report},
};
use crate::{error::CustodyError, store::SystemStore};

/// How often a process looks whether the keyring changed.
const REFRESH: Duration = Duration::from_secs(1);
/// After this long without a look that succeeded, a process stops sealing.
const BOUND: Duration = Duration::from_secs(10);
/// How often a process looks after what lets it reach the root key, and whether a start could still open the keyring.
const CHECK: Duration = Duration::from_secs(60);
/// How often a process reports even when nothing changed.
const REPORT: Duration = Duration::from_secs(5);

/// The keyring for one sealing operation, write included. While it is held, the process reports that it may still be sealing
/// under that generation.
pub type Sealing = Arc<Keyring>;

struct State {
    current: Arc<Keyring>,
    version: u64,
    /// Earlier keyrings that operations may still hold.
    earlier: Vec<Weak<Keyring>>,
    looked: Instant,
    /// The same by the machine's uptime, which counts its sleep too; `Instant` does not.
    looked_up: Option<Duration>,
    reported: Option<(Instant, u64, u64)>,
    /// Why a start would fail, as the last check found it.
    trouble: Option<String>,
}

/// A keyring that follows its document.
pub struct LiveKeyring {
    store: KeyringStore,
    system: Arc<dyn SystemStore>,
    processes: Processes,
    id: WriterId,
    command: String,
    place: Place,
    state: Mutex<State>,
    refreshing: AsyncMutex<()>,
}

impl LiveKeyring {
    /// Loads the keyring and registers this process.
    ///
    /// # Errors
    /// See [`KeyringStore::load`].
    pub async fn open(
        store: KeyringStore,
        system: Arc<dyn SystemStore>,
        id: WriterId,
        command: &str,
    ) -> Result<Arc<Self>, CustodyError> {
        let loaded = store.load().await?;
        for kid in &loaded.buried {
            tracing::warn!(%kid, "a key in the environment was destroyed in this deployment and is not used");
        }
        let state = State {
            current: Arc::new(loaded.keyring),
            version: loaded.version,
            earlier: Vec::new(),
            looked: Instant::now(),
            looked_up: uptime(),
            reported: None,
            trouble: None,
        };
        let live = Arc::new(Self {
            processes: Processes::new(Arc::clone(&system)),
            store,
            system,
            id,
            command: command.into(),
            place: Place::here(),
            state: Mutex::new(state),
            refreshing: AsyncMutex::new(()),
        });
        live.report().await?;
        // A key may have been promoted or retired between the load and the report; nobody had to wait for us then.
        live.look().await?;
        Ok(live)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The list of processes this one is on.
    #[must_use]
    pub const fn processes(&self) -> &Processes {
        &self.processes
    }

    /// The place of the document.
    #[must_use]
    pub const fn store(&self) -> &KeyringStore {
        &self.store
    }

    /// This process on the list.
    #[must_use]
    pub const fn id(&self) -> WriterId {
        self.id
    }

    /// The keyring to open with.
    #[must_use]
    pub fn opening(&self) -> Arc<Keyring> {
        Arc::clone(&self.state().current)
    }

    /// The keyring to seal with. To be held until what was sealed is stored.
    ///
    /// # Errors
    /// The keyring could not be refreshed within its bound: another process may have changed keys since.
    pub async fn sealing(&self) -> Result<Sealing, CustodyError> {
        if self.state().looked.elapsed() >= REFRESH
            && let Err(error) = self.look().await
        {
            if self.state().looked.elapsed() > BOUND {
                return Err(error);
            }
            tracing::warn!(%error, "the keyring could not be refreshed");
        }
        Ok(self.opening())
    }

    /// Asked right before what was sealed is stored. A process that stood still for longer than it may go without a look may
    /// have been given up by the others: it makes sure that the keys it sealed under are still in use.
    ///
    /// # Errors
    /// A key was retired or destroyed meanwhile; the keyring could not be looked at. Nothing must be stored then.
    pub async fn confirm(&self, sealing: &Keyring) -> Result<(), CustodyError> {
        let (looked, looked_up) = {
            let state = self.state();
            (state.looked.elapsed(), state.looked_up)
        };
        let slept = uptime().zip(looked_up).map_or(Duration::ZERO, |(now, then)| now.saturating_sub(then));
        if looked.max(slept) <= REPORT {
            return Ok(());
        }
        self.look().await?;
        let current = self.opening();
        let primaries = sealing.entries().iter().filter(|entry| entry.state() == keyring::State::Primary);
        for kid in primaries.map(keyring::Entry::kid) {
            if !current.entry(kid).is_some_and(|entry| entry.state().opens()) {
                return Err(CustodyError::Invalid {
                    what: format!(
                        "key `{kid}` was taken out of use while this process stood still; nothing was stored"
                    ),
                    hint: "run it again".into(),
                    code: Some(Code::KeyRetired),
                });
            }
        }
        Ok(())
    }

    /// Reloads the keyring if its document changed, and reports.
    ///
    /// # Errors
    /// The store cannot be reached, or its document is refused; the keyring held stays as it is.
    pub async fn look(&self) -> Result<(), CustodyError> {
        let _one = self.refreshing.lock().await;
        let (began, began_up) = (Instant::now(), uptime());
        if self.store.version().await? != Some(self.state().version) {
            let loaded = self.store.load().await?;
            let mut state = self.state();
            // The folder refuses what is older than it has seen; this holds also where its files went with the document.
            let (found, seen) = (loaded.keyring.generation(), state.current.generation());
            if found < seen {
                return Err(DocumentError::Older { found, seen }.into());
            }
            let former = std::mem::replace(&mut state.current, Arc::new(loaded.keyring));
            state.earlier.push(Arc::downgrade(&former));
            state.version = loaded.version;
        }
        {
            let mut state = self.state();
            (state.looked, state.looked_up) = (began, began_up);
        }
        self.report_if_due().await
    }

    async fn report_if_due(&self) -> Result<(), CustodyError> {
        let due = {
            let mut state = self.state();
            let (opens, seals) = generations(&mut state);
            state.reported.is_none_or(|(at, o, s)| at.elapsed() >= REPORT || (o, s) != (opens, seals))
        };
        if due { self.report().await } else { Ok(()) }
    }

    async fn report(&self) -> Result<(), CustodyError> {
        let now: UnixTime = self.system.now().await?;
        let (opens, seals) = generations(&mut self.state());
        let report = Report {
            id: self.id,
            command: self.command.clone(),
            place: self.place.clone(),
            opens,
            seals,
            reported: now,
        };
        self.processes.report(&report).await?;
        self.state().reported = Some((Instant::now(), opens, seals));
        Ok(())
    }

    /// Follows the document until the task is dropped.
    pub async fn follow(self: Arc<Self>) {
        self.follow_and_check(CHECK).await;
    }

    /// As [`LiveKeyring::follow`], looking at the root key this often. A root key that does not answer keeps nothing waiting.
    pub async fn follow_and_check(&self, every: Duration) {
        let following = async {
            loop {
                tokio::time::sleep(REFRESH).await;
                if let Err(error) = self.look().await {
                    tracing::warn!(%error, "the keyring could not be refreshed");
                }
            }
        };
        let checking = async {
            let mut next = every;
            loop {
                tokio::time::sleep(next).await;
                let tended = self.check_root().await;
                // Well before what lets this process in ends.
                let left = tended.and_then(|tended| tended.expires_in).map(Duration::from_secs);
                next = left.map_or(every, |left| every.min(left / 3).max(Duration::from_secs(1).min(every)));
            }
        };
        tokio::join!(following, checking);
    }

    /// Asks the root key to open the keyring once more, as a start would, and says so where it does not: what is open goes on.
    pub async fn check_root(&self) -> Option<Tended> {
        let (tended, found) = match self.store.prove().await {
            Ok(tended) => (Some(tended), None),
            Err(error) => (None, Some(error)),
        };
        let trouble = found.as_ref().map(ToString::to_string);
        let before = std::mem::replace(&mut self.state().trouble, trouble);
        match found {
            Some(error) => {
                let hint = error.hint().unwrap_or_default();
                tracing::warn!(%error, hint, "the root key does not open the keyring; what is open goes on, and a start would fail");
            }
            None if before.is_some() => tracing::warn!("the root key opens the keyring again"),
            None => {}
        }
        tended
    }

    /// Why a start would fail, as the last check found it; `None` where it would not.
    #[must_use]
    pub fn root_trouble(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    /// Strikes this process off the list.
    ///
    /// # Errors
    /// The store cannot be written; the process is then recognised as ended by its id.
    pub async fn close(&self) -> Result<(), CustodyError> {
        self.processes.strike(self.id).await.map(|_| ())
    }
}

/// For how long the machine has been up, its sleep included.
fn uptime() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    Duration::try_from_secs_f64(text.split(' ').next()?.parse().ok()?).ok()
}

/// The generation that is opened, and the oldest one under which an operation may still be sealing.
fn generations(state: &mut State) -> (u64, u64) {
    state.earlier.retain(|keyring| keyring.strong_count() > 0);
    let opens = state.current.generation();
    let seals =
        state.earlier.iter().filter_map(Weak::upgrade).map(|keyring| keyring.generation()).fold(opens, u64::min);
    (opens, seals)
}

#[cfg(test)]
impl LiveKeyring {
    /// As if the process had been stopped for a while.
    pub(super) fn stand_still(&self, wait: Duration) {
        let mut state = self.state();
        state.looked = state.looked.checked_sub(wait).unwrap_or(state.looked);
    }

    /// As if the machine had slept for a while: its clock for processes did not go on.
    pub(super) fn sleep(&self, wait: Duration) {
        let mut state = self.state();
        state.looked_up = state.looked_up.map(|then| then.saturating_sub(wait));
    }
}
