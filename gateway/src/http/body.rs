//! Bodies that are read completely. Their size is limited here, and their time by the server ([`service::server`]).

use axum::body::Body;
use axum::http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use service::server::has_stalled;

use crate::http::problem::{Kind, Problem};

pub mod fields;
pub mod leftover;

/// The whole body, of at most `max` bytes.
pub async fn read(headers: &HeaderMap, body: Body, max: usize) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(Kind::TooLarge, format!("the body is larger than {max} bytes"));
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    // Refuse it before a byte of it is read.
    if announced.is_some_and(|length| length > max as u64) {
        return Err(too_large());
    }
    match Limited::new(body, max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) if has_stalled(error.as_ref()) => {
            Err(Problem::new(Kind::BodyTimeout, "the body did not arrive in time"))
        }
        Err(_) => Err(Problem::invalid("the body ended before its announced length")),
    }
}

/// The whole body, if its Content-Type is JSON.
pub async fn read_json(headers: &HeaderMap, body: Body, max: usize) -> Result<Bytes, Problem> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !content_type.is_some_and(is_json) {
        return Err(Problem::new(
            Kind::UnsupportedMediaType,
            "the body must be JSON: send the header `Content-Type: application/json`",
        ));
    }
    refuse_compressed(headers)?;
    read(headers, body, max).await
}

/// The gateway reads no compressed bodies.
pub fn refuse_compressed(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(CONTENT_ENCODING) {
        Some(coding) if coding != "identity" => Err(Problem::new(
            Kind::UnsupportedMediaType,
            "the body must not be compressed: send it without Content-Encoding",
        )),
        _ => Ok(()),
    }
}

/// Reads a JSON object. The problem names the wrong field, what it must be, and what was sent.
pub fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Problem> {
    problem::json::read(json).map_err(Problem::invalid)
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;

    async fn kind(lines: &[(axum::http::HeaderName, &'static str)], body: impl Into<Body>) -> Result<usize, Kind> {
        let line = |(name, value): &(axum::http::HeaderName, &'static str)| {
            (name.clone(), axum::http::HeaderValue::from_static(value))
        };
        let headers = lines.iter().map(line).collect();
        let read = read_json(&headers, body.into(), 10).await;
        read.map(|bytes| bytes.len()).map_err(|problem| problem.kind)
    }

    #[tokio::test]
    async fn a_body_has_the_type_of_json_and_a_limited_size() {
        const JSON: &str = "application/json; charset=utf-8";
        assert_eq!(kind(&[(CONTENT_TYPE, JSON)], "0123456789").await, Ok(10));
        assert_eq!(kind(&[(CONTENT_TYPE, "application/vnd.x+json")], "1").await, Ok(1));
        assert_eq!(kind(&[(CONTENT_TYPE, JSON)], "0123456789a").await, Err(Kind::TooLarge));
        let announced = [(CONTENT_TYPE, JSON), (CONTENT_LENGTH, "11")];
        assert_eq!(kind(&announced, "").await, Err(Kind::TooLarge));
        for other in ["text/plain", "application/jsonp", ""] {
            assert_eq!(
                kind(&[(CONTENT_TYPE, other)], "1").await,
                Err(Kind::UnsupportedMediaType),
                "{other}"
            );
        }
        assert_eq!(kind(&[], "1").await, Err(Kind::UnsupportedMediaType));
        let compressed = [(CONTENT_TYPE, JSON), (CONTENT_ENCODING, "gzip")];
        assert_eq!(kind(&compressed, "1").await, Err(Kind::UnsupportedMediaType));
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it can be read is tested")]
    struct Order {
        item: String,
        #[serde(default, deserialize_with = "count")]
        count: Option<i64>,
    }

    fn count<'de, D: serde::Deserializer<'de>>(field: D) -> Result<Option<i64>, D::Error> {
        fields::optional(field, "a small number", |value| {
            value.as_i64().filter(|count| *count < 10)
        })
    }

    #[test]
    fn a_wrong_body_is_explained_by_its_fields() {
        for (json, expected) in [
            (r#"{"item":1}"#, "`item` must be a string, got 1"),
            (
                r#"{"item":"a","count":"1"}"#,
                "`count` must be a small number, got \"1\"",
            ),
            (r#"{"item":"a","count":1.5}"#, "`count` must be a small number, got 1.5"),
            (r#"{"item":"a","count":10}"#, "`count` must be a small number, got 10"),
            (
                r#"{"item":"a","count":1e300}"#,
                "`count` must be a small number, got 1e+300",
            ),
            (
                r#"{"item":"a","count":{}}"#,
                "`count` must be a small number, got an object",
            ),
            (r#"{"count":1}"#, "`item` is missing"),
            (
                r#"{"item":"a","cuont":1}"#,
                "unknown field `cuont`; known: `item`, `count`",
            ),
            (r#"{"item":"a","item":"b"}"#, "duplicate field `item`"),
            ("[1]", "the body must be an object, got an array"),
            (" []", "the body must be an object, got an array"),
            ("7", "the body must be an object, got 7"),
            ("", "the body is empty"),
            (
                "{\n \"item\":,",
                "the body is not valid JSON: a value must be here (line 2, column 9)",
            ),
            (r#"{"item":"#, "the body is not complete JSON: it ends too early"),
        ] {
            let problem = parse::<Order>(json.as_bytes()).unwrap_err();
            let body = problem.detail().to_owned();
            assert!(body.contains(expected), "{json}: {body}");
            assert_eq!(problem.into_response().status(), 400);
        }
        assert!(parse::<Order>(br#"{"item":"a","count":null}"#).is_ok());
    }
}
