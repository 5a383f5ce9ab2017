//! A path that everybody reads in the same way. What is accepted is kept byte for byte, and these bytes go out.
//!
//! The strict reading refuses whatever an upstream could take for another path than the rules saw: dot segments (escaped, or
//! with a parameter behind them), `\`, `//`, escaped separators, escapes of escapes, and escapes that are not UTF-8. The
//! lenient one, for destinations that say so, lets empty segments and escaped separators pass, since some APIs put object names with
//! slashes into one segment. Dot segments, `\` and control bytes are refused in both: no rule about a path would mean anything.

use std::fmt;

use keyfold_core::error::Hint;

/// The longest path with its query, in bytes.
pub(crate) const MAX_TARGET: usize = 16 << 10;

/// Why a path is not taken. The path is left out: it may hold a secret.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    /// `*`, an absolute URL, nothing.
    #[error("the path does not begin with a slash")]
    NoSlash,
    /// Over [`MAX_TARGET`].
    #[error("the path with its query is longer than {MAX_TARGET} bytes")]
    TooLong,
    /// `.`, `..`, `%2e%2e`, `..;x`.
    #[error("the path has a dot segment")]
    Dots,
    /// `\`
    #[error("the path has a backslash")]
    Backslash,
    /// `//`, `/;x/`
    #[error("the path has an empty segment")]
    Empty,
    /// `%2f`, `%5c`
    #[error("the path has an escaped separator")]
    Separator,
    /// A control byte or white space, as it is or escaped.
    #[error("the path has a control character or white space")]
    Control,
    /// `#`
    #[error("the target has a fragment")]
    Fragment,
    /// `%`, `%4`, `%zz`, `%u002e`
    #[error("the path has a percent sign that begins no escape")]
    Escape,
    /// `%252e`, `%c0%ae`
    #[error("the path has an escape that unescapes to another one, or to bytes that are not UTF-8")]
    Twice,
    /// Bytes over 127.
    #[error("the path has bytes outside of ASCII")]
    NotAscii,
}

impl Hint for PathError {
    fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::NoSlash => "send the path of the resource, beginning with a slash",
                Self::TooLong => "send long arguments in the body",
                Self::Dots | Self::Backslash | Self::Control => "resolve the path before it is sent",
                Self::Empty | Self::Separator | Self::Twice => {
                    "resolve the path before it is sent, or let the destination take such paths: `paths = \"lenient\"`"
                }
                Self::Fragment => "leave out what follows `#`; it is never sent",
                Self::Escape => "write a percent sign as %25",
                Self::NotAscii => "escape bytes outside of ASCII",
            }
            .into(),
        )
    }
}

/// A path, with the query behind it. Nothing prints it but [`Path::template`]: paths and queries carry secrets.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Path {
    raw: Box<str>,
    /// Where the path ends; a `?` stands there or nothing.
    end: usize,
}

impl Path {
    /// Reads the target of a request in origin form.
    ///
    /// # Errors
    /// See [`PathError`].
    pub(crate) fn parse(raw: &str, lenient: bool) -> Result<Self, PathError> {
        if raw.len() > MAX_TARGET {
            return Err(PathError::TooLong);
        }
        for byte in raw.bytes() {
            match byte {
                b'#' => return Err(PathError::Fragment),
                0..=b' ' | 0x7f => return Err(PathError::Control),
                0x80.. => return Err(PathError::NotAscii),
                _ => {}
            }
        }
        let end = memchr::memchr(b'?', raw.as_bytes()).unwrap_or(raw.len());
        let path = &raw[..end];
        if !path.starts_with('/') {
            return Err(PathError::NoSlash);
        }
        if path.contains('\\') {
            return Err(PathError::Backslash);
        }
        let odd = check(path)?;
        match odd {
            Some(error) if !lenient => Err(error),
            _ => Ok(Self { raw: raw.into(), end }),
        }
    }

