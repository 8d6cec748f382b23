//! Explains to a client why its JSON could not be read: which field, what it must be, and what was sent. The texts of serde
//! itself name types of Rust (`i64`, `a sequence`).

mod integer;
mod sentence;
mod strict;

use serde::Deserialize;
use serde_json::{Deserializer, error::Category};

pub use integer::Integer;
pub(crate) use sentence::Place;
pub(crate) use strict::Strict;

/// What messages about a request's body call it.
const BODY: Place<'static> = Place {
    whole: "the body",
    field: "field",
};

/// Reads one JSON value, the body of a request. The error is a sentence for the client.
pub fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, String> {
    read_value(json).map_err(|error| why::<T>(BODY, json, &error))
}

/// Reads the item `name` of an array in a body, such as `events[0]`.
pub fn read_item<'a, T: Deserialize<'a>>(name: impl FnOnce() -> String, json: &'a [u8]) -> Result<T, String> {
    // Most items are right and need no name.
    read_value(json).map_err(|error| {
        let whole = format!("`{}`", name());
        let place = Place { whole: &whole, ..BODY };
        why::<T>(place, json, &error)
    })
}

fn read_value<'a, T: Deserialize<'a>>(json: &'a [u8]) -> serde_json::Result<T> {
    let mut reader = Deserializer::from_slice(json);
    let value = T::deserialize(Strict(&mut reader))?;
    reader.end()?;
    Ok(value)
}

/// Reads it again, this time with the path of each field. Only invalid JSON is read twice.
fn why<'a, T: Deserialize<'a>>(place: Place, json: &'a [u8], error: &serde_json::Error) -> String {
    let mut reader = Deserializer::from_slice(json);
    match serde_path_to_error::deserialize::<_, T>(Strict(&mut reader)) {
        Err(error) => explain_at(place, &error.path().to_string(), error.inner()),
        // The value is valid, and something follows it.
        Ok(_) => explain_at(place, "", error),
    }
}

/// The error at `path` of a body, such as `events[0].cost_units`. An empty path is the whole body.
pub fn explain(path: &str, error: &serde_json::Error) -> String {
    explain_at(BODY, path, error)
}

fn explain_at(place: Place, path: &str, error: &serde_json::Error) -> String {
    let text = error.to_string();
    let (text, position) = match text.rsplit_once(" at line ") {
        Some((text, position)) => (text, Some(position)),
        None => (text.as_str(), None),
    };
    match (error.classify(), position) {
        (Category::Data, _) => place.sentence(path, text),
        (Category::Eof, Some(_)) if text == "EOF while parsing a value" && error.column() == 0 => {
            "the body is empty, and must be JSON".to_owned()
        }
        (Category::Eof, _) => "the body is not complete JSON: it ends too early".to_owned(),
        (_, Some(position)) => {
            let position = position.replace(" column ", ", column ");
            format!("the body is not valid JSON: {} (line {position})", mistake(text))
        }
        (_, None) => format!("the body is not valid JSON: {}", mistake(text)),
    }
}

