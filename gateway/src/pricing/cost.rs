//! How many units a request costs.

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderName};
use problem::shown;

pub mod json_array;

/// The most units that one request may cost. A larger number is a mistake.
pub const UNITS_MAX: i64 = 1_000_000;

/// Where the cost of a request is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cost {
    Fixed(i64),
    /// A number in a header of the request. The upstream must obey the same header, because the client sends it.
    Header(HeaderName),
    /// The length of this array, at the top of the request's JSON body.
    JsonArray(Box<str>),
}

impl Cost {
    pub fn header(&self) -> Option<&HeaderName> {
        match self {
            Self::Header(name) => Some(name),
            Self::Fixed(_) | Self::JsonArray(_) => None,
        }
    }
}

/// Why the cost of a request is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CostError(pub Cow<'static, str>);

/// What a cost must be, in messages.
pub const MUST_BE: &str = "an integer from 1 to 1,000,000";

/// From 1 to [`UNITS_MAX`]. `what` names the place of the units, in the message.
pub fn bounded(what: &str, units: i64) -> Result<i64, CostError> {
    match units {
        1..=UNITS_MAX => Ok(units),
        _ => Err(CostError(format!("{what} must be {MUST_BE}, got {units}").into())),
    }
}

/// The number in the header `name`: sent once, in plain digits.
pub fn in_header(headers: &HeaderMap, name: &HeaderName) -> Result<i64, CostError> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(CostError(
            format!("the header {name} must be sent once: it says how many units the request costs").into(),
        ));
    };
    let digits = value
        .to_str()
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(units) => bounded(&format!("the header {name}"), units),
        None => {
            let sent = String::from_utf8_lossy(value.as_bytes());
            let detail = format!("the header {name} must be {MUST_BE}, got \"{}\"", shown(&sent));
            Err(CostError(detail.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_header_says_the_cost_once_in_digits_within_bounds() {
        const NAME: HeaderName = HeaderName::from_static("x-cost-units");
        let cost = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(NAME, HeaderValue::from_static(value));
            }
            in_header(&headers, &NAME).ok()
        };
        assert_eq!(cost(&["1"]), Some(1));
        assert_eq!(cost(&["007"]), Some(7));
        assert_eq!(cost(&["1000000"]), Some(1_000_000));
        for wrong in [
            &[] as &[_],
            &["1", "1"],
            &["0"],
            &["1000001"],
            &["-1"],
            &["+1"],
            &["1.5"],
            &[""],
            &["1e3"],
            &["99999999999999999999"],
        ] {
            assert_eq!(cost(wrong), None, "{wrong:?}");
        }
    }
}
