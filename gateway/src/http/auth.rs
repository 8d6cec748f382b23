//! The API key in a request: `Authorization: Bearer tr_live_…`. The server refuses keys in URLs.

use std::sync::Arc;

use axum::http::HeaderMap;
use problem::{BearerError, bearer, malformed_key, unknown_key};

use crate::{
    accounts::{Accounts, AuthError, key::Key},
    http::problem::{Kind, Problem},
};

/// The API key of a request.
pub async fn authenticate(accounts: &Accounts, headers: &HeaderMap, now_s: i64) -> Result<Arc<Key>, Problem> {
    accounts
        .authenticate(bearer(headers).map_err(BearerError::of_key)?, now_s)
        .await
        .map_err(|error| match error {
            AuthError::Malformed(why) => malformed_key(&why).into(),
            AuthError::Unknown => unknown_key().into(),
            AuthError::Unavailable => {
                Problem::new(Kind::KeyUnchecked, "the API key cannot be checked now: try again later")
            }
        })
}
