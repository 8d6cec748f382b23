//! Explains to a client why its JSON could not be read: which field, what it must be, and what was sent. The texts of serde
//! itself name types of Rust (`i64`, `a sequence`).

use serde::Deserialize;
use serde_json::error::Category;

/// A string of the client is shown up to this length, in characters.
const SHOWN_CHARACTERS: usize = 60;

/// Reads one JSON value. The error is a sentence for the client.
pub fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| {
        // Read it again, this time with the path of each field. Only invalid JSON is read twice.
        let mut reader = serde_json::Deserializer::from_slice(json);
        match serde_path_to_error::deserialize::<_, T>(&mut reader) {
            Err(error) => explain(&error.path().to_string(), error.inner()),
            // The value is valid, and something follows it.
            Ok(_) => explain("", &error),
        }
    })
}

/// The error at `path`, such as `events[0].cost_units`. An empty path is the whole value.
pub fn explain(path: &str, error: &serde_json::Error) -> String {
    let text = error.to_string();
    let (text, place) = match text.rsplit_once(" at line ") {
        Some((text, place)) => (text, Some(place)),
        None => (text.as_str(), None),
    };
    match (error.classify(), place) {
        (Category::Data, _) => sentence(path, text),
        (Category::Eof, Some(_)) if text == "EOF while parsing a value" && error.column() == 0 => {
            "the body is empty, and must be JSON".to_owned()
        }
        (Category::Eof, _) => "the body is not complete JSON: it ends too early".to_owned(),
        (_, Some(place)) => {
            let place = place.replace(" column ", ", column ");
            format!("the body is not valid JSON: {text} (line {place})")
        }
        (_, None) => format!("the body is not valid JSON: {text}"),
    }
}

/// An error that serde describes with `text`, as a sentence.
pub fn sentence(path: &str, text: &str) -> String {
    let path = if matches!(path, "." | "?") { "" } else { path };
    let subject = match path {
        "" => "the body".to_owned(),
        path => format!("`{path}`"),
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
        // serde reads an array as an object, too, and this one has too few elements.
        return match expected.strip_prefix("struct ") {
            Some(_) => format!("{subject} must be an object, got an array"),
            None => format!("{subject} has {length} elements, and must be {}", expectation(expected)),
        };
    }
    let named = |start: &str| text.strip_prefix(start)?.strip_prefix('`')?.split_once('`');
    if let Some((field, _)) = named("missing field ") {
        return format!("{} is missing", field_in(path, field));
    }
    if let Some((field, _)) = named("duplicate field ") {
        return format!("duplicate field {}", field_in(path, field));
    }
    if let Some((field, rest)) = named("unknown field ") {
        // The path ends with the unknown field itself.
        let parent = path
            .strip_suffix(field)
            .map_or(path, |parent| parent.trim_end_matches('.'));
        return format!("unknown field {}{}", field_in(parent, field), known(rest));
    }
    if let Some((variant, rest)) = named("unknown variant ") {
        return format!("{subject} has the unknown value `{variant}`{}", known(rest));
    }
    match path {
        "" => text.to_owned(),
        _ => format!("{subject}: {text}"),
    }
}

fn field_in(path: &str, field: &str) -> String {
    match path {
        "" => format!("`{field}`"),
        path => format!("`{path}.{field}`"),
    }
}

/// From `, expected one of …`, which serde adds to a name that it does not know.
fn known(rest: &str) -> String {
    match rest.strip_prefix(", expected ") {
        Some(names) => format!("; known: {}", names.trim_start_matches("one of ").replace(" or ", ", ")),
        None => String::new(),
    }
}

/// What a value must be.
fn expectation(expected: &str) -> &str {
    match expected {
        "i64" | "i32" | "i16" | "i8" | "isize" | "an integer" | "integer" => "an integer",
        "u64" | "u128" | "usize" => "an integer from 0",
        "u32" => "an integer from 0 to 4,294,967,295",
        "u16" => "an integer from 0 to 65,535",
        "u8" => "an integer from 0 to 255",
        "f64" | "f32" => "a number",
        "a boolean" => "true or false",
        "a borrowed string" | "string" | "str" => "a string",
        "a sequence" => "an array",
        "a map" => "an object",
        "unit" => "null",
        "a nonzero u32" => "an integer from 1 to 4,294,967,295",
        "a nonzero u64" => "an integer from 1",
        expected if expected.starts_with("struct ") => "an object",
        expected if expected.starts_with("tuple ") => "an array",
        expected => expected,
    }
}

