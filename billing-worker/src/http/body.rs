//! A JSON request body. The content type is ignored, and an empty body counts as an empty object.

use axum::{
    body::Bytes,
    extract::{
        FromRequest, Request,
        rejection::{BytesRejection, FailedToBufferBody},
    },
};
use serde::de::DeserializeOwned;
use service::server::has_stalled;

use crate::error::Error;

/// The largest valid request corrects a thousand events. Webhooks have their own limit.
pub const BYTES_MAX: usize = 256 * 1024;

pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| refusal(rejection, BYTES_MAX))?;
        let json: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        read(json).map(Self)
    }
}

/// The error names the wrong field.
fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, Error> {
    problem::json::read(json).map_err(Error::Malformed)
}

/// Explains why a body of at most `limit` bytes could not be read.
pub fn refusal(rejection: BytesRejection, limit: usize) -> Error {
    match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => Error::TooLarge { limit },
        rejection if has_stalled(&rejection) => Error::BodyTimeout,
        _ => Error::Malformed("the body ended before its announced length".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corrections::request::NewCorrection;

    #[test]
    fn an_error_says_where_and_what_is_expected() {
        let error_of = |json: &str| read::<NewCorrection>(json.as_bytes()).unwrap_err().to_string();
        let error = error_of(r#"{"correction_id":"mine"}"#);
        assert!(error == "`correction_id` must be a UUID, got \"mine\"", "{error}");
        let error = error_of(r#"{"events":["01a21c0b-af6b-717e-bbf2-56621a502fc5"]}"#);
        assert!(
            error.contains("`events[0]`") && error.contains("{\"event_id\": …"),
            "{error}"
        );
        assert!(error_of("{} {}").contains(" is missing"), "the body itself");
        assert!(read::<Vec<i64>>(b"[1] 2").is_err());
        assert_eq!(read::<Vec<i64>>(b"[1]").unwrap(), [1]);
    }
}
