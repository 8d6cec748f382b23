//! Explains why a query string is invalid.

use axum::extract::rejection::QueryRejection;

use crate::error::Error;

/// The error names the wrong parameter.
pub(super) fn malformed(rejection: QueryRejection) -> Error {
    let text = rejection.body_text();
    let text = text
        .strip_prefix("Failed to deserialize query string: ")
        .unwrap_or(&text);
    // Either `limit: invalid digit found in string`, or a problem of the whole query string.
    let (path, problem) = match text.split_once(": ") {
        Some((path, problem)) if !path.contains(' ') => (path, problem),
        _ => ("", text),
    };
    Error::Malformed(match problem {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            format!("`{path}` must be an integer")
        }
        "number too large to fit in target type" => format!("`{path}` is too large"),
        problem => problem::json::sentence(path, problem),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{extract::Query, http::Uri};
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Page {
        #[expect(dead_code, reason = "only read")]
        limit: Option<u16>,
    }

    #[test]
    fn an_error_names_the_parameter() {
        let error_of = |query: &str| {
            let uri: Uri = format!("/accounts?{query}").parse().unwrap();
            malformed(Query::<Page>::try_from_uri(&uri).unwrap_err()).to_string()
        };
        assert_eq!(error_of("limit=x"), "`limit` must be an integer");
        assert_eq!(error_of("limit=-1"), "`limit` must be an integer");
        assert_eq!(error_of("limit=99999"), "`limit` is too large");
        assert_eq!(error_of("colour=1"), "unknown field `colour`; known: `limit`");
        assert_eq!(error_of("limit=1&limit=2"), "duplicate field `limit`");
    }
}
