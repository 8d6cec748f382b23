//! The API key in a request: `Authorization: Bearer tr_live_…`, and nowhere else.

use std::sync::Arc;

use axum::http::{HeaderMap, Uri};
use problem::{BearerError, bearer, malformed_key, unknown_key};
use schema::api_key;

use crate::{
    accounts::{Accounts, AuthError, key::Key},
    http::problem::{Kind, Problem},
};

/// The API key of a request.
pub async fn authenticate(
    accounts: &Accounts,
    uri: &Uri,
    headers: &HeaderMap,
    now_s: i64,
) -> Result<Arc<Key>, Problem> {
    if uri.query().is_some_and(holds_key) {
        return Err(Problem::new(
            Kind::KeyInUrl,
            "API keys must not be sent in the URL, because URLs end up in logs: send the header `Authorization: Bearer <key>`, and replace this key",
        ));
    }
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

/// Whether one of the parameters that clients use for keys has a key.
fn holds_key(query: &str) -> bool {
    // Most queries end here.
    query.contains(api_key::PREFIX)
        && query.split('&').any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            ["api_key", "apikey", "key", "access_token", "token"].contains(&name) && value.starts_with(api_key::PREFIX)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_the_query_is_noticed() {
        for query in [
            "api_key=tr_live_x",
            "a=b&token=tr_live_x",
            "access_token=tr_live_&x",
            "key=tr_live_",
        ] {
            assert!(holds_key(query), "{query}");
        }
        for query in ["", "api_key=", "q=tr_live_x", "key=other", "q=about+api_key=tr_live_"] {
            assert!(!holds_key(query), "{query}");
        }
    }
}
