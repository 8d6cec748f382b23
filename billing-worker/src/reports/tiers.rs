//! The cost of units by a metered price: exact, in integers.

use std::collections::HashMap;

use serde::Deserialize;

use crate::stripe::decimal::{self, ONE};

/// The parts of a price that decide what units cost. (<https://docs.stripe.com/api/prices/object>)
#[derive(Clone, Debug, Deserialize)]
pub struct Price {
    pub currency: String,
    tiers_mode: Option<String>,
    #[serde(flatten)]
    amounts: Amounts,
    /// In other currencies. Present only if they were expanded.
    #[serde(default)]
    currency_options: HashMap<String, Amounts>,
}

#[derive(Clone, Debug, Deserialize)]
struct Amounts {
    unit_amount_decimal: Option<String>,
    /// Present only if they were expanded.
    tiers: Option<Vec<Tier>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Tier {
    /// The last unit of the tier; `None`: it has no end.
    up_to: Option<i64>,
    unit_amount_decimal: Option<String>,
    flat_amount_decimal: Option<String>,
}

impl Price {
    /// The cost of `units` after `before` others, in the smallest unit of this currency. Negative: a credit. What an invoice bills
    /// and what comes later are together what all units cost: no cent is lost by rounding twice. `None`: this kind of price is not
    /// supported, or not sold in this currency.
    pub fn difference(&self, currency: &str, before: i64, units: i64) -> Option<i64> {
        let after = before.checked_add(units)?;
        self.cents(currency, after)?.checked_sub(self.cents(currency, before)?)
    }

    /// Each tier is a line of the invoice, and each line is rounded half up.
    fn cents(&self, currency: &str, units: i64) -> Option<i64> {
        let amounts = match currency == self.currency {
            true => &self.amounts,
            false => self.currency_options.get(currency)?,
        };
        let units = units.max(0);
        match self.tiers_mode.as_deref() {
            None => rounded(amount(amounts.unit_amount_decimal.as_deref())?.checked_mul(i128::from(units))?),
            Some("graduated") => {
                let (mut cents, mut from) = (0i64, 0i64);
                for tier in amounts.tiers.as_ref()? {
                    if units <= from {
                        break;
                    }
                    let to = tier.up_to.unwrap_or(i64::MAX).min(units);
                    let each = amount(tier.unit_amount_decimal.as_deref())?.checked_mul(i128::from(to - from))?;
                    cents = cents
                        .checked_add(rounded(each)?)?
                        .checked_add(rounded(amount(tier.flat_amount_decimal.as_deref())?)?)?;
                    from = to;
                }
                Some(cents)
            }
            Some(_) => None,
        }
    }
}

fn rounded(exact: i128) -> Option<i64> {
    i64::try_from(exact.checked_add(ONE / 2)? / ONE).ok()
}

/// In units of 10⁻¹²; `None` is 0.
fn amount(text: Option<&str>) -> Option<i128> {
    text.map_or(Some(0), decimal::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(json: serde_json::Value) -> Price {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn late_units_cost_what_they_would_have_cost_in_time() {
        let included = price(serde_json::json!({
            "currency": "usd", "tiers_mode": "graduated", "tiers": [
                { "up_to": 1000, "unit_amount_decimal": "0" }, { "up_to": null, "unit_amount_decimal": "0.15" }
            ]
        }));
        for (before, units, expected) in [
            (0, 1_000, 0),
            (990, 30, 3),
            (2_000, 100, 15),
            (2_000, -100, -15),
            (1_010, -30, -2),
            (0, -5, 0),
            (5_000, 3, 0),
            (5_000, 4, 1),
        ] {
            assert_eq!(
                included.difference("usd", before, units),
                Some(expected),
                "{units} after {before}"
            );
        }
        let flat = price(serde_json::json!({ "currency": "usd", "unit_amount_decimal": "12.5", "tiers": null }));
        assert_eq!(flat.difference("usd", 10, 2), Some(25));
        let thirds = price(serde_json::json!({ "currency": "usd", "unit_amount_decimal": "33.3333" }));
        // Seven are 233 on the invoice, and eight cost 267.
        assert_eq!(thirds.difference("usd", 7, 1), Some(34));
    }

    #[test]
    fn each_currency_has_its_own_amounts() {
        let tiers = |each: &str| serde_json::json!([{ "up_to": 1000, "unit_amount_decimal": "0" }, { "up_to": null, "unit_amount_decimal": each }]);
        let price = price(serde_json::json!({
            "currency": "usd", "tiers_mode": "graduated", "tiers": tiers("1.5"),
            "currency_options": { "usd": { "unit_amount_decimal": null }, "eur": { "unit_amount_decimal": null, "tiers": tiers("1.4") } }
        }));
        for (currency, expected) in [("usd", Some(150)), ("eur", Some(140)), ("gbp", None)] {
            assert_eq!(price.difference(currency, 1_000, 100), expected, "{currency}");
        }
    }

    #[test]
    fn an_unsupported_price_has_no_cost() {
        let volume = price(serde_json::json!({ "currency": "usd", "tiers_mode": "volume", "tiers": [] }));
        assert_eq!(volume.difference("usd", 0, 1), None);
        let negative = price(serde_json::json!({ "currency": "usd", "unit_amount_decimal": "-1", "tiers": null }));
        assert_eq!(negative.difference("usd", 0, 1), None);
    }
}
