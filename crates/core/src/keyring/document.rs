//! The stored keyring: two lines of JSON, authenticated, every key wrapped.
//!
//! ```text
//! {"format":"keyfold-keyring-v1","id":…,"deployment":…,"generation":…,"roots":[…],"entries":[…],"tombstones":[…],…}
//! {"mac":"<hex>"}
//! ```
//!
//! Each writing draws a document key, which every root key of the keyring wraps with keyring id and generation as
//! associated data. From it come a MAC key and one key for each entry. So opening asks one root key once, whatever the
//! number of entries; a root key that was taken off the list opens no later document, and whoever held it cannot pass off
//! the key of an earlier document as a later one's.
//!
//! The MAC is HMAC-SHA-256 over a label and the bytes of the first line. Of these only id, generation and the wrapped document keys
//! are used before it is checked: they unwrap the document key, and wrong ones do not. Each entry's key is wrapped with
//! keyring id, kid, purpose and suites as associated data, so that an entry cannot be renamed, moved to another keyring or
//! given another purpose by whoever can write the store.
//!
//! Not promised: that the document is the newest. The caller gives the highest generation it has seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicUsize},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    constant_time::verify_slices_are_equal,
};

use super::{Entry, KeyError, KeyMaterial, Keyring, KeyringError, Origin, Purpose, State, Tombstone};
use crate::{
    accept::Accept,
    clock::UnixTime,
    envelope::{Format, lenient},
    error::{Code, Hint},
    id::{KeyId, from_hex, to_hex},
    mac,
    rng::{self, RandomError, RandomSource},
    root::{RootError, RootKey},
    secret::{Key32, wipe},
};

const FORMAT: &str = "keyfold-keyring-v1";
/// A document over this many bytes is refused before it is parsed.
pub const MAX_DOCUMENT: usize = 4 << 20;
/// The most root keys a keyring may have.
pub const MAX_ROOTS: usize = 16;
/// A wrapped document key over this many bytes is no provider's.
const MAX_WRAPPED: usize = 16 << 10;

/// Why a document was not taken.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not a keyring document.
    #[error("the keyring document is malformed: {0}")]
    Malformed(&'static str),
    /// The MAC does not fit.
    #[error("the keyring document does not authenticate: it was changed outside Keyfold")]
    Authentication,
    /// Older than one already seen.
    #[error("the keyring document is of generation {found}; this node has seen generation {seen}")]
    Older {
        /// In the document.
        found: u64,
        /// The highest seen.
        seen: u64,
    },
    /// A key that is not the key its entry says.
    #[error("entry `{0}` of the keyring document holds another key")]
    WrongKid(KeyId),
    /// The entries do not make a keyring.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// A key the library refused.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The document is wrapped by other root keys.
    #[error("the keyring does not open under {root}, but under {}", .roots.join(", "))]
    OtherRoots {
        /// The root key that was tried.
        root: String,
        /// What the document names. Not authenticated: for people, never to act on.
        roots: Vec<String>,
    },
    /// The root key failed.
    #[error(transparent)]
    Root(#[from] RootError),
    /// No randomness for the MAC key.
    #[error(transparent)]
    Random(#[from] RandomError),
}

impl DocumentError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Malformed(_) => Code::Malformed,
            Self::Authentication | Self::Older { .. } | Self::WrongKid(_) => Code::DocumentRefused,
            Self::OtherRoots { .. } => Code::WrongKeyOrTampered,
            Self::Keyring(error) => error.code(),
            Self::Key(error) => error.code(),
            Self::Root(error) => error.code(),
            Self::Random(error) => error.code(),
        }
    }
}

impl Hint for DocumentError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Malformed(_) | Self::Authentication | Self::WrongKid(_) => {
                Some("restore it from a backup with `keyfold keys restore FILE`".into())
            }
            Self::Older { .. } => Some(
                "an older copy was put back; restore the newest one with `keyfold keys restore FILE` (every data folder \
                 keeps keyring.json)"
                    .into(),
            ),
            Self::OtherRoots { .. } => Some(
                "name the root key that the keyring has: KEYFOLD_ROOT_KEY, or `root_key` in keyfold.toml".into(),
            ),
            Self::Keyring(error) => error.hint(),
            Self::Key(error) => error.hint(),
            Self::Root(error) => error.hint(),
            Self::Random(error) => error.hint(),
        }
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    format: String,
    id: String,
    deployment: String,
    generation: u64,
    roots: Vec<StoredRoot>,
    entries: Vec<StoredEntry>,
    tombstones: Vec<Tombstone>,
    floors: BTreeMap<String, Accept>,
    audit_seed: String,
}

