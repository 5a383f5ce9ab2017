//! Finding the declared fields of a document.

use std::{
    borrow::Cow,
    collections::HashSet,
    ops::{Deref, Range},
};

use zeroize::Zeroizing;

use super::{
    error::{JsonError, MAX_FIELDS, MAX_POINTERS},
    scan::{Event, Scanner, Token},
};
use crate::layout::path::{FieldPath, escape};

/// What stands at a declared path.
pub enum Value<'a> {
    /// A string, without its escapes. It may be plaintext.
    Text(Text<'a>),
    /// Nothing to seal.
    Null,
    /// Something that is not a string, and so no sealed value either.
    Other(Kind),
}

/// A string of a document: the very text where no escape stands in it, else a copy that is wiped.
pub enum Text<'a> {
    /// As it stands there.
    Plain(&'a str),
    /// What its escapes stand for.
    Unescaped(Zeroizing<String>),
}

impl<'a> Text<'a> {
    pub(super) fn of(token: Token, text: &'a str) -> Self {
        let raw = token.raw(text);
        if !token.escaped {
            return Self::Plain(raw);
        }
        let mut value = Zeroizing::new(String::with_capacity(raw.len()));
        token.decode(text, &mut value);
        Self::Unescaped(value)
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Unescaped(text) => text,
        }
    }
}

/// Kinds of values that are neither strings nor null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// An array.
    Array,
    /// An object.
    Object,
}

/// A declared field that the document has.
pub struct Found<'a> {
    /// Which of the paths names it; the first, where several do.
    pub path: usize,
    /// Its pointer in the form of sealing contexts: array indices are `*`, map keys stand as they are.
    pub pointer: String,
    /// Its pointer with real indices, where it has any.
    exact: Option<String>,
    /// Where the value is in the text, quotes and all.
    pub span: Range<usize>,
    /// What it holds.
    pub value: Value<'a>,
}

impl<'a> Found<'a> {
    /// The whole of a text that is not JSON.
    #[must_use]
    pub const fn whole(text: &'a str) -> Self {
        Self {
            path: 0,
            pointer: String::new(),
            exact: None,
            span: 0..text.len(),
            value: Value::Text(Text::Plain(text)),
        }
    }

    /// Its pointer with real indices, for messages.
    #[must_use]
    pub fn exact(&self) -> &str {
        self.exact.as_deref().unwrap_or(&self.pointer)
    }
}

/// One bit for each path of a pass.
type Mask = u64;

const PATHS_PER_PASS: usize = 64;

/// Finds the fields that `paths` name, in the order of the text. The whole document is checked on the way.
///
/// # Errors
/// Text that is not strict JSON, too large or too deep, and members on a declared path that occur twice.
pub fn find<'a>(text: &'a str, paths: &[FieldPath]) -> Result<Vec<Found<'a>>, JsonError> {
    if paths.len() <= PATHS_PER_PASS {
        return Finder::new(text, paths, 0)?.run();
    }
    let mut found: Vec<Found<'a>> = Vec::new();
    for (n, chunk) in paths.chunks(PATHS_PER_PASS).enumerate() {
        found.extend(Finder::new(text, chunk, n * PATHS_PER_PASS)?.run()?);
    }
    found.sort_by_key(|f| (f.span.start, std::cmp::Reverse(f.span.end), f.path));
    found.dedup_by(|later, kept| later.span == kept.span);
    Ok(found)
}

#[derive(Clone, Copy)]
enum Step {
    Key(Token),
    Index(usize),
}

/// An array or object that some path goes into.
struct Level<'a> {
    object: bool,
    /// The paths that lead to its members.
    active: Mask,
    /// Those whose own member was already met.
    met: Mask,
    /// All keys so far, where a `*` takes any of them.
    keys: Option<HashSet<Cow<'a, str>>>,
    /// The member being looked at.
    step: Step,
    items: usize,
    /// The find whose value this is, to be closed with it.
    found: Option<usize>,
}

struct Finder<'a, 'p> {
    scanner: Scanner<'a>,
    paths: &'p [FieldPath],
    first: usize,
    levels: Vec<Level<'a>>,
    found: Vec<Found<'a>>,
    /// Bytes of all pointers found.
    pointers: usize,
}

fn bits(mut mask: Mask) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = mask.trailing_zeros();
        (mask != 0).then(|| {
            mask &= mask - 1;
            bit as usize
        })
    })
}

impl<'a, 'p> Finder<'a, 'p> {
    fn new(text: &'a str, paths: &'p [FieldPath], first: usize) -> Result<Self, JsonError> {
        Ok(Self { scanner: Scanner::new(text)?, paths, first, levels: Vec::new(), found: Vec::new(), pointers: 0 })
    }

