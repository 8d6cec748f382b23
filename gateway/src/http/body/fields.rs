//! Explains an invalid JSON body: which field is wrong, what it must be, and what was sent.

use serde_json::{Error, Map, Value, error::Category};

/// Longer strings are not shown in messages.
const SHOWN_MAX: usize = 40;

/// A field that a body may have.
pub struct Field {
    pub name: &'static str,
    /// After "must be".
    pub must_be: &'static str,
    pub accepts: fn(&Value) -> bool,
    pub required: bool,
}

/// The fields of a type that is read from a body.
pub trait Fields {
    const FIELDS: &'static [Field];
}

/// Why `json` is not an object with these fields, as `error` found out.
pub fn explain(json: &[u8], error: &Error, fields: &[Field]) -> String {
    match error.classify() {
        _ if json.trim_ascii().is_empty() => "the body is empty: it must be a JSON object".to_owned(),
        Category::Syntax | Category::Eof | Category::Io => syntax(error),
        Category::Data => {
            let text = reason(error);
            match serde_json::from_slice(json) {
                _ if text.starts_with("duplicate field") => text,
                Ok(Value::Object(object)) => wrong_field(&object, fields).unwrap_or(text),
                Ok(other) => format!("the body must be a JSON object, not {}", shown(&other)),
                // The text after the wrong field is not JSON either.
                Err(error) => syntax(&error),
            }
        }
    }
}

/// Explains that a text is not JSON, with the position of the error.
pub fn syntax(error: &Error) -> String {
    match error.classify() {
        Category::Eof => format!(
            "the body ends within its JSON text, at line {} column {}",
            error.line(),
            error.column()
        ),
        _ => format!("the body is not valid JSON: {error}"),
    }
}

/// The reason without the position: a message that names the field does not need it.
fn reason(error: &Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(place) => text[..place].to_owned(),
        None => text,
    }
}

fn wrong_field(object: &Map<String, Value>, fields: &[Field]) -> Option<String> {
    let known = |name: &str| fields.iter().any(|field| field.name == name);
    if let Some(unknown) = object.keys().find(|name| !known(name)) {
        let names: Vec<_> = fields.iter().map(|field| format!("`{}`", field.name)).collect();
        return Some(format!("unknown field `{unknown}`; known fields: {}", names.join(", ")));
    }
    fields.iter().find_map(|field| match object.get(field.name) {
        None if field.required => Some(format!("missing field `{}`: it must be {}", field.name, field.must_be)),
        None => None,
        Some(value) if (field.accepts)(value) || !field.required && value.is_null() => None,
        Some(value) => Some(format!(
            "`{}` must be {}, not {}",
            field.name,
            field.must_be,
            shown(value)
        )),
    })
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.len() <= SHOWN_MAX => format!("the string {value}"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
