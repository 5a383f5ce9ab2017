//! A key in an HSM or another PKCS#11 token: `pkcs11:token=…;object=…`. The key never leaves the token, and one that could
//! is refused.
//!
//! What is wrapped is `nonce(12) ‖ key(32) ‖ tag(16)` by AES-GCM with the associated data. Where the token only wraps keys, it
//! is `AES-KW(key)(40) ‖ HMAC(Expand(key, "keyfold root bind v1\0"), aad)(32)`: only who holds the key can bind it, and to
//! whoever unwraps it with other associated data it does not authenticate. There the key is for a moment an object of the
//! session that can be read, which some tokens forbid.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::{Mechanism as With, MechanismType, aead::GcmParams},
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use keyfold_core::{
    mac,
    rng::{self, SystemRandom},
    root::{RootError, RootKey},
    secret::{Key32, Secret, wipe},
};
use tokio::sync::Semaphore;

use crate::{Bounds, KeyUri, Mechanism, Pkcs11Key};

const NONCE: usize = 12;
const BY_GCM: usize = NONCE + 32 + 16;
const BY_KEY_WRAP: usize = 40 + 32;

/// How many calls may be in a token at a time. One that never comes back keeps its place and its thread: when all places are
/// taken so, further calls wait for as long as they may, and end without a thread of their own.
const CALLS: usize = 8;

/// A module, once it is set up. Whoever sets one up that hangs keeps nobody from the others.
type Module = Arc<Mutex<Option<Pkcs11>>>;

/// A module is set up once in a process, whoever asks.
static MODULES: Mutex<BTreeMap<PathBuf, Module>> = Mutex::new(BTreeMap::new());

/// The tokens of this process by module, label and serial number.
static TOKENS: Mutex<BTreeMap<Place, Arc<Shared>>> = Mutex::new(BTreeMap::new());

type Place = (PathBuf, Option<String>, Option<String>);

/// What all keys of a token have in common.
struct Shared {
    places: Arc<Semaphore>,
    /// Digest of the PIN that the token refused. Sent again and again it would lock the token.
    refused: Mutex<Option<[u8; 32]>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A key in a token.
#[derive(Clone)]
pub(crate) struct Token(Arc<Inner>);

struct Inner {
    uri: String,
    key: Pkcs11Key,
    module: PathBuf,
    bounds: Bounds,
    shared: Arc<Shared>,
}

impl Token {
    pub(crate) fn open(key: &Pkcs11Key, bounds: Bounds) -> Result<Self, RootError> {
        let uri = KeyUri::Pkcs11(key.clone()).to_string();
        let module = key.module.clone().or_else(|| std::env::var_os("KEYFOLD_PKCS11_MODULE").map(PathBuf::from));
        let module = module.ok_or_else(|| RootError::Invalid {
            place: uri.clone(),
            why: "nothing says which PKCS#11 library reaches the token".into(),
            hint: "add ?module-path=/usr/lib/….so, or set KEYFOLD_PKCS11_MODULE".into(),
        })?;
        // A library that does not come back keeps a thread.
        let bounds = Bounds { attempts: bounds.attempts.min(2), ..bounds };
        let place = (module.clone(), key.token.clone(), key.serial.clone());
        let fresh = || Arc::new(Shared { places: Arc::new(Semaphore::new(CALLS)), refused: Mutex::new(None) });
        let shared = Arc::clone(lock(&TOKENS).entry(place).or_insert_with(fresh));
        Ok(Self(Arc::new(Inner { uri, key: key.clone(), module, bounds, shared })))
    }

    /// Runs `work` on a thread that may wait.
    async fn on_token<T: Send + 'static>(
        &self,
        work: impl Fn(&Inner) -> Result<T, RootError> + Send + Sync + 'static,
    ) -> Result<T, RootError> {
        let work = Arc::new(work);
        self.0
            .bounds
            .hold(&self.0.uri, || {
                let (inner, work) = (Arc::clone(&self.0), Arc::clone(&work));
                async move {
                    let failed = || RootError::Unavailable {
                        place: self.0.uri.clone(),
                        why: "the PKCS#11 library failed".into(),
                        retry: false,
                    };
                    let taken = Arc::clone(&inner.shared.places).acquire_owned().await.map_err(|_| failed())?;
                    // The place is free again when the call is back, which may be long after nobody waits for it.
                    let done = tokio::task::spawn_blocking(move || {
                        let done = work(&inner);
                        drop(taken);
                        done
                    });
                    done.await.map_err(|_| failed())?
                }
            })
            .await
    }
}

