//! One problem: the response to one request that failed.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::{
    HeaderValue, Method, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use rand::RngExt;
use schema::api_key;

use crate::{Kind, Members, body, shown};

/// A problem never shows an API key, even if the request contains one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub kind: Kind,
    detail: Cow<'static, str>,
    members: Option<Box<Members>>,
    retry_after_s: Option<i64>,
    /// A token was sent, and is wrong.
    invalid_token: bool,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = match detail.into() {
            // A detail can quote a value of the request's body.
            detail if detail.contains(api_key::PREFIX) => {
                "the request contains an API key where no key is allowed".into()
            }
            detail => detail,
        };
        Self {
            kind,
            detail,
            invalid_token: kind == Kind::InvalidKey,
            members: None,
            // Random, so that the waiting clients do not all return in the same second.
            retry_after_s: kind.is_temporary().then(|| rand::rng().random_range(1..=5)),
        }
    }

    /// A problem with the catalogue's own sentence.
    pub fn of(kind: Kind) -> Self {
        Self::new(kind, kind.detail())
    }

    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::InvalidRequest, detail)
    }

    /// The request had a token, and it is wrong (RFC 6750, 3.1).
    pub fn invalid_token(self) -> Self {
        Self {
            invalid_token: true,
            ..self
        }
    }

    /// Names the request's method, and those that its path allows: the value of the header `Allow`.
    pub fn allowing(self, method: &Method, allowed: &str) -> Self {
        let allowed: Vec<_> = allowed.split(',').map(str::trim).collect();
        let detail = format!(
            "this path does not allow the method {}; allowed: {}",
            shown(method.as_str()),
            allowed.join(", ")
        );
        Self {
            detail: detail.into(),
            ..self
        }
    }

    /// Sets the seconds of `Retry-After`.
    pub fn retry_after(self, seconds: i64) -> Self {
        Self {
            retry_after_s: Some(seconds),
            ..self
        }
    }

    pub fn with(self, members: Members) -> Self {
        Self {
            members: Some(Box::new(members)),
            ..self
        }
    }

    /// Adds the address where the client can pay or change its plan.
    pub fn offer_upgrade(&mut self, url: &str) {
        self.members.get_or_insert_default().upgrade_url = Some(url.to_owned());
    }

    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }

    pub fn members(&self) -> Option<&Members> {
        self.members.as_deref()
    }

    /// The problem document. `type_base` is the address of the API's documentation.
    pub fn body(&self, type_base: &str, request_id: &str) -> Vec<u8> {
        body::document(self.kind, &self.detail, self.members(), type_base, request_id)
    }
}

impl IntoResponse for Problem {
    /// The body is empty: see the crate's documentation.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(body::CONTENT_TYPE));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        let challenge = match self.kind {
            _ if self.invalid_token => Some("Bearer error=\"invalid_token\""),
            // RFC 6750, section 3.1.
            Kind::ScopeMissing => Some("Bearer error=\"insufficient_scope\""),
            kind if kind.status() == StatusCode::UNAUTHORIZED => Some("Bearer"),
            _ => None,
        };
        if let Some(challenge) = challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_problems_say_when_to_try_again() {
        for kind in Kind::ALL {
            let response = Problem::of(*kind).into_response();
            let retry_after = response.headers().get(RETRY_AFTER);
            let seconds = retry_after.map(|value| value.to_str().unwrap().parse::<i64>().unwrap());
            match seconds {
                Some(seconds) => assert!((1..=5).contains(&seconds), "{kind:?}"),
                None => assert_ne!(response.status(), 503, "{kind:?}"),
            }
        }
        let response = Problem::of(Kind::Starting).retry_after(60).into_response();
        assert_eq!(response.headers()[RETRY_AFTER], "60");
    }

    #[test]
    fn missing_wrong_and_too_narrow_keys_get_a_challenge() {
        let challenge = |kind| {
            Problem::of(kind)
                .into_response()
                .headers()
                .get(WWW_AUTHENTICATE)
                .cloned()
        };
        assert_eq!(challenge(Kind::MissingKey).unwrap(), "Bearer");
        assert_eq!(challenge(Kind::InvalidKey).unwrap(), "Bearer error=\"invalid_token\"");
        assert_eq!(
            challenge(Kind::ScopeMissing).unwrap(),
            "Bearer error=\"insufficient_scope\""
        );
        assert_eq!(challenge(Kind::AccountSuspended), None);
        assert_eq!(challenge(Kind::InvalidRequest), None);
        assert_eq!(challenge(Kind::Unauthorized).unwrap(), "Bearer");
        let wrong = Problem::of(Kind::Unauthorized).invalid_token().into_response();
        assert_eq!(wrong.headers()[WWW_AUTHENTICATE], "Bearer error=\"invalid_token\"");
    }

    #[test]
    fn a_problem_never_shows_a_key() {
        let key = api_key::ApiKey::generate();
        let problem = Problem::invalid(format!("`name` must be short, got {:?}", key.reveal()));
        assert!(!problem.detail().contains(api_key::PREFIX));
    }
}
