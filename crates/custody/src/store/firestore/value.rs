//! Values of documents, each of the type that it has in Firestore.
//!
//! Text, maps and arrays are looked into. Everything else stays the JSON that came over the wire, so that what is written
//! back beside a changed text is of the same type and has the same digits.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
    ser::SerializeMap as _,
};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

/// The fields of a document or a map. Firestore keeps no order; here it is that of the names.
pub(super) type Fields = BTreeMap<String, Value>;

/// One value. Nothing prints it.
pub(super) enum Value {
    Text(Zeroizing<String>),
    Map(Fields),
    Array(Vec<Value>),
    /// Another type, by the name that it has on the wire, and the JSON there.
    Other(String, Box<RawValue>),
}

#[derive(Serialize, Deserialize)]
struct MapValue<F> {
    #[serde(default)]
    fields: F,
}

#[derive(Serialize, Deserialize)]
struct ArrayValue<V> {
    #[serde(default)]
    values: V,
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Typed;
        impl<'de> Visitor<'de> for Typed {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value of Firestore")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let kind: String = map.next_key()?.ok_or_else(|| A::Error::custom("a value without a type"))?;
                let value = match kind.as_str() {
                    "stringValue" => Value::Text(Zeroizing::new(map.next_value()?)),
                    "mapValue" => Value::Map(map.next_value::<MapValue<Fields>>()?.fields),
                    "arrayValue" => Value::Array(map.next_value::<ArrayValue<Vec<Value>>>()?.values),
                    _ => Value::Other(kind, map.next_value()?),
                };
                match map.next_key::<IgnoredAny>()? {
                    None => Ok(value),
                    Some(_) => Err(A::Error::custom("a value of two types")),
                }
            }
        }
        deserializer.deserialize_map(Typed)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match self {
            Self::Text(text) => map.serialize_entry("stringValue", text.as_str())?,
            Self::Map(fields) => map.serialize_entry("mapValue", &MapValue { fields })?,
            Self::Array(values) => map.serialize_entry("arrayValue", &ArrayValue { values })?,
            Self::Other(kind, raw) => map.serialize_entry(kind, raw)?,
        }
        map.end()
    }
}

/// A document as JSON text, the same for the same document: names in order, no spaces.
///
/// Truth values, null and numbers are what they are in JSON. What JSON has no type for is an object that names its type,
/// `{"timestampValue":"…"}`; it is there to be seen and is never changed.
pub(super) fn text(fields: &Fields) -> Zeroizing<String> {
    // Grown by hand, since what a growing string leaves behind is not wiped.
    let mut out = Zeroizing::new(String::with_capacity(size(fields)));
    write_map(fields, &mut out);
    out
}

fn write_map(fields: &Fields, out: &mut String) {
    out.push('{');
    for (n, (name, value)) in fields.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        quote(name, out);
        out.push(':');
        write(value, out);
    }
    out.push('}');
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Text(text) => quote(text, out),
        Value::Map(fields) => write_map(fields, out),
        Value::Array(values) => {
            out.push('[');
            for (n, value) in values.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write(value, out);
            }
            out.push(']');
        }
        Value::Other(kind, raw) => out.push_str(&other(kind, raw)),
    }
}

/// How a value that is neither text nor map nor array is written.
pub(super) fn other(kind: &str, raw: &RawValue) -> String {
    let raw = raw.get();
    match kind {
        "nullValue" => "null".into(),
        "booleanValue" => raw.into(),
        // 64 bits are a string on the wire, and so is what JSON has no number for: NaN and the infinities.
        "integerValue" => raw.trim_matches('"').into(),
        "doubleValue" if !raw.starts_with('"') => raw.into(),
        _ => {
            // Spaces and line ends of the wire are not the document's.
            let plain = serde_json::from_str::<serde_json::Value>(raw).map_or_else(|_| raw.into(), |v| v.to_string());
            format!("{{\"{kind}\":{plain}}}")
        }
    }
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// The most bytes that the text of these fields can have, about.
fn size(fields: &Fields) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::Text(text) => quoted(text),
            Value::Map(fields) => size(fields),
            Value::Array(values) => 2 + values.iter().map(|value| 1 + of(value)).sum::<usize>(),
            Value::Other(kind, raw) => kind.len() + raw.get().len() + 5,
        }
    }
    2 + fields.iter().map(|(name, value)| quoted(name) + 2 + of(value)).sum::<usize>()
}

fn quoted(text: &str) -> usize {
    let more = text.bytes().map(|b| match b {
        b'"' | b'\\' => 1,
        0..b' ' => 5,
        _ => 0,
    });
    2 + text.len() + more.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIRE: &str = r#"{"b":{"booleanValue":true},"n":{"nullValue":null},"i":{"integerValue":"9007199254740993"},
        "d":{"doubleValue":2.50},"nan":{"doubleValue":"NaN"},"t":{"timestampValue":"2026-01-02T03:04:05.000006Z"},
        "s":{"stringValue":"é\"\\\n\u0001/"},"m":{"mapValue":{"fields":{"x.y":{"stringValue":"in"},"e":{"mapValue":{}}}}},
        "a":{"arrayValue":{"values":[{"geoPointValue":{"latitude": 1.5, "longitude": 2}},{"stringValue":""}]}},
        "none":{"arrayValue":{}},"later":{"someNewValue":[ 1 ]}}"#;

    #[test]
    fn a_document_reads_as_json_with_its_names_in_order() {
        let fields: Fields = serde_json::from_str(WIRE).unwrap();
        let text = text(&fields);
        assert_eq!(
            text.as_str(),
            concat!(
                r#"{"a":[{"geoPointValue":{"latitude":1.5,"longitude":2}},""],"b":true,"d":2.50,"i":9007199254740993,"#,
                r#""later":{"someNewValue":[1]},"m":{"e":{},"x.y":"in"},"n":null,"nan":{"doubleValue":"NaN"},"none":[],"#,
                r#""s":"é\"\\\n\u0001/","t":{"timestampValue":"2026-01-02T03:04:05.000006Z"}}"#
            )
        );
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        assert!(size(&fields) >= text.len());
    }

    #[test]
    fn values_go_back_over_the_wire_as_they_came() {
        let wire = r#"{"a":{"arrayValue":{"values":[{"doubleValue":2.50},{"mapValue":{"fields":{"i":{"integerValue":"5"}}}},{"nullValue":null},{"bytesValue":"AP8="},{"stringValue":"x"}]}}}"#;
        let fields: Fields = serde_json::from_str(wire).unwrap();
        assert_eq!(serde_json::to_string(&fields).unwrap(), wire);
    }

    #[test]
    fn what_is_no_value_is_an_error() {
        for bad in [r#"{"a":{}}"#, r#"{"a":{"stringValue":"x","nullValue":null}}"#, r#"{"a":"x"}"#] {
            assert!(serde_json::from_str::<Fields>(bad).is_err(), "{bad}");
        }
    }
}
