//! Bodies that are read whole: bounded in bytes here, and in time by the server ([`service::server`]).

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

pub mod leftover;

/// The whole body, of at most `max` bytes.
pub async fn read(headers: &HeaderMap, body: Body, max: usize) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(Kind::TooLarge, format!("the body has more than {max} bytes"));
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    // Before a byte of it is taken.
    if announced.is_some_and(|length| length > max as u64) {
        return Err(too_large());
    }
    match Limited::new(body, max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) if has_stalled(error.as_ref()) => {
            Err(Problem::new(Kind::BodyTimeout, "the body came too slowly, or stopped"))
        }
        Err(_) => Err(Problem::invalid("the body broke off")),
    }
}

/// The whole body, which says that it is JSON.
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

/// A body that is read here must be readable as it is.
pub fn refuse_compressed(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(CONTENT_ENCODING) {
        Some(coding) if coding != "identity" => Err(Problem::new(
            Kind::UnsupportedMediaType,
            "the body is read here, so it must not be compressed: send it without Content-Encoding",
        )),
        _ => Ok(()),
    }
}

/// Reads JSON; what is wrong is said with its line and column.
pub fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(json).map_err(|error| Problem::invalid(format!("the body: {error}")))
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
    async fn a_body_is_json_by_its_type_and_bounded() {
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

    #[test]
    fn what_is_wrong_with_json_is_said_with_its_place() {
        let problem = parse::<Vec<u32>>(b"[1,\n 2,]").unwrap_err();
        let body = String::from_utf8(problem.body("", "")).unwrap();
        assert!(body.contains("line 2 column"), "{body}");
        assert_eq!(problem.into_response().status(), 400);
    }
}
