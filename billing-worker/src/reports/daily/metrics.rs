//! Metrics of the checks of money. Every billing worker shows the same numbers.

use std::sync::atomic::AtomicI64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

/// Cheap to clone; all clones count together.
#[derive(Clone, Default)]
pub struct MoneyMetrics {
    difference_cents: Family<OfCurrency, Gauge<i64, AtomicI64>>,
    differing_periods: Gauge<i64, AtomicI64>,
    checked: Gauge<i64, AtomicI64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCurrency {
    currency: String,
}

/// The sums of `money_checks`.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    /// Cents by currency.
    pub cents: Vec<(String, i64)>,
    pub periods: i64,
    /// Unix seconds. 0: never.
    pub checked_at: i64,
}

impl MoneyMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "money_difference_cents",
            "Sum of what invoices ask for too much or too little, in the smallest unit of its currency",
            self.difference_cents.clone(),
        );
        registry.register(
            "money_differing_periods",
            "Periods whose invoices are not what is owed, without those that an operator has accepted",
            self.differing_periods.clone(),
        );
        registry.register(
            "money_checked_timestamp_seconds",
            "When the money of all accounts was last checked; 0: never",
            self.checked.clone(),
        );
    }

    pub(super) fn show(&self, sums: &Sums) {
        // Currencies without a difference disappear.
        self.difference_cents.clear();
        for (currency, cents) in &sums.cents {
            let currency = currency.clone();
            self.difference_cents
                .get_or_create(&OfCurrency { currency })
                .set(*cents);
        }
        self.differing_periods.set(sums.periods);
        self.checked.set(sums.checked_at);
    }
}
