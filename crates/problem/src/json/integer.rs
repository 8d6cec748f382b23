//! An integer with bounds. Messages name the bounds, whatever was sent.

use std::{fmt, str::FromStr};

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

use crate::shown;

/// An integer from `MIN` to `MAX`. The largest `MAX` of the type means that there is no upper bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Integer<const MIN: i64, const MAX: i64>(i64);

impl<const MIN: i64, const MAX: i64> Integer<MIN, MAX> {
    /// `None`: it is out of bounds.
    pub const fn new(number: i64) -> Option<Self> {
        match MIN <= number && number <= MAX {
            true => Some(Self(number)),
            false => None,
        }
    }

    pub const fn get(self) -> i64 {
        self.0
    }
}

/// What the number must be.
struct Bounds<const MIN: i64, const MAX: i64>;

impl<const MIN: i64, const MAX: i64> fmt::Display for Bounds<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match MAX {
            i64::MAX => write!(f, "an integer of {} or more", grouped(MIN)),
            _ => write!(f, "an integer from {} to {}", grouped(MIN), grouped(MAX)),
        }
    }
}

/// With a comma between thousands.
fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut grouped = String::from(if number < 0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

impl<const MIN: i64, const MAX: i64> Visitor<'_> for Bounds<MIN, MAX> {
    type Value = Integer<MIN, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Integer::new(number).ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        let within = i64::try_from(number).ok().and_then(Integer::new);
        within.ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
    }
}

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Integer<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(number: D) -> Result<Self, D::Error> {
        number.deserialize_i64(Bounds::<MIN, MAX>)
    }
}

/// For arguments of commands.
impl<const MIN: i64, const MAX: i64> FromStr for Integer<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let within = text.parse().ok().and_then(Self::new);
        within.ok_or_else(|| format!("must be {}, got {}", Bounds::<MIN, MAX>, shown(text)))
    }
}

impl<const MIN: i64, const MAX: i64> fmt::Display for Integer<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn a_message_names_both_bounds_whatever_was_sent() {
        for (sent, got) in [
            ("0", "0"),
            ("-1", "-1"),
            ("3651", "3651"),
            ("1.5", "1.5"),
            ("\"7\"", "\"7\""),
            ("true", "true"),
            ("{}", "an object"),
            ("18446744073709551615", "18446744073709551615"),
            ("1e300", "1e+300"),
        ] {
            let error = json::read::<Integer<1, 3_650>>(sent.as_bytes()).unwrap_err();
            let expected = format!("the body must be an integer from 1 to 3,650, got {got}");
            assert_eq!(error, expected, "{sent}");
        }
        assert_eq!(json::read::<Integer<1, 3_650>>(b"3650").unwrap().get(), 3_650);
        let open = json::read::<Integer<0, { i64::MAX }>>(b"-1").unwrap_err();
        assert_eq!(open, "the body must be an integer of 0 or more, got -1");
    }

    #[test]
    fn an_argument_is_read_with_the_same_message() {
        type Units = Integer<0, 999_999_999_999_999>;
        assert_eq!("7".parse::<Units>().unwrap().to_string(), "7");
        for wrong in ["-5", "x", "1000000000000000", ""] {
            assert_eq!(
                wrong.parse::<Units>().unwrap_err(),
                format!("must be an integer from 0 to 999,999,999,999,999, got {wrong}")
            );
        }
    }
}