    /// The path and its query, as they came and as they go out.
    pub(crate) fn as_str(&self) -> &str {
        &self.raw
    }

    /// The path, as it came.
    pub(crate) fn path(&self) -> &str {
        &self.raw[..self.end]
    }

    /// What follows the `?`, where there is one.
    pub(crate) fn query(&self) -> Option<&str> {
        self.raw.get(self.end + 1..)
    }

    /// The path for the audit log: segments that do not look like words of an API become `{}`, and there is no query. A short or
    /// speaking secret in a path would still be written, so a destination that takes one there is better given a rule
    /// whose wildcard stands for it.
    pub(crate) fn template(&self) -> String {
        let mut template = String::with_capacity(self.end);
        for segment in self.path()[1..].split('/') {
            template.push('/');
            template.push_str(if is_plain(segment) { segment } else { "{}" });
        }
        template
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Path").field("len", &self.raw.len()).finish_non_exhaustive()
    }
}

/// The path without what looks like an id, for the audit log; nothing of one that is not sent anywhere.
pub(crate) fn template(path: &str) -> Option<String> {
    Path::parse(path, true).ok().map(|path| path.template())
}

/// Refuses what no reading takes, and gives the first thing that only the lenient one does.
fn check(path: &str) -> Result<Option<PathError>, PathError> {
    let mut odd = path.contains("//").then_some(PathError::Empty);
    let mut note = |error| odd = odd.or(Some(error));
    // With separators in place of their escapes: an upstream may split there before it looks for dots.
    let mut plain = Vec::with_capacity(path.len());
    let bytes = path.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte != b'%' {
            plain.push(byte);
            at += 1;
            continue;
        }
        let byte = escape(&bytes[at..]).ok_or(PathError::Escape)?;
        at += 3;
        match byte {
            0..0x20 | 0x7f => return Err(PathError::Control),
            b'/' | b'\\' => note(PathError::Separator),
            b'%' if bytes.get(at..at + 2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit)) => {
                note(PathError::Twice);
                let again = escape(&[b'%', bytes[at], bytes[at + 1]]).unwrap_or_default();
                if matches!(again, b'.' | b'/' | b'\\' | b';' | b'%') {
                    // Looked at as if it were unescaped twice; `%25252e` has a `%25` again.
                    plain.push(again);
                    at += 2;
                    continue;
                }
            }
            _ => {}
        }
        plain.push(byte);
    }
    if std::str::from_utf8(&plain).is_err() {
        note(PathError::Twice);
    }
    let mut segments = plain[1..].split(|&byte| matches!(byte, b'/' | b'\\')).peekable();
    while let Some(segment) = segments.next() {
        // Some servers cut parameters off before they look for dots.
        let name = segment.split(|&byte| byte == b';').next().unwrap_or_default();
        if matches!(name, b"." | b"..") {
            return Err(PathError::Dots);
        }
        if name.is_empty() && (segments.peek().is_some() || !segment.is_empty()) {
            note(PathError::Empty);
        }
    }
    Ok(odd)
}

/// What the escape at the beginning stands for; `None` where it is none.
pub(super) fn escape(bytes: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    u8::try_from(digit(1)? << 4 | digit(2)?).ok()
}

