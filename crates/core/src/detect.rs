//! What a stored value is. No guessing: whatever resembles an envelope is never taken for plaintext.
//!
//! For what a *store* holds, not for what arrives to be sealed, which is plaintext whatever it looks like. The rules are
//! numbered as in `docs/formats.md`.

use crate::envelope::{Format, OpenError, lenient};

/// The verdict on a stored value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// Claims this format. Any defect after that is a malformed value of it.
    Sealed(Format),
    /// Starts like a v1 envelope and does not decode: truncated, or its padding stripped.
    MalformedV1,
    /// An envelope with something around it, or in another case.
    Disguised,
    /// Of the kf family, in a version this build does not know.
    UnsupportedFormat,
    /// Another system's ciphertext; its name.
    Foreign(&'static str),
    /// None of these.
    Plaintext,
}

impl Detected {
    /// The verdict in one word, as the reference model prints it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sealed(format) => format.as_str(),
            Self::MalformedV1 => "malformed_v1",
            Self::Disguised => "malformed",
            Self::UnsupportedFormat => "unsupported_format",
            Self::Foreign(_) => "foreign",
            Self::Plaintext => "plaintext",
        }
    }

    /// The format to read, or why there is none. Plaintext is `not_encrypted`.
    ///
    /// # Errors
    /// Everything that is not a sealed value of a known format.
    pub fn sealed(self) -> Result<Format, OpenError> {
        match self {
            Self::Sealed(format) => Ok(format),
            Self::MalformedV1 => {
                Err(OpenError::Malformed { format: Format::V1, offset: 0, what: "truncated, or its padding stripped" })
            }
            Self::Disguised => Err(OpenError::Disguised { what: "white space, quotes or another case around it" }),
            Self::UnsupportedFormat => Err(OpenError::UnsupportedFormat("a version of the kf family that is not kf1")),
            Self::Foreign(name) => Err(OpenError::UnsupportedFormat(name)),
            Self::Plaintext => Err(OpenError::NotEncrypted),
        }
    }
}

/// Looks at stored bytes. Bytes that are not UTF-8 are read as Latin-1.
#[must_use]
pub fn detect_bytes(stored: &[u8]) -> Detected {
    if stored.first() == Some(&0xF6) {
        return if stored.get(1) == Some(&1) { Detected::Sealed(Format::Kf1) } else { Detected::UnsupportedFormat };
    }
    match std::str::from_utf8(stored) {
        Ok(text) => detect(text),
        Err(_) => detect(&stored.iter().copied().map(char::from).collect::<String>()),
    }
}

/// Looks at stored text.
#[must_use]
pub fn detect(stored: &str) -> Detected {
    if let Some(found) = claims(stored) {
        return found;
    }
    // Rule 5: what would match after trimming, or in another case.
    let white = [' ', '\t', '\r', '\n', '\u{feff}'];
    let trimmed = stored.trim_matches(white);
    let trimmed = match trimmed.strip_prefix('b') {
        Some(rest) if rest.starts_with(['\'', '"']) => rest,
        _ => trimmed,
    };
    let trimmed = trimmed.trim_matches(['"', '\'']);
    if trimmed != stored && claims(trimmed).is_some() {
        return Detected::Disguised;
    }
    let head: String = trimmed.chars().take(4).flat_map(char::to_lowercase).collect();
    if !trimmed.starts_with(&head) {
        let rest: String = trimmed.chars().skip(4).collect();
        if claims(&(head + &rest)).is_some() {
            return Detected::Disguised;
        }
    }
    Detected::Plaintext
}

const V1_STARTS: [&str; 5] =
    ["eyJ2ZXJzaW9uIjogInYxIiwg", "eyJ2ZXJzaW9uIjoidjEiLC", "eyJjaXBoZXJ0ZXh0", "eyJ3cmFwcGVkX2Rl", "eyJkZWtfbm9uY2Ui"];
const FOREIGN: [(&str, &str); 3] =
    [("vault:v", "Vault transit ciphertext"), ("ENC[", "SOPS or eyaml ciphertext"), ("AQICAH", "AWS KMS ciphertext")];

fn claims(text: &str) -> Option<Detected> {
    // Rule 1.
    if let Some(rest) = text.strip_prefix("kf") {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 && rest.as_bytes().get(digits) == Some(&b'.') {
            return Some(if rest.starts_with("1.") {
                Detected::Sealed(Format::Kf1)
            } else {
                Detected::UnsupportedFormat
            });
        }
    }
    // Rule 2.
    if text.starts_with(crate::envelope::fernet::PREFIX) {
        return Some(Detected::Sealed(Format::Fernet));
    }
    // Rule 3.
    if is_compact_jose(text) {
        return None;
    }
    match json_members(text) {
        Json::Object(members) => return (members >= 2).then_some(Detected::Sealed(Format::V1)),
        Json::Broken => return Some(Detected::MalformedV1),
        Json::No => {}
    }
    if V1_STARTS.iter().any(|start| text.starts_with(start)) {
        return Some(Detected::MalformedV1);
    }
    // Rule 4.
    FOREIGN.iter().find(|(start, _)| text.starts_with(start)).map(|&(_, name)| Detected::Foreign(name))
}

/// Three or five dot-separated parts of word characters: a JWT or JWE, which is not v1.
fn is_compact_jose(text: &str) -> bool {
    let mut parts = 0;
    for (i, part) in text.split('.').enumerate() {
        if (i == 0 && part.is_empty()) || !part.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-') || i > 4 {
            return false;
        }
        parts += 1;
    }
    parts == 3 || parts == 5
}

enum Json {
    /// Base64 of a JSON object that has so many of the three telling members.
    Object(usize),
    /// Base64 of text that names two of the members and is not JSON here. Python's parser takes some of these.
    Broken,
    No,
}

const TELLING: [&str; 3] = ["version", "ciphertext", "wrapped_dek"];

/// Which of the telling members a JSON object has. Nothing else of it is kept: as values it would take many times the memory
/// of its text.
struct Members([bool; 3]);

impl<'de> serde::Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Look;

        impl<'de> serde::de::Visitor<'de> for Look {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut told = [false; 3];
                while let Some(name) = map.next_key::<String>()? {
                    for (told, telling) in told.iter_mut().zip(TELLING) {
                        *told |= name == telling;
                    }
                    map.next_value::<serde::de::IgnoredAny>()?;
                }
                Ok(Members(told))
            }
        }

        deserializer.deserialize_map(Look)
    }
}

fn json_members(text: &str) -> Json {
    let Some(bytes) = lenient::decode_as_python(text.as_bytes()) else { return Json::No };
    let json = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    if json.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Json::No;
    }
    // Skipped values are not looked at as text, so that they are text is checked first.
    if let Some(Members(told)) = std::str::from_utf8(json).ok().and_then(|json| serde_json::from_str(json).ok()) {
        return Json::Object(told.into_iter().filter(|told| *told).count());
    }
    let named = TELLING
        .iter()
        .filter(|member| memchr::memmem::find(json, format!("\"{member}\"").as_bytes()).is_some())
        .count();
    if named >= 2 { Json::Broken } else { Json::No }
}
