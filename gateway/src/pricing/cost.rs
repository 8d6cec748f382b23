//! How many units a request costs.

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderName};

pub mod json_array;

/// The most units one request may cost: beyond it lies a mistake.
pub const UNITS_MAX: i64 = 1_000_000;

/// Where the cost of a request is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cost {
    Fixed(i64),
    /// A number in a header of the request. The upstream must honour the same header: it is the client that sends it.
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

/// Why the cost of a request cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CostError(pub Cow<'static, str>);

/// From 1 to [`UNITS_MAX`].
pub fn bounded(units: i64) -> Result<i64, CostError> {
    match units {
        1..=UNITS_MAX => Ok(units),
        0 => Err(CostError("a request costs at least 1 unit, not 0".into())),
        _ => Err(CostError(
            format!("a request costs 1 to {UNITS_MAX} units, not {units}").into(),
        )),
    }
}

/// The number in the header `name`: there once, in plain digits.
pub fn in_header(headers: &HeaderMap, name: &HeaderName) -> Result<i64, CostError> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(CostError(
            format!("the header {name} must be there once: it says how many units the request costs").into(),
        ));
    };
    let digits = value
        .to_str()
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(units) => bounded(units),
        None => Err(CostError(
            format!("the header {name} is no number from 1 to {UNITS_MAX}").into(),
        )),
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