#[async_trait]
impl RootKey for Token {
    fn uri(&self) -> &str {
        &self.0.uri
    }

    async fn wrap(&self, key: &Key32, aad: &[u8]) -> Result<Vec<u8>, RootError> {
        let (key, aad) = (Key32::new(*key.expose()), aad.to_vec());
        self.on_token(move |inner| inner.wrap(&key, &aad)).await
    }

    async fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<Key32, RootError> {
        let (wrapped, aad) = (wrapped.to_vec(), aad.to_vec());
        self.on_token(move |inner| inner.unwrap(&wrapped, &aad)).await
    }
}

/// A session in which the user is logged in, and the key in it.
struct Held {
    session: Session,
    slot: Slot,
    key: ObjectHandle,
}

impl Inner {
    fn wrap(&self, key: &Key32, aad: &[u8]) -> Result<Vec<u8>, RootError> {
        let module = self.module()?;
        let held = self.held(&module)?;
        self.never_leaves(&held)?;
        let offered = module.get_mechanism_list(held.slot).map_err(|error| self.error(&error))?;
        if self.key.mechanism == Mechanism::Offered && offered.contains(&MechanismType::AES_GCM) {
            return self.encrypt(&held, key, aad).map_err(|error| self.error(&error));
        }
        if !offered.contains(&MechanismType::AES_KEY_WRAP) {
            return Err(self.invalid("the token offers neither AES-GCM nor AES key wrap", "use a key of another token"));
        }
        self.wrap_key(&held, key, aad).map_err(|error| self.error(&error))
    }

    fn wrap_key(&self, held: &Held, key: &Key32, aad: &[u8]) -> Result<Vec<u8>, Error> {
        let template = self.template(Attribute::Value(key.expose().to_vec()));
        let wrapped = held.session.create_object(&template).and_then(|object| {
            let wrapped = held.session.wrap_key(&With::AesKeyWrap, held.key, object);
            held.session.destroy_object(object).and(wrapped)
        });
        wipe_value(template);
        let mut out = wrapped?;
        out.extend_from_slice(&binding(key, aad));
        Ok(out)
    }

    fn encrypt(&self, held: &Held, key: &Key32, aad: &[u8]) -> Result<Vec<u8>, Error> {
        // Some tokens put their own nonce in the place of ours.
        let mut nonce: [u8; NONCE] = rng::array(&SystemRandom).map_err(|_| Error::InvalidValue)?;
        let with = With::AesGcm(GcmParams::new(&mut nonce, aad, 128.into())?);
        let sealed = held.session.encrypt(&with, held.key, key.expose())?;
        drop(with);
        Ok([&nonce[..], &sealed].concat())
    }

    fn unwrap(&self, wrapped: &[u8], aad: &[u8]) -> Result<Key32, RootError> {
        let failed = || RootError::Authentication { place: self.uri.clone() };
        if ![BY_GCM, BY_KEY_WRAP].contains(&wrapped.len()) {
            return Err(failed());
        }
        let held = self.held(&self.module()?)?;
        if wrapped.len() == BY_GCM {
            let (nonce, sealed) = wrapped.split_at(NONCE);
            let mut nonce = nonce.to_vec();
            let params = GcmParams::new(&mut nonce, aad, 128.into()).map_err(|error| self.error(&error))?;
            let opened = held.session.decrypt(&With::AesGcm(params), held.key, sealed);
            let opened = opened
                .map(Secret::new)
                .map_err(|error| self.not_opened(&error, || self.encrypt(&held, &Key32::new([0; 32]), b"")))?;
            let key: &[u8; 32] = opened.expose().try_into().map_err(|_| failed())?;
            return Ok(Key32::new(*key));
        }
        let (sealed, bound) = wrapped.split_at(40);
        let template = self.template(Attribute::Extractable(true));
        let object = held.session.unwrap_key(&With::AesKeyWrap, held.key, sealed, &template);
        let object =
            object.map_err(|error| self.not_opened(&error, || self.wrap_key(&held, &Key32::new([0; 32]), b"")))?;
        let values = held.session.get_attributes(object, &[AttributeType::Value]);
        let destroyed = held.session.destroy_object(object);
        let values = values.and_then(|values| destroyed.map(|()| values)).map_err(|error| self.error(&error))?;
        let key = values.iter().find_map(|value| match value {
            Attribute::Value(bytes) => <[u8; 32]>::try_from(&bytes[..]).ok().map(Key32::new),
            _ => None,
        });
        wipe_value(values);
        let key = key.ok_or_else(failed)?;
        verify_slices_are_equal(&binding(&key, aad), bound).map_err(|_| failed())?;
        Ok(key)
    }

