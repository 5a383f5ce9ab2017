//! Which members of a document are secret: JSON pointers (RFC 6901) in which `*` stands for any index or map key.

use std::{borrow::Cow, fmt, str::FromStr};

use keyfold_core::error::Hint;

/// The most segments a path may have: as deep as documents may be nested.
pub const MAX_SEGMENTS: usize = 128;

/// The longest path, in bytes.
pub const MAX_PATH: usize = 1024;

/// Why a text is not a field path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not start at the root.
    #[error("the field path `{path}` does not start with `/`")]
    NoSlash {
        /// As it was given.
        path: String,
    },
    /// A `~` that is not part of `~0` or `~1`.
    #[error("the field path `{path}` has a lone `~` at offset {at}")]
    Tilde {
        /// As it was given.
        path: String,
        /// Where the `~` is.
        at: usize,
    },
    /// Longer or deeper than any document that is read.
    #[error(
        "the field path has {bytes} bytes and {segments} segments; at most {MAX_PATH} and {MAX_SEGMENTS} are allowed"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
        /// Its depth.
        segments: usize,
    },
}

impl Hint for PathError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoSlash { path } => {
                let guess = path.trim_start_matches(['$', '.']).replace("[*]", "/*").replace('.', "/");
                Some(format!("write it as a JSON pointer, such as `/{guess}`"))
            }
            Self::Tilde { .. } => Some("in a JSON pointer `~` is written `~0`, and `/` inside a name `~1`".into()),
            Self::TooLong { .. } => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Segment {
    /// `*`: any index, any key. A key that really is `*` can only be named this way.
    Any,
    /// A key, or an index where it is written like one.
    Name { name: Box<str>, index: Option<usize> },
}

impl Segment {
    fn parse(raw: &str) -> Result<Self, usize> {
        if raw == "*" {
            return Ok(Self::Any);
        }
        let mut name = String::with_capacity(raw.len());
        let mut bytes = raw.char_indices();
        while let Some((at, c)) = bytes.next() {
            match c {
                '~' => match bytes.next() {
                    Some((_, '0')) => name.push('~'),
                    Some((_, '1')) => name.push('/'),
                    _ => return Err(at),
                },
                c => name.push(c),
            }
        }
        let digits = name.bytes().all(|b| b.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
        let index = if digits { name.parse().ok() } else { None };
        Ok(Self::Name { name: name.into(), index })
    }

    pub(super) fn matches_key(&self, key: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Name { name, .. } => **name == *key,
        }
    }

    pub(super) fn matches_index(&self, at: usize) -> bool {
        match self {
            Self::Any => true,
            Self::Name { index, .. } => *index == Some(at),
        }
    }
}

/// A declared field: `/connection_url`, `/extension_secrets/*`, `/nodes/*/password`. The empty path is the whole document.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct FieldPath {
    text: Box<str>,
    segments: Vec<Segment>,
}

impl FieldPath {
    /// The path as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has a `*`, so that it can name several fields of a document.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        self.segments.contains(&Segment::Any)
    }

    /// Whether this path names the field at `pointer`, in the form that sealing contexts use.
    #[must_use]
    pub fn covers(&self, pointer: &str) -> bool {
        let mut parts = pointer.split('/');
        parts.next();
        let mut segments = self.segments.iter();
        loop {
            match (segments.next(), parts.next()) {
                (None, None) => return true,
                (Some(Segment::Any), Some(_)) => {}
                (Some(Segment::Name { name, .. }), Some(part)) if *escape(name) == *part => {}
                _ => return false,
            }
        }
    }

    /// The first segment, where it is a name, and the path inside of what it names.
    pub(super) fn split_first(&self) -> Option<(&str, Self)> {
        let Some((Segment::Name { name, .. }, rest)) = self.segments.split_first() else { return None };
        let text = self.text[1..].find('/').map_or("", |at| &self.text[at + 1..]);
        Some((name, Self { text: text.into(), segments: rest.to_vec() }))
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

impl FromStr for FieldPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let depth = text.matches('/').count();
        if text.len() > MAX_PATH || depth > MAX_SEGMENTS {
            return Err(PathError::TooLong { bytes: text.len(), segments: depth });
        }
        if text.is_empty() {
            return Ok(Self { text: "".into(), segments: Vec::new() });
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(PathError::NoSlash { path: text.into() });
        };
        let mut segments = Vec::with_capacity(depth);
        let mut start = 1;
        for raw in rest.split('/') {
            let segment = Segment::parse(raw).map_err(|at| PathError::Tilde { path: text.into(), at: start + at })?;
            segments.push(segment);
            start += raw.len() + 1;
        }
        Ok(Self { text: text.into(), segments })
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FieldPath({})", self.text)
    }
}

impl serde::Serialize for FieldPath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for FieldPath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A key as a pointer's segment.
pub(super) fn escape(key: &str) -> Cow<'_, str> {
    if key.contains(['~', '/']) { Cow::Owned(key.replace('~', "~0").replace('/', "~1")) } else { Cow::Borrowed(key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_it_was_written() {
        for text in ["", "/", "/connection_url", "/extension_secrets/*", "/nodes/*/password", "/a~1b/~0", "/nodes/0"] {
            let path: FieldPath = text.parse().unwrap();
            assert_eq!(path.to_string(), text);
        }
        assert!("/a/*/b".parse::<FieldPath>().unwrap().is_pattern());
        assert!(!"/a/b".parse::<FieldPath>().unwrap().is_pattern());
    }

    #[test]
    fn what_is_not_a_pointer_is_refused_with_the_form_that_works() {
        let error = "$.nodes[*].password".parse::<FieldPath>().unwrap_err();
        assert_eq!(error.to_string(), "the field path `$.nodes[*].password` does not start with `/`");
        assert_eq!(error.hint().unwrap(), "write it as a JSON pointer, such as `/nodes/*/password`");
        let error = "/a/b~2".parse::<FieldPath>().unwrap_err();
        assert_eq!(error.to_string(), "the field path `/a/b~2` has a lone `~` at offset 4");
        assert!("/a~".parse::<FieldPath>().is_err());
        assert!("/a".repeat(129).parse::<FieldPath>().is_err());
    }

    #[test]
    fn a_path_covers_pointers_of_contexts() {
        let path: FieldPath = "/nodes/*/a~1b".parse().unwrap();
        assert!(path.covers("/nodes/*/a~1b"));
        assert!(path.covers("/nodes/east/a~1b"));
        assert!(!path.covers("/nodes/*"));
        assert!(!path.covers("/nodes/*/a~1b/c"));
        assert!(!path.covers("/nodes/*/a/b"));
        assert!("".parse::<FieldPath>().unwrap().covers(""));
    }
}
