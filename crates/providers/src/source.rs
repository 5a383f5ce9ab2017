//! Key sources: where keys that other programs share are kept, and read from as they are.

use std::{fs, path::Path};

use keyfold_core::{
    keyring::{KeyError, KeyMaterial, parse_fernet, parse_master},
    root::RootError,
    secret::Secret,
};

use crate::SourceUri;

/// A key file over this many bytes is not a key file.
const MAX_FILE: u64 = 64 << 10;

/// What a source holds.
pub struct Fetched {
    /// The key as text, before anybody looked whether it is one.
    pub value: Secret,
    /// Which version this is, where the place has versions.
    pub version: Option<String>,
}

/// Reads what a source holds.
///
/// # Errors
/// Nothing is there, nobody may read it, the place cannot be reached, or this build does not know it.
pub async fn fetch(uri: &SourceUri) -> Result<Fetched, RootError> {
    let place = uri.to_string();
    match uri {
        SourceUri::File(path) => from_file(&place, path),
        SourceUri::Environment(name) => {
            use std::os::unix::ffi::OsStringExt;
            let value = std::env::var_os(name).ok_or_else(|| RootError::Invalid {
                place: place.clone(),
                why: format!("{name} environment variable not set"),
                hint: format!("export {name}, or name another place"),
            })?;
            Ok(Fetched { value: Secret::new(value.into_vec()), version: None })
        }
        #[cfg(feature = "aws")]
        SourceUri::Aws(secret) => {
            let secrets = crate::aws::Secrets::new(place.clone(), secret, crate::Bounds::default()).await?;
            member(&place, secrets.get().await?, secret.field.as_deref())
        }
        #[cfg(feature = "gcp")]
        SourceUri::Gcp(secret) => {
            let secrets = crate::gcp::Secrets::new(place.clone(), secret, crate::Bounds::default()).await?;
            member(&place, secrets.get().await?, secret.field.as_deref())
        }
        #[cfg(feature = "hcvault")]
        SourceUri::Vault(secret) => crate::hcvault::Kv::new(place, secret, crate::Bounds::default())?.get().await,
        #[allow(unreachable_patterns, reason = "nothing is left where every feature is on")]
        other => Err(not_built(other)),
    }
}

/// Writes a new version; gives its name. Versions that were there stay. Where an answer was lost, it is looked whether the
/// value is there.
///
/// # Errors
/// As [`fetch`]; a place without versions, or a URI that pins one; a write of which nobody knows whether it arrived.
pub async fn store(uri: &SourceUri, value: &Secret) -> Result<String, RootError> {
    match put(uri, value).await {
        Err(error @ (RootError::TimedOut { .. } | RootError::Unavailable { .. })) => {
            settled(error, fetch(uri).await, value)
        }
        done => done,
    }
}

/// What became of a write that failed, seen by what is there after it.
fn settled(error: RootError, there: Result<Fetched, RootError>, value: &Secret) -> Result<String, RootError> {
    match there {
        Ok(there) if there.value.expose() == value.expose() => Ok(there.version.unwrap_or_default()),
        // Refused, and not there.
        Ok(_) | Err(RootError::Missing { .. }) if !error.is_passing() => Err(error),
        // It may still be on its way, or nobody can look.
        _ => {
            let (place, why) = match error {
                RootError::TimedOut { place, seconds } => (place, format!("no answer within {seconds} s")),
                RootError::Unavailable { place, why, .. } => (place, why),
                other => return Err(other),
            };
            Err(RootError::Unclear { place, why })
        }
    }
}