    /// An object of the session that holds the key while it is wrapped; `more` is its value, or how it is unwrapped.
    fn template(&self, more: Attribute) -> Vec<Attribute> {
        let mut template = vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(false),
        ];
        if !matches!(more, Attribute::Extractable(_)) {
            template.push(Attribute::Extractable(true));
        }
        template.push(more);
        template
    }

    fn module(&self) -> Result<Pkcs11, RootError> {
        let ours = Arc::clone(lock(&MODULES).entry(self.module.clone()).or_default());
        let mut ours = lock(&ours);
        if let Some(module) = &*ours {
            return Ok(module.clone());
        }
        let module = Pkcs11::new(&self.module).map_err(|error| match error {
            Error::Pkcs11(..) => self.error(&error),
            _ => self.invalid(
                &format!("{}: not a PKCS#11 library that loads", self.module.display()),
                "name the library that came with the token: ?module-path= or KEYFOLD_PKCS11_MODULE",
            ),
        })?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(self.error(&error)),
        }
        *ours = Some(module.clone());
        Ok(module)
    }

    fn held(&self, module: &Pkcs11) -> Result<Held, RootError> {
        let slot = self.slot(module)?;
        let session = module.open_rw_session(slot).map_err(|error| self.error(&error))?;
        self.log_in(&session)?;
        let mut template = vec![Attribute::Class(ObjectClass::SECRET_KEY)];
        template.extend(self.key.object.as_ref().map(|label| Attribute::Label(label.as_bytes().to_vec())));
        template.extend(self.key.id.clone().map(Attribute::Id));
        let found = session.find_objects(&template).map_err(|error| self.error(&error))?;
        let missing = |why: &str| RootError::Missing { place: self.uri.clone(), why: why.into() };
        match found[..] {
            [key] => Ok(Held { session, slot, key }),
            [] => Err(missing("the token holds no secret key of that name")),
            _ => Err(self.invalid("the token holds several keys of that name", "name one by its id: ;id=%01")),
        }
    }

    /// Each PIN is tried until it is refused once: the next refusals would lock the token.
    fn log_in(&self, session: &Session) -> Result<(), RootError> {
        let (pin, digest) = self.pin()?;
        let mut refused = lock(&self.shared.refused);
        if *refused == Some(digest) {
            return Err(RootError::Denied {
                place: self.uri.clone(),
                why: "the PIN is wrong; it was refused before, and is not sent again".into(),
            });
        }
        let Err(error) = session.login(UserType::User, Some(&pin)) else { return Ok(()) };
        match &error {
            Error::Pkcs11(RvError::UserAlreadyLoggedIn, _) => Ok(()),
            Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _) => {
                *refused = Some(digest);
                Err(self.error(&error))
            }
            _ => Err(self.error(&error)),
        }
    }

    fn slot(&self, module: &Pkcs11) -> Result<Slot, RootError> {
        for slot in module.get_slots_with_token().map_err(|error| self.error(&error))? {
            let Ok(info) = module.get_token_info(slot) else { continue };
            let named =
                |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found.trim());
            if info.token_initialized()
                && named(&self.key.token, info.label())
                && named(&self.key.serial, info.serial_number())
            {
                return Ok(slot);
            }
        }
        Err(RootError::Missing { place: self.uri.clone(), why: "no token of that name is in a slot".into() })
    }

    /// Refuses a key that can be read or wrapped out of its token: it would protect no better than a file.
    fn never_leaves(&self, held: &Held) -> Result<(), RootError> {
        let asked = [AttributeType::Sensitive, AttributeType::Extractable];
        let told = held.session.get_attributes(held.key, &asked).map_err(|error| self.error(&error))?;
        if !stays(&told) {
            let hint = "make one with CKA_SENSITIVE true and CKA_EXTRACTABLE false";
            return Err(self.invalid("the key can be taken out of the token, or the token does not say", hint));
        }
        Ok(())
    }

    /// The PIN, and the digest by which a refused one is known again.
    fn pin(&self) -> Result<(AuthPin, [u8; 32]), RootError> {
        let source = self.key.pin_source.as_deref().unwrap_or("env:KEYFOLD_PKCS11_PIN");
        let missing =
            |why: String| self.invalid(&why, "put the PIN there, or name another place: ?pin-source=file:PATH");
        let text = match source.split_once(':') {
            Some(("file", path)) => {
                fs::read_to_string(Path::new(path)).map_err(|error| missing(format!("{path}: {}", error.kind())))?
            }
            Some((_, name)) => {
                std::env::var(name).map_err(|_| missing(format!("{name} is not set, and holds the PIN")))?
            }
            None => return Err(missing("pin-source names no place".into())),
        };
        let text = zeroize::Zeroizing::new(text);
        let pin = text.trim_end_matches(['\r', '\n']);
        let digest = mac::sha256(&[b"keyfold refused pin v1\0", pin.as_bytes()]);
        Ok((AuthPin::from(pin.to_owned()), digest))
    }

    /// A failed decryption. Tokens have no common word for a tag that does not fit, and some say "general error" for it: that
    /// is what it was if the key still wraps.
    fn not_opened(&self, error: &Error, probe: impl FnOnce() -> Result<Vec<u8>, Error>) -> RootError {
        use RvError::{
            ArgumentsBad, DataInvalid, EncryptedDataInvalid, EncryptedDataLenRange, FunctionFailed, GeneralError,
            WrappedKeyInvalid, WrappedKeyLenRange,
        };
        let Error::Pkcs11(code, _) = error else { return self.error(error) };
        let unspecific = matches!(code, GeneralError | FunctionFailed | ArgumentsBad | DataInvalid);
        let failed =
            matches!(code, EncryptedDataInvalid | EncryptedDataLenRange | WrappedKeyInvalid | WrappedKeyLenRange);
        if failed || (unspecific && probe().is_ok()) {
            return RootError::Authentication { place: self.uri.clone() };
        }
        self.error(error)
    }

    fn invalid(&self, why: &str, hint: &str) -> RootError {
        RootError::Invalid { place: self.uri.clone(), why: why.into(), hint: hint.into() }
    }

    fn error(&self, error: &Error) -> RootError {
        use RvError::{
            DeviceError, DeviceRemoved, FunctionFailed, GeneralError, KeyFunctionNotPermitted, KeyNotWrappable,
            PinExpired, PinIncorrect, PinInvalid, PinLenRange, PinLocked, SessionCount, TemplateInconsistent,
            TokenNotPresent, UserPinNotInitialized,
        };
        let place = self.uri.clone();
        let Error::Pkcs11(code, function) = error else {
            return RootError::Unavailable { place, why: "the PKCS#11 library failed".into(), retry: false };
        };
        let function = format!("{function}").replace("Function::", "C_");
        let denied = |why: &str| RootError::Denied { place: self.uri.clone(), why: why.into() };
        match code {
            PinIncorrect | PinInvalid | PinLenRange => denied("the PIN is wrong; it was tried once"),
            PinLocked | PinExpired | UserPinNotInitialized => denied("the PIN is locked, expired or not set"),
            KeyFunctionNotPermitted | KeyNotWrappable | TemplateInconsistent => RootError::Disabled {
                place,
                why: "the token does not allow this use of the key (CKA_ENCRYPT, CKA_DECRYPT, CKA_WRAP, CKA_UNWRAP)"
                    .into(),
            },
            SessionCount => RootError::Throttled { place },
            TokenNotPresent => RootError::Missing { place, why: "the token was taken out".into() },
            DeviceError | DeviceRemoved | GeneralError | FunctionFailed => {
                RootError::Unavailable { place, why: format!("the token failed in {function}"), retry: true }
            }
            _ => RootError::Unavailable { place, why: format!("the token refused {function}"), retry: false },
        }
    }
}

/// Whether a token says of a key that it never leaves. What it does not tell is not to be relied on.
fn stays(told: &[Attribute]) -> bool {
    told.contains(&Attribute::Sensitive(true)) && told.contains(&Attribute::Extractable(false))
}

fn binding(key: &Key32, aad: &[u8]) -> [u8; 32] {
    let mut bind = mac::expand(key.expose(), b"keyfold root bind v1\0", &[]);
    let out = mac::hmac(&bind, &[aad]);
    wipe(&mut bind);
    out
}

fn wipe_value(attributes: Vec<Attribute>) {
    for attribute in attributes {
        if let Attribute::Value(mut bytes) = attribute {
            wipe(&mut bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_which_the_token_does_not_say_that_it_stays_is_refused() {
        use Attribute::{Extractable, Sensitive};
        assert!(stays(&[Sensitive(true), Extractable(false)]));
        for told in [
            &[][..],
            &[Sensitive(true)],
            &[Extractable(false)],
            &[Sensitive(false), Extractable(false)],
            &[Sensitive(true), Extractable(true)],
        ] {
            assert!(!stays(told), "{told:?}");
        }
    }
}
