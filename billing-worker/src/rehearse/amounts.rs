//! What a line of an invoice should cost: from the catalogue, in integers, without Stripe.

use std::fmt;

use protocol::reports::money::Price;
use schema::{Plan, UsageType};

use crate::stripe::object::InvoiceLine;

/// What a line bills. The lines of the tiers of one price are one line here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Billed {
    Plan {
        plan: String,
    },
    Usage {
        plan: String,
        usage_type: String,
    },
    /// The rest of a period that the customer has paid, and does not use on this plan.
    Unused {
        plan: String,
    },
    /// The rest of a period on a plan that begins in it.
    Remaining {
        plan: String,
    },
    Other {
        description: String,
    },
}

impl Billed {
    pub(super) fn plan(plan: &Plan) -> (Self, i64) {
        let billed = Self::Plan { plan: plan.id.clone() };
        (billed, plan.price_cents)
    }

    /// So many units of a segment.
    pub(super) fn usage(plan: &Plan, usage_type: UsageType, units: i64) -> (Self, i64) {
        let billed = Self::Usage {
            plan: plan.id.clone(),
            usage_type: usage_type.name().to_owned(),
        };
        (billed, cost(plan, usage_type, units))
    }

    /// The two lines of a change of plan, for the last `rest` of `whole` seconds.
    pub(super) fn change(from: &Plan, to: &Plan, rest: i64, whole: i64) -> [(Self, i64); 2] {
        let (unused, remaining) = (from.id.clone(), to.id.clone());
        [
            (Self::Unused { plan: unused }, -share(from.price_cents, rest, whole)),
            (Self::Remaining { plan: remaining }, share(to.price_cents, rest, whole)),
        ]
    }

    /// What a line of Stripe's bills.
    pub(super) fn of(line: &InvoiceLine) -> Self {
        let price = line.price();
        let usage_type = price.and_then(|price| price.usage_type()).map(str::to_owned);
        let plan = price.and_then(|price| price.plan()).map(str::to_owned);
        match (plan, usage_type) {
            (Some(plan), Some(usage_type)) => Self::Usage { plan, usage_type },
            (Some(plan), None) if !line.is_proration() => Self::Plan { plan },
            (Some(plan), None) if line.amount < 0 => Self::Unused { plan },
            (Some(plan), None) => Self::Remaining { plan },
            (None, _) => Self::Other {
                description: line.description.clone().unwrap_or_default(),
            },
        }
    }

    pub(super) fn is_proration(&self) -> bool {
        matches!(self, Self::Unused { .. } | Self::Remaining { .. })
    }

    pub(super) fn is_usage(&self) -> bool {
        matches!(self, Self::Usage { .. })
    }
}

impl fmt::Display for Billed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan { plan } => write!(f, "{plan}"),
            Self::Usage { plan, usage_type } => write!(f, "{usage_type} on {plan}"),
            Self::Unused { plan } => write!(f, "unused time on {plan}"),
            Self::Remaining { plan } => write!(f, "remaining time on {plan}"),
            Self::Other { description } => write!(f, "other: {description}"),
        }
    }
}

/// What so many units of a segment cost, in cents.
pub(super) fn cost(plan: &Plan, usage_type: UsageType, units: i64) -> i64 {
    let allowance = plan.allowance(usage_type);
    let price = Price {
        included: allowance.limit,
        unit_price_micros: allowance.unit_price_micros,
    };
    price.cents(units)
}

/// `rest / whole` of a price, rounded half up. Seconds of a period.
fn share(cents: i64, rest: i64, whole: i64) -> i64 {
    let (exact, whole) = (i128::from(cents) * i128::from(rest), i128::from(whole.max(1)));
    i64::try_from((2 * exact + whole).div_euclid(2 * whole)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_price_is_rounded_once() {
        for (cents, rest, whole, expected) in [
            (2_900, 15, 30, 1_450),
            (2_900, 1, 3, 967),
            (1, 1, 2, 1),
            (2_900, 30, 30, 2_900),
        ] {
            assert_eq!(share(cents, rest, whole), expected, "{cents} · {rest} / {whole}");
        }
    }
}
