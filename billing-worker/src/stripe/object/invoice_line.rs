use std::collections::HashMap;

use serde::Deserialize;

use super::{amount::Amount, schedule::PriceOrId};
use crate::stripe::names;

#[derive(Clone, Debug, Deserialize)]
pub struct InvoiceLine {
    pub id: String,
    /// Before discounts and tax that is not included, in the currency's smallest unit. Negative: a credit.
    pub amount: i64,
    pub description: Option<String>,
    pub quantity: Option<i64>,
    pub period: LinePeriod,
    pricing: Option<Pricing>,
    parent: Option<Parent>,
    discount_amounts: Option<Vec<Amount>>,
    taxes: Option<Vec<Amount>>,
    /// Of a line from an invoice item: the item's. Of a subscription's line: the subscription's.
    #[serde(default)]
    pub metadata: HashMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct LinePeriod {
    pub start: i64,
    pub end: i64,
}

#[derive(Clone, Debug, Deserialize)]
struct Pricing {
    unit_amount_decimal: Option<String>,
    price_details: Option<PriceDetails>,
}

#[derive(Clone, Debug, Deserialize)]
struct PriceDetails {
    price: PriceOrId,
}

#[derive(Clone, Debug, Deserialize)]
struct Parent {
    subscription_item_details: Option<Details>,
    invoice_item_details: Option<Details>,
}

#[derive(Clone, Debug, Deserialize)]
struct Details {
    #[serde(default)]
    proration: bool,
}

impl InvoiceLine {
    /// The price, if it is expanded.
    pub fn price(&self) -> Option<&super::subscription::Price> {
        self.pricing.as_ref()?.price_details.as_ref()?.price.price()
    }

    pub fn price_id(&self) -> Option<&str> {
        Some(self.pricing.as_ref()?.price_details.as_ref()?.price.id())
    }

    /// The usage type that it bills, by its price or by the invoice item that it comes from.
    pub fn usage_type(&self) -> Option<&str> {
        let of_price = self
            .price()
            .and_then(|price| price.metadata.get(names::META_USAGE_TYPE));
        of_price
            .or(self.metadata.get(names::META_USAGE_TYPE))
            .map(String::as_str)
    }

    /// The price of one unit: a decimal number of the currency's smallest unit.
    pub fn unit_amount(&self) -> Option<&str> {
        self.pricing.as_ref()?.unit_amount_decimal.as_deref()
    }

    /// Whether a subscription made it for its own period, in advance or for usage.
    pub fn is_of_subscription(&self) -> bool {
        let details = self
            .parent
            .as_ref()
            .and_then(|parent| parent.subscription_item_details.as_ref());
        details.is_some() && !self.is_proration()
    }

    /// Whether the line adjusts an earlier one after a change in the middle of a period.
    pub fn is_proration(&self) -> bool {
        let Some(parent) = &self.parent else { return false };
        let mut details = parent
            .subscription_item_details
            .iter()
            .chain(&parent.invoice_item_details);
        details.any(|details| details.proration)
    }

    pub fn discount(&self) -> i64 {
        Amount::sum(self.discount_amounts.as_deref())
    }

    pub fn tax(&self) -> i64 {
        Amount::sum(self.taxes.as_deref())
    }
}
