//! Compares an output with the text in a document. Shapes are compared, not values, because ids and times change from run to
//! run.
//!
//! - JSON: the same keys, each with a value of the same type. The key `"…"` allows further keys. An empty array or an empty
//!   string allows anything of its type. `error` and `status` must be equal.
//! - Text: `…` matches anything, numbers may differ, and any amount of space is one space.
//! - A response: the status, every header that is shown (as text), and the body if one is shown.

use serde_json::Value;

/// The output of a block.
#[derive(Clone, Debug, Default)]
pub(super) struct Output(pub String);

impl Output {
    /// The body, if this is a whole HTTP response (`curl -i`).
    fn body(&self) -> &str {
        match self.response() {
            Some((_, body)) => body,
            None => &self.0,
        }
    }

    /// Head and body of the final response, without the interim responses before it.
    fn response(&self) -> Option<(&str, &str)> {
        let mut rest = self.0.as_str();
        loop {
            let (head, body) = rest.strip_prefix("HTTP/").and_then(|_| rest.split_once("\n\n"))?;
            match head.split(' ').nth(1)?.starts_with('1') {
                true => rest = body,
                false => return Some((head, body)),
            }
        }
    }
}

impl From<String> for Output {
    fn from(text: String) -> Self {
        Self(text.replace("\r\n", "\n"))
    }
}

pub(super) fn json(expected: &str, output: &Output) -> Result<(), String> {
    let expected: Value = serde_json::from_str(expected).map_err(|error| format!("the document's JSON: {error}"))?;
    let actual = output.body();
    let actual: Value = serde_json::from_str(actual).map_err(|error| format!("{error}: {actual}"))?;
    shape(&expected, &actual, "$").map_err(|difference| format!("{difference}\nthe response is {actual}"))
}

fn shape(expected: &Value, actual: &Value, at: &str) -> Result<(), String> {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => {
            for (key, expected) in expected.iter().filter(|(key, _)| *key != "…") {
                let actual = actual.get(key).ok_or_else(|| format!("{at}.{key} is missing"))?;
                let is_exact = matches!(key.as_str(), "error" | "status") && !expected.is_null();
                if is_exact && expected != actual {
                    return Err(format!("{at}.{key} is {actual}"));
                }
                shape(expected, actual, &format!("{at}.{key}"))?;
            }
            match actual.keys().find(|key| !expected.contains_key(*key)) {
                Some(more) if !expected.contains_key("…") => Err(format!("{at}.{more} is not documented")),
                _ => Ok(()),
            }
        }
        (Value::Array(expected), Value::Array(actual)) => match (expected.as_slice(), actual.as_slice()) {
            ([], _) => Ok(()),
            (_, []) => Err(format!("{at} is empty")),
            // One element describes all elements of an array. Several elements are compared one by one.
            ([one], all) => all.iter().try_for_each(|actual| shape(one, actual, &format!("{at}[]"))),
            (several, all) if several.len() == all.len() => {
                let mut pairs = several.iter().zip(all).enumerate();
                pairs.try_for_each(|(n, (expected, actual))| shape(expected, actual, &format!("{at}[{n}]")))
            }
            (several, all) => Err(format!("{at} has {} elements, not {}", all.len(), several.len())),
        },
        (Value::Null, Value::Null)
        | (Value::Bool(_), Value::Bool(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::String(_), Value::String(_)) => Ok(()),
        _ => Err(format!("{at} is {actual}, which has another type than {expected}")),
    }
}

pub(super) fn text(expected: &str, output: &Output) -> Result<(), String> {
    match is_like(expected.trim(), output.0.trim()) {
        true => Ok(()),
        false => Err(format!("it printed\n{}", output.0)),
    }
}

