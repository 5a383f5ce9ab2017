//! Keys in the environment: `env:NAME` as a root, and the raw keys that the two Python projects hold.

use keyfold_core::{
    clock::UnixTime,
    envelope::Format,
    error::Hint,
    keyring::{
        Entry, FERNET_KEY_VARIABLE, KeyError, KeyMaterial, MASTER_KEY_VARIABLE, Origin, State, parse_fernet,
        parse_key32, parse_master,
    },
    root::RootError,
    secret::Secret,
};

use crate::LocalRoot;

/// Opens a root key from a variable.
pub(crate) fn open(name: &str) -> Result<LocalRoot, RootError> {
    let place = format!("env:{name}");
    let invalid = |why: String, hint: Option<String>| RootError::Invalid {
        place: place.clone(),
        why,
        hint: hint.unwrap_or_default(),
    };
    let text = read(name).ok_or_else(|| {
        invalid(
            "the variable is not set".into(),
            Some(format!("export {name}=\"$(keyfold keygen)\", and keep a copy of it")),
        )
    })?;
    let text = as_text(name, &text).map_err(|error| invalid(error.to_string(), error.hint()))?;
    let key = parse_key32(&place, text).map_err(|error| {
        let hint = error.mend().unwrap_or("it holds base64 of 32 bytes, as `keyfold keygen` prints it");
        invalid(error.to_string(), Some(hint.into()))
    })?;
    LocalRoot::new(place, &key)
}

/// The entries of `REDIS_SRE_MASTER_KEY` and `REDIS_SRE_MASTER_KEY_PREVIOUS`; none where neither is set.
///
/// # Errors
/// A key that is not 32 bytes of base64, a repeated one, or older keys without a current one.
pub fn master_keys() -> Result<Vec<Entry>, KeyError> {
    keys(MASTER_KEY_VARIABLE, |place, text| {
        parse_master(place, text).map(|key| (KeyMaterial::Master(Box::new(key)), vec![Format::Kf1, Format::V1]))
    })
}

/// The entries of `SRE_AGENT_ENCRYPTION_KEY` and `SRE_AGENT_ENCRYPTION_KEY_PREVIOUS`; none where neither is set.
///
/// # Errors
/// As [`master_keys`], for Fernet keys.
pub fn fernet_keys() -> Result<Vec<Entry>, KeyError> {
    keys(FERNET_KEY_VARIABLE, |place, text| {
        parse_fernet(place, text).map(|key| (KeyMaterial::Fernet(Box::new(key)), vec![Format::Fernet]))
    })
}

/// Both lists.
///
/// # Errors
/// As [`master_keys`] and [`fernet_keys`].
pub fn raw_keys() -> Result<Vec<Entry>, KeyError> {
    let mut keys = master_keys()?;
    keys.extend(fernet_keys()?);
    Ok(keys)
}

type Parsed = Result<(KeyMaterial, Vec<Format>), KeyError>;

fn keys(variable: &str, parse: impl Fn(&str, &str) -> Parsed) -> Result<Vec<Entry>, KeyError> {
    let previous = format!("{variable}_PREVIOUS");
    list(variable, read(variable), read(&previous), parse)
}

/// The rule, apart from the environment: one current key, then the older ones, comma-separated.
fn list(
    variable: &str,
    current: Option<Secret>,
    previous: Option<Secret>,
    parse: impl Fn(&str, &str) -> Parsed,
) -> Result<Vec<Entry>, KeyError> {
    let older = format!("{variable}_PREVIOUS");
    let mut entries: Vec<Entry> = Vec::new();
    let mut add = |place: &str, text: &str, state: State| {
        let (key, suites) = parse(place, text)?;
        if entries.iter().any(|entry| entry.kid() == key.kid()) {
            return Err(KeyError::Repeated { place: place.into(), kid: key.kid() });
        }
        entries.push(Entry::new(key, state, suites, UnixTime(0), Origin::Environment(place.into())));
        Ok(())
    };
    let Some(current) = current else {
        // A list of older keys alone is a half-done change of the environment, not a wish to seal without a key.
        return if previous.is_some() { Err(KeyError::Missing { variable: variable.into() }) } else { Ok(entries) };
    };
    add(variable, as_text(variable, &current)?, State::Primary)?;
    if let Some(previous) = previous {
        for text in as_text(&older, &previous)?.split(',') {
            add(&older, text, State::Active)?;
        }
    }
    Ok(entries)
}

