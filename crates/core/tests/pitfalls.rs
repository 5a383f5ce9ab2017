//! What went wrong elsewhere, acted out against the core. A test carries the number of its scene.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use base64_simd::{STANDARD, URL_SAFE};
use common::{array, context, entry, fresh, keyring, list, reader, sealed_only, text, unhex};
use jiff::civil::date;
use keyfold_core::{
    accept::{Accept, Rule},
    clock::UnixTime,
    context::Context,
    detect::{Detected, detect},
    envelope::{Format, OpenError, Reading, fernet, kf1},
    error::{Code, Hint},
    keyring::{KeyError, Keyring, Purpose, State, parse_fernet, parse_key32, parse_master},
    rewrap::{How, Move, Mover, Stays, Target},
    rng::SystemRandom,
};

/// A policy that still takes plaintext, as a deployment has it while it migrates: the dangerous moment.
fn migrating() -> Accept {
    let mut rules: Vec<Rule> = Format::ALL.iter().map(|format| Rule::new(format.as_str(), None).unwrap()).collect();
    rules.push(Rule::new("plaintext", Some(date(2027, 1, 31))).unwrap());
    Accept::new(rules).unwrap()
}

fn place(record: &str, field: &str) -> Context {
    let entries = [("deployment", "d-1"), ("collection", "c-7"), ("record", record), ("field", field)];
    entries.into_iter().fold(Context::empty(), |context, (key, value)| context.with(key, value).unwrap())
}

fn both_kinds() -> Keyring {
    let entries =
        vec![entry(Purpose::Master, [7; 32], State::Primary), entry(Purpose::Fernet, [8; 32], State::Primary)];
    Keyring::from_entries("test", entries).unwrap()
}

#[test]
fn p05_a_kf1_value_pasted_into_another_record_field_tenant_or_user_does_not_open() {
    let (ring, accept) = (both_kinds(), sealed_only());
    let home = place("inst-1", "/admin_password").with("tenant", "acme").unwrap().with("user_sub", "u-1").unwrap();
    let sealed = ring.seal(Format::Kf1, &home.digest(), b"hunter2", fresh()).unwrap().text;
    let elsewhere = [
        place("inst-2", "/admin_password").with("tenant", "acme").unwrap().with("user_sub", "u-1").unwrap(),
        place("inst-1", "/connection_url").with("tenant", "acme").unwrap().with("user_sub", "u-1").unwrap(),
        place("inst-1", "/admin_password").with("tenant", "evil").unwrap().with("user_sub", "u-1").unwrap(),
        place("inst-1", "/admin_password").with("tenant", "acme").unwrap().with("user_sub", "u-2").unwrap(),
        place("inst-1", "/admin_password"),
    ];
    for other in elsewhere {
        let opened = ring.open(&sealed, &other.digest(), &reader(&accept, Reading::Compat));
        assert_eq!(opened.err().unwrap().code(), Code::ContextMismatchOrTampered);
    }
    assert!(ring.open(&sealed, &home.digest(), &reader(&accept, Reading::Strict)).is_ok());
}

#[test]
fn p06_no_damaged_envelope_is_returned_as_if_it_were_the_secret() {
    let (ring, accept) = (both_kinds(), migrating());
    let here = place("inst-1", "/connection_url").digest();
    let opens = |stored: &str, reading| {
        ring.open(stored, &here, &reader(&accept, reading)).map(|opened| opened.secret.expose().to_vec())
    };
    for format in Format::ALL {
        for size in 0..4 {
            let secret = "s".repeat(20 + size);
            let sealed = ring.seal(format, &here, secret.as_bytes(), fresh()).unwrap().text;
            // From here on a value shows what it is.
            let shows = match format {
                Format::Kf1 => 4,
                Format::V1 => 24,
                Format::Fernet => 6,
            };
            let mut damaged: Vec<String> = (shows..sealed.len()).map(|end| sealed[..end].to_owned()).collect();
            damaged.push(sealed.trim_end_matches('=').to_owned());
            damaged.extend(["\"{}\"", "'{}'", "b'{}'", " {}", "{}\n", "\u{feff}{}"].map(|a| a.replace("{}", &sealed)));
            for value in damaged.into_iter().filter(|value| *value != sealed) {
                for reading in [Reading::Strict, Reading::Compat] {
                    match opens(&value, reading) {
                        Ok(plain) => assert_eq!(plain, secret.as_bytes(), "{value} was given back"),
                        Err(error) => assert_ne!(error.code(), Code::NotEncrypted, "{value}"),
                    }
                }
            }
        }
    }
    assert_eq!(opens("hunter2", Reading::Strict).unwrap(), b"hunter2");
}