/// The document key under one root key.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRoot {
    uri: String,
    wrapped: String,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredEntry {
    kid: KeyId,
    state: State,
    purpose: Purpose,
    suites: Vec<Format>,
    created: UnixTime,
    since: UnixTime,
    /// Left out where it is not so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    scheduled: bool,
    wrapped: String,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Proof {
    mac: String,
}

/// What a document says of itself before anything is authenticated. For messages and for choosing a copy, never to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The keyring's id.
    pub id: String,
    /// The deployment.
    pub deployment: String,
    /// The generation.
    pub generation: u64,
    /// The URIs of the root keys.
    pub roots: Vec<String>,
}

fn split(document: &[u8]) -> Result<(&[u8], Proof), DocumentError> {
    if document.len() > MAX_DOCUMENT {
        return Err(DocumentError::Malformed("over 4 MiB"));
    }
    let newline = memchr::memchr(b'\n', document).ok_or(DocumentError::Malformed("not two lines"))?;
    let (body, line) = document.split_at(newline);
    let malformed = || DocumentError::Malformed("the second line is not its proof");
    let proof: Proof = serde_json::from_slice(&line[1..]).map_err(|_| malformed())?;
    // The MAC covers the first line. The second is taken in its one spelling, so that no byte of either can change.
    let written = serde_json::to_vec(&proof).map_err(|_| malformed())?;
    if line[1..].strip_suffix(b"\n") != Some(&written[..]) || proof.mac.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(malformed());
    }
    Ok((body, proof))
}

fn parse_body(body: &[u8]) -> Result<Body, DocumentError> {
    let body: Body =
        serde_json::from_slice(body).map_err(|_| DocumentError::Malformed("the first line is not a keyring"))?;
    if body.format != FORMAT {
        return Err(DocumentError::Malformed("not keyfold-keyring-v1"));
    }
    if body.roots.is_empty() || body.roots.len() > MAX_ROOTS {
        return Err(DocumentError::Malformed("no root keys, or too many"));
    }
    Ok(body)
}

/// Reads what a document claims, without a key.
///
/// # Errors
/// `malformed`.
pub fn claims(document: &[u8]) -> Result<Claims, DocumentError> {
    let (body, _) = split(document)?;
    let body = parse_body(body)?;
    let roots = body.roots.into_iter().map(|root| root.uri).collect();
    Ok(Claims { id: body.id, deployment: body.deployment, generation: body.generation, roots })
}

fn aad(id: &str, kid: &str, purpose: &str, suites: &[Format]) -> Vec<u8> {
    let suites = suites.iter().map(|suite| suite.as_str()).collect::<Vec<_>>().join(",");
    let mut out = b"keyfold keyring entry v1\0".to_vec();
    for part in [id, kid, purpose, &suites] {
        out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(part.as_bytes());
    }
    out
}

/// What a root key binds the document key to.
fn root_aad(id: &str, generation: u64) -> Vec<u8> {
    let mut out = b"keyfold keyring root v1\0".to_vec();
    out.extend_from_slice(&generation.to_be_bytes());
    out.extend_from_slice(id.as_bytes());
    out
}

/// The key of one document: drawn for it, wrapped by the root keys, never used for another one.
struct DocumentKey(Key32);

impl DocumentKey {
    fn mac(&self, body: &[u8]) -> [u8; 32] {
        let mut key = mac::expand(self.0.expose(), b"keyfold keyring mac v1\0", &[]);
        let proof = mac::hmac(&key, &[b"keyfold keyring v1\0", body]);
        wipe(&mut key);
        proof
    }

