//! A price: a licensed one is paid in advance by quantity, a metered one afterwards by what a meter counted.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::calendar::Interval;
use crate::money::Decimal;
use crate::objects::metadata::Metadata;
use crate::objects::pricing::{Cost, Mode, Pricing};

#[derive(Clone, Debug)]
pub(crate) struct Price {
    pub id: String,
    pub product: String,
    pub currency: String,
    pub pricing: Pricing,
    /// In other currencies: `currency_options`.
    pub options: BTreeMap<String, Pricing>,
    pub recurring: Option<Recurring>,
    /// Of the tiers. None: each unit costs the same.
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

    /// What it costs in this currency; `None`: it is not sold in it.
    pub(crate) fn pricing_in(&self, currency: &str) -> Option<&Pricing> {
        match currency == self.currency {
            true => Some(&self.pricing),
            false => self.options.get(currency),
        }
    }

    /// Its own first.
    pub(crate) fn currencies(&self) -> Vec<&str> {
        let own = std::iter::once(&self.currency);
        own.chain(self.options.keys()).map(String::as_str).collect()
    }

    /// In a currency that was checked; see [`Pricing::costs`].
    pub(crate) fn costs(&self, currency: &str, quantity: i64) -> Vec<Cost> {
        let pricing = self.pricing_in(currency).unwrap_or(&self.pricing);
        pricing.costs(self.mode, quantity)
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
            "unit_amount": self.pricing.amount.and_then(Decimal::as_cents),
            "unit_amount_decimal": self.pricing.amount.map(|amount| amount.to_string()),
        })
    }

    /// Shown only when they are expanded. The price's own currency is one of them.
    pub(crate) fn render_options(&self) -> Value {
        let own = std::iter::once((&self.currency, &self.pricing));
        let all = own.chain(&self.options);
        let shown = all.map(|(currency, pricing)| (currency.clone(), pricing.render_option()));
        Value::Object(shown.collect())
    }

    /// The price as a plan, the older object that items still show.
    pub(crate) fn render_plan(&self) -> Value {
        let recurring = self.recurring.as_ref();
        json!({
            "id": self.id, "object": "plan", "active": self.active, "amount": self.pricing.amount.and_then(Decimal::as_cents),
            "amount_decimal": self.pricing.amount.map(|amount| amount.to_string()),
            "billing_scheme": if self.mode.is_some() { "tiered" } else { "per_unit" }, "created": self.created,
            "currency": self.currency, "interval": recurring.map_or("month", |r| r.interval.name()),
            "interval_count": recurring.map_or(1, |r| r.count), "livemode": false, "metadata": self.metadata,
            "meter": self.meter(), "nickname": self.nickname, "product": self.product,
            "tiers_mode": self.mode.map(Mode::name), "transform_usage": null, "trial_period_days": null,
            "usage_type": self.usage_type(),
        })
    }
}
