//! Walking every string of a document.

use std::rc::Rc;

use super::{
    error::JsonError,
    find::{Text, name},
    scan::{Event, Scanner, Token},
};
use crate::layout::path::escape;

/// A string somewhere in a document.
pub struct Leaf<'a> {
    /// Where it is, in the form of sealing contexts: array indices are `*`.
    pub pointer: &'a str,
    /// The name of the member that holds it, or that holds the arrays it lies in; `None` at the root.
    pub name: Option<&'a str>,
    /// Its value, without its escapes. It may be plaintext.
    pub value: &'a str,
}

struct Level {
    object: bool,
    /// How long the pointer is without this level's own step.
    base: usize,
    /// The name of the member being looked at, or inherited by an array. Shared: a document can be one long name and a million
    /// arrays.
    name: Option<Rc<str>>,
}

/// Calls `visit` for each string, in the order of the text, names of members excepted.
///
/// # Errors
/// Text that is not strict JSON, too large or too deep. What was visited before is not taken back.
pub fn strings(text: &str, mut visit: impl FnMut(Leaf<'_>)) -> Result<(), JsonError> {
    let mut scanner = Scanner::new(text)?;
    let mut pointer = String::new();
    let mut levels: Vec<Level> = Vec::new();
    while let Some(event) = scanner.event()? {
        match event {
            Event::Key(token) => {
                let Some(level) = levels.last_mut() else { continue };
                let key = name(token, text);
                pointer.truncate(level.base);
                pointer.push('/');
                pointer.push_str(&escape(&key));
                level.name = Some(key.into());
            }
            Event::Open { object, .. } => {
                let name = levels.last().and_then(|level| level.name.clone());
                let base = pointer.len();
                if !object {
                    pointer.push_str("/*");
                }
                levels.push(Level { object, base, name });
            }
            Event::Close { .. } => {
                if let Some(level) = levels.pop() {
                    pointer.truncate(level.base);
                }
            }
            Event::String(token) => leaf(text, token, &pointer, levels.last(), &mut visit),
            Event::Number { .. } | Event::Bool { .. } | Event::Null { .. } => {}
        }
        debug_assert!(levels.last().is_none_or(|level| level.object || pointer.len() >= level.base + 2));
    }
    Ok(())
}

fn leaf(text: &str, token: Token, pointer: &str, level: Option<&Level>, visit: &mut impl FnMut(Leaf<'_>)) {
    let name = level.and_then(|level| level.name.as_deref());
    visit(Leaf { pointer, name, value: &Text::of(token, text) });
}
