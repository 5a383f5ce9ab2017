//! A scanner of JSON text: strict RFC 8259, one pass, no recursion, no allocation.

use super::error::{JsonError, MAX_DEPTH, MAX_DOCUMENT};

/// A string token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    /// Where its first quote is.
    pub(super) start: usize,
    /// Where the text after its last quote begins.
    pub(super) end: usize,
    /// Whether it has an escape, so that its text is not its value.
    pub(super) escaped: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// An array or object begins, at this offset.
    Open {
        object: bool,
        at: usize,
    },
    /// The innermost array or object ends, before this offset.
    Close {
        end: usize,
    },
    /// A member's name; its value comes next.
    Key(Token),
    String(Token),
    Number {
        start: usize,
        end: usize,
    },
    Bool {
        start: usize,
        end: usize,
    },
    Null {
        start: usize,
        end: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Value,
    /// A value, or the end of the array that has just begun.
    FirstItem,
    /// A name, or the end of the object that has just begun.
    FirstKey,
    /// After a value: a comma, or an end.
    Separator,
}

pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    next: Next,
    depth: u32,
    /// One bit for each level, the innermost lowest: set for an object.
    objects: u128,
}

/// The bytes that stand for themselves in a string.
static PLAIN: [bool; 256] = {
    let mut plain = [true; 256];
    let mut b = 0;
    while b < 0x20 {
        plain[b] = false;
        b += 1;
    }
    plain[b'"' as usize] = false;
    plain[b'\\' as usize] = false;
    plain
};

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Result<Self, JsonError> {
        if text.len() > MAX_DOCUMENT {
            return Err(JsonError::TooLarge { found: text.len() });
        }
        Ok(Self { text, at: 0, next: Next::Value, depth: 0, objects: 0 })
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn white(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn wrong<T>(&self, what: &'static str) -> Result<T, JsonError> {
        Err(JsonError::Syntax { at: self.at, what })
    }

    /// The next event; `None` after the document.
    #[inline]
    pub(super) fn event(&mut self) -> Result<Option<Event>, JsonError> {
        self.white();
        match self.next {
            Next::Value => self.value().map(Some),
            Next::FirstItem if self.peek() == Some(b']') => self.close().map(Some),
            Next::FirstItem => self.value().map(Some),
            Next::FirstKey if self.peek() == Some(b'}') => self.close().map(Some),
            Next::FirstKey => self.key().map(Some),
            Next::Separator if self.depth == 0 => match self.peek() {
                None => Ok(None),
                Some(_) => self.wrong("text after the document"),
            },
            Next::Separator => {
                let object = self.objects & 1 == 1;
                match (self.peek(), object) {
                    (Some(b','), true) => {
                        self.at += 1;
                        self.white();
                        self.key().map(Some)
                    }
                    (Some(b','), false) => {
                        self.at += 1;
                        self.white();
                        self.value().map(Some)
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => self.close().map(Some),
                    (_, true) => self.wrong("expected `,` or `}`"),
                    (_, false) => self.wrong("expected `,` or `]`"),
                }
            }
        }
    }

    /// Passes over the rest of the innermost array or object; gives where it ends.
    pub(super) fn skip(&mut self) -> Result<usize, JsonError> {
        let outside = self.depth.saturating_sub(1);
        while let Some(event) = self.event()? {
            match event {
                Event::Close { end } if self.depth == outside => return Ok(end),
                _ => {}
            }
        }
        Ok(self.at)
    }

    fn close(&mut self) -> Result<Event, JsonError> {
        self.at += 1;
        self.depth -= 1;
        self.objects >>= 1;
        self.next = Next::Separator;
        Ok(Event::Close { end: self.at })
    }

    fn open(&mut self, object: bool) -> Result<Event, JsonError> {
        let at = self.at;
        if self.depth == MAX_DEPTH {
            return Err(JsonError::TooDeep { at });
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(object);
        self.at += 1;
        self.next = if object { Next::FirstKey } else { Next::FirstItem };
        Ok(Event::Open { object, at })
    }

    #[inline]
    fn key(&mut self) -> Result<Event, JsonError> {
        if self.peek() != Some(b'"') {
            return self.wrong("expected a member's name");
        }
        let token = self.string()?;
        self.white();
        if self.peek() != Some(b':') {
            return self.wrong("expected `:`");
        }
        self.at += 1;
        self.next = Next::Value;
        Ok(Event::Key(token))
    }

    #[inline]
    fn value(&mut self) -> Result<Event, JsonError> {
        let start = self.at;
        let event = match self.peek() {
            Some(b'"') => Event::String(self.string()?),
            Some(b'{') => return self.open(true),
            Some(b'[') => return self.open(false),
            Some(b't') => self.word("true").map(|end| Event::Bool { start, end })?,
            Some(b'f') => self.word("false").map(|end| Event::Bool { start, end })?,
            Some(b'n') => self.word("null").map(|end| Event::Null { start, end })?,
            Some(b'-' | b'0'..=b'9') => self.number().map(|end| Event::Number { start, end })?,
            Some(_) => return self.wrong("expected a value"),
            None => return self.wrong("the text ends where a value is expected"),
        };
        self.next = Next::Separator;
        Ok(event)
    }

    fn word(&mut self, word: &str) -> Result<usize, JsonError> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(self.at)
        } else {
            self.wrong("expected a value")
        }
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { self.wrong("expected a digit") } else { Ok(()) }
    }

    fn number(&mut self) -> Result<usize, JsonError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
            if let Some(b'0'..=b'9') = self.peek() {
                return self.wrong("a number starts with `0`");
            }
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(self.at)
    }

    #[inline]
    fn string(&mut self) -> Result<Token, JsonError> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at += plain(&bytes[self.at..]);
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Token { start, end: self.at, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return self.wrong("a control character in a string"),
                None => return self.wrong("the text ends inside a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                return Ok(());
            }
            Some(b'u') => self.at += 1,
            _ => return self.wrong("an unknown escape"),
        }
        match self.unit()? {
            0xd800..=0xdbff => {
                if !self.text.as_bytes()[self.at..].starts_with(b"\\u") {
                    return Err(JsonError::LoneSurrogate { at: start });
                }
                self.at += 2;
                match self.unit()? {
                    0xdc00..=0xdfff => Ok(()),
                    _ => Err(JsonError::LoneSurrogate { at: start }),
                }
            }
            0xdc00..=0xdfff => Err(JsonError::LoneSurrogate { at: start }),
            _ => Ok(()),
        }
    }

    fn unit(&mut self) -> Result<u32, JsonError> {
        let mut unit = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|b| char::from(b).to_digit(16)) else {
                return self.wrong("expected four hex digits");
            };
            unit = unit << 4 | digit;
            self.at += 1;
        }
        Ok(unit)
    }
}