/// Whether a segment is words of an API: letters, few digits, no long run of either, no changes of case as in a random text.
fn is_plain(segment: &str) -> bool {
    let word = |word: &str| {
        let bytes = word.as_bytes();
        let digits = bytes.iter().filter(|b| b.is_ascii_digit()).count();
        let turns = bytes
            .windows(2)
            .filter(|two| {
                (two[0].is_ascii_lowercase() && two[1].is_ascii_uppercase())
                    || two[0].is_ascii_digit() != two[1].is_ascii_digit()
            })
            .count();
        let hex = word.len() >= 8 && digits > 0 && bytes.iter().all(u8::is_ascii_hexdigit);
        word.len() <= 20
            && digits <= 3
            && bytes.iter().all(u8::is_ascii_alphanumeric)
            && (digits < word.len() || word.is_empty())
            && turns * 4 <= word.len().max(12)
            && !hex
    };
    segment.len() <= 40 && segment.split(['.', '-', '_', ':']).all(word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENIENT: bool = true;

    #[test]
    fn p31_what_is_accepted_is_kept_byte_for_byte() {
        for raw in [
            "/",
            "/v1/projects/p/logs/",
            "/v1/a%20b/%C3%A9?x=%2e%2e/../\\\\//&y=%",
            "/v1/getIamPolicy:search",
            "/a...b/.hidden/..c/c..",
            "/a;b=c/d,e",
            "/100%25",
            "/tilde~(x)!'*",
            "/?",
        ] {
            for lenient in [false, LENIENT] {
                assert_eq!(Path::parse(raw, lenient).unwrap().as_str(), raw);
            }
        }
        let path = Path::parse("/a/b?c?d", false).unwrap();
        assert_eq!((path.path(), path.query()), ("/a/b", Some("c?d")));
        assert_eq!(Path::parse("/a", false).unwrap().query(), None);
        assert_eq!(Path::parse("/a?", false).unwrap().query(), Some(""));
    }

    #[test]
    fn p31_ambiguous_paths_are_refused() {
        for (raw, why, leniently) in [
            ("", PathError::NoSlash, false),
            ("*", PathError::NoSlash, false),
            ("http://a.example/", PathError::NoSlash, false),
            ("?x", PathError::NoSlash, false),
            ("/safe/../admin", PathError::Dots, false),
            ("/safe/..", PathError::Dots, false),
            ("/./admin", PathError::Dots, false),
            ("/.", PathError::Dots, false),
            ("/safe/%2e%2e/admin", PathError::Dots, false),
            ("/safe/%2E./admin", PathError::Dots, false),
            ("/safe/.%2e", PathError::Dots, false),
            ("/safe/%2e/x", PathError::Dots, false),
            ("/safe/..;/admin", PathError::Dots, false),
            ("/safe/..;a=b/admin", PathError::Dots, false),
            ("/safe/%2e%2e%3bx/admin", PathError::Dots, false),
            ("/safe/..%2fadmin", PathError::Dots, false),
            ("/safe/..%5cadmin", PathError::Dots, false),
            ("/safe%2f..%2fadmin", PathError::Dots, false),
            ("/safe/%252e%252e/admin", PathError::Dots, false),
            ("/safe/..%252fadmin", PathError::Dots, false),
            ("/safe\\..\\admin", PathError::Backslash, false),
            ("/safe\\", PathError::Backslash, false),
            ("//evil.example/x", PathError::Empty, true),
            ("/safe//admin", PathError::Empty, true),
            ("/safe//", PathError::Empty, true),
            ("/safe/;x/admin", PathError::Empty, true),
            ("/o/a%2fb", PathError::Separator, true),
            ("/o/a%2Fb", PathError::Separator, true),
            ("/o/a%5cb", PathError::Separator, true),
            ("/o/%c0%ae%c0%ae/x", PathError::Twice, true),
            ("/o/%ff", PathError::Twice, true),
            ("/o/a%252fb", PathError::Twice, true),
            ("/o/a%2541", PathError::Twice, true),
            ("/a%00b", PathError::Control, false),
            ("/a%0d%0ax", PathError::Control, false),
            ("/a%7f", PathError::Control, false),
            ("/a b", PathError::Control, false),
            ("/a\tb", PathError::Control, false),
            ("/a\r\nHost: b", PathError::Control, false),
            ("/a?b\0", PathError::Control, false),
            ("/a#b", PathError::Fragment, false),
            ("/a?b#c", PathError::Fragment, false),
            ("/a%", PathError::Escape, false),
            ("/a%4", PathError::Escape, false),
            ("/a%zz", PathError::Escape, false),
            ("/%u002e%u002e/", PathError::Escape, false),
            ("/é", PathError::NotAscii, false),
        ] {
            assert_eq!(Path::parse(raw, false), Err(why), "{raw:?}");
            assert_eq!(Path::parse(raw, LENIENT).is_ok(), leniently, "{raw:?}");
        }
        assert_eq!(Path::parse(&format!("/{}", "a".repeat(MAX_TARGET)), false), Err(PathError::TooLong));
    }

    #[test]
    fn the_audit_log_gets_words_and_no_ids_queries_or_secrets() {
        for (raw, template) in [
            ("/v1/projects/p/logs?key=s3cr3t", "/v1/projects/p/logs"),
            ("/compute/v1beta1/zones/instances.list", "/compute/v1beta1/zones/instances.list"),
            ("/v3/getIamPolicy:testIamPermissions", "/v3/getIamPolicy:testIamPermissions"),
            ("/oauth2/token", "/oauth2/token"),
            ("/users/12345/x", "/users/{}/x"),
            ("/users/7", "/users/{}"),
            ("/o/6ba7b810-9dad-11d1-80b4-00c04fd430c8", "/o/{}"),
            ("/o/deadbeef01", "/o/{}"),
            ("/services/T0A1B2C3D/B0/XyzAbcDefGhiJklMnoPqrStu", "/services/{}/B0/{}"),
            ("/bot110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/getMe", "/bot{}/getMe"),
            ("/o/a%2Fb", "/o/{}"),
            ("/o/someone@example.com", "/o/{}"),
            ("/", "/"),
        ] {
            let template = template.replace("/bot{}", "/{}");
            assert_eq!(Path::parse(raw, LENIENT).unwrap().template(), template, "{raw}");
        }
    }

    #[test]
    fn a_path_is_not_printed() {
        let path = Path::parse("/hook/s3cr3t?t=s3cr3t", false).unwrap();
        assert!(!format!("{path:?}").contains("s3cr3t"));
    }

    /// What a loose server makes of a path: unescaped as often as it changes anything, parameters cut off, dots resolved.
    fn loosely(path: &str) -> Vec<String> {
        let mut bytes = path.as_bytes().to_vec();
        loop {
            let mut next = Vec::new();
            let mut at = 0;
            while at < bytes.len() {
                match (bytes[at] == b'%').then(|| escape(&bytes[at..])).flatten() {
                    Some(byte) => {
                        next.push(byte);
                        at += 3;
                    }
                    None => {
                        next.push(bytes[at]);
                        at += 1;
                    }
                }
            }
            if next == bytes {
                break;
            }
            bytes = next;
        }
        let text = String::from_utf8_lossy(&bytes).replace('\\', "/");
        text.split('/').map(|segment| segment.split(';').next().unwrap_or_default().to_owned()).collect()
    }

    proptest! {
        #[test]
        fn p31_what_is_accepted_has_no_dot_segment_in_any_loose_reading(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "/", ".", "..", "%2e", "%2E", "%2f", "%5C", "%5c", "\\", ";", "%3b", "a", "b=c", "%25", "2e", "2f", "%", "?", "%c3%a9",
                ]),
                0..12,
            ),
            lenient: bool,
        ) {
            let raw = format!("/{}", parts.concat());
            if let Ok(path) = Path::parse(&raw, lenient) {
                prop_assert_eq!(path.as_str(), &raw);
                if !lenient {
                    let loose = loosely(path.path());
                    prop_assert!(!loose.iter().any(|segment| segment == "." || segment == ".."), "{raw} {loose:?}");
                    let segments = path.path().split('/').count();
                    prop_assert_eq!(loose.len(), segments, "{}", raw);
                }
            }
        }

        #[test]
        fn anything_is_refused_or_kept(raw in "/?[ -~é]{0,40}", lenient: bool) {
            if let Ok(path) = Path::parse(&raw, lenient) {
                prop_assert_eq!(path.as_str(), raw.as_str());
                prop_assert!(Path::parse(&raw, true).is_ok());
            }
        }
    }
}