    /// The cipher for one place in the document. Each place has its own key and is sealed once, so the nonce is zero.
    fn cipher(&self, aad: &[u8]) -> Result<LessSafeKey, KeyError> {
        let mut key = mac::expand(self.0.expose(), b"keyfold keyring entry v1\0", &[&mac::sha256(&[aad])]);
        let cipher = UnboundKey::new(&AES_256_GCM, &key).map(LessSafeKey::new);
        wipe(&mut key);
        cipher.map_err(|_| KeyError::Library)
    }

    fn wrap(&self, key: &Key32, aad: &[u8]) -> Result<String, DocumentError> {
        let mut out = key.expose().to_vec();
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let sealed = self.cipher(aad)?.seal_in_place_separate_tag(nonce, Aad::from(aad), &mut out);
        let Ok(tag) = sealed else {
            wipe(&mut out);
            return Err(KeyError::Library.into());
        };
        out.extend_from_slice(tag.as_ref());
        Ok(base64_simd::STANDARD.encode_to_string(out))
    }

    fn unwrap(&self, wrapped: &str, aad: &[u8]) -> Result<Key32, DocumentError> {
        let bytes = decoded(wrapped)?;
        let (text, tag) = bytes.split_at_checked(32).ok_or(DocumentError::Authentication)?;
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let mut out = [0; 32];
        let opened = self.cipher(aad)?.open_separate_gather(nonce, Aad::from(aad), text, tag, &mut out);
        let key = Key32::new(out);
        wipe(&mut out);
        opened.map(|()| key).map_err(|_| DocumentError::Authentication)
    }
}

fn decoded(wrapped: &str) -> Result<Vec<u8>, DocumentError> {
    let malformed = || DocumentError::Malformed("a wrapped key is not base64");
    if wrapped.len() > MAX_WRAPPED {
        return Err(DocumentError::Malformed("a wrapped key is too long"));
    }
    let bytes = lenient::decode_standard(wrapped.as_bytes()).map_err(|_| malformed())?;
    if base64_simd::STANDARD.encode_to_string(&bytes) != wrapped { Err(malformed()) } else { Ok(bytes) }
}

/// `file:` and `env:` hold the same kind of key, and a file may lie elsewhere on the next machine.
fn family(uri: &str) -> &str {
    match uri.split_once(':').map_or(uri, |(scheme, _)| scheme) {
        "file" | "env" => "local",
        scheme => scheme,
    }
}

