//! JSON edited by spans: never parsed and written anew.
//!
//! Other programs read the same documents, so what is not a sealed value stays byte for byte: the order of members,
//! spacing, `1e3`, `2.50`, members nobody declared, even twice, and escapes. [`find`] gives where the declared values
//! are, [`splice`] puts others in their place, [`strings`] walks what else there is.
//!
//! The text is strict RFC 8259 with bounded size and depth. Two things that the grammar allows are errors: half a
//! surrogate pair anywhere, and a member on a declared path that occurs twice, because readers differ on both.

mod error;
mod find;
mod scan;
mod splice;
mod strings;
#[cfg(test)]
mod tests;

pub use error::{JsonError, MAX_DEPTH, MAX_DOCUMENT, MAX_FIELDS, MAX_POINTERS};
pub use find::{Found, Kind, Text, Value, find};
pub use splice::{Edit, Encoded, encode_string, splice};
pub use strings::{Leaf, strings};

/// Checks that `text` is JSON as it is read here.
///
/// # Errors
/// Says where it is not.
pub fn check(text: &str) -> Result<(), JsonError> {
    let mut scanner = scan::Scanner::new(text)?;
    while scanner.event()?.is_some() {}
    Ok(())
}
