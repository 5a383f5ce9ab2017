//! Secrets to be looked for, in the spellings in which they could leak.

use base64_simd::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Some secrets, each in every spelling.
#[derive(Default)]
pub(crate) struct Needles(Vec<(String, Vec<u8>)>);

impl Needles {
    /// One more secret. `name` stands for it in the message of a failing test.
    pub(crate) fn add(&mut self, name: &str, secret: &[u8]) {
        assert!(secret.len() >= 12, "{name} is found by chance");
        let mut spelled = |how: &str, bytes: Vec<u8>| self.0.push((format!("{name} ({how})"), bytes));
        spelled("plain", secret.to_vec());
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        spelled("HEX", hex.to_uppercase().into_bytes());
        spelled("hex", hex.into_bytes());
        // What stands in base64 depends on where in a group of three bytes the secret begins; the characters at its edges
        // also on its neighbours.
        for before in 0..3 {
            let shifted = [&vec![0; before][..], secret].concat();
            let first = (before * 8).div_ceil(6);
            let end = shifted.len() * 8 / 6;
            spelled("base64", STANDARD_NO_PAD.encode_to_string(&shifted).as_bytes()[first..end].to_vec());
            spelled("base64url", URL_SAFE_NO_PAD.encode_to_string(&shifted).as_bytes()[first..end].to_vec());
        }
        // As Rust prints bytes that nobody meant to print.
        let debug = format!("{secret:?}");
        spelled("debug", debug.trim_matches(['[', ']']).as_bytes().to_vec());
    }

    /// The first secret that stands there, by name and spelling; those whose name is `but` are allowed.
    pub(crate) fn find(&self, haystack: &[u8], but: Option<&str>) -> Option<&str> {
        let there = |needle: &[u8]| haystack.windows(needle.len()).any(|window| window == needle);
        let allowed = |name: &str| but.is_some_and(|but| name.starts_with(&format!("{but} (")));
        self.0.iter().find(|(name, needle)| !allowed(name) && there(needle)).map(|(name, _)| name.as_str())
    }
}
