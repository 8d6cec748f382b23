//! A price: a licensed one is paid in advance by quantity, a metered one afterwards by what a meter counted.

use serde_json::{Value, json};

use crate::calendar::Interval;
use crate::money::Decimal;
use crate::objects::metadata::Metadata;

#[derive(Clone, Debug)]
pub(crate) struct Price {
    pub id: String,
    pub product: String,
    pub currency: String,
    pub amount: Option<Decimal>,
    pub recurring: Option<Recurring>,
    pub tiers: Vec<Tier>,
    pub mode: Option<Mode>,
    pub lookup_key: Option<String>,
    pub nickname: Option<String>,
    pub metadata: Metadata,
    pub active: bool,
    pub created: i64,
}

#[derive(Clone, Debug)]
pub(crate) struct Recurring {
    pub interval: Interval,
    pub count: i64,
    /// The meter of a metered price.
    pub meter: Option<String>,
}

#[derive(Clone, Debug)]
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
    /// Cents.
    pub amount: i64,
    pub unit: Option<Decimal>,
    /// `Tier 1 at $0.00`
    pub label: String,
}

impl Price {
    pub(crate) fn is_active(&self) -> bool {
        self.active
    }

    pub(crate) fn is_metered(&self) -> bool {
        self.meter().is_some()
    }

    pub(crate) fn meter(&self) -> Option<&str> {
        self.recurring.as_ref()?.meter.as_deref()
    }

    pub(crate) fn usage_type(&self) -> &'static str {
        if self.is_metered() { "metered" } else { "licensed" }
    }

    /// One line for each tier that is reached, and at least one. A negative quantity costs nothing.
    pub(crate) fn costs(&self, quantity: i64) -> Vec<Cost> {
        let quantity = quantity.max(0);
        let Some(mode) = self.mode else {
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

    pub(crate) fn render(&self) -> Value {
        let recurring = self.recurring.as_ref().map(|recurring| {
            json!({ "interval": recurring.interval.name(), "interval_count": recurring.count, "meter": recurring.meter,
                "trial_period_days": null, "usage_type": self.usage_type() })
        });
        json!({
            "id": self.id, "object": "price", "active": self.active,
            "billing_scheme": if self.mode.is_some() { "tiered" } else { "per_unit" }, "created": self.created,
            "currency": self.currency, "custom_unit_amount": null, "livemode": false, "lookup_key": self.lookup_key,
            "metadata": self.metadata, "nickname": self.nickname, "product": self.product, "recurring": recurring,
            "tax_behavior": "unspecified", "tiers_mode": self.mode.map(Mode::name), "transform_quantity": null,
            "type": if self.recurring.is_some() { "recurring" } else { "one_time" },
            "unit_amount": self.amount.and_then(Decimal::as_cents),
            "unit_amount_decimal": self.amount.map(|amount| amount.to_string()),
        })
    }

    /// Shown only when it is expanded.
    pub(crate) fn render_tiers(&self) -> Value {
        let tier = |tier: &Tier| {
            json!({ "flat_amount": tier.flat.and_then(Decimal::as_cents), "flat_amount_decimal": tier.flat.map(|d| d.to_string()),
                "unit_amount": tier.unit.and_then(Decimal::as_cents), "unit_amount_decimal": tier.unit.map(|d| d.to_string()),
                "up_to": tier.up_to })
        };
        self.tiers.iter().map(tier).collect()
    }

    /// The price as a plan, the older object that items still show.
    pub(crate) fn render_plan(&self) -> Value {
        let recurring = self.recurring.as_ref();
        json!({
            "id": self.id, "object": "plan", "active": self.active, "amount": self.amount.and_then(Decimal::as_cents),
            "amount_decimal": self.amount.map(|amount| amount.to_string()),
            "billing_scheme": if self.mode.is_some() { "tiered" } else { "per_unit" }, "created": self.created,
            "currency": self.currency, "interval": recurring.map_or("month", |r| r.interval.name()),
            "interval_count": recurring.map_or(1, |r| r.count), "livemode": false, "metadata": self.metadata,
            "meter": self.meter(), "nickname": self.nickname, "product": self.product,
            "tiers_mode": self.mode.map(Mode::name), "transform_usage": null, "trial_period_days": null,
            "usage_type": self.usage_type(),
        })
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