/// A variable that is set to nothing counts as set, so that its emptiness is reported; except `_PREVIOUS`, where an empty
/// list is a list.
fn read(name: &str) -> Option<Secret> {
    use std::os::unix::ffi::OsStringExt;
    let value = Secret::new(std::env::var_os(name)?.into_vec());
    if value.is_empty() && name.ends_with("_PREVIOUS") { None } else { Some(value) }
}

fn as_text<'a>(place: &str, value: &'a Secret) -> Result<&'a str, KeyError> {
    std::str::from_utf8(value.expose()).map_err(|error| KeyError::NotBase64 {
        place: place.into(),
        length: value.len(),
        what: if error.valid_up_to() == 0 { "not text" } else { "not text to its end" },
    })
}

#[cfg(test)]
mod tests {
    use keyfold_core::keyring::master_to_text;
    use keyfold_core::secret::Key32;

    use super::*;

    fn masters(current: Option<&str>, previous: Option<&str>) -> Result<Vec<Entry>, KeyError> {
        list(
            MASTER_KEY_VARIABLE,
            current.map(|text| Secret::from(text.as_bytes())),
            previous.map(|text| Secret::from(text.as_bytes())),
            |place, text| {
                parse_master(place, text).map(|key| (KeyMaterial::Master(Box::new(key)), vec![Format::Kf1, Format::V1]))
            },
        )
    }

    fn key(byte: u8) -> String {
        master_to_text(&Key32::new([byte; 32]))
    }

    #[test]
    fn the_first_key_seals_and_older_ones_open() {
        let entries = masters(Some(&format!(" {}\n", key(1))), Some(&format!("{}, {}", key(2), key(3)))).unwrap();
        let states: Vec<_> = entries.iter().map(Entry::state).collect();
        assert_eq!(states, [State::Primary, State::Active, State::Active]);
        assert!(masters(None, None).unwrap().is_empty());
    }

    #[test]
    fn p08_a_missing_or_malformed_key_is_an_error_and_never_another_key() {
        for (current, previous, says) in [
            (Some(""), None, "REDIS_SRE_MASTER_KEY environment variable not set"),
            (None, Some(key(1)), "REDIS_SRE_MASTER_KEY environment variable not set"),
            (Some("AAAA"), None, "Master key must be 32 bytes, 3 found"),
            (Some("nope!"), None, "5 characters found"),
            (Some(&*key(1)), Some(key(1)), "listed twice"),
            (Some(&*key(1)), Some(format!("{},,", key(2))), "_PREVIOUS environment variable not set"),
            (Some(&*key(1)), Some("x".into()), "REDIS_SRE_MASTER_KEY_PREVIOUS: the key is not canonical base64"),
        ] {
            let error = masters(current, previous.as_deref()).err().unwrap();
            assert!(error.to_string().contains(says), "{current:?} {previous:?}: {error}");
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn p09_a_key_in_quotes_or_in_the_other_base64_is_refused_with_what_to_change() {
        let url = "-_".repeat(21) + "8=";
        let standard = url.replace('-', "+").replace('_', "/");
        let quoted = format!("\"{standard}\"");
        for (parsed, says) in [
            (parse_fernet("F", &standard).map(drop), "- for + and _ for /"),
            (parse_master("M", &url).map(drop), "+ for - and / for _"),
            (parse_master("M", &quoted).map(drop), "take the quotes away"),
            (parse_fernet("F", &format!("'{url}'")).map(drop), "take the quotes away"),
        ] {
            let error = parsed.unwrap_err();
            assert!(error.hint().unwrap().contains(says), "{error}: {:?}", error.hint());
            assert!(
                !error.to_string().contains("-_-_") && !error.to_string().contains("+/+/"),
                "the key is not repeated"
            );
        }
        assert!(parse_fernet("F", &url).is_ok() && parse_master("M", &standard).is_ok());
    }

    #[test]
    fn p09_junk_around_a_key_is_refused_and_the_length_is_said() {
        let good = key(1);
        for junk in
            [format!("{good}x"), format!("x{good}"), format!("'{good}'"), good.replace('=', ""), good.replace('A', "-")]
        {
            let error = masters(Some(&junk), None).err().unwrap();
            assert!(error.to_string().contains("found"), "{error}");
            assert!(!error.to_string().contains(&good[5..20]), "the key is not repeated");
        }
    }
}
