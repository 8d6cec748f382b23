//! An item of a subscription: a price, a quantity and a period.

use serde_json::{Value, json};

use crate::objects::metadata::Metadata;
use crate::objects::price::Price;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub id: String,
    pub price: String,
    pub quantity: Option<i64>,
    pub created: i64,
    pub metadata: Metadata,
    pub period_start: i64,
    pub period_end: i64,
    /// Usage before this time was billed with an earlier price, or is not billed.
    pub usage_from: i64,
}

impl Item {
    pub(crate) fn render(&self, subscription: &str, price: &Price) -> Value {
        json!({
            "id": self.id, "object": "subscription_item", "billing_thresholds": null, "created": self.created,
            "current_period_end": self.period_end, "current_period_start": self.period_start, "discounts": [],
            "metadata": self.metadata, "plan": price.render_plan(), "price": price.render(), "quantity": self.quantity,
            "subscription": subscription, "tax_rates": [],
        })
    }
}
