//! Amounts as Stripe writes them where a cent is too coarse: a decimal number of the currency's smallest unit.

/// Stripe writes amounts with up to twelve decimals.
const DECIMALS: usize = 12;
/// One of the smallest unit, in units of 10⁻¹².
pub const ONE: i128 = 1_000_000_000_000;

/// A decimal number in units of 10⁻¹². `None`: it is negative, or no decimal number with up to twelve decimals.
pub fn parse(text: &str) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > DECIMALS
        || whole.is_empty()
        || !(whole.bytes().chain(fraction.bytes())).all(|b| b.is_ascii_digit())
    {
        return None;
    }
    format!("{whole}{fraction:0<DECIMALS$}").parse().ok()
}

/// The same in millionths of the main unit, which has a hundred of the smallest. `None`: also if it is not a whole number of
/// them.
pub fn micros(text: &str) -> Option<i64> {
    let micro = ONE / 10_000;
    let exact = parse(text)?;
    (exact % micro == 0)
        .then(|| i64::try_from(exact / micro).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_exact_or_nothing() {
        for text in ["", "-1", "1e3", ".5", "0.1234567890123"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse("0.000000000001"), Some(1));
        for (text, expected) in [
            ("2900", Some(29_000_000)),
            ("1.5", Some(15_000)),
            ("33.3333", Some(333_333)),
            ("0", Some(0)),
            ("0.00015", None),
            ("-5", None),
        ] {
            assert_eq!(micros(text), expected, "{text}");
        }
    }
}
