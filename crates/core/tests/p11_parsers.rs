//! P11: no parser of the core trusts a length, panics, or takes long, whatever it is given.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::{Duration, Instant};

use base64_simd::{STANDARD, URL_SAFE};
use common::{fresh, keyring, reader};
use keyfold_core::{
    accept::{Accept, Rule},
    context::Context,
    detect::{detect, detect_bytes},
    envelope::{
        Format, Reading,
        fernet::Token,
        kf1::{self},
        redis_sre_v1,
    },
    error::Code,
    inspect::inspect,
    keyring::{Purpose, document, parse_fernet, parse_key32, parse_master},
    secret::MAX_SECRET,
};
use proptest::prelude::*;

fn cases() -> ProptestConfig {
    ProptestConfig {
        cases: u32::try_from(common::scaled(20_000)).unwrap(),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Gives `bytes` to every parser that reads bytes, and as text to every parser that reads text.
fn all_parsers(bytes: &[u8]) {
    let _ = kf1::Envelope::from_bytes(bytes.to_vec());
    let _ = detect_bytes(bytes);
    let _ = document::claims(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = detect(&text);
    let _ = inspect(&text);
    let _ = kf1::Envelope::from_text(&text);
    for reading in [Reading::Strict, Reading::Compat] {
        let _ = redis_sre_v1::Envelope::parse(&text, reading);
        let _ = Token::parse(&text, reading);
    }
    let _ = Context::parse_entries(&text.lines().collect::<Vec<_>>());
    let _ = parse_master("here", &text);
    let _ = parse_fernet("here", &text);
    let _ = parse_key32("here", &text);
}

/// One good value of each kind, to be mutated.
fn seeds() -> Vec<String> {
    let here = Context::empty().digest();
    let seal = |format| keyring(Purpose::of(format), &[[7; 32]]).seal(format, &here, b"hunter2", fresh()).unwrap().text;
    let mut seeds: Vec<String> = Format::ALL.into_iter().map(seal).collect();
    seeds.push(String::from_utf8(STANDARD.decode_to_vec(&seeds[1]).unwrap()).unwrap());
    seeds
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn p11_any_bytes_are_parsed_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        all_parsers(&bytes);
    }

    #[test]
    fn p11_anything_behind_a_known_beginning_is_parsed_or_refused(start in 0..8usize, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let encoded = STANDARD.encode_to_string(&bytes);
        let url = URL_SAFE.encode_to_string(&bytes);
        let value = match start {
            0 => format!("kf1.{url}"),
            1 => format!("kf1.{}", url.trim_end_matches('=')),
            2 => format!("gAAAAA{url}"),
            3 => format!("eyJ2ZXJzaW9uIjogInYxIiwg{encoded}"),
            4 => STANDARD.encode_to_string(format!("{{\"version\": \"v1\", \"ciphertext\": \"{encoded}\"}}")),
            5 => format!("{{\"format\":\"keyfold-keyring-v1\",\"id\":\"{encoded}\"}}\n{{\"mac\":\"\"}}"),
            6 => URL_SAFE.encode_to_string([&[0x80][..], &bytes].concat()),
            _ => String::from_utf8_lossy(&[&[0xF6, 1, 1, 0][..], &bytes].concat()).into_owned(),
        };
        all_parsers(value.as_bytes());
        all_parsers(&[&[0xF6, 1, 1, 0][..], &bytes].concat());
    }

    #[test]
    fn p11_a_good_value_with_bytes_changed_inserted_or_cut_never_opens_to_another_secret(
        seed in 0..3usize, at in any::<prop::sample::Index>(), with in prop::collection::vec(any::<u8>(), 0..4), cut in 0..6usize,
    ) {
        let good = seeds().swap_remove(seed);
        let mut bytes = good.clone().into_bytes();
        let from = at.index(bytes.len());
        let to = (from + cut).min(bytes.len());
        bytes.splice(from..to, with);
        all_parsers(&bytes);
        let format = Format::ALL[seed];
        let ring = keyring(Purpose::of(format), &[[7; 32]]);
        let accept = Accept::new(vec![Rule::new(format.as_str(), None).unwrap()]).unwrap();
        for reading in [Reading::Strict, Reading::Compat] {
            let text = String::from_utf8_lossy(&bytes);
            if let Ok(opened) = ring.open(&text, &Context::empty().digest(), &reader(&accept, reading)) {
                prop_assert_eq!(opened.secret.expose(), b"hunter2");
                // One spelling: what a strict reader opens is what was written.
                prop_assert!(reading == Reading::Compat || text == good);
            }
        }
    }
}

#[test]
fn p11_what_is_over_the_limit_is_refused_before_it_is_decoded() {
    let huge = "A".repeat(64 << 20);
    let start = Instant::now();
    assert_eq!(kf1::Envelope::from_text(&format!("kf1.{huge}")).err().unwrap().code(), Code::TooLarge);
    for reading in [Reading::Strict, Reading::Compat] {
        assert_eq!(redis_sre_v1::Envelope::parse(&huge, reading).err().unwrap().code(), Code::TooLarge);
        assert_eq!(Token::parse(&format!("gAAAAA{huge}"), reading).err().unwrap().code(), Code::TooLarge);
    }
    assert!(document::claims(huge.as_bytes()).is_err());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let over = vec![0xF6; kf1::OVERHEAD + MAX_SECRET + 1];
    assert!(kf1::Envelope::from_bytes(over).is_err());
}

#[test]
fn p11_json_as_deep_as_the_limit_allows_is_refused_and_does_not_overflow_the_stack() {
    for depth in [1_000, 100_000, 400_000] {
        let deep = format!("{{\"version\": \"v1\", \"ciphertext\": {}", "[".repeat(depth));
        for json in [deep.clone(), "[".repeat(depth), "{\"a\":".repeat(depth)] {
            let value = STANDARD.encode_to_string(&json);
            let _ = (detect(&value), inspect(&value));
            for reading in [Reading::Strict, Reading::Compat] {
                assert!(redis_sre_v1::Envelope::parse(&value, reading).is_err());
            }
            assert!(document::claims(format!("{json}\n{{}}").as_bytes()).is_err());
        }
    }
}

#[test]
fn p11_a_context_over_its_limits_is_refused() {
    assert_eq!(Context::empty().with([7; 65_536], "x").err().unwrap().code(), Code::TooLarge);
    assert!(Context::empty().with([7; 65_535], "x").is_ok());
    let many = (0..65_536).try_fold(Context::empty(), |context, i: u32| context.with(i.to_be_bytes(), "x"));
    assert_eq!(many.err().unwrap().code(), Code::TooLarge);
}
