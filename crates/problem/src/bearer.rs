//! `Authorization: Bearer <text>`, as every port reads it, and the problems of API keys.

use http::{HeaderMap, header::AUTHORIZATION};
use schema::api_key::ParseKeyError;

use crate::{Kind, Problem};

/// Why a request has no bearer token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BearerError {
    Missing,
    /// With two headers it is unclear which one counts.
    Repeated,
    /// The header has another scheme, or no token.
    Form,
}

/// The token of the request. The scheme's letter case and the number of spaces do not matter.
pub fn bearer(headers: &HeaderMap) -> Result<&str, BearerError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Err(BearerError::Missing),
        (Some(_), Some(_)) => return Err(BearerError::Repeated),
        (Some(value), None) => value,
    };
    match value.to_str().ok().and_then(|text| text.split_once(' ')) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(BearerError::Form),
    }
}

impl BearerError {
    /// The problem where an API key is needed.
    pub fn of_key(self) -> Problem {
        match self {
            Self::Missing => Problem::new(
                Kind::MissingKey,
                "missing API key: send the header `Authorization: Bearer <API key>`",
            ),
            Self::Repeated => repeated(),
            Self::Form => Problem::new(
                Kind::InvalidKey,
                "the Authorization header must have the form `Bearer <API key>`",
            ),
        }
    }

    /// The problem where the admin token is needed.
    pub fn of_admin_token(self) -> Problem {
        match self {
            Self::Missing => Problem::new(
                Kind::Unauthorized,
                "missing admin token: send the header `Authorization: Bearer <ADMIN_TOKEN>`",
            ),
            Self::Repeated => repeated(),
            Self::Form => Problem::new(
                Kind::Unauthorized,
                "the Authorization header must have the form `Bearer <ADMIN_TOKEN>`",
            )
            .invalid_token(),
        }
    }
}

fn repeated() -> Problem {
    Problem::invalid("more than one Authorization header")
}

/// The problem of a text that is no API key.
pub fn malformed_key(why: &ParseKeyError) -> Problem {
    let detail = match why {
        ParseKeyError::Form => "malformed API key (was it truncated?)",
        ParseKeyError::Checksum => "malformed API key: its checksum does not match (was it mistyped or truncated?)",
    };
    Problem::new(Kind::InvalidKey, detail)
}

pub fn unknown_key() -> Problem {
    Problem::new(Kind::InvalidKey, "the API key is unknown, expired or revoked")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn read(values: &[&str]) -> Result<String, BearerError> {
        let value = |value: &&str| (AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        let headers: HeaderMap = values.iter().map(value).collect();
        bearer(&headers).map(str::to_owned)
    }

    #[test]
    fn only_one_bearer_header_is_a_token() {
        assert_eq!(read(&["Bearer k"]), Ok("k".into()));
        assert_eq!(read(&["bearer  k "]), Ok("k".into()));
        assert_eq!(read(&["BEARER k"]), Ok("k".into()));
        assert_eq!(read(&[]), Err(BearerError::Missing));
        assert_eq!(read(&["Bearer a", "Bearer b"]), Err(BearerError::Repeated));
        for odd in ["Basic dTpw", "Bearer", "", "tr_live_x", "Bearer: k", "Bearer é"] {
            assert_eq!(read(&[odd]), Err(BearerError::Form), "{odd}");
        }
    }

    #[test]
    fn keys_and_the_admin_token_have_one_wording() {
        for error in [BearerError::Missing, BearerError::Repeated, BearerError::Form] {
            let key = error.of_key().detail().replace("API key", "?");
            let token = error.of_admin_token().detail().replace("admin token", "?");
            assert_eq!(key, token.replace("ADMIN_TOKEN", "?"));
        }
    }
}
