//! A JSON body, whatever its content type says. No body is an empty object.

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

/// Everything that is sent to this service, webhooks apart, is a few short fields, but for a thousand corrections.
pub const BYTES_MAX: usize = 256 * 1024;

pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self, Error> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| refusal(rejection, BYTES_MAX))?;
        let json: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(json)
            .map(Self)
            .map_err(|error| Error::Malformed(error.to_string()))
    }
}

/// Why a body of at most `limit` bytes could not be read.
pub fn refusal(rejection: BytesRejection, limit: usize) -> Error {
    match rejection {
        BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) => Error::TooLarge { limit },
        rejection if has_stalled(&rejection) => Error::BodyTimeout,
        other => Error::Malformed(other.body_text()),
    }
}
