//! The spellings of secrets, and the search for them.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use aho_corasick::{AhoCorasick, MatchKind, Span, packed};
use base64_simd::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use keyfold_core::secret::wipe;
use memchr::memmem;

use super::{Found, MIN};

/// How many bytes of each spelling are searched for, and how much of its start they are taken from.
const PRINT: usize = 8;
const START: usize = 32;
/// From so many bytes on, one search for all prints is made; in fewer, looking for one after the other is over sooner.
const LONG: usize = 4 << 10;

/// Bytes of a secret, wiped when dropped.
struct Text(Vec<u8>);

impl Drop for Text {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

/// How a secret is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Plain,
    /// As forms have it: a plus for a space.
    Form,
    /// So many bytes stand before it in what was encoded.
    Base64 {
        shift: usize,
        url: bool,
    },
    Hex {
        upper: bool,
    },
}

impl Spelling {
    const ALL: [Self; 10] = [
        Self::Plain,
        Self::Form,
        Self::Base64 { shift: 0, url: false },
        Self::Base64 { shift: 1, url: false },
        Self::Base64 { shift: 2, url: false },
        Self::Base64 { shift: 0, url: true },
        Self::Base64 { shift: 1, url: true },
        Self::Base64 { shift: 2, url: true },
        Self::Hex { upper: false },
        Self::Hex { upper: true },
    ];

    /// Whether its characters may be escaped.
    const fn escapes(self) -> bool {
        !matches!(self, Self::Hex { .. })
    }

    /// The characters of base64 that no neighbour has a bit in.
    const fn own(shift: usize, len: usize) -> Range<usize> {
        (8 * shift).div_ceil(6)..8 * (shift + len) / 6
    }

    const fn len(self, secret: usize) -> usize {
        match self {
            Self::Plain | Self::Form => secret,
            Self::Base64 { shift, .. } => Self::own(shift, secret).end - Self::own(shift, secret).start,
            Self::Hex { .. } => 2 * secret,
        }
    }

    fn write(self, secret: &[u8]) -> Text {
        Text(match self {
            Self::Plain => secret.to_vec(),
            Self::Form => secret.iter().map(|&byte| if byte == b' ' { b'+' } else { byte }).collect(),
            Self::Base64 { shift, url } => {
                let mut shifted = Text(vec![0; shift]);
                shifted.0.extend_from_slice(secret);
                let alphabet = if url { URL_SAFE_NO_PAD } else { STANDARD_NO_PAD };
                let encoded = Text(alphabet.encode_to_string(&shifted.0).into_bytes());
                encoded.0[Self::own(shift, secret.len())].to_vec()
            }
            Self::Hex { upper } => {
                let digits = if upper { b"0123456789ABCDEF" } else { b"0123456789abcdef" };
                let mut text = Vec::with_capacity(2 * secret.len());
                for byte in secret {
                    text.extend_from_slice(&[digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]);
                }
                text
            }
        })
    }
}

/// One spelling of one secret. Most answers hold none, so it is written out only once something looks like it.
struct Pattern {
    secret: Arc<Text>,
    spelling: Spelling,
    /// Its first bytes.
    start: Text,
    /// Where the bytes that are searched for lie in them.
    at: usize,
    len: usize,
    text: OnceLock<Text>,
}

impl Pattern {
    fn new(secret: &Arc<Text>, spelling: Spelling) -> Self {
        let mut start = spelling.write(&secret.0[..secret.0.len().min(START)]);
        start.0.truncate(START);
        let at = print(&start.0);
        let len = spelling.len(secret.0.len());
        Self { secret: Arc::clone(secret), spelling, start, at, len, text: OnceLock::new() }
    }

    fn text(&self) -> &[u8] {
        &self.text.get_or_init(|| self.spelling.write(&self.secret.0)).0
    }

    /// Whether `matched` bytes of it are more than chance.
    fn firm(&self, matched: usize) -> bool {
        matched >= (self.len / 4).min(MIN)
    }

    fn print(&self) -> &[u8] {
        &self.start.0[self.at..self.at + PRINT]
    }
}

/// The search for the prints.
enum Prints {
    Packed(packed::Searcher),
    /// On machines without vector instructions.
    Automaton(AhoCorasick),
}

impl Prints {
    fn new(patterns: &[Pattern]) -> Option<Self> {
        let mut prints: Vec<&[u8]> = patterns.iter().map(Pattern::print).collect();
        prints.sort_unstable();
        prints.dedup();
        if let Some(searcher) = packed::Searcher::new(&prints) {
            return Some(Self::Packed(searcher));
        }
        AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(&prints).ok().map(Self::Automaton)
    }

