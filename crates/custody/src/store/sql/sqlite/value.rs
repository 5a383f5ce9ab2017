//! Values of keys. SQLite gives each value a type of its own, whatever its column is declared as.

use sqlx::{Row as _, Sqlite, query::Query, sqlite::SqliteRow};

use super::super::key::{Part, escape, unescape};

/// What keys of a column are, after the affinity that SQLite derives from the declared type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Affinity {
    Text,
    Integer,
    /// Text or whole numbers; no text is left that looks like a number.
    Numeric,
    /// Declared as `BLOB`: bytes, spelled `\x00ff`.
    Blob,
    /// Not declared at all.
    Any,
}

impl Affinity {
    /// The rules of <https://www.sqlite.org/datatype3.html#determination_of_column_affinity>, and no type beside `BLOB`.
    pub(super) fn of(declared: &str) -> Self {
        let declared = declared.to_ascii_uppercase();
        let has = |part: &str| declared.contains(part);
        match () {
            () if declared.is_empty() => Self::Any,
            () if has("INT") => Self::Integer,
            () if has("CHAR") || has("CLOB") || has("TEXT") => Self::Text,
            () if has("BLOB") => Self::Blob,
            () => Self::Numeric,
        }
    }
}

/// A value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Bytes that SQLite takes for text.
    Text(Vec<u8>),
    Integer(i64),
    Blob(Vec<u8>),
}

/// Whether text is spelled like a whole number.
fn is_whole(text: &str) -> bool {
    text.parse::<i64>().is_ok_and(|n| n.to_string() == text)
}

impl Value {
    /// The value that a part of a record key names; `None` where no key of such a column can be spelled so.
    pub(super) fn of(affinity: Affinity, part: &Part, alone: bool) -> Option<Self> {
        let text = part.as_str();
        if !alone && matches!(part, Part::Number(_)) != (affinity != Affinity::Text && is_whole(text)) {
            return None;
        }
        match affinity {
            Affinity::Text => Some(Self::Text(unescape(text))),
            Affinity::Integer => is_whole(text).then(|| text.parse().ok().map(Self::Integer))?,
            Affinity::Numeric | Affinity::Any => {
                Some(if is_whole(text) { Self::Integer(text.parse().ok()?) } else { Self::Text(unescape(text)) })
            }
            Affinity::Blob => from_hex(text.strip_prefix("\\x")?).map(Self::Blob),
        }
    }

    /// How a record key spells it; an error says what is odd.
    pub(super) fn part(&self, affinity: Affinity) -> Result<Part, String> {
        let odd = |what: &str| Err(format!("a value of the key is {what}, unlike its column's type"));
        match (self, affinity) {
            (Self::Integer(n), Affinity::Integer | Affinity::Numeric | Affinity::Any) => {
                Ok(Part::Number(n.to_string()))
            }
            (Self::Integer(_), _) => odd("a number"),
            (Self::Text(bytes), Affinity::Text | Affinity::Numeric | Affinity::Any) => {
                let text = escape(bytes);
                if affinity != Affinity::Text && is_whole(&text) {
                    return odd("a number written as text");
                }
                Ok(Part::Text(text))
            }
            (Self::Text(_), _) => odd("text"),
            (Self::Blob(bytes), Affinity::Blob) => {
                Ok(Part::Text(format!("\\x{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())))
            }
            (Self::Blob(_), _) => odd("bytes"),
        }
    }

    /// Something like it for messages.
    pub(super) fn show(&self) -> String {
        match self {
            Self::Text(bytes) => escape(bytes),
            Self::Integer(n) => n.to_string(),
            Self::Blob(bytes) => format!("{} bytes", bytes.len()),
        }
    }

    /// Binds it, as the type that it has.
    pub(super) fn bind<'q>(
        self,
        query: Query<'q, Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Query<'q, Sqlite, sqlx::sqlite::SqliteArguments> {
        match self {
            Self::Integer(n) => query.bind(n),
            Self::Text(bytes) | Self::Blob(bytes) => query.bind(bytes),
        }
    }

    /// The placeholder for it. Text is bound as bytes, since it need not be UTF-8.
    pub(super) fn placeholder(&self, n: usize) -> String {
        match self {
            Self::Text(_) => format!("CAST(?{n} AS TEXT)"),
            Self::Integer(_) | Self::Blob(_) => format!("?{n}"),
        }
    }

    /// Reads what [`select`] selected from column `at` on; `None` where it is null or a number with a fraction.
    pub(super) fn read(row: &SqliteRow, at: usize) -> Result<Option<Self>, sqlx::Error> {
        let kind: &str = row.try_get(at)?;
        Ok(match kind {
            "text" => Some(Self::Text(row.try_get_unchecked(at + 1)?)),
            "blob" => Some(Self::Blob(row.try_get_unchecked(at + 1)?)),
            "integer" => Some(Self::Integer(row.try_get_unchecked(at + 2)?)),
            _ => None,
        })
    }
}

/// Three result columns for a key column: its type, its bytes, its number.
pub(super) fn select(quoted: &str) -> String {
    format!("typeof(t.{quoted}), CAST(t.{quoted} AS BLOB), CASE typeof(t.{quoted}) WHEN 'integer' THEN t.{quoted} END")
}

/// How many result columns that are.
pub(super) const SELECTED: usize = 3;

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit =
        |b: u8| char::from(b).to_digit(16).filter(|_| !b.is_ascii_uppercase()).and_then(|n| u8::try_from(n).ok());
    text.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinities_follow_the_declared_type() {
        for (declared, affinity) in [
            ("VARCHAR(128)", Affinity::Text),
            ("INTEGER", Affinity::Integer),
            ("BIGINT", Affinity::Integer),
            ("UUID", Affinity::Numeric),
            ("BLOB", Affinity::Blob),
            ("", Affinity::Any),
        ] {
            assert_eq!(Affinity::of(declared), affinity, "{declared}");
        }
    }

    #[test]
    fn each_value_has_one_spelling_and_back() {
        let cases = [
            (Affinity::Text, Value::Text(b"7".into())),
            (Affinity::Text, Value::Text(b"a\xff%41\0".into())),
            (Affinity::Integer, Value::Integer(-7)),
            (Affinity::Numeric, Value::Integer(7)),
            (Affinity::Numeric, Value::Text(b"07".into())),
            (Affinity::Any, Value::Text(b"seven".into())),
            (Affinity::Blob, Value::Blob(vec![0, 255])),
            (Affinity::Blob, Value::Blob(Vec::new())),
        ];
        for (affinity, value) in cases {
            let part = value.part(affinity).unwrap();
            for alone in [true, false] {
                assert_eq!(Value::of(affinity, &part, alone).as_ref(), Some(&value), "{affinity:?} {part:?}");
            }
        }
        for (affinity, value) in [
            (Affinity::Text, Value::Integer(7)),
            (Affinity::Text, Value::Blob(b"7".into())),
            (Affinity::Integer, Value::Text(b"seven".into())),
            (Affinity::Any, Value::Text(b"7".into())),
            (Affinity::Any, Value::Blob(b"x".into())),
            (Affinity::Blob, Value::Text(b"x".into())),
        ] {
            assert!(value.part(affinity).is_err(), "{affinity:?} {value:?}");
        }
        assert_eq!(Value::of(Affinity::Integer, &Part::Text("07".into()), true), None);
        assert_eq!(Value::of(Affinity::Blob, &Part::Text("\\xFF".into()), true), None);
    }
}
