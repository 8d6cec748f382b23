//! Amounts: whole cents where Stripe uses whole cents, and exact decimals of a cent for unit prices, with more digits than `rust_decimal` has.

use std::fmt;

/// Stripe allows 12 decimal places of a cent.
const PLACES: u32 = 12;

const ONE: i128 = 10_i128.pow(PLACES);

/// The smallest charge: 50 cents. Stripe has another minimum for some currencies.
pub(crate) const CHARGE_MIN: i64 = 50;

/// An exact decimal number of cents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Decimal(i128);

impl Decimal {
    pub(crate) fn cents(cents: i64) -> Self {
        Self(i128::from(cents) * ONE)
    }

    /// Parses `"0.05"`; `None` if it is not a plain decimal with at most 12 places.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (sign, digits) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let places = u32::try_from(fraction.len()).ok().filter(|places| *places <= PLACES)?;
        let plain = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !plain(whole) || !plain(fraction) {
            return None;
        }
        let units: i128 = format!("{whole}{fraction}").parse().ok()?;
        let value = units.checked_mul(10_i128.pow(PLACES - places))?;
        // Beyond 10^20 cents a product with a quantity could overflow.
        (value < 10_i128.pow(20) * ONE / 1_000_000).then_some(Self(sign * value))
    }

    /// The amount in cents, if it is a whole number of them.
    pub(crate) fn as_cents(self) -> Option<i64> {
        (self.0 % ONE == 0).then(|| i64::try_from(self.0 / ONE).ok()).flatten()
    }

    /// For `quantity` units, rounded to the cent, halves away from zero.
    pub(crate) fn times(self, quantity: i64) -> i64 {
        let exact = self.0.saturating_mul(i128::from(quantity));
        let rounded = (exact.abs().saturating_add(ONE / 2) / ONE) * exact.signum();
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, value) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        let (whole, fraction) = (value / ONE.unsigned_abs(), value % ONE.unsigned_abs());
        let fraction = format!("{fraction:012}");
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{sign}{whole}"),
            fraction => write!(f, "{sign}{whole}.{fraction}"),
        }
    }
}

/// `amount` for `part` of `whole` seconds, rounded to the cent, halves away from zero.
pub(crate) fn share(amount: i64, part: i64, whole: i64) -> i64 {
    let (exact, whole) = (i128::from(amount) * i128::from(part), i128::from(whole.max(1)));
    let rounded = (exact.abs() + whole / 2) / whole * exact.signum();
    i64::try_from(rounded).unwrap_or(i64::MAX)
}

/// `$29.00`
pub(crate) fn show(cents: i64, currency: &str) -> String {
    let (sign, value) = (if cents < 0 { "-" } else { "" }, cents.unsigned_abs());
    match currency {
        "usd" => format!("{sign}${}.{:02}", value / 100, value % 100),
        other => format!("{sign}{}.{:02} {}", value / 100, value % 100, other.to_uppercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_and_round_once() {
        let price = Decimal::parse("0.05").unwrap();
        assert_eq!(price.times(10), 1, "half a cent rounds away from zero");
        assert_eq!(price.times(9), 0);
        assert_eq!(price.times(1_000_000), 50_000);
        assert_eq!(price.to_string(), "0.05");
        assert_eq!(Decimal::parse("2900").unwrap().as_cents(), Some(2900));
        assert_eq!(Decimal::cents(2900).to_string(), "2900");
        for broken in ["", ".5", "1e3", "1.0000000000001", "-", "1.-5"] {
            assert_eq!(Decimal::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn shares_of_both_signs_cancel() {
        for part in [0, 1, 333, 1_000] {
            assert_eq!(share(2_900, part, 1_000), -share(-2_900, part, 1_000));
        }
        assert_eq!(share(2_900, 500, 1_000), 1_450);
    }

    #[test]
    fn amounts_are_shown_with_cents() {
        assert_eq!(show(2_900, "usd"), "$29.00");
        assert_eq!(show(-5, "eur"), "-0.05 EUR");
    }
}