    fn next(&self, bytes: &[u8], from: usize) -> Option<usize> {
        let span = Span { start: from, end: bytes.len() };
        let found = match self {
            Self::Packed(searcher) => searcher.find_in(bytes, span),
            Self::Automaton(automaton) => automaton.find(aho_corasick::Input::new(bytes).span(span)),
        };
        found.map(|found| found.start())
    }
}

/// The hashes of what stands side by side in the spellings: a bit for each.
type Threes = Box<[u64; 1 << 10]>;

/// All spellings of what one call brought, made once for all that comes back to it.
pub(crate) struct Patterns {
    /// Those too short to be looked for in texts as well.
    secrets: Vec<Arc<Text>>,
    list: Vec<Pattern>,
    /// Made once there is enough to be searched.
    prints: OnceLock<Option<Prints>>,
    /// The bytes that an escape may stand for.
    bytes: [bool; 256],
    /// The first two bytes of spellings with escapes.
    heads: [bool; 256],
    /// Made once an escape needs it.
    threes: OnceLock<Threes>,
}

impl Patterns {
    /// Of these secrets; those shorter than [`MIN`] are looked for in names alone.
    pub(crate) fn new(secrets: &[impl AsRef<[u8]>]) -> Self {
        let mut list = Vec::new();
        let mut bytes = [false; 256];
        let given = secrets.iter().map(AsRef::as_ref).filter(|secret| !secret.is_empty());
        let secrets: Vec<_> = given.map(|secret| Arc::new(Text(secret.to_vec()))).collect();
        for secret in secrets.iter().filter(|secret| secret.0.len() >= MIN) {
            let spaces = secret.0.contains(&b' ');
            secret.0.iter().for_each(|&byte| bytes[usize::from(byte)] = true);
            let spellings = Spelling::ALL.into_iter().filter(|&spelling| spaces || spelling != Spelling::Form);
            list.extend(spellings.map(|spelling| Pattern::new(secret, spelling)));
        }
        for (byte, may) in (0..=u8::MAX).zip(&mut bytes) {
            // The alphabets of base64.
            *may |= !list.is_empty() && (byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte));
        }
        let mut heads = [false; 256];
        for pattern in list.iter().filter(|pattern: &&Pattern| pattern.spelling.escapes()) {
            pattern.start.0[..2].iter().for_each(|&byte| heads[usize::from(byte)] = true);
        }
        Self { secrets, list, prints: OnceLock::new(), bytes, heads, threes: OnceLock::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether a name holds a secret. Names of headers come in lower case, whatever they were.
    pub(crate) fn are_in_name(&self, name: &str) -> bool {
        let holds = |secret: &Text| {
            name.as_bytes().windows(secret.0.len()).any(|window| window.eq_ignore_ascii_case(&secret.0))
        };
        self.secrets.iter().any(|secret| holds(secret))
    }

    /// Everything that matches, and where something could begin that the end cuts off.
    pub(super) fn find(&self, bytes: &[u8]) -> Found {
        let mut found = Found::default();
        self.plain(bytes, &mut found);
        // By far the most escapes in JSON.
        let (quotes, lines) = (!self.bytes[usize::from(b'"')], !self.bytes[usize::from(b'\n')]);
        for at in memchr::memchr2_iter(b'%', b'\\', bytes) {
            match bytes.get(at..at + 2) {
                Some(b"\\\"") if quotes => {}
                Some(b"\\n") if lines => {}
                _ => self.escaped(bytes, at, &mut found),
            }
        }
        found
    }

    /// Matches without an escape.
    fn plain(&self, bytes: &[u8], found: &mut Found) {
        self.printed(bytes, |pattern, at| {
            let Some(start) = at.checked_sub(pattern.at) else { return };
            let there = &bytes[start..bytes.len().min(start + pattern.len)];
            if pattern.text().starts_with(there) {
                if there.len() == pattern.len {
                    found.ranges.push(start..start + there.len());
                } else {
                    found.hold(start, pattern.firm(there.len()));
                }
            }
        });
        // Beginnings too short to have been found by their print.
        for pattern in &self.list {
            let short = (pattern.at + PRINT - 1).min(bytes.len());
            for start in bytes.len() - short..bytes.len() {
                if bytes[start] == pattern.start.0[0] && pattern.start.0.starts_with(&bytes[start..]) {
                    found.hold(start, pattern.firm(bytes.len() - start));
                    break;
                }
            }
        }
    }

    /// Where the prints lie.
    fn printed(&self, bytes: &[u8], mut act: impl FnMut(&Pattern, usize)) {
        if bytes.len() < PRINT {
            return;
        }
        if bytes.len() < LONG && self.prints.get().is_none() {
            for pattern in &self.list {
                let finder = memmem::Finder::new(pattern.print());
                let mut from = 0;
                while let Some(at) = finder.find(&bytes[from..]) {
                    act(pattern, from + at);
                    from += at + 1;
                }
            }
            return;
        }
        let Some(prints) = self.prints.get_or_init(|| Prints::new(&self.list)) else { return };
        let mut from = 0;
        while let Some(at) = prints.next(bytes, from) {
            for pattern in self.list.iter().filter(|pattern| pattern.print() == &bytes[at..at + PRINT]) {
                act(pattern, at);
            }
            from = at + 1;
        }
    }

    /// Matches whose first escape stands at `at`.
    fn escaped(&self, bytes: &[u8], at: usize, found: &mut Found) {
        let unit = match unescape(&bytes[at..]) {
            Unescaped::Nothing => return,
            Unescaped::CutOff => return self.cut_off(bytes, at, found),
            Unescaped::Unit(unit) => unit,
        };
        let first = unit.bytes[0];
        if !self.bytes[usize::from(first)] {
            return;
        }
        // A match that begins two characters before or earlier shares three with a spelling.
        let inner = at.checked_sub(2).is_some_and(|from| self.has(&[bytes[from], bytes[from + 1], first]));
        if !inner && !self.heads[usize::from(first)] {
            return;
        }
        for pattern in self.list.iter().filter(|pattern| pattern.spelling.escapes()) {
            let text = if inner { pattern.text() } else { &pattern.start.0[..2] };
            for place in memchr::memchr_iter(first, text).filter(|&place| bytes[..at].ends_with(&text[..place])) {
                if pattern.text()[place..].starts_with(unit.bytes()) {
                    follow_all(pattern, bytes, at - place, (at + unit.len, place + unit.size), found);
                }
            }
        }
    }

    /// An escape that the end cuts off: with whatever stands before it, it may be the middle of a match.
    fn cut_off(&self, bytes: &[u8], at: usize, found: &mut Found) {
        for pattern in self.list.iter().filter(|pattern| pattern.spelling.escapes()) {
            let text = pattern.text();
            let longest = (0..text.len()).rev().find(|&place| bytes[..at].ends_with(&text[..place]));
            if let Some(place) = longest {
                found.hold(at - place, pattern.firm(place));
            }
        }
    }

    /// Whether three bytes may stand side by side in a spelling.
    fn has(&self, three: &[u8]) -> bool {
        let index = |three: &[u8]| {
            let number = u32::from_le_bytes([three[0], three[1], three[2], 0]);
            (number.wrapping_mul(0x9e37_79b1) >> 16) as usize
        };
        let threes = self.threes.get_or_init(|| {
            let mut threes: Threes = Box::new([0; 1 << 10]);
            for pattern in self.list.iter().filter(|pattern| pattern.spelling.escapes()) {
                for three in pattern.text().windows(3) {
                    let index = index(three);
                    threes[index / 64] |= 1 << (index % 64);
                }
            }
            threes
        });
        let index = index(three);
        threes[index / 64] >> (index % 64) & 1 == 1
    }
}

/// Where the most telling bytes of a spelling lie: many different ones, that both alphabets of base64 share.
fn print(start: &[u8]) -> usize {
    let telling = |at: &usize| {
        let window = &start[*at..*at + PRINT];
        let different = (0..PRINT).filter(|&i| !window[..i].contains(&window[i])).count();
        let plain = window.iter().filter(|byte| byte.is_ascii_alphanumeric()).count();
        different + 2 * plain
    };
    (0..=start.len() - PRINT).step_by(PRINT / 2).max_by_key(telling).unwrap_or(0)
}

/// Follows a spelling in all ways that its own `%` and `\` leave open.
fn follow_all(pattern: &Pattern, bytes: &[u8], start: usize, first: Place, found: &mut Found) {
    let (mut next, mut others) = (first, Vec::new());
    loop {
        follow(pattern.text(), bytes, next, &mut others, |end| match end {
            End::Match(end) => found.ranges.push(start..end),
            End::Open(matched) => found.hold(start, pattern.firm(matched)),
        });
        let Some(other) = others.iter_mut().find(|(_, done)| !*done) else { return };
        other.1 = true;
        next = other.0;
    }
}

/// How following a spelling ended.
enum End {
    Match(usize),
    /// The bytes end first; so much of the spelling was there.
    Open(usize),
}

type Place = (usize, usize);

/// Follows a spelling from a place in the bytes and in the spelling, each character as it is or escaped.
fn follow(
    text: &[u8],
    bytes: &[u8],
    (mut at, mut place): Place,
    others: &mut Vec<(Place, bool)>,
    mut end: impl FnMut(End),
) {
    loop {
        if place == text.len() {
            return end(End::Match(at));
        }
        let Some(&byte) = bytes.get(at) else { return end(End::Open(place)) };
        let same = byte == text[place];
        if byte != b'%' && byte != b'\\' {
            if !same {
                return;
            }
            (at, place) = (at + 1, place + 1);
            continue;
        }
        let as_it_is = ((at + 1, place + 1), false);
        if same && !others.iter().any(|(other, _)| *other == as_it_is.0) {
            others.push(as_it_is);
        }
        match unescape(&bytes[at..]) {
            Unescaped::Unit(unit) if text[place..].starts_with(unit.bytes()) => {
                (at, place) = (at + unit.len, place + unit.size);
            }
            Unescaped::CutOff => return end(End::Open(place)),
            _ => return,
        }
    }
}

/// What an escape stands for: a byte, or a character in UTF-8.
struct Unit {
    bytes: [u8; 4],
    size: usize,
    /// How long the escape is.
    len: usize,
}

impl Unit {
    fn of(bytes: &[u8], len: usize) -> Unescaped {
        let mut unit = Self { bytes: [0; 4], size: bytes.len(), len };
        unit.bytes[..bytes.len()].copy_from_slice(bytes);
        Unescaped::Unit(unit)
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.size]
    }
}

