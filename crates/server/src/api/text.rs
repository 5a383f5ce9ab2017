//! Strings of a body: borrowed where JSON allows it, wiped where it had to be copied.

use std::{borrow::Cow, fmt};

use keyfold_core::secret::wipe;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

/// A string that may be a secret. Nothing prints it.
#[derive(Default)]
pub(super) struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    /// The string.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Drop for Text<'_> {
    fn drop(&mut self) {
        if let Cow::Owned(text) = &mut self.0 {
            let mut bytes = std::mem::take(text).into_bytes();
            wipe(&mut bytes);
        }
    }
}

struct AsText;

impl<'de> Visitor<'de> for AsText {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text)))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(AsText)
    }
}

/// The entries of a context, in the order in which they came. Whoever names one twice finds out where the context is made.
#[derive(Default)]
pub(super) struct Entries<'a>(Vec<(Text<'a>, Text<'a>)>);

impl Entries<'_> {
    /// As the use cases take them.
    pub(super) fn pairs(&self) -> Vec<(&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }
}

struct AsEntries;

impl<'de> Visitor<'de> for AsEntries {
    type Value = Entries<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<'de>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AsEntries)
    }
}
