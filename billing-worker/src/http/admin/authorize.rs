//! Checks the admin token.

use axum::{
    extract::{Request, State},
    http::{
        HeaderValue,
        header::{AUTHORIZATION, CACHE_CONTROL},
    },
    middleware::Next,
    response::Response,
};
use subtle::ConstantTimeEq;

use super::AdminApi;
use crate::error::Error;

/// Middleware. It runs before the request body is read.
pub(super) async fn authorize(State(api): State<AdminApi>, request: Request, next: Next) -> Result<Response, Error> {
    let token = api.token.ok_or(Error::AdminClosed)?;
    let mut sent = request.headers().get_all(AUTHORIZATION).iter();
    match (sent.next(), sent.next()) {
        // With two headers it would be unclear which one counts.
        (Some(header), None) if is_token(header, &token) => {}
        _ => return Err(Error::Unauthorized),
    }
    let mut response = next.run(request).await;
    // Responses may contain a new key, which no cache may store.
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The duration reveals only the length of the token.
fn is_token(header: &HeaderValue, token: &str) -> bool {
    let Some((scheme, sent)) = header.as_bytes().split_at_checked("Bearer ".len()) else {
        return false;
    };
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(sent.ct_eq(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_the_token() {
        for (header, expected) in [
            ("Bearer s3cret", true),
            ("bearer s3cret", true),
            ("Bearer s3cre", false),
            ("Bearer s3crets", false),
            ("Bearer ", false),
            ("Bearer", false),
            ("Basic s3cret", false),
            ("s3cret", false),
            ("", false),
        ] {
            let header = HeaderValue::from_static(header);
            assert_eq!(is_token(&header, "s3cret"), expected, "{header:?}");
        }
    }
}
