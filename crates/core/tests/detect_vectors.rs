//! What a stored value is, as the executable model says.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{list, text};
use keyfold_core::detect::{Detected, detect, detect_bytes};

#[test]
fn the_models_verdicts_are_ours() {
    let known = common::vectors("kf1-vectors.json");
    for (value, verdict) in known["detect"].as_object().unwrap() {
        assert_eq!(detect(value).as_str(), verdict.as_str().unwrap(), "{value:?}");
        assert_eq!(detect_bytes(value.as_bytes()).as_str(), verdict.as_str().unwrap(), "{value:?}");
    }
    for case in list(&common::vectors("detect.json"), "cases") {
        let value = text(case, "value");
        assert_eq!(detect(value).as_str(), text(case, "verdict"), "{value:?}");
    }
}

#[test]
fn the_models_verdicts_on_bytes_are_ours() {
    for case in list(&common::vectors("detect.json"), "bytes") {
        let value = common::unhex(text(case, "value"));
        assert_eq!(detect_bytes(&value).as_str(), text(case, "verdict"), "{}", text(case, "value"));
    }
}

#[test]
fn no_beginning_of_a_sealed_value_is_plaintext_once_it_shows_its_format() {
    let v1 = text(&common::vectors("kf1-vectors.json"), "v1").to_owned();
    let kf1 = text(&common::vectors("kf1-vectors.json"), "text").to_owned();
    let token = text(&list(&common::vectors("fernet.json"), "seals")[0], "token").to_owned();
    for (value, shows) in [(v1, 24), (kf1, 4), (token, 6)] {
        for end in shows..=value.len() {
            assert_ne!(detect(&value[..end]), Detected::Plaintext, "{}", &value[..end]);
        }
    }
}