async fn put(uri: &SourceUri, value: &Secret) -> Result<String, RootError> {
    let place = uri.to_string();
    let unversioned = |what: &str| RootError::Invalid {
        place: place.clone(),
        why: what.into(),
        hint: "write a new version to AWS Secrets Manager, GCP Secret Manager or the KV engine of OpenBao".into(),
    };
    let _ = value;
    match uri {
        SourceUri::File(_) | SourceUri::Environment(_) => Err(unversioned("the place keeps no versions")),
        #[cfg(feature = "aws")]
        SourceUri::Aws(secret) if secret.version.is_none() => {
            let secrets = crate::aws::Secrets::new(place.clone(), secret, crate::Bounds::default()).await?;
            let value = match secret.field.as_deref() {
                None => Secret::from(value.expose()),
                Some(field) => with_member(&place, field, value, || secrets.get()).await?,
            };
            let token: [u8; 16] = random(&place)?;
            secrets.put(&value, &keyfold_core::id::to_hex(&token)).await
        }
        #[cfg(feature = "gcp")]
        SourceUri::Gcp(secret) if secret.version.is_none() => {
            let secrets = crate::gcp::Secrets::new(place.clone(), secret, crate::Bounds::default()).await?;
            let value = match secret.field.as_deref() {
                None => Secret::from(value.expose()),
                Some(field) => with_member(&place, field, value, || secrets.get()).await?,
            };
            secrets.put(&value).await
        }
        #[cfg(feature = "hcvault")]
        SourceUri::Vault(secret) if secret.version.is_none() => {
            crate::hcvault::Kv::new(place, secret, crate::Bounds::default())?.put(value).await
        }
        #[cfg(any(feature = "aws", feature = "gcp", feature = "hcvault"))]
        SourceUri::Aws(crate::AwsSecret { version: Some(_), .. })
        | SourceUri::Gcp(crate::GcpSecret { version: Some(_), .. })
        | SourceUri::Vault(crate::VaultSecret { version: Some(_), .. }) => {
            Err(unversioned("the URI pins a version, which cannot be written again"))
        }
        #[allow(unreachable_patterns, reason = "nothing is left where every feature is on")]
        other => Err(not_built(other)),
    }
}

/// The raw master key that a source holds, for `v1` and `kf1`.
///
/// # Errors
/// Anything but base64 of 32 bytes, with the length found.
pub fn master(uri: &SourceUri, fetched: &Fetched) -> Result<KeyMaterial, KeyError> {
    let place = uri.to_string();
    let key = parse_master(&place, text(&place, "Master", &fetched.value)?)?;
    Ok(KeyMaterial::Master(Box::new(key)))
}

/// The Fernet key that a source holds.
///
/// # Errors
/// Anything but base64url of 32 bytes, with the length found.
pub fn fernet(uri: &SourceUri, fetched: &Fetched) -> Result<KeyMaterial, KeyError> {
    let place = uri.to_string();
    let key = parse_fernet(&place, text(&place, "Fernet", &fetched.value)?)?;
    Ok(KeyMaterial::Fernet(Box::new(key)))
}

fn text<'a>(place: &str, kind: &'static str, value: &'a Secret) -> Result<&'a str, KeyError> {
    if value.expose().trim_ascii().is_empty() {
        return Err(KeyError::Length { place: place.into(), kind, length: 0 });
    }
    std::str::from_utf8(value.expose()).map_err(|_| KeyError::NotBase64 {
        place: place.into(),
        length: value.len(),
        what: "not text",
    })
}

fn from_file(place: &str, path: &Path) -> Result<Fetched, RootError> {
    use std::io::Read;
    let invalid =
        |why: String| RootError::Invalid { place: place.into(), why, hint: "name the file that holds the key".into() };
    let mut bytes = Vec::with_capacity(256);
    let read = fs::File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes));
    let value = Secret::new(bytes);
    read.map_err(|error| invalid(error.kind().to_string()))?;
    Ok(Fetched { value, version: None })
}

#[cfg(any(feature = "aws", feature = "gcp"))]
fn random<const N: usize>(place: &str) -> Result<[u8; N], RootError> {
    keyfold_core::rng::array(&keyfold_core::rng::SystemRandom).map_err(|error| RootError::Unavailable {
        place: place.into(),
        why: error.to_string(),
        retry: false,
    })
}

#[cfg(any(feature = "aws", feature = "gcp"))]
type Members = serde_json::Map<String, serde_json::Value>;

#[cfg(any(feature = "aws", feature = "gcp"))]
fn members(place: &str, value: &Secret, field: &str) -> Result<Members, RootError> {
    serde_json::from_slice(value.expose()).map_err(|_| RootError::Invalid {
        place: place.into(),
        why: format!("the secret is not a JSON object, and `{field}` is to be read from it"),
        hint: "leave field= out where the whole secret is the key".into(),
    })
}