#[test]
fn p06_plaintext_opens_only_where_the_policy_takes_it_and_until_its_last_day() {
    let (ring, here) = (both_kinds(), Context::empty().digest());
    let code = |accept: &Accept, today| {
        let reader = keyfold_core::keyring::Reader { accept, today, reading: Reading::Strict, max_age: None };
        ring.open("hunter2", &here, &reader).err().map(|error| error.code())
    };
    assert_eq!(code(&sealed_only(), date(2026, 11, 22)), Some(Code::NotEncrypted));
    assert_eq!(code(&migrating(), date(2027, 1, 31)), None);
    assert!(code(&migrating(), date(2027, 2, 1)).is_some());
}

#[test]
fn p07_what_was_put_is_what_opens_even_where_it_looks_like_a_mask_or_an_envelope() {
    let (ring, accept) = (both_kinds(), sealed_only());
    let here = Context::empty().digest();
    let nested = ring.seal(Format::Kf1, &here, b"inner", fresh()).unwrap().text;
    let secrets =
        ["**********", "", " ", "\n", "null", "None", "[REDACTED]", "***", "\0", "hunter2\n", nested.as_str()];
    for format in Format::ALL {
        for secret in secrets {
            let sealed = ring.seal(format, &here, secret.as_bytes(), fresh()).unwrap().text;
            let opened = ring.open(&sealed, &here, &reader(&accept, Reading::Strict)).unwrap();
            assert_eq!(opened.secret.expose(), secret.as_bytes(), "{format}");
        }
    }
}

/// Compiles only while `$type` does not have `$banned`: with it, the marker would be ambiguous.
macro_rules! never {
    ($type:ty: $($banned:path),+) => {$({
        trait Marker<T> {
            const FREE: bool = true;
        }
        impl<T: ?Sized> Marker<()> for T {}
        struct Has;
        impl<T: ?Sized + $banned> Marker<Has> for T {}
        assert!(<$type as Marker<_>>::FREE);
    })+};
}

#[test]
fn p07_no_type_that_holds_a_secret_can_be_printed_copied_or_serialized() {
    use std::fmt::{Debug, Display};

    use keyfold_core::{dek::Dek, keyring::MasterKey, secret::Key32, secret::Secret};
    never!(Secret: Debug, Display, Clone, serde::Serialize);
    never!(Key32: Debug, Display, Clone, serde::Serialize);
    never!(Dek: Debug, Display, Clone, serde::Serialize);
    never!(MasterKey: Debug, Display, Clone, serde::Serialize);
    never!(fernet::FernetKey: Debug, Display, Clone, serde::Serialize);
}

#[test]
fn p08_without_a_key_for_a_format_nothing_is_sealed() {
    let here = Context::empty().digest();
    for (format, other) in
        [(Format::Kf1, Purpose::Fernet), (Format::V1, Purpose::Fernet), (Format::Fernet, Purpose::Master)]
    {
        let error = keyring(other, &[[7; 32]]).seal(format, &here, b"hunter2", fresh()).err().unwrap();
        assert_eq!(error.code(), Code::UnknownKey, "{format}");
        assert!(error.hint().is_some());
    }
    for state in [State::Staged, State::Active, State::Retired] {
        let ring = Keyring::from_entries("test", vec![entry(Purpose::Master, [7; 32], state)]).unwrap();
        assert!(ring.seal(Format::Kf1, &here, b"hunter2", fresh()).is_err(), "{state} sealed");
    }
    assert!(matches!(parse_master("REDIS_SRE_MASTER_KEY", " \n"), Err(KeyError::Missing { .. })));
}