pub(super) fn response(expected: &str, output: &Output) -> Result<(), String> {
    let (head, body) = output
        .response()
        .ok_or_else(|| format!("no HTTP response: {}", output.0))?;
    let (expected_head, expected_body) = expected.split_once("\n\n").unwrap_or((expected, ""));
    let mut lines = expected_head.lines();
    let status = |line: &str| line.split(' ').nth(1).map(str::to_owned);
    let (wanted, got) = (lines.next().and_then(status), head.lines().next().and_then(status));
    if wanted != got {
        return Err(format!("the status is {}\n{}", got.unwrap_or_default(), output.0));
    }
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("not a header: {line}"))?;
        let has = head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .any(|(other, actual)| other.eq_ignore_ascii_case(name) && is_like(value.trim(), actual.trim()));
        if !has {
            return Err(format!("no header `{line}` in\n{head}"));
        }
    }
    match expected_body.trim() {
        "" => Ok(()),
        shown if shown.starts_with(['{', '[']) => json(shown, output),
        shown => text(shown, &Output(body.to_owned())),
    }
}

/// Whether the texts match when each `…` in `expected` stands for some text.
fn is_like(expected: &str, actual: &str) -> bool {
    let (expected, actual) = (normal(expected), normal(actual));
    let pieces: Vec<&str> = expected.split('…').collect();
    let [first, middle @ .., last] = pieces.as_slice() else {
        return expected == actual;
    };
    let Some(mut rest) = actual.strip_prefix(first) else {
        return false;
    };
    for piece in middle {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Replaces each number by 0 and each run of spaces by one space, and trims lines.
fn normal(text: &str) -> String {
    let mut normal = String::new();
    for line in text.lines() {
        for letter in line.trim().chars() {
            let letter = match letter {
                digit if digit.is_ascii_digit() => '0',
                other => other,
            };
            let repeats = matches!(letter, '0' | ' ') && normal.ends_with(letter);
            normal.extend(Some(letter).filter(|_| !repeats));
        }
        normal.push('\n');
    }
    normal.trim_end().to_owned()
}

#[test]
fn shapes_are_compared_and_values_are_not() {
    let output = Output(r#"{"id": "b", "n": [{"x": 2}, {"x": 3}], "error": "gone"}"#.into());
    assert_eq!(
        json(r#"{"id": "a", "n": [{"x": 1}], "error": "gone"}"#, &output),
        Ok(())
    );
    assert_eq!(json(r#"{"id": "a", "…": "…"}"#, &output), Ok(()));
    for wrong in [
        r#"{"id": "a", "n": [{"x": 1}]}"#,
        r#"{"id": 1, "…": 0}"#,
        r#"{"more": 1, "…": 0}"#,
        r#"{"n": [{"y": 1}], "…": 0}"#,
        r#"{"error": "here", "…": 0}"#,
    ] {
        assert!(json(wrong, &output).is_err(), "{wrong}");
    }
}

#[test]
fn texts_may_differ_in_numbers_and_omitted_parts() {
    let printed = Output("plan   sent\nfree    260\nok: 17 = 17\n".into());
    for like in ["plan sent\nfree 1\nok: 2 = 3", "plan sent\n…\nok: 1 = 1", "plan…"] {
        assert_eq!(text(like, &printed), Ok(()), "{like}");
    }
    assert!(text("plan sent\n…\nfailed: 1 = 1", &printed).is_err());
}

#[test]
fn responses_are_compared_by_status_headers_and_body() {
    let output = Output("HTTP/1.1 429 Too Many Requests\nretry-after: 12\n\n{\"error\": \"x\"}".into());
    assert_eq!(
        response(
            "HTTP/1.1 429 Too Many Requests\nRetry-After: 3\n\n{\"error\": \"x\"}",
            &output
        ),
        Ok(())
    );
    for wrong in [
        "HTTP/1.1 200 OK",
        "HTTP/1.1 429 x\nLocation: /",
        "HTTP/1.1 429 x\n\n{\"error\": \"y\"}",
    ] {
        assert!(response(wrong, &output).is_err(), "{wrong}");
    }
}
