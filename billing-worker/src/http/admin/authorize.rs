//! Checks the admin token.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header::CACHE_CONTROL},
    middleware::Next,
    response::{IntoResponse, Response},
};
use problem::{BearerError, Kind, Problem, bearer};
use subtle::ConstantTimeEq;

use super::AdminApi;
use crate::error::Error;

/// Middleware. It runs before the request body is read.
pub(super) async fn authorize(State(api): State<AdminApi>, request: Request, next: Next) -> Response {
    let Some(token) = api.token else {
        return Error::AdminClosed.into_response();
    };
    if let Err(problem) = checked(request.headers(), &token) {
        return problem.into_response();
    }
    let mut response = next.run(request).await;
    // Responses may contain a new key, which no cache may store.
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The duration reveals only the length of the token.
fn checked(headers: &HeaderMap, token: &str) -> Result<(), Problem> {
    let sent = bearer(headers).map_err(BearerError::of_admin_token)?;
    match bool::from(sent.as_bytes().ct_eq(token.as_bytes())) {
        true => Ok(()),
        false => Err(Problem::new(Kind::Unauthorized, "the admin token is not that of this service").invalid_token()),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::header::AUTHORIZATION;

    use super::*;

    #[test]
    fn only_the_whole_token_is_the_token() {
        for (header, expected) in [
            ("Bearer s3cret", true),
            ("bearer  s3cret", true),
            ("BEARER s3cret", true),
            ("Bearer s3cre", false),
            ("Bearer s3crets", false),
            ("Bearer ", false),
            ("Bearer", false),
            ("Basic s3cret", false),
            ("s3cret", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(header))]);
            let checked = checked(&headers, "s3cret");
            assert_eq!(checked.is_ok(), expected, "{header:?}");
            let kind = checked.map_err(|problem| problem.kind);
            assert!(matches!(kind, Ok(()) | Err(Kind::Unauthorized)), "{header:?}: {kind:?}");
        }
    }
}