#[test]
fn p09_a_master_key_with_junk_around_it_is_refused_with_the_length_found() {
    let raw: [u8; 32] = std::array::from_fn(|i| u8::try_from(i * 8 + 3).unwrap());
    let good = STANDARD.encode_to_string(raw);
    assert!(good.contains('+') || good.contains('/'), "the key shows its alphabet");
    for around in [good.clone(), format!("  {good}\n"), format!("\t{good}\r\n")] {
        assert_eq!(parse_master("here", &around).ok().unwrap().expose(), &raw);
    }
    let mut refused: Vec<(String, Option<usize>)> = vec![
        (format!("{good}x"), None),
        (format!("x{good}"), None),
        (format!("\"{good}\""), None),
        (format!("'{good}'"), None),
        (format!("b'{good}'"), None),
        (format!("{good},{good}"), None),
        (format!("{}\n{}", &good[..20], &good[20..]), None),
        (format!("{} {}", &good[..20], &good[20..]), None),
        (format!("{}!{}", &good[..20], &good[20..]), None),
        (good.trim_end_matches('=').to_owned(), None),
        (good.replace('+', "-").replace('/', "_"), None),
        (format!("base64:{good}"), None),
        (common::hex(&raw), Some(48)),
        (format!("{good}{good}"), None),
        ("correct horse battery staple".into(), None),
    ];
    for length in [1, 16, 24, 31, 33, 48, 64] {
        refused.push((STANDARD.encode_to_string(vec![7; length]), Some(length)));
    }
    for (text, length) in refused {
        let error = parse_master("REDIS_SRE_MASTER_KEY", &text).err().unwrap_or_else(|| panic!("{text} was taken"));
        let message = error.to_string();
        assert_eq!(error.code(), Code::KeyInvalid);
        assert!(error.hint().unwrap().contains("keyfold keygen"), "{text}");
        assert!(message.contains("REDIS_SRE_MASTER_KEY"), "{message}");
        let found = length.unwrap_or_else(|| text.chars().count());
        assert!(message.contains(&found.to_string()), "{text}: {message}");
        assert!(!message.contains(&text), "the message holds the key");
        assert!(parse_key32("root.key", &text).is_err(), "{text} was taken for a root key");
    }
}

#[test]
fn p09_a_fernet_key_in_the_wrong_alphabet_or_length_is_refused() {
    let raw: [u8; 32] = std::array::from_fn(|i| u8::try_from(i * 8 + 3).unwrap());
    let good = URL_SAFE.encode_to_string(raw);
    assert_eq!(parse_fernet("here", &format!(" {good}\n")).ok().unwrap().raw().expose(), &raw);
    for text in
        [STANDARD.encode_to_string(raw), good.trim_end_matches('=').into(), format!("{good}="), format!("{good}.")]
    {
        assert_eq!(parse_fernet("SRE_AGENT_ENCRYPTION_KEY", &text).err().unwrap().code(), Code::KeyInvalid, "{text}");
    }
}

#[test]
fn p10_a_failed_decryption_names_the_keys_that_were_tried_and_what_to_do() {
    let here = Context::empty().digest();
    let accept = sealed_only();
    for format in Format::ALL {
        let sealed = keyring(Purpose::of(format), &[[1; 32]]).seal(format, &here, b"hunter2", fresh()).unwrap();
        let others = keyring(Purpose::of(format), &[[2; 32], [3; 32]]);
        let error = others.open(&sealed.text, &here, &reader(&accept, Reading::Strict)).err().unwrap();
        let message = error.to_string();
        assert!(error.hint().is_some());
        if format == Format::Kf1 {
            assert_eq!(error, OpenError::UnknownKey { kid: sealed.kid });
            assert!(message.contains(&sealed.kid.to_string()), "{message}");
        } else {
            assert!(message.starts_with("Decryption failed"), "{message}");
            for tried in others.entries() {
                assert!(message.contains(&tried.kid().to_string()), "{message}");
            }
        }
        assert!(!message.contains(&sealed.text) && !message.contains("hunter2"));
    }
}

