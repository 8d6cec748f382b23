//! Fields that must be more than their type says. Messages say what they must be.

use serde::{
    Deserialize, Deserializer,
    de::{Error, Unexpected},
};
use serde_json::Value;

/// Reads a field with `read`. `must_be` stands after "must be" in the message.
pub fn required<'de, D: Deserializer<'de>, T>(
    field: D,
    must_be: &'static str,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Result<T, D::Error> {
    let value = Value::deserialize(field)?;
    read(&value).ok_or_else(|| D::Error::invalid_value(unexpected(&value), &must_be))
}

/// The same for a field that may be `null`.
pub fn optional<'de, D: Deserializer<'de>, T>(
    field: D,
    must_be: &'static str,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Result<Option<T>, D::Error> {
    required(field, must_be, |value| match value {
        Value::Null => Some(None),
        value => read(value).map(Some),
    })
}

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Unexpected::Signed(number),
            (None, Some(number)) => Unexpected::Unsigned(number),
            (None, None) => Unexpected::Float(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Unexpected::Str(text),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    }
}
