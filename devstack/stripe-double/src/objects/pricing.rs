//! What units cost in one currency: the same each, or by tiers.

use serde_json::{Value, json};

use crate::money::Decimal;

/// The amounts of a price in one currency.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pricing {
    /// Of each unit. None: there are tiers.
    pub amount: Option<Decimal>,
    pub tiers: Vec<Tier>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tier {
    /// The last unit of the tier; none: no limit.
    pub up_to: Option<i64>,
    pub unit: Option<Decimal>,
    pub flat: Option<Decimal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Graduated,
    Volume,
}

/// The cost of some units, as one line of an invoice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    pub quantity: i64,
    /// In the smallest unit of the currency.
    pub amount: i64,
    pub unit: Option<Decimal>,
    /// `Tier 1 at 0.5¢`
    pub label: String,
}

impl Pricing {
    /// One line for each tier that is reached, and at least one. A negative quantity costs nothing. `mode`: of the tiers.
    pub(crate) fn costs(&self, mode: Option<Mode>, quantity: i64) -> Vec<Cost> {
        let quantity = quantity.max(0);
        let Some(mode) = mode else {
            let unit = self.amount.unwrap_or(Decimal::cents(0));
            return vec![Cost {
                quantity,
                amount: unit.times(quantity),
                unit: Some(unit),
                label: String::new(),
            }];
        };
        let mut costs = Vec::new();
        let mut from = 0;
        for (n, tier) in self.tiers.iter().enumerate() {
            let to = tier.up_to.unwrap_or(i64::MAX);
            let units = match mode {
                Mode::Graduated => quantity.min(to) - from,
                Mode::Volume if (from..to).contains(&(quantity - 1)) || quantity == 0 => quantity,
                Mode::Volume => 0,
            };
            from = to;
            if units <= 0 && !(quantity == 0 && n == 0) {
                continue;
            }
            let unit = tier.unit.unwrap_or(Decimal::cents(0));
            let flat = tier.flat.filter(|_| units > 0).map_or(0, |flat| flat.times(1));
            let label = format!("Tier {} at {unit}¢", n + 1);
            costs.push(Cost {
                quantity: units,
                amount: unit.times(units).saturating_add(flat),
                unit: tier.unit,
                label,
            });
            if mode == Mode::Volume {
                break;
            }
        }
        costs
    }

    /// Whether both have the same tiers, at whatever prices.
    pub(crate) fn has_tiers_of(&self, other: &Self) -> bool {
        let limits = |pricing: &Self| pricing.tiers.iter().map(|tier| tier.up_to).collect::<Vec<_>>();
        limits(self) == limits(other)
    }

    /// Shown only when they are expanded.
    pub(crate) fn render_tiers(&self) -> Value {
        let tier = |tier: &Tier| {
            json!({ "flat_amount": tier.flat.and_then(Decimal::as_cents), "flat_amount_decimal": tier.flat.map(|d| d.to_string()),
                "unit_amount": tier.unit.and_then(Decimal::as_cents), "unit_amount_decimal": tier.unit.map(|d| d.to_string()),
                "up_to": tier.up_to })
        };
        self.tiers.iter().map(tier).collect()
    }

    /// As one of the `currency_options` of a price.
    pub(crate) fn render_option(&self) -> Value {
        json!({ "custom_unit_amount": null, "tax_behavior": "unspecified", "unit_amount": self.amount.and_then(Decimal::as_cents),
            "unit_amount_decimal": self.amount.map(|amount| amount.to_string()) })
    }
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Graduated => "graduated",
            Self::Volume => "volume",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiered() -> Pricing {
        let tier = |up_to, unit: &str, flat: Option<i64>| Tier {
            up_to,
            unit: Decimal::parse(unit),
            flat: flat.map(Decimal::cents),
        };
        Pricing {
            amount: None,
            tiers: vec![
                tier(Some(100), "0", None),
                tier(Some(200), "1.5", Some(500)),
                tier(None, "1", None),
            ],
        }
    }

    #[test]
    fn graduated_tiers_charge_each_unit_at_its_own() {
        for (quantity, expected) in [
            (-5, vec![(0, 0)]),
            (0, vec![(0, 0)]),
            (100, vec![(100, 0)]),
            (101, vec![(100, 0), (1, 502)]),
            (250, vec![(100, 0), (100, 650), (50, 50)]),
        ] {
            let costs = tiered().costs(Some(Mode::Graduated), quantity);
            let costs: Vec<_> = costs.iter().map(|cost| (cost.quantity, cost.amount)).collect();
            assert_eq!(costs, expected, "{quantity}");
        }
    }

    #[test]
    fn volume_tiers_charge_all_units_at_the_one_reached() {
        for (quantity, expected) in [(0, (0, 0)), (100, (100, 0)), (101, (101, 652)), (250, (250, 250))] {
            let costs = tiered().costs(Some(Mode::Volume), quantity);
            assert_eq!(costs.len(), 1);
            assert_eq!((costs[0].quantity, costs[0].amount), expected, "{quantity}");
        }
    }
}