enum Unescaped {
    Nothing,
    CutOff,
    Unit(Unit),
}

/// The hex digits in a range; `None` inside of `Ok` where they are cut off.
fn hex(bytes: &[u8], range: Range<usize>) -> Result<Option<u32>, ()> {
    let mut number = 0;
    for at in range {
        let Some(&byte) = bytes.get(at) else { return Ok(None) };
        number = number << 4 | char::from(byte).to_digit(16).ok_or(())?;
    }
    Ok(Some(number))
}

/// Reads the escape that the bytes begin with.
fn unescape(bytes: &[u8]) -> Unescaped {
    let byte = |digits: Range<usize>| match hex(bytes, digits.clone()) {
        Ok(Some(number)) => Unit::of(&[u8::try_from(number).unwrap_or_default()], digits.end),
        Ok(None) => Unescaped::CutOff,
        Err(()) => Unescaped::Nothing,
    };
    if bytes.first() == Some(&b'%') {
        return byte(1..3);
    }
    match bytes.get(1) {
        None => Unescaped::CutOff,
        Some(b'u') => unicode(bytes),
        Some(b'x') => byte(2..4),
        Some(b'n') => Unit::of(b"\n", 2),
        Some(b't') => Unit::of(b"\t", 2),
        Some(b'r') => Unit::of(b"\r", 2),
        Some(b'b') => Unit::of(b"\x08", 2),
        Some(b'f') => Unit::of(b"\x0c", 2),
        Some(&other) if other.is_ascii_punctuation() => Unit::of(&[other], 2),
        Some(_) => Unescaped::Nothing,
    }
}

/// `\u0041`, and a pair of surrogates.
fn unicode(bytes: &[u8]) -> Unescaped {
    let high = match hex(bytes, 2..6) {
        Ok(Some(number)) => number,
        Ok(None) => return Unescaped::CutOff,
        Err(()) => return Unescaped::Nothing,
    };
    let (number, len) = match high {
        0xd800..0xdc00 => {
            match (bytes.get(6), bytes.get(7)) {
                (None, _) | (Some(b'\\'), None) => return Unescaped::CutOff,
                (Some(b'\\'), Some(b'u')) => {}
                _ => return Unescaped::Nothing,
            }
            match hex(bytes, 8..12) {
                Ok(Some(low @ 0xdc00..0xe000)) => (0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00), 12),
                Ok(None) => return Unescaped::CutOff,
                _ => return Unescaped::Nothing,
            }
        }
        _ => (high, 6),
    };
    match char::from_u32(number) {
        Some(character) => Unit::of(character.encode_utf8(&mut [0; 4]).as_bytes(), len),
        None => Unescaped::Nothing,
    }
}
