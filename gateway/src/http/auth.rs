//! The API key in a request: `Authorization: Bearer tr_live_…`, and nowhere else.

use std::sync::Arc;

use axum::http::{HeaderMap, Uri, header::AUTHORIZATION};
use schema::{Scope, api_key};

use crate::{
    accounts::{Accounts, AuthError, key::Key},
    http::problem::{Kind, Problem},
};

/// The API key of a request. It has the scope `usage`.
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
    let key = accounts
        .authenticate(bearer(headers)?, now_s)
        .await
        .map_err(|error| match error {
            AuthError::Malformed(why) => Problem::new(Kind::InvalidKey, malformed(&why)),
            AuthError::Unknown => Problem::new(Kind::InvalidKey, "the API key is unknown, expired or revoked"),
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

fn malformed(why: &api_key::ParseKeyError) -> &'static str {
    match why {
        api_key::ParseKeyError::Form => "malformed API key (was it truncated?)",
        api_key::ParseKeyError::Checksum => {
            "malformed API key: its checksum does not match (was it mistyped or truncated?)"
        }
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => {
            return Err(Problem::new(
                Kind::MissingKey,
                "missing API key: send the header `Authorization: Bearer <key>`",
            ));
        }
        (Some(_), Some(_)) => return Err(Problem::invalid("more than one Authorization header")),
        (Some(value), None) => value,
    };
    let scheme_and_key = value.to_str().ok().and_then(|text| text.split_once(' '));
    match scheme_and_key {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Ok(key.trim()),
        _ => Err(Problem::new(
            Kind::InvalidKey,
            "the Authorization header must have the form `Bearer <key>`",
        )),
    }
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
    use axum::http::HeaderValue;

    fn read(values: &[&str]) -> Result<String, Kind> {
        let value = |value: &&str| (AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        let headers: HeaderMap = values.iter().map(value).collect();
        bearer(&headers).map(str::to_owned).map_err(|problem| problem.kind)
    }

    #[test]
    fn only_one_bearer_header_is_a_key() {
        assert_eq!(read(&["Bearer k"]), Ok("k".into()));
        assert_eq!(read(&["bearer  k "]), Ok("k".into()));
        assert_eq!(read(&["BEARER k"]), Ok("k".into()));
        assert_eq!(read(&[]), Err(Kind::MissingKey));
        assert_eq!(read(&["Bearer a", "Bearer b"]), Err(Kind::InvalidRequest));
        for odd in ["Basic dTpw", "Bearer", "", "tr_live_x", "Bearer: k", "Bearer é"] {
            assert_eq!(read(&[odd]), Err(Kind::InvalidKey), "{odd}");
        }
    }

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
