//! What servers answer, taken apart.

use redis::{ErrorKind, RedisError, Value};

/// An answer of another shape than the command has.
pub(super) fn unexpected() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "another answer than the command has").into()
}

/// Bytes, taken over without a copy; `None` where there are none.
pub(super) fn bytes(value: Value) -> Result<Option<Vec<u8>>, RedisError> {
    match value {
        Value::BulkString(bytes) => Ok(Some(bytes)),
        Value::Nil => Ok(None),
        Value::SimpleString(text) => Ok(Some(text.into_bytes())),
        Value::VerbatimString { text, .. } => Ok(Some(text.into_bytes())),
        Value::ServerError(error) => Err(error.into()),
        _ => Err(unexpected()),
    }
}

/// Text that a server made, such as a type's name.
pub(super) fn text(value: Value) -> Result<String, RedisError> {
    let bytes = bytes(value)?.ok_or_else(unexpected)?;
    String::from_utf8(bytes).map_err(|_| unexpected())
}

/// A number, written as one or as text.
pub(super) fn number(value: Value) -> Result<i64, RedisError> {
    match value {
        Value::Int(number) => Ok(number),
        other => text(other)?.parse().map_err(|_| unexpected()),
    }
}

/// A list.
pub(super) fn array(value: Value) -> Result<Vec<Value>, RedisError> {
    match value {
        Value::Array(values) | Value::Set(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        Value::ServerError(error) => Err(error.into()),
        _ => Err(unexpected()),
    }
}

/// A name and a value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// Names and values in turn.
pub(super) fn pairs(value: Value) -> Result<Vec<Pair>, RedisError> {
    let value = value.extract_error()?;
    let pairs = value.into_map_iter().map_err(|_| unexpected())?;
    pairs.map(|(name, value)| Ok((bytes(name)?.unwrap_or_default(), bytes(value)?.unwrap_or_default()))).collect()
}

/// Whether a command was not run because its keys lie in several slots.
pub(super) fn is_of_several_slots(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.code() == "CROSSSLOT")
}

/// Whether a command was not run because its key's type is another.
pub(super) fn is_wrong_type(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.code() == "WRONGTYPE")
}

/// Whether a command was not run because its slot is or moves elsewhere.
pub(super) fn is_redirected(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if matches!(error.code(), "MOVED" | "ASK" | "TRYAGAIN"))
}

/// Whether a script was not run because the server does not hold it.
pub(super) fn is_no_script(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.code() == "NOSCRIPT")
}