#[test]
fn p16_a_token_keeps_its_age_through_rotation_resealing_and_another_key() {
    let (old, new) = (entry(Purpose::Fernet, [1; 32], State::Active), entry(Purpose::Fernet, [2; 32], State::Primary));
    let new_kid = new.kid();
    let here = Context::empty().digest();
    let made = UnixTime(1_600_000_000);
    let old_key =
        common::fernet_key(&keyfold_core::keyring::fernet_to_text(&keyfold_core::secret::Key32::new([1; 32])));
    let token = fernet::seal(&old_key, &SystemRandom, b"hunter2", made).unwrap();
    let ring = Keyring::from_entries("test", vec![new, old]).unwrap();
    let accept = sealed_only();
    for how in [How::Rewrap, How::Reseal] {
        for format in [None, Some(Format::Fernet)] {
            let target =
                Target { format, plaintext_to: Format::Kf1, how, stays: how.stays(), now: UnixTime(1_790_000_000) };
            let reader = reader(&accept, Reading::Strict);
            let mover = Mover { keyring: &ring, random: &SystemRandom, reader, target };
            let Move::To { text, kid, .. } = mover.plan(&token, &here).unwrap() else { panic!("it stayed") };
            assert_eq!(kid, new_kid);
            assert_ne!(text, token);
            let moved = fernet::Token::parse(&text, Reading::Strict).unwrap();
            assert_eq!(moved.timestamp(), made, "{how:?}");
            let again = Mover { target: Target { how: How::Reseal, stays: Stays::Nothing, ..target }, ..mover };
            let Move::To { text, .. } = again.plan(&text, &here).unwrap() else { panic!("it stayed") };
            assert_eq!(fernet::Token::parse(&text, Reading::Strict).unwrap().timestamp(), made, "resealed");
        }
    }
}

#[test]
fn p17_who_kept_a_retired_key_and_an_old_copy_cannot_forge_what_todays_key_accepts() {
    let known = common::vectors("kf1.json");
    let (m1, m2) = (array(text(&known, "m1")), array(text(&known, "m2")));
    let entries = vec![entry(Purpose::Master, m2, State::Primary), entry(Purpose::Master, m1, State::Retired)];
    let ring = Keyring::from_entries("test", entries).unwrap();
    let accept = sealed_only();
    let scenes = [
        ("a body forged by who kept the retired key and an old copy", Code::ContextMismatchOrTampered),
        ("the same forgery with the retired key's own wrap", Code::KeyRetired),
        ("the retired key's wrap under today's kid", Code::ContextMismatchOrTampered),
    ];
    for (name, code) in scenes {
        let case = list(&known, "refused").iter().find(|case| text(case, "name") == name).unwrap();
        let stored = kf1::Envelope::from_bytes(unhex(text(case, "envelope"))).unwrap().to_text();
        assert_eq!(detect(&stored), Detected::Sealed(Format::Kf1));
        let here = context(&case["context"]).digest();
        let opened = ring.open(&stored, &here, &reader(&accept, Reading::Compat));
        assert_eq!(opened.err().unwrap().code(), code, "{name}");
        let target = Target {
            format: None,
            plaintext_to: Format::Kf1,
            how: How::Rewrap,
            stays: Stays::UnderPrimary,
            now: common::NOW,
        };
        let mover = Mover { keyring: &ring, random: &SystemRandom, reader: reader(&accept, Reading::Strict), target };
        assert!(mover.plan(&stored, &here).is_err(), "{name}: rotation would have made it good");
    }
}