/// What was sent, as JSON.
fn received(sent: &str) -> String {
    if let Some(string) = sent.strip_prefix("string ") {
        return match string.char_indices().nth(SHOWN_CHARACTERS) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Usage {
        #[expect(dead_code, reason = "only read")]
        usage_type: String,
        #[expect(dead_code, reason = "only read")]
        cost_units: Option<i64>,
        #[expect(dead_code, reason = "only read")]
        status: Option<u16>,
        #[expect(dead_code, reason = "only read")]
        overage: Option<bool>,
        #[expect(dead_code, reason = "only read")]
        mode: Option<Mode>,
        #[expect(dead_code, reason = "only read")]
        id: Option<uuid::Uuid>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Hard,
        Soft,
    }

    #[derive(Debug, Deserialize)]
    struct Batch {
        #[expect(dead_code, reason = "only read")]
        events: Vec<Usage>,
    }

    #[test]
    fn an_error_names_the_field_what_it_must_be_and_what_was_sent() {
        let usage = |rest: &str| format!(r#"{{"usage_type":"api_call",{rest}}}"#);
        for (json, expected) in [
            (
                usage(r#""cost_units":"1""#),
                r#"`cost_units` must be an integer, got "1""#,
            ),
            (usage(r#""cost_units":1.5"#), "`cost_units` must be an integer, got 1.5"),
            (
                usage(r#""cost_units":[1]"#),
                "`cost_units` must be an integer, got an array",
            ),
            (
                usage(r#""status":70000"#),
                "`status` must be an integer from 0 to 65,535, got 70000",
            ),
            (
                usage(r#""overage":"yes""#),
                r#"`overage` must be true or false, got "yes""#,
            ),
            (usage(r#""costs":1"#), "unknown field `costs`; known: "),
            (
                usage(r#""mode":"maybe""#),
                "`mode` has the unknown value `maybe`; known: `hard`, `soft`",
            ),
            (usage(r#""id":"x""#), "`id`: UUID parsing failed"),
            (
                r#"{"usage_type":null}"#.into(),
                "`usage_type` must be a string, got null",
            ),
            (
                r#"{"usage_type":{}}"#.into(),
                "`usage_type` must be a string, got an object",
            ),
            ("{}".into(), "`usage_type` is missing"),
            (
                usage(r#""cost_units":1,"cost_units":2"#),
                "duplicate field `cost_units`",
            ),
            ("7".into(), "the body must be an object, got 7"),
            ("[]".into(), "the body must be an object, got an array"),
            ("".into(), "the body is empty, and must be JSON"),
            (
                r#"{"usage_type":"#.into(),
                "the body is not complete JSON: it ends too early",
            ),
            (
                r#"{"usage_type":"a",}"#.into(),
                "the body is not valid JSON: trailing comma (line 1, column 19)",
            ),
            (
                format!("{} 2", usage(r#""status":1"#)),
                "the body is not valid JSON: trailing characters (line 1, ",
            ),
        ] {
            let error = read::<Usage>(json.as_bytes()).unwrap_err();
            assert!(error.starts_with(expected), "{json}: {error}");
        }
    }

    #[test]
    fn an_error_inside_an_array_names_its_element() {
        let error = |json: &str| read::<Batch>(json.as_bytes()).unwrap_err();
        assert_eq!(
            error(r#"{"events":[{"usage_type":"a"},{"usage_type":1}]}"#),
            "`events[1].usage_type` must be a string, got 1"
        );
        assert_eq!(error(r#"{"events":[{}]}"#), "`events[0].usage_type` is missing");
        assert!(
            error(r#"{"events":[{"usage_type":"a","cost":1}]}"#).starts_with("unknown field `events[0].cost`; known: ")
        );
        assert_eq!(error(r#"{"events":{}}"#), "`events` must be an array, got an object");
    }

    #[test]
    fn a_long_string_is_cut() {
        let error = read::<i64>(format!("\"{}\"", "é".repeat(1_000)).as_bytes()).unwrap_err();
        assert!(error.chars().count() < 120, "{error}");
        assert!(error.ends_with("é…\""), "{error}");
    }

    #[test]
    fn no_error_names_a_type_of_rust() {
        for json in ["1", "\"a\"", "[]", "{}", "null", "true", "1.5", "-1", "1e300"] {
            let errors = [
                read::<Usage>(json.as_bytes()).err(),
                read::<i64>(json.as_bytes()).err(),
                read::<u16>(json.as_bytes()).err(),
                read::<Vec<bool>>(json.as_bytes()).err(),
                read::<String>(json.as_bytes()).err(),
                read::<std::collections::HashMap<String, f64>>(json.as_bytes()).err(),
            ];
            for error in errors.into_iter().flatten() {
                for word in ["i64", "u16", "struct", "Usage", "sequence", "map", "column", "expected"] {
                    assert!(!error.contains(word), "{json}: {error}");
                }
            }
        }
    }
}
