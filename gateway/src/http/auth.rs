//! The API key in a request: `Authorization: Bearer tr_live_…`. The server refuses keys in URLs.

use std::sync::Arc;

use axum::http::HeaderMap;
use problem::{BearerError, bearer, malformed_key, unknown_key};
use schema::Scope;

use crate::{
    accounts::{Accounts, AuthError, key::Key},
    http::problem::{Kind, Problem},
};

/// The API key of a request. It has the scope `usage`.
pub async fn authenticate(accounts: &Accounts, headers: &HeaderMap, now_s: i64) -> Result<Arc<Key>, Problem> {
    let key = accounts
        .authenticate(bearer(headers).map_err(BearerError::of_key)?, now_s)
        .await
        .map_err(|error| match error {
            AuthError::Malformed(why) => malformed_key(&why).into(),
            AuthError::Unknown => unknown_key().into(),
            AuthError::Unavailable => {
                Problem::new(Kind::KeyUnchecked, "the API key cannot be checked now: try again later")
            }
        })?;
    if !key.stored.scopes.has(Scope::Usage) {
        let id = key.id;
        return Err(Problem::new(
            Kind::ScopeMissing,
            format!(
                "the API key lacks the scope `usage`, which every call needs; nothing was counted: use a key that has it, or ask the operator to add it to the key {id}"
            ),
        ));
    }
    Ok(key)
}