#[cfg(any(feature = "aws", feature = "gcp"))]
fn member(place: &str, fetched: Fetched, field: Option<&str>) -> Result<Fetched, RootError> {
    let Some(field) = field else { return Ok(fetched) };
    match members(place, &fetched.value, field)?.remove(field) {
        Some(serde_json::Value::String(text)) => Ok(Fetched { value: Secret::from(text), ..fetched }),
        _ => Err(RootError::Missing { place: place.into(), why: format!("the secret has no text member `{field}`") }),
    }
}

#[cfg(any(feature = "aws", feature = "gcp"))]
async fn with_member<F: Future<Output = Result<Fetched, RootError>>>(
    place: &str,
    field: &str,
    value: &Secret,
    read: impl Fn() -> F,
) -> Result<Secret, RootError> {
    let whole = read().await?;
    let mut members = members(place, &whole.value, field)?;
    members.insert(field.into(), String::from_utf8_lossy(value.expose()).into_owned().into());
    let changed = Secret::from(serde_json::Value::Object(members).to_string());
    // These places write without comparing. Asked once more, so that what somebody else wrote meanwhile is not put back.
    let again = read().await?;
    if again.version != whole.version || again.value.expose() != whole.value.expose() {
        return Err(RootError::Invalid {
            place: place.into(),
            why: "somebody else wrote the secret meanwhile".into(),
            hint: "publish it again".into(),
        });
    }
    Ok(changed)
}

#[allow(dead_code, reason = "nothing is left where every feature is on")]
fn not_built(uri: &SourceUri) -> RootError {
    let feature = match uri {
        SourceUri::Aws(_) => "aws",
        SourceUri::Gcp(_) => "gcp",
        _ => "hcvault",
    };
    RootError::Invalid {
        place: uri.to_string(),
        why: "this build of keyfold cannot reach it".into(),
        hint: format!("build it with `--features {feature}`, or `--features full`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(value: &str, version: &str) -> Fetched {
        Fetched { value: Secret::from(value.to_owned()), version: Some(version.into()) }
    }

    #[test]
    fn a_write_whose_answer_was_lost_is_done_where_its_value_is_there_and_unclear_where_nobody_knows() {
        let value = Secret::from("new".to_owned());
        let lost = || RootError::TimedOut { place: "p".into(), seconds: 5 };
        let refused = || RootError::Unavailable { place: "p".into(), why: "HTTP 400".into(), retry: false };
        for error in [lost(), refused()] {
            assert_eq!(settled(error, Ok(there("new", "7")), &value).unwrap(), "7");
        }
        for seen in [Ok(there("old", "6")), Err(lost())] {
            let unclear = settled(lost(), seen, &value).unwrap_err();
            assert_eq!(unclear.kind(), "unclear");
            assert!(unclear.to_string().contains("may have been stored"), "{unclear}");
        }
        assert_eq!(settled(refused(), Ok(there("old", "6")), &value).unwrap_err(), refused());
        assert_eq!(settled(refused(), Err(lost()), &value).unwrap_err().kind(), "unclear");
    }

    #[cfg(any(feature = "aws", feature = "gcp"))]
    #[tokio::test]
    async fn a_secret_that_somebody_else_wrote_meanwhile_is_not_written_over() {
        let value = Secret::from("new".to_owned());
        let same = || async { Ok(there(r#"{"key":"old","owner":"sre"}"#, "1")) };
        let whole = with_member("p", "key", &value, same).await.ok().unwrap();
        assert_eq!(whole.expose(), br#"{"key":"new","owner":"sre"}"#);
        let reads = std::cell::Cell::new(0);
        let moving = || {
            reads.set(reads.get() + 1);
            let found = there(r#"{"key":"old"}"#, &reads.get().to_string());
            async { Ok(found) }
        };
        let error = with_member("p", "key", &value, moving).await.err().unwrap();
        assert!(error.to_string().contains("somebody else wrote"), "{error}");
    }
}