    fn run(mut self) -> Result<Vec<Found<'a>>, JsonError> {
        let all = (0..self.paths.len()).fold(0, |mask, n| mask | 1 << n);
        // The paths that lead to the value that comes next.
        let mut here: Mask = all;
        while let Some(event) = self.scanner.event()? {
            if let Event::Key(token) = event {
                here = self.key(token)?;
                continue;
            }
            if !matches!(event, Event::Close { .. }) {
                here = self.item(here);
            }
            let ends = self.ending(here);
            match event {
                Event::Key(_) => {}
                Event::Close { end } => self.close(end),
                Event::Open { object, at } => {
                    let kind = if object { Kind::Object } else { Kind::Array };
                    let found = self.push(ends, at..at, Value::Other(kind))?;
                    let active = here & !ends;
                    if active != 0 {
                        self.enter(object, active, found);
                    } else {
                        let end = self.scanner.skip()?;
                        if let Some(n) = found {
                            self.found[n].span.end = end;
                        }
                    }
                }
                Event::String(token) if ends != 0 => {
                    let value = Text::of(token, self.scanner.text());
                    self.push(ends, token.start..token.end, Value::Text(value))?;
                }
                Event::String(_) => {}
                Event::Null { start, end } => drop(self.push(ends, start..end, Value::Null)?),
                Event::Bool { start, end } => drop(self.push(ends, start..end, Value::Other(Kind::Bool))?),
                Event::Number { start, end } => drop(self.push(ends, start..end, Value::Other(Kind::Number))?),
            }
        }
        Ok(self.found)
    }

    /// The paths of `mask` that end at the current value.
    fn ending(&self, mask: Mask) -> Mask {
        if mask == 0 {
            return 0;
        }
        let depth = self.levels.len();
        bits(mask).filter(|&n| self.paths[n].segments().len() == depth).fold(0, |ends, n| ends | 1 << n)
    }

    /// For an item of an array, the paths that lead to it; for anything else what is known already.
    fn item(&mut self, here: Mask) -> Mask {
        let depth = self.levels.len();
        let Some(level) = self.levels.last_mut().filter(|level| !level.object) else { return here };
        let index = level.items;
        level.items += 1;
        level.step = Step::Index(index);
        bits(level.active)
            .filter(|&n| self.paths[n].segments()[depth - 1].matches_index(index))
            .fold(0, |mask, n| mask | 1 << n)
    }

    /// The paths that lead to the member of this name.
    fn key(&mut self, token: Token) -> Result<Mask, JsonError> {
        let text = self.scanner.text();
        let depth = self.levels.len();
        let Some(level) = self.levels.last_mut() else { return Ok(0) };
        level.step = Step::Key(token);
        let name = name(token, text);
        let mut here: Mask = 0;
        for n in bits(level.active) {
            if self.paths[n].segments()[depth - 1].matches_key(&name) {
                here |= 1 << n;
            }
        }
        let again = match &mut level.keys {
            Some(keys) => !keys.insert(name),
            None => level.met & here != 0,
        };
        level.met |= here;
        if here != 0 && again {
            return Err(JsonError::Duplicate { pointer: self.pointer(true), at: token.start });
        }
        Ok(here)
    }

    fn enter(&mut self, object: bool, active: Mask, found: Option<usize>) {
        let depth = self.levels.len();
        let any = bits(active).any(|n| self.paths[n].segments()[depth] == crate::layout::path::Segment::Any);
        let keys = (object && any).then(HashSet::new);
        self.levels.push(Level { object, active, met: 0, keys, step: Step::Index(0), items: 0, found });
    }

    fn close(&mut self, end: usize) {
        if let Some(n) = self.levels.pop().and_then(|level| level.found) {
            self.found[n].span.end = end;
        }
    }

    fn push(&mut self, ends: Mask, span: Range<usize>, value: Value<'a>) -> Result<Option<usize>, JsonError> {
        let Some(path) = bits(ends).next() else { return Ok(None) };
        let (pointer, exact) = self.pointers();
        self.pointers = self.pointers.saturating_add(pointer.len() + exact.as_deref().unwrap_or(&pointer).len());
        if self.found.len() == MAX_FIELDS || self.pointers > MAX_POINTERS {
            return Err(JsonError::TooManyFields { at: span.start });
        }
        self.found.push(Found { path: self.first + path, pointer, exact, span, value });
        Ok(Some(self.found.len() - 1))
    }

    /// Where this is: the pointer, and the one with real indices where they differ.
    fn pointers(&self) -> (String, Option<String>) {
        let indexed = self.levels.iter().any(|level| matches!(level.step, Step::Index(_)));
        (self.pointer(false), indexed.then(|| self.pointer(true)))
    }

    fn pointer(&self, exact: bool) -> String {
        let mut pointer = String::with_capacity(64);
        for level in &self.levels {
            pointer.push('/');
            match level.step {
                Step::Key(token) => pointer.push_str(&escape(&name(token, self.scanner.text()))),
                Step::Index(n) if exact => pointer.push_str(&n.to_string()),
                Step::Index(_) => pointer.push('*'),
            }
        }
        pointer
    }
}

/// A member's name, without its escapes.
pub(super) fn name(token: Token, text: &str) -> Cow<'_, str> {
    if !token.escaped {
        return Cow::Borrowed(token.raw(text));
    }
    let mut name = String::new();
    token.decode(text, &mut name);
    Cow::Owned(name)
}
