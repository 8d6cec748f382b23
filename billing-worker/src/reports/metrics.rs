//! Metrics of reports.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::daily::MoneyMetrics;
use crate::stored::WatermarkMetrics;

/// Cheap to clone; all clones count together.
#[derive(Clone, Default)]
pub struct ReportMetrics {
    /// Before usage is reported for an invoice.
    pub watermark: WatermarkMetrics,
    pub money: MoneyMetrics,
    pub(super) oldest_open_money_s: Gauge<i64, AtomicI64>,
    open_money_cents: Family<OfMoney, Gauge<i64, AtomicI64>>,
    delivered: Family<OfType, Counter>,
    units_up: Family<OfType, Counter>,
    units_down: Family<OfType, Counter>,
    pub(super) parked: Gauge<i64, AtomicI64>,
    pub(super) open: Gauge<i64, AtomicI64>,
    pub(super) oldest_s: Gauge<i64, AtomicI64>,
    pub(super) drifting: Gauge<i64, AtomicI64>,
    pub(super) drift_units: Gauge<i64, AtomicI64>,
    pub(super) waiting: Gauge<i64, AtomicI64>,
    pub(super) differing: Gauge<i64, AtomicI64>,
    pub(super) frozen: Counter<u64, AtomicU64>,
    failed_steps: Counter<u64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfType {
    usage_type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMoney {
    kind: &'static str,
    currency: String,
}

impl ReportMetrics {
    pub fn register(&self, registry: &mut Registry) {
        self.watermark.register(registry);
        self.money.register(registry);
        registry.register(
            "open_money_oldest_seconds",
            "Age of the oldest late usage that is on no invoice and costs something",
            self.oldest_open_money_s.clone(),
        );
        registry.register(
            "open_money_cents",
            "Late usage that is on no invoice, in the smallest unit of its currency, by kind (charge, credit) and currency",
            self.open_money_cents.clone(),
        );
        let registry = registry.sub_registry_with_prefix("reports");
        registry.register("delivered", "Meter events delivered to Stripe", self.delivered.clone());
        registry.register("units", "Units reported to Stripe", self.units_up.clone());
        registry.register(
            "units_taken_back",
            "Units taken back by corrections",
            self.units_down.clone(),
        );
        registry.register("open", "Reports that Stripe may not have yet", self.open.clone());
        registry.register(
            "parked",
            "Reports that Stripe refused: an operator must look at them",
            self.parked.clone(),
        );
        registry.register(
            "oldest_open_seconds",
            "Age of the oldest open report",
            self.oldest_s.clone(),
        );
        registry.register(
            "drifting_lines",
            "Lines (account, period, usage type) with fewer units in ClickHouse than were reported, and no correction that explains it",
            self.drifting.clone(),
        );
        registry.register(
            "drift_units",
            "Sum of the missing units of all drifting lines",
            self.drift_units.clone(),
        );
        registry.register(
            "differing_periods",
            "Final periods whose summaries at Stripe differ from the reported units (last step)",
            self.differing.clone(),
        );
        registry.register(
            "waiting_carries",
            "Carries of late usage that are in no period and no invoice item yet",
            self.waiting.clone(),
        );
        registry.register("frozen_periods", "Periods frozen", self.frozen.clone());
        registry.register(
            "failed_steps",
            "Steps that failed as a whole",
            self.failed_steps.clone(),
        );
    }

    pub fn failed_step(&self) {
        self.failed_steps.inc();
    }

    /// Currency, charges and credits.
    pub(super) fn show_open_money<'a>(&self, open: impl Iterator<Item = (&'a str, i64, i64)>) {
        // Currencies that have nothing open any more disappear.
        self.open_money_cents.clear();
        for (currency, charges, credits) in open {
            for (kind, amount) in [("charge", charges), ("credit", credits)] {
                let currency = currency.to_owned();
                self.open_money_cents
                    .get_or_create(&OfMoney { kind, currency })
                    .set(amount);
            }
        }
    }

    pub(super) fn delivered(&self, usage_type: &str, units: i64) {
        let of = OfType {
            usage_type: usage_type.to_owned(),
        };
        let counted = if units < 0 { &self.units_down } else { &self.units_up };
        counted.get_or_create(&of).inc_by(units.unsigned_abs());
        self.delivered.get_or_create(&of).inc();
    }
}
