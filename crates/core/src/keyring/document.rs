//! The stored keyring: two lines of JSON, authenticated, every key wrapped by a root key.
//!
//! ```text
//! {"format":"keyfold-keyring-v1","id":…,"deployment":…,"generation":…,"entries":[…],"tombstones":[…],"floors":{…},…}
//! {"mac_key":"<wrapped by the root>","mac":"<hex>"}
//! ```
//!
//! The MAC is HMAC-SHA-256 over a label and the bytes of the first line. Of these only the id is used before it is checked: it
//! unwraps the MAC key, and a wrong one does not. Each entry's key is wrapped with keyring id, kid, purpose and suites as associated data, so that an entry cannot be renamed, moved to another
//! keyring or given another purpose by whoever can write the store.
//!
//! Not promised: that the document is the newest. The caller gives the highest generation it has seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicUsize},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;

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
    secret::Key32,
};

const FORMAT: &str = "keyfold-keyring-v1";
/// A document over this many bytes is refused before it is parsed.
pub const MAX_DOCUMENT: usize = 4 << 20;

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
    entries: Vec<StoredEntry>,
    tombstones: Vec<Tombstone>,
    floors: BTreeMap<String, Accept>,
    audit_seed: String,
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
    wrapped: String,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Proof {
    mac_key: String,
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
    Ok(body)
}

/// Reads what a document claims, without a key.
///
/// # Errors
/// `malformed`.
pub fn claims(document: &[u8]) -> Result<Claims, DocumentError> {
    let (body, _) = split(document)?;
    let body = parse_body(body)?;
    Ok(Claims { id: body.id, deployment: body.deployment, generation: body.generation })
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

fn proof_of(key: &Key32, body: &[u8]) -> [u8; 32] {
    mac::hmac(key.expose(), &[b"keyfold keyring v1\0", body])
}

async fn unwrap(root: &dyn RootKey, wrapped: &str, aad: &[u8]) -> Result<Key32, DocumentError> {
    let malformed = || DocumentError::Malformed("a wrapped key is not base64");
    let bytes = lenient::decode_standard(wrapped.as_bytes()).map_err(|_| malformed())?;
    if base64_simd::STANDARD.encode_to_string(&bytes) != wrapped {
        return Err(malformed());
    }
    Ok(root.unwrap(&bytes, aad).await?)
}

/// Opens a document. `seen` is the highest generation this node knows of; anything below is refused.
///
/// # Errors
/// See [`DocumentError`].
pub async fn open(root: &dyn RootKey, document: &[u8], seen: u64) -> Result<Keyring, DocumentError> {
    let (bytes, proof) = split(document)?;
    // The id is needed to unwrap the MAC key; a lie here fails the unwrapping.
    let claimed = parse_body(bytes)?;
    let mac_key = unwrap(root, &proof.mac_key, &aad(&claimed.id, "", "mac", &[])).await?;
    let mac = from_hex::<32>(&proof.mac).ok_or(DocumentError::Malformed("the MAC is not 64 hex digits"))?;
    verify_slices_are_equal(&proof_of(&mac_key, bytes), &mac).map_err(|_| DocumentError::Authentication)?;
    let body = claimed;
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
        let key = KeyMaterial::new(stored.purpose, unwrap(root, &stored.wrapped, &aad).await?)?;
        if key.kid() != stored.kid {
            return Err(DocumentError::WrongKid(stored.kid));
        }
        let mut entry = Entry::new(key, stored.state, stored.suites.clone(), stored.created, Origin::Document);
        entry.since = stored.since;
        entries.push(entry);
    }
    let audit_seed = unwrap(root, &body.audit_seed, &aad(&body.id, "", "audit", &[])).await?;
    let keyring = Keyring {
        id: body.id,
        deployment: body.deployment,
        generation: body.generation,
        entries,
        tombstones: body.tombstones,
        floors: body.floors,
        audit_seed: Some(Arc::new(audit_seed)),
        last_hit: AtomicUsize::new(0),
    };
    Ok(keyring.checked()?)
}

/// Writes a document for a keyring, every key wrapped by `root`.
///
/// # Errors
/// A keyring that is not a document's (without an audit key), a failing root key, failing randomness.
pub async fn seal(root: &dyn RootKey, random: &dyn RandomSource, keyring: &Keyring) -> Result<Vec<u8>, DocumentError> {
    let engine = base64_simd::STANDARD;
    let mut entries = Vec::with_capacity(keyring.entries.len());
    for entry in keyring.entries.iter().filter(|entry| entry.origin == Origin::Document) {
        let aad = aad(&keyring.id, &entry.kid().to_string(), entry.purpose().as_str(), &entry.suites);
        let wrapped = root.wrap(entry.material().raw(), &aad).await?;
        entries.push(StoredEntry {
            kid: entry.kid(),
            state: entry.state,
            purpose: entry.purpose(),
            suites: entry.suites.clone(),
            created: entry.created,
            since: entry.since,
            wrapped: engine.encode_to_string(wrapped),
        });
    }
    let seed = keyring.audit_seed.as_deref().ok_or(DocumentError::Malformed("the keyring has no audit key"))?;
    let audit_seed = root.wrap(seed, &aad(&keyring.id, "", "audit", &[])).await?;
    let body = Body {
        format: FORMAT.into(),
        id: keyring.id.clone(),
        deployment: keyring.deployment.clone(),
        generation: keyring.generation,
        entries,
        tombstones: keyring.tombstones.clone(),
        floors: keyring.floors.clone(),
        audit_seed: engine.encode_to_string(audit_seed),
    };
    let mut document = serde_json::to_vec(&body).map_err(|_| DocumentError::Malformed("it cannot be written"))?;
    let mac_key = Key32::new(rng::array(random)?);
    let wrapped = root.wrap(&mac_key, &aad(&keyring.id, "", "mac", &[])).await?;
    let proof = Proof { mac_key: engine.encode_to_string(wrapped), mac: to_hex(&proof_of(&mac_key, &document)) };
    document.push(b'\n');
    serde_json::to_writer(&mut document, &proof).map_err(|_| DocumentError::Malformed("it cannot be written"))?;
    document.push(b'\n');
    Ok(document)
}