/// How many bytes at the start of `bytes` need no second look.
#[inline]
fn plain(bytes: &[u8]) -> usize {
    // Most strings are short; for what is longer the vectorised search pays.
    const SHORT: usize = 24;
    let short = bytes.len().min(SHORT);
    if let Some(n) = bytes[..short].iter().position(|&b| !PLAIN[usize::from(b)]) {
        return n;
    }
    if short == bytes.len() {
        return short;
    }
    let rest = &bytes[SHORT..];
    let end = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
    let run = &rest[..end];
    // Without an early way out, so that it is compiled to vector instructions.
    let control = run.iter().fold(false, |found, &b| found | (b < 0x20));
    if !control {
        return SHORT + end;
    }
    SHORT + run.iter().position(|&b| b < 0x20).unwrap_or(end)
}

impl Token {
    /// What is between the quotes, escapes and all.
    pub(super) fn raw(self, text: &str) -> &str {
        &text[self.start + 1..self.end - 1]
    }

    /// Appends the string's value to `out`.
    pub(super) fn decode(self, text: &str, out: &mut String) {
        let mut rest = self.raw(text);
        while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
            out.push_str(&rest[..at]);
            let (c, len) = unescape(&rest[at..]);
            out.push(c);
            rest = &rest[at + len..];
        }
        out.push_str(rest);
    }
}

/// The character that an escape stands for, and the length of the escape. The scanner has checked it.
fn unescape(text: &str) -> (char, usize) {
    let unit = |at: usize| text.get(at..at + 4).and_then(|hex| u32::from_str_radix(hex, 16).ok()).unwrap_or(0xfffd);
    let simple = |c| (c, 2);
    match text.as_bytes().get(1) {
        Some(b'b') => simple('\u{8}'),
        Some(b'f') => simple('\u{c}'),
        Some(b'n') => simple('\n'),
        Some(b'r') => simple('\r'),
        Some(b't') => simple('\t'),
        Some(b'u') => match unit(2) {
            high @ 0xd800..=0xdbff => {
                let low = unit(8);
                let code = 0x10000 + ((high & 0x3ff) << 10) + (low & 0x3ff);
                (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
            }
            unit => (char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER), 6),
        },
        Some(&b) => simple(char::from(b)),
        None => (char::REPLACEMENT_CHARACTER, 1),
    }
}