/// A mistake in the syntax, which serde_json describes with `text`.
fn mistake(text: &str) -> &str {
    match text {
        "expected value" => "a value must be here",
        "expected ident" => "only the words true, false and null are allowed",
        "expected `:`" => "a field's name must be followed by `:`",
        "expected `,` or `]`" => "an item of an array must be followed by `,` or `]`",
        "expected `,` or `}`" => "a field of an object must be followed by `,` or `}`",
        "expected `\"`" | "key must be a string" => "a field's name must be a string in double quotes",
        "trailing comma" => "a comma must be followed by another item or field",
        "trailing characters" => "nothing may follow the value",
        "invalid number" => "a number must have the form of JSON, such as 1, -1.5 or 1e3",
        "number out of range" => "the number is too large",
        "invalid escape" => "a backslash must begin an escape of JSON, such as \\n or \\u00e9",
        "unexpected end of hex escape" | "lone leading surrogate in hex escape" => {
            "the escape \\u must name a character: one outside the basic plane takes two escapes"
        }
        "invalid unicode code point" => "a string must be UTF-8",
        "recursion limit exceeded" => "arrays and objects must be nested at most 127 deep",
        text if text.starts_with("control character") => "a string must escape its control characters, such as \\n",
        text => text,
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
            (usage(r#""id":"xo""#), r#"`id` must be a UUID, got "xo""#),
            (usage(r#""id":7"#), "`id` must be a UUID, got 7"),
            (usage(r#""mode":1"#), "`mode` must be a string, got 1"),
            (usage(r#""mode":["hard"]"#), "`mode` must be a string, got an array"),
            (
                usage(r#""mode":{"hard":null}"#),
                "`mode` must be a string, got an object",
            ),
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
                "the body is not valid JSON: a comma must be followed by another item or field (line 1, column 19)",
            ),
            (
                format!("{} 2", usage(r#""status":1"#)),
                "the body is not valid JSON: nothing may follow the value (line 1, ",
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
    fn an_object_is_never_an_array() {
        for (json, expected) in [
            (r#"["api_call",1]"#, "the body must be an object, got an array"),
            (
                r#"["api_call",1,2,true,"hard",null]"#,
                "the body must be an object, got an array",
            ),
        ] {
            assert_eq!(read::<Usage>(json.as_bytes()).unwrap_err(), expected, "{json}");
        }
        assert_eq!(
            read::<Batch>(br#"{"events":[["api_call",1,2,true,"hard",null]]}"#).unwrap_err(),
            "`events[0]` must be an object, got an array"
        );
        assert_eq!(
            read::<Vec<Option<Batch>>>(br#"[null,[[]]]"#).unwrap_err(),
            "`[1]` must be an object, got an array"
        );
    }

    #[test]
    fn an_item_is_called_by_its_name() {
        let item = |json: &str| read_item::<Usage>(|| "events[3]".to_owned(), json.as_bytes()).unwrap_err();
        assert_eq!(item("7"), "`events[3]` must be an object, got 7");
        assert_eq!(item("null"), "`events[3]` must be an object, got null");
        assert_eq!(item("{}"), "`usage_type` is missing");
    }

    #[test]
    fn a_part_of_the_json_is_kept_as_it_was_sent() {
        let parts: Vec<&serde_json::value::RawValue> = read(br#"[{"a": [1]}, 2]"#).unwrap();
        assert_eq!(parts[0].get(), r#"{"a": [1]}"#);
        assert_eq!(read::<serde_json::Value>(br#"{"a":[1]}"#).unwrap()["a"][0], 1);
    }

    #[test]
    fn a_name_of_the_client_is_shortened_and_escaped() {
        let long = "x".repeat(5_000);
        for name in [long.as_str(), r"a\u0000b\n\u202e", "a`, expected `b"] {
            let error =
                read::<Batch>(format!(r#"{{"events":[{{"usage_type":"a","{name}":1}}]}}"#).as_bytes()).unwrap_err();
            assert!(error.starts_with("unknown field `events[0]."), "{error}");
            assert!(
                error.ends_with("; known: `usage_type`, `cost_units`, `status`, `overage`, `mode`, `id`"),
                "{error}"
            );
            assert!(
                error.chars().count() < 220 && !error.contains(['\0', '\n', '\u{202e}']),
                "{error}"
            );
        }
        let error = read::<Usage>(format!(r#"{{"usage_type":"a","mode":"{long}"}}"#).as_bytes()).unwrap_err();
        assert!(error.chars().count() < 120 && error.contains("x…`"), "{error}");
    }

    #[test]
    fn mistakes_of_the_syntax_are_told_in_our_words() {
        for (json, expected) in [
            (r#"{"a":,}"#, "a value must be here"),
            ("nul1", "only the words"),
            (r#"{"a" 1}"#, "followed by `:`"),
            ("[1 2]", "followed by `,` or `]`"),
            (r#"{"a":1 "b":2}"#, "followed by `,` or `}`"),
            ("{a:1}", "a string in double quotes"),
            ("[1,]", "a comma must be followed"),
            ("1 2", "nothing may follow"),
            ("-x", "the form of JSON"),
            ("1e999", "too large"),
            (r#""\x""#, "a backslash must begin"),
            (r#""\ud800""#, "must name a character"),
            ("\"\n\"", "escape its control characters"),
        ] {
            let error = read::<serde_json::Value>(json.as_bytes()).unwrap_err();
            assert!(error.starts_with("the body is not valid JSON: "), "{json}: {error}");
            assert!(error.contains(expected), "{json}: {error}");
        }
        let deep = read::<serde_json::Value>("[".repeat(200).as_bytes()).unwrap_err();
        assert!(deep.contains("at most 127 deep"), "{deep}");
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
