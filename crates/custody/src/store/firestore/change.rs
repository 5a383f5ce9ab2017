//! Which fields a swap writes: those whose text differs between what was read and what is to be there.

use std::collections::BTreeMap;

use serde::Deserialize as _;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::value::{Fields, Value, other};

/// What is written, and nothing else of the document.
pub(super) struct Change {
    /// The paths of the fields, quoted for an update mask.
    pub(super) mask: Vec<String>,
    /// The fields at these paths, inside the maps that they are in.
    pub(super) fields: Fields,
}

/// Compares a document with the JSON text that it is to read as.
///
/// A text inside an array is written with the whole of the outermost array around it, since Firestore changes no single
/// element; all others go back as they came.
///
/// # Errors
/// Where more than text differs: one line that says what, and nothing of a value.
pub(super) fn between(mut fields: Fields, new: &str) -> Result<Change, String> {
    let new: &RawValue = serde_json::from_str(new).map_err(|_| "what is to be written is not JSON".to_owned())?;
    let mut change = Change { mask: Vec::new(), fields: Fields::new() };
    let members = members(new, &fields, "")?;
    change.fields = changed(&mut fields, &members, "", &mut change.mask)?;
    Ok(change)
}

/// The changed ones of these fields; their paths are added to the mask.
fn changed(
    fields: &mut Fields,
    new: &BTreeMap<String, &RawValue>,
    at: &str,
    mask: &mut Vec<String>,
) -> Result<Fields, String> {
    let mut out = Fields::new();
    for (name, value) in std::mem::take(fields) {
        let raw = new.get(&name).copied().ok_or_else(|| only_text(at))?;
        let path = if at.is_empty() { quoted(&name) } else { format!("{at}.{}", quoted(&name)) };
        match value {
            Value::Map(mut inner) => {
                let members = members(raw, &inner, &path)?;
                let inner = changed(&mut inner, &members, &path, mask)?;
                if !inner.is_empty() {
                    out.insert(name, Value::Map(inner));
                }
            }
            mut value => {
                if replace(&mut value, raw, &path)? {
                    mask.push(path);
                    out.insert(name, value);
                }
            }
        }
    }
    Ok(out)
}

/// Puts the new texts into a value and says whether one differs.
fn replace(value: &mut Value, new: &RawValue, path: &str) -> Result<bool, String> {
    match value {
        Value::Text(text) => {
            let new = Zeroizing::new(String::deserialize(new).map_err(|_| only_text(path))?);
            let differs = *new != **text;
            *text = new;
            Ok(differs)
        }
        Value::Map(fields) => {
            let members = members(new, fields, path)?;
            let mut differs = false;
            for (name, value) in fields {
                let raw = members.get(name).ok_or_else(|| only_text(path))?;
                differs |= replace(value, raw, path)?;
            }
            Ok(differs)
        }
        Value::Array(values) => {
            let elements: Vec<&RawValue> = serde_json::from_str(new.get()).map_err(|_| only_text(path))?;
            if elements.len() != values.len() {
                return Err(only_text(path));
            }
            let mut differs = false;
            for (value, raw) in values.iter_mut().zip(elements) {
                differs |= replace(value, raw, path)?;
            }
            Ok(differs)
        }
        Value::Other(kind, raw) if other(kind, raw) == new.get() => Ok(false),
        Value::Other(kind, _) => Err(format!("the field {path} is a `{kind}`, and only text can be changed")),
    }
}

fn members<'a>(new: &'a RawValue, old: &Fields, path: &str) -> Result<BTreeMap<String, &'a RawValue>, String> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(new.get()).map_err(|_| only_text(path))?;
    if members.len() == old.len() { Ok(members) } else { Err(only_text(path)) }
}

fn only_text(path: &str) -> String {
    let place = if path.is_empty() { "the document".to_owned() } else { format!("the field {path}") };
    format!("{place} would change in more than its texts")
}

/// One name in a field path.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::firestore::value::text;

    const WIRE: &str = r#"{"name":{"stringValue":"n"},"a.b":{"mapValue":{"fields":{"back`tick\\":{"stringValue":"old"},
        "count":{"integerValue":"5"},"other":{"stringValue":"o"}}}},"list":{"arrayValue":{"values":[{"doubleValue":2.50},
        {"mapValue":{"fields":{"token":{"stringValue":"old"},"at":{"timestampValue":"2026-01-01T00:00:00Z"}}}}]}}}"#;

    fn document() -> Fields {
        serde_json::from_str(WIRE).unwrap()
    }

    #[test]
    fn only_texts_that_differ_are_written_and_arrays_around_them_whole() {
        let new = text(&document()).replace("\"old\"", "\"new\"");
        let change = between(document(), &new).unwrap();
        assert_eq!(change.mask, ["`a.b`.`back\\`tick\\\\`", "`list`"]);
        assert_eq!(
            serde_json::to_string(&change.fields).unwrap(),
            concat!(
                r#"{"a.b":{"mapValue":{"fields":{"back`tick\\":{"stringValue":"new"}}}},"#,
                r#""list":{"arrayValue":{"values":[{"doubleValue":2.50},{"mapValue":{"fields":{"#,
                r#""at":{"timestampValue":"2026-01-01T00:00:00Z"},"token":{"stringValue":"new"}}}}]}}}"#
            )
        );
        let none = between(document(), &text(&document())).unwrap();
        assert!(none.mask.is_empty() && none.fields.is_empty());
    }

    #[test]
    fn what_is_not_text_is_never_changed() {
        let old = text(&document());
        for (from, to) in [
            ("5", "6"),
            ("2.50", "2.5"),
            ("2026", "2027"),
            ("\"n\"", "1"),
            ("\"n\"", "\"n\",\"more\":1"),
            ("\"name\"", "\"renamed\""),
            ("[2.50,", "["),
            ("{\"a.b\"", "[{\"a.b\""),
        ] {
            let new = old.replacen(from, to, 1);
            assert_ne!(*new, **old);
            let error = between(document(), &new).err().unwrap();
            assert!(!error.contains("old"), "{error}");
        }
    }
}