/// Unwraps the document key with the one root key that the caller trusts; what URIs the document names only chooses which
/// wrapped key is tried. Where one bears the root key's own URI, that costs one call.
async fn unwrap_key(root: &dyn RootKey, body: &Body) -> Result<(DocumentKey, usize), DocumentError> {
    let aad = root_aad(&body.id, body.generation);
    let named = body.roots.iter().position(|stored| stored.uri == root.uri());
    if let Some(at) = named {
        let wrapped = decoded(&body.roots[at].wrapped)?;
        return Ok((DocumentKey(root.unwrap(&wrapped, &aad).await?), at));
    }
    for (at, stored) in body.roots.iter().enumerate().filter(|(_, stored)| family(&stored.uri) == family(root.uri())) {
        match root.unwrap(&decoded(&stored.wrapped)?, &aad).await {
            Ok(key) => return Ok((DocumentKey(key), at)),
            Err(RootError::Authentication { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let roots = body.roots.iter().map(|stored| stored.uri.clone()).collect();
    Err(DocumentError::OtherRoots { root: root.uri().into(), roots })
}

/// Opens a document. `seen` is the highest generation this node knows of; anything below is refused.
///
/// # Errors
/// See [`DocumentError`].
pub async fn open(root: &dyn RootKey, document: &[u8], seen: u64) -> Result<Keyring, DocumentError> {
    let (bytes, proof) = split(document)?;
    let body = parse_body(bytes)?;
    let (key, opened_by) = unwrap_key(root, &body).await?;
    let mac = from_hex::<32>(&proof.mac).ok_or(DocumentError::Malformed("the MAC is not 64 hex digits"))?;
    verify_slices_are_equal(&key.mac(bytes), &mac).map_err(|_| DocumentError::Authentication)?;
    if body.generation < seen {
        return Err(DocumentError::Older { found: body.generation, seen });
    }
    let buried: BTreeSet<KeyId> = body.tombstones.iter().map(|tombstone| tombstone.kid).collect();
    let mut entries = Vec::with_capacity(body.entries.len());
    for stored in &body.entries {
        if buried.contains(&stored.kid) {
            continue;
        }
        let aad = aad(&body.id, &stored.kid.to_string(), stored.purpose.as_str(), &stored.suites);
        let material = KeyMaterial::new(stored.purpose, key.unwrap(&stored.wrapped, &aad)?)?;
        if material.kid() != stored.kid {
            return Err(DocumentError::WrongKid(stored.kid));
        }
        let mut entry = Entry::new(material, stored.state, stored.suites.clone(), stored.created, Origin::Document);
        entry.since = stored.since;
        entry.scheduled = stored.scheduled;
        entries.push(entry);
    }
    let audit_seed = key.unwrap(&body.audit_seed, &aad(&body.id, "", "audit", &[]))?;
    let mut roots: Vec<String> = body.roots.into_iter().map(|stored| stored.uri).collect();
    // The same key by the name that it has here.
    roots[opened_by] = root.uri().into();
    let keyring = Keyring {
        id: body.id,
        deployment: body.deployment,
        generation: body.generation,
        roots,
        entries,
        tombstones: body.tombstones,
        floors: body.floors,
        audit_seed: Some(Arc::new(audit_seed)),
        last_hit: AtomicUsize::new(0),
        current: Vec::new(),
        led: false,
    };
    Ok(keyring.checked()?)
}

/// Writes a document for a keyring under a new document key, which every one of `roots` wraps.
///
/// # Errors
/// A keyring that is not a document's (without an audit key), no root key or a failing one, failing randomness.
pub async fn seal(
    roots: &[&dyn RootKey],
    random: &dyn RandomSource,
    keyring: &Keyring,
) -> Result<Vec<u8>, DocumentError> {
    if roots.is_empty() || roots.len() > MAX_ROOTS {
        return Err(DocumentError::Malformed("no root keys, or too many"));
    }
    let key = DocumentKey(Key32::new(rng::array(random)?));
    let mut stored_roots = Vec::with_capacity(roots.len());
    for root in roots {
        let wrapped = root.wrap(&key.0, &root_aad(&keyring.id, keyring.generation)).await?;
        let wrapped = base64_simd::STANDARD.encode_to_string(wrapped);
        stored_roots.push(StoredRoot { uri: root.uri().into(), wrapped });
    }
    let mut entries = Vec::with_capacity(keyring.entries.len());
    for entry in keyring.entries.iter().filter(|entry| entry.origin == Origin::Document) {
        let aad = aad(&keyring.id, &entry.kid().to_string(), entry.purpose().as_str(), &entry.suites);
        entries.push(StoredEntry {
            kid: entry.kid(),
            state: entry.state,
            purpose: entry.purpose(),
            suites: entry.suites.clone(),
            created: entry.created,
            since: entry.since,
            scheduled: entry.scheduled,
            wrapped: key.wrap(entry.material().raw(), &aad)?,
        });
    }
    let seed = keyring.audit_seed.as_deref().ok_or(DocumentError::Malformed("the keyring has no audit key"))?;
    let body = Body {
        format: FORMAT.into(),
        id: keyring.id.clone(),
        deployment: keyring.deployment.clone(),
        generation: keyring.generation,
        roots: stored_roots,
        entries,
        tombstones: keyring.tombstones.clone(),
        floors: keyring.floors.clone(),
        audit_seed: key.wrap(seed, &aad(&keyring.id, "", "audit", &[]))?,
    };
    let mut document = serde_json::to_vec(&body).map_err(|_| DocumentError::Malformed("it cannot be written"))?;
    let proof = Proof { mac: to_hex(&key.mac(&document)) };
    document.push(b'\n');
    serde_json::to_writer(&mut document, &proof).map_err(|_| DocumentError::Malformed("it cannot be written"))?;
    document.push(b'\n');
    Ok(document)
}
