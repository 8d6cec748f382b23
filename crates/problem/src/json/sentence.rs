//! The sentence for one error of serde.

use crate::shown::{CHARACTERS_MAX, shown};

/// What a client sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// Names all of it: the subject of an error that is in no field.
    pub whole: &'a str,
    /// What its fields are called.
    pub field: &'static str,
}

impl Place<'_> {
    /// An error at `path` that serde describes with `text`, as a sentence.
    pub(crate) fn sentence(self, path: &str, text: &str) -> String {
        let path = if matches!(path, "." | "?") { "" } else { path };
        let subject = match path {
            "" => self.whole.to_owned(),
            path => format!("`{}`", shown(path)),
        };
        // `expected` is at the end, but a string of the client can contain the word, too.
        let sent_and_expected = ["invalid type: ", "invalid value: "]
            .iter()
            .find_map(|start| text.strip_prefix(start))
            .and_then(|rest| rest.rsplit_once(", expected "));
        if let Some((sent, expected)) = sent_and_expected {
            return format!("{subject} must be {}, got {}", expectation(expected), received(sent));
        }
        if let Some((length, expected)) = text
            .strip_prefix("invalid length ")
            .and_then(|rest| rest.split_once(", expected "))
        {
            return format!("{subject} has {length} elements, and must be {}", expectation(expected));
        }
        if let Some((field, _)) = named(text, "missing field ") {
            return format!("{} is missing", field_in(path, field));
        }
        if let Some((field, _)) = named(text, "duplicate field ") {
            return format!("duplicate {} {}", self.field, field_in(path, field));
        }
        if let Some((field, known)) = named(text, "unknown field ") {
            // The path ends with the unknown field itself.
            let parent = path
                .strip_suffix(field)
                .map_or(path, |parent| parent.trim_end_matches('.'));
            return format!("unknown {} {}{known}", self.field, field_in(parent, field));
        }
        if let Some((variant, known)) = named(text, "unknown variant ") {
            return format!("{subject} has the unknown value `{}`{known}", shown(variant));
        }
        match path {
            "" => text.to_owned(),
            _ => format!("{subject}: {text}"),
        }
    }
}

/// The name after `start`, and the known names as our messages list them. The name is the client's, so it can contain anything.
fn named<'a>(text: &'a str, start: &str) -> Option<(&'a str, String)> {
    let rest = text.strip_prefix(start)?.strip_prefix('`')?;
    if let Some((name, names)) = rest.rsplit_once("`, expected ") {
        let names = names.trim_start_matches("one of ").replace(" or ", ", ");
        return Some((name, format!("; known: {names}")));
    }
    let (name, _) = rest.rsplit_once("`, there are no ").or_else(|| rest.rsplit_once('`'))?;
    Some((name, String::new()))
}

fn field_in(path: &str, field: &str) -> String {
    let field = shown(field);
    match path {
        "" => format!("`{field}`"),
        path => format!("`{}.{field}`", shown(path)),
    }
}

/// What a value must be.
fn expectation(expected: &str) -> &str {
    match expected {
        "i64" | "i32" | "i16" | "i8" | "isize" | "an integer" | "integer" => "an integer",
        "u64" | "u128" | "usize" => "an integer of 0 or more",
        "u32" => "an integer from 0 to 4,294,967,295",
        "u16" => "an integer from 0 to 65,535",
        "u8" => "an integer from 0 to 255",
        "f64" | "f32" => "a number",
        "a boolean" => "true or false",
        "a borrowed string" | "string" | "str" => "a string",
        "a formatted UUID string" | "a UUID string" => "a UUID",
        "a sequence" => "an array",
        "a map" => "an object",
        "unit" => "null",
        "a nonzero u32" => "an integer from 1 to 4,294,967,295",
        "a nonzero u64" => "an integer of 1 or more",
        expected if expected.starts_with("struct ") => "an object",
        expected if expected.starts_with("tuple ") => "an array",
        expected => expected,
    }
}

/// The value that was sent, as JSON.
fn received(sent: &str) -> String {
    // serde has escaped what does not belong on a line.
    if let Some(string) = sent.strip_prefix("string ") {
        return match string.char_indices().nth(CHARACTERS_MAX) {
            Some((end, _)) => format!("{}…\"", &string[..end]),
            None => string.to_owned(),
        };
    }
    let quoted = ["integer ", "floating point ", "boolean ", "character "]
        .iter()
        .find_map(|start| sent.strip_prefix(start));
    match sent {
        "map" => "an object".to_owned(),
        "sequence" => "an array".to_owned(),
        "unit value" | "null" | "Option value" => "null".to_owned(),
        sent => quoted.unwrap_or(sent).trim_matches('`').to_owned(),
    }
}
